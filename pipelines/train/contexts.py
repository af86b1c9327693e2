"""What a worker of a training is to `zse_model.fit`: a plain process, or a worker of Ray Train."""

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
    """One plain process. States are kept in the training's folder, wherever that is."""

    def __init__(self, training: str, on_event: Callable[[Event], None]) -> None:
        super().__init__(None, on_event, assigned_device())
        self.training, self.told = training, False

    @contextmanager
    def restore(self) -> Iterator[Path | None]:
        with state_copy(self.training, last_state(self.training)) as folder:
            yield folder

    def report(self, metrics: Event, state: Path | None) -> None:
        if state is not None:
            keep_state(self.training, state)

    @contextmanager
    def heeding_sigterm(self) -> Iterator[None]:
        """On SIGTERM the training keeps its state and returns."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def tell(*_: Any) -> None:
            self.told = True

        before = signal.signal(signal.SIGTERM, tell)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def leaving(self) -> bool:
        return self.told


NOTICED_EVERY = 5.0  # s; a machine that is taken away says so half a minute or more before


class RayContext(ProcessContext):
    """A worker of Ray Train."""

    def __init__(self, training: str, journal: Any, put: Callable[[Event], None]) -> None:
        """put: sets gauges."""
        super().__init__(training, journal.put.remote)
        place = ray.train.get_context()
        self.rank, self.world_size = place.get_world_rank(), place.get_world_size()
        self.device = get_device()
        self.put, self.asked = put, time.monotonic()

    @contextmanager
    def restore(self) -> Iterator[Path | None]:
        """The same on every worker, whatever is written meanwhile."""
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
        """Asking Ray is a barrier of 10 ms: not done in every step."""
        return time.monotonic() - self.asked > NOTICED_EVERY

    def leaving(self) -> bool:
        """Whether a node of the workers is about to go."""
        self.asked = time.monotonic()
        return ray.train.get_preemption_info() is not None

    def log(self, event: Event) -> None:
        """Every worker shows how long it waits; of the training the first one speaks."""
        if "step" in event:
            logs.about(step=event["step"])
            logs.log("training", event)
        if "train/wait_share" in event:
            self.put({"zse_wait_share": event["train/wait_share"]})
            if self.rank == 0:
                self.put({"zse_images_per_second": event["train/images_per_second"]})
        if self.rank == 0 or "step" not in event:
            super().log(event)
