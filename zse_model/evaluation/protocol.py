"""Protocols: the formula behind each name of a metric. A number is comparable only within one protocol.

`plain` has the textbook formulas. `zse_paper` has those of the published code of ZSE-SBIR (Lin et al., CVPR 2023), and
for AP also of SAKE (Liu et al., ICCV 2019). Results beside published ones are given in both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zse_model.evaluation import metrics

CATEGORY_METRICS = ("mAP_all", "mAP_200", "P_1", "P_25", "P_100", "P_200")
INSTANCE_METRICS = ("acc_1", "acc_5", "acc_10")
METRICS = CATEGORY_METRICS + INSTANCE_METRICS
HEADLINES = ("mAP_all", "P_1", "P_25", "P_100", "mAP_200", "acc_1", "acc_5")
"""Metrics in the table of a run, the view of MLflow and the page of standings, in this order, if a setting has them."""
LEADING = ("mAP_all", "acc_1")
"""The first of these metrics that a setting has orders its models."""


def is_metric(name: str) -> bool:
    """Whether a name is a kind of `FORMULAS`, _, and a number or, for some kinds, `all`."""
    kind, _, depth = name.partition("_")
    whole = kind in FORMULAS and FORMULAS[kind].whole and depth == "all"
    return whole or bool(kind in FORMULAS and re.fullmatch(r"[1-9][0-9]*", depth))


def metrics_within(names: Sequence[str], depth: int) -> tuple[str, ...]:
    """The metrics that the first `depth` ranks determine."""
    return tuple(name for name in names if not name.endswith("_all") and int(name.split("_")[1]) <= depth)


@dataclass(frozen=True)
class Protocol:
    """A choice of formulas.

    interpolate: AP takes the VOC envelope of the precision.
    cap_precision: P@k looks at the first min(k, R) ranks instead of the first k.
    repeated: a gallery may hold a photo twice, as published ones do; else the caller drops the later one.
    """

    name: str
    description: str
    interpolate: bool
    cap_precision: bool
    repeated: bool

    def values(self, metric: str, relevant: Tensor, num_relevant: Tensor) -> Tensor:
        """One metric of each query.

        Args: metric: kind_k of `FORMULAS`; relevant bool [q, n], in rank order; num_relevant int64 [q], R in the whole
            gallery.
            n may be less than the gallery for the metrics @k (n >= k, or all R hits inside), never for mAP_all.
        Returns: float64 [q] in [0, 1], NaN where R = 0.
        Raises: ValueError for an unknown metric, wrong shapes, or a ranking too short for the metric.
        """
        if not is_metric(metric):
            raise ValueError(f"Unknown metric {metric!r}. Known metrics: {forms()}.")
        kind, depth = metric.split("_")
        k = None if depth == "all" else int(depth)
        # int32: torch sums bool rows four times as fast as into its default int64
        if (k is None or relevant.shape[1] < k) and bool((relevant.sum(1, dtype=torch.int32) != num_relevant).any()):
            raise ValueError(
                f"{metric} cannot be computed from the first {relevant.shape[1]} ranks: relevant items lie beyond. "
                f"Rank {'the whole gallery' if k is None else f'at least {k} items'}."
            )
        values = FORMULAS[kind].values(self, relevant, num_relevant, k)
        return values.masked_fill(num_relevant == 0, torch.nan)


@dataclass(frozen=True)
class Formula:
    """The formula of a kind of metric, the part of a name before _: `P_25` is kind P with k = 25.

    values: (protocol, relevant, num_relevant, k) -> float64 [q]; arguments as of `Protocol.values`, k None for `_all`.
    whole: whether `_all`, the whole gallery, is allowed as k.
    """

    values: Callable[[Protocol, Tensor, Tensor, Any], Tensor]
    whole: bool = False


def _average_precision(protocol: Protocol, relevant: Tensor, num_relevant: Tensor, k: int | None) -> Tensor:
    formula = metrics.average_precision_interpolated if protocol.interpolate else metrics.average_precision
    return formula(relevant, num_relevant, k)


FORMULAS: dict[str, Formula] = {
    "mAP": Formula(_average_precision, whole=True),
    "P": Formula(lambda p, *ranked: metrics.precision_at(*ranked, cap_at_relevant=p.cap_precision)),
    "acc": Formula(lambda _, relevant, __, k: metrics.accuracy_at(relevant, k)),
    "recall": Formula(lambda _, *ranked: metrics.recall_at(*ranked)),
}


def forms() -> str:
    """The names that metrics may have, for messages."""
    names = [f"{kind}_{end}" for kind, formula in FORMULAS.items() for end in ("all",) * formula.whole + ("k",)]
    return f"{', '.join(names[:-1])} and {names[-1]}, with a number for k"


PROTOCOLS: dict[str, Protocol] = {
    "plain": Protocol(
        name="plain",
        description="AP@k divided by min(k, R); P@k divided by k",
        interpolate=False,
        cap_precision=False,
        repeated=False,
    ),
    "zse_paper": Protocol(
        name="zse_paper",
        description="AP@k of VOC-interpolated precision, divided by min(k, R); P@k of the first min(k, R) ranks",
        interpolate=True,
        cap_precision=True,
        repeated=True,
    ),
}

SEEN, FINE_SEEN = "-seen", "-fg-seen"
"""Forms of settings, `<split><form>.<fingerprint>`, that search held-back pictures of seen classes."""


def is_zero_shot(row: Mapping[str, Any]) -> bool:
    """Whether the row of a result is of a setting that does not search seen classes on purpose."""
    return row["setting"].rpartition(".")[0].removeprefix(row["split"]) not in (SEEN, FINE_SEEN)
