"""The page of `zse explain`: how a pair was scored, and what the network saw, each picture with how to read it."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.drawing import pages
from pipelines.drawing.explanations import CAPTIONS, Explained, png
from zse_model.explain import MaskExplanation


def page(sketch: str, checkpoint: str, found: Sequence[Explained]) -> str:
    """The HTML. found: pairs of one sketch, all scored by one mode."""
    first = found[0].explanation
    return pages.page(
        "explanation",
        sketch=sketch,
        checkpoint=checkpoint,
        first=first,
        masks=isinstance(first, MaskExplanation),
        found=found,
        captions=CAPTIONS,
        png=png,
    )
