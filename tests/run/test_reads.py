"""How often a run reads manifests: its own once a stage, those of its inputs never."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from pipelines.encode.embed import embed
from pipelines.evaluate.raw_pixels import raw_pixels
from pipelines.evaluate.stage import evaluate
from pipelines.ingest.stage import ingest
from pipelines.run import experiment_split, run
from pipelines.store import files
from pipelines.train.shard import shard
from pipelines.train.stage import train, untrained
from pipelines.workspace.kept import MANIFEST, Kept
from tests.conftest import tiny

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

Made = TypeVar("Made", bound=Kept)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The manifests that the store was asked for."""
    urls, read_bytes = [], files.read_bytes

    def counted(url: str) -> bytes:
        if url.endswith(f"/{MANIFEST}"):
            urls.append(url)
        return read_bytes(url)

    monkeypatch.setattr(files, "read_bytes", counted)
    return urls


def test_a_stage_reads_its_own_manifest_once_and_no_other(tmp_path: Path, read: list[str]) -> None:
    config, workspace = tiny(train={"steps": 2, "checks": 1}, tracking={"enabled": False}), str(tmp_path)

    def stage(work: Callable[[], Made]) -> Made:
        made = work()
        assert read == [], "what is made needs no reading"
        assert work() == made and read == [f"{made.url}/{MANIFEST}"]
        read.clear()
        return made

    images = stage(lambda: ingest(config, workspace))
    pairs = stage(lambda: shard(config, workspace, images))
    training = stage(lambda: train(config, "global", workspace, images, pairs))
    stage(lambda: untrained(config, "global", workspace, images, pairs))
    split = experiment_split(config, images)
    encodings = stage(lambda: embed(config, workspace, images, training, split))
    stage(lambda: evaluate(config, workspace, images, encodings, "global", split))
    stage(lambda: raw_pixels(config, workspace, images, split))
    run(config, workspace)
    assert len(read) == len(set(read)) and read, "a run that finds everything done reads each of them once"
