"""Read the value of each query from a report's queries.parquet, and compare two reports by query.

With fewer than FEWEST classes (instance level: photos) nothing is significant. Then there is no interval and no p, and
`interval` and `Difference.text` say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isnan, nan
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.runtime.errors import StorageError
from pipelines.workspace.parts import open_part
from pipelines.workspace.reports import Report
from zse_model.errors import ZseError
from zse_model.evaluation.metrics import PairedDifference, paired_difference
from zse_model.split import FEWEST

FEW = f"too few classes (n < {FEWEST})"  # instead of an interval


@dataclass(frozen=True)
class Difference(PairedDifference):
    """A paired difference and the number of its classes. `of` removes interval and p if there are too few."""

    classes: int
    """At instance level: photos."""

    @classmethod
    def of(cls, found: PairedDifference, classes: int) -> Difference:
        if classes < FEWEST:
            return cls(found.value, nan, nan, nan, classes)
        return cls(found.value, found.low, found.high, found.p, classes)

    @property
    def few(self) -> bool:
        """Whether there are too few classes for significance."""
        return self.classes < FEWEST

    def text(self) -> str:
        """`+0.050 [+0.010, +0.090]`, or `+0.050, too few classes (3 < 10)`."""
        if self.few:
            return f"{self.value:+.3f}, too few classes ({self.classes} < {FEWEST})"
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def claimed(row: dict[str, Any]) -> dict[str, Any]:
    """A result row, without its interval if there are too few classes."""
    return row if row["classes"] >= FEWEST else {**row, "ci_low": nan, "ci_high": nan}


def interval(row: Mapping[str, Any], between: str = "-") -> str:
    """The interval of a result row as text, or FEW."""
    low, high = row["ci_low"], row["ci_high"]
    if row["classes"] < FEWEST or low is None or isnan(low):
        return FEW
    return f"{low:.3f}{between}{high:.3f}"


class Queries:
    """The queries of a report, in the order of their ids. Each column is read when it is needed."""

    def __init__(self, report: Report) -> None:
        """Raises StorageError for a folder that is not a report."""
        if not report.has(report.QUERIES):
            said = (
                f"{report.url} is not a report: it has no {report.QUERIES}. Give a folder that `zse evaluate` printed"
            )
            raise StorageError(said)
        self.report = report
        self._file = open_part(report.file(report.QUERIES))

    @property
    def keys(self) -> list[str]:
        """The names of the results: <setting>/<protocol>/<mode>/<metric>."""
        return [name for name in self._file.schema_arrow.names if "/" in name]

    @cached_property
    def id(self) -> np.ndarray:
        return self._text("id")

    @cached_property
    def category(self) -> np.ndarray:
        return self._text("category")

    @cached_property
    def instance(self) -> np.ndarray:
        """None if unknown."""
        return self._text("instance")

    def values(self, key: str) -> Tensor:
        """float64 [q], NaN for a query that is not in the setting or has no relevant photo."""
        return torch.from_numpy(self._file.read(columns=[key]).column(0).to_numpy().astype(np.float64))

    def answered(self, key: str) -> np.ndarray:
        """bool [q]: the queries that have a value."""
        return ~self.values(key).isnan().numpy()

    def groups(self, key: str) -> Tensor:
        """int64 [q]: the resampling group of each query: its photo for fine-grained retrieval (acc_k), else its
        class."""
        names = self.instance if key.rpartition("/")[2].startswith("acc_") else self.category
        return torch.from_numpy(np.unique(names.astype(str), return_inverse=True)[1])

    def gallery(self, key: str) -> int | None:
        """Number of photos in the gallery; None if the report does not say."""
        return self._galleries.get(key)

    @cached_property
    def _galleries(self) -> dict[str, int]:
        return {metric_key(row): row["gallery"] for row in self.report.table(Report.ROWS)}

    def _text(self, column: str) -> np.ndarray:
        return np.asarray(self._file.read(columns=[column]).column(0).to_pylist(), dtype=object)


def metric_key(row: Mapping[str, Any]) -> str:
    """The name of a result, used everywhere: <setting>/<protocol>/<mode>/<metric>."""
    return "/".join(row[k] for k in ("setting", "protocol", "mode", "metric"))


def key_parts(key: str) -> tuple[str, str, str, str]:
    """Setting, protocol, mode and metric of a result's name."""
    setting, protocol, mode, metric = key.split("/")
    return setting, protocol, mode, metric


def difference(ours: Queries, theirs: Queries, key: str, their_key: str) -> Difference:
    """Ours minus theirs by query, resampled like the intervals of a report. Further queries, of other settings, make no
    difference. Raises ZseError unless the queries with a value are the same."""
    asked, their_asked = ours.answered(key), theirs.answered(their_key)
    if not asked.any() or not np.array_equal(ours.id[asked], theirs.id[their_asked]):
        raise ZseError(
            f"{ours.report.url} and {theirs.report.url} have different queries in {key.partition('/')[0]}, "
            f"{asked.sum()} and {their_asked.sum()}: only equal queries can be paired. Evaluate both on the same data"
        )
    groups = ours.groups(key)[asked]
    found = paired_difference(ours.values(key)[asked], theirs.values(their_key)[their_asked], groups)
    return Difference.of(found, len(groups.unique()))
