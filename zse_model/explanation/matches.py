"""What the score `late` of a sketch and a photo is made of: the match of each place of the sketch (our design)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from zse_model.errors import ZseError
from zse_model.explanation.base import Explainer, Explanation, scored
from zse_model.late import charged, products
from zse_model.losses import normalised

if TYPE_CHECKING:
    from zse_model.methods.places import Placing


@dataclass(frozen=True, eq=False, kw_only=True)
class MatchExplanation(Explanation):
    """The places of both pictures, n = rows * columns, row-major."""

    weights: Tensor
    """float32 [n] in 0..1, of the sketch's places; they sum to 1, and are 0 where the sketch has no ink."""
    correspondence: Tensor
    """float32 [n, n], at most 1: how well the photo's place j matches the sketch's place i, which is their cosine less
    what their distance costs; 0 without ink."""

    @property
    def matches(self) -> Tensor:
        """int64 [n]: the place of the photo that matches each place of the sketch best."""
        return self.correspondence.argmax(1)

    @property
    def contributions(self) -> Tensor:
        """float32 [n]: what each place of the sketch adds to `late`, whose value is their sum."""
        return self.weights * self.correspondence.amax(1)

    @property
    def importance(self) -> Tensor:
        """float32 [n]: what the places of the photo give to `late`: the contributions that they match."""
        return torch.zeros_like(self.weights).index_add_(0, self.matches, self.contributions)

    @property
    def order(self) -> Tensor:
        """int64 [n], the places of the photo: first the matches, those that give most to `late` before others, then the
        places that match best without being the best match of any place."""
        inked = self.weights > 0
        nearly = (self.weights[:, None] * self.correspondence)[inked].amax(0)
        others = torch.ones_like(inked).index_fill_(0, self.matches[inked], 0)
        return torch.from_numpy(np.lexsort((-nearly.numpy(), -self.importance.numpy(), others.numpy())).copy())

    def similarity(self, row: int, column: int) -> Tensor:
        """float32 [rows, columns]: how well every place of the photo matches a place of the sketch, counted from 0.

        Raises ZseError for a place that is not in the grid or has no ink.
        """
        rows, columns = self.grid
        if not (0 <= row < rows and 0 <= column < columns):
            raise ZseError(
                f"There is no patch {row},{column}: the grid is {rows}x{columns}, "
                f"rows are 0..{rows - 1} and columns 0..{columns - 1}"
            )
        if not self.weights[row * columns + column]:
            raise ZseError(
                f"The sketch has no ink at {row},{column}, so nothing is matched there; choose another patch"
            )
        return self.correspondence[row * columns + column].view(self.grid)


def explain_matches(method: Placing, sketch: Tensor, photo: Tensor, mode: str) -> MatchExplanation:
    """`Explainer.explain` of a method with places."""
    query = method.encode(sketch.to(method.device)[None], "sketch")
    found = method.encode(photo.to(method.device)[None], "photo")
    places = query["places"][0]
    matches = products(normalised(places), found["places"])[:, 0]
    if (costs := method.distance_costs) is not None:
        matches -= charged(normalised(places), costs)
    return MatchExplanation(
        **scored(method, query, found, mode),
        weights=places.norm(dim=1).cpu(),
        correspondence=matches.cpu().clamp(max=1),
    )


MATCHES = Explainer(
    mode="late",
    explain=explain_matches,
    ready=lambda method: method.local is not None,
    patches=True,
    condition="with late",
)


def strongest_places(found: MatchExplanation, count: int = 6) -> list[tuple[int, int]]:
    """(row, column) of up to `count` places of the sketch that add most to `late`, no two of them neighbours."""
    chosen: list[tuple[int, int]] = []
    for i in found.contributions.argsort(descending=True, stable=True).tolist():
        row, column = divmod(i, found.grid[1])
        if len(chosen) == count or not found.weights[i]:
            break
        if all(max(abs(row - r), abs(column - c)) > 1 for r, c in chosen):
            chosen.append((row, column))
    return chosen
