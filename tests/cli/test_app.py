"""The command line from outside: help, errors, search, and jobs that cron submits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.conftest import TINY
from tests.helpers.command import invoked
from tests.helpers.pictures import picture
from tests.helpers.servers import REPOSITORY, ray_head
from zse_model.errors import ZseError
from zse_model.synthetic import draw_photo, draw_sketch

ZSE = [sys.executable, "-m", "pipelines.cli"]


def zse(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "200", **environment}
    return subprocess.run([*ZSE, *arguments], capture_output=True, text=True, env=env, check=False)


def test_help_teaches_every_verb() -> None:
    listed = invoked("--help").stdout
    for verb in (
        "ingest",
        "shard",
        "train",
        "embed",
        "evaluate",
        "compare",
        "promote",
        "reevaluate",
        "watch",
        "report",
        "search",
        "explain",
        "run",
        "quickstart",
        "experiments",
        "import-checkpoint",
    ):
        assert verb in listed
    assert "--overfit" in invoked("train", "--help").stdout


def test_errors_are_one_message_with_what_to_do() -> None:
    found = zse("run", "-e", "folder+global", "--set", "train.lr=fast")
    assert found.returncode == 1 and "train.lr" in found.stderr and "Traceback" not in found.stderr
    with pytest.raises(ZseError, match="Shipped experiments"):  # which the command prints as the one above
        invoked("train", "-e", "nothing.yaml")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_search_finds_photos_in_a_folder_of_anything(tmp_path: Path) -> None:
    """Train, then search a folder that was never ingested. Only here does a search build and reuse such a gallery."""
    experiment = tmp_path / "tiny.yaml"
    experiment.write_text(yaml.safe_dump(TINY))
    trained = invoked("train", "-e", str(experiment), "-w", str(tmp_path / "w"))
    assert "Next: zse embed" in trained.stderr
    (checkpoint,) = (tmp_path / "w" / "checkpoints").iterdir()
    gallery = tmp_path / "my photos"
    (gallery / "sub").mkdir(parents=True)
    for i in range(5):
        (gallery / "sub" / f"{i} é.png").write_bytes(picture(draw_photo("car", i, size=64)))
    (gallery / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (gallery / "notes.txt").write_text("no picture")
    sketch = tmp_path / "drawing.png"
    sketch.write_bytes(picture(draw_sketch("car", 0, size=64)))
    options = [
        "--gallery",
        str(gallery),
        "-c",
        str(checkpoint),
        "-w",
        str(tmp_path / "w"),
        "-o",
        str(tmp_path / "o.png"),
    ]
    found = invoked("search", "--sketch", str(sketch), *options, "--top", "9")
    assert len(found.stdout.splitlines()) == 5 and "Skipped 1 of 6" in found.stderr
    assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")
    again = invoked("search", "--sketch", str(sketch), *options)
    assert again.stdout == found.stdout and "Index" not in again.stderr, "the gallery is encoded once"

    empty = tmp_path / "empty.png"
    empty.write_bytes(picture(np.full((40, 40), 255, np.uint8)))
    with pytest.raises(ZseError, match="empty.png: blank"):
        invoked("search", "--sketch", str(empty), *options)


@pytest.mark.cluster
@pytest.mark.ray
@pytest.mark.timeout(500)
def test_two_machines_with_one_crontab_submit_one_job(tmp_path: Path) -> None:
    with ray_head("--num-cpus=2") as head:
        schedule = {
            "RAY_ADDRESS": head.dashboard,
            "CATALOG": str(tmp_path),
            "ZSE_WORKSPACE": str(tmp_path / "w"),
            "ID": "hour-1",
        }
        script = [str(REPOSITORY / "infra" / "cron" / "reevaluate.sh")]
        for _ in range(2):
            done = subprocess.run(script, env=head.env | schedule, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        with urllib.request.urlopen(f"{head.dashboard}/api/jobs/", timeout=10) as answer:
            jobs = {job["submission_id"]: job["entrypoint"] for job in json.load(answer) if job["submission_id"]}
        assert jobs.pop("hour-1").startswith("zse reevaluate --catalog") and not jobs
        done = subprocess.run(script, env=head.env | schedule | {"RAY_ADDRESS": "http://127.0.0.1:1"}, check=False)
        assert done.returncode != 0, "a cluster that does not answer is no success"
