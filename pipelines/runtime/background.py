"""Work in a background thread. Leases, gauges, messages about waiting and `score` use it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from pipelines.runtime.progress import say

A = TypeVar("A")
B = TypeVar("B")


@contextmanager
def repeated(work: Callable[[], object], every: float) -> Iterator[None]:
    """Call `work` every `every` seconds in a thread until the context ends; first after `every` seconds.

    An error of `work` is printed, and the calls go on.
    """
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(every):
            try:
                work()
            except Exception as error:
                say(f"{type(error).__name__}: {error}. Trying again")

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def one_ahead(work: Callable[[A], B], items: Iterable[A]) -> Iterator[tuple[A, B]]:
    """Each item with the result of `work`, which runs in a thread for one item while the item before it is used."""
    with ThreadPoolExecutor(1) as pool:
        started = ((item, pool.submit(work, item)) for item in items)
        current = next(started, None)
        while current is not None:
            following = next(started, None)
            yield current[0], current[1].result()
            current = following
