"""Load, override and validate the configuration of an experiment. All verbs call it.

An experiment is one YAML without inheritance or interpolation. `--set a.b=c` is applied to it, then every value is read
by its field's type (runtime/written.py) and validated. Unknown keys are refused, and errors name the field's path.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pipelines.config.experiment import ExperimentConfig
from pipelines.config.weights import with_weights
from pipelines.datasets.registry import AnyDataset
from pipelines.runtime.errors import ConfigError
from pipelines.runtime.validate import read_section, refuse_passwords
from pipelines.runtime.written import NULL, Written, did_you_mean, read, read_yaml
from pipelines.store import storage
from zse_model.methods import METHODS


def experiment_names() -> list[str]:
    files = resources.files("pipelines").joinpath("experiments").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def load_experiment(name: str, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """A shipped experiment by name, or a YAML file, with `a.b=c` overrides. Raises ConfigError."""
    if name in (shipped := experiment_names()):
        data = experiment_text(name)
    elif Path(name).is_file():
        data = Path(name).read_bytes()
    else:
        what = "It is a folder, not a YAML file" if Path(name).is_dir() else "There is no such file"
        near = did_you_mean(name, shipped)
        raise ConfigError(f"Unknown experiment {name!r}.{near} {what}. Shipped experiments: {shipped}")
    raw = read_yaml(data, name)
    if not isinstance(raw, dict):
        raise ConfigError(f"{name} must be a mapping of sections, got {type(raw).__name__}")
    apply_overrides(raw, overrides)
    return validate(raw, overrides)


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> None:
    """Apply `a.b=c` overrides to `raw` in place. Setting train.steps unsets train.minutes, and the reverse.

    Raises ConfigError for text without `=` or with an empty name, and for a path through a value.
    """
    for override in overrides:
        path, equals, value = override.partition("=")
        *parents, last = path.split(".")
        if not equals or not all((*parents, last)):
            raise ConfigError(f"--set is {override!r}. Give a.b=c, such as train.steps=100")
        section = raw
        for i, parent in enumerate(parents):
            below = section.get(parent)
            if isinstance(below, Written):  # `dataset={...}` before `dataset.name=x`
                below = read_yaml(below, f"--set {'.'.join(parents[: i + 1])}")
            section[parent] = below = {} if below is None or below in NULL else below
            if not isinstance(below, dict):
                raise ConfigError(f"--set {override}: {parent!r} is a value, not a section")
            section = below
        section[last] = Written(value)
        other = {"train.steps": "minutes", "train.minutes": "steps"}.get(path)
        if other and value not in NULL:
            section[other] = None


def validate(raw: dict[str, Any], overrides: Sequence[str] = ()) -> ExperimentConfig:
    """The validated experiment. `overrides`, already applied to `raw`, are quoted in errors. Raises ConfigError."""
    methods = raw.get("methods")
    if isinstance(methods, Written):
        methods = read_yaml(methods, "methods")
    if not isinstance(methods, dict) or not methods:
        raise ConfigError(f"methods is empty. Name at least one of {sorted(METHODS)}, each with its configuration")
    for name in map(str, methods):
        if name not in METHODS:
            near = did_you_mean(name, METHODS).replace("mean ", "mean methods.")
            raise ConfigError(f"methods.{name}: unknown.{near} Known methods: {sorted(METHODS)}")
    refuse_passwords(raw, "")
    raw = read(ExperimentConfig, {**raw, "methods": methods}, given=[o.partition("=")[0] for o in overrides])
    raw["methods"] = {n: read_section(METHODS[n].Config, c or {}, f"methods.{n}.") for n, c in raw["methods"].items()}
    if isinstance(raw.get("dataset"), dict):
        raw["dataset"] = read_section(AnyDataset, raw["dataset"], "dataset.")
    config: ExperimentConfig = read_section(ExperimentConfig, raw, "")
    start = config.start and (config.start if config.start.startswith("models:/") else storage.absolute(config.start))
    return dataclasses.replace(config, backbone=with_weights(config.backbone), start=start)


def experiment_text(name: str) -> bytes:
    """The bytes of a shipped experiment's file."""
    return resources.files("pipelines").joinpath("experiments", f"{name}.yaml").read_bytes()
