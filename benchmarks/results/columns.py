"""Read finished rows: a metric's values by query, averaged over the seeds, with intervals and paired differences."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isnan, nan
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.results.plan import Row
from benchmarks.results.record import is_by_photo, of_digits
from pipelines.workspace.queries import FEW, Difference
from zse_model.evaluation.metrics import bootstrap_interval, paired_difference
from zse_model.split import FEWEST


@dataclass(frozen=True)
class Column:
    """One metric of one row. A query has the mean value of its group, because rows keep sums of groups only. Means over
    queries and the bootstrap over groups are equal to those of the queries' own values."""

    values: Tensor
    """float64 [queries]."""
    groups: Tensor
    """int64 [queries], the unit of the bootstrap: the query's class, or its photo."""
    queries: str
    """Digest of the queries."""

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def classes(self) -> int:
        """Of `acc_k`: photos."""
        return len(self.groups.unique())

    @property
    def interval(self) -> tuple[float, float]:
        """NaN with fewer than FEWEST classes."""
        return (nan, nan) if self.classes < FEWEST else bootstrap_interval(self.values, self.groups)

    def minus(self, other: Column) -> Difference:
        """The paired difference to another column. Raises ValueError for a column of other queries."""
        if self.queries != other.queries:
            raise ValueError(
                f"Rows of different queries cannot be paired: digests {self.queries} and {other.queries}. Make both on "
                "the same data."
            )
        return paired(self.values, other.values, self.groups)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.mean:.3f}" + ("" if isnan(low) else f" ({low:.3f}-{high:.3f})")


@dataclass
class Found:
    """All finished seeds of a row."""

    row: Row
    records: list[dict[str, Any]] = field(default_factory=list)

    def column(self, key: str, part: str = "test") -> Column | None:
        """A metric, averaged over the seeds; None unless all have it.

        key: as in `record`, such as `ret/mAP_all`. part: "test", "seen", "cross" for the other data set, or
        "faithfulness_<mode>".
        """
        forms = [r.get(part, {}) for r in self.records]
        if not forms or not all(has(form, key) for form in forms):
            return None
        counts, _ = sums_of(forms[0], key)
        mean = np.mean([sums_of(form, key)[1] for form in forms], axis=0) / counts
        groups = np.repeat(np.arange(len(counts)), counts)
        return Column(torch.from_numpy(mean[groups]), torch.from_numpy(groups), forms[0]["queries"])


def has(form: Mapping[str, Any], key: str) -> bool:
    return any(key in form.get(unit, {}).get("sums", {}) for unit in ("by_class", "by_photo"))


def sums_of(form: Mapping[str, Any], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(queries int64 [groups], sums float64 [groups])."""
    if is_by_photo(key):
        counts, sums = of_digits(form["by_photo"]["queries"]), of_digits(form["by_photo"]["sums"][key])
    else:
        counts, sums = list(form["by_class"]["queries"].values()), form["by_class"]["sums"][key]
    return np.array(counts), np.array(sums, dtype=float)


def read(rows: Iterable[Row]) -> list[Found]:
    return [
        Found(row, [json.loads(row.file(s).read_text()) for s in row.seeds if row.file(s).exists()]) for row in rows
    ]


def paired(values: Tensor, others: Tensor, groups: Tensor) -> Difference:
    """values minus others by query, float64 [q], resampled by groups int64 [q]."""
    return Difference.of(paired_difference(values, others, groups), len(groups[~values.isnan()].unique()))


def text(difference: Difference) -> str:
    return f"{difference.value:+.3f}" + ("" if difference.few else f" {bounds(difference)}")


def bounds(difference: Difference) -> str:
    return FEW if difference.few else f"[{difference.low:+.3f}, {difference.high:+.3f}]"
