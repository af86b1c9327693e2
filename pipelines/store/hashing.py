"""sha256 of bytes, of values and of lines: how outputs are named by what made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest(value: Any, length: int = 64) -> str:
    """sha256 of the canonical JSON of a value, hex: how outputs are named by what made them."""
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode())[:length]


def digest_lines(lines: Iterable[str]) -> str:
    """sha256 of lines, order counts, without holding them."""
    sha = hashlib.sha256()
    for line in lines:
        sha.update(line.encode())
        sha.update(b"\n")
    return sha.hexdigest()
