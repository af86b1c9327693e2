"""Does an explanation point at what the score depends on? Photo patches are removed and the pair is scored again.

A removed patch gets the picture's mean colour in its pixels, and the picture is encoded again: the network sees a
picture, not missing tokens. The score is that of the mode that reads
pairs: the logit of `rn`, or `late`. Our design, after the deletion and insertion
curves of the explanation literature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zse_model.errors import ZseError
from zse_model.explanation.base import UnexplainableError
from zse_model.explanation.matches import MatchExplanation
from zse_model.explanation.pair import explain_pair
from zse_model.explanation.patches import INK_SHARE, PatchExplanation, ink_of_patches, patch_of_pixels
from zse_model.methods import RetrievalMethod

SHARES = tuple(i / 10 for i in range(11))
"""Shares of the photo's patches that are removed, or put back."""


@dataclass(frozen=True, eq=False)
class Curves:
    """Logits of one pair at each of `SHARES`."""

    deletion: Tensor
    """float32 [11]: with this share of the patches removed."""
    insertion: Tensor
    """float32 [11]: with this share of the patches on an empty picture."""

    def drop(self, share: float) -> float:
        """Fall of the logit when this share of the patches is removed; higher = they mattered more."""
        return float(self.deletion[0] - self.deletion[SHARES.index(share)])

    @property
    def deletion_auc(self) -> float:
        """Mean logit over the shares; lower = the first removed patches mattered more."""
        return float(self.deletion.mean())

    @property
    def insertion_auc(self) -> float:
        """Mean logit over the shares; higher = the first patches mattered more."""
        return float(self.insertion.mean())


@torch.inference_mode()
def curves(method: RetrievalMethod, sketch: Tensor, photo: Tensor, order: Tensor, mode: str | None = None) -> Curves:
    """Score a pair with the patches of `order` removed, and put back, beginning with the first.

    sketch: uint8 [1 or 3, s, s]; photo: uint8 [3, s, s]; order: int64 [rows * columns], each patch once, most important
    first; mode: whose scores, None = `method.pair_mode`. Raises UnexplainableError for a method without a mode that
    reads pairs, ZseError for another order.
    """
    mode = mode or method.pair_mode
    if mode is None:
        raise UnexplainableError("This network has no mode that reads pairs, and curves are of its score")
    patches = method.backbone.grid[0] * method.backbone.grid[1]
    if not torch.equal(order.sort().values, torch.arange(patches)):
        raise ZseError(f"The order must hold each of the {patches} patches once, got {order.tolist()[:10]} ...")
    mean = photo.float().mean(dim=(1, 2)).round().to(torch.uint8)[:, None, None]
    cell = patch_of_pixels(photo.shape[-1], method.backbone.grid)
    place = order.argsort()[cell]  # [s, s], when each pixel's patch goes
    without = [torch.where(place < round(share * patches), mean, photo) for share in SHARES]
    only = [torch.where(place < round(share * patches), photo, mean) for share in SHARES]
    encoded = method.encode(torch.stack(without + only).to(method.device), "photo")
    logits = method.score(method.encode(sketch[None].to(method.device), "sketch"), encoded, mode)[0]
    return Curves(logits[: len(SHARES)], logits[len(SHARES) :])


def orders(
    method: RetrievalMethod, sketch: Tensor, photo: Tensor, generator: torch.Generator, mode: str | None = None
) -> dict[str, Tensor]:
    """The order of the photo's patches by the explanation of a mode, None = `explained_mode`, and two controls; int64
    [rows * columns] each.

    matched: of `rn` by the highest cosine of an inked sketch patch with the photo patch after cross-attention; of
    `late` by what the score has from the place.
    uniform: at random. attended: at random, first within the half with the most attention of the retrieval token; left
    out where attention cannot be read. Raises UnexplainableError for a method without patches.
    """
    found = explain_pair(method, sketch, photo, mode)
    if isinstance(found, MatchExplanation):
        n = len(found.weights)
        return {"matched": found.order, "uniform": torch.randperm(n, generator=generator)}
    if not isinstance(found, PatchExplanation):
        raise UnexplainableError("This network has no patches to order: its explanation is of another kind")
    ink = ink_of_patches(sketch, found.grid)
    matched = found.correspondence[ink > INK_SHARE * ink.max()].nan_to_num(-1).max(dim=0).values
    n = len(matched)
    out = {"matched": matched.argsort(descending=True, stable=True), "uniform": torch.randperm(n, generator=generator)}
    if found.photo_attention is not None:
        attended = found.photo_attention.mean(0).flatten().nan_to_num(0).argsort(descending=True)
        halves: Sequence[Tensor] = attended[: n // 2], attended[n // 2 :]
        out["attended"] = torch.cat([half[torch.randperm(len(half), generator=generator)] for half in halves])
    return out
