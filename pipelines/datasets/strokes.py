"""Render strokes as Quick, Draw! stores them: of the files of that data set, and of a query."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw

from zse_model.errors import ZseError

OVERSAMPLING = 4  # drawn larger and averaged, since Pillow's lines are not antialiased
MARGIN = 1 / 16  # white border on each side, as a share of the picture's side
SIZE, LINE_WIDTH = 256, 3.0  # px: the defaults of `quickdraw_strokes`
PIECE = 64  # points that one call of Pillow draws: no other thread of Python runs in these 6 ms
MAX_JSON = 8 * 2**20  # bytes of a document: 100,000 points with 40 digits each


def strokes_of(document: bytes) -> list[Any]:
    """The strokes of a JSON document: a list, or an object with the list as `drawing` or `strokes`, such as a line of
    Quick, Draw! Raises ZseError for another document; the strokes themselves are not checked."""
    if len(document) > MAX_JSON:
        raise ZseError(f"{len(document):,} bytes of JSON are above the limit of {MAX_JSON:,}")
    try:
        given = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise ZseError(f"not JSON that can be read: {error}") from error
    if isinstance(given, dict):
        given = given.get("drawing", given.get("strokes"))
    if not isinstance(given, list):
        raise ZseError("JSON without strokes [[[x, ...], [y, ...]], ...], of itself or as `drawing` or `strokes`")
    return given


def draw(strokes: Sequence[Sequence[Sequence[float]]], size: int, line_width: float) -> bytes:
    """Render strokes `[[x, ...], [y, ...], ...]`, y downwards, as a PNG of `size` px: black on white, round ends, the
    longer side scaled to the square without its margin. Raises ZseError for no points, or points that are no
    numbers."""
    lines = [list(zip(stroke[0], stroke[1], strict=True)) for stroke in strokes]
    points = [point for line in lines for point in line]
    if not points or not all(math.isfinite(value) for point in points for value in point):
        raise ZseError("no points" if not points else "points that are no numbers")
    (left, right), (top, bottom) = ((min(axis), max(axis)) for axis in zip(*points, strict=True))
    side, radius = size * OVERSAMPLING, line_width * OVERSAMPLING / 2
    scale = (side * (1 - 2 * MARGIN) - 2 * radius) / (max(right - left, bottom - top) or 1)
    dx, dy = (side - (left + right) * scale) / 2, (side - (top + bottom) * scale) / 2
    canvas = Image.new("L", (side, side), 255)
    pen = ImageDraw.Draw(canvas)
    for line in lines:
        placed = [(x * scale + dx, y * scale + dy) for x, y in line]
        for start in range(0, len(placed), PIECE):  # the next piece begins where this one ends
            pen.line(placed[start : start + PIECE + 1], fill=0, width=max(1, round(2 * radius)))
        for x, y in placed:  # round ends and corners
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=0)
    buffer = io.BytesIO()
    canvas.reduce(OVERSAMPLING).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
