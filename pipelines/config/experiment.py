"""All settings of an experiment, one frozen value. load.py makes it of a YAML file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.config.data import IngestConfig, ShardConfig
from pipelines.datasets.registry import AnyDataset
from pipelines.runtime.cluster import ClusterConfig
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


def to_dict(config: Any) -> dict[str, Any]:
    """Plain values, for hashes, checkpoints and tracking."""
    return dataclasses.asdict(config)


SECTIONS = ("dataset", "transforms", "evaluation")  # what an evaluation depends on


def experiment_of(config: ExperimentConfig) -> Mapping[str, Any]:
    """What a report's manifest keeps of its experiment."""
    return {"name": config.name, **{section: to_dict(getattr(config, section)) for section in SECTIONS}}
