"""`zse status` of a training that breaks off in a bucket, is taken up, and ends."""

from __future__ import annotations

import json
import time

import pytest
from click.testing import Result
from typer.testing import CliRunner

from pipelines.cli.app import app
from pipelines.operate import status as job
from pipelines.run import run
from pipelines.runtime.errors import StorageError
from pipelines.store import storage
from pipelines.store.lease import held
from tests.conftest import tiny
from tests.helpers.faulty_store import FaultyStore

WORKSPACE = "s3://zse/status"


def told(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["status", *arguments], catch_exceptions=False)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_training_from_its_first_state_to_its_report(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only here is the status of a training read after each of its ends, from a store."""
    config, stages = tiny(), ("ingest", "shard", "train", "embed", "evaluate")
    monkeypatch.setattr("sys.argv", ["/usr/bin/zse", "train", "-e", "my tiny.yaml", "--set", "train.steps=6"])
    store.fail("slow down", r"PUT .*/state/00000004-\w+/optimizer")
    with pytest.raises(StorageError):
        run(config, WORKSPACE)
    store.clear()
    (name,) = job.trainings(WORKSPACE)
    found = job.status(WORKSPACE, name)
    assert tuple(found.stages) == stages
    assert [*found.stages.values()] == ["done", "done", "failed", "missing", "missing"]
    assert found.ended is not None and found.ended.startswith("s3://zse/status/checkpoints/tiny-global-")
    assert f"failed      {found.ended}" in told("tiny", "-w", WORKSPACE).stdout
    assert (found.step, found.total, found.state, found.holder) == (2, 6, 2, None), "that of step 4 is not whole"
    assert found.best is not None and found.images_per_second and found.seconds_left
    assert "Next: zse train -e 'my tiny.yaml' --set train.steps=6" in told("tiny", "-w", WORKSPACE).stderr

    monkeypatch.setattr("pipelines.store.lease.EVERY", 0.05)
    with held(found.folder, name) as lease:  # as who trains it says how far it is
        lease.note.update(step=5, total=6, images_per_second=12.0, seconds_left=75.0)
        end = time.monotonic() + 20
        while (found := job.status(WORKSPACE, name)).step != 5 and time.monotonic() < end:
            time.sleep(0.05)
        shown = told(f"{found.folder}/")
    assert found.stages["train"] == "running" and (found.step, found.state, found.seconds_left) == (5, 2, 75.0)
    assert "step 5 of 6, 12 img/s, 1 min 15 s left" in shown.stdout and "held by     process" in shown.stdout
    assert f"Next: zse status {name} --workspace {WORKSPACE}" in shown.stderr

    run(config, WORKSPACE, until="train")
    assert "zse evaluate -e 'my tiny.yaml' --set train.steps=6" in told(name[:-3], "-w", WORKSPACE).stderr
    out = run(config, WORKSPACE)
    found = json.loads(told(name, "-w", WORKSPACE, "--json").stdout)
    assert set(found["stages"].values()) == {"done"} and found["reports"] == [out.reports["global"].url]
    assert (found["step"], found["total"], found["state"], found["seconds_left"]) == (6, 6, None, None)
    assert "zse search --sketch FILE" in told(name, "-w", WORKSPACE).stderr

    storage.write_bytes(f"{WORKSPACE}/images/other-01234567/part-1.parquet", b"")
    storage.copy_file(f"{found['folder']}/run.json", f"{WORKSPACE}/checkpoints/{name}2/run.json")
    everything = told("-w", WORKSPACE)
    assert everything.stdout.count(" done ") and everything.stdout.count(" killed ") == 1
    assert "killed or lost: the process is gone" in told(f"{name}2", "-w", WORKSPACE).stdout
    assert "half done: images/other-01234567, 1 parts" in everything.stdout and "2 trainings in" in everything.stderr
    assert sum(line.count(name) for line in everything.stdout.splitlines()) == 2
    with pytest.raises(ValueError, match=r"No training in .* 'tiny' alone: 2 begin with it. Trainings: tiny-gl"):
        job.find("tiny", WORKSPACE)
    with pytest.raises(ValueError, match=rf"begins with 'other'. Trainings: {name}, "):
        job.find("other", WORKSPACE)
    with pytest.raises(ValueError, match="is not a training: it has no run.json"):
        job.find(f"{WORKSPACE}/images/other-01234567", WORKSPACE)
    with pytest.raises(StorageError, match="does not exist"):
        job.trainings("s3://zse/nowhere")
