"""The shipped experiments: what each is for, its backbone, and what its training costs.

Read from the experiments' files and counted as the estimate of a run counts, without data: for `CLASSES` classes,
whatever the split has. Classes change little of what a step costs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pipelines.config.experiment import ExperimentConfig
from pipelines.config.load import experiment_names, experiment_text, load_experiment
from pipelines.operate.estimate import TFLOPS, Rates, cost_of, flops

CLASSES = 100


def described() -> Iterator[str]:
    """A paragraph an experiment, and what GPU hours are estimated at."""
    counted: dict[str, int] = {}
    for name in experiment_names():
        config = load_experiment(name)
        costs = "; ".join(_costs(config, counted))
        yield f"{name}\n    {purpose(name)}\n    Backbone {config.backbone.name}. Training: {costs}."
    rates = " and ".join(f"{tflops:g} TFLOP/s in {precision}" for precision, tflops in TFLOPS.items())
    yield f"GPU hours are an estimate, at {Rates().utilisation:g} of {rates}."


def purpose(name: str) -> str:
    """The comment of an experiment's file, up to the first line that begins with a label such as `Needs:`."""
    lines = []
    for line in experiment_text(name).decode().splitlines():
        if not line.startswith("# ") or re.match(r"# [A-Z][a-z]+( [a-z]+){0,2}: ", line):
            break
        lines.append(line.removeprefix("# "))
    return " ".join(lines)


def _costs(config: ExperimentConfig, counted: dict[str, int]) -> Iterator[str]:
    """Of each method. counted: FLOP of a step, by what it is of: several experiments have it in common."""
    train = config.train
    for name, settings in config.methods.items():
        if train.steps is None:
            yield f"{name} for {train.minutes:g} CPU minutes"
            continue
        settings = _without_file(settings)
        key = repr((name, settings, config.backbone, config.transforms, train, config.cluster))
        if key not in counted:
            only = replace(config, methods={name: settings})
            counted[key] = cost_of(only, name, [f"class {i}" for i in range(CLASSES)]).step
        flop = train.steps * counted[key]
        hours = f"{Rates().hours(flop, train.precision):.2g} GPU hours in {train.precision}"
        yield f"{name} for {train.steps:,} steps, {flops(flop)}, {hours}"


def _without_file(settings: Any) -> Any:
    """Class vectors are a file that need not be there yet; its vectors are as long as the configuration says."""
    return replace(settings, class_vectors="random") if hasattr(settings, "class_vectors") else settings
