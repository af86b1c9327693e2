"""What `zse experiments` says of the shipped experiments."""

from __future__ import annotations

import pytest

from pipelines.config.load import experiment_names, load_experiment
from pipelines.operate import experiments


def test_every_experiment_says_what_it_is_for() -> None:
    for name in experiment_names():
        said = experiments.purpose(name)
        assert said.endswith(".") and "Give at least" not in said and "Needs:" not in said, name


def test_experiments_are_listed_with_backbone_and_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shown for a budget in minutes, for one in steps, and for one whose class vectors are a file."""
    shown = ["crossatnet-sketchy-25", "quickstart", "zse_sbir-shoe-v2"]
    monkeypatch.setattr(experiments, "experiment_names", lambda: shown)
    *each, rates = experiments.described()
    assert [paragraph.splitlines()[0] for paragraph in each] == shown
    for name, paragraph in zip(shown, each, strict=True):
        assert f"Backbone {load_experiment(name).backbone.name}." in paragraph
    assert "crossatnet for 20,000 steps, 32 PFLOP, 0.42 GPU hours in fp32" in each[0]
    assert "global for 2 CPU minutes; zse_sbir for 2 CPU minutes" in each[1]
    assert "zse_sbir for 20,000 steps, 139 PFLOP, 1.8 GPU hours in fp32" in each[2]
    assert "60 TFLOP/s in fp32" in rates
