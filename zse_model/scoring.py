"""Score queries against a gallery: the work of a picture runs once a picture, the work of a pair once a pair.

The outer loop runs over tiles of the gallery, the inner loop over blocks of sketches, so that a gallery of any size is
scored in the memory of one tile. One process and a worker of a cluster run the same code: a cluster distributes tiles
and merges their rankings. Scores are float32 for every precision of the network: half-precision scores tie by the
hundred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from zse_model.errors import ZseError
from zse_model.evaluation.search import Ranking, merge, rank
from zse_model.precision import full_precision
from zse_model.transforms import Modality

Precision: TypeAlias = Literal["fp32", "bf16"]
Encoding: TypeAlias = dict[str, Tensor]
"""Name -> tensor whose first axis is the picture. "embedding", float32 [b, d], L2-normalised, is always there; a method
may add others."""

QUERY_BLOCK = 16
QUERIES_HELD = 64  # up to so many sketches stay precomputed between tiles; more are precomputed again for each tile


class Scorer(Protocol):
    """A score, split into the work of a picture and the work of a pair."""

    tile: int
    """Gallery pictures that are worth preparing at once."""

    def reads(self, side: Modality) -> tuple[str, ...]:
        """Names of the encodings that the scorer reads."""
        ...

    def precompute(self, pictures: Encoding, side: Modality) -> Any:
        """The part of the score that depends on these pictures alone, on the scorer's device."""
        ...

    def score(self, queries: Any, gallery: Any, wanted: Tensor | None = None) -> Tensor:
        """float32 [q, g] of precomputed pictures; -inf where `wanted`, bool [q, g], is False."""
        ...


class DotProduct:
    """Cosine of global embeddings, which are L2-normalised."""

    tile = 2**16

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def reads(self, side: Modality) -> tuple[str, ...]:
        return ("embedding",)

    def precompute(self, pictures: Encoding, side: Modality) -> Tensor:
        return pictures["embedding"].to(self.device, torch.float32)

    def score(self, queries: Tensor, gallery: Tensor, wanted: Tensor | None = None) -> Tensor:
        with full_precision(queries.device):
            scores = queries @ gallery.T
        return scores if wanted is None else scores.masked_fill_(~wanted.to(scores.device), -torch.inf)


def weighted(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """weights[0] * first + weights[1] * second, float32 [q, g]; -inf where either is -inf.

    -inf means "not ranked". Weights may be 0, and 0 * -inf would be NaN.
    """
    unranked = first.isneginf() | second.isneginf()
    first, second = (scores.masked_fill(unranked, 0.0) for scores in (first, second))
    return (weights[0] * first + weights[1] * second).masked_fill(unranked, -torch.inf)


class Fused:
    """Combine two scorers. combine: two float32 [q, g] of wanted pairs -> float32 [q, g]."""

    def __init__(self, combine: Callable[[Tensor, Tensor], Tensor], first: Scorer, second: Scorer) -> None:
        self.combine, self.parts, self.tile = combine, (first, second), min(first.tile, second.tile)

    def reads(self, side: Modality) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for part in self.parts for name in part.reads(side)))

    def precompute(self, pictures: Encoding, side: Modality) -> Any:
        return [part.precompute(pictures, side) for part in self.parts]

    def score(self, queries: Any, gallery: Any, wanted: Tensor | None = None) -> Tensor:
        scores = [part.score(q, g, wanted) for part, q, g in zip(self.parts, queries, gallery, strict=True)]
        fused = self.combine(scores[0], scores[1])
        return fused if wanted is None else fused.masked_fill(~wanted.to(fused.device), -torch.inf)


def score_all(scorer: Scorer, queries: Encoding, gallery: Encoding, wanted: Tensor | None = None) -> Tensor:
    """float32 [q, g] on the CPU. Row i, column j depends on query i and gallery picture j alone.

    wanted: bool [q, g], the pairs to score. Other pairs are -inf and are not computed.
    """
    total = count(queries)
    scores = torch.full((total, count(gallery)), -torch.inf)
    held: list[Any] = []
    for g in range(0, scores.shape[1], scorer.tile):
        columns = slice(g, g + scorer.tile)
        tile = scorer.precompute(_rows(gallery, columns), "photo")
        for i, q in enumerate(range(0, total, QUERY_BLOCK)):
            rows = slice(q, q + QUERY_BLOCK)
            block = held[i] if i < len(held) else scorer.precompute(_rows(queries, rows), "sketch")
            if i == len(held) and total <= QUERIES_HELD:
                held.append(block)
            scores[rows, columns] = scorer.score(block, tile, None if wanted is None else wanted[rows, columns]).cpu()
    return scores


def search(
    scorer: Scorer, queries: Encoding, gallery: Iterable[Encoding], k: int, *, among: Ranking | None = None
) -> Ranking:
    """The first k of each query, equal to a ranking of all scores. The gallery is read in tiles and never held whole.

    gallery: consecutive pieces of any size. among: score only the pairs of this ranking, at least k of each query.
    Returns: Ranking [q, min(k, g)]. Raises: ZseError for an empty gallery or k < 1.
    """
    best: Ranking | None = None
    seen = 0
    for tile in gallery:
        size = count(tile)
        if size == 0:
            continue
        if among is None:
            scores = score_all(scorer, queries, tile)
        else:
            inside = (among.indices >= seen) & (among.indices < seen + size)
            wanted = torch.zeros(len(inside), size, dtype=torch.bool)
            wanted[inside.nonzero()[:, 0], among.indices[inside] - seen] = True
            (listed,) = wanted.any(0).nonzero(as_tuple=True)  # a picture that no list has is not precomputed either
            scores = torch.full(wanted.shape, -torch.inf)
            scores[:, listed] = score_all(scorer, queries, _rows(tile, listed), wanted[:, listed])
        found = rank(scores, k)
        best = found if best is None else merge([best, found], [0, seen], k)
        seen += size
    if best is None:
        raise ZseError("The gallery is empty: there is nothing to search.")
    return best


def count(pictures: Encoding) -> int:
    """Number of pictures of an encoding."""
    return len(next(iter(pictures.values())))


def _rows(pictures: Encoding, rows: slice | Tensor) -> Encoding:
    return {name: value[rows] for name, value in pictures.items()}
