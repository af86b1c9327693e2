"""Shapes in a unit square, and the parts that categories share: wheels, legs, roofs, handles, leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np

Points = Sequence[tuple[float, float]] | np.ndarray


@dataclass(frozen=True)
class Part:
    """A shape of a drawing."""

    points: np.ndarray
    """float64 [n, 2], x and y; y points down."""
    role: str
    """Its material."""
    closed: bool = True
    width: float = 0.0
    """The thickness of an open stroke in a photo."""
    detail: bool = False
    """A careless hand may leave it out."""


class Drawing:
    """The parts of one instance, back to front, in a unit square whose y axis points down."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.parts: list[Part] = []

    def u(self, low: float, high: float) -> float:
        """Uniform in low..high."""
        return low + (high - low) * self.rng.random()

    def n(self, low: int, high: int) -> int:
        """An integer in low..high."""
        return int(self.rng.integers(low, high + 1))

    def maybe(self, chance: float = 0.5) -> bool:
        """True with this probability."""
        return self.rng.random() < chance

    def poly(self, points: Points, role: str = "body", detail: bool = False) -> None:
        """A closed shape with corners."""
        self.parts.append(Part(np.asarray(points, dtype=float), role, detail=detail))

    def smooth(self, points: Points, role: str = "body", detail: bool = False) -> None:
        """A closed shape without corners; its control points are slightly off in every instance."""
        shaken = np.asarray(points, dtype=float) + self.rng.normal(0.0, 0.006, (len(points), 2))
        self.poly(rounded(shaken, closed=True), role, detail)

    def box(
        self, x0: float, y0: float, x1: float, y1: float, role: str = "body", soft: float = 0.0, detail: bool = False
    ) -> None:
        """A rectangle; `soft` is how much of every corner is cut off."""
        corners = [(x0, y0, 1, 1), (x1, y0, -1, 1), (x1, y1, -1, -1), (x0, y1, 1, -1)]
        if soft:
            cut = [[(x, y + v * soft), (x + h * soft, y)][:: h * v] for x, y, h, v in corners]
            self.poly(rounded([point for pair in cut for point in pair], closed=True, times=1), role, detail)
        else:
            self.poly([corner[:2] for corner in corners], role, detail)

    def oval(
        self, x: float, y: float, rx: float, ry: float, role: str = "body", turn: float = 0.0, detail: bool = False
    ) -> None:
        """An ellipse with the radii `rx` and `ry`, turned by `turn` radians about its centre."""
        self.poly(arc(x, y, rx, ry, 0.0, 2 * pi, turn)[:-1], role, detail)

    def line(
        self, points: Points, role: str = "dark", width: float = 0.02, curved: bool = False, detail: bool = False
    ) -> None:
        """A thin open stroke."""
        path = rounded(points, closed=False) if curved else np.asarray(points, dtype=float)
        self.parts.append(Part(path, role, closed=False, width=width, detail=detail))

    def tube(self, points: Points, start: float, end: float, role: str = "body", detail: bool = False) -> None:
        """A limb: a band along a curve, `start` wide at its beginning and `end` wide at its end."""
        path = rounded(points, closed=False, times=2)
        along = np.gradient(path, axis=0)
        across = np.stack([-along[:, 1], along[:, 0]], axis=1) / (np.hypot(*along.T)[:, None] + 1e-9)
        half = across * np.linspace(start, end, len(path))[:, None] / 2
        self.poly(np.concatenate([path + half, (path - half)[::-1]]), role, detail)

    def lathe(self, profile: Points, role: str = "body", x: float = 0.5, curved: bool = True) -> None:
        """A turned shape: `profile` lists (radius, y) from top to bottom and is mirrored about the axis at `x`."""
        side = rounded(profile, closed=False, times=2) if curved else np.asarray(profile, dtype=float)
        self.poly(np.concatenate([side * (1, 1) + (x, 0), side[::-1] * (-1, 1) + (x, 0)]), role)

    def wheel(self, x: float, y: float, r: float) -> None:
        """A tyre with its hub."""
        self.oval(x, y, r, r, "dark")
        self.oval(x, y, 0.55 * r, 0.55 * r, "trim", detail=True)

    def spoked(self, x: float, y: float, r: float, spokes: int) -> None:
        """A rim with spokes."""
        self.line(arc(x, y, r, r, 0, 2 * pi), "dark", 0.028)
        for k in range(spokes):
            a = pi * (k + 0.3) / spokes
            ends = [(x - r * cos(a), y - r * sin(a)), (x + r * cos(a), y + r * sin(a))]
            self.line(ends, "pale", 0.008, detail=True)

    def windows(self, x0: float, y0: float, x1: float, y1: float, columns: int, rows: int = 1) -> None:
        """A grid of windows that fills a rectangle."""
        w, h = (x1 - x0) / columns, (y1 - y0) / rows
        for i in range(columns):
            for j in range(rows):
                x, y = x0 + i * w, y0 + j * h
                self.box(x + 0.15 * w, y + 0.15 * h, x + 0.85 * w, y + 0.85 * h, "glass", detail=rows * columns > 1)

    def roof(self, x0: float, x1: float, y: float, height: float, eave: float = 0.05) -> None:
        """A gable on the wall x0..x1 whose top is `y`; `eave` is how far it sticks out on each side."""
        self.poly([(x0 - eave, y), ((x0 + x1) / 2, y - height), (x1 + eave, y)], "trim")

    def door(self, x: float, y: float, w: float, h: float, arched: bool = False) -> None:
        """A door that stands on (x, y); `arched` puts a half circle on its top."""
        if arched:
            arch = arc(x, y - h, w / 2, w / 2, pi, 2 * pi)
            self.poly([*arch, (x + w / 2, y), (x - w / 2, y)], "wood")
        else:
            self.box(x - w / 2, y - h, x + w / 2, y, "wood")

    def eye(self, x: float, y: float, r: float = 0.015) -> None:
        """A dot."""
        self.oval(x, y, r, r, "dark", detail=True)

    def legs(self, xs: Sequence[float], top: float, ground: float, w: float, role: str = "body") -> None:
        """One leg for each x, from `top` to `ground`, each with a knee of its own."""
        for x in xs:
            knee, foot = x + self.u(-0.02, 0.02), x + self.u(-0.03, 0.03)
            self.tube([(x, top), (knee, (top + ground) / 2), (foot, ground)], w, 0.7 * w, role)

    def handle(self, x: float, y: float, rx: float, ry: float, w: float, start: float = -pi / 2) -> None:
        """A half loop, by default open to the left as on a cup."""
        self.tube(arc(x, y, rx, ry, start, start + pi), w, w, "body")

    def leaf(self, x: float, y: float, length: float, angle: float, fat: float = 0.4) -> None:
        """A leaf from its stem at (x, y), with its rib; `fat` is its width as a share of its length."""
        c, s = length * cos(angle), length * sin(angle)
        middle, side, tip = np.array((x + c / 2, y + s / 2)), np.array((-s, c)) * fat / 2, (x + c, y + s)
        halves = [rounded(np.stack([(x, y), middle + way * side, tip]), closed=False) for way in (1, -1)]
        self.poly(np.concatenate([halves[0], halves[1][-2:0:-1]]), "leaf")
        self.line([(x, y), (x + 0.8 * c, y + 0.8 * s)], "pale", 0.008, detail=True)

    def fin(self, x: float, y: float, w: float, h: float, lean: float = 0.0, role: str = "trim") -> None:
        """A triangle standing on (x, y)..(x + w, y); a negative `h` hangs down."""
        self.poly([(x, y), (x + w / 2 + lean, y - h), (x + w, y)], role)

    def beak(self, x: float, y: float, length: float, depth: float) -> None:
        """A triangle that points right."""
        self.poly([(x, y - depth / 2), (x + length, y + 0.1 * depth), (x, y + depth / 2)], "trim")

    def hull(self, x0: float, x1: float, y: float, depth: float) -> None:
        """The body of a ship, whose deck is `y`."""
        slope = self.u(0.08, 0.16)
        self.poly([(x0, y), (x1, y), (x1 - slope, y + depth), (x0 + 0.6 * slope, y + depth)], "body")

    def rod(self, length: float, w: float, role: str = "wood") -> None:
        """The upright handle of a tool, its top end at (0.5, 0)."""
        self.tube([(0.5, 0), (0.5, length)], w, w * self.u(1.0, 1.4), role)

    def trunk(self, top: float, w: float, bend: float = 0.0) -> None:
        """The stem of a tree, from `top` to the ground."""
        self.tube([(0.5 + bend, top), (0.5 + bend / 3, 0.7), (0.5, 1)], 0.75 * w, 1.2 * w, "wood")


def rounded(points: Points, *, closed: bool, times: int = 3) -> np.ndarray:
    """Cut the corners of a path [n, 2] by Chaikin's scheme; an open path keeps its two ends."""
    path = np.asarray(points, dtype=float)
    for _ in range(times):
        here, there = (path, np.roll(path, -1, axis=0)) if closed else (path[:-1], path[1:])
        cut = np.stack([0.75 * here + 0.25 * there, 0.25 * here + 0.75 * there], axis=1).reshape(-1, 2)
        path = cut if closed else np.concatenate([path[:1], cut, path[-1:]])
    return path


def arc(x: float, y: float, rx: float, ry: float, start: float, stop: float, turn: float = 0.0) -> np.ndarray:
    """Points of an ellipse from angle `start` to `stop` (0 is right, pi / 2 is down), turned about its centre."""
    angle = np.linspace(start, stop, max(5, round(abs(stop - start) * 4)))
    dx, dy = rx * np.cos(angle), ry * np.sin(angle)
    return np.stack([x + dx * cos(turn) - dy * sin(turn), y + dx * sin(turn) + dy * cos(turn)], axis=1)
