"""The training loop. It knows neither the method (it sums named losses) nor the cluster (it has a `WorkerContext`).

Everything a step depends on is a function of (config, step, rank, world size): the batch, the learning rate, the random
numbers of dropout. So a run that was killed and resumed ends with the weights of one that was not.
"""

from __future__ import annotations

import faulthandler
import itertools
import json
import math
import queue
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from zse_model.backbones import Backbone
from zse_model.checkpoint import fill, fitting, read_tensors
from zse_model.errors import ZseError
from zse_model.gather import gathering
from zse_model.methods.base import RetrievalMethod, TrainBatch


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long and how fast. Exactly one of `steps` and `minutes` is set."""

    __pydantic_config__ = {"extra": "forbid"}

    steps: int | None = None
    minutes: float | None = None
    """Budget in CPU minutes, summed over workers and their threads; a short warm-up turns it into steps."""
    batch_size: int = 16
    """Items a worker and forward pass; an item is two sketches and two photos."""
    accumulate: int = 1
    """Batches a worker and step, whose gradients are averaged. Pictures are compared within one of them."""
    gather: bool = False
    """Compare the embeddings of a batch with those of all workers, in contrast and in crossatnet's triplets: the same
    then for any number of workers, if the backbone has no batch norm (docs/pipeline.md)."""
    lr: float = 5e-4
    backbone_lr: float = 1.0
    """Of the backbone, as a share of lr."""
    weight_decay: float = 1e-2
    warmup: int = 20
    """Steps of linear warm-up; then a cosine to 0."""
    schedule: Literal["cosine", "constant"] = "cosine"
    clip: float = 0.0
    """Largest norm of the gradient; 0 = no limit."""
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    """Compile the forward pass by torch.compile, which takes a C++ compiler, or on a GPU Triton, and minutes."""
    activation_checkpointing: bool = False
    """Keep a transformer's activations between its blocks only, and compute the others again: less memory, the same
    weights, a third more computing."""
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
        """A local folder with the last state that `report` was given, or None. Nobody else writes to it meanwhile."""
        ...

    def report(self, metrics: dict[str, float], state: Path | None) -> None:
        """Every worker calls it equally often; `state` is set on rank 0 and is kept, whole, before it returns."""
        ...

    def due(self) -> bool:
        """Whether this worker would have all of them ask `leaving` now. Once a step, without waiting for others."""
        ...

    def leaving(self) -> bool:
        """Whether the training was told to go. Every worker asks after a step in which one was `due`, and all hear the
        same."""
        ...

    def log(self, event: dict[str, float]) -> None:
        """Progress, for people and tracking; may be lost."""
        ...


class LocalContext:
    """One plain process. States go to `folder`, each into a folder of its own, `state-<number>`, of which the highest
    counts; `on_event` hears of progress."""

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


STATE_FILE = "state.json"
WEIGHTS_FILE, BEST_FILE, OPTIMIZER_FILE = "model.safetensors", "best.safetensors", "optimizer.pt"


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


class TrainingError(ZseError):
    """What every worker raises at the same step, and would in every attempt."""


class NonFiniteLossError(TrainingError):
    """The loss is NaN or infinite, and nothing was updated with it; or the weights are."""


class SelectionError(TrainingError):
    """The metric that checkpoints are chosen by is missing, or is no number."""


def fit(
    method: RetrievalMethod,
    source: BatchSource,
    context: WorkerContext,
    config: TrainConfig,
    *,
    validate: Callable[[RetrievalMethod], dict[str, float]] | None = None,
    calibrate: Callable[[RetrievalMethod], None] | None = None,
    select_by: str = "selection/mAP_all",
    prepare_steps: int = 50,
    patience: float = 0.0,
    workers: int | None = None,
) -> FitState:
    """Train `method` in place, resuming from what `context` restores; the last and the best weights are reported.

    A step's batch is that of `workers` workers, by default as many as there are, of `config.accumulate` shares each.
    Where there are fewer workers, each computes the shares of several, one after the other: the weights are the same up
    to the order of sums.

    Told to go (`context.leaving`), it reports the state of the step that it is at and returns: `step` is below `total`.

    `validate` gives metrics of the current weights (on pseudo-unseen classes); it runs on rank 0 at each of
    `config.checks` checks, and once before the first step. `select_by` is the one of them that the best weights are
    chosen by, the higher the better. Without `validate` the last weights are the best. `calibrate` gets
    the best weights when all steps are done, on rank 0, and may set buffers of theirs. `patience`: a step, check
    included, that takes more seconds ends the process, with the stacks of its threads on stderr; 0 = none does.
    Raises NonFiniteLossError, on every worker and before the update, naming the step, and where a check finds weights
    that are not finite; SelectionError, on every worker, where `validate` does not give `select_by`, before the first
    step, or gives a value that is not finite.
    """
    device = context.device
    method.to(device)
    if config.activation_checkpointing:
        method.checkpoint_activations()
    if config.compile:
        method.compile()  # in place: names of weights stay
    clock = _CpuClock(context)
    optimizer = _optimizer(method, config)
    state, best_weights = FitState(), None
    shares = (workers or context.world_size) * config.accumulate
    mine = range(context.rank, shares, context.world_size)
    if not mine or (config.gather and shares % context.world_size):
        also = ", with train.gather a divisor of it" if config.gather else ""
        raise ZseError(f"A batch of {shares} shares takes at most as many workers{also}; got {context.world_size}")
    with context.restore() as folder:
        if folder is None:
            method.eval()
            positions = itertools.product(range(prepare_steps), mine)
            method.measure_start((source.batch(i, share, shares).to(device) for i, share in positions), context.total)
        else:
            state, best_weights = _load(folder, method, optimizer)
    known = {name for event in state.history if _is_check(event) for name in event} - {"step"}
    if known:  # resumed: what the checks so far gave is what there is to choose by
        _check_metric(select_by, known)
    spent_before = state.cpu_seconds
    if config.steps is not None:
        state.total = config.steps

    def keep(metrics: dict[str, float]) -> None:
        """Hand the state over."""
        if context.rank != 0:
            return context.report(metrics, None)
        with tempfile.TemporaryDirectory() as temporary:
            context.report(metrics, _save(Path(temporary), method, optimizer, state, best_weights))

    def check(step: int) -> None:
        """Validate, remember the best, hand the state over, then tell of it: what is told twice was not kept."""
        nonlocal best_weights
        before = clock.all_workers()
        state.cpu_seconds = spent_before + before
        metrics: dict[str, float] = {}
        value: float | None = None
        with _agreed(context):
            if context.rank == 0 and step and not _finite(method):
                raise NonFiniteLossError(f"The weights after step {step} are not finite. Lower train.lr?")
            if context.rank == 0 and validate is not None:
                method.eval()
                with torch.no_grad():
                    metrics = validate(method)
                value = _selected(metrics, select_by, step)
            if context.rank == 0:
                if value is None or state.best is None or value > state.best:
                    state.best, state.best_step = value, step
                    best_weights = _weights(method)
                if step == state.total and best_weights is not None:
                    last = _weights(method)
                    method.load_state_dict(best_weights)
                    method.eval()
                    method.conclude(source.batch(i, context.rank, shares).to(device) for i in itertools.count())
                    if calibrate is not None:
                        calibrate(method)
                    best_weights = _weights(method)
                    method.load_state_dict(last)
                state.history.append({"step": step, **metrics})
        if step == 0:
            state.check_seconds = clock.all_workers() - before
        keep(metrics)
        if context.rank == 0:
            context.log({"step": step, "total": state.total or 0, **metrics})

    if state.step == 0 and not state.history:
        check(0)
    model = context.wrap(method)
    first = itertools.repeat(0) if config.overfit else itertools.count(state.step)
    batches = prefetch(source, ((step, share) for step in first for share in mine), shares)
    images = 4 * config.batch_size * shares  # a step
    window = _Window()
    measured_from = clock.all_workers()
    with _watchdog(patience) as alive:
        for step in range(state.step, 10**12):
            if state.total is not None and step >= state.total:
                break
            alive()
            lr = _learning_rate(config, step, state.total)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["scale"]
            method.train()
            optimizer.zero_grad()
            parts: list[dict[str, Tensor]] = []
            for share in mine:
                batch = window.fetch(batches).to(device)
                torch.manual_seed(hash((config.seed, step, share)))  # ints hash alike in every process
                with _summing_later(model, share != mine[-1]), gathering(config.gather):
                    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                        losses = model(batch)
                    loss = torch.stack([value.mean() for value in losses.values()]).sum()
                    (loss * context.world_size / shares).backward()  # workers' gradients are averaged
                parts.append({name: v.detach().mean().double() for name, v in {"loss": loss, **losses}.items()})
            # One small all-reduce, read once: every worker learns the mean losses, so each sees a bad one in the same
            # step, and whether any of them asks if the training was told to go.
            mean = torch.stack([torch.stack(list(part.values())) for part in parts]).sum(0)
            *sums, due = context.total(torch.cat([mean, mean.new_full((1,), float(context.due()))])).tolist()
            means = [value / shares for value in sums]
            if not math.isfinite(means[0]):
                raise NonFiniteLossError(f"The loss of step {step} is {means[0]}; no update was made. Lower train.lr?")
            if config.clip:
                nn.utils.clip_grad_norm_(method.parameters(), config.clip)
            optimizer.step()

            done = state.step = step + 1
            state.images += images
            window.add(dict(zip(parts[0], means, strict=True)), images)
            if state.total is None and done == max(config.warmup // 4, 1):
                measured_from = clock.all_workers()  # the first steps pay for allocation
            if state.total is None and done >= max(config.warmup, 8):
                rate = (clock.all_workers() - measured_from) / (done - max(config.warmup // 4, 1))
                assert config.minutes is not None
                left = config.minutes * 60 - clock.all_workers() - config.checks * state.check_seconds
                state.total = done + max(int(left / rate), 0)
                if done not in _check_steps(config, state.total):
                    check(done)  # the number of steps is a measurement: it is kept before anything depends on it
            if window.due(done, state.total):
                event = {"step": done, **window.drain(), "train/lr": lr}
                state.history.append(event)
                context.log({**event, "total": state.total or 0})
            if done == state.total:
                batches.close()  # its thread reads the same source, which the last check may read too
            if state.total is not None and done in _check_steps(config, state.total):
                check(done)
            elif state.total is not None and due and context.leaving():
                state.cpu_seconds = spent_before + clock.all_workers()
                keep({})
                break
    batches.close()
    return state


@contextmanager
def _agreed(context: WorkerContext) -> Iterator[None]:
    """What one worker raises inside ends all of them: the others with a TrainingError, instead of a wait for it."""
    error: Exception | None = None
    try:
        yield
    except Exception as found:
        error = found
    if context.total(torch.tensor([float(error is not None)], device=context.device)).item():
        raise error or TrainingError("Another worker cannot go on: its error says why")


def _selected(metrics: dict[str, float], select_by: str, step: int) -> float:
    """The value of a check that weights are chosen by. Raises SelectionError."""
    _check_metric(select_by, metrics.keys())
    value = float(metrics[select_by])
    if not math.isfinite(value):
        raise SelectionError(
            f"{select_by} at step {step} is {value}: no weights can be chosen by it. What is searched to choose by "
            "needs sketches and photos of the same classes"
        )
    return value


def _check_metric(select_by: str, known: Collection[str]) -> None:
    if select_by not in known:
        raise SelectionError(f"select_by: there is no metric {select_by!r}. Metrics of a check: {sorted(known)}")


def _is_check(event: dict[str, float]) -> bool:
    """Whether a point of the history is that of a check; the others are means of losses."""
    return "train/loss" not in event


def _finite(method: nn.Module) -> bool:
    return all(bool(value.isfinite().all()) for value in method.state_dict().values())


@contextmanager
def _watchdog(patience: float) -> Iterator[Callable[[], None]]:
    """To be called at least every so many seconds, or the process ends: a worker that hangs in a collective is ended by
    nobody else. The stacks of its threads go to stderr."""

    def alive() -> None:
        if patience and sys.__stderr__:
            faulthandler.dump_traceback_later(patience, exit=True, file=sys.__stderr__)

    try:
        yield alive
    finally:
        faulthandler.cancel_dump_traceback_later()


def _summing_later(model: nn.Module, later: bool) -> AbstractContextManager[None]:
    """Gradients of what is computed inside stay on their worker, to be summed with those of the next batch."""
    return model.no_sync() if later and isinstance(model, DistributedDataParallel) else nullcontext()


def prefetch(
    source: BatchSource, positions: Iterator[tuple[int, int]], shares: int, *, depth: int = 2
) -> Generator[TrainBatch, None, None]:
    """The batches of (step, share), read by a thread `depth` ahead."""
    ready: queue.Queue[TrainBatch | BaseException] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(item: TrainBatch | BaseException) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.2)
            except queue.Full:
                continue

    def read() -> None:
        try:
            for step, share in positions:
                if stop.is_set():
                    break
                put(source.batch(step, share, shares))
        except BaseException as error:  # handed to the consumer, who raises it
            put(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()  # left inside a decoder when the interpreter ends, it would abort the process


class _CpuClock:
    """CPU seconds of this process since it was made, all threads, and their sum over the workers."""

    def __init__(self, context: WorkerContext) -> None:
        self.context, self.start = context, time.process_time()

    def all_workers(self) -> float:
        mine = torch.tensor([time.process_time() - self.start], dtype=torch.float64, device=self.context.device)
        return self.context.total(mine).item()


class _Window:
    """Means of the losses between two log points, pictures per second of wall time, and the share of it that this
    worker waited for batches."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.steps, self.images, self.waited, self.since = 0, 0, 0.0, time.perf_counter()

    def fetch(self, batches: Iterator[TrainBatch]) -> TrainBatch:
        """The next batch; the time until it is there counts as waited."""
        asked = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - asked
        return batch

    def add(self, losses: dict[str, float], images: int) -> None:
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps, self.images = self.steps + 1, self.images + images

    def due(self, done: int, total: int | None) -> bool:
        """About 200 points a run, and its last step."""
        return total is not None and (done % max(total // 200, 1) == 0 or done == total)

    def drain(self) -> dict[str, float]:
        seconds = max(time.perf_counter() - self.since, 1e-9)
        means = {f"train/{name}": value / self.steps for name, value in self.sums.items()}
        means["train/images_per_second"] = self.images / seconds
        means["train/wait_share"] = self.waited / seconds
        self.__init__()
        return means


def _check_steps(config: TrainConfig, total: int) -> set[int]:
    return {max(1, round(total * (i + 1) / config.checks)) for i in range(config.checks)}


def _learning_rate(config: TrainConfig, step: int, total: int | None) -> float:
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if total is None or config.schedule == "constant":
        return config.lr
    progress = (step - config.warmup) / max(total - config.warmup, 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def _optimizer(method: RetrievalMethod, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; no decay on biases, norms and single tokens; backbones at their own share of the learning rate."""
    backbone = {id(p) for module in method.modules() if isinstance(module, Backbone) for p in module.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for p in (p for p in method.parameters() if p.requires_grad):
        groups.setdefault((id(p) in backbone, p.squeeze().dim() > 1), []).append(p)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "scale": config.backbone_lr if in_backbone else 1.0,
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            for (in_backbone, decays), parameters in groups.items()
        ],
        lr=config.lr,
        fused=True,
    )


def _weights(method: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in method.state_dict().items()}


def _save(
    folder: Path, method: nn.Module, optimizer: torch.optim.Optimizer, state: FitState, best: dict[str, Tensor] | None
) -> Path:
    weights = _weights(method)
    save_file(weights, folder / WEIGHTS_FILE)
    save_file(best or weights, folder / BEST_FILE)
    torch.save(optimizer.state_dict(), folder / OPTIMIZER_FILE)
    (folder / STATE_FILE).write_text(json.dumps(vars(state)))
    return folder


def _load(
    folder: Path, method: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[FitState, dict[str, Tensor] | None]:
    fill(method, read_tensors(folder / WEIGHTS_FILE), folder / WEIGHTS_FILE)
    try:
        moments = torch.load(folder / OPTIMIZER_FILE, weights_only=True, map_location="cpu")
        optimizer.load_state_dict(moments)
    except torch.OutOfMemoryError:  # the file is whole
        raise
    except Exception as error:  # torch has as many as a file has parts
        raise ZseError(
            f"{folder / OPTIMIZER_FILE} is missing, cut or damaged, or of another network ({type(error).__name__}). "
            "Restore it, or delete its folder: the training then goes on from the state before it, or begins anew"
        ) from error
    raw: dict[str, Any] = json.loads((folder / STATE_FILE).read_text())
    state = FitState(**raw)
    if state.best is not None and not math.isfinite(state.best):  # kept by an earlier version: nothing exceeds it
        state.best = None
    return state, fitting(method, read_tensors(folder / BEST_FILE), folder / BEST_FILE)
