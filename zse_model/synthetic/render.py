"""Render instances: the photo fills their parts, a sketch traces their outlines."""

from __future__ import annotations

import colorsys
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from zse_model.errors import ZseError
from zse_model.synthetic.categories import CATEGORIES
from zse_model.synthetic.categories.registry import KNOWN
from zse_model.synthetic.shapes import Drawing, Part


def draw_photo(category: str, instance: int, *, size: int = 128, seed: int = 0) -> np.ndarray:
    """The instance as if photographed: uint8 [size, size, 3]. Raises ZseError for an unknown category."""
    parts = _instance(category, instance, seed)
    rng = _rng("photo", category, instance, seed)
    labels, frames = _labels(parts, rng, size)
    # A bright object on dark ground or the reverse: brightness alone must not give the object away.
    if rng.random() < 0.5:
        tone, ground = rng.uniform(0.7, 0.95), rng.uniform(0.12, 0.42)
    else:
        tone, ground = rng.uniform(0.18, 0.38), rng.uniform(0.62, 0.95)
    roles = [part.role for part in parts]
    labels.putpalette([channel for colour in _palette(roles, tone, rng) for channel in colour])
    front = np.asarray(labels.convert("RGB").reduce(2), dtype=np.float32)
    shade = _shade(roles, labels, frames, rng)
    covered = labels.point([0] + [255] * 255, "L").reduce(2)
    behind = _behind(covered, ground, rng)
    # Edge pixels of `front` are already mixed with black, so the background only has to be added.
    mixed = front * shade[..., None] + behind * (1 - np.asarray(covered, dtype=np.float32)[..., None] / 255)
    image = Image.fromarray(mixed.clip(0, 255).astype(np.uint8))
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, max(0.2, 0.006 * size))))
    grain = rng.uniform(2, 7) * rng.standard_normal((size, size, 1), dtype=np.float32)
    return (np.asarray(image) + grain).clip(0, 255).astype(np.uint8)


def draw_sketch(category: str, instance: int, *, variant: int = 0, size: int = 128, seed: int = 0) -> np.ndarray:
    """The instance as drawn from memory by hand number `variant`: uint8 [size, size], ink 0 on paper 255.

    Raises ZseError for an unknown category.
    """
    parts = _instance(category, instance, seed)
    rng = _rng("sketch", category, instance, seed, variant)
    hand = _Hand.of(rng)
    sheet = Image.new("L", (2 * size, 2 * size), 255)
    draw = ImageDraw.Draw(sheet)
    for part, path in zip(parts, _traced(parts, hand, rng, size), strict=True):
        if part.detail and rng.random() < hand.careless:
            continue
        if part.closed:
            draw.polygon(path.ravel().tolist(), fill=255)  # hides what lies behind
        strokes = _strokes(path, part.closed, rng)
        for stroke in strokes:
            luck = rng.random(4)
            if luck[0] < 0.04 and len(strokes) > 1:
                continue  # forgotten; never a whole outline
            _draw_stroke(draw, stroke, luck, hand.thick, 2 * size, rng)
    return np.asarray(sheet.reduce(2))


# An instance --------------------------------------------------------------------------------------------------------


def _rng(*key: object) -> np.random.Generator:
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def _instance(category: str, instance: int, seed: int) -> list[Part]:
    """The parts of one instance in its pose, centred on the origin, with a longer side of 1."""
    if category not in KNOWN:
        raise ZseError(f"Unknown category {category!r}. Known categories: {', '.join(CATEGORIES)}")
    rng = _rng("instance", category, instance, seed)
    drawing = Drawing(rng)
    KNOWN[category].draw(drawing)
    turn, flip, stretch = rng.normal(0, 0.1), rng.choice((-1, 1)), np.exp(rng.normal(0, 0.08))
    pose = np.diag([flip * stretch, 1 / stretch]) @ _rotation(turn)
    posed = [part.points @ pose for part in drawing.parts]
    everything = np.concatenate(posed)
    low, high = everything.min(axis=0), everything.max(axis=0)
    fit = 1 / (high - low).max()
    return [
        replace(part, points=(points - (low + high) / 2) * fit, width=part.width * fit)
        for part, points in zip(drawing.parts, posed, strict=True)
    ]


def _rotation(angle: float) -> np.ndarray:
    return np.array([[cos(angle), sin(angle)], [-sin(angle), cos(angle)]])


# A photo ------------------------------------------------------------------------------------------------------------

# Hue and saturation of the materials that have their own; the others take any.
_HUES = {"leaf": (0.3, 0.6), "wood": (0.08, 0.5), "metal": (0.6, 0.1), "glass": (0.55, 0.25), "dark": (0.6, 0.15)}
# How far a material's brightness lies from that of the whole object.
_TONES = {"body": 0, "trim": -0.08, "dark": -0.2, "pale": 0.18, "glass": 0.1, "wood": -0.05, "leaf": 0, "metal": 0.08}


def _colour(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    r, g, b = colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0), 1), min(max(value, 0.03), 1))
    return round(255 * r), round(255 * g), round(255 * b)


def _clouds(rng: np.random.Generator, cells: int, size: int) -> np.ndarray:
    """Smooth noise around 0, most of it within -1..1."""
    coarse = Image.fromarray(rng.normal(0, 0.6, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """One of: plain, mottled, striped, spotted; values around 0."""
    kind = rng.integers(4)
    if kind == 0:
        return np.zeros((size, size), dtype=np.float32)
    if kind == 1:
        return _clouds(rng, int(rng.integers(12, 40)), size)
    x = np.arange(size, dtype=np.float32) * (rng.uniform(25, 70) / size)
    c, s = _rotation(rng.uniform(0, pi))[0].astype(np.float32)
    stripes = np.sin(x * c + x[:, None] * s)
    return stripes if kind == 2 else stripes * np.sin(x[:, None] * c - x * s)


def _background(rng: np.random.Generator, size: int, value: float) -> Image.Image:
    """Two fields, mostly with a horizon, and things lying about, all somewhat out of focus."""
    hue, horizon, tilt = rng.uniform(), rng.uniform(0.35, 0.85) * size, rng.normal(0, 0.06) * size
    sky, ground = (
        _colour(hue + rng.normal(0, 0.15), rng.uniform(0, 0.5), value + rng.normal(0, 0.05)) for _ in range(2)
    )
    image = Image.new("RGB", (size, size), sky)
    draw = ImageDraw.Draw(image)
    if rng.random() < 0.7:
        draw.polygon([0, horizon - tilt, size, horizon + tilt, size, size, 0, size], fill=ground)
    for _ in range(rng.integers(2, 9)):
        (x, y), (rx, ry) = rng.uniform(0, size, 2), rng.uniform(0.03, 0.2, 2) * size
        colour = _colour(hue + rng.normal(0, 0.2), rng.uniform(0, 0.6), value + rng.normal(0, 0.14))
        kind = rng.integers(4)
        if kind == 0:
            draw.ellipse([x - rx, y - ry, x + rx, y + ry], fill=colour)
        elif kind == 1:
            draw.rectangle([x - rx, y - ry, x + rx, y + ry], fill=colour)
        elif kind == 2:
            draw.polygon((rng.normal(0, 1, (4, 2)) * (rx, ry) + (x, y)).ravel().tolist(), fill=colour)
        else:
            draw.line([x, y, *rng.uniform(0, size, 2)], fill=colour, width=int(rng.integers(1, 2 + size // 24)))
    return image.filter(ImageFilter.BoxBlur(rng.uniform(0.004, 0.02) * size))


def _labels(parts: Sequence[Part], rng: np.random.Generator, size: int) -> tuple[Image.Image, np.ndarray]:
    """Which part is seen where (0: none), at twice the size so that averaging smooths the edges; and of each label its
    centre and extent in the photo, float32 [parts + 1, 4]."""
    scale = rng.uniform(0.5, 0.85)
    centre = 0.5 + rng.uniform(-1, 1, 2) * (1.04 - scale) / 2
    labels = Image.new("P", (2 * size, 2 * size), 0)
    draw = ImageDraw.Draw(labels)
    frames = np.full((len(parts) + 1, 4), size, dtype=np.float32)
    for k, part in enumerate(parts, 1):
        xy = (part.points * scale + centre) * 2 * size
        if part.closed:
            draw.polygon(xy.ravel().tolist(), fill=k)
        else:
            draw.line(xy.ravel().tolist(), fill=k, width=max(2, round(part.width * scale * 2 * size)), joint="curve")
        low, high = xy.min(axis=0) / 2, xy.max(axis=0) / 2
        frames[k] = *((low + high) / 2), *(high - low + 2)
    return labels, frames


def _palette(roles: Sequence[str], tone: float, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """The colour of each label; black where no part is."""
    hues = {role: _HUES.get(role, (rng.uniform(), rng.uniform(0.1, 0.8))) for role in _TONES}
    palette = [(0, 0, 0)]
    for role in roles:
        hue, saturation = hues[role]
        palette.append(_colour(hue + rng.normal(0, 0.02), saturation, tone + _TONES[role] + rng.normal(0, 0.04)))
    return palette


def _shade(roles: Sequence[str], labels: Image.Image, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How bright each pixel's surface is, float32 [size, size], around 1. Light falls across every part from the same
    side; texture shows on the large surfaces only."""
    seen = np.asarray(labels)[::2, ::2]
    slope = rng.uniform(0.15, 0.5) * _rotation(rng.uniform(0, 2 * pi))[0].astype(np.float32) / frames[:, 2:]
    offset = 1 - (slope * frames[:, :2]).sum(axis=1)
    grid = np.arange(len(seen), dtype=np.float32)
    shade = offset[seen] + slope[:, 0][seen] * grid + slope[:, 1][seen] * grid[:, None]
    rough = np.array([0] + [role in ("body", "trim", "leaf") for role in roles], dtype=np.float32)
    shade += (rng.uniform(0.08, 0.25) * rough)[seen] * _texture(rng, len(seen))
    return shade


def _behind(covered: Image.Image, ground: float, rng: np.random.Generator) -> np.ndarray:
    """The background with the object's shadow, float32 [size, size, 3]. covered: where the object is."""
    size = covered.width
    shadow = Image.new("L", (size, size))
    shadow.paste(covered, (round(rng.uniform(-0.06, 0.06) * size), round(rng.uniform(0.01, 0.06) * size)))
    shadow = np.asarray(shadow.filter(ImageFilter.BoxBlur(0.04 * size)), dtype=np.float32) / 255
    light = 1 - rng.uniform(0.1, 0.45) * shadow + 0.12 * _clouds(rng, int(rng.integers(4, 24)), size)
    return np.asarray(_background(rng, size, ground), dtype=np.float32) * light[..., None]


# A sketch ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Hand:
    """How one hand draws: how large and crooked, how unsteady, how thick, how careless."""

    view: np.ndarray
    centre: np.ndarray
    unsteady: float
    thick: float
    careless: float

    @classmethod
    def of(cls, rng: np.random.Generator) -> _Hand:
        scale, stretch, shear = rng.uniform(0.66, 0.9), np.exp(rng.normal(0, 0.05)), rng.normal(0, 0.05)
        view = scale * np.array([[stretch, 0], [shear, 1 / stretch]]) @ _rotation(rng.normal(0, 0.06))
        centre = 0.5 + rng.uniform(-1, 1, 2) * (0.96 - scale) / 2
        return cls(view, centre, rng.uniform(0.003, 0.009), rng.uniform(0.011, 0.022), rng.uniform(0.05, 0.35))


def _traced(parts: Sequence[Part], hand: _Hand, rng: np.random.Generator, size: int) -> list[np.ndarray]:
    """The path of each part as the hand moves along it, in pixels of a sheet of twice the size."""
    paths = [_dense(part.points, part.closed) for part in parts]
    points = np.concatenate(paths) @ hand.view + hand.centre
    # A slow bend over the whole sheet plus a faster tremble that runs along the paths.
    phase, run = rng.uniform(0, 2 * pi, (2, 2)), np.arange(len(points))[:, None]
    points += 2 * hand.unsteady * np.sin(points[:, ::-1] * rng.uniform(3, 7, 2) + phase[0])
    points += hand.unsteady * np.sin(run * rng.uniform(0.5, 1.1, 2) + phase[1]) * rng.uniform(0.2, 1, (len(points), 1))
    points *= 2 * size
    return np.split(points, np.cumsum([len(path) for path in paths])[:-1])


def _dense(points: np.ndarray, closed: bool, step: float = 0.05) -> np.ndarray:
    """The same path with extra points, so that a straight edge can be bent."""
    ends = np.concatenate([points, points[:1]]) if closed else points
    edges = np.diff(ends, axis=0)
    pieces = np.ceil(np.hypot(edges[:, 0], edges[:, 1]) / step).clip(1).astype(int)
    start = np.repeat(np.arange(len(edges)), pieces)
    within = np.arange(len(start)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    path = ends[start] + edges[start] * (within / pieces[start])[:, None]
    return path if closed else np.concatenate([path, ends[-1:]])


def _strokes(path: np.ndarray, closed: bool, rng: np.random.Generator) -> list[np.ndarray]:
    """Where the pen is lifted: at the corners, or somewhere on a shape that has none."""
    if not closed:
        return [path]
    ahead = np.roll(path, -1, axis=0) - path
    behind = np.roll(ahead, 1, axis=0)
    cross, dot = behind[:, 0] * ahead[:, 1] - behind[:, 1] * ahead[:, 0], (behind * ahead).sum(axis=1)
    corners = np.flatnonzero(np.abs(np.arctan2(cross, dot)) > 0.8)
    if len(corners) < 2:
        corners = rng.integers(len(path), size=1)
    path = np.roll(path, -corners[0], axis=0)
    path = np.concatenate([path, path[:1]])
    stops = [*(corners - corners[0]), len(path) - 1]
    return [path[a : b + 1] for a, b in zip(stops, stops[1:], strict=False)]


def _draw_stroke(
    draw: ImageDraw.ImageDraw, stroke: np.ndarray, luck: np.ndarray, thick: float, side: int, rng: np.random.Generator
) -> None:
    """Draw a stroke, some strokes twice. luck: [4] in 0..1, of which the last three are read here. thick: the pen's
    width as a share of the sheet's `side` in pixels."""
    for again in range(1 + (luck[1] < 0.12)):
        drawn = stroke + again * rng.normal(0, 0.008 * side, 2)
        # The pen overshoots or stops short at both ends.
        drawn[0] += (drawn[0] - drawn[1]) * (luck[2] - 0.4)
        drawn[-1] += (drawn[-1] - drawn[-2]) * (luck[3] - 0.4)
        middle = len(drawn) // 2
        for piece in (drawn[: middle + 1], drawn[middle:]):
            draw.line(piece.ravel().tolist(), fill=0, width=max(2, round(thick * side * rng.uniform(0.7, 1.25))))
