"""Evaluate scores: every metric of every query by every protocol, with intervals and provenance.

Scores are read in tiles of query rows: a gallery of any size is evaluated in the memory of one tile. Left out:
computing scores, choosing class lists (`pipelines`), and refusing leaks (`leaks.py`).

The caller orders the gallery: by content hash, never by class. Ties are ordered by position, so that equal scores for a
whole gallery sorted by class give about twice the mAP of chance (`Task.chance`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from zse_model.confidence import Confidence, Reliability, reliability
from zse_model.errors import ZseError
from zse_model.evaluation.metrics import bootstrap_interval, expected_average_precision, interpolated_precision
from zse_model.evaluation.protocol import PROTOCOLS, forms, is_metric
from zse_model.evaluation.search import BLOCK_CELLS, Ranking, order


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """The queries and the gallery of a search. An item is relevant to a query if their labels are equal.

    All tensors are on the CPU.
    setting: its name, of [a-z0-9_.-].
    query_labels, gallery_labels: int64 [q], [g]; class ids, or instance ids for fine-grained retrieval.
    query_groups: int64 [q], the unit of the bootstrap: the query's class, or its photo for fine-grained retrieval.
    Raises: ValueError for another setting, dtype or shape. ZseError for an empty gallery, for queries of
        which none has a relevant item, and for an unknown or missing metric or protocol.
    """

    setting: str
    query_labels: Tensor
    gallery_labels: Tensor
    query_groups: Tensor
    metrics: tuple[str, ...]
    protocols: tuple[str, ...] = ("plain", "zse_paper")

    def __post_init__(self) -> None:
        _check_name("setting", self.setting)
        for name in ("query_labels", "gallery_labels", "query_groups"):
            labels = getattr(self, name)
            if labels.dtype != torch.int64 or labels.ndim != 1:
                raise ValueError(f"{name} must be int64 with one axis, got {labels.dtype} {list(labels.shape)}.")
        if len(self.query_labels) != len(self.query_groups):
            raise ValueError(f"{len(self.query_labels)} query_labels, but {len(self.query_groups)} query_groups.")
        if len(self.gallery_labels) == 0:
            raise ZseError(f"The gallery of {self.setting} is empty.")
        protocols = ", ".join(PROTOCOLS)
        for kind, names, known, all_known in (
            ("metric", self.metrics, is_metric, forms()),
            ("protocol", self.protocols, PROTOCOLS.__contains__, protocols),
        ):
            unknown = [name for name in names if not known(name)]
            if unknown or not names:
                raise ZseError(f"Unknown or no {kind}: {unknown}. Known {kind}s: {all_known}.")
        if not bool((self.num_relevant > 0).any()):
            raise ZseError(
                f"None of the {len(self.query_labels)} queries of {self.setting} has a relevant item among the "
                f"{len(self.gallery_labels)} of its gallery: their labels share no value."
            )

    @cached_property
    def num_relevant(self) -> Tensor:
        """R, the number of gallery items relevant to each query: int64 [q]."""
        labels, counts = self.gallery_labels.unique(return_counts=True)
        nearest = torch.searchsorted(labels, self.query_labels).clamp(max=len(labels) - 1)
        return counts[nearest].where(labels[nearest] == self.query_labels, 0)

    @property
    def chance(self) -> float:
        """mAP_all, by the protocol `plain`, of a gallery in random order: the mean over the answered queries."""
        answered = self.num_relevant[self.num_relevant > 0]
        return float(expected_average_precision(answered, len(self.gallery_labels)).mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """The result of a task.

    per_query: (protocol, metric) -> float64 [q], NaN for a query without relevant items, so that two evaluations of one
        task compare query by query (`metrics.paired_difference`).
    top: the first `keep` gallery items of every query.
    curves: float64 [q, 11], interpolated precision at recall 0, 0.1, ..., 1; NaN as above.
    median: float32 [q], the lower median of a query's scores.
    other: float32 [q], the best score of an item that is not relevant; NaN where all are.
    """

    task: Task
    per_query: Mapping[tuple[str, str], Tensor]
    top: Ranking
    curves: Tensor
    median: Tensor
    other: Tensor

    @property
    def answered(self) -> int:
        """Number of queries with a relevant item. Every mean is over these queries."""
        return int((self.task.num_relevant > 0).sum())

    @property
    def unanswered(self) -> int:
        """Number of queries without a relevant item (R = 0). No mean includes them."""
        return len(self.task.query_labels) - self.answered

    def values(self, protocol: str, metric: str) -> Tensor:
        """float64 [q], NaN where R = 0. Raises: ValueError for a pair that this evaluation did not compute."""
        if (protocol, metric) not in self.per_query:
            computed = ", ".join("/".join(pair) for pair in self.per_query)
            raise ValueError(f"{protocol}/{metric} was not evaluated. Evaluated: {computed}.")
        return self.per_query[protocol, metric]

    def rows(
        self, *, method: str, mode: str, provenance: Mapping[str, str | int]
    ) -> list[dict[str, str | int | float]]:
        """The result table, one row per protocol and metric.

        value is the mean over the answered queries, whose number is `queries`; ci_low and ci_high are the 95 %
        bootstrap interval over groups (NaN with one group only); classes is the number of labels of answered queries.
        mode: the retrieval mode of the scores, such as `ret`, `rn`, `fused`, `rerank-100`, `hash-64`.
        provenance (split hash, dataset fingerprint, checkpoint hash, ...) is added to every row.
        Raises: ValueError for a method or mode that is not of [a-z0-9_.-], or provenance that overwrites a column.
        """
        _check_name("method", method)
        _check_name("mode", mode)
        answered = self.task.num_relevant > 0
        rows = []
        for (protocol, metric), values in self.per_query.items():
            low, high = bootstrap_interval(values, self.task.query_groups)
            row: dict[str, str | int | float] = {
                "setting": self.task.setting,
                "protocol": protocol,
                "method": method,
                "mode": mode,
                "metric": metric,
                "value": float(values.nanmean()),
                "ci_low": low,
                "ci_high": high,
                "queries": self.answered,
                "gallery": len(self.task.gallery_labels),
                "classes": len(self.task.query_labels[answered].unique()),
            }
            if row.keys() & provenance.keys():
                raise ValueError(f"provenance may not overwrite the columns {sorted(row.keys() & provenance.keys())}.")
            rows.append(row | dict(provenance))
        return rows

    def per_class(self, protocol: str, metric: str, names: Sequence[str]) -> list[dict[str, str | int | float]]:
        """One row per query group, by rising id: class (its name), queries (answered ones), value (their mean, NaN
        where none is answered).

        names: names[i] is the name of group i. Raises: ValueError for a group without a name, or as `values`.
        """
        values, rows = self.values(protocol, metric), []
        for group in self.task.query_groups.unique().tolist():
            if not 0 <= group < len(names):
                raise ValueError(f"Query group {group} has no name: {len(names)} names were given.")
            mine = values[self.task.query_groups == group]
            rows.append({"class": names[group], "queries": int((~mine.isnan()).sum()), "value": float(mine.nanmean())})
        return rows

    def reliability(self, confidence: Confidence) -> Reliability:
        """How the confidences of the answered queries' first items agree with what is relevant. Raises ZseError if not
        all of the gallery was ranked: a shortlist has no median."""
        answered = self.task.num_relevant > 0
        scores, labels = self.top.scores[answered], self.task.gallery_labels[self.top.indices[answered]]
        if not (torch.isfinite(scores).all() and torch.isfinite(self.median[answered]).all()):
            raise ZseError(
                "Confidences need a score of every item, but some are -inf: not ranked. Ask for those of the mode that "
                "makes the shortlist"
            )
        relevant = labels == self.task.query_labels[answered, None]
        size = len(self.task.gallery_labels)
        return reliability(confidence, scores, relevant, self.median[answered], self.other[answered], size)

    def precision_recall(self) -> Tensor:
        """Mean interpolated precision at recall 0, 0.1, ..., 1 over the answered queries: float64 [11]."""
        return self.curves.nanmean(0)


def evaluate_scores(tiles: Iterable[Tensor], task: Task, *, keep: int = 200) -> Evaluation:
    """Rank and measure every query of a task.

    Args:
        tiles: float32 [b, g] each, consecutive query rows in the order of `task.query_labels`, any b; higher is nearer.
            -inf means "not ranked": the caller leaves out metrics deeper than the ranked items, and there is no curve.
        keep: number of gallery items per query in `Evaluation.top`, at most g.
    Returns: Evaluation, on the CPU.
    Raises: ValueError if the tiles do not add up to the task's queries or have another width than its gallery, for
        another dtype, or a NaN score (names query and item). ZseError for keep < 1.

    15,229 x 17,101 scores in tiles of 512 rows, six metrics, two protocols, one core:
    13 s and 0.2 GB beside the tile (18 s without AVX-512).
    """
    evaluator = Evaluator(task, keep=keep)
    for tile in tiles:
        evaluator.add(tile)
    return evaluator.result()


class Evaluator:
    """`evaluate_scores` with one call per tile, so that one pass over the scores can serve several tasks."""

    def __init__(self, task: Task, *, keep: int = 200) -> None:
        if keep < 1:
            raise ZseError(f"keep must be at least 1, got {keep}.")
        self.task, self.keep, self.done = task, keep, 0
        queries, size = len(task.query_labels), len(task.gallery_labels)
        self.per_query = {
            (protocol, metric): torch.empty(queries, dtype=torch.float64)
            for protocol in task.protocols
            for metric in task.metrics
        }
        self.curves = torch.empty(queries, 11, dtype=torch.float64)
        self.top_indices = torch.empty(queries, min(keep, size), dtype=torch.int64)
        self.top_scores = torch.empty(queries, min(keep, size), dtype=torch.float32)
        self.median, self.other = torch.empty(queries), torch.empty(queries)

    def add(self, tile: Tensor) -> None:
        """The next query rows, float32 [b, g]. Raises: ValueError as `evaluate_scores`."""
        task, queries, size = self.task, len(self.task.query_labels), len(self.task.gallery_labels)
        if tile.ndim != 2 or tile.shape[1] != size or self.done + len(tile) > queries:
            raise ValueError(
                f"The tile after query {self.done} is {list(tile.shape)}, but {task.setting} has {queries} queries and "
                f"{size} gallery items: at most [{queries - self.done}, {size}] can follow."
            )
        for block in tile.detach().cpu().split(max(1, BLOCK_CELLS // size)):
            rows = slice(self.done, self.done + len(block))
            indices = order(block, first_row=self.done)
            ranked_labels = task.gallery_labels.index_select(0, indices.flatten()).view_as(indices)  # 3x as fast as [ ]
            relevant, num_relevant = ranked_labels == task.query_labels[rows, None], task.num_relevant[rows]
            for (protocol, metric), values in self.per_query.items():
                values[rows] = PROTOCOLS[protocol].values(metric, relevant, num_relevant)
            self.curves[rows] = interpolated_precision(relevant, num_relevant)
            self.curves[rows][block.isneginf().any(1)] = torch.nan
            self.top_indices[rows] = indices[:, : self.keep]
            self.top_scores[rows] = block.gather(1, self.top_indices[rows])
            self.median[rows] = _at(block, indices, torch.full((len(block),), size // 2))
            first_other = relevant.int().argmin(1)
            self.other[rows] = _at(block, indices, first_other).masked_fill(num_relevant == size, torch.nan)
            self.done += len(block)

    def result(self) -> Evaluation:
        """The evaluation, after all queries were added. Raises: ValueError if queries are missing."""
        task, queries = self.task, len(self.task.query_labels)
        if self.done != queries:
            raise ValueError(f"The tiles hold {self.done} queries, {task.setting} has {queries}.")
        self.curves[task.num_relevant == 0] = torch.nan
        top = Ranking(self.top_indices, self.top_scores)
        return Evaluation(
            task=task,
            per_query=self.per_query,
            top=top,
            curves=self.curves,
            median=self.median,
            other=self.other,
        )


def _at(scores: Tensor, indices: Tensor, rank: Tensor) -> Tensor:
    """The score of the item at a rank, [q], of scores and a whole ranking, [q, g] each, and ranks int64 [q]."""
    return scores.gather(1, indices.gather(1, rank[:, None]))[:, 0]


def _check_name(kind: str, name: str) -> None:
    if not re.fullmatch(r"[a-z0-9_.-]+", name):
        raise ValueError(f"The {kind} {name!r} must be of a-z 0-9 _ . - only: MLflow refuses other characters.")
