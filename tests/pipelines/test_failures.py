"""What goes wrong with a training, done to real ones."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.jobs.run import run
from tests.conftest import TINY, merged, tiny
from tests.faulty_store import FaultyStore

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.timeout(400)]

BIN = Path(sys.executable).parent
LONG: dict[str, Any] = {"train": {"steps": 60, "checks": 4}, "cluster": {"workers": 2}}


def experiment(folder: Path, **changes: Any) -> str:
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(merged(TINY, merged(LONG, changes))))
    return str(file)


def states(workspace: Path) -> list[int]:
    """The steps of the states that are kept whole."""
    return sorted(int(file.parent.name) for file in workspace.glob("checkpoints/*/state/*/state.json"))


def until(what: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        assert process.poll() is None, f"it ended too early:\n{process.communicate()[0][-3000:]}"
        time.sleep(0.05)
    process.kill()
    raise TimeoutError(f"nothing of the kind in {seconds} s:\n{process.communicate()[0][-3000:]}")


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    said = process.communicate(timeout=240)[0]
    assert process.returncode == code, said[-4000:]
    return said


def test_a_state_that_could_not_be_stored_is_not_taken_for_one(tmp_path: Path, store: FaultyStore) -> None:
    """The store fails half way through a state for good; the same command goes on from the state before."""
    changes: dict[str, Any] = {"cluster": {"workers": 0}}
    command = [str(BIN / "zse"), "train", "-e", experiment(tmp_path, **changes), "-w", "s3://zse/cut"]
    store.fail("slow down", r"PUT .*/state/00000030/optimizer")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "state/00000030" in done.stderr and "SlowDown" in done.stderr, done.stderr
    store.clear()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert sum("/state/00000015/" in request and "GET" in request for request in store.asked), "from the state before"


def test_of_two_at_once_one_is_told(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"train": {"steps": 100_000}, "cluster": {"workers": 0}}
    command = [str(BIN / "zse"), "train", "-e", experiment(tmp_path, **changes), "-w", str(tmp_path / "w")]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until(lambda: list((tmp_path / "w").glob("checkpoints/*/lease/*.json")), first)
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 1, second.stderr
    assert f"is being made by process {first.pid}" in second.stderr and "Traceback" not in second.stderr
    first.terminate()
    ended(first, 128 + signal.SIGTERM)
    assert not list((tmp_path / "w").glob("checkpoints/*/lease/*.json")), "it is given back"


@pytest.mark.usefixtures("ray_cluster")
def test_a_loss_that_is_not_a_number_ends_the_run_at_once(tmp_path: Path) -> None:
    from zse_model.fit import NonFiniteLossError

    wrong = tiny(train={"steps": 60, "lr": 1e30, "warmup": 0}, cluster={"workers": 2})
    start = time.monotonic()
    with pytest.raises(NonFiniteLossError, match=r"The loss of step \d+ is (nan|inf); no update was made"):
        run(wrong, str(tmp_path), until="train")
    assert time.monotonic() - start < 100, "it is not taken up again: it would come to the same step"


def test_a_plain_process_that_is_told_to_go_keeps_its_step(tmp_path: Path) -> None:
    file = experiment(tmp_path, train={"steps": 1000, "checks": 1}, cluster={"workers": 0})
    whole, told = (["-w", str(tmp_path / name)] for name in ("whole", "told"))
    command = [str(BIN / "zse"), "train", "-e", file]
    subprocess.run([*command, *whole], check=True, capture_output=True)
    process = subprocess.Popen([*command, *told], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until(lambda: states(tmp_path / "told"), process)
    process.terminate()
    assert "is kept; the same command goes on from there" in ended(process, 128 + signal.SIGTERM)
    assert any(0 < step < 1000 for step in states(tmp_path / "told"))
    subprocess.run([*command, *told], check=True, capture_output=True)
    first, second = (json.loads(p.read_text()) for p in tmp_path.glob("*/checkpoints/*/manifest.json"))
    assert first["last_weights_sha256"] == second["last_weights_sha256"] and first["digest"] == second["digest"]
