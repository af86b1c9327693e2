"""Clean the picture of a drawing on paper: a photo or a scan becomes dark ink on white, cropped to the ink.

    cleaned(Path("photo.jpg").read_bytes()).done    # "flattened the paper, cropped to 312x280 px"

A picture with a ground of one colour is clean and stays as it is, byte for byte. Of any other picture the sheet of
paper is found, its brightness is divided out, and what is dark beside its surroundings is ink. What touches the border
of the sheet is dropped. A picture that has no such sheet is a photo, and is refused.

The steps are the usual ones of document binarisation, by SciPy and scikit-image, which the project needs anyway
(BSD-3). OpenCV would be a second library of 60 MB that bundles FFmpeg (LGPL), for the same steps; half of the time goes
into decoding and labelling. The thresholds are our design: they were chosen by `python -m benchmarks photographed` on
the papers `tuning`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.morphology import convex_hull_image

from pipelines.workspace.pictures import encode_sketch
from zse_model.errors import ZseError
from zse_model.transforms import BadPicture, grey_drawing

Clean: TypeAlias = Literal["auto", "always", "never"]
CLEAN: tuple[Clean, ...] = get_args(Clean)

NO_DRAWING = "a photo, not a drawing"

SIDE, SOUGHT_AT, LIT_AT = 1000, 500, 125
"""px of the long side: the picture that is cut out of, the one that ink is sought in, the one of the paper's light."""
SMALLEST = 48
"""px of the short side: a smaller picture is no photo of paper."""

FLAT = 0.35
"""Share of the pixels with exactly the most common level, from which on the ground is of one colour. Of 400 sketches
of two data sets the least has 0.74; of 100 photos of paper, whose grain and noise spread the levels, the most 0.12."""
FILLED = 0.12
"""Share of the picture that is filled with many tones, from which on it is no drawing, on a ground of one colour. Of
600 sketches the most has 0.06."""
TONES = 8
"""Levels that may fill a drawing, of a few crayons or a few greys."""
FAINT = 16
"""Levels by which something differs from a ground of one colour."""

STEP = 0.06
"""Change of the logarithm of the light from pixel to pixel of LIT_AT, above which the paper ends there. A shadow with a
soft edge changes less."""
CONVEX, SMALL_SHEET = 0.83, 0.1
"""Shares that a sheet of paper covers at least: of its convex hull, and of the picture."""
COVERED, CUT, SOLID = 0.2, 0.17, 0.4
"""Shares from which on it is no drawing: of the sheet that is dark, of its border that is, and of what is dark that is
thicker than strokes."""
MARGIN = 6
"""px of LIT_AT at the border of the sheet: a part that lies there, half of it, is no part of a drawing."""
CROSSING = 0.94
"""Share of a part without that margin, from which on it may touch the border: a ruling from side to side has less."""
THINNEST = 0.1
"""Darkness against the paper that ink has at least; less is the grain of paper."""
INK, CORE = 0.4, 0.6
"""Shares of the darkness of the darkest ink: of its pixels, and of a pixel that each of its parts has. Printed lines
are fainter than a pen."""
TILES = 8
"""In each direction: the sheet in tiles, to tell rulings from a drawing."""
GAP, GROUP = 5, 0.2
"""Half of the distance between parts, in px of LIT_AT; share of ink."""
SPECK = 0.03
"""Share of the largest part's pixels below which a part is a speck: it counts only beside larger parts."""


@dataclass(frozen=True)
class Cleaned:
    """A drawing, and what was done to its picture."""

    file: bytes
    """A picture file: the cleaned drawing, or the given bytes."""
    changed: bool
    done: str
    """What was done, or why nothing was; for people."""


def cleaned(data: bytes, clean: Clean = "auto") -> Cleaned:
    """The drawing of a picture file.

    clean: `auto` decides from the picture; `always` cleans every picture; `never` returns the bytes.
    Raises BadPicture for a file that cannot be decoded, for a sheet without ink, and, with `auto`, for a picture that
    is no drawing; ZseError for another `clean`.
    """
    if clean_of(clean) == "never":
        return Cleaned(data, False, "not cleaned, as was asked")
    grey, transparent = grey_drawing(data, SIDE)
    if min(grey.size) < SMALLEST:
        return Cleaned(data, False, "too small to be a picture of paper")
    if clean == "auto":
        if transparent:
            return Cleaned(data, False, "clean: its ground is transparent")
        if max(grey.histogram()) >= FLAT * grey.width * grey.height:
            _refuse_filled(np.asarray(grey))
            return Cleaned(data, False, "clean: its ground has one colour")
    sheet = _sheet(grey)
    if clean == "auto":
        sheet.refuse_photo()
    return _inked(grey, sheet)


def clean_of(text: str) -> Clean:
    """A checked value of `clean`. Raises ZseError for another text."""
    for clean in CLEAN:
        if text == clean:
            return clean
    raise ZseError(f"clean is {text!r}. Give one of {', '.join(CLEAN)}")


def _refuse_filled(grey: np.ndarray) -> None:
    """Raise BadPicture for a thing on a ground of one colour that many tones fill: a photo that was cut out."""
    ground = np.bincount(grey.ravel(), minlength=256).argmax()
    far = np.abs(grey.astype(np.int16) - ground) > FAINT
    inside = np.asarray(ndimage.binary_erosion(far, iterations=max(2, max(grey.shape) // 64)), dtype=bool)
    levels = np.sort(np.bincount(grey[inside], minlength=256))
    if levels[:-TONES].sum() > FILLED * grey.size:
        raise BadPicture(f"{NO_DRAWING}: many tones fill it")


class _Sheet(NamedTuple):
    """The paper of a picture, and what is dark on it."""

    light: np.ndarray
    """Brightness of the paper, float32 [h, w] at LIT_AT."""
    dark: np.ndarray
    """Darkness against the paper, float32 [h, w] 0..1 at SOUGHT_AT; 0 outside the sheet."""
    area: int
    """Pixels of the sheet at SOUGHT_AT."""
    rim: np.ndarray
    """bool [h, w] at SOUGHT_AT: the sheet's border."""
    middle: np.ndarray
    """bool [h, w] at SOUGHT_AT: the sheet without MARGIN."""
    convex: float
    """Share of its convex hull that the sheet covers."""

    def refuse_photo(self) -> None:
        """Raise BadPicture if this is no drawing on paper."""
        if self.convex < CONVEX or self.area < SMALL_SHEET * self.dark.size:
            raise BadPicture(f"{NO_DRAWING}: there is no sheet of paper in it")
        ink = self.dark > INK * max(THINNEST, _darkest(self.dark, self.area))
        if ink.sum() > COVERED * self.area or ink[self.rim].mean() > CUT:
            raise BadPicture(f"{NO_DRAWING}: too much of it is dark")
        thick = ndimage.binary_opening(ink, iterations=max(2, round(0.012 * max(ink.shape)))).sum()
        if thick > SOLID * ink.sum():
            raise BadPicture(f"{NO_DRAWING}: what is dark in it are no strokes")


def _sheet(grey: Image.Image) -> _Sheet:
    """Find the sheet of paper, and divide its light out."""
    sought = _fitted(grey, SOUGHT_AT)
    small = np.asarray(_fitted(sought, LIT_AT), dtype=np.float32)
    page, convex = _page(small)
    # A closing fills strokes and, unlike a mean, leaves the level of the paper between them
    light = ndimage.gaussian_filter(ndimage.grey_closing(small, size=(9, 9)), 1)
    dark = 1 - np.asarray(sought, dtype=np.float32) / np.maximum(_enlarged(light, sought.size), 1)
    inner = _enlarged(ndimage.binary_erosion(page, iterations=2), sought.size)
    rim = inner & ~_enlarged(ndimage.binary_erosion(page, iterations=3), sought.size)
    middle = _enlarged(ndimage.binary_erosion(page, iterations=MARGIN), sought.size)
    return _Sheet(light, np.where(inner, dark, 0).clip(0, 1), int(inner.sum()), rim, middle, convex)


def _page(small: np.ndarray) -> tuple[np.ndarray, float]:
    """The sheet of paper, bool [h, w], and how convex it is: the brightest large region without a step in its light,
    and what it encloses."""
    level = np.log(np.maximum(ndimage.grey_closing(small, size=(5, 5)), 4))
    step = np.maximum(np.abs(ndimage.sobel(level, 0)), np.abs(ndimage.sobel(level, 1))) / 8
    # Eroded, so that no narrow gap joins the paper to the desk
    regions, count = _labelled(ndimage.binary_erosion(step < STEP, iterations=2, border_value=1))
    if not count:
        return np.zeros(small.shape, dtype=bool), 0.0
    weights = np.bincount(regions.ravel(), weights=small.ravel())
    region = np.asarray(ndimage.binary_dilation(regions == 1 + weights[1:].argmax(), iterations=2))
    hull = convex_hull_image(region) if min(np.ptp(np.nonzero(region), axis=1)) else region
    return hull, float(region.sum() / hull.sum())


def _darkest(dark: np.ndarray, area: int) -> float:
    """The darkness of the darkest thousandth of the sheet: of the ink, however little there is."""
    rank = max(1, dark.size - max(20, area // 1000))
    return float(np.partition(dark, rank, axis=None)[rank]) if dark.size > 1 else float(dark.max())


def _printed(dark: np.ndarray, middle: np.ndarray) -> float:
    """The darkness of what is printed on the paper, rulings or its grain: of the darkest 3 % of a tile that is darker
    than half of the tiles. Rulings are all over the sheet, a drawing is not."""
    rows, columns = (np.array_split(np.arange(n), TILES) for n in dark.shape)
    tiles = [np.ix_(some, others) for some in rows for others in columns]
    levels = [np.quantile(dark[tile], 0.97) for tile in tiles if middle[tile].all()]
    return float(np.median(levels)) if levels else 0.0


def _inked(grey: Image.Image, sheet: _Sheet) -> Cleaned:
    """The ink of a sheet, dark on white."""
    dark, dropped = sheet.dark, 0
    printed = _printed(dark, sheet.middle)
    while True:
        darkest = _darkest(dark, sheet.area)
        if darkest < THINNEST:
            raise BadPicture("blank: no ink on the paper")
        above = min(max(INK * darkest, 1.15 * printed), 0.6 * darkest)
        parts, count = _labelled(dark > above)
        strong = _marked(parts, dark > max(CORE * darkest, min(1.4 * printed, 0.8 * darkest)), count)
        areas = np.maximum(1, np.bincount(parts.ravel(), minlength=count + 1))
        inside = np.bincount(parts[sheet.middle], minlength=count + 1) / areas
        touching = _marked(parts, sheet.rim, count) & (inside < CROSSING)
        kept = strong & ~touching & (inside >= 0.5)
        if kept.any() or not touching.any():
            break
        dark = np.where(touching[parts], 0, dark)  # a finger, the edge of a desk: ink may be fainter
        dropped += int(touching.sum())
    if not kept.any():
        raise BadPicture("blank: no ink on the paper")
    drawn = _without_specks(parts, _together(parts, kept))
    dropped += int(touching.sum())
    return _cut(grey, sheet.light, drawn, darkest, dropped)


def _labelled(where: np.ndarray) -> tuple[np.ndarray, int]:
    """The connected parts, int [h, w]: 0 the ground, then 1 to the number of parts. Diagonal pixels are connected."""
    parts = np.zeros(where.shape, dtype=np.int32)
    return parts, int(ndimage.label(where, np.ones((3, 3)), output=parts))  # type: ignore[arg-type]


def _marked(parts: np.ndarray, where: np.ndarray, count: int) -> np.ndarray:
    """Which parts have a pixel there, bool [count + 1]; never part 0, the ground."""
    marked = np.zeros(count + 1, dtype=bool)
    marked[parts[where]] = True
    marked[0] = False
    return marked


def _together(parts: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Those of the kept parts, bool [count + 1], that stand together with most ink: parts with less than GAP between
    them, and other such groups that have at least a share GROUP of the ink of the largest."""
    areas = np.bincount(parts.ravel(), minlength=len(kept)) * kept
    rows, columns = np.nonzero(kept[parts])
    each = -(-max(parts.shape) // LIT_AT)
    coarse = np.zeros([-(-n // each) for n in parts.shape], dtype=bool)
    coarse[rows // each, columns // each] = True
    groups, count = _labelled(ndimage.binary_dilation(coarse, np.ones((3, 3)), iterations=GAP))
    group = np.zeros(len(kept), dtype=np.int64)
    group[parts[rows, columns]] = groups[rows // each, columns // each]
    ink = np.bincount(group, weights=areas, minlength=count + 1)
    return kept & (ink >= GROUP * ink.max())[group]


def _without_specks(parts: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The kept parts, bool [h, w]. A speck stays in the box of the larger parts only: an eye, not a crumb."""
    areas = np.bincount(parts.ravel(), minlength=len(kept)) * kept
    large = areas >= max(4, SPECK * areas.max())
    if not large.any():
        return kept[parts]
    top, bottom, left, right = _box(large[parts])
    inside = np.zeros(len(kept), dtype=bool)
    inside[parts[top:bottom, left:right]] = True
    return (large | kept & inside)[parts]


def _cut(grey: Image.Image, light: np.ndarray, drawn: np.ndarray, darkest: float, dropped: int) -> Cleaned:
    """Cut the drawing out of the picture, with soft edges of its strokes."""
    height, width = drawn.shape
    top, bottom, left, right = _box(drawn)
    top, left, bottom, right = max(0, top - 4), max(0, left - 4), min(height, bottom + 4), min(width, right + 4)
    x, y = grey.width / width, grey.height / height
    box = (int(left * x), int(top * y), min(grey.width, int(right * x) + 1), min(grey.height, int(bottom * y) + 1))
    ink = np.asarray(grey.crop(box), dtype=np.float32)
    near = np.asarray(ndimage.binary_dilation(drawn, np.ones((3, 3))), dtype=np.float32)
    paper = np.maximum(_part(light, grey, box), 1)
    soft = ((1 - ink / paper) / darkest).clip(0, 1) * _part(near, grey, box)
    file = encode_sketch((255 - 255 * soft).round().astype(np.uint8))
    border = ", dropped what touches its border" if dropped else ""
    return Cleaned(file, True, f"flattened the paper{border}, cropped to {ink.shape[1]}x{ink.shape[0]} px")


def _part(values: np.ndarray, grey: Image.Image, box: tuple[int, int, int, int]) -> np.ndarray:
    """The part of values, float32 [h, w] of the whole picture at another size, that lies in a box of the picture."""
    x, y = grey.width / values.shape[1], grey.height / values.shape[0]
    source = (box[0] / x, box[1] / y, box[2] / x, box[3] / y)
    size = (box[2] - box[0], box[3] - box[1])
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR, box=source))


def _box(where: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left, right (ends exclusive) of the true pixels, of which there must be one."""
    rows, columns = np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _fitted(grey: Image.Image, side: int) -> Image.Image:
    """The picture at most `side` px long; each pixel is the mean of those below it."""
    scale = min(1.0, side / max(grey.size))
    size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
    return grey.resize(size, Image.Resampling.BOX) if size != grey.size else grey


def _enlarged(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float32 or bool [h, w] at another size (width, height)."""
    how = Image.Resampling.NEAREST if values.dtype == bool else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(values).resize(size, how))
