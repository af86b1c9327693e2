"""Write the file of a row: the values of its queries, summed over groups of queries.

The page prints means over queries, paired differences of such means, and bootstrap intervals that draw whole groups: a
class, or for fine-grained retrieval a photo. These need only the number of queries and the sum of the values of each
group. So a file has the sums, exact to the digit that a query's value is rounded to, and takes 2 to 14 kB.

    {"queries": "1f0c2a9b",                               digest of the queries in their order
     "by_class": {"queries": {"axe": 25, ...},            groups by name
                  "sums": {"ret/mAP_all": [9.12345, ...], "ret/P_1": [17, ...]}},
     "by_photo": {"queries": "665...",                    groups by position, a digit of base 36 each
                  "sums": {"fg:ret/acc_1": "012...", ...}}}
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DIGITS = 5
"""Decimals of a query's value before it is summed."""


def kept(
    classes: Sequence[str], photos: Sequence[str], columns: Mapping[str, Sequence[float]], digits: int = DIGITS
) -> dict[str, Any]:
    """The sums of values by query.

    Args: classes, photos: names [queries]; columns: [queries] each; acc_k, which are 0 or 1, are summed by photo.
    Raises: ValueError for a value that is NaN, or for a photo with over 35 sketches.
    """
    by_photo = {k: v for k, v in columns.items() if is_by_photo(k)}
    by_class = {k: v for k, v in columns.items() if not is_by_photo(k)}
    form: dict[str, Any] = {"queries": digest(classes, photos), "by_class": grouped(classes, by_class, digits)}
    if by_photo:
        photo = grouped(photos, by_photo, digits=0)
        sums = {k: as_digits(v) for k, v in photo["sums"].items()}
        form["by_photo"] = {"queries": as_digits(list(photo["queries"].values())), "sums": sums}
    return form


def is_by_photo(key: str) -> bool:
    return key.rpartition("/")[2].startswith("acc_")


def digest(classes: Sequence[str], photos: Sequence[str]) -> str:
    """A hash of the queries in their order. Values of two rows may be paired if their digests are equal."""
    text = "\n".join(f"{c}\t{p}" for c, p in zip(classes, photos, strict=True))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def grouped(names: Sequence[str], columns: Mapping[str, Sequence[float]], digits: int) -> dict[str, dict[str, Any]]:
    """{"queries": number of queries by group, "sums": sums of each column by group}, groups sorted by name."""
    groups, index, counts = np.unique(np.asarray(names, dtype=str), return_inverse=True, return_counts=True)
    sums = {}
    for key, values in columns.items():
        if any(math.isnan(v) for v in values):
            raise ValueError(f"{key} has queries without a value. Sums need the values of all queries.")
        total = np.bincount(index, weights=np.round(values, digits))
        sums[key] = [short(round(float(x), digits)) for x in total]
    return {"queries": dict(zip(groups.tolist(), counts.tolist(), strict=True)), "sums": sums}


def short(value: float) -> float | int:
    return int(value) if value == int(value) else value


def as_digits(values: Sequence[int]) -> str:
    """One base-36 digit for each value."""
    if max(values) >= 36:
        raise ValueError(f"A photo has {max(values)} sketches, but a base-36 digit counts at most 35. Widen the form.")
    return "".join(np.base_repr(v, 36).lower() for v in values)


def of_digits(text: str) -> list[int]:
    return [int(digit, 36) for digit in text]


def write(file: Path, record: Mapping[str, Any]) -> None:
    """Write the file atomically, with a line for each column."""
    text = re.sub(r"\[[^\[\]]*\]", lambda found: "".join(found[0].split()), json.dumps(record, indent=1))
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(text + "\n")
    part.rename(file)
