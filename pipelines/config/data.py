"""What the stages of the data are told: ingest and shard. Imports no torch, as their workers do not."""

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
    """What a picture that cannot be used does to the job."""
    max_bad_fraction: float = 0.05
    """With `skip`: more bad pictures than this fail the job, after all of them were named."""
    part_size: int = 1000
    """Pictures a part at most. A part is one Parquet file, of one class and modality; a task makes as many parts as
    together have no more pictures than this."""
    row_group: int = 128
    """Pictures a row group."""


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    __pydantic_config__ = {"extra": "forbid"}

    layout: Literal["shards", "memory"] = "shards"
    """`shards`: items are planned, augmented and written once, and streamed. `memory`: the same items are made on the
    fly from pictures held in memory, for sets that fit (docs/pipeline.md)."""
    items: int = 10_000
    """Training items a pass; longer trainings pass over them again (`shards`) or go on (`memory`)."""
    part_size: int = 500
    row_group: int = 32
    own_photo: float = 0.5
    """Where pairs are known: share of items whose photo is the one that the sketch was drawn from."""
    hard_negatives: float = 0.0
    """Share of items whose negative photo is another instance of the sketch's own class. 1 is a fine-grained training:
    one class is enough, and without pseudo-unseen classes it chooses its checkpoint by held-back pairs."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of a `union`: the share of items whose sketch is of each part, relative to one another. None = every class alike,
    and in it every sketch."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if wrong := {name: weight for name, weight in self.weights.items() if weight <= 0}:
            raise ZseError(f"shard.weights must be above 0, got {wrong}; leave a part out of dataset.parts instead")
