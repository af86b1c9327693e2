"""The rows of the results can be run: their settings exist, and no row of the search knows a test class."""

from __future__ import annotations

from pathlib import Path

import pytest

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
