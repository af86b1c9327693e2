"""The `cluster` section of an experiment: the workers of a training and their resources."""

from __future__ import annotations

from dataclasses import dataclass

from zse_model.errors import ZseError


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    __pydantic_config__ = {"extra": "forbid"}

    workers: int = 2
    """Training workers (DDP ranks); 0 = train in this process, without Ray."""
    min_workers: int | None = None
    """Start with this many workers if there is no room for all, and add workers as nodes join. The batch of a step
    stays that of `workers`. None = wait for all."""
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0
    max_failures: int = 3
    """Restarts of the training after the loss of a worker or node."""
    hang_minutes: float = 30.0
    """Longest step, including a check. A training process that takes longer prints its stacks and ends. 0 = no
    limit."""

    def __post_init__(self) -> None:
        if self.min_workers is not None and not 1 <= self.min_workers <= self.workers:
            raise ZseError(f"cluster.min_workers must be 1 to cluster.workers ({self.workers}), got {self.min_workers}")
