"""Prepare a sketch as the public ZSE-SBIR code does, for published weights.

The sketch is cropped to its dark pixels with a margin, its long side resized to `size` without smoothing, and padded to
a square. The result is within 2 grey levels of the original, which resizes with OpenCV. Use the recipe `zse` of
`zse_model.transforms` for new trainings: this crop fails on light strokes, and thin strokes break in large sketches.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from zse_model.errors import ZseError

INK_SUM = 300  # a pixel with R + G + B up to this is ink
MARGIN = 10


def published_sketch(picture: Image.Image, size: int) -> Image.Image:
    """RGB of any size -> RGB, size x size. Raises ZseError if no pixel is dark enough to be ink."""
    pixels = np.asarray(picture.convert("RGB"))
    ink = pixels.sum(axis=2, dtype=np.int32) <= INK_SUM
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if not len(rows):
        raise ZseError(f"no pixel is as dark as the published crop asks for (R + G + B <= {INK_SUM})")
    # ends are exclusive: the margin after the ink is one pixel narrower than the one before it
    top, bottom = max(0, rows[0] - MARGIN), rows[-1] + MARGIN
    left, right = max(0, columns[0] - MARGIN), columns[-1] + MARGIN
    pixels = pixels[top:bottom, left:right]
    height, width = pixels.shape[:2]
    if height > width:
        shape = size, max(1, int(size * (width / height)))
    else:
        shape = max(1, int(size * (height / width))), size
    pixels = _linear(_linear(pixels.astype(np.float64), shape[0], 0), shape[1], 1).round().astype(np.uint8)
    square = np.full((size, size, 3), pixels.max(), dtype=np.uint8)
    y, x = (size - shape[0]) // 2, (size - shape[1]) // 2
    square[y : y + shape[0], x : x + shape[1]] = pixels
    return Image.fromarray(square)


def _linear(values: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Linear interpolation along an axis to `length` samples at pixel centres, without smoothing."""
    n = values.shape[axis]
    at = ((np.arange(length) + 0.5) * (n / length) - 0.5).clip(0, n - 1)
    low = np.floor(at).astype(np.int64)
    high, weight = np.minimum(low + 1, n - 1), at - low
    weight = weight.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    return values.take(low, axis) * (1 - weight) + values.take(high, axis) * weight
