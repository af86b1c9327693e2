"""alarms: how often a data set that has not changed is called a regression, by its number of classes.

Two draws of the same queries' average precision: classes differ (standard deviation 0.15), and queries within a class
(0.2), 10 a class. The baseline is an interval that resamples queries and knows nothing of classes.
"""

from __future__ import annotations

import torch

from pipelines.reevaluation import FEWEST, Change
from zse_model.evaluation.metrics import difference_of_means

CLASSES, QUERIES, DRAWS, TOLERANCE = (2, 3, 5, 10, 25), 10, 400, 0.01


def alarms(classes: int, *, by_class: bool, seed: int = 0) -> float:
    """The share of draws that are called worse, were there no least number of classes."""
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
        change = Change(float(now.mean()), float(before.mean()), found, max(classes, FEWEST))
        called += change.regression(TOLERANCE)
    return called / DRAWS


def main() -> None:
    print(f"{DRAWS} draws of {QUERIES} queries a class without any change, called a regression:")
    print("classes  by class  by query")
    for classes in CLASSES:
        print(f"{classes:7d}  {alarms(classes, by_class=True):8.1%}  {alarms(classes, by_class=False):8.1%}")


if __name__ == "__main__":
    main()
