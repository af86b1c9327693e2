"""Micro-batches: work that arrives together is done together, in one thread.

A network encodes eight drawings in less time than eight times one, and torch uses all cores for one call. So all
work of the model is done by one thread, and the time that it needs for a batch collects the next one.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")
WINDOW = 0.003  # s that a batch waits for more
MOST = 8  # items of a batch: with 16 a drawing takes as much of the CPU (25 ms), and the network 0.3 GB more


@dataclass
class _Job(Generic[Item, Answer]):
    work: Callable[[Sequence[Item]], Sequence[Answer]]
    key: Hashable
    item: Item
    future: Future[Answer] = field(default_factory=Future)


class Batches:
    """Does work in a thread of its own, from `start` to `stop`."""

    def __init__(self, took: Callable[[int], object]) -> None:
        """took: called with the number of items of each batch."""
        self._jobs: queue.Queue[_Job[Any, Any] | None] = queue.Queue()
        self._took = took
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Do what waits, then end; give up after so many seconds."""
        self._jobs.put(None)
        self._thread.join(seconds)

    def submit(
        self, work: Callable[[Sequence[Item]], Sequence[Answer]], item: Item, key: Hashable = None
    ) -> Future[Answer]:
        """The answer to an item. Items of one work with equal keys are done together; without a key, alone.

        A cancelled future is left out, if its work has not begun.
        """
        job = _Job(work, object() if key is None else key, item)
        self._jobs.put(job)
        return job.future

    def _run(self) -> None:
        ended = False
        while not ended:
            jobs = self._collected()
            ended = None in jobs
            groups: dict[Any, list[_Job[Any, Any]]] = {}
            for job in jobs:
                if job is not None:
                    groups.setdefault((job.work, job.key), []).append(job)
            for together in groups.values():
                self._do(together)

    def _collected(self) -> list[_Job[Any, Any] | None]:
        """At least one job; those that come within the window; None last if it is time to end."""
        jobs = [self._jobs.get()]
        until = time.monotonic() + WINDOW
        while jobs[-1] is not None and len(jobs) < MOST:
            try:
                jobs.append(self._jobs.get(timeout=max(0.0, until - time.monotonic())))
            except queue.Empty:
                break
        return jobs

    def _do(self, jobs: Sequence[_Job[Any, Any]]) -> None:
        # Asked here, because the groups of a batch wait for each other.
        jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
        if not jobs:
            return
        self._took(len(jobs))
        try:
            answers = list(zip(jobs, jobs[0].work([job.item for job in jobs]), strict=True))
        except BaseException as error:  # whatever it is, it is the answer: the thread goes on for others
            for job in jobs:
                job.future.set_exception(error)
            return
        for job, answer in answers:
            job.future.set_result(answer)
