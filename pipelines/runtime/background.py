"""Repeat work in a background thread. Leases, gauges and messages about waiting use it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipelines.runtime.progress import say


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
