"""watch: run `zse reevaluate` on a schedule, each time in a fresh process."""

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
    """The seconds of a duration such as 90s, 15m, 6h or 1d. Raises ZseError for other text and for 0."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd])", text)
    if not found or not float(found[1]):
        raise ZseError(f"--every is {text!r}. Give a duration above 0, such as 90s, 15m, 6h or 1d")
    return float(found[1]) * UNITS[found[2]]


def watch(arguments: Sequence[str], every: float, times: int = 0) -> None:
    """Run `zse reevaluate` with these arguments every `every` seconds, `times` times (0 = no limit), until SIGTERM or
    Ctrl-C.

    Each run is a fresh process, so that leaks and crashes end with it.
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
            say(f"Re-evaluation {done} ended with exit code {code}. The next one runs as planned")
        if times and done >= times:
            return
        left = every - (time.monotonic() - started)
        if not ended.is_set():
            say(f"The next re-evaluation starts in {max(left, 0):.0f} s")
        ended.wait(max(left, 0))
