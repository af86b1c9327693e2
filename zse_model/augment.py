"""Augment the pixels of sketches and photos. Each function is pure in (pixels, config, state of the generator).

Left out: which pictures are augmented, and whether they are mirrored (a sketch and its own photo together).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import cos, exp, log, pi, radians, sin, sqrt

import numpy as np
from PIL import Image, ImageChops, ImageEnhance, ImageFilter
from scipy.ndimage import map_coordinates

from zse_model.errors import ZseError

# Erasing leaves at least this share of the ink: a sketch without its subject teaches nothing but noise.
INK_KEPT = 0.4
STROKE = 2.0  # the width of a stroke in pixels of a 128 px picture, that strokes which run together are told from


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """The largest strength of each change; 0 = off. The strength is drawn uniformly from 0 to it, in both directions.

    rotate: degrees a sketch turns, 0..180.           scale: share a sketch grows or shrinks, 0..0.5.
    translate: share of the side a sketch moves, 0..0.3.
    thickness: change of stroke width, 0..1. 1 widens strokes by one pixel on each side, or thins them by half as much.
    erase: probability that patches of a sketch are erased, 0..1.
    wobble: share of the side that points of a sketch are moved by, neighbours alike, 0..0.1.
    pressure: change of stroke width along a sketch's strokes, 0..1; as thickness, but another one at each place.
    gaps: probability that the strokes of a sketch are interrupted, 0..1.
    merge: distance at which strokes of a sketch run together, as a share of the side, 0..0.03. Details are lost.
    crop: share of a photo's area that may be cropped, 0..0.9; the rest is resized to the square.
    colour: relative change of a photo's brightness, contrast and saturation, 0..0.9.
    grey: probability that a photo loses its colours, 0..1.
    flip: probability that a pair is mirrored, 0..1; drawn by the caller.

    Raises ZseError for a value outside its range.
    """

    __pydantic_config__ = {"extra": "forbid"}

    rotate: float = 0.0
    scale: float = 0.0
    translate: float = 0.0
    thickness: float = 0.0
    erase: float = 0.0
    wobble: float = 0.0
    pressure: float = 0.0
    gaps: float = 0.0
    merge: float = 0.0
    crop: float = 0.0
    colour: float = 0.0
    grey: float = 0.0
    flip: float = 0.0

    def __post_init__(self) -> None:
        highest = {
            "rotate": 180,
            "scale": 0.5,
            "translate": 0.3,
            "wobble": 0.1,
            "merge": 0.03,
            "crop": 0.9,
            "colour": 0.9,
        }
        for field in fields(self):
            value, limit = getattr(self, field.name), highest.get(field.name, 1)
            if not 0 <= value <= limit:
                raise ZseError(f"augment.{field.name} is {value}, allowed are 0 (off) to {limit}")


def augment_sketch(array: np.ndarray, config: AugmentConfig, rng: np.random.Generator, *, flip: bool) -> np.ndarray:
    """Augment a sketch: uint8 [s, s] → uint8 [s, s], 255 paper. Pixels from outside the square are paper."""
    picture = Image.fromarray(array)
    if flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if config.rotate or config.scale or config.translate:
        picture = _affine(picture, config, rng)
    if config.wobble:
        picture = Image.fromarray(_wobbled(np.array(picture), rng.uniform(0, config.wobble), rng))
    if config.merge:
        picture = _merged(picture, rng.uniform(0, config.merge))
    if config.thickness:
        picture = _thickness(picture, rng.uniform(-config.thickness, config.thickness))
    if config.pressure:
        picture = _pressed(picture, config.pressure, rng)
    pixels = np.array(picture)
    if config.gaps and rng.random() < config.gaps:
        pixels = _interrupted(pixels, rng)
    if config.erase and rng.random() < config.erase:
        pixels = _erased(pixels, rng)
    return pixels


def augment_photo(array: np.ndarray, config: AugmentConfig, rng: np.random.Generator, *, flip: bool) -> np.ndarray:
    """Augment a photo: uint8 RGB [s, s, 3] → uint8 RGB [s, s, 3]."""
    picture = Image.fromarray(array)
    if flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if config.crop:
        picture = _cropped(picture, config.crop, rng)
    if config.colour:
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            picture = enhance(picture).enhance(1 + rng.uniform(-config.colour, config.colour))
    if config.grey and rng.random() < config.grey:
        picture = picture.convert("L").convert("RGB")
    return np.array(picture)


def _affine(picture: Image.Image, config: AugmentConfig, rng: np.random.Generator) -> Image.Image:
    """Scaled, turned and moved around the centre.

    Scaled by `resize`, which averages over areas; `transform` samples points, and would break up strokes it shrinks.
    """
    side = picture.width
    angle = radians(rng.uniform(-config.rotate, config.rotate))
    scaled = max(1, round(side * (1 + rng.uniform(-config.scale, config.scale))))
    dx, dy = side * rng.uniform(-config.translate, config.translate, size=2)
    if scaled != side:
        picture = picture.resize((scaled, scaled), Image.Resampling.BILINEAR)
    # Pillow needs the inverse map: undo the translation, rotate about the new centre, move to the old one
    c, s, x, y = cos(angle), sin(angle), side / 2 + dx, side / 2 + dy
    matrix = (c, s, scaled / 2 - c * x - s * y, -s, c, scaled / 2 + s * x - c * y)
    method, resample = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return picture.transform((side, side), method, matrix, resample=resample, fillcolor=255)


def _thickness(picture: Image.Image, amount: float) -> Image.Image:
    """Strokes one pixel wider on each side (amount 1), or lighter and thinner (-1: blended half and half)."""
    change = ImageChops.darker if amount > 0 else ImageChops.lighter
    changed = picture
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        moved = Image.new("L", picture.size, 255)
        moved.paste(picture, (dx, dy))
        changed = change(changed, moved)
    return Image.blend(picture, changed, amount if amount > 0 else -amount / 2)


def _field(side: int, waves: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth random field in about -1..1, float32 [side, side]; waves: random values along a side."""
    values = Image.fromarray(rng.uniform(-1, 1, (waves, waves)).astype(np.float32))
    return np.asarray(values.resize((side, side), Image.Resampling.BICUBIC))


def _wobbled(pixels: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Points moved by up to `amount` of the side, by a field of 5 to 9 values a side."""
    side, waves = len(pixels), int(rng.integers(5, 10))
    rows, columns = (amount * side * _field(side, waves, rng) for _ in range(2))
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    return map_coordinates(pixels, [y + rows, x + columns], order=1, mode="constant", cval=255)


def _merged(picture: Image.Image, distance: float) -> Image.Image:
    """Strokes nearer than `distance` of the side run together: what is as dark after a blur as the middle of a single
    stroke is added to the picture, which keeps all that it had."""
    radius = 0.7 * distance * picture.width
    if radius < 0.3:
        return picture
    ink = 255 - np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32)
    alone = 255 * min(1.0, STROKE * picture.width / 128 / (radius * sqrt(2 * pi)))  # the middle of a blurred stroke
    together = Image.fromarray((255 - 255 * np.clip(8 * (ink / alone - 0.95), 0, 1)).astype(np.uint8))
    return ImageChops.darker(picture, together)


def _pressed(picture: Image.Image, amount: float, rng: np.random.Generator) -> Image.Image:
    """`_thickness` of another amount at each place."""
    thick, thin = (np.asarray(_thickness(picture, one), dtype=np.float32) for one in (1.0, -1.0))
    plain = np.asarray(picture, dtype=np.float32)
    by = amount * _field(picture.width, int(rng.integers(4, 9)), rng).clip(-1, 1)
    pressed = np.where(by > 0, plain + by * (thick - plain), plain - by * (thin - plain))
    return Image.fromarray(pressed.round().clip(0, 255).astype(np.uint8))


def _interrupted(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Paper where a field of many waves is high. Returns the input if less than INK_KEPT of the ink is left."""
    field = _field(len(pixels), int(rng.integers(10, 21)), rng)
    left = np.where(field > np.quantile(field, rng.uniform(0.75, 0.95)), 255, pixels).astype(np.uint8)
    return left if _ink(left) >= INK_KEPT * _ink(pixels) else pixels


def _erased(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Erase up to three patches, or one band across. Returns the input if less than INK_KEPT of the ink is left."""
    side = len(pixels)
    left = pixels.copy()
    if rng.random() < 0.25:
        start, width = rng.uniform(0, 0.85), rng.uniform(0.08, 0.2)
        band = slice(int(start * side), int((start + width) * side))
        left[(band, slice(None)) if rng.random() < 0.5 else (slice(None), band)] = 255
    else:
        for _ in range(rng.integers(1, 4)):
            height, width = (rng.uniform(0.1, 0.3, size=2) * side).astype(int)
            y, x = rng.integers(0, side - height + 1), rng.integers(0, side - width + 1)
            left[y : y + height, x : x + width] = 255
    return left if _ink(left) >= INK_KEPT * _ink(pixels) else pixels


def _ink(pixels: np.ndarray) -> int:
    return 255 * pixels.size - int(pixels.sum(dtype=np.int64))


def _cropped(picture: Image.Image, crop: float, rng: np.random.Generator) -> Image.Image:
    """A window with at least 1 - crop of the area, slightly stretched, resized back with anti-aliasing."""
    side = picture.width
    kept = 1 - rng.uniform(0, crop)
    stretch = exp(rng.uniform(-1, 1) * min(log(4 / 3), -log(kept)) / 2)  # never wider than the picture
    width, height = side * sqrt(kept) * stretch, side * sqrt(kept) / stretch
    x, y = rng.uniform(0, side - width), rng.uniform(0, side - height)
    box = (x, y, x + width, y + height)
    return picture.resize(picture.size, Image.Resampling.BILINEAR, box=box)
