"""Micro-batches: what comes together is done together, and a failure is that of its batch alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest

from pipelines.serve.batches import MOST, Batches

counts: list[int] = []


@pytest.fixture
def batches() -> Iterator[Batches]:
    counts.clear()
    batches = Batches(counts.append)
    batches.start()
    yield batches
    batches.stop(30)


def doubled(items: Sequence[int]) -> list[int]:
    return [2 * item for item in items]


def blocked(batches: Batches) -> threading.Event:
    """Keeps the thread busy until the event is set."""
    release, begun = threading.Event(), threading.Event()

    def wait(items: Sequence[None]) -> list[None]:
        begun.set()
        release.wait(30)
        return [None for _ in items]

    batches.submit(wait, None)
    assert begun.wait(30)
    return release


def test_each_item_gets_its_own_answer(batches: Batches) -> None:
    release = blocked(batches)
    futures = [batches.submit(doubled, i, key="k") for i in range(40)]
    release.set()
    assert [future.result(30) for future in futures] == [2 * i for i in range(40)]
    assert sum(counts) == 41 and max(counts) == MOST


def test_items_asked_for_otherwise_are_done_apart(batches: Batches) -> None:
    release = blocked(batches)
    futures = [batches.submit(doubled, i, key=i % 2) for i in range(6)]
    release.set()
    assert [future.result(30) for future in futures] == [0, 2, 4, 6, 8, 10] and counts == [1, 3, 3]


def test_an_error_is_that_of_its_batch(batches: Batches) -> None:
    def broken(items: Sequence[int]) -> list[int]:
        raise RuntimeError(f"cannot do {len(items)}")

    release = blocked(batches)
    wrong, right = [batches.submit(broken, i, key="k") for i in range(2)], batches.submit(doubled, 4)
    release.set()
    assert right.result(30) == 8
    for future in wrong:
        with pytest.raises(RuntimeError, match="cannot do 2"):
            future.result(30)
    assert batches.submit(doubled, 1).result(30) == 2, "the thread goes on"


def test_an_answer_too_few_is_an_error_and_not_a_wait(batches: Batches) -> None:
    def first(items: Sequence[int]) -> Sequence[int]:
        return items[:1]

    release = blocked(batches)
    futures = [batches.submit(first, i, key="k") for i in range(2)]
    release.set()
    with pytest.raises(ValueError, match="shorter"):
        [future.result(5) for future in futures]


def test_what_was_cancelled_is_left_out(batches: Batches) -> None:
    release = blocked(batches)
    futures = [batches.submit(doubled, i, key="k") for i in range(3)]
    assert futures[1].cancel()
    release.set()
    assert [futures[0].result(30), futures[2].result(30)] == [0, 4] and counts == [1, 2]


def test_what_waits_is_done_before_the_end() -> None:
    counts.clear()
    batches = Batches(counts.append)
    batches.start()
    release = blocked(batches)
    futures = [batches.submit(doubled, i) for i in range(30)]
    threading.Timer(0.05, release.set).start()
    batches.stop(30)
    assert all(future.done() for future in futures) and sum(counts) == 31
