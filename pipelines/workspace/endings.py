"""How work ended that did not reach its end, and why."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.runtime.failures import to_mend, unwrapped
from pipelines.runtime.redaction import shown
from pipelines.store.lease import EVERY, STALE, holder
from pipelines.workspace.kept import complete
from pipelines.workspace.training import read_run

ENDED = "ended"  # in the run.json of a training
LONGEST = 500  # characters of a reason


@dataclass(frozen=True)
class Ending:
    """Of a training or an evaluation."""

    state: Literal["FAILED", "KILLED"]
    """As MLflow names it: KILLED = told to stop, or lost."""
    reason: str
    """One line, without secrets."""


def ending(error: BaseException) -> Ending:
    """What an exception that leaves the work means for it."""
    if isinstance(error, KeyboardInterrupt):
        return Ending("KILLED", "Ctrl-C (SIGINT)")
    if isinstance(error, SystemExit):
        return Ending("KILLED", "Ctrl-C (SIGINT)" if error.code == 128 + signal.SIGINT else "told to end (SIGTERM)")
    if (said := to_mend(error)) is None:
        cause = unwrapped(error)
        said = f"{type(cause).__name__}: {(str(cause).strip() or 'no reason given').splitlines()[0]}"
    return Ending("FAILED", shown(" ".join(said.splitlines()))[:LONGEST])


def ended(training: str, run: Mapping[str, Any] | None = None) -> Ending | None:
    """How a training ended that is not complete, by its folder; None: it is complete, or somebody is at it.

    run: its run.json, where that is read already. One that was killed without notice cannot say so: its lease is not
    renewed any more.
    """
    if complete(training):
        return None
    held = holder(training)
    if held is not None and alive(training, held):
        return None
    said = (read_run(training) if run is None else run).get(ENDED)
    if said is not None:
        return Ending(**said)
    seen = f"no sign of life for {time.time() - held['renewed']:.0f} s" if held else "its process is gone"
    return Ending("KILLED", f"killed or lost: {seen}")


def alive(training: str, held: Mapping[str, Any]) -> bool:
    """Whether the holder of a lease renews it: by the clocks, or, as they may differ, seen within some seconds."""
    if abs(time.time() - held["renewed"]) < STALE:
        return True
    end = time.monotonic() + EVERY + 2
    while time.monotonic() < end:
        time.sleep(0.5)
        now = holder(training)
        if now is None or now["renewed"] != held["renewed"]:
            return now is not None
    return False


@contextmanager
def heeding_sigterm() -> Iterator[None]:
    """SIGTERM raises SystemExit, so that what is left can say how it ended. Not where a handler is set already."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def end(*_: Any) -> None:
        sys.exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is end:  # Ray, where it was started meanwhile, has one of its own
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
