"""Write messages as JSON lines with ZSE_LOG=json; without it, `progress` prints plain text.

    {"time": "2026-03-01T12:00:00.000+00:00", "level": "info", "node": "gpu-3", "stage": "train",
     "run": "folder+global-0123abcd", "worker": 0, "step": 1200, "message": "training", "train/loss": 0.41, ...}

`run` is the name of the output, such as the checkpoint of a training; `zse status` takes it. Each training worker
writes its own lines, to Ray's log of the worker.
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

_place: dict[str, Any] = {}  # one for the process, which runs one stage at a time; its threads share it


def as_json() -> bool:
    """Whether stderr has JSON lines."""
    return os.environ.get("ZSE_LOG") == "json"


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Lines within the context have this `stage`. Also a decorator."""
    global _place
    before = _place
    _place = {"stage": name}
    try:
        yield
    finally:
        _place = before


def about(**place: Any) -> None:
    """Add `run`, `step` or `worker` to the lines until the stage ends."""
    _place.update(place)


def log(message: str, fields: Mapping[str, Any], level: int = logging.INFO) -> None:
    """Write a JSON line; nothing without ZSE_LOG=json."""
    if as_json():
        _logger().log(level, "%s", message, extra={"fields": fields})


def capture() -> None:
    """Remove secrets from the logs of libraries. With ZSE_LOG=json, write their logs and warnings as JSON lines.

    Raises ZseError for an unknown ZSE_LOG.
    """
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
