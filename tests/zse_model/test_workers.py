"""Several workers train what one would on the same global batch: real processes, gloo between them."""

from __future__ import annotations

import pytest
import torch

from benchmarks.workers import METHODS, Case, Outcome, outcomes

CASES = [
    *(Case(method) for method in METHODS),
    Case("global", gather=False, planned=4),
    Case("global", gather=False),
]


@pytest.fixture(scope="module")
def alone() -> list[Outcome]:
    return outcomes(1, CASES)


@pytest.mark.parametrize("workers", [2, pytest.param(4, marks=pytest.mark.cluster)])
def test_the_number_of_workers_is_irrelevant_to_negatives_and_to_a_planned_batch(
    workers: int, alone: list[Outcome]
) -> None:
    """Only here do DDP and gathering between processes train: the tests of one process imitate their sums."""
    found = outcomes(workers, CASES)
    for case, ours, one in zip(CASES, found, alone, strict=True):
        assert len(ours.losses) == 20
        if case.gather or case.planned:
            assert torch.allclose(ours.losses, one.losses, rtol=0, atol=1e-4), case
            assert torch.allclose(ours.weights, one.weights, rtol=0, atol=1e-4), case
        else:
            assert (ours.losses - one.losses).abs().max() > 0.1, "a worker's share has fewer to compare with"


def test_three_workers_compute_the_shares_of_four(alone: list[Outcome]) -> None:
    """One of them two of them: it sums on its own before all sum."""
    case = CASES.index(planned := Case("global", gather=False, planned=4))
    (ours,) = outcomes(3, [planned])
    assert torch.allclose(ours.losses, alone[case].losses, rtol=0, atol=1e-4)
    assert torch.allclose(ours.weights, alone[case].weights, rtol=0, atol=1e-4)
