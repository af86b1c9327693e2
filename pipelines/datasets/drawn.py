"""Sketches of a data set that are kept as drawn: SVG documents and strokes as JSON, which become pictures."""

from __future__ import annotations

from pipelines.datasets.strokes import LINE_WIDTH, SIZE, draw, strokes_of
from pipelines.datasets.svg import render
from zse_model.errors import ZseError
from zse_model.transforms import BadPicture

SVG, STROKES = (".svg", ".svgz"), (".json",)
DRAWN = (*SVG, *STROKES)
SVG_SIZE = 512  # px of the longer side, as `tuberlin` has it by default


def picture_of(path: str, data: bytes | Exception) -> bytes | Exception:
    """The bytes of a picture file: those of SVG and strokes as a PNG, others as they are. Returns BadPicture for what
    cannot be drawn."""
    if isinstance(data, Exception) or not path.lower().endswith(DRAWN):
        return data
    if path.lower().endswith(SVG):
        return rasterise(data, SVG_SIZE)
    try:
        return draw(strokes_of(data), SIZE, LINE_WIDTH)
    except (ZseError, ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        return BadPicture(f"no strokes: {error}")


def rasterise(svg: bytes | Exception, size: int) -> bytes | Exception:
    """Render an SVG drawing as a PNG whose longer side is `size` px, on white. Returns BadPicture for bytes that are
    not an SVG drawing, and for a drawing that embeds another file or URL: neither is read."""
    if isinstance(svg, Exception):
        return svg
    try:
        return render(svg, size, background="white")
    except ValueError as error:
        return BadPicture(f"not an SVG drawing: {error}")
