"""Formulas of metrics per query, bootstrap intervals and paired comparison.

Inputs: `relevant`, bool [q, n], whether the item at rank i + 1 (column i) is relevant to the query; `num_relevant`,
int64 [q], R: the number of relevant items in the whole gallery. Outputs are float64 [q].
The formulas give 0 for a query with R = 0. `Protocol.values` replaces it by NaN, which no mean includes.

P@i is the share of relevant items among the first i. The denominators of published "mAP@200" and "P@100" differ between
papers (one ranking gives 0.69, 0.86 or 0.20). Each docstring states its denominator; `protocol.py` states who uses it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BLOCK = 64  # resamples drawn at once: 8 MB with 15,000 groups


def average_precision(relevant: Tensor, num_relevant: Tensor, k: int | None = None) -> Tensor:
    """AP@k = 1/min(k, R) * sum_{i<=k} P@i * rel_i; without k, AP over the whole ranking, divided by R.

    The textbook formula. torchmetrics divides by the hits in the first k instead, ranx by R.
    Without k, `relevant` must hold all R hits of every query: a truncated list has no AP@all.

    Args: relevant bool [q, n]; num_relevant int64 [q]; k >= 1, may exceed n.
    Returns: float64 [q] in [0, 1].
    Raises: ValueError for wrong shapes or k < 1.

    >>> average_precision(torch.tensor([[True, False, True]]), torch.tensor([2]))  # (1/1 + 2/3) / 2
    tensor([0.8333], dtype=torch.float64)
    """
    return _total(_precision_at_hits(relevant, num_relevant, k)) / _capped(num_relevant, k)


def average_precision_interpolated(relevant: Tensor, num_relevant: Tensor, k: int | None = None) -> Tensor:
    """Interpolated AP@k, as in the published code of ZSE-SBIR and SAKE.

    `average_precision` with P@i replaced by its VOC envelope, the highest precision at this rank or a later one up to
    k. 0.0004 to 0.006 higher than `average_precision` on the same ranking. Arguments, result and errors: the same.

    >>> average_precision_interpolated(torch.tensor([[False, True, True]]), torch.tensor([2]))  # (2/3 + 2/3) / 2
    tensor([0.6667], dtype=torch.float64)
    """
    return _total(_envelope(_precision_at_hits(relevant, num_relevant, k))) / _capped(num_relevant, k)


def expected_average_precision(num_relevant: Tensor, size: int, k: int | None = None) -> Tensor:
    """Chance level: the expectation of `average_precision` over uniformly random orders of a gallery of `size` items.

    E[AP@k] = R / (N min(k, R)) * (a d + (1 - a) H_d) with N = size, a = (R - 1) / (N - 1), d = min(k, N) and the
    harmonic number H_d = 1 + 1/2 + ... + 1/d. Reason: rank i holds a relevant item with probability R / N, and then on
    average a (i - 1) of the i - 1 items before it are relevant too, so that P@i is (1 + a (i - 1)) / i.
    It exceeds the share R / N: for one relevant item it is H_N / N instead of 1 / N.

    Args: num_relevant int64 [q], at most size; size >= 1; k >= 1, None = the whole gallery.
    Returns: float64 [q] in [0, 1]; 0 where R = 0.
    Raises: ValueError for size < 1, R > size or k < 1.

    >>> expected_average_precision(torch.tensor([1]), 2)  # first or second: (1 + 1/2) / 2
    tensor([0.7500], dtype=torch.float64)
    >>> expected_average_precision(torch.tensor([1, 25]), 40)  # 0.107, not 1/40
    tensor([0.1070, 0.6565], dtype=torch.float64)
    """
    if size < 1 or (k is not None and k < 1) or bool((num_relevant > size).any()):
        most = int(num_relevant.max()) if len(num_relevant) else 0
        raise ValueError(f"size and k must be at least 1, R at most size; got size {size}, k {k}, R up to {most}.")
    relevant, depth = num_relevant.double(), size if k is None else min(k, size)
    harmonic = (1 / torch.arange(1, depth + 1, dtype=torch.float64, device=relevant.device)).sum()
    together = (relevant - 1).clamp(min=0) / max(size - 1, 1)
    return relevant / size * (together * depth + (1 - together) * harmonic) / _capped(num_relevant, k)


def interpolated_precision(relevant: Tensor, num_relevant: Tensor, points: int = 11) -> Tensor:
    """The precision-recall curve: the highest precision at any recall >= r, for r = 0, 1/(points-1), ..., 1.

    Args: relevant bool [q, n], the whole ranking; num_relevant int64 [q]; points >= 2.
    Returns: float64 [q, points] in [0, 1], never rising along a row.
    Raises: ValueError for wrong shapes.
    """
    envelope = _envelope(_precision_at_hits(relevant, num_relevant, None))
    steps = torch.arange(points, device=relevant.device)
    # The first hit that reaches recall r is number ceil(r * R), in integers: 0.1 * 30 is above 3 in floating point.
    nth = (num_relevant[:, None] * steps + points - 2) // (points - 1)
    return envelope.gather(1, (nth - 1).clamp(0, envelope.shape[1] - 1))


def precision_at(relevant: Tensor, num_relevant: Tensor, k: int, *, cap_at_relevant: bool = False) -> Tensor:
    """P@k = hits in the first k / k.

    With `cap_at_relevant`, as in the published code of ZSE-SBIR: hits in the first min(k, R) / min(k, R).

    Args: relevant bool [q, n]; num_relevant int64 [q]; k >= 1. Ranks beyond the gallery count as misses.
    Returns: float64 [q] in [0, 1].
    Raises: ValueError for wrong shapes or k < 1.
    """
    _check(relevant, num_relevant, k)
    depth = _capped(num_relevant, k) if cap_at_relevant else torch.full_like(num_relevant, k)
    head = relevant[:, :k]
    counted = torch.arange(head.shape[1], device=head.device) < depth[:, None]
    return (head & counted).sum(1).double() / depth


def accuracy_at(relevant: Tensor, k: int) -> Tensor:
    """acc@k = 1 if a relevant item is among the first k, else 0.

    Args: relevant bool [q, n]; k >= 1. Returns: float64 [q]. Raises: ValueError for wrong shapes or k < 1.
    """
    _check(relevant, None, k)
    return relevant[:, :k].any(1).double()


def recall_at(relevant: Tensor, num_relevant: Tensor, k: int) -> Tensor:
    """recall@k = hits in the first k / R: the upper bound for a re-ranking of the first k.

    Args: relevant bool [q, n]; num_relevant int64 [q]; k >= 1.
    Returns: float64 [q] in [0, 1]. Raises: ValueError for wrong shapes or k < 1.
    """
    _check(relevant, num_relevant, k)
    return relevant[:, :k].sum(1).double() / num_relevant.clamp(min=1)


def bootstrap_interval(
    values: Tensor, groups: Tensor, *, samples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Cluster bootstrap: percentile interval of the mean of `values` when whole groups are drawn with replacement.

    Queries of one class (fine-grained: of one photo) are correlated. An interval of single queries would be too narrow
    for new classes. The statistic is the mean over all queries drawn.

    Args: values float64 [q], NaN left out; groups int64 [q], class or photo of each query; samples >= 1; 0 < level < 1.
    Returns: (low, high). Both NaN if one group only has values: the spread is then unknown.
    Raises: ValueError for wrong shapes, or if all values are NaN.
    """
    return _quantiles(_resampled_means(values, groups, samples, seed), level)


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a - b over the queries, its bootstrap interval, and the two-sided p of no difference."""

    value: float
    low: float
    high: float
    p: float


def paired_difference(
    a: Tensor, b: Tensor, groups: Tensor, *, samples: int = 1000, level: float = 0.95, seed: int = 0
) -> PairedDifference:
    """Paired bootstrap of methods a and b on the same queries: `bootstrap_interval` of a - b, and its p.

    p = 2 * min(share of resampled means <= 0, share >= 0), at most 1, with one draw added to each share: with 1000
    samples p is at least 0.002. A bootstrap of few groups (under about 10) is optimistic; with one group p is NaN.

    Args: a, b float64 [q], row i of both the same query, NaN in the same places; the rest as `bootstrap_interval`.
    Raises: ValueError for wrong shapes, if all values are NaN, or if only one method has a value for a query.
    """
    if a.shape != b.shape:
        raise ValueError(f"A paired comparison needs the same queries on both sides, got {len(a)} and {len(b)} values.")
    if bool((a.isnan() != b.isnan()).any()):
        row = int((a.isnan() != b.isnan()).nonzero()[0])
        raise ValueError(f"Query {row} has a value on one side only: these are not the same queries in the same order.")
    difference = a - b
    means = _resampled_means(difference, groups, samples, seed)
    low, high = _quantiles(means, level)
    tail = (1 + min((means <= 0).sum(), (means >= 0).sum())) / (1 + samples)
    p = float("nan") if np.isnan(means).any() else min(1.0, 2 * float(tail))
    return PairedDifference(value=float(difference.nanmean()), low=low, high=high, p=p)


def difference_of_means(
    a: Tensor,
    b: Tensor,
    groups_a: Tensor,
    groups_b: Tensor,
    *,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Mean of a minus mean of b over different queries, such as those of a data set before and after a change.

    The same groups (classes) are drawn for both sides, so that a class of both cancels. Interval and p as of
    `paired_difference`, wider because queries are not paired; NaN if a side has one group only. Our design.

    Args: a, b float64 [q], [r], NaN = no value; groups_a, groups_b int64 [q], [r], one number the same class in both.
    Raises: ValueError for wrong shapes, or if a side has no value.
    """
    sides = []
    for values, groups in ((a, groups_a), (b, groups_b)):
        if values.shape != groups.shape or values.ndim != 1:
            raise ValueError(f"values and groups must be [q] alike, got {list(values.shape)} and {list(groups.shape)}.")
        kept = ~values.isnan()
        if not bool(kept.any()):
            raise ValueError(f"No value to average: all {len(values)} queries are NaN (R = 0).")
        sides.append((values[kept].double().cpu().numpy(), groups[kept].cpu().numpy()))
    _, numbers = np.unique(np.concatenate([groups for _, groups in sides]), return_inverse=True)
    total = int(numbers.max()) + 1
    owns = np.split(numbers, [len(sides[0][0])])
    parts = [
        (np.bincount(own, weights=values, minlength=total), np.bincount(own, minlength=total).astype(float))
        for own, (values, _) in zip(owns, sides, strict=True)
    ]
    resampled = []
    for weights in _draws(total, samples, seed):
        means = []
        for sums, counts in parts:
            drawn = weights @ counts
            means.append(np.divide(weights @ sums, drawn, out=np.full(len(weights), np.nan), where=drawn > 0))
        resampled.append(means[0] - means[1])
    difference = np.concatenate(resampled)
    value = float(sides[0][0].mean() - sides[1][0].mean())
    difference = difference[~np.isnan(difference)]  # NaN: a draw without a class of one side
    if min(len(np.unique(groups)) for _, groups in sides) == 1:
        return PairedDifference(value=value, low=float("nan"), high=float("nan"), p=float("nan"))
    low, high = _quantiles(difference, level)
    tail = (1 + min((difference <= 0).sum(), (difference >= 0).sum())) / (1 + len(difference))
    return PairedDifference(value=value, low=low, high=high, p=min(1.0, 2 * float(tail)))


def _check(relevant: Tensor, num_relevant: Tensor | None, k: int | None) -> None:
    if relevant.dtype != torch.bool or relevant.ndim != 2:
        raise ValueError(f"relevant must be bool [q, k], got {relevant.dtype} {list(relevant.shape)}.")
    if num_relevant is not None and num_relevant.shape != relevant.shape[:1]:
        raise ValueError(f"num_relevant must be [{len(relevant)}] as relevant, got {list(num_relevant.shape)}.")
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")


def _capped(num_relevant: Tensor, k: int | None) -> Tensor:
    """min(k, R) as a denominator: 1 where R = 0."""
    return num_relevant.clamp(min=1, max=k)


def _precision_at_hits(relevant: Tensor, num_relevant: Tensor, k: int | None) -> Tensor:
    """P@i at every hit among the first k: float64 [q, most hits of a query (at least 1)], in rank order, then zeros.

    The formulas use hits only, 4 % of the ranks with 25 classes. AP@all of 15,229 x 17,101 on one core:
    1 s this way, 5 s with a cumulative sum over every rank (8 s with the envelope).
    """
    _check(relevant, num_relevant, k)
    row, column = relevant[:, :k].nonzero(as_tuple=True)  # sorted by row, then by rank
    hits = torch.bincount(row, minlength=len(relevant))
    nth = torch.arange(len(row), device=row.device) - (hits.cumsum(0) - hits)[row]
    precision = torch.zeros(len(relevant), max([1, *hits.tolist()]), dtype=torch.float64, device=row.device)
    precision[row, nth] = (nth + 1).double() / (column + 1)
    return precision


def _envelope(precision: Tensor) -> Tensor:
    """The highest value at this column or a later one. Zeros after a query's last hit stay 0."""
    return precision.flip(1).cummax(1).values.flip(1)


def _total(precision: Tensor) -> Tensor:
    """Sum of each row, in order. `sum` groups its terms by the width of the tile, and the last digit of a query would
    depend on the other queries in its tile."""
    return precision.cumsum(1)[:, -1]


def _resampled_means(values: Tensor, groups: Tensor, samples: int, seed: int) -> np.ndarray:
    """Mean of each resample: float64 [samples]. The sums and counts of groups are weighted by how often each group is
    drawn: memory is BLOCK x groups, for any number of queries and resamples."""
    if values.shape != groups.shape or values.ndim != 1:
        raise ValueError(f"values and groups must be [q] alike, got {list(values.shape)} and {list(groups.shape)}.")
    kept = ~values.isnan()
    if not bool(kept.any()):
        raise ValueError(f"No value to average: all {len(values)} queries are NaN (R = 0).")
    _, group = np.unique(groups[kept].cpu().numpy(), return_inverse=True)
    sums = np.bincount(group, weights=values[kept].double().cpu().numpy())
    counts = np.bincount(group).astype(float)
    if len(counts) == 1:
        return np.full(samples, np.nan)
    return np.concatenate([(weights @ sums) / (weights @ counts) for weights in _draws(len(counts), samples, seed)])


def _draws(groups: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """float64 [BLOCK or fewer, groups] for all resamples in order: how often each one draws each group.

    The draws are those of one matrix. So are the sums, to the last bit: a product of fewer rows than eight adds in
    another order, so BLOCK and the last block of 1,000 are multiples of eight.
    """
    rng, equal = np.random.default_rng(seed), np.full(groups, 1 / groups)
    for start in range(0, samples, BLOCK):
        yield rng.multinomial(groups, equal, size=min(BLOCK, samples - start)).astype(float)


def _quantiles(means: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
