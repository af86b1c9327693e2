"""What `crossatnet` reads of a photo: its own mask, and the mask that a sketch guides.

Source: CrossATNet (2020), cross-modal attention; the masks are our reconstruction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from zse_model.explanation.base import Explainer, Explanation, scored

if TYPE_CHECKING:
    from zse_model.methods.crossatnet import CrossATNet


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskExplanation(Explanation):
    """The masks of a photo, on rows x columns places of its map."""

    own: Tensor
    """float32 [rows, columns] in 0..1: the mask that the photo alone gives. The photo's embedding is made with it."""
    guided: Tensor
    """float32 [rows, columns] in 0..1: the mask that this sketch guides. `own` was trained to follow it."""
    guided_score: float
    """The cosine of the sketch and the photo read through `guided`. A gallery cannot be encoded by it."""


def explain_masks(method: CrossATNet, sketch: Tensor, photo: Tensor, mode: str) -> MaskExplanation:
    """`Explainer.explain` of a `crossatnet` with attention."""
    ours = method.features(sketch.to(method.device)[None], "sketch")
    theirs = method.features(photo.to(method.device)[None], "photo")
    query, found = method.encoding(ours, "sketch"), method.encoding(theirs, "photo")
    assert ours.tokens is not None and theirs.tokens is not None
    own, guided = method.mask(theirs.tokens), method.guided_mask(ours.tokens, theirs.tokens)
    assert own is not None and guided is not None
    read = method.embed(theirs, guided)
    return MaskExplanation(
        **scored(method, query, found, mode),
        own=own[0].cpu().unflatten(0, method.backbone.grid),
        guided=guided[0].cpu().unflatten(0, method.backbone.grid),
        guided_score=float((query["embedding"] * read).sum()),
    )


MASKS = Explainer(
    mode="ret",
    explain=explain_masks,
    ready=lambda method: method.own_mask is not None,
    condition="with attention",
)
