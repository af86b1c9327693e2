"""`fit`: restore, step, check, keep."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from zse_model.errors import ZseError
from zse_model.fit.config import TrainConfig
from zse_model.fit.context import BatchSource, WorkerContext
from zse_model.fit.optimisation import learning_rate, make_optimizer
from zse_model.fit.progress import Budget, CpuClock, Window, prefetch, watchdog
from zse_model.fit.state import Best, FitState, NonFiniteLossError, TrainingError, copied, load, save
from zse_model.gather import gathering
from zse_model.methods.base import RetrievalMethod, TrainBatch
from zse_model.precision import allow_tf32

Validate = Callable[[RetrievalMethod], dict[str, float]]


def fit(
    method: RetrievalMethod,
    source: BatchSource,
    context: WorkerContext,
    config: TrainConfig,
    *,
    validate: Validate | None = None,
    calibrate: Callable[[RetrievalMethod], None] | None = None,
    select_by: str = "selection/mAP_all",
    prepare_steps: int = 50,
    patience: float = 0.0,
    workers: int | None = None,
) -> FitState:
    """Train `method` in place and return the state of its last step. `context` gets the last and the best weights.

    Resumes from what `context` restores; a new training first lets the method measure `prepare_steps` steps' batches.

    A step's batch is that of `workers` workers, by default as many as there are, of `config.accumulate` shares each.
    Where there are fewer workers, each computes the shares of several, one after the other: the weights are the same up
    to the order of sums.

    If `context.leaving`, it keeps the state of the current step and returns: `step` is then below `total`.

    validate: gives metrics of the current weights, on pseudo-unseen classes. It runs on rank 0 before the first step
    and at each of `config.checks` checks. None = the last weights are the best.
    calibrate: gets the best weights after the last step, on rank 0, and may set buffers of theirs.
    select_by: the metric of `validate` that chooses the best weights, the higher the better.
    patience: seconds; a step, its check included, that takes longer ends the process, with the stacks of its threads
    on stderr. 0 = no limit.

    Raises NonFiniteLossError, on every worker and before the update, naming the step, and where a check finds weights
    that are not finite; SelectionError, on every worker, where `validate` does not give `select_by`, before the first
    step, or gives a value that is not finite; ZseError where there are more workers than shares.
    """
    trainer = Trainer(
        method, source, context, config, validate=validate, calibrate=calibrate, best=Best(select_by), workers=workers
    )
    trainer.restore(prepare_steps)
    trainer.run(patience)
    return trainer.state


class Trainer:
    """One worker's part of a training."""

    model: nn.Module
    """The method as `context` wraps it; `window` begins with it, when the first step is due."""
    window: Window

    def __init__(
        self,
        method: RetrievalMethod,
        source: BatchSource,
        context: WorkerContext,
        config: TrainConfig,
        *,
        validate: Validate | None,
        calibrate: Callable[[RetrievalMethod], None] | None,
        best: Best,
        workers: int | None,
    ) -> None:
        self.method, self.source, self.context, self.config = method, source, context, config
        self.validate, self.calibrate, self.best = validate, calibrate, best
        self.shares = (workers or context.world_size) * config.accumulate
        """Batches of a step, all workers together."""
        self.mine = range(context.rank, self.shares, context.world_size)
        if not self.mine or (config.gather and self.shares % context.world_size):
            also = ", with train.gather a divisor of it" if config.gather else ""
            raise ZseError(
                f"A batch of {self.shares} shares takes at most as many workers{also}; got {context.world_size}"
            )
        method.to(context.device)
        if config.activation_checkpointing:
            method.checkpoint_activations()
        if config.compile:
            method.compile()  # in place: names of weights stay
        self.optimizer = make_optimizer(method, config)
        self.clock, self.state, self.spent_before = CpuClock(context), FitState(), 0.0

    @property
    def done(self) -> bool:
        return self.state.total is not None and self.state.step >= self.state.total

    def restore(self, prepare_steps: int) -> None:
        """Resume from the last state, or measure the start."""
        with self.context.restore() as folder:
            if folder is None:
                self.method.eval()
                positions = itertools.product(range(prepare_steps), self.mine)
                batches = (self._batch(*position) for position in positions)
                self.method.measure_start(batches, self.context.total, shares=len(self.mine))
            else:
                self.state = load(folder, self.method, self.optimizer, self.best)
        if known := self.state.metrics:  # resumed: what the checks so far gave is what there is to choose by
            self.best.require(known)
        self.spent_before = self.state.cpu_seconds
        if self.config.steps is not None:
            self.state.total = self.config.steps

    def run(self, patience: float) -> None:
        """All steps and checks that are left, or those before the training has to end."""
        if not self.state.history:
            self.check()
        self.model, self.window = self.context.wrap(self.method), Window()
        budget = Budget(self.config, self.clock) if self.state.total is None else None
        # Closing waits for a read. An error must not wait: nothing closes the batches then.
        batches = self._batches()
        with watchdog(patience) as alive:
            while not self.done:
                alive()
                due = self.step(batches)
                if budget is not None and self.state.total is None:
                    self._bound(budget)
                self._log_window()
                if self.done:
                    batches.close()  # its thread reads the same source, which the last check may read too
                if self.state.step in self._check_steps():
                    self.check()
                elif self.state.total is not None and due and self.context.leaving():
                    self.state.cpu_seconds = self.spent_before + self.clock.all_workers()
                    self.keep({})
                    break
        batches.close()

    def step(self, batches: Iterator[TrainBatch]) -> bool:
        """One update, on this worker's shares of the batch. Returns whether any worker is `due`."""
        step, config = self.state.step, self.config
        lr = learning_rate(config, step, self.state.total)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        self.method.train()
        self.optimizer.zero_grad()
        allow_tf32(config.precision == "tf32")
        parts = [self._backward(self.window.fetch(batches).to(self.context.device), share) for share in self.mine]
        # One small all-reduce, read once: every worker learns the mean losses, so each sees a bad one in the same step,
        # and whether any worker is due.
        mean = torch.stack([torch.stack(list(part.values())) for part in parts]).sum(0)
        *sums, due = self.context.total(torch.cat([mean, mean.new_full((1,), float(self.context.due()))])).tolist()
        means = dict(zip(parts[0], (value / self.shares for value in sums), strict=True))
        if not math.isfinite(means["loss"]):
            raise NonFiniteLossError(f"The loss of step {step} is {means['loss']}; no update was made. Lower train.lr?")
        if config.clip:
            nn.utils.clip_grad_norm_(self.method.parameters(), config.clip)
        self.optimizer.step()
        allow_tf32(False)  # checks are exact
        images = 4 * config.batch_size * self.shares
        self.state.step, self.state.images = step + 1, self.state.images + images
        self.window.add(means, images, lr)
        return bool(due)

    def check(self) -> None:
        """Validate, choose the best weights, keep the state, then log metrics: what is logged twice was not kept."""
        began = self.clock.all_workers()
        self.state.cpu_seconds = self.spent_before + began
        metrics: dict[str, float] = {}
        with _agreed(self.context):
            if self.context.rank == 0:
                metrics = self._examine()
        if self.state.step == 0:
            self.state.check_seconds = self.clock.all_workers() - began
        self.keep(metrics)
        if self.context.rank == 0:
            self.context.log({"step": self.state.step, "total": self.state.total or 0, **metrics})

    def keep(self, metrics: dict[str, float]) -> None:
        """Report the state."""
        if self.context.rank != 0:
            return self.context.report(metrics, None)
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder), self.method, self.optimizer, self.state, self.best)
            self.context.report(metrics, Path(folder))

    def _batch(self, step: int, share: int) -> TrainBatch:
        return self.source.batch(step, share, self.shares).to(self.context.device)

    def _batches(self) -> Generator[TrainBatch, None, None]:
        """This worker's shares from the current step on, read ahead."""
        steps = itertools.repeat(0) if self.config.overfit else itertools.count(self.state.step)
        return prefetch(self.source, ((step, share) for step in steps for share in self.mine), self.shares)

    def _backward(self, batch: TrainBatch, share: int) -> dict[str, Tensor]:
        """Add a share's part of the gradient; float64 means of its losses, "loss" (their sum) first."""
        torch.manual_seed(hash((self.config.seed, self.state.step, share)))  # ints hash alike in every process
        with _summing_later(self.model, share != self.mine[-1]), gathering(self.config.gather):
            with torch.autocast(self.context.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
                losses = self.model(batch)
            loss = torch.stack([value.mean() for value in losses.values()]).sum()
            (loss * self.context.world_size / self.shares).backward()  # workers' gradients are averaged
        return {name: value.detach().mean().double() for name, value in {"loss": loss, **losses}.items()}

    def _bound(self, budget: Budget) -> None:
        """Turn the budget into a number of steps, once its rate is known."""
        self.state.total = budget.total(self.state.step, self.state.check_seconds)
        if self.state.total is not None and self.state.step not in self._check_steps():
            self.check()  # the number of steps is a measurement: it is kept before anything depends on it

    def _check_steps(self) -> frozenset[int]:
        return check_steps(self.state.total, self.config.checks)

    def _log_window(self) -> None:
        if self.window.due(self.state.step, self.state.total):
            event = {"step": self.state.step, **self.window.drain()}
            self.state.history.append(event)
            self.context.log({**event, "total": self.state.total or 0})

    def _examine(self) -> dict[str, float]:
        """The metrics of the current weights. Chooses the best weights, and after the last step completes them."""
        if self.state.step and not all(bool(value.isfinite().all()) for value in self.method.state_dict().values()):
            raise NonFiniteLossError(f"The weights after step {self.state.step} are not finite. Lower train.lr?")
        metrics: dict[str, float] | None = None
        if self.validate is not None:
            self.method.eval()
            with torch.no_grad():
                metrics = self.validate(self.method)
        self.best.offer(self.method, self.state, metrics)
        if self.done:
            self._complete_best()
        self.state.history.append({"step": self.state.step, **(metrics or {})})
        return metrics or {}

    def _complete_best(self) -> None:
        """Let the method and `calibrate` set buffers of the best weights; the method itself keeps the last ones."""
        last = copied(self.method)
        self.method.load_state_dict(self.best.weights)
        self.method.eval()
        self.method.conclude(self._batch(i, self.context.rank) for i in itertools.count())
        if self.calibrate is not None:
            self.calibrate(self.method)
        self.best.weights = copied(self.method)
        self.method.load_state_dict(last)


@lru_cache(maxsize=1)  # asked in every step: of thousands of checks the set takes milliseconds
def check_steps(total: int | None, checks: int) -> frozenset[int]:
    """The steps after which a training of `total` steps is checked; none while the total is unknown."""
    return frozenset() if total is None else frozenset(max(1, round(total * (i + 1) / checks)) for i in range(checks))


@contextmanager
def _agreed(context: WorkerContext) -> Iterator[None]:
    """An error that one worker raises inside ends all workers: the others raise TrainingError instead of waiting."""
    error: Exception | None = None
    try:
        yield
    except Exception as found:
        error = found
    if context.total(torch.tensor([float(error is not None)], device=context.device)).item():
        raise error or TrainingError("Another worker cannot go on: its error says why")


def _summing_later(model: nn.Module, later: bool) -> AbstractContextManager[None]:
    """Keep the gradients of what is computed inside on their worker, to be summed with those of the next batch."""
    return model.no_sync() if later and isinstance(model, DistributedDataParallel) else nullcontext()
