"""sha256 of bytes, JSON values and lines. Outputs are named by the hash of what made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest(value: Any, length: int = 64) -> str:
    """The first `length` hex digits of the sha256 of a value's canonical JSON; other types count as their `str`."""
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode())[:length]


def digest_lines(lines: Iterable[str]) -> str:
    """sha256 of lines in their order, hex. The lines are not held in memory."""
    sha = hashlib.sha256()
    for line in lines:
        sha.update(line.encode())
        sha.update(b"\n")
    return sha.hexdigest()
