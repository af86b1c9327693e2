"""Blocks of scores to evaluations, of a whole gallery or of a shortlist."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

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
) -> list[Evaluation]:
    """Every search in one pass over the blocks of a whole score matrix.

    shortlists: by search, int64 [q, k], the positions in its gallery that `rerank-K` looks at.
    """
    evaluators = [Evaluator(_ranked_by(mode, search.task)) for search in searches]
    start = 0
    for block in blocks:
        for i, (search, evaluator) in enumerate(zip(searches, evaluators, strict=True)):
            scores = _picked(block, start, search)
            if shortlists is not None:
                chosen = shortlists[i][evaluator.done : evaluator.done + len(scores)]
                scores = torch.full_like(scores, -torch.inf).scatter(1, chosen, scores.gather(1, chosen))
            evaluator.add(scores)
        start += len(block)
    return [evaluator.result() for evaluator in evaluators]


def _ranked_by(mode: str, task: Task) -> Task:
    """A shortlist claims what it can tell, and says what it lost."""
    depth = rerank_depth(mode)
    if depth is None:
        return task
    return dataclasses.replace(task, metrics=(*metrics_within(task.metrics, depth), f"recall_{depth}"))


def find_shortlists(blocks: Iterable[Tensor], searches: Sequence[Search], depth: int) -> list[Tensor]:
    """By search, int64 [q, depth or fewer]: the positions in its gallery that score best."""
    found: list[list[Tensor]] = [[] for _ in searches]
    start = 0
    for block in blocks:
        for search, parts in zip(searches, found, strict=True):
            parts.append(order(_picked(block, start, search), depth))
        start += len(block)
    return [torch.cat(parts) for parts in found]


def union_of_shortlists(searches: Sequence[Search], shortlists: Sequence[Tensor], sketches: int) -> Tensor:
    """int64 [sketches, k], the columns that any search has on a sketch's shortlist; 0 where it does not ask for it."""
    parts = []
    for search, chosen in zip(searches, shortlists, strict=True):
        columns = torch.zeros(sketches, chosen.shape[1], dtype=torch.int64)
        columns[search.queries] = torch.from_numpy(search.gallery)[chosen]
        parts.append(columns)
    return torch.cat(parts, dim=1)


def _picked(block: Tensor, start: int, search: Search) -> Tensor:
    """A setting's rows and columns of a block whose first row is sketch `start`."""
    rows = search.queries[(search.queries >= start) & (search.queries < start + len(block))]
    scores = block[rows - start][:, search.gallery]
    if search.within is not None:
        sketches, gallery = search.within
        scores = scores.masked_fill(sketches[rows, None] != gallery, -torch.inf)
    return scores
