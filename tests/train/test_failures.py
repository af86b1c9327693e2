"""Faults of the store, the disk, the loss and signals in real trainings."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.run import run
from pipelines.store import storage
from tests.conftest import tiny
from tests.helpers.faulty_store import FaultyStore
from tests.helpers.trainings import copy_inputs, ended, experiment, states, until

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.timeout(400)]

BIN = Path(sys.executable).parent


def test_a_training_does_not_resume_from_an_incomplete_state(tmp_path: Path, store: FaultyStore, prepared: str) -> None:
    """The store fails halfway through a state; the same command continues from the state before."""
    copy_inputs(prepared, "s3://zse/cut")
    changes: dict[str, Any] = {"cluster": {"workers": 0}}
    command = [str(BIN / "zse"), "train", "-e", experiment(tmp_path, **changes), "-w", "s3://zse/cut"]
    store.fail("slow down", r"PUT .*/state/00000030-\w+/optimizer")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "state/00000030" in done.stderr and "SlowDown" in done.stderr, done.stderr
    store.clear()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert sum("/state/00000015-" in request and "GET" in request for request in store.asked), "from the state before"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("a full disk needs a mount of 2 MB, which only root can make: sudo make test-cluster")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_is_an_error_and_a_run_with_more_room_continues(tmp_path: Path, small_disk: Path) -> None:
    changes: dict[str, Any] = {"shard": {"items": 600, "part_size": 20, "row_group": 5}}
    command = [str(BIN / "zse"), "shard", "-e", experiment(tmp_path, **changes), "-w"]
    done = subprocess.run([*command, str(small_disk)], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "No space left on device. Finished work is kept; free disk space" in done.stderr, done.stderr
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    subprocess.run([*command, str(small_disk)], check=True, capture_output=True)
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    both = [{p.name: p.read_bytes() for p in d.glob("pairs/*/part-*")} for d in (small_disk, tmp_path / "whole")]
    assert both[0] == both[1] and len(both[0]) == 30


def test_a_training_waits_for_a_store_that_is_away_for_a_minute(
    tmp_path: Path, store: FaultyStore, prepared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a state is stored: the training waits, and then goes on by itself."""
    copy_inputs(prepared, "s3://zse/minute")
    copy_inputs(prepared, str(tmp_path))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "8")  # as it is where nobody says otherwise
    file = experiment(tmp_path, cluster={"workers": 0})
    process = subprocess.Popen(
        [str(BIN / "zse"), "train", "-e", file, "-w", "s3://zse/minute"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    until(lambda: any("PUT" in asked and "/state/00000015-" in asked for asked in store.asked), process)
    store.fail("slow down", ".")
    time.sleep(60)
    store.clear()
    assert "Waiting for the store" in ended(process)
    subprocess.run([str(BIN / "zse"), "train", "-e", file, "-w", str(tmp_path)], check=True, capture_output=True)
    (name,) = storage.folders("s3://zse/minute/checkpoints")
    there, here = (storage.read_json(f"{w}/checkpoints/{name}/manifest.json") for w in ("s3://zse/minute", tmp_path))
    assert there["last_weights_sha256"] == here["last_weights_sha256"]


def test_a_second_process_on_the_same_training_fails(tmp_path: Path, prepared: str) -> None:
    copy_inputs(prepared, str(tmp_path / "w"))
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
def test_a_loss_that_is_not_a_number_ends_the_run_at_once(tmp_path: Path, prepared: str) -> None:
    from zse_model.fit import NonFiniteLossError

    # A run that was taken up again would come to the same step a thousand times, and the test to its limit.
    wrong = tiny(train={"steps": 60, "lr": 1e30, "warmup": 0}, cluster={"workers": 2, "max_failures": 1000})
    copy_inputs(prepared, str(tmp_path))
    with pytest.raises(NonFiniteLossError, match=r"The loss of step \d+ is (nan|inf); no update was made"):
        run(wrong, str(tmp_path), until="train")


def test_sigterm_keeps_the_step_of_a_plain_process(tmp_path: Path, prepared: str) -> None:
    file = experiment(tmp_path, train={"steps": 500, "checks": 1}, cluster={"workers": 0})
    whole, told = (["-w", str(tmp_path / name)] for name in ("whole", "told"))
    copy_inputs(prepared, whole[1])
    copy_inputs(prepared, told[1])
    command = [str(BIN / "zse"), "train", "-e", file]
    subprocess.run([*command, *whole], check=True, capture_output=True)
    process = subprocess.Popen([*command, *told], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until(lambda: states(tmp_path / "told"), process)
    process.terminate()
    assert "is kept. Run the same command again to continue" in ended(process, 128 + signal.SIGTERM)
    assert any(0 < step < 500 for step in states(tmp_path / "told"))
    subprocess.run([*command, *told], check=True, capture_output=True)
    first, second = (json.loads(p.read_text()) for p in tmp_path.glob("*/checkpoints/*/manifest.json"))
    assert first["last_weights_sha256"] == second["last_weights_sha256"] and first["digest"] == second["digest"]
