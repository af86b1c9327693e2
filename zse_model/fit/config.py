"""How long and how fast a training runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from zse_model.errors import ZseError


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Exactly one of `steps` and `minutes` is set. Raises ZseError for values out of range."""

    __pydantic_config__ = {"extra": "forbid"}

    steps: int | None = None
    minutes: float | None = None
    """Budget in CPU minutes, summed over workers and their threads. A short warm-up turns it into steps."""
    batch_size: int = 16
    """Items a worker and forward pass; an item is two sketches and two photos."""
    accumulate: int = 1
    """Batches a worker and step, whose gradients are averaged. A loss compares pictures within one batch only."""
    gather: bool = False
    """Compare the embeddings of a batch with those of all workers, in contrast, late and crossatnet's triplets.
    Such losses are then the same for any number of workers, if the backbone has no batch norm (docs/pipeline.md)."""
    lr: float = 5e-4
    backbone_lr: float = 1.0
    """Of the backbone, as a share of lr."""
    weight_decay: float = 1e-2
    warmup: int = 20
    """Steps of linear warm-up; then a cosine to 0."""
    schedule: Literal["cosine", "constant"] = "cosine"
    clip: float = 0.0
    """Largest norm of the gradient; 0 = no limit."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Of the forward and backward pass. tf32 = float32 whose products a GPU rounds to TF32; bf16 = autocast. Losses are
    float32 in all."""
    compile: bool = False
    """Compile the forward pass by torch.compile. It needs a C++ compiler, or on a GPU Triton, and takes minutes."""
    activation_checkpointing: bool = False
    """Keep a transformer's activations between its blocks only, and compute the others again in the backward pass:
    less memory, the same weights, a third more computing."""
    checks: int = 4
    """How often, evenly spread, a checkpoint is written and the pseudo-unseen classes are searched."""
    seed: int = 0
    overfit: bool = False
    """Every step on the first batch: a network that cannot reach a loss near 0 on it is broken."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ZseError(f"train: set exactly one of steps and minutes, got {self.steps} and {self.minutes}")
        for name in ("steps", "minutes", "batch_size", "accumulate", "lr", "checks"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ZseError(f"train.{name} must be above 0{_finite_too(value)}, got {value}")
        for name in ("backbone_lr", "weight_decay", "warmup", "clip"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ZseError(f"train.{name} must be 0 or more{_finite_too(value)}, got {value}")


def _finite_too(value: float) -> str:
    return "" if math.isfinite(value) else ", and finite"
