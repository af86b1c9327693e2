"""The list of slow tests names tests that exist."""

from __future__ import annotations

from pathlib import Path

from tests.slow import SLOW


def test_every_slow_test_exists() -> None:
    for name, catches in SLOW.items():
        file, _, test = name.partition("::")
        assert f"\ndef {test}(" in (Path(__file__).parent / file).read_text(), name
        assert catches
