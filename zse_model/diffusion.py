"""Diffusion: rank the best photos of a query again by how they resemble each other.

A photo that the query scores low stands high if photos like it score high: a random walk with restarts on the graph of
the best photos and their nearest neighbours (Donoser and Bischof, CVPR 2013; the graph of a shortlist and the seeds are
our design). Nothing is trained and no label is read. A score then depends on the other photos of the gallery.

The constants were chosen on pseudo-unseen classes, with galleries of 1, 3, 10 and 25 photos a class: more neighbours or
longer walks gain with many photos a class, and lose with one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zse_model.evaluation.search import Ranking, order, rank

NEIGHBOURS = 5
WALK = 0.8
"""The share of a score that comes from neighbours; the rest is the photo's own."""
SHARPNESS = 2.0
"""A photo of one standard deviation more is a seed of e^2 times the weight."""
STEPS = 10
MOST = 2000  # photos: their similarities and edges take 48 MB


def diffuse(scores: Tensor, vectors: Tensor) -> Tensor:
    """The scores of a query's best photos after diffusion: float32 [k], above 0; the best is 1.

    scores: float32 [k], finite. vectors: float32 [k, d], L2-normalised: the photos' embeddings.
    """
    count = len(scores)
    if count == 0:
        return scores
    tiny = torch.finfo(torch.float32).tiny
    own = scores.double()
    seeds = (SHARPNESS * (own - own.max()) / own.std(correction=0).clamp(min=tiny)).exp()
    alike = vectors @ vectors.T
    nearest, columns = alike.fill_diagonal_(-torch.inf).topk(min(NEIGHBOURS, count - 1))
    edges = torch.zeros(count, count, dtype=torch.float64).scatter_(1, columns, nearest.double().clamp(min=0))
    edges += edges.T.clone()
    degree = edges.sum(1).clamp(min=tiny).rsqrt()
    edges *= degree[:, None] * degree
    spread = seeds
    for _ in range(STEPS):
        spread = WALK * (edges @ spread) + (1 - WALK) * seeds
    return (spread / spread.max()).float().clamp(min=tiny)


def diffused(scores: Tensor, vectors: Tensor, depth: int) -> Tensor:
    """Scores float32 [q, g] of a gallery -> those with which each query's best `depth` photos are ranked by diffusion.
    All others follow, below 0 or 0, in their order; -inf stays.

    vectors: float32 [g, d], L2-normalised.
    """
    result = torch.empty_like(scores)
    for row, best in enumerate(order(scores, depth)):
        own = scores[row]
        best = best[own[best].isfinite()]
        result[row] = own - own[best[-1]] if len(best) else own
        result[row, best] = diffuse(own[best], vectors[best])
    return result


def diffused_ranking(first: Ranking, vectors: list[Tensor], k: int) -> Ranking:
    """The first k of each row of a ranking whose first photos are ranked by diffusion, as `diffused` does.

    vectors: for each row float32 [at most its length, d], L2-normalised: of the photos to rank again.
    """
    indices, scores = [], []
    for row, own, theirs in zip(first.indices, first.scores, vectors, strict=True):
        depth = len(theirs)
        new = torch.cat([diffuse(own[:depth], theirs), own[depth:] - own[max(0, depth - 1)]])
        in_order = row.argsort()  # ties go to the lower position
        again = rank(new[in_order][None], k)
        indices.append(row[in_order][again.indices])
        scores.append(again.scores)
    return Ranking(torch.cat(indices), torch.cat(scores))
