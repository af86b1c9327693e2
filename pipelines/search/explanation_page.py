"""Render the page of `zse explain`: each pair's scores, and pictures of what the network saw with how to read them."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.drawing import pages
from pipelines.drawing.explanations import CAPTIONS, Explained, png


def page(sketch: str, checkpoint: str, found: Sequence[Explained]) -> str:
    """The HTML of explained pairs. found: at least one pair; all of one sketch and one mode."""
    return pages.page(
        "explanation",
        sketch=sketch,
        checkpoint=checkpoint,
        first=found[0].explanation,
        found=found,
        captions=CAPTIONS,
        png=png,
    )
