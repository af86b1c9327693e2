"""Evaluate searches from blocks of scores, over whole galleries or shortlists. `evaluate` calls this module."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from pipelines.evaluate.searches import Search
from zse_model.evaluation.evaluate import Evaluation, Evaluator, Task
from zse_model.evaluation.protocol import metrics_within
from zse_model.evaluation.search import order
from zse_model.modes import rerank_depth


def evaluate_searches(
    blocks: Iterable[Tensor],
    searches: Sequence[Search],
    mode: str,
    shortlists: Sequence[Tensor] | None = None,
    again: Callable[[Tensor, np.ndarray], Tensor] | None = None,
) -> list[Evaluation]:
    """The evaluation of every search, in one pass over the blocks of a score matrix.

    blocks: float32 [rows, photos], together all encoded sketches. shortlists: for each search int64 [q, k], the gallery
    positions that `rerank-K` ranks. again: scores float32 [q, g] and the columns of a gallery, int64 [g] -> the scores
    to rank by.
    """
    evaluators = [Evaluator(_ranked_by(mode, search.task)) for search in searches]
    start = 0
    for block in blocks:
        for i, (search, evaluator) in enumerate(zip(searches, evaluators, strict=True)):
            scores = _picked(block, start, search)
            if shortlists is not None:
                chosen = shortlists[i][evaluator.done : evaluator.done + len(scores)]
                scores = torch.full_like(scores, -torch.inf).scatter(1, chosen, scores.gather(1, chosen))
            evaluator.add(scores if again is None else again(scores, search.gallery))
        start += len(block)
    return [evaluator.result() for evaluator in evaluators]


def _ranked_by(mode: str, task: Task) -> Task:
    """The task with the metrics that a shortlist of depth K determines, and recall_K."""
    depth = rerank_depth(mode)
    if depth is None:
        return task
    return dataclasses.replace(task, metrics=(*metrics_within(task.metrics, depth), f"recall_{depth}"))


def find_shortlists(blocks: Iterable[Tensor], searches: Sequence[Search], depth: int) -> list[Tensor]:
    """For each search int64 [q, min(depth, g)]: the gallery positions with the highest scores."""
    found: list[list[Tensor]] = [[] for _ in searches]
    start = 0
    for block in blocks:
        for search, parts in zip(searches, found, strict=True):
            parts.append(order(_picked(block, start, search), depth))
        start += len(block)
    return [torch.cat(parts) for parts in found]


def union_of_shortlists(searches: Sequence[Search], shortlists: Sequence[Tensor], sketches: int) -> Tensor:
    """int64 [sketches, k]: the columns on a sketch's shortlists of all searches. Column 0 fills the shortlist of a
    search without the sketch."""
    parts = []
    for search, chosen in zip(searches, shortlists, strict=True):
        columns = torch.zeros(sketches, chosen.shape[1], dtype=torch.int64)
        columns[search.queries] = torch.from_numpy(search.gallery)[chosen]
        parts.append(columns)
    return torch.cat(parts, dim=1)


def _picked(block: Tensor, start: int, search: Search) -> Tensor:
    """The scores of a search in a block whose first row is sketch `start`; -inf for photos outside `within`."""
    rows = search.queries[(search.queries >= start) & (search.queries < start + len(block))]
    scores = block[rows - start][:, search.gallery]
    if search.within is not None:
        sketches, gallery = search.within
        scores = scores.masked_fill(sketches[rows, None] != gallery, -torch.inf)
    return scores
