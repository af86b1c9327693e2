"""Faults of nodes in a real Ray with several nodes. The same command must end with the weights of a training without
faults."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.nodes import Nodes
from tests.helpers.trainings import copy_inputs, ended, experiment, states, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

STEPS, CHECKS = 400, 8
CHANGES: dict[str, Any] = {"train": {"steps": STEPS, "checks": CHECKS}, "cluster": {"workers": 2}}


@pytest.fixture(scope="module")
def _nodes() -> Iterator[Nodes]:
    there = Nodes()
    yield there
    there.close()


@pytest.fixture
def nodes(_nodes: Nodes) -> Nodes:
    """A head and two nodes, with room for two workers each."""
    while len(_nodes.nodes) < 2:
        _nodes.add(2)
    return _nodes


def checkpoint(workspace: Path) -> Path:
    (manifest,) = workspace.glob("checkpoints/*/manifest.json")
    return manifest.parent


def digests(workspace: Path) -> tuple[str, str]:
    manifest = json.loads((checkpoint(workspace) / "manifest.json").read_text())
    return manifest["last_weights_sha256"], manifest["digest"]


@pytest.fixture(scope="module")
def whole(_nodes: Nodes, tmp_path_factory: pytest.TempPathFactory, prepared: str) -> Path:
    """The workspace of a training that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    copy_inputs(prepared, str(folder))
    while len(_nodes.nodes) < 2:
        _nodes.add(2)
    ended(_nodes.zse("train", "-e", experiment(folder, **CHANGES), "-w", str(folder)))
    return folder


class Training:
    """`zse train` on these nodes, past its second state."""

    def __init__(self, nodes: Nodes, folder: Path, prepared: str, **changes: Any) -> None:
        self.workspace = folder / "workspace"
        copy_inputs(prepared, str(self.workspace))
        self.command = ("train", "-e", experiment(folder, **(changes or CHANGES)), "-w", str(self.workspace))
        self.process = nodes.zse(*self.command)
        self.until(lambda: max(states(self.workspace), default=0) > 0 or changes)

    def until(self, what: Any) -> Any:
        return until(what, self.process, 300)  # after a node's death Ray waits for its heartbeats, and starts workers


def test_a_node_that_dies_costs_steps_but_changes_nothing(
    nodes: Nodes, tmp_path: Path, prepared: str, whole: Path
) -> None:
    training = Training(nodes, tmp_path, prepared)
    nodes.kill(next(number for number, workers in nodes.workers().items() if workers))
    ended(training.process)  # on the other node, which has room for both
    assert digests(training.workspace) == digests(whole)


def test_a_preempted_node_loses_no_step(nodes: Nodes, tmp_path: Path, prepared: str, whole: Path) -> None:
    """With a notice nothing is lost: the step is kept, and the training goes on without the node before it is gone."""
    once = {**CHANGES, "train": {"steps": STEPS, "checks": 1}}
    training = Training(nodes, tmp_path, prepared, **once)
    training.until(lambda: any(nodes.workers().values()) and states(training.workspace))
    time.sleep(1)
    nodes.drain(next(number for number, workers in nodes.workers().items() if workers), 60)
    kept = training.until(lambda: [step for step in states(training.workspace) if 0 < step < STEPS])
    said = ended(training.process)
    assert f"A node will be preempted: step {kept[-1]} is kept" in said
    assert digests(training.workspace)[0] == digests(whole)[0]
    for number in list(nodes.nodes):
        nodes.kill(number)  # one of them is draining


def test_a_worker_that_hangs_is_ended_with_its_stacks(nodes: Nodes, tmp_path: Path, prepared: str, whole: Path) -> None:
    training = Training(nodes, tmp_path, prepared, **CHANGES | {"cluster": {"workers": 2, "hang_minutes": 0.2}})
    training.until(lambda: max(states(training.workspace), default=0) > 0)
    next(workers[0] for workers in nodes.workers().values() if workers).send_signal(signal.SIGSTOP)
    ended(training.process)
    assert digests(training.workspace) == digests(whole)
    stacks = nodes.logs("worker-*.err")
    assert "Timeout (0:00:12)!" in stacks and "trainer.py" in stacks, "they say where it hung"


def test_a_training_continues_with_fewer_workers_and_uses_new_nodes(
    nodes: Nodes, tmp_path: Path, prepared: str
) -> None:
    changes = {"train": {"steps": 1_000_000, "checks": 20_000}, "cluster": {"workers": 3, "min_workers": 1}}
    training = Training(nodes, tmp_path, prepared, **changes)

    def working(count: int) -> int:
        """A step that was kept when so many workers were at it."""
        training.until(lambda: sum(map(len, nodes.workers().values())) == count)
        before = max(states(training.workspace), default=0)
        return training.until(lambda: [step for step in states(training.workspace) if step > before])[-1]

    steps = [working(3)]
    nodes.kill(next(iter(nodes.nodes)))
    steps.append(working(2))
    nodes.add(2)
    steps.append(working(3))
    assert steps == sorted(steps), "it never began again"
    training.process.terminate()
    training.process.wait(timeout=60)


def test_a_node_that_dies_while_shards_are_written_changes_no_byte(nodes: Nodes, tmp_path: Path) -> None:
    file = experiment(tmp_path, shard={"items": 1000, "part_size": 25, "row_group": 5})

    def parts(workspace: str) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in (tmp_path / workspace).glob("pairs/*/part-*.parquet")}

    ended(nodes.zse("shard", "-e", file, "-w", str(tmp_path / "whole")))
    process = nodes.zse("shard", "-e", file, "-w", str(tmp_path / "lost"))
    until(lambda: len(parts("lost")) >= 5, process)
    nodes.kill(next(iter(nodes.nodes)))
    assert len(parts("lost")) < 40, "it was in the middle of its work"
    ended(process)
    assert len(parts("whole")) == 40 and parts("whole") == parts("lost")
