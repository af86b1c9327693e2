"""What a resumed training continues from: its state, its weights and the best ones so far, its optimizer."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zse_model.checkpoint import fill, fitting, read_tensors
from zse_model.errors import ZseError

STATE_FILE = "state.json"
WEIGHTS_FILE, BEST_FILE, OPTIMIZER_FILE = "model.safetensors", "best.safetensors", "optimizer.pt"


class TrainingError(ZseError):
    """What every worker raises at the same step, and would in every attempt."""


class NonFiniteLossError(TrainingError):
    """The loss is NaN or infinite, and nothing was updated with it; or the weights are."""


class SelectionError(TrainingError):
    """The metric that checkpoints are chosen by is missing, NaN or infinite."""


@dataclass
class FitState:
    """What a resumed run continues from, besides weights and optimizer."""

    step: int = 0
    total: int | None = None
    """Steps of the whole run; None until the warm-up of a run by minutes has measured its rate."""
    best: float | None = None
    best_step: int = 0
    cpu_seconds: float = 0.0
    """Of all workers, of the attempts that got as far as this state."""
    check_seconds: float = 0.0
    """CPU seconds of the first check, all workers: what a budget in minutes sets aside for each."""
    images: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    """Every logged point, in order: {"step": ..., name: value}."""

    @property
    def metrics(self) -> set[str]:
        """Names of what the checks so far gave. A point of the history with a loss is no check."""
        return {name for event in self.history if "train/loss" not in event for name in event} - {"step"}


@dataclass
class Best:
    """The weights that the checks so far choose by one metric, the higher the better; of equal ones the first."""

    metric: str
    weights: dict[str, Tensor] = field(default_factory=dict)

    def require(self, known: Collection[str]) -> None:
        """Raise SelectionError unless the metric is among `known`."""
        if self.metric not in known:
            raise SelectionError(f"select_by: there is no metric {self.metric!r}. Metrics of a check: {sorted(known)}")

    def offer(self, method: nn.Module, state: FitState, metrics: dict[str, float] | None) -> None:
        """Copy the weights of `state.step` if they are the best so far. None = nothing is measured: the last are.

        Raises SelectionError for a missing metric and a value that is not finite.
        """
        value = None if metrics is None else self._value(metrics, state.step)
        if value is None or state.best is None or value > state.best:
            state.best, state.best_step = value, state.step
            self.weights = copied(method)

    def _value(self, metrics: dict[str, float], step: int) -> float:
        self.require(metrics.keys())
        value = float(metrics[self.metric])
        if not math.isfinite(value):
            raise SelectionError(
                f"{self.metric} at step {step} is {value}: no weights can be chosen by it. What is searched to choose "
                "by needs sketches and photos of the same classes"
            )
        return value


def copied(method: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights on the CPU."""
    return {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in method.state_dict().items()}


def save(folder: Path, method: nn.Module, optimizer: torch.optim.Optimizer, state: FitState, best: Best) -> None:
    """Write the files of a state to `folder`."""
    save_file(copied(method), folder / WEIGHTS_FILE)
    save_file(best.weights, folder / BEST_FILE)
    torch.save(optimizer.state_dict(), folder / OPTIMIZER_FILE)
    (folder / STATE_FILE).write_text(json.dumps(vars(state)))


def load(folder: Path, method: nn.Module, optimizer: torch.optim.Optimizer, best: Best) -> FitState:
    """Fill the network, its optimizer and `best` from a folder that `save` wrote. Raises ZseError for a damaged one."""
    fill(method, read_tensors(folder / WEIGHTS_FILE), folder / WEIGHTS_FILE)
    try:
        moments = torch.load(folder / OPTIMIZER_FILE, weights_only=True, map_location="cpu")
        optimizer.load_state_dict(moments)
    except torch.OutOfMemoryError:  # the file is whole
        raise
    except Exception as error:  # torch raises a type of error for each part of the file
        raise ZseError(
            f"{folder / OPTIMIZER_FILE} is missing, cut or damaged, or of another network ({type(error).__name__}). "
            "Restore it, or delete its folder: the training then resumes from the state before it, or starts again"
        ) from error
    state = FitState(**json.loads((folder / STATE_FILE).read_text()))
    if state.best is not None and not math.isfinite(state.best):  # kept by an earlier version: nothing exceeds it
        state.best, best.weights = None, copied(method)
    else:
        best.weights = fitting(method, read_tensors(folder / BEST_FILE), folder / BEST_FILE)
    return state
