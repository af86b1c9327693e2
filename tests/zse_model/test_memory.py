"""What malloc is told, by the numbers of glibc's malloc.h; elsewhere nothing."""

from __future__ import annotations

import ctypes

import pytest

from zse_model.memory import keep_freed_memory


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    options: dict[int, int] = {}

    class Library:
        def __init__(self, name: str) -> None:
            assert name == "libc.so.6"

        def mallopt(self, option: int, value: int) -> int:
            options[option] = value
            return 1

    monkeypatch.setattr(ctypes, "CDLL", Library)
    return options


def test_large_blocks_are_not_mapped_and_the_heap_is_neither_trimmed_nor_grown_in_small_steps(
    told: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    keep_freed_memory()
    assert told == {-4: 0, -1: 2**31 - 1, -2: 2**28}


def test_nothing_is_told_to_another_system_or_another_library(
    told: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    keep_freed_memory()

    def missing(_: str) -> None:
        raise OSError("libc.so.6: cannot open shared object file")

    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", missing)
    keep_freed_memory()
    assert not told
