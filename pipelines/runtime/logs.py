"""What a process says, as JSON lines for machines: ZSE_LOG=json. Who reads it himself leaves that unset.

    {"time": "2026-03-01T12:00:00.000+00:00", "level": "info", "node": "gpu-3", "stage": "train",
     "run": "folder+global-0123abcd", "worker": 0, "step": 1200, "message": "training", "train/loss": 0.41, ...}

`run` is the name of what is being made: of a checkpoint in a training, as `zse status` takes it. A worker of a training
writes lines of its own, where Ray keeps what it says.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Any

from pipelines.runtime.redaction import shown, shown_within
from zse_model.errors import ZseError

_place: dict[str, Any] = {}  # of this process, which does one thing at a time; its threads speak of the same


def as_json() -> bool:
    """Whether stderr is for machines."""
    return os.environ.get("ZSE_LOG") == "json"


@contextmanager
def stage(name: str) -> Iterator[None]:
    """What is logged within is of this stage; also a decorator."""
    global _place
    before = _place
    _place = {"stage": name}
    try:
        yield
    finally:
        _place = before


def about(**place: Any) -> None:
    """What is logged from here on, until the stage is left, is of this run, step or worker."""
    _place.update(place)


def log(message: str, fields: Mapping[str, Any], level: int = logging.INFO) -> None:
    """A line where stderr is for machines, nothing elsewhere."""
    if as_json():
        _logger().log(level, "%s", message, extra={"fields": fields})


def capture() -> None:
    """Have the logs of libraries without secrets and, where stderr is for machines, as lines, their warnings too.
    Raises ZseError for a ZSE_LOG that means nothing."""
    if (mode := os.environ.get("ZSE_LOG", "text")) not in ("text", "json"):
        raise ZseError(f"ZSE_LOG is {mode!r}. Allowed: text, json")
    logging.setLogRecordFactory(_Shown)  # a library may have handlers of its own
    if as_json():
        logging.getLogger().handlers = _logger().handlers
        logging.captureWarnings(True)


class _Shown(logging.LogRecord):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.exc_info and self.exc_info[0]:
            self.exc_text = shown("".join(traceback.format_exception(*self.exc_info)).rstrip())

    def getMessage(self) -> str:  # noqa: N802, the name is logging's
        return shown(super().getMessage())


class Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "node": platform.node(),
            **_place,
            "message": record.getMessage(),
            **getattr(record, "fields", {"logger": record.name}),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(shown_within(line), default=lambda value: shown(str(value)))


@cache
def _logger() -> logging.Logger:
    logger, handler = logging.getLogger("zse"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    return logger
