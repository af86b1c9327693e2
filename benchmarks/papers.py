"""Photos and scans of drawings on paper, made from clean drawings: what `benchmarks photographed` measures cleaning by.

`photographed` draws one sheet of paper with the drawing, lays it on a desk, lights it, and takes its picture: coloured
paper with grain, ruled or squared, a felt pen, a ballpoint or a pencil, a gradient of light, a shadow with a soft edge,
vignetting, perspective, blur, noise, JPEG and an EXIF orientation. A quarter are scans: flat, evenly lit, with the
dark lid at an edge.

There are two families. Their papers, rulings, pens, desks and seeds are disjoint. Cleaning was made by `tuning` alone;
`reported` is read for the reported figure. The strengths were fixed before cleaning was written: without it less than
half of mAP_all remains. The model of the picture is our design.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

RGB = tuple[float, float, float]
ORIENTATION = 0x0112  # EXIF
_STORED = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""EXIF orientation -> how the upright picture is turned before it is stored."""


@dataclass(frozen=True)
class Ruling:
    """Printed lines, as shares of the page's width."""

    pitch: float
    """From line to line."""
    ink: RGB
    """Reflectance of the lines, 0..1."""
    squared: bool = False
    margin: bool = False
    """With a red vertical line at the left."""


@dataclass(frozen=True)
class Family:
    """What photos are drawn from."""

    seed: int
    papers: tuple[RGB, ...]
    """Reflectance 0..1, as are all colours."""
    rulings: tuple[Ruling | None, ...]
    pens: tuple[tuple[RGB, float], ...]
    """Colour, and grain: the share of the ink that the grain of the paper takes away, as of a pencil."""
    desks: tuple[RGB, ...]


FAMILIES = {
    "tuning": Family(
        seed=1,
        papers=((0.93, 0.93, 0.92), (0.95, 0.91, 0.80), (0.72, 0.72, 0.70), (0.78, 0.66, 0.50)),
        rulings=(
            None,
            None,
            Ruling(0.045, (0.62, 0.72, 0.86), margin=True),
            Ruling(0.028, (0.66, 0.70, 0.80), squared=True),
        ),
        pens=(((0.08, 0.08, 0.10), 0.0), ((0.16, 0.20, 0.55), 0.1), ((0.38, 0.38, 0.40), 0.5)),
        desks=((0.33, 0.20, 0.12), (0.10, 0.10, 0.12), (0.60, 0.48, 0.34)),
    ),
    "reported": Family(
        seed=2,
        papers=((0.86, 0.86, 0.83), (0.97, 0.93, 0.62), (0.74, 0.82, 0.88), (0.82, 0.74, 0.66)),
        rulings=(
            None,
            None,
            Ruling(0.036, (0.70, 0.66, 0.62)),
            Ruling(0.034, (0.60, 0.74, 0.66), squared=True, margin=True),
        ),
        pens=(((0.12, 0.10, 0.09), 0.05), ((0.50, 0.10, 0.12), 0.0), ((0.32, 0.33, 0.36), 0.4)),
        desks=((0.22, 0.24, 0.26), (0.45, 0.30, 0.18), (0.16, 0.10, 0.07)),
    ),
}


def photographed(drawing: np.ndarray, family: str, name: str, side: int = 1000) -> bytes:
    """A JPEG file of a clean drawing, uint8 [h, w], 255 paper and 0 ink, on a sheet of paper.

    The same bytes for the same drawing, family and name. side: px of the picture's long side. Raises KeyError for a
    family that is none of `FAMILIES`.
    """
    made = FAMILIES[family]
    chance = np.random.default_rng([made.seed, zlib.crc32(name.encode())])
    scan = chance.random() < 0.25
    height, width = (side, side * 3 // 4) if chance.random() < 0.5 else (side * 3 // 4, side)
    page = _page(drawing, made, chance, width * 9 // 10, height * 9 // 10)
    corners = _corners(chance, width, height, scan)
    desk = np.asarray(made.desks[chance.integers(len(made.desks))], dtype=np.float32)
    scene = _laid(page, corners, _desk(chance, desk, width, height, scan))
    scene *= _light(chance, width, height, scan)[..., None] * (1 - chance.uniform(0, 0.12, 3).astype(np.float32))
    return _file(scene, chance, scan)


def _page(drawing: np.ndarray, made: Family, chance: np.random.Generator, width: int, height: int) -> np.ndarray:
    """The sheet, float32 [h, w, 3] reflectances."""
    paper = np.asarray(made.papers[chance.integers(len(made.papers))], dtype=np.float32)
    grain = _field(chance, width, height, 2) * chance.uniform(0.01, 0.025) + _field(chance, width, height, 60) * 0.02
    page = paper * (1 + grain[..., None])
    if (ruling := made.rulings[chance.integers(len(made.rulings))]) is not None:
        page *= 1 - _lines(ruling, width, height)[..., None] * (1 - np.asarray(ruling.ink, dtype=np.float32))
        if ruling.margin:
            at = int(0.12 * width)
            page[:, at : at + max(2, width // 450)] *= np.array([0.85, 0.5, 0.5], dtype=np.float32)
    colour, worn = made.pens[chance.integers(len(made.pens))]
    size = int(min(width, height) * chance.uniform(0.5, 0.85))
    left, top = int(chance.uniform(0.05, 0.95) * (width - size)), int(chance.uniform(0.05, 0.95) * (height - size))
    ink = np.asarray(Image.fromarray(255 - drawing).resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    ink = np.clip(ink / 255, 0, 1) * (1 - worn * np.clip(_field(chance, size, size, 3), 0, 1))
    page[top : top + size, left : left + size] *= 1 - ink[..., None] * (1 - np.asarray(colour, dtype=np.float32))
    return page.clip(0, 1)


def _lines(ruling: Ruling, width: int, height: int) -> np.ndarray:
    """Coverage by printed lines, float32 [h, w]."""
    pitch, thick = ruling.pitch * width, max(1.2, width / 450)
    down = (np.arange(height) % pitch < thick).astype(np.float32)
    across = (np.arange(width) % pitch < thick).astype(np.float32)
    covered = np.repeat(down[:, None], width, axis=1)
    return np.maximum(covered, across[None]) if ruling.squared else covered


def _corners(chance: np.random.Generator, width: int, height: int, scan: bool) -> np.ndarray:
    """Where the corners of the page lie in the picture, float [4, 2]: upper left, lower left, lower right, upper right.
    Outside the picture where it shows a part of the page."""
    outward = chance.uniform(0.0, 0.05) if scan or chance.random() < 0.35 else -chance.uniform(0.02, 0.10)
    turned = np.deg2rad(chance.uniform(-2, 2) if scan else chance.uniform(-7, 7))
    skew = 0.0 if scan else 0.06
    x, y = width / 2 * (1 + 2 * outward), height / 2 * (1 + 2 * outward)
    corners = np.array([(-x, -y), (-x, y), (x, y), (x, -y)])
    corners += chance.uniform(-skew, skew, (4, 2)) * (width, height)
    turn = np.array([(np.cos(turned), np.sin(turned)), (-np.sin(turned), np.cos(turned))])
    return corners @ turn + (width / 2, height / 2)


def _desk(chance: np.random.Generator, colour: np.ndarray, width: int, height: int, scan: bool) -> np.ndarray:
    """What lies below the page, float32 [h, w, 3]: a desk with the grain of wood, or the lid of a scanner."""
    if scan:
        return np.full((height, width, 3), 0.06, dtype=np.float32)
    streaks = np.repeat(_field(chance, width, max(2, height // 12), 30), 12, axis=0)
    streaks = np.pad(streaks, ((0, max(0, height - len(streaks))), (0, 0)), mode="edge")[:height]
    return colour * (1 + 0.15 * streaks[..., None] + 0.05 * _field(chance, width, height, 2)[..., None])


def _laid(page: np.ndarray, corners: np.ndarray, desk: np.ndarray) -> np.ndarray:
    """The page on the desk, float32 [h, w, 3]."""
    (height, width), (rows, columns) = page.shape[:2], desk.shape[:2]
    of = np.array([(0, 0), (0, height), (width, height), (width, 0)], dtype=float)
    system = np.zeros((8, 8))
    for i, ((x, y), (u, v)) in enumerate(zip(corners, of, strict=True)):
        system[2 * i] = x, y, 1, 0, 0, 0, -u * x, -u * y
        system[2 * i + 1] = 0, 0, 0, x, y, 1, -v * x, -v * y
    back = tuple(np.linalg.solve(system, of.ravel()))

    def seen(values: np.ndarray) -> np.ndarray:
        return np.asarray(
            Image.fromarray(values).transform(
                (columns, rows), Image.Transform.PERSPECTIVE, back, Image.Resampling.BILINEAR
            ),
            dtype=np.float32,
        )

    sheet = seen((page * 255).astype(np.uint8)) / 255
    shown = seen(np.full((height, width), 255, dtype=np.uint8))[..., None] / 255
    return sheet * shown + desk * (1 - shown)


def _light(chance: np.random.Generator, width: int, height: int, scan: bool) -> np.ndarray:
    """Brightness of each pixel, float32 [h, w]."""
    y, x = np.mgrid[-1 : 1 : complex(0, height), -1 : 1 : complex(0, width)].astype(np.float32)
    if scan:  # darker towards the spine
        return chance.uniform(0.88, 1.0) * (1 - chance.uniform(0.1, 0.5) * np.exp((x - 1) / 0.15))
    angle = chance.uniform(0, 2 * np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    light = 1 - chance.uniform(0.15, 0.4) * (along + 1) / 2
    light *= 1 - chance.uniform(0.05, 0.25) * (x**2 + y**2) / 2
    if chance.random() < 0.6:  # of a hand or a phone
        angle, soft = chance.uniform(0, 2 * np.pi), chance.uniform(0.04, 0.2)
        edge = x * np.cos(angle) + y * np.sin(angle) - chance.uniform(-0.4, 0.6) + 0.15 * np.sin(3 * (x - y))
        light *= 1 - chance.uniform(0.25, 0.5) / (1 + np.exp(-edge / soft))
    return light * chance.uniform(0.75, 1.0)


def _file(scene: np.ndarray, chance: np.random.Generator, scan: bool) -> bytes:
    """A JPEG file of what a camera or a scanner sees."""
    encoded = np.clip(scene, 0, 1) ** (1 / 1.3)  # cameras lift what is dark; reflectances here are half encoded
    picture = Image.fromarray((encoded * 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(chance.uniform(0.3, 0.8) if scan else chance.uniform(0.5, 1.8)))
    noise = chance.normal(0, chance.uniform(1, 3) if scan else chance.uniform(2, 6), (*scene.shape[:2], 1))
    pixels = np.asarray(picture, dtype=np.float32) + noise
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    orientation = int(chance.choice(list(_STORED)))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    turn = _STORED[orientation]
    buffer = io.BytesIO()
    quality = int(chance.integers(55, 92))
    (picture.transpose(turn) if turn is not None else picture).save(buffer, "JPEG", quality=quality, exif=exif)
    return buffer.getvalue()


def _field(chance: np.random.Generator, width: int, height: int, coarse: int) -> np.ndarray:
    """Smooth noise, float32 [h, w], of deviation about 1: one random number each `coarse` pixels."""
    few = chance.standard_normal((height // coarse + 2, width // coarse + 2)).astype(np.float32)
    return np.asarray(Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC))
