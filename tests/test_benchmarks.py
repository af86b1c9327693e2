"""The rows of the results can be run: their settings exist, and no row of the search knows a test class. What is
measured at scale runs, small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import scale
from benchmarks.results import FINAL, ROWS_OF_ALL, SELECTION, Row, page
from pipelines.config import load_experiment


@pytest.mark.parametrize("row", ROWS_OF_ALL, ids=lambda row: f"{row.table}.{row.name}")
def test_every_row_is_an_experiment(row: Row, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.touch()
    names = {"$DATA": str(tmp_path), "$WEIGHTS": str(weights), "$START": "a checkpoint"}
    overrides = row.overrides(0)
    for name, value in names.items():
        overrides = [s.replace(name, value) for s in overrides]
    config = load_experiment(row.experiment, overrides)
    assert config.train.minutes is None and config.train.steps == row.steps
    assert (config.dataset.split == "sketchy-selection") == (row not in FINAL)


def test_the_page_says_what_was_not_run() -> None:
    text = page([*SELECTION, Row("final", "sketchy-25.never", "folder+global", split="sketchy-25", cross=True)])
    assert text.count("| sketchy-25.never | not run |") == 4


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_changed_class_at_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scale.ingests(replace(scale.SMALL, pictures=(500,), changed=500), tmp_path)
    assert "one of 250 classes changed: 2 of 500 pictures read again" in capsys.readouterr().out


def test_listing_and_metrics_at_scale(capsys: pytest.CaptureFixture[str]) -> None:
    scale.list_keys(1_000)
    scale.matrix(30, 40)
    scale.embedded(30, 40)
    out = capsys.readouterr().out
    assert out.startswith("  1,000 records") and out.count("  plain mAP_all 0.") == 2
