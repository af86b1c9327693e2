"""Export metrics to the Prometheus endpoint that Ray has on every node, as `ray_zse_...`.

Tags: `run` (the name of the output), `stage`, and `worker` (the rank in a training, else empty). A process outside Ray,
such as a training with cluster.workers=0, has no endpoint and exports nothing.
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
    "zse_images_per_second": "Pictures per second of a training, all workers together",
    "zse_wait_share": "Share of its time that a training worker waits for batches, 0..1",
}
COUNTERS = {  # Ray adds _total
    "zse_bad_files": "Pictures skipped by an ingest, without those of parts kept from an earlier run",
    "zse_pairs_scored": "Pairs of a sketch and a photo scored by a pair network or by late",
}
EVERY = 5.0  # s; Ray 2.60 sends a gauge once per set and drops it two reports (20 s) later


def count(name: str, value: int, *, stage: str, run: str) -> None:
    """Add to one of COUNTERS; nothing without Ray."""
    if value and ray.is_initialized():
        _counter(name).inc(value, {"run": run, "stage": stage, "worker": ""})


@contextmanager
def gauges(*, stage: str, run: str, worker: str) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Yield a function that sets some of GAUGES. The last values are exported until the context ends."""
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
