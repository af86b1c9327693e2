"""Implement the WorkerContext of `zse_model.fit`: for a plain process, and for a worker of Ray Train.

`workers` creates the contexts.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.collective
import ray.util
import torch
import torch.distributed
from ray.train.torch import get_device, prepare_model
from torch import Tensor, nn

from pipelines.encode.device import assigned_device
from pipelines.runtime import logs
from pipelines.workspace.states import keep_state, last_state, state_copy
from zse_model.fit import (
    LocalContext,
)

Event = dict[str, float]


class ProcessContext(LocalContext):
    """One plain process. States are kept in the training's folder, which may be a URL."""

    def __init__(self, training: str, on_event: Callable[[Event], None]) -> None:
        super().__init__(None, on_event, assigned_device())
        self.training, self.terminated = training, False

    @contextmanager
    def restore(self) -> Iterator[Path | None]:
        with state_copy(self.training, last_state(self.training)) as folder:
            yield folder

    def report(self, metrics: Event, state: Path | None) -> None:
        if state is not None:
            keep_state(self.training, state)

    @contextmanager
    def heeding_sigterm(self) -> Iterator[None]:
        """On SIGTERM, let the training keep its state and return. Other threads than the main one change nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def terminate(*_: Any) -> None:
            self.terminated = True

        before = signal.signal(signal.SIGTERM, terminate)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def leaving(self) -> bool:
        return self.terminated


PREEMPTION_CHECK = 5.0  # s between checks; clouds announce a preemption at least half a minute before


class RayContext(ProcessContext):
    """A worker of Ray Train."""

    def __init__(self, training: str, journal: Any, put: Callable[[Event], None]) -> None:
        """journal: the actor `workers.Journal`. put: sets gauges."""
        super().__init__(training, journal.put.remote)
        place = ray.train.get_context()
        self.rank, self.world_size = place.get_world_rank(), place.get_world_size()
        self.device = get_device()
        self.put, self.checked = put, time.monotonic()

    @contextmanager
    def restore(self) -> Iterator[Path | None]:
        """A copy of the last state. Rank 0 chooses it, so that all workers restore the same one."""
        latest = last_state(self.training) if self.rank == 0 else None
        with state_copy(self.training, ray.train.collective.broadcast_from_rank_zero(latest)) as folder:
            yield folder

    def wrap(self, module: nn.Module) -> nn.Module:
        return prepare_model(module)

    def total(self, value: Tensor) -> Tensor:
        if self.world_size > 1:
            torch.distributed.all_reduce(value)
        return value

    def due(self) -> bool:
        """Not in every step: `leaving` is a barrier of 10 ms."""
        return time.monotonic() - self.checked > PREEMPTION_CHECK

    def leaving(self) -> bool:
        """Whether a node of the workers will be preempted."""
        self.checked = time.monotonic()
        return ray.train.get_preemption_info() is not None

    def log(self, event: Event) -> None:
        """Every worker sets its gauge of waiting time. Rank 0 alone reports the training's metrics."""
        if "step" in event:
            logs.about(step=event["step"])
            logs.log("training", event)
        if "train/wait_share" in event:
            self.put({"zse_wait_share": event["train/wait_share"]})
            if self.rank == 0:
                self.put({"zse_images_per_second": event["train/images_per_second"]})
        if self.rank == 0 or "step" not in event:
            super().log(event)
