"""Diffusion: rank the best photos of a query again by how they resemble each other.

A photo that the query scores low stands high if photos like it score high: a random walk with restarts on the graph of
the best photos and their nearest neighbours (Donoser and Bischof, CVPR 2013; the graph of a shortlist and the seeds are
our design). Nothing is trained and no label is read. An order then depends on the other photos of the gallery.

The constants were chosen on pseudo-unseen classes, with galleries of 1, 3, 10 and 25 photos a class: more neighbours or
a larger WALK gain with ten photos a class or more, and lose with three.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from zse_model.evaluation.search import Ranking, order

NEIGHBOURS = 5
WALK = 0.8
"""The share of a score that comes from neighbours; the rest is the photo's own."""
SHARPNESS = 2.0
"""A photo of one standard deviation more is a seed of e^2 times the weight."""
STEPS = 10
COPIES = 0.9999
"""Photos of a higher cosine are copies. The last bits of an embedding depend on the batch that it was made in."""
MOST = 2000  # photos that can be ranked again: their similarities take 16 MB


def diffuse(scores: Tensor, vectors: Tensor) -> Tensor:
    """How a query's best photos score after diffusion: float64 [k], 0 to 1; the best is 1. Copies of a photo are one
    photo, with the best of their scores.

    scores: float32 [k], finite. vectors: float32 [k, d], L2-normalised: the photos' embeddings.
    """
    if len(scores) == 0:
        return scores.double()
    alike = (vectors @ vectors.T).fill_diagonal_(1)
    first = (alike > COPIES).int().argmax(1)  # of its copies
    while not torch.equal(first, first[first]):
        first = first[first]
    alone, same = first.unique(return_inverse=True)
    own = torch.zeros(len(alone)).scatter_reduce(0, same, scores, "amax", include_self=False)
    return _walk(own.double(), alike[alone][:, alone].fill_diagonal_(-torch.inf))[same]


def _walk(own: Tensor, alike: Tensor) -> Tensor:
    """`diffuse` of different photos, float64 [k]. alike: float32 [k, k], their cosines."""
    count, tiny = len(own), torch.finfo(torch.float64).tiny
    seeds = (SHARPNESS * (own - own.max()) / own.std(correction=0).clamp(min=tiny)).exp()
    nearest, columns = alike.topk(min(NEIGHBOURS, count - 1))
    edge, there = nearest.double().clamp(min=0).flatten(), columns.flatten()
    here = torch.arange(count).repeat_interleave(columns.shape[1])
    # An edge leads both ways, and counts twice between two photos that are each other's neighbours.
    ends, starts, edge = torch.cat([here, there]), torch.cat([there, here]), torch.cat([edge, edge])
    none = torch.zeros(count, dtype=torch.float64)
    degree = none.index_add(0, ends, edge).clamp(min=tiny).rsqrt()
    edge = edge * degree[ends] * degree[starts]
    spread = seeds
    for _ in range(STEPS):
        spread = WALK * none.index_add(0, ends, edge * spread[starts]) + (1 - WALK) * seeds
    return spread / spread.max()


def diffused(scores: Tensor, vectors: Callable[[Tensor], Tensor], depth: int) -> Tensor:
    """Scores float32 [q, g] of a gallery -> those with which each query's best `depth` photos stand in the order of
    diffusion. All others keep their scores and their order; -inf stays.

    vectors: positions int64 [k] -> their embeddings, float32 [k, d], L2-normalised.
    """
    result = scores.clone()
    for row, best in enumerate(order(scores, depth)):
        best = best[scores[row, best].isfinite()]
        again, dealt = _reordered(best, scores[row, best], vectors(best))
        result[row, again] = dealt
    return result


def diffused_ranking(first: Ranking, vectors: Iterable[Tensor], k: int) -> Ranking:
    """The first k of each row of a ranking whose first photos stand in the order of diffusion, as of `diffused`.

    vectors: for each row float32 [at most its length, d], L2-normalised: of the photos to rank again.
    """
    indices, scores = first.indices.clone(), first.scores.clone()
    for row, own, theirs in zip(indices, scores, vectors, strict=True):
        head = slice(0, len(theirs))
        row[head], own[head] = _reordered(row[head], own[head], theirs)
    return Ranking(indices[:, :k], scores[:, :k])


def _reordered(positions: Tensor, scores: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Positions int64 [k] in the order of diffusion, and the scores that they stand with, float32 [k].

    positions, scores: in the order of falling scores. The new order is dealt the same scores, the highest first, so
    that pages and photos that follow fit. Equal ones, also to a photo that follows, are raised by the least that tells
    them apart.
    """
    by_place = positions.argsort()  # ties go to the lower position
    spread = diffuse(scores[by_place], vectors[by_place])
    again = positions[by_place][spread.argsort(descending=True, stable=True)]
    dealt = scores.numpy().copy()
    for i in range(len(dealt) - 1, -1, -1):
        below = dealt[i + 1] if i + 1 < len(dealt) else dealt[i]
        dealt[i] = max(dealt[i], np.nextafter(below, np.float32(np.inf)))
    return again, torch.from_numpy(dealt)
