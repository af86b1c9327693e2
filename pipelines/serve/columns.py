"""What a filter of the page can offer for each of the user's columns: the values of a text, the range of a number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime, time
from typing import Any

import pyarrow as pa
import pyarrow.compute

from pipelines.search.searcher import Snapshot

pc: Any = pyarrow.compute  # makes its functions when it is imported: type checkers do not see them
OFFERED = 50  # different texts of a column that are listed
EXACT = 2**53  # up to here JavaScript reads each integer of JSON as it is


def columns(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The user's columns as JSON values: name, type, and `values` or `low` and `high`, null where there are none.

    Reads the columns of all photos. Times of day, columns without a value and integers above `EXACT` cannot be filtered
    by the page.
    """
    own = {name: kind for name in snapshot.own_columns if (kind := _kind(snapshot.table.schema.field(name).type))}
    texts: dict[str, set[str] | None] = {name: set() for name, kind in own.items() if kind == "text"}
    ranges: dict[str, list[Any]] = {name: [] for name, kind in own.items() if kind in ("number", "date", "time")}
    for batch in snapshot.table.scan(list(own)) if own else ():
        for name, known in texts.items():
            if known is not None:
                known |= set(batch[name].unique().drop_null().to_pylist())
                texts[name] = known if len(known) <= OFFERED else None
        for name, ends in ranges.items():
            both = pc.min_max(batch[name]).as_py()
            ends += [value for value in both.values() if value is not None]
    return [
        _column(name, kind, texts.get(name), ranges.get(name))
        for name, kind in own.items()
        if not any(map(_inexact, ranges.get(name, [])))
    ]


def _column(name: str, kind: str, texts: set[str] | None, ends: list[Any] | None) -> dict[str, Any]:
    about: dict[str, Any] = {"name": name, "type": kind}
    if kind == "text":
        return about | {"values": None if texts is None else sorted(texts)}
    if ends is None:
        return about
    return about | {"low": plain(min(ends)) if ends else None, "high": plain(max(ends)) if ends else None}


def _kind(of: pa.DataType) -> str | None:
    known = {
        "text": pa.types.is_string,
        "boolean": pa.types.is_boolean,
        "date": pa.types.is_date,
        "time": pa.types.is_timestamp,
    }
    if pa.types.is_integer(of) or pa.types.is_floating(of):
        return "number"
    return next((kind for kind, fits in known.items() if fits(of)), None)


def plain(value: Any) -> Any:
    """A value of a column as JSON has it: times in ISO 8601; an infinite number is null; an integer above `EXACT` is
    text."""
    if _inexact(value):
        return str(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _inexact(value: Any) -> bool:
    """Whether JavaScript rounds a number of JSON."""
    return isinstance(value, int) and abs(value) > EXACT


def plain_row(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: plain(value) for name, value in values.items()}
