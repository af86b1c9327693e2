"""Batches read ahead, CPU seconds, means of losses between two points of the log, and the watchdog."""

from __future__ import annotations

import faulthandler
import queue
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import torch

from zse_model.fit.config import TrainConfig
from zse_model.fit.context import BatchSource, WorkerContext
from zse_model.methods.base import TrainBatch


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


class CpuClock:
    """CPU seconds of this process since the clock was made, all threads, and their sum over the workers."""

    def __init__(self, context: WorkerContext) -> None:
        self.context, self.start = context, time.process_time()

    def all_workers(self) -> float:
        mine = torch.tensor([time.process_time() - self.start], dtype=torch.float64, device=self.context.device)
        return self.context.total(mine).item()


class Budget:
    """How many steps a budget in CPU minutes is worth, from the rate of the steps of the warm-up."""

    def __init__(self, config: TrainConfig, clock: CpuClock) -> None:
        assert config.minutes is not None
        self.seconds, self.checks, self.clock = config.minutes * 60, config.checks, clock
        self.skipped = max(config.warmup // 4, 1)
        """Steps that are not measured: the first ones pay for allocation."""
        self.measured = max(config.warmup, 8)
        self.since = clock.all_workers()

    def total(self, done: int, check_seconds: float) -> int | None:
        """Steps of the whole run, once enough of them are done; CPU seconds of each check are set aside."""
        if done == self.skipped:
            self.since = self.clock.all_workers()
        if done < self.measured:
            return None
        rate = (self.clock.all_workers() - self.since) / (done - self.skipped)
        left = self.seconds - self.clock.all_workers() - self.checks * check_seconds
        return done + max(int(left / rate), 0)


class Window:
    """Means of the losses between two log points, pictures per second of wall time, and the share of it that this
    worker waited for batches."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.steps, self.images, self.waited, self.since, self.lr = 0, 0, 0.0, time.perf_counter(), 0.0

    def fetch(self, batches: Iterator[TrainBatch]) -> TrainBatch:
        """The next batch; the time until it is there counts as waited."""
        asked = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - asked
        return batch

    def add(self, losses: dict[str, float], images: int, lr: float) -> None:
        """One step: its mean losses, its pictures and its learning rate."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps, self.images, self.lr = self.steps + 1, self.images + images, lr

    def due(self, done: int, total: int | None) -> bool:
        """About 200 points a run, and its last step."""
        return total is not None and (done % max(total // 200, 1) == 0 or done == total)

    def drain(self) -> dict[str, float]:
        """The means since the last call, and the learning rate of the last step."""
        seconds = max(time.perf_counter() - self.since, 1e-9)
        means = {f"train/{name}": value / self.steps for name, value in self.sums.items()}
        rates = {"images_per_second": self.images / seconds, "wait_share": self.waited / seconds, "lr": self.lr}
        self.__init__()
        return means | {f"train/{name}": value for name, value in rates.items()}


@contextmanager
def watchdog(patience: float) -> Iterator[Callable[[], None]]:
    """Yield a function. Unless it is called again within `patience` seconds the process ends, with the stacks of its
    threads on stderr: nothing else ends a worker that hangs in a collective. 0 = no limit."""

    def alive() -> None:
        if patience and sys.__stderr__:
            faulthandler.dump_traceback_later(patience, exit=True, file=sys.__stderr__)

    try:
        yield alive
    finally:
        faulthandler.cancel_dump_traceback_later()
