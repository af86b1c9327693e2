"""The place of one worker in a training, and where its batches come from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from zse_model.fit.state import STATE_FILE
from zse_model.methods.base import TrainBatch


class BatchSource(Protocol):
    """Training batches by position, the same at any time and for any reader."""

    def batch(self, step: int, rank: int, world_size: int) -> TrainBatch: ...


class WorkerContext(Protocol):
    """The place of one worker in a training: alone in a process, or one of many on a cluster."""

    rank: int
    world_size: int
    device: torch.device

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module itself, or DistributedDataParallel around it."""
        ...

    def total(self, value: Tensor) -> Tensor:
        """The sum over all workers, in place; every worker must call it."""
        ...

    def restore(self) -> AbstractContextManager[Path | None]:
        """A local folder with the last state that `report` got, or None. No other process writes to it meanwhile."""
        ...

    def report(self, metrics: dict[str, float], state: Path | None) -> None:
        """Keep `state`, which is set on rank 0, as a whole before returning. Every worker calls it equally often."""
        ...

    def due(self) -> bool:
        """Whether this worker wants all workers to call `leaving` now. Called once a step; waits for no other."""
        ...

    def leaving(self) -> bool:
        """Whether the training must end now, such as by SIGTERM; the same answer on every worker.

        Every worker calls it after a step in which one of them was `due`.
        """
        ...

    def log(self, event: dict[str, float]) -> None:
        """Progress, for people and tracking; may be lost."""
        ...


class LocalContext:
    """One plain process. `on_event` gets every event of progress.

    Each state is a folder of its own in `folder`, `state-<number>`. The highest number is the last state.
    """

    rank = 0
    world_size = 1

    def __init__(
        self,
        folder: Path | None = None,
        on_event: Callable[[dict[str, float]], None] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.folder, self.on_event = folder, on_event

    def wrap(self, module: nn.Module) -> nn.Module:
        return module

    def total(self, value: Tensor) -> Tensor:
        return value

    @contextmanager
    def restore(self) -> Iterator[Path | None]:
        whole = self._states()
        if whole or self.folder is None:
            yield whole[-1] if whole else None
        else:  # as earlier versions kept it: one state, its files in the folder itself
            yield self.folder if (self.folder / STATE_FILE).exists() else None

    def report(self, metrics: dict[str, float], state: Path | None) -> None:
        if state is None or self.folder is None:
            return
        before = self._states()
        number = int(before[-1].name.removeprefix("state-")) + 1 if before else 0
        partial, whole = self.folder / f"partial-{number:08d}", self.folder / f"state-{number:08d}"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(state, partial)
        partial.rename(whole)  # from here on it is the state, before it is nothing
        for old in before:
            old.rename(self.folder / old.name.replace("state", "partial"))
        for left in self.folder.glob("partial-" + 8 * "[0-9]"):
            shutil.rmtree(left)

    def _states(self) -> list[Path]:
        """Whole ones, the last at the end."""
        return [] if self.folder is None else sorted(self.folder.glob("state-" + 8 * "[0-9]"))

    def due(self) -> bool:
        return True

    def leaving(self) -> bool:
        return False

    def log(self, event: dict[str, float]) -> None:
        if self.on_event is not None:
            self.on_event(event)
