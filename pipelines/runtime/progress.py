"""Print progress and messages to stderr, and results to stdout, with secrets removed.

Progress is a bar on a terminal, a line every 5 s in a log, and a JSON line with ZSE_LOG=json. Every stage calls it.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pipelines.runtime import logs
from pipelines.runtime.redaction import shown

T = TypeVar("T")
LOG_EVERY = 5.0  # s between progress lines without a terminal


class _Shown(Console):
    """A console that also removes secrets from the cells, headings and titles of tables."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(shown(text), **options)


console = _Shown(stderr=True, highlight=False, markup=False, emoji=False)  # names may contain [old] or :cat:


class Meter:
    """`with Meter("Ingest", total=10, unit="parts") as meter: meter.update(3, "12 img/s")`."""

    def __init__(self, what: str, total: int | None = None, unit: str = "") -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done, self.before, self.note = 0, 0, ""
        self.started = self.printed = time.monotonic()
        self.bar: Progress | None = None
        if sys.stderr.isatty() and not logs.as_json():
            self.bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=30),
                TextColumn("{task.completed:.0f}/{task.total} {task.fields[unit]}", markup=False),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=console,
                transient=True,
            )
            self.task = self.bar.add_task(shown(what), total=total, unit=unit, note="")

    def __enter__(self) -> Meter:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()
        if kind is None:
            total = f"{self.done:,} {self.unit}".strip()
            took = time.monotonic() - self.started
            say(f"{self.what}: {total} in {took:.1f} s {self.note}".rstrip(), done=self.done, seconds=took)

    def update(self, done: int, note: str = "", total: int | None = None) -> None:
        self.done, self.note, self.total = done, note, total or self.total
        if self.bar:
            self.bar.update(self.task, completed=done, total=self.total, note=shown(note))
        elif time.monotonic() - self.printed > LOG_EVERY:
            self.printed = time.monotonic()
            left = "" if self.left is None else f"({self.left:.0f} s left)"
            said = f"{self.what}: {done:,}/{self.total or '?'} {self.unit} {left} {note}".rstrip()
            say(said, done=done, total=self.total, seconds_left=self.left)

    @property
    def left(self) -> float | None:
        """Seconds until the total at the speed so far; None if unknown. `before` was done by an earlier attempt."""
        if not self.total or self.done <= self.before:
            return None
        return (time.monotonic() - self.started) * (self.total - self.done) / (self.done - self.before)


def track(items: Iterable[T], what: str, total: int | None = None, unit: str = "") -> Iterator[T]:
    with Meter(what, total, unit) as meter:
        for i, item in enumerate(items):
            yield item
            meter.update(i + 1)


def say(message: str, level: int = logging.INFO, **fields: Any) -> None:
    """Print a line to stderr without secrets: stdout is for results. `fields` are added to JSON lines."""
    if logs.as_json():
        logs.log(message, fields, level)
    else:
        console.print(shown(message), soft_wrap=True)


def show(result: str | Table) -> None:
    """Print a result to stdout without secrets. A table is as wide as the terminal, or 200 columns in a file."""
    if isinstance(result, str):
        print(shown(result))
    else:
        width = None if sys.stdout.isatty() else 200
        _Shown(width=width, markup=False, emoji=False, highlight=False).print(result)
