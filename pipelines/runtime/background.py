"""Work that is done now and then beside other work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipelines.runtime.progress import say


@contextmanager
def repeated(work: Callable[[], object], every: float) -> Iterator[None]:
    """Call `work` every so many seconds from a thread, the first time after as many; no more once it is left. What it
    raises is said, and it is called again."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(every):
            try:
                work()
            except Exception as error:
                say(f"{type(error).__name__}: {error}. It is tried again")

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
