"""What `zse doctor` says of clusters: of a real one, and of nodes as they may be."""

from __future__ import annotations

import dataclasses
import re
import time
from pathlib import Path

import pytest

from pipelines.operate.doctor import _room, examine
from pipelines.operate.nodes import Finding, Node, findings
from tests.conftest import tiny, tiny_folder
from tests.helpers.command import invoked
from tests.helpers.faulty_store import FaultyStore
from zse_model.errors import ZseError

GOOD = Node(
    name="a (10.0.0.1)",
    cpus=8,
    gpus=1,
    object_store=4e9,
    versions={"python": "3.11.7", "ray": "2.60.0", "torch": "2.14.1", "zse": "0123456789ab"},
    clock=1000.0,
    shared_memory=8 * 10**9,
    disk=(50 * 10**9, 100 * 10**9),
    cards=("NVIDIA L4",),
    driver=(13, 0),
    cuda="13.0",
    nccl=True,
    storage="",
    source="",
)


def test_nodes_that_agree_are_fit() -> None:
    found = findings([GOOD, dataclasses.replace(GOOD, name="b")], 999.0, 1001.0)
    assert {one.state for one in found} == {"ok"}, found
    assert {one.what for one in found} == {"versions", "GPUs", "disk", "workspace", "data"}


def test_a_node_without_a_gpu_may_have_torch_without_cuda() -> None:
    plain = dataclasses.replace(GOOD, gpus=0, cards=(), cuda="", versions=GOOD.versions | {"torch": "2.14.1+cpu"})
    assert {one.state for one in findings([GOOD, plain], 999.0, 1001.0)} == {"ok"}


@pytest.mark.parametrize(
    ("changed", "state", "says"),
    [
        ({"versions": GOOD.versions | {"torch": "2.13.0"}}, "fails", "torch: 2.13.0 on b; 2.14.1 on a"),
        ({"versions": GOOD.versions | {"zse": "f" * 12}}, "fails", "zse: 0123456789ab on a"),
        ({"clock": 1400.0}, "fails", "b: +399 s from the driver's clock"),
        ({"clock": 100.0}, "fails", "b: -899 s from the driver's clock"),
        ({"cards": ()}, "fails", "b: Ray has 1 GPUs, the driver 0"),
        ({"gpus": 0}, "fails", "b: the driver has 1 GPUs, Ray 0"),
        ({"driver": (12, 8)}, "fails", "b: the driver supports CUDA 12.8, torch needs 13.0"),
        ({"cuda": ""}, "fails", "torch was built without CUDA"),
        ({"nccl": False}, "fails", "torch has no NCCL"),
        ({"cards": ("NVIDIA H100",)}, "slow", "2 kinds: NVIDIA H100, NVIDIA L4"),
        ({"shared_memory": 64 * 2**20}, "slow", "b: /dev/shm has 0.1 GB, the object store takes 4.0 GB"),
        ({"disk": (4 * 10**9, 100 * 10**9)}, "fails", "b: 4.0 GB of 100.0 GB free where objects spill"),
        ({"storage": "s3://x: 403"}, "fails", "b: s3://x: 403"),
        ({"source": "s3://y is not there"}, "fails", "b: s3://y is not there"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_one_node_that_is_not(changed: dict[str, object], state: str, says: str) -> None:
    found = findings([GOOD, dataclasses.replace(GOOD, name="b", **changed)], 999.0, 1001.0)  # type: ignore[arg-type]
    (wrong,) = [one for one in found if one.state != "ok"]
    assert wrong.state == state and says in wrong.text and wrong.fix, wrong


@pytest.mark.parametrize(
    ("nodes", "state"),
    [([0], "slow"), ([0, 4], "fails"), ([0, 4, 2], "ok"), ([5], "ok"), ([3, 3], "ok"), ([1, 1, 3], "fails")],
    ids=str,
)
def test_there_is_room_for_two_workers_of_two_cpus_and_for_data(nodes: list[int], state: str) -> None:
    config = tiny(cluster={"workers": 2, "cpus_per_worker": 2})
    (found,) = _room([dataclasses.replace(GOOD, cpus=cpus, gpus=0) for cpus in nodes], config)
    assert found.state == state, found


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_real_cluster(store: FaultyStore, tmp_path: Path) -> None:
    picture = tmp_path / "pictures" / "sketch" / "fish" / "1.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"here")
    config = tiny_folder(str(tmp_path / "pictures"), ["fish"], cluster={"workers": 1}, tracking={"enabled": True})
    found = {one.what: one for one in examine(str(tmp_path / "w"), config)}
    assert {name for name, one in found.items() if one.state == "fails"} == {"experiment"}, "one class is none to train"
    assert found["nodes"].text == "1 answer" and "created by the first run" in found["MLflow"].text
    assert not list((tmp_path / "w").glob("doctor-*")), "the probe is removed"

    wrong = tiny(cluster={"workers": 99, "gpus_per_worker": 1}, tracking={"enabled": True, "uri": "http://127.0.0.1:1"})
    start = time.monotonic()
    found = {one.what: one for one in examine("s3://no-such-bucket/zse", wrong)}
    assert {name for name, one in found.items() if one.state == "fails"} >= {"workspace", "room", "MLflow"}
    assert "99 workers" in found["room"].text and "no-such-bucket" in found["workspace"].text
    assert time.monotonic() - start < 60, "what is away costs seconds"
    found = {one.what: one for one in examine("s3://zse/w")}
    assert found["workspace"].state == "ok" and "MLflow" in found


def test_an_experiment_that_cannot_be_read_is_one_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = Finding("GPUs", "slow", "of 2 kinds")
    monkeypatch.setattr("pipelines.operate.doctor.examine", lambda workspace, config: [slow] if config is None else [])
    ended = invoked("doctor", "-w", str(tmp_path), "-e", "folder+global", "--set", "dataset.splitt=x")
    assert ended.exit_code == 1 and "slow   GPUs: of 2 kinds" in ended.output
    assert "fails  experiment: dataset.splitt: unknown. Did you mean dataset.split?" in ended.output


def test_all_that_fails_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that does not answer hides neither what is wrong with the experiment nor with MLflow."""

    def away(*_: object) -> None:
        raise ZseError("RAY_ADDRESS=10.0.0.1:6379: no Ray answers")

    monkeypatch.setattr("pipelines.operate.doctor.connect", away)
    config = tiny(
        dataset={"split": ["girafe", "fish"]},
        tracking={"enabled": True, "uri": "http://127.0.0.1:1"},
    )
    found = examine(str(tmp_path), config)
    said = "\n".join(f"{one.what}: {one.text}" for one in found if one.state == "fails")
    for what in (
        "Ray: RAY_ADDRESS=10.0.0.1",
        "experiment: .*girafe",
        "MLflow: .*refused",
    ):
        assert re.search(what, said), said
    bad = dataclasses.replace(GOOD, name="b", cards=(), cuda="", nccl=False)
    assert [one.text for one in findings([GOOD, bad], 999.0, 1001.0) if one.state == "fails"] == [
        "b: Ray has 1 GPUs, the driver 0",
        "b: torch was built without CUDA",
    ]
