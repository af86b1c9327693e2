"""Make a drawing from a photo, for photos that nobody has drawn (our design; the idea of training on such drawings is
that of S3BIR, Saavedra et al., Pattern Recognition Letters 2025).

Edges are Canny's. A person draws few lines and draws the subject, which mostly stands in the middle: lines are taken by
their length, counted less towards the borders, until the drawing has as much ink as a drawing.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage import measure
from skimage.feature import canny

SMOOTHED = (1.0, 2.2)
"""Standard deviation of the Gaussian before the edges, in pixels of a 128 px picture. It, and the following, are drawn
uniformly."""
STRONG = (0.88, 0.95)
"""The share of pixels with weaker gradients than an edge begins with; it goes on through those of 0.12 less."""
LENGTH = (3.0, 8.0)
"""Of all lines together, in sides of the picture."""
SHORT = 0.08
"""In sides of the picture: shorter lines are left out."""
FRAME = 0.03
"""In sides of the picture: nearer to the border no line is taken. Photos have frames there, drawings do not."""
WIDTH = (1.0, 2.6)
"""Of a line, in pixels of a 128 px picture."""


def pseudo_sketch(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 RGB [s, s, 3] -> uint8 [s, s], 255 paper. A photo without edges gives an empty drawing."""
    side = len(photo)
    grey = photo.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255
    sigma, strong = rng.uniform(*SMOOTHED) * side / 128, rng.uniform(*STRONG)
    length, width = rng.uniform(*LENGTH) * side, rng.uniform(*WIDTH) * side / 128
    lines = canny(grey, sigma, strong - 0.12, strong, use_quantiles=True, mode="nearest")
    frame = round(FRAME * side)
    lines[:frame] = lines[side - frame :] = lines[:, :frame] = lines[:, side - frame :] = False
    return _inked(_chosen(lines, length), width)


def _chosen(lines: np.ndarray, length: float) -> np.ndarray:
    """bool [s, s], thin lines -> the longest of them, in the order of their length. The first is always one."""
    side = len(lines)
    middle = np.hanning(side + 2)[1:-1]
    labels = np.asarray(measure.label(lines, connectivity=2))
    count = int(labels.max())
    pixels = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    counted = np.bincount(labels.ravel(), np.sqrt(np.outer(middle, middle)).ravel(), minlength=count + 1)[1:]
    order = np.argsort(-counted, kind="stable")
    before = np.cumsum(pixels[order]) - pixels[order]
    taken = order[((counted[order] >= SHORT * side) & (before < length)) | (before == 0)]
    return np.isin(labels, 1 + taken)


def _inked(lines: np.ndarray, width: float) -> np.ndarray:
    """bool [s, s], lines of a pixel -> uint8 [s, s], lines of `width` pixels with soft sides."""
    if not lines.any():
        return np.full(lines.shape, 255, np.uint8)
    away = np.asarray(ndimage.distance_transform_edt(~lines))
    return (255 * np.clip(away - width / 2 + 0.5, 0, 1)).round().astype(np.uint8)
