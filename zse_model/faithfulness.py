"""Does an explanation point at what the score depends on? Photo patches are taken away and the pair is scored again.

A patch is replaced in pixels by the picture's mean colour, and the picture is encoded anew: the network sees a picture,
not a hole in its tokens. The score is the logit of the pair network. Our design, after the deletion and insertion
curves of the explanation literature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zse_model.errors import ZseError
from zse_model.explain import INK_SHARE, explain, explainable, ink_of_patches, patch_of_pixels
from zse_model.methods import RetrievalMethod

SHARES = tuple(i / 10 for i in range(11))
"""Of the photo's patches, taken away or put back."""


@dataclass(frozen=True, eq=False)
class Curves:
    """Logits of one pair as patches go (deletion) and come (insertion), at each of `SHARES`; float32 [11]."""

    deletion: Tensor
    insertion: Tensor

    def drop(self, share: float) -> float:
        """How much the logit falls when this share of the patches is gone; higher = they mattered more."""
        return float(self.deletion[0] - self.deletion[SHARES.index(share)])

    @property
    def deletion_auc(self) -> float:
        """Mean logit over the shares; lower = what went first mattered more."""
        return float(self.deletion.mean())

    @property
    def insertion_auc(self) -> float:
        """Mean logit over the shares; higher = what came first mattered more."""
        return float(self.insertion.mean())


@torch.inference_mode()
def curves(method: RetrievalMethod, sketch: Tensor, photo: Tensor, order: Tensor) -> Curves:
    """Score a pair with the patches of `order` taken away, and put back, from the first on.

    sketch: uint8 [1 or 3, s, s]; photo: uint8 [3, s, s]; order: int64 [rows * columns], each patch once, most important
    first. Raises UnexplainableError for a method without patches, ValueError for an order that is none.
    """
    method = explainable(method)
    patches = method.backbone.grid[0] * method.backbone.grid[1]
    if not torch.equal(order.sort().values, torch.arange(patches)):
        raise ZseError(f"The order must hold each of the {patches} patches once, got {order.tolist()[:10]} ...")
    mean = photo.float().mean(dim=(1, 2)).round().to(torch.uint8)[:, None, None]
    cell = patch_of_pixels(photo.shape[-1], method.backbone.grid)
    place = order.argsort()[cell]  # [s, s], when each pixel's patch goes
    without = [torch.where(place < round(share * patches), mean, photo) for share in SHARES]
    only = [torch.where(place < round(share * patches), photo, mean) for share in SHARES]
    encoded = method.encode(torch.stack(without + only).to(method.device), "photo")
    logits = method.score(method.encode(sketch[None].to(method.device), "sketch"), encoded, str(method.pair_mode))[0]
    return Curves(logits[: len(SHARES)], logits[len(SHARES) :])


def orders(method: RetrievalMethod, sketch: Tensor, photo: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """The explanation's order of the photo's patches, and two controls; int64 [rows * columns] each.

    matched: by the highest cosine that any inked sketch patch has with the photo patch after cross-attention.
    uniform: at random. attended: at random, the half with the most attention of the retrieval token first; it is left
    out where attention cannot be read.
    """
    found = explain(method, sketch, photo)
    ink = ink_of_patches(sketch, found.grid)
    matched = found.correspondence[ink > INK_SHARE * ink.max()].nan_to_num(-1).max(dim=0).values
    n = len(matched)
    out = {"matched": matched.argsort(descending=True, stable=True), "uniform": torch.randperm(n, generator=generator)}
    if found.photo_attention is not None:
        attended = found.photo_attention.mean(0).flatten().nan_to_num(0).argsort(descending=True)
        halves: Sequence[Tensor] = attended[: n // 2], attended[n // 2 :]
        out["attended"] = torch.cat([half[torch.randperm(len(half), generator=generator)] for half in halves])
    return out
