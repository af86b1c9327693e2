"""The rows of the results can be run: their settings exist, and no row of the search knows a test class. What is
measured at scale runs, small."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import loading, scale, scaling
from benchmarks.results import FINAL, ROWS_OF_ALL, SELECTION, Row, page
from benchmarks.workers import Pictures
from pipelines.config import load_experiment
from zse_model.methods import TrainBatch


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


def test_the_plan_follows_its_formulas() -> None:
    network = scaling.Network(parameters=100, step_flop=7e13, items_step=8, items=640, checks=4, dim=2)
    measured = scaling.Measured(images_core=4.0, item_bytes=40.0)
    assumed = scaling.Assumed(tflops=100, utilisation=0.7, network=1e3, store=500.0, price=3.0)
    one, four = (scaling.row(gpus, network, measured, assumed) for gpus in (1, 4))
    assert (one.step, one.reduced, one.gathered, one.images, one.cores) == pytest.approx((1.0, 0, 0, 32, 8))
    assert (one.steps, one.uploads, one.read) == pytest.approx((80, 5 * 1600 / 500, 320))
    assert one.cost == pytest.approx(3 * one.hours) and one.hours == pytest.approx((80 + 16) / 3600)
    assert (four.reduced, four.gathered, four.steps) == pytest.approx((4 * 100 * 1.5, 3 * 3 * 32 * 8, 20))
    assert four.images == pytest.approx(4 * 32 / (1 + (600 + 2304) / 1e3)), "transfers are waited for"


def test_the_share_of_waiting_is_of_what_a_step_waits() -> None:
    class Slow(Pictures):
        def batch(self, step: int, rank: int, world_size: int) -> TrainBatch:
            time.sleep(0.1)
            return super().batch(step, rank, world_size)

    assert loading.waiting(Slow(1), step=0.0, steps=8) > 0.8
    assert loading.waiting(Pictures(1), step=0.2, steps=4) < 0.5


def test_listing_and_metrics_at_scale(capsys: pytest.CaptureFixture[str]) -> None:
    scale.list_keys(1_000)
    scale.matrix(30, 40)
    scale.embedded(30, 40)
    out = capsys.readouterr().out
    assert out.startswith("  1,000 records") and out.count("  plain mAP_all 0.") == 2
