"""Settings of the stages ingest and shard. Imports no torch, so that their workers start fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from zse_model.augment import AugmentConfig
from zse_model.errors import ZseError


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    __pydantic_config__ = {"extra": "forbid"}

    on_bad: Literal["skip", "raise"] = "skip"
    """Whether a picture that cannot be used is skipped or fails the job."""
    max_bad_fraction: float = 0.05
    """With `skip`: a larger share of bad pictures fails the job, after all of them were read and named."""
    part_size: int = 1000
    """Largest number of pictures in a part, and in all parts of one task. A part is a Parquet file with pictures of one
    class and modality."""
    row_group: int = 128
    """Pictures per row group."""

    def __post_init__(self) -> None:
        for name in ("part_size", "row_group"):
            if getattr(self, name) < 1:
                raise ZseError(f"ingest.{name} must be 1 or more, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    __pydantic_config__ = {"extra": "forbid"}

    layout: Literal["shards", "memory"] = "shards"
    """`shards`: items are planned, augmented and written once, then streamed. `memory`: the same items are made on the
    fly from pictures in memory, for data sets that fit (docs/pipeline.md)."""
    items: int = 10_000
    """Training items per pass. Longer trainings repeat the items (`shards`) or draw new ones (`memory`)."""
    part_size: int = 500
    row_group: int = 32
    own_photo: float = 0.5
    """With known pairs: share of items whose photo is the one that the sketch was drawn from."""
    hard_negatives: float = 0.0
    """Share of items whose negative photo is another instance of the sketch's own class. 1 is fine-grained training:
    one class is enough, and without pseudo-unseen classes the checkpoint is chosen on held-back pairs."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """For a `union`: part -> relative share of the items whose sketch is of that part. Empty = all classes equally, and
    all sketches within a class."""
    pseudo_sketches: float = 0.0
    """Share of the items whose sketches are made from photos of the class (`zse_model.pseudo_sketch`). Above 0, a class
    may have photos alone: all its items are such. 1 = no drawing is trained on."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("items", "part_size", "row_group"):
            if getattr(self, name) < 1:
                raise ZseError(f"shard.{name} must be 1 or more, got {getattr(self, name)}")
        for name in ("own_photo", "hard_negatives", "pseudo_sketches"):
            if not 0 <= getattr(self, name) <= 1:
                raise ZseError(f"shard.{name} is a share, 0..1, got {getattr(self, name)}")
        if wrong := {name: weight for name, weight in self.weights.items() if weight <= 0}:
            raise ZseError(
                f"shard.weights must be above 0, got {wrong}. To leave a part out, remove it from dataset.parts"
            )
