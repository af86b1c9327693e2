"""Which formula a metric's name stands for. A number means something only beside its protocol's name.

`plain` is the textbook; `zse_paper` repeats the published code of ZSE-SBIR (Lin et al., CVPR 2023), and for AP that of
SAKE (Liu et al., ICCV 2019). Both are printed where a result stands beside a published one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zse_model.evaluation import metrics

CATEGORY_METRICS = ("mAP_all", "mAP_200", "P_1", "P_25", "P_100", "P_200")
INSTANCE_METRICS = ("acc_1", "acc_5", "acc_10")
METRICS = CATEGORY_METRICS + INSTANCE_METRICS
FORMS = "mAP_all, mAP_k, P_k, acc_k and recall_k, with a number for k"


def is_metric(name: str) -> bool:
    return bool(re.fullmatch(r"mAP_all|(mAP|P|acc|recall)_[1-9][0-9]*", name))


def metrics_within(names: Sequence[str], depth: int) -> tuple[str, ...]:
    """Those that can be told from the first `depth` ranks."""
    return tuple(name for name in names if name != "mAP_all" and int(name.split("_")[1]) <= depth)


@dataclass(frozen=True)
class Protocol:
    """A choice of formulas.

    interpolate: AP takes the VOC envelope of the precision.
    cap_precision: P@k looks at the first min(k, R) ranks instead of the first k.
    repeated: a gallery may hold a photo twice, as published ones do; else the caller leaves the later one out.
    """

    name: str
    description: str
    interpolate: bool
    cap_precision: bool
    repeated: bool

    def values(self, metric: str, relevant: Tensor, num_relevant: Tensor) -> Tensor:
        """One metric of each query.

        Args: metric of FORMS; relevant bool [q, n], in rank order; num_relevant int64 [q], R in the whole gallery.
            n may be less than the gallery for the metrics @k (n >= k, or all R hits inside), never for mAP_all.
        Returns: float64 [q] in [0, 1], NaN where R = 0.
        Raises: ValueError for an unknown metric, wrong shapes, or a ranking too short for the metric.
        """
        if not is_metric(metric):
            raise ValueError(f"Unknown metric {metric!r}. Known metrics: {FORMS}.")
        kind, depth = metric.split("_")
        k = None if depth == "all" else int(depth)
        # int32: torch sums bool rows four times as fast as into its default int64
        if (k is None or relevant.shape[1] < k) and bool((relevant.sum(1, dtype=torch.int32) != num_relevant).any()):
            raise ValueError(
                f"{metric} cannot be computed from the first {relevant.shape[1]} ranks: relevant items lie beyond. "
                f"Rank {'the whole gallery' if k is None else f'at least {k} items'}."
            )
        if kind == "mAP":
            formula = metrics.average_precision_interpolated if self.interpolate else metrics.average_precision
            values = formula(relevant, num_relevant, k)
        elif kind == "P":
            values = metrics.precision_at(relevant, num_relevant, int(depth), cap_at_relevant=self.cap_precision)
        elif kind == "recall":
            values = metrics.recall_at(relevant, num_relevant, int(depth))
        else:
            values = metrics.accuracy_at(relevant, int(depth))
        return values.masked_fill(num_relevant == 0, torch.nan)


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
