"""The settings of an experiment: `ExperimentConfig` and its sections. `load` builds it from a YAML file."""

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
from zse_model.diffusion import MOST
from zse_model.errors import ZseError
from zse_model.evaluation.protocol import PROTOCOLS
from zse_model.fit import TrainConfig
from zse_model.methods import METHODS, is_known_mode, known_modes
from zse_model.transforms import TransformConfig


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    __pydantic_config__ = {"extra": "forbid"}

    classes: Literal["both", "unseen", "pseudo_unseen"] = "both"
    """Classes to search: unseen (to report), pseudo_unseen (to select by; setting `-selection`), or both, each with its
    own report. With --checkpoint, `both` means unseen."""
    protocols: tuple[str, ...] = ("plain", "zse_paper")
    references: tuple[Literal["untrained", "raw_pixels"], ...] = ()
    """Reference rows: the methods' networks before training, and a comparison of raw pixels."""
    modes: tuple[str, ...] = ()
    """Retrieval modes, see `zse methods`. Each method is evaluated in those that it has. Empty = all that score every
    pair: without rerank-K, and without MODE-diffused-K, which ranks the K best of a mode again by diffusion."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of pair networks. Scores are float32 in both cases."""
    instance_level: bool = True
    """Also measure acc_k: finding a sketch's own photo. Needs known pairs."""
    distractors: tuple[Distractors, ...] = ()
    """Photos of other classes to add to the gallery, each in a further setting: `held_back` photos of seen classes
    (`-generalised`), or all photos that have a sketch (`-fg-all`)."""
    seen_classes: bool = False
    """Also search held-back photos of seen classes by held-back sketches: by class among the classes that were trained
    on (`-seen`, which is not zero-shot), and with known pairs for a sketch's own photo (`-fg-seen`)."""
    batch_size: int = 64
    """Pictures encoded at once."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.protocols) - set(PROTOCOLS)):
            raise ZseError(f"evaluation.protocols {unknown} are unknown. Known: {sorted(PROTOCOLS)}")
        if unknown := [mode for mode in self.modes if not is_known_mode(mode)]:
            raise ZseError(
                f"evaluation.modes {unknown} are unknown. Known: {', '.join(known_modes())}, and "
                f"MODE-diffused-K of each but rerank-K. K is a number of photos (of diffused-K up to {MOST:,}), N the "
                "bits of the method's codes"
            )


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    __pydantic_config__ = {"extra": "forbid"}

    enabled: bool = True
    uri: str | None = None
    """MLflow tracking URI; None = MLFLOW_TRACKING_URI, else SQLite in a local workspace."""
    system_metrics: bool = True
    """Log the load of each training machine every ten seconds."""


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    __pydantic_config__ = {"extra": "forbid"}

    name: str
    dataset: AnyDataset
    methods: Mapping[str, Any]
    """Name of a method -> its configuration. The methods are trained and evaluated in this order."""
    transforms: TransformConfig = field(default_factory=TransformConfig)
    ingest: IngestConfig = field(default_factory=IngestConfig)
    shard: ShardConfig = field(default_factory=ShardConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    train: TrainConfig
    start: str | None = None
    """A checkpoint to start training from: a folder, URL or models:/NAME@ALIAS. Heads that do not fit are initialised;
    from a checkpoint of another method only the backbone is taken."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        if self.name in ("", ".", "..") or "/" in self.name or not self.name.isprintable():
            raise ZseError(
                f"name is {self.name!r}, but becomes part of folder names. Use printable characters without /"
            )
        if self.train.gather and self.cluster.min_workers is not None:
            raise ZseError(
                "cluster.min_workers must be null with train.gather: the photos that a batch is compared with would "
                "depend on the number of workers. Set cluster.min_workers=null or train.gather=false"
            )

    @staticmethod
    def __read_as__() -> dict[str, Any]:
        return {"methods": {name: method.Config for name, method in METHODS.items()}}

    @property
    def use(self) -> Literal["report", "selection"]:
        """Whether results of its evaluation are for reports only, or may also decide between models."""
        return "selection" if self.evaluation.classes == "pseudo_unseen" else self.dataset.use


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain values, for hashes, checkpoints and tracking."""
    return dataclasses.asdict(config)


SECTIONS = ("dataset", "transforms", "evaluation")  # those that an evaluation depends on


def experiment_of(config: ExperimentConfig) -> Mapping[str, Any]:
    """The part of an experiment that a report's manifest keeps."""
    return {"name": config.name, **{section: to_dict(getattr(config, section)) for section in SECTIONS}}
