"""Describe the shipped experiments: their purpose, backbone and training cost. `zse experiments` prints it.

The purpose is a comment of the YAML file. The cost is computed as in `estimate`, but without data, for `CLASSES`
classes: the number of classes changes the cost of a step little.
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
    """A paragraph for each experiment, then the rates of the estimated GPU hours."""
    counted: dict[str, int] = {}
    for name in experiment_names():
        config = load_experiment(name)
        costs = "; ".join(_costs(config, counted))
        yield f"{name}\n    {purpose(name)}\n    Backbone {config.backbone.name}. Training: {costs}."
    rates = " and ".join(f"{tflops:g} TFLOP/s in {precision}" for precision, tflops in TFLOPS.items())
    yield f"GPU hours are an estimate, at {Rates().utilisation:g} of {rates}."


def purpose(name: str) -> str:
    """The first comment of an experiment's file, up to a line with a label such as `Needs:`."""
    lines = []
    for line in experiment_text(name).decode().splitlines():
        if not line.startswith("# ") or re.match(r"# [A-Z][a-z]+( [a-z]+){0,2}: ", line):
            break
        lines.append(line.removeprefix("# "))
    return " ".join(lines)


def _costs(config: ExperimentConfig, counted: dict[str, int]) -> Iterator[str]:
    """The training cost of each method. counted: a cache of the FLOP of a step, which experiments share."""
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
    """The settings without a file of class vectors, which need not exist yet; the configuration has their length."""
    return replace(settings, class_vectors="random") if hasattr(settings, "class_vectors") else settings
