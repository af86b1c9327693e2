"""A report's queries.parquet: what each query scored, column by column, and the difference of two reports."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines import shards, storage
from zse_model.errors import ZseError
from zse_model.evaluation.metrics import PairedDifference, paired_difference

QUERIES = "queries.parquet"


class Queries:
    """The queries of a report, in the order of their ids; a column is read when it is asked for."""

    def __init__(self, report: str) -> None:
        """Raises StorageError for a folder that is no report."""
        if not storage.exists(storage.join(report, QUERIES)):
            raise storage.StorageError(f"{report} is no report: it has no {QUERIES}. `zse evaluate` ends by naming one")
        self.report = report
        self._file = shards.open_part(storage.join(report, QUERIES))

    @property
    def keys(self) -> list[str]:
        """What was measured: <setting>/<protocol>/<mode>/<metric>."""
        return [name for name in self._file.schema_arrow.names if "/" in name]

    @cached_property
    def id(self) -> np.ndarray:
        return self._text("id")

    @cached_property
    def category(self) -> np.ndarray:
        return self._text("category")

    @cached_property
    def instance(self) -> np.ndarray:
        """None where unknown."""
        return self._text("instance")

    def values(self, key: str) -> Tensor:
        """float64 [q], NaN for a query that the setting does not ask or that has no answer."""
        return torch.from_numpy(self._file.read(columns=[key]).column(0).to_numpy().astype(np.float64))

    def groups(self, key: str) -> Tensor:
        """int64 [q]: what a query is resampled with, its photo for fine-grained retrieval (acc_k), else its class."""
        names = self.instance if key.rpartition("/")[2].startswith("acc_") else self.category
        return torch.from_numpy(np.unique(names.astype(str), return_inverse=True)[1])

    def _text(self, column: str) -> np.ndarray:
        return np.asarray(self._file.read(columns=[column]).column(0).to_pylist(), dtype=object)


def metric_key(row: Mapping[str, Any]) -> str:
    """The name of a result everywhere: <setting>/<protocol>/<mode>/<metric>."""
    return "/".join(row[k] for k in ("setting", "protocol", "mode", "metric"))


def key_parts(key: str) -> tuple[str, str, str, str]:
    """setting, protocol, mode, metric of a result's name."""
    setting, protocol, mode, metric = key.split("/")
    return setting, protocol, mode, metric


def difference(ours: Queries, theirs: Queries, key: str, their_key: str) -> PairedDifference:
    """Ours minus theirs, resampled as the intervals of a report are. Raises ValueError for other queries."""
    if not np.array_equal(ours.id, theirs.id):
        raise ZseError(
            f"{ours.report} and {theirs.report} are of different queries, {len(ours.id)} and {len(theirs.id)}: only "
            "the same ones can be paired. Evaluate both on the same data"
        )
    return paired_difference(ours.values(key), theirs.values(their_key), ours.groups(key))
