"""One experiment, one YAML, one frozen value. The only place where configuration is read and checked.

A YAML reads on its own: no inheritance, no interpolation. `--set a.b=c` is applied to it, then everything is read as
its field's type (written.py) and validated, with unknown keys refused and the path of the field in the error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pipelines.config.data import IngestConfig, ShardConfig
from pipelines.datasets.registry import AnyDataset
from pipelines.runtime.cluster import ClusterConfig
from pipelines.runtime.errors import ConfigError
from pipelines.runtime.validate import read_section, refuse_passwords
from pipelines.runtime.written import NULL, Written, did_you_mean, read, read_yaml
from pipelines.store import storage
from pipelines.workspace.members import Distractors
from zse_model.backbones import BackboneConfig
from zse_model.errors import ZseError
from zse_model.evaluation.protocol import PROTOCOLS
from zse_model.fit import TrainConfig
from zse_model.methods import METHODS, is_known_mode, known_modes
from zse_model.transforms import TransformConfig


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    __pydantic_config__ = {"extra": "forbid"}

    classes: Literal["both", "unseen", "pseudo_unseen"] = "both"
    """What is searched: the unseen classes, to choose by the pseudo-unseen ones (a setting `-selection`), or both, each
    in a report of its own; of a checkpoint that is named the unseen ones alone."""
    protocols: tuple[str, ...] = ("plain", "zse_paper")
    references: tuple[Literal["untrained", "raw_pixels"], ...] = ()
    """Rows to stand beside the methods: their networks before training, and pixels compared as they are."""
    modes: tuple[str, ...] = ()
    """Retrieval modes to evaluate, as `zse methods` lists them; each method is evaluated by those that it has. () = all
    but rerank-K."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """What pair networks compute in; scores are float32 either way."""
    instance_level: bool = True
    """Also find a sketch's own photo (acc_k) where pairs are known."""
    distractors: tuple[Distractors, ...] = ()
    """Photos of other classes that stand beside the unseen ones, each in a setting more: `held_back` ones of the seen
    classes (`-generalised`), all those that have a sketch of their own (`-fg-all`)."""
    seen_classes: bool = False
    """Also find held-back photos of seen classes by their own sketches (`-fg-seen`), where pairs are known."""
    batch_size: int = 64
    """Pictures encoded at once."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.protocols) - set(PROTOCOLS)):
            raise ZseError(f"evaluation.protocols {unknown} are unknown. Known: {sorted(PROTOCOLS)}")
        if unknown := [mode for mode in self.modes if not is_known_mode(mode)]:
            raise ZseError(
                f"evaluation.modes {unknown} are unknown. Known: {', '.join(known_modes())}, with a number for K and "
                "the bits of the method's codes for N"
            )


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    __pydantic_config__ = {"extra": "forbid"}

    enabled: bool = True
    uri: str | None = None
    """MLflow tracking URI; None = MLFLOW_TRACKING_URI, else SQLite in a local workspace."""
    system_metrics: bool = True
    """Also how busy each training machine is, every ten seconds."""


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    __pydantic_config__ = {"extra": "forbid"}

    name: str
    dataset: AnyDataset
    methods: Mapping[str, Any]
    """Name -> its configuration, each trained and evaluated in turn."""
    transforms: TransformConfig = field(default_factory=TransformConfig)
    ingest: IngestConfig = field(default_factory=IngestConfig)
    shard: ShardConfig = field(default_factory=ShardConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    train: TrainConfig
    start: str | None = None
    """A checkpoint (folder, URL, or models:/NAME@ALIAS of the registry) that training starts from: a second stage. What
    does not fit of its heads is new; of another method's checkpoint the backbone alone is taken."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        if self.name in ("", ".", "..") or "/" in self.name or not self.name.isprintable():
            raise ZseError(
                f"name {self.name!r} is part of the names of folders: it may hold any printable character but /"
            )
        if self.train.gather and self.cluster.min_workers is not None:
            raise ZseError(
                "cluster.min_workers must be null with train.gather: what a batch is compared with would change with "
                "the number of workers"
            )

    @staticmethod
    def __read_as__() -> dict[str, Any]:
        return {"methods": {name: method.Config for name, method in METHODS.items()}}

    @property
    def use(self) -> Literal["report", "selection"]:
        """What the results of its evaluation may do: stand in a report, or also decide between models."""
        return "selection" if self.evaluation.classes == "pseudo_unseen" else self.dataset.use


def experiment_names() -> list[str]:
    files = resources.files("pipelines").joinpath("experiments").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def experiment_text(name: str) -> bytes:
    """The file of a shipped experiment."""
    return resources.files("pipelines").joinpath("experiments", f"{name}.yaml").read_bytes()


def load_experiment(name: str, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """A shipped experiment by name, or a YAML file, with `a.b=c` overrides. Raises ConfigError."""
    if name in (shipped := experiment_names()):
        data = experiment_text(name)
    elif Path(name).is_file():
        data = Path(name).read_bytes()
    else:
        what = "It is a folder, no YAML file" if Path(name).is_dir() else "There is no such file"
        near = did_you_mean(name, shipped)
        raise ConfigError(f"Unknown experiment {name!r}.{near} {what}, and the shipped ones are {shipped}")
    raw = read_yaml(data, name)
    if not isinstance(raw, dict):
        raise ConfigError(f"{name} must be a mapping of sections, got {type(raw).__name__}")
    apply_overrides(raw, overrides)
    return validate(raw, overrides)


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set `a.b=c` in place; c is read as its field's type. Setting one of train.steps and train.minutes unsets the
    other."""
    for override in overrides:
        path, equals, value = override.partition("=")
        *parents, last = path.split(".")
        if not equals or not all((*parents, last)):
            raise ConfigError(f"--set takes a.b=c, got {override!r}")
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
    """The experiment of what was written; `overrides` are those that were applied to it. Raises ConfigError."""
    methods = raw.get("methods")
    if isinstance(methods, Written):
        methods = read_yaml(methods, "methods")
    if not isinstance(methods, dict) or not methods:
        raise ConfigError(f"methods: name at least one of {sorted(METHODS)}, each with its configuration")
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
    return dataclasses.replace(config, backbone=_absolute_weights(config.backbone), start=start)


def _absolute_weights(backbone: BackboneConfig) -> BackboneConfig:
    """A worker on the cluster has another working folder: name the file from the root."""
    if backbone.weights in (None, "hub"):
        return backbone
    if not storage.exists(backbone.weights) or storage.file_info(backbone.weights) is None:
        raise ConfigError(
            f"backbone.weights: {backbone.weights!r} is no file that exists. Allowed: null, hub, or a file"
        )
    return dataclasses.replace(backbone, weights=storage.absolute(backbone.weights))


def to_dict(config: Any) -> dict[str, Any]:
    """Plain values, for hashes, checkpoints and tracking."""
    return dataclasses.asdict(config)


SECTIONS = ("dataset", "transforms", "evaluation")  # what an evaluation depends on


def experiment_of(config: ExperimentConfig) -> Mapping[str, Any]:
    """What a report's manifest keeps of its experiment."""
    return {"name": config.name, **{section: to_dict(getattr(config, section)) for section in SECTIONS}}
