"""Our numbers in the Prometheus endpoint that Ray has on every node, where they are called `ray_zse_...`.

Each has the tags `run` (the name of what is being made), `stage` and `worker` (the rank in a training, else empty). A
process that is none of Ray's, such as a training with cluster.workers=0, has no endpoint: there nothing is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache

import ray
from ray.util.metrics import Counter, Gauge

from pipelines.runtime.background import repeated

TAGS = ("run", "stage", "worker")
GAUGES = {
    "zse_images_per_second": "Pictures that a training takes in a second, over all of its workers",
    "zse_wait_share": "Share of the time that a worker of a training waits for its batches, 0..1",
}
COUNTERS = {  # Ray adds _total
    "zse_bad_files": "Pictures that an ingest skipped: not those of parts that were there already",
    "zse_pairs_scored": "Pairs of a sketch and a photo that a pair network scored",
}
EVERY = 5.0  # s; Ray 2.60 sends a gauge once each time it is set, and forgets it two reports (20 s) later


def count(name: str, value: int, *, stage: str, run: str) -> None:
    """Add to one of COUNTERS."""
    if value and ray.is_initialized():
        _counter(name).inc(value, {"run": run, "stage": stage, "worker": ""})


@contextmanager
def gauges(*, stage: str, run: str, worker: str) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Gives a function that sets some of GAUGES; what it was given last is shown until this is left."""
    last: dict[str, float] = {}

    def show() -> None:
        for name, value in dict(last).items():
            _gauge(name).set(value, {"run": run, "stage": stage, "worker": worker})

    def put(values: Mapping[str, float]) -> None:
        last.update(values)
        show()

    with repeated(show, EVERY):
        yield put


@cache
def _counter(name: str) -> Counter:
    return Counter(name, COUNTERS[name], TAGS)


@cache
def _gauge(name: str) -> Gauge:
    return Gauge(name, GAUGES[name], TAGS)
