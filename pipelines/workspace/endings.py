"""Find out how a training or an evaluation ended early, and why. `zse status`, `zse train` and `tracking` call it."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.runtime.failures import to_fix, unwrapped
from pipelines.runtime.redaction import shown
from pipelines.store.lease import EVERY, STALE, holder
from pipelines.workspace.kept import complete
from pipelines.workspace.training import read_run

ENDED = "ended"  # a key of a training's run.json
LONGEST = 500  # characters of a reason


@dataclass(frozen=True)
class Ending:
    """The early end of a training or an evaluation."""

    state: Literal["FAILED", "KILLED"]
    """The status in MLflow. KILLED = stopped or lost."""
    reason: str
    """One line, without secrets."""


def ending(error: BaseException) -> Ending:
    """The ending for an exception that ends the work."""
    if isinstance(error, KeyboardInterrupt):
        return Ending("KILLED", "Ctrl-C (SIGINT)")
    if isinstance(error, SystemExit):
        return Ending("KILLED", "Ctrl-C (SIGINT)" if error.code == 128 + signal.SIGINT else "stopped (SIGTERM)")
    if (said := to_fix(error)) is None:
        cause = unwrapped(error)
        said = f"{type(cause).__name__}: {(str(cause).strip() or 'no reason given').splitlines()[0]}"
    return Ending("FAILED", shown(" ".join(said.splitlines()))[:LONGEST])


def ended(training: str, run: Mapping[str, Any] | None = None) -> Ending | None:
    """How a training ended early; None if it is complete or still running.

    training: its folder. run: its run.json, if it was read already. A training that was killed without notice writes no
    ending: its lease is no longer renewed.
    """
    if complete(training):
        return None
    held = holder(training)
    if held is not None and alive(training, held):
        return None
    said = (read_run(training) if run is None else run).get(ENDED)
    if said is not None:
        return Ending(**said)
    seen = f"no sign of life for {time.time() - held['renewed']:.0f} s" if held else "the process is gone"
    return Ending("KILLED", f"killed or lost: {seen}")


def alive(training: str, held: Mapping[str, Any]) -> bool:
    """Whether the holder of a lease renews it: by the clocks, or, since clocks may differ, by a renewal within
    `EVERY` + 2 s."""
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
    """SIGTERM raises SystemExit, so that the ending can be recorded. An existing handler is left alone."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def end(*_: Any) -> None:
        sys.exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is end:  # a Ray that was started meanwhile has its own handler
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
