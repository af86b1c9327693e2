"""What a training asks of a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from zse_model.errors import ZseError


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    __pydantic_config__ = {"extra": "forbid"}

    workers: int = 2
    """Training workers (DDP ranks); 0 = train in this process, without Ray."""
    min_workers: int | None = None
    """Train with as few while there is no room for all, and take in nodes that come; None = wait for all. The batch of
    a step stays that of all workers."""
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0
    max_failures: int = 3
    """How often training is taken up again after a worker or node was lost."""
    hang_minutes: float = 30.0
    """A training process whose step, check included, takes longer prints its stacks and ends; 0 = never."""

    def __post_init__(self) -> None:
        if self.min_workers is not None and not 1 <= self.min_workers <= self.workers:
            raise ZseError(f"cluster.min_workers must be 1 to cluster.workers ({self.workers}), got {self.min_workers}")
