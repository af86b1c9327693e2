"""Measure the rate of false alarms by the number of classes. The baseline is an interval that resamples queries and
ignores classes.

worse: an unchanged data set is called a regression. Average precision is drawn twice for the same queries, with a
standard deviation of 0.15 between classes and 0.2 within a class of 10 queries.
better: an equal model is called significantly better, by the rule of `zse promote`. The models are equal over all
classes; their difference has a standard deviation of 0.07 between classes and 0.2 within a class, as between two
methods on sketchy-25 (intervals of +-0.03).
"""

from __future__ import annotations

import torch

from pipelines.judge.summary import Change
from pipelines.workspace.queries import Difference
from zse_model.evaluation.metrics import PairedDifference, difference_of_means, paired_difference
from zse_model.split import FEWEST

CLASSES, QUERIES, DRAWS, TOLERANCE = (2, 3, 5, 10, 25), 10, 400, 0.01


def alarms(classes: int, *, by_class: bool, seed: int = 0) -> float:
    """The share of draws that are called worse, without the rule of a least number of classes."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.arange(classes).repeat_interleave(QUERIES)
    called = 0
    for draw in range(DRAWS):
        level = 0.5 + 0.15 * torch.randn(classes, generator=generator, dtype=torch.float64)
        now, before = (
            (level[groups] + 0.2 * torch.randn(len(groups), generator=generator, dtype=torch.float64)).clamp(0, 1)
            for _ in range(2)
        )
        own = groups if by_class else torch.arange(len(groups))
        other = groups if by_class else own + len(own)
        found = difference_of_means(now, before, own, other, samples=500, seed=draw)
        change = Change(float(now.mean()), float(before.mean()), _enough(found))
        called += change.regression(TOLERANCE)
    return called / DRAWS


def promotions(classes: int, *, by_class: bool, seed: int = 0) -> float:
    """The share of draws in which an equal model is called better, without the rule of a least number of classes."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.arange(classes).repeat_interleave(QUERIES)
    called = 0
    for draw in range(DRAWS):
        level = 0.07 * torch.randn(classes, generator=generator, dtype=torch.float64)
        gain = level[groups] + 0.2 * torch.randn(len(groups), generator=generator, dtype=torch.float64)
        own = groups if by_class else torch.arange(len(groups))
        called += _enough(paired_difference(gain, torch.zeros_like(gain), own, samples=500, seed=draw)).low > 0
    return called / DRAWS


def _enough(found: PairedDifference) -> Difference:
    """The difference as if it had enough classes for its interval to count."""
    return Difference(found.value, found.low, found.high, found.p, FEWEST)


def main() -> None:
    print(f"False alarms in {DRAWS} draws of {QUERIES} queries a class: unchanged data, or equal models")
    print("classes  worse: by class  by query  better: by class  by query")
    for classes in CLASSES:
        worse = [alarms(classes, by_class=by_class) for by_class in (True, False)]
        better = [promotions(classes, by_class=by_class) for by_class in (True, False)]
        print(f"{classes:7d}  {worse[0]:15.1%}  {worse[1]:8.1%}  {better[0]:16.1%}  {better[1]:8.1%}")


if __name__ == "__main__":
    main()
