"""watch: a schedule without a scheduler."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from pipelines.runtime.progress import say
from zse_model.errors import ZseError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float:
    """90s, 15m, 6h, 1d. Raises ValueError."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd])", text)
    if not found or not float(found[1]):
        raise ZseError(f"--every takes 90s, 15m, 6h or 1d; got {text!r}")
    return float(found[1]) * UNITS[found[2]]


def watch(arguments: Sequence[str], every: float, times: int = 0) -> None:
    """`zse reevaluate` with these arguments every so many seconds, `times` times or until SIGTERM or Ctrl-C.

    Each is a process of its own: what one leaks or crashes by is its own.
    """
    command = [sys.executable, "-m", "pipelines.cli", "reevaluate", *arguments]
    ended, running = threading.Event(), list[subprocess.Popen[bytes]]()

    def end(*_: Any) -> None:
        ended.set()
        for process in running:
            process.terminate()

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, end)
    done = 0
    while not ended.is_set():
        started = time.monotonic()
        running[:] = [subprocess.Popen(command)]
        code = running[0].wait()
        running.clear()
        done += 1
        if code and not ended.is_set():
            say(f"Re-evaluation {done} ended with {code}; it is tried again")
        if times and done >= times:
            return
        left = every - (time.monotonic() - started)
        if not ended.is_set():
            say(f"The next re-evaluation begins in {max(left, 0):.0f} s")
        ended.wait(max(left, 0))
