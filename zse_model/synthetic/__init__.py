"""A small drawn world: photo-like pictures and hand-drawn sketches of the same made-up instances.

Every category is a short method that places parts (wheels, legs, roofs, handles, leaves, ...) in a `Drawing`, with
proportions, counts and pose taken from a generator that belongs to one instance. The photo fills those parts with
coloured, textured, lit surfaces in front of a cluttered background; the sketch traces the outlines of the very same
parts with an unsteady hand. Parts are shared between categories, so what is learnt on some of them carries
over to others, which is what a zero-shot experiment needs.

The pictures are a function of their arguments alone (for given NumPy and Pillow releases). Left out: perspective,
occlusion between objects, several objects in one picture, and any claim that results carry over to real photos.
"""

import colorsys
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Points = Sequence[tuple[float, float]] | np.ndarray


@dataclass(frozen=True)
class Part:
    """One shape. `role` names its material, `width` is the thickness of an open stroke in a photo."""

    points: np.ndarray
    role: str
    closed: bool = True
    width: float = 0.0
    detail: bool = False  # a hurried hand may leave it out


class Drawing:
    """Collects the parts of one instance, back to front, in a unit square whose y axis points down."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.parts: list[Part] = []

    def u(self, low: float, high: float) -> float:
        return low + (high - low) * self.rng.random()

    def n(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def maybe(self, chance: float = 0.5) -> bool:
        return self.rng.random() < chance

    def poly(self, points: Points, role: str = "body", detail: bool = False) -> None:
        """A closed shape with corners."""
        self.parts.append(Part(np.asarray(points, dtype=float), role, detail=detail))

    def smooth(self, points: Points, role: str = "body", detail: bool = False) -> None:
        """A closed shape without corners; its control points are slightly off in every instance."""
        shaken = np.asarray(points, dtype=float) + self.rng.normal(0.0, 0.006, (len(points), 2))
        self.poly(_rounded(shaken, closed=True), role, detail)

    def box(
        self, x0: float, y0: float, x1: float, y1: float, role: str = "body", soft: float = 0.0, detail: bool = False
    ) -> None:
        """A rectangle; `soft` is how much of every corner is cut off."""
        corners = [(x0, y0, 1, 1), (x1, y0, -1, 1), (x1, y1, -1, -1), (x0, y1, 1, -1)]
        if soft:
            cut = [[(x, y + v * soft), (x + h * soft, y)][:: h * v] for x, y, h, v in corners]
            self.poly(_rounded([point for pair in cut for point in pair], closed=True, times=1), role, detail)
        else:
            self.poly([corner[:2] for corner in corners], role, detail)

    def oval(
        self, x: float, y: float, rx: float, ry: float, role: str = "body", turn: float = 0.0, detail: bool = False
    ) -> None:
        self.poly(_arc(x, y, rx, ry, 0.0, 2 * pi, turn)[:-1], role, detail)

    def line(
        self, points: Points, role: str = "dark", width: float = 0.02, curved: bool = False, detail: bool = False
    ) -> None:
        """A thin open stroke."""
        path = _rounded(points, closed=False) if curved else np.asarray(points, dtype=float)
        self.parts.append(Part(path, role, closed=False, width=width, detail=detail))

    def tube(self, points: Points, start: float, end: float, role: str = "body", detail: bool = False) -> None:
        """A limb: a band along a curve, `start` wide at its beginning and `end` wide at its end."""
        path = _rounded(points, closed=False, times=2)
        along = np.gradient(path, axis=0)
        across = np.stack([-along[:, 1], along[:, 0]], axis=1) / (np.hypot(*along.T)[:, None] + 1e-9)
        half = across * np.linspace(start, end, len(path))[:, None] / 2
        self.poly(np.concatenate([path + half, (path - half)[::-1]]), role, detail)

    def lathe(self, profile: Points, role: str = "body", x: float = 0.5, curved: bool = True) -> None:
        """A turned shape: `profile` lists (radius, y) from top to bottom and is mirrored about the axis at `x`."""
        side = _rounded(profile, closed=False, times=2) if curved else np.asarray(profile, dtype=float)
        self.poly(np.concatenate([side * (1, 1) + (x, 0), side[::-1] * (-1, 1) + (x, 0)]), role)

    def wheel(self, x: float, y: float, r: float) -> None:
        self.oval(x, y, r, r, "dark")
        self.oval(x, y, 0.55 * r, 0.55 * r, "trim", detail=True)

    def spoked(self, x: float, y: float, r: float, spokes: int) -> None:
        self.line(_arc(x, y, r, r, 0, 2 * pi), "dark", 0.028)
        for k in range(spokes):
            a = pi * (k + 0.3) / spokes
            ends = [(x - r * cos(a), y - r * sin(a)), (x + r * cos(a), y + r * sin(a))]
            self.line(ends, "pale", 0.008, detail=True)

    def windows(self, x0: float, y0: float, x1: float, y1: float, columns: int, rows: int = 1) -> None:
        w, h = (x1 - x0) / columns, (y1 - y0) / rows
        for i in range(columns):
            for j in range(rows):
                x, y = x0 + i * w, y0 + j * h
                self.box(x + 0.15 * w, y + 0.15 * h, x + 0.85 * w, y + 0.85 * h, "glass", detail=rows * columns > 1)

    def roof(self, x0: float, x1: float, y: float, height: float, eave: float = 0.05) -> None:
        self.poly([(x0 - eave, y), ((x0 + x1) / 2, y - height), (x1 + eave, y)], "trim")

    def door(self, x: float, y: float, w: float, h: float, arched: bool = False) -> None:
        if arched:
            arch = _arc(x, y - h, w / 2, w / 2, pi, 2 * pi)
            self.poly([*arch, (x + w / 2, y), (x - w / 2, y)], "wood")
        else:
            self.box(x - w / 2, y - h, x + w / 2, y, "wood")

    def eye(self, x: float, y: float, r: float = 0.015) -> None:
        self.oval(x, y, r, r, "dark", detail=True)

    def legs(self, xs: Sequence[float], top: float, ground: float, w: float, role: str = "body") -> None:
        for x in xs:
            knee, foot = x + self.u(-0.02, 0.02), x + self.u(-0.03, 0.03)
            self.tube([(x, top), (knee, (top + ground) / 2), (foot, ground)], w, 0.7 * w, role)

    def handle(self, x: float, y: float, rx: float, ry: float, w: float, start: float = -pi / 2) -> None:
        """A half loop, by default open to the left as on a cup."""
        self.tube(_arc(x, y, rx, ry, start, start + pi), w, w, "body")

    def leaf(self, x: float, y: float, length: float, angle: float, fat: float = 0.4) -> None:
        c, s = length * cos(angle), length * sin(angle)
        middle, side, tip = np.array((x + c / 2, y + s / 2)), np.array((-s, c)) * fat / 2, (x + c, y + s)
        halves = [_rounded(np.stack([(x, y), middle + way * side, tip]), closed=False) for way in (1, -1)]
        self.poly(np.concatenate([halves[0], halves[1][-2:0:-1]]), "leaf")
        self.line([(x, y), (x + 0.8 * c, y + 0.8 * s)], "pale", 0.008, detail=True)

    def fin(self, x: float, y: float, w: float, h: float, lean: float = 0.0, role: str = "trim") -> None:
        """A triangle standing on (x, y)..(x + w, y); a negative `h` hangs down."""
        self.poly([(x, y), (x + w / 2 + lean, y - h), (x + w, y)], role)

    def beak(self, x: float, y: float, length: float, depth: float) -> None:
        self.poly([(x, y - depth / 2), (x + length, y + 0.1 * depth), (x, y + depth / 2)], "trim")

    def hull(self, x0: float, x1: float, y: float, depth: float) -> None:
        slope = self.u(0.08, 0.16)
        self.poly([(x0, y), (x1, y), (x1 - slope, y + depth), (x0 + 0.6 * slope, y + depth)], "body")

    def quadruped(
        self, length: float, depth: float, leg: float, neck: float, tilt: float, thick: float, tail: float = 0.25
    ) -> tuple[float, float]:
        """Tail, legs, trunk and neck of an animal that faces right; gives back where its head belongs."""
        x0, x1, y, h = 0.5 - length / 2, 0.5 + length / 2, 0.5, depth / 2
        ground = y + h + leg
        self.legs([x0 + 0.14, x1 - 0.15], y, ground, 0.6 * thick, "trim")
        self.tube([(x0 + 0.03, y - 0.6 * h), (x0 - 0.07, y - 0.4 * h), (x0 - 0.05, y + tail)], 0.045, 0.025, "trim")
        head = (x1 - 0.05 + neck * cos(tilt), y - 0.2 * depth - neck * sin(tilt))
        self.tube([(x1 - 0.09, y), head], 1.3 * thick, 0.8 * thick)
        self.legs([x0 + 0.06, x1 - 0.07], y, ground, 0.65 * thick)
        back = [(x0 - 0.03, y), (x0, y - 0.8 * h), (0.5, y - h), (x1, y - 1.1 * h)]
        self.smooth([*back, (x1 + 0.03, y), (x1 - 0.05, y + h), (0.5, y + 1.1 * h), (x0, y + h)])
        return head

    def sitter(self, plump: float) -> tuple[float, float, float]:
        """An animal that sits and faces the viewer; gives back the centre and radius of its head, still to be drawn."""
        w, r = self.u(0.2, 0.25) * plump, self.u(0.16, 0.2)
        self.lathe([(0, 0.4), (0.6 * w, 0.38), (1.1 * w, 0.7), (1.1 * w, 1), (0, 1)])
        for side in (-1, 1):
            self.oval(0.5 + side * 0.75 * w, 0.94, 0.09, 0.05, "trim")
            self.tube([(0.5 + side * 0.35 * w, 0.6), (0.5 + side * 0.3 * w, 0.92)], 0.08, 0.07)
        return 0.5, 0.32, r

    def face(self, x: float, y: float, r: float) -> None:
        self.oval(x, y, 1.1 * r, r)
        for side in (-1, 1):
            self.eye(x + side * 0.42 * r, y - 0.15 * r, 0.02)
            for drop in (0.3, 0.6):
                ends = [(x + side * 0.3 * r, y + 0.4 * r), (x + side * 1.4 * r, y + drop * r)]
                self.line(ends, "pale", 0.008, detail=True)
        self.poly([(x - 0.03, y + 0.25 * r), (x + 0.03, y + 0.25 * r), (x, y + 0.45 * r)], "dark", detail=True)

    def wader(self, neck: Points, leg: float, beak: float, plump: float = 1.0, w: float = 0.07) -> None:
        """A bird that faces right: `neck` leads from the breast to the head."""
        (hx, hy), r, y, h = neck[-1], self.u(0.06, 0.075), 0.6, 0.15 * plump
        for x in (0.42, 0.5) if leg else ():
            self.line([(x, y), (x + self.u(-0.02, 0.02), y + leg), (x + 0.07, y + leg)], "trim", 0.022)
        self.beak(hx + 0.6 * r, hy + 0.01, r * 0.5 + beak, self.u(0.045, 0.07))
        self.tube(neck, 2.2 * w, w)
        self.oval(hx, hy, 1.1 * r, r)
        self.eye(hx + 0.3 * r, hy - 0.2 * r)
        back = [(0.08, y - 0.6 * h), (0.3, y - 0.7 * h), (0.55, y - h), (0.72, y - 0.3 * h)]
        self.smooth([*back, (0.66, y + h), (0.35, y + 1.1 * h), (0.2, y + 0.3 * h)])
        wing = [(0.17, y - 0.3 * h), (0.4, y - 0.5 * h), (0.56, y), (0.42, y + 0.55 * h), (0.3, y + 0.3 * h)]
        self.smooth(wing, "trim")

    def rod(self, length: float, w: float, role: str = "wood") -> None:
        """The upright handle of a tool, its top end at (0.5, 0)."""
        self.tube([(0.5, 0), (0.5, length)], w, w * self.u(1.0, 1.4), role)

    def trunk(self, top: float, w: float, bend: float = 0.0) -> None:
        self.tube([(0.5 + bend, top), (0.5 + bend / 3, 0.7), (0.5, 1)], 0.75 * w, 1.2 * w, "wood")

    def fruit(self, profile: Points) -> None:
        self.lathe(profile)
        top = profile[0][1]
        self.tube([(0.5, top + 0.05), (0.51, top - 0.05), (0.5 + self.u(-0.05, 0.05), top - 0.13)], 0.025, 0.03, "wood")
        if self.maybe(0.8):
            self.leaf(0.51, top - 0.05, self.u(0.18, 0.26), self.u(-0.7, -0.1))


class _World(Drawing):
    """Every method of this class draws one category."""

    def airplane(self) -> None:
        h = self.u(0.07, 0.09)
        self.poly([(0.42, 0.47), (0.32, 0.22), (0.4, 0.22), (0.6, 0.47)], "trim")
        self.poly([(0.06, 0.5), (0.0, 0.28), (0.09, 0.28), (0.22, 0.47)], "trim")
        nose = [(0.3, 0.5 - h), (0.85, 0.5 - h), (1.02, 0.52), (0.85, 0.5 + h), (0.3, 0.5 + h)]
        self.smooth([(0, 0.46), *nose, (0.05, 0.5)])
        for x in np.linspace(0.3, 0.72, self.n(4, 7)):
            self.oval(x, 0.485, 0.016, 0.02, "glass", detail=True)
        self.poly([(0.85, 0.46), (0.91, 0.46), (0.95, 0.5), (0.85, 0.5)], "glass", detail=True)
        reach = self.u(0.24, 0.34)
        self.poly([(0.42, 0.53), (0.6, 0.53), (0.38, 0.53 + reach), (0.28, 0.53 + reach)], "trim")
        self.poly([(0.04, 0.49), (0.15, 0.5), (0.06, 0.58), (0.0, 0.58)], "trim")

    def apple(self) -> None:
        w = self.u(0.3, 0.37)
        cheek = [(0.7 * w, 0.18), (1.15 * w, 0.32), (1.05 * w, 0.7), (0.6 * w, 0.94)]
        self.fruit([(0, 0.28), *cheek, (0.1, 0.86), (0, 0.88)])

    def axe(self) -> None:
        self.rod(1.0, self.u(0.05, 0.075))
        w, h = self.u(0.22, 0.3), self.u(0.13, 0.18)
        edge = _rounded([(0.5 + w, 0.1 - h * 0.6), (0.56 + w, 0.18), (0.5 + w, 0.26 + h * 0.6)], closed=False)
        self.poly(np.concatenate([[(0.44, 0.1), (0.56, 0.1)], edge, [(0.56, 0.26), (0.44, 0.26)]]), "metal")
        self.line(edge - (0.05, 0), "pale", 0.008, detail=True)

    def bell(self) -> None:
        w = self.u(0.28, 0.38)
        self.line(_arc(0.5, 0.08, 0.07, 0.08, 0, 2 * pi), "trim", 0.03)
        self.oval(0.5, 0.86, 0.07, 0.07, "dark")
        self.lathe([(0, 0.13), (0.5 * w, 0.13), (0.6 * w, 0.5), (0.7 * w, 0.7), (w, 0.82)])
        self.box(0.5 - w, 0.8, 0.5 + w, 0.86, "trim")

    def bicycle(self) -> None:
        r, base, spokes = self.u(0.18, 0.22), self.u(0.54, 0.62), self.n(3, 6)
        x0, x1 = 0.5 - base / 2, 0.5 + base / 2
        for x in (x0, x1):
            self.spoked(x, 0.75, r, spokes)
        pedal, seat, stem = (0.47, 0.75), (0.42, self.u(0.36, 0.42)), (x1 - 0.08, 0.42)
        for path in ([(x0, 0.75), seat, pedal, (x0, 0.75)], [(seat[0] + 0.01, 0.46), stem, pedal], [(x1, 0.75), stem]):
            self.line(path, "body", 0.032)
        self.line([stem, (stem[0] - 0.03, 0.3), (stem[0] + 0.08, 0.28)], "dark", 0.03)
        self.tube([(seat[0] - 0.09, seat[1] - 0.01), (seat[0] + 0.07, seat[1])], 0.05, 0.03, "dark")
        self.oval(*pedal, 0.04, 0.04, "dark", detail=True)

    def bird(self) -> None:
        head = (0.66, self.u(0.4, 0.45))
        self.wader([(0.6, 0.56), head], self.u(0.26, 0.32), self.u(0.05, 0.09), self.u(0.9, 1.2), 0.1)

    def bottle(self) -> None:
        w, neck = self.u(0.12, 0.18), self.u(0.04, 0.06)
        self.lathe([(neck, 0.06), (neck, 0.3), (w, 0.36), (w, 0.5), (w, 0.9), (w, 1.0), (0, 1.0)], "body")
        self.box(0.5 - neck - 0.012, 0, 0.5 + neck + 0.012, 0.09, "trim")
        self.box(0.5 - w, 0.55, 0.5 + w, self.u(0.72, 0.85), "pale", detail=True)

    def bus(self) -> None:
        h = self.u(0.36, 0.46)
        self.box(0, 0.3, 1, 0.3 + h, soft=0.06)
        self.windows(0.03, 0.33, 0.8, 0.33 + 0.4 * h, self.n(4, 6))
        self.box(0.83, 0.36, 0.94, 0.28 + h, "glass")
        for x in (0.2, self.u(0.68, 0.74)):
            self.wheel(x, 0.3 + h, self.u(0.08, 0.095))

    def cactus(self) -> None:
        w = self.u(0.14, 0.18)
        for side, y in ((-1, self.u(0.4, 0.55)), (1, self.u(0.35, 0.5))):
            x = 0.5 + side * self.u(0.24, 0.3)
            arm = [(0.5, y + 0.1), (x, y + 0.12), (x, y - 0.02), (x, y - self.u(0.14, 0.22))]
            self.tube(arm, 0.7 * w, 0.6 * w, "leaf")
        self.lathe([(0, 0.04), (0.5 * w, 0.04), (0.6 * w, 0.16), (0.55 * w, 0.84)], "leaf")
        for k in (-1, 1):
            self.line([(0.5 + 0.2 * k * w, 0.14), (0.5 + 0.2 * k * w, 0.76)], "pale", 0.01, detail=True)
        self.lathe([(0.17, 0.8), (0.12, 1.0)], "trim", curved=False)

    def car(self) -> None:
        roof, left, right = self.u(0.3, 0.38), self.u(0.14, 0.24), self.u(0.62, 0.72)
        self.poly([(left, 0.54), (left + 0.1, roof), (right - 0.08, roof), (right + 0.07, 0.54)], "body")
        mid = (left + right) / 2
        self.poly([(left + 0.06, 0.53), (left + 0.13, roof + 0.04), (mid, roof + 0.04), (mid, 0.53)], "glass")
        self.poly([(mid + 0.03, 0.53), (mid + 0.03, roof + 0.04), (right - 0.09, roof + 0.04), (right, 0.53)], "glass")
        self.poly(_rounded([(0, 0.5), (0.8, 0.5), (1.03, 0.58), (1.0, 0.73), (0, 0.73)], closed=True, times=1), "body")
        self.oval(0.95, 0.61, 0.03, 0.025, "pale", detail=True)
        for x in (self.u(0.18, 0.24), self.u(0.74, 0.8)):
            self.wheel(x, 0.73, self.u(0.09, 0.12))

    def carrot(self) -> None:
        for k in (-0.7, 0.0, 0.7):
            self.leaf(0.5, 0.26, self.u(0.24, 0.34), -pi / 2 + k + self.u(-0.15, 0.15), 0.35)
        w = self.u(0.13, 0.18)
        self.lathe([(0, 0.22), (w, 0.22), (1.1 * w, 0.4), (0.5 * w, 0.8), (0.01, 1.04)])
        for y in (0.4, 0.55, 0.68):
            self.line([(0.5 - 0.5 * w, y), (0.5 + self.u(-0.2, 0.1) * w, y + 0.015)], "dark", 0.01, detail=True)

    def cat(self) -> None:
        self.tube([(0.62, 0.92), (0.9, 0.96), (0.92, 0.74), (0.84, self.u(0.55, 0.65))], 0.07, 0.05, "trim")
        x, y, r = self.sitter(1.0)
        for side in (-1, 1):
            ear = [(0.25 * r, -0.8 * r), (0.95 * r, -1.75 * r), (1.05 * r, -0.3 * r)]
            self.poly([(x + side * dx, y + dy) for dx, dy in ear])
        self.face(x, y, r)

    def chair(self) -> None:
        seat, w = self.u(0.52, 0.6), self.u(0.44, 0.54)
        x0, x1, deep = 0.5 - w / 2, 0.5 + w / 2, self.u(0.08, 0.14)
        self.legs([x0 + deep, x1 + deep - 0.02], seat, 0.94, 0.05, "wood")
        for x in (x0 + deep, x1 + deep):
            self.tube([(x, seat), (x + 0.02, 0.02)], 0.05, 0.045, "wood")
        for y in np.linspace(0.06, seat - 0.16, self.n(2, 3)):
            self.box(x0 + deep, y, x1 + deep + 0.03, y + 0.07, "body")
        self.legs([x0 + 0.03, x1 - 0.03], seat, 1.05, 0.05, "wood")
        self.poly([(x0 - 0.03, seat + 0.09), (x0 + deep, seat), (x1 + deep + 0.03, seat), (x1, seat + 0.09)], "body")

    def church(self) -> None:
        w, wall, tower = self.u(0.22, 0.28), self.u(0.56, 0.64), self.u(0.34, 0.42)
        self.box(0.4, wall, 1.0, 1.0, "body")
        self.poly([(0.36, wall), (0.46, wall - 0.17), (0.96, wall - 0.17), (1.05, wall)], "trim")
        self.box(0.2, tower, 0.2 + w, 1.0, "body")
        self.roof(0.2, 0.2 + w, tower, self.u(0.22, 0.3), 0.03)
        x, y = 0.2 + w / 2, tower - 0.22
        self.line([(x, y), (x, y - 0.18)], "dark", 0.022)
        self.line([(x - 0.05, y - 0.12), (x + 0.05, y - 0.12)], "dark", 0.022)
        self.door(x, 1.0, 0.11, 0.14, arched=True)
        self.oval(x, tower + 0.12, 0.045, 0.045, "glass")
        for x in np.linspace(0.58, 0.9, self.n(2, 3)):
            self.door(x, 0.88, 0.08, 0.12, arched=True)

    def cow(self) -> None:
        length, depth = self.u(0.56, 0.64), self.u(0.28, 0.33)
        hx, hy = self.quadruped(length, depth, self.u(0.22, 0.27), 0.14, self.u(0.4, 0.7), 0.14)
        for side in (-1, 1):
            horn = [(hx + side * dx, hy - dy) for dx, dy in ((0.03, 0.06), (0.08, 0.1), (0.07, 0.18))]
            self.tube(horn, 0.03, 0.01, "pale")
            self.oval(hx + side * 0.1, hy - 0.05, 0.05, 0.025, "trim", turn=0.3)
        self.smooth([(hx - 0.08, hy - 0.1), (hx + 0.08, hy - 0.1), (hx + 0.12, hy + 0.16), (hx, hy + 0.18)])
        self.oval(hx + 0.05, hy + 0.11, 0.06, 0.045, "pale")
        self.eye(hx + 0.03, hy - 0.02)
        self.oval(0.62, 0.7, 0.06, 0.035, "pale", detail=True)
        for x in (self.u(0.3, 0.4), self.u(0.52, 0.62)):
            self.oval(x, self.u(0.44, 0.52), self.u(0.06, 0.09), self.u(0.05, 0.07), "dark", detail=True)

    def cup(self) -> None:
        top, base = self.u(0.28, 0.34), self.u(0.18, 0.26)
        if self.maybe():
            self.oval(0.5, 0.92, 0.46, 0.07, "trim")
        self.handle(0.46 + top, 0.5, self.u(0.16, 0.22), 0.17, 0.05)
        self.lathe([(top, 0.22), (top, 0.6), (base, 0.92), (0, 0.94)])
        self.oval(0.5, 0.22, top, self.u(0.04, 0.07), "dark")

    def dog(self) -> None:
        length, depth = self.u(0.46, 0.54), self.u(0.2, 0.24)
        hx, hy = self.quadruped(length, depth, self.u(0.2, 0.26), 0.2, self.u(0.9, 1.2), 0.12, tail=-0.25)
        self.tube([(hx - 0.02, hy + 0.01), (hx + 0.17, hy + 0.05)], 0.13, 0.08)
        self.oval(hx, hy - 0.01, 0.1, 0.085)
        ear = [(hx - 0.09, hy - 0.08), (hx - 0.01, hy - 0.07), (hx - 0.04, hy + 0.13), (hx - 0.12, hy + 0.11)]
        self.smooth(ear, "dark")
        self.oval(hx + 0.17, hy + 0.03, 0.025, 0.022, "dark")
        self.eye(hx + 0.05, hy - 0.02)

    def duck(self) -> None:
        neck = [(0.6, 0.62), (0.68, 0.5), (0.66, self.u(0.34, 0.4))]
        self.wader(neck, 0, self.u(0.1, 0.13), self.u(1.0, 1.2), 0.08)
        self.line([(0.02, 0.78), (0.2, 0.75), (0.4, 0.79), (0.6, 0.75), (0.85, 0.78)], "pale", 0.015, True, True)

    def elephant(self) -> None:
        length, depth = self.u(0.54, 0.6), self.u(0.36, 0.42)
        hx, hy = self.quadruped(length, depth, self.u(0.14, 0.19), 0.14, self.u(0.4, 0.6), 0.2, tail=0.12)
        tip = (hx + self.u(0.2, 0.3), hy + 0.42)
        self.tube([(hx + 0.06, hy), (hx + 0.2, hy + 0.1), (hx + 0.17, hy + 0.3), tip], 0.13, 0.05)
        self.tube([(hx + 0.1, hy + 0.12), (hx + 0.2, hy + 0.2), (hx + 0.28, hy + 0.16)], 0.035, 0.01, "pale")
        self.oval(hx + 0.02, hy, 0.15, 0.15)
        self.oval(hx - 0.08, hy + 0.02, self.u(0.1, 0.13), self.u(0.14, 0.18), "trim")
        self.eye(hx + 0.08, hy - 0.04, 0.018)

    def fish(self) -> None:
        h = self.u(0.17, 0.26)
        self.fin(0.42, 0.55 - 0.7 * h, 0.26, self.u(0.14, 0.2), -0.08)
        self.fin(0.48, 0.55 + 0.7 * h, 0.16, -self.u(0.1, 0.16), -0.06)
        self.poly([(0.24, 0.55), (0, 0.55 - self.u(0.16, 0.22)), (0.06, 0.55), (0, 0.55 + self.u(0.16, 0.22))], "trim")
        back = [(0.15, 0.54), (0.4, 0.55 - h), (0.75, 0.55 - 1.1 * h), (1.02, 0.55)]
        self.smooth([*back, (0.75, 0.55 + 1.1 * h), (0.4, 0.55 + h)])
        self.line(_arc(0.68, 0.55, 0.09, 0.8 * h, -1, 1), "dark", 0.015, detail=True)
        self.fin(0.52, 0.55, 0.12, -0.12, -0.08)
        self.oval(0.86, 0.5, 0.035, 0.035, "pale")
        self.eye(0.865, 0.5)

    def flower(self) -> None:
        n, r, y = self.n(5, 8), self.u(0.13, 0.17), 0.32
        self.tube([(0.5, y), (0.5 + self.u(-0.06, 0.06), 0.7), (0.5, 1.05)], 0.035, 0.045, "leaf")
        self.leaf(0.5, 0.86, self.u(0.24, 0.32), self.u(-0.7, -0.3))
        self.leaf(0.5, 0.94, self.u(0.24, 0.32), pi + self.u(0.3, 0.7))
        for k in range(n):
            a = 2 * pi * k / n
            self.oval(0.5 + 1.25 * r * cos(a), y + 1.25 * r * sin(a), r * 0.85, 2.2 * r / n + 0.02, "body", turn=a)
        self.oval(0.5, y, 0.7 * r, 0.7 * r, "trim")

    def giraffe(self) -> None:
        length, depth, leg = self.u(0.4, 0.46), self.u(0.19, 0.23), self.u(0.34, 0.4)
        hx, hy = self.quadruped(length, depth, leg, self.u(0.48, 0.58), self.u(1.1, 1.3), 0.09)
        for side in (0.0, 0.045):
            self.line([(hx - 0.02 + side, hy - 0.03), (hx - 0.03 + side, hy - 0.12)], "dark", 0.02)
        self.tube([(hx - 0.05, hy - 0.02), (hx + 0.16, hy + 0.06)], 0.11, 0.07)
        self.oval(hx - 0.07, hy - 0.04, 0.05, 0.022, "trim", turn=0.4)
        self.eye(hx + 0.03, hy - 0.01)
        for x, y in [(0.36, 0.48), (0.47, 0.53), (0.58, 0.46), (0.55, 0.56), (0.43, 0.44)]:
            self.oval(x + self.u(-0.02, 0.02), y, 0.035, 0.03, "dark", detail=True)

    def hammer(self) -> None:
        self.rod(1.0, self.u(0.06, 0.09))
        w, h = self.u(0.2, 0.26), self.u(0.12, 0.15)
        self.poly([(0.5 - w, 0), (0.6, 0), (0.6, h), (0.5 - w, h)], "metal")
        self.box(0.46 - w, -0.02, 0.52 - w, h + 0.02, "metal")
        claw = _rounded([(0.6, 0), (0.74, 0), (0.82, h + 0.04)], closed=False)
        self.poly([*claw, (0.6, h)], "metal")

    def hat(self) -> None:
        w, top = self.u(0.2, 0.26), self.u(0.26, 0.36)
        self.oval(0.5, 0.7, 0.5, self.u(0.08, 0.11), "body")
        self.lathe([(0, top), (0.95 * w, top), (w, top + 0.08), (1.05 * w, 0.66), (0.8 * w, 0.72), (0, 0.73)])
        self.lathe([(1.03 * w, 0.57), (1.06 * w, 0.67), (0.8 * w, 0.71), (0, 0.73)], "trim", curved=False)

    def helicopter(self) -> None:
        w = self.u(0.22, 0.27)
        self.tube([(0.5, 0.46), (0.0, 0.42)], 0.12, 0.05)
        self.poly([(0.0, 0.45), (-0.05, 0.28), (0.02, 0.28), (0.08, 0.44)], "trim")
        self.line([(0.62, 0.4), (0.62, 0.22)], "dark", 0.03)
        self.tube([(0.62 - self.u(0.38, 0.46), 0.21), (1.04, 0.21)], 0.03, 0.03, "dark")
        self.oval(0.63, 0.5, w, self.u(0.16, 0.19))
        self.poly(np.concatenate([_arc(0.64, 0.5, 0.85 * w, 0.13, -1.3, 0.15), [(0.68, 0.52)]]), "glass")
        for x in (0.54, 0.72):
            self.line([(x, 0.65), (x - 0.02, 0.78)], "dark", 0.022)
        self.line([(0.36, 0.78), (0.84, 0.78), (0.9, 0.74)], "dark", 0.028)

    def horse(self) -> None:
        length, depth, leg = self.u(0.5, 0.56), self.u(0.21, 0.26), self.u(0.3, 0.36)
        hx, hy = self.quadruped(length, depth, leg, self.u(0.26, 0.32), self.u(0.75, 1.0), 0.13, tail=0.22)
        self.tube([(hx - 0.2, hy + 0.22), (hx - 0.13, hy + 0.06), (hx - 0.04, hy - 0.05)], 0.08, 0.06, "dark")
        self.poly([(hx - 0.05, hy - 0.03), (hx - 0.03, hy - 0.15), (hx + 0.03, hy - 0.04)])
        self.tube([(hx - 0.04, hy), (hx + 0.08, hy + 0.06), (hx + 0.16, hy + 0.15)], 0.14, 0.08)
        self.eye(hx + 0.04, hy + 0.01)

    def hot_air_balloon(self) -> None:
        w = self.u(0.34, 0.42)
        for side in (-1, 1):
            self.line([(0.5 + side * 0.14, 0.6), (0.5 + side * 0.07, 0.86)], "dark", 0.015)
        top = [(0, 0), (0.8 * w, 0), (1.1 * w, 0.2), (1.0 * w, 0.42), (0.4 * w, 0.66), (0, 0.67)]
        self.lathe(top)
        for k in (0.6, 0.22):
            self.lathe([(k * r, y) for r, y in top], "trim" if k > 0.5 else "body")
        self.lathe([(0.1, 0.85), (0.08, 1.0)], "wood", curved=False)

    def house(self) -> None:
        w, wall = self.u(0.3, 0.42), self.u(0.42, 0.54)
        if self.maybe(0.7):
            self.box(0.5 + 0.4 * w, wall - 0.3, 0.5 + 0.4 * w + 0.09, wall, "body")
        self.box(0.5 - w, wall, 0.5 + w, 0.98, "body")
        self.roof(0.5 - w, 0.5 + w, wall, self.u(0.26, 0.36), 0.07)
        x = 0.5 + self.u(-0.3, 0.3) * w
        self.door(x, 0.98, 0.15, self.u(0.24, 0.3))
        for side in (-1, 1):
            x = 0.5 + side * 0.66 * w
            self.windows(x - 0.09, wall + 0.08, x + 0.09, wall + 0.28, 1)

    def key(self) -> None:
        r = self.u(0.15, 0.2)
        self.tube([(0.5, 0.2), (0.5, 1.0)], 0.06, 0.06, "metal")
        self.oval(0.5, 0.18, r, r * self.u(0.8, 1.1), "metal")
        self.oval(0.5, 0.18, 0.55 * r, 0.55 * r, "dark")
        for y in np.linspace(0.95, 0.76, self.n(2, 3)):
            self.box(0.52, y - 0.035, 0.52 + self.u(0.1, 0.17), y + 0.035, "metal")

    def ladder(self) -> None:
        w, lean = self.u(0.14, 0.2), self.u(-0.1, 0.1)
        for t in np.linspace(0.1, 0.92, self.n(5, 7)):
            x = 0.5 + lean * (0.5 - t)
            self.tube([(x - w, t), (x + w, t)], 0.045, 0.045, "wood")
        for side in (-1, 1):
            x = 0.5 + side * w
            self.tube([(x + lean / 2, 0), (x - lean / 2 + side * 0.02, 1)], 0.055, 0.06, "wood")

    def lamp(self) -> None:
        w, h = self.u(0.28, 0.36), self.u(0.3, 0.4)
        self.tube([(0.5, 0.3), (0.5, 0.95)], 0.05, 0.06, "metal")
        self.lathe([(0.05, 0.92), (self.u(0.18, 0.25), 0.95), (0.24, 1.0), (0, 1.0)], "metal")
        self.lathe([(0.5 * w, 0.0), (w, h)], "body", curved=False)
        self.line([(0.5 - 0.7 * w, h), (0.5 - 0.7 * w, h + 0.14)], "dark", 0.012, detail=True)

    def lighthouse(self) -> None:
        w, top, n = self.u(0.14, 0.19), self.u(0.26, 0.32), self.n(2, 3)
        ys, rs = np.linspace(top, 0.95, 2 * n + 2), np.linspace(0.6 * w, w, 2 * n + 2)
        for k in range(2 * n + 1):
            self.lathe([(rs[k], ys[k]), (rs[k + 1], ys[k + 1])], "trim" if k % 2 else "body", curved=False)
        self.box(0.5 - 0.4 * w, top - 0.12, 0.5 + 0.4 * w, top, "glass")
        self.box(0.5 - 0.8 * w, top - 0.02, 0.5 + 0.8 * w, top + 0.02, "dark")
        self.roof(0.5 - 0.4 * w, 0.5 + 0.4 * w, top - 0.12, 0.12, 0.03)
        self.door(0.5, 0.95, 0.09, 0.08, arched=True)
        self.smooth([(0.14, 1.0), (0.3, 0.92), (0.7, 0.93), (0.86, 1.0), (0.7, 1.06), (0.3, 1.06)], "dark")

    def mushroom(self) -> None:
        w, y = self.u(0.36, 0.46), self.u(0.46, 0.54)
        self.lathe([(0.1, y - 0.05), (self.u(0.08, 0.11), 0.75), (self.u(0.12, 0.16), 1.0), (0, 1.02)], "pale")
        self.poly(np.concatenate([_arc(0.5, y, w, self.u(0.3, 0.42), pi, 2 * pi), _arc(0.5, y, w, 0.06, 0, pi)[1:-1]]))
        for x, up in ((-0.5, 0.1), (-0.1, 0.22), (0.4, 0.13), (0.05, 0.06)):
            self.oval(0.5 + x * w, y - up, self.u(0.03, 0.055), 0.035, "pale", detail=True)

    def pan(self) -> None:
        w = self.u(0.26, 0.3)
        self.tube([(0.3 + w, 0.5), (1.06, self.u(0.36, 0.48))], 0.07, 0.08, "wood")
        self.lathe([(w, 0.48), (0.95 * w, 0.62), (0.7 * w, 0.7), (0, 0.7)], "body", x=0.32)
        self.oval(0.32, 0.48, w, self.u(0.07, 0.12), "dark")

    def pear(self) -> None:
        w, neck = self.u(0.26, 0.32), self.u(0.1, 0.14)
        cheek = [(neck, 0.14), (neck * 1.1, 0.34), (1.2 * w, 0.56), (1.1 * w, 0.96)]
        self.fruit([(0, 0.14), *cheek, (0.3 * w, 0.99), (0, 0.96)])

    def penguin(self) -> None:
        w = self.u(0.22, 0.28)
        for side in (-1, 1):
            self.oval(0.5 + side * 0.45 * w, 0.98, 0.1, 0.04, "trim")
            flipper = [(0.8 * w, 0.4), (1.3 * w, 0.58), (self.u(1.2, 1.5) * w, 0.72)]
            self.tube([(0.5 + side * dx, y) for dx, y in flipper], 0.1, 0.04)
        head, belly = [(0.7 * w, 0), (0.6 * w, 0.26)], [(1.2 * w, 0.5), (1.05 * w, 0.94), (0.4 * w, 1)]
        self.lathe([(0, 0), *head, *belly, (0, 1)])
        self.oval(0.5, 0.64, 0.68 * w, 0.28, "pale")
        for side in (-1, 1):
            self.eye(0.5 + side * 0.07, 0.15, 0.022)
        self.poly([(0.45, 0.2), (0.55, 0.2), (0.5, 0.29)], "trim")

    def pine_tree(self) -> None:
        n, w = self.n(3, 4), self.u(0.26, 0.36)
        self.trunk(0.7, 0.1)
        for k in reversed(range(n)):
            y, half = 0.88 * k / n, w * (0.5 + 0.5 * (k + 1) / n)
            self.poly([(0.5, y - 0.04), (0.5 + half, y + 0.92 / n + 0.06), (0.5 - half, y + 0.92 / n + 0.06)], "leaf")

    def rabbit(self) -> None:
        x, y, r = self.sitter(self.u(0.95, 1.1))
        y += 0.04
        for side in (-1, 1):
            tilt, tall = side * self.u(0.05, 0.3), self.u(0.17, 0.22)
            ex, ey = x + side * 0.45 * r + tall * sin(tilt), y - 0.6 * r - tall * cos(tilt)
            self.oval(ex, ey, 0.055, tall, "body", turn=tilt)
            self.oval(ex, ey, 0.025, 0.7 * tall, "pale", turn=tilt, detail=True)
        self.face(x, y, 0.9 * r)

    def rocket(self) -> None:
        w = self.u(0.12, 0.17)
        self.lathe([(0.6 * w, 0.84), (0.3 * w, 0.96), (0, self.u(1.0, 1.1))], "pale", curved=False)
        for side in (-1, 1):
            x, reach = 0.5 + side * 0.8 * w, side * self.u(0.12, 0.18)
            self.poly([(x, 0.54), (x + reach, 0.78), (x + reach, 0.92), (x, 0.82)], "trim")
        self.lathe([(0, 0), (0.5 * w, 0.08), (1.1 * w, 0.3), (1.15 * w, 0.6), (0.7 * w, 0.86)])
        self.lathe([(0, 0), (0.32 * w, 0.05), (0.72 * w, 0.17)], "trim")
        for y in np.linspace(0.34, 0.56, self.n(1, 2)):
            self.oval(0.5, y, 0.055, 0.055, "glass")

    def sailboat(self) -> None:
        x, top = self.u(0.42, 0.52), self.u(0.0, 0.08)
        self.hull(0.06, 0.98, 0.76, self.u(0.13, 0.18))
        self.line([(x, 0.76), (x, top)], "wood", 0.025)
        self.poly([(x + 0.03, top + 0.04), (x + self.u(0.32, 0.4), 0.7), (x + 0.03, 0.7)], "pale")
        self.poly([(x - 0.03, top + 0.1), (x - 0.03, 0.7), (x - self.u(0.22, 0.32), 0.7)], "trim")
        self.poly([(x, top), (x - 0.12, top + 0.03), (x, top + 0.06)], "trim", detail=True)

    def saw(self) -> None:
        n, h = self.n(8, 12), self.u(0.16, 0.22)
        xs = np.linspace(0.28, 1.0, 2 * n + 1)
        teeth = [(x, 0.56 + 0.04 * (k % 2)) for k, x in enumerate(xs)]
        self.poly([*teeth, (1.0, 0.5), (0.28, 0.56 - h)], "metal")
        self.smooth([(0.0, 0.36), (0.3, 0.32), (0.36, 0.5), (0.3, 0.64), (0.04, 0.66), (0.06, 0.5)], "wood")
        self.oval(0.17, 0.5, 0.07, 0.06, "dark", turn=0.2)

    def ship(self) -> None:
        y = self.u(0.6, 0.66)
        for x in np.linspace(0.38, 0.62, self.n(1, 3)):
            self.poly([(x, y - 0.14), (x, y - 0.38), (x + 0.09, y - 0.38), (x + 0.09, y - 0.14)], "trim")
            self.box(x - 0.005, y - 0.38, x + 0.095, y - 0.32, "dark", detail=True)
        self.box(0.22, y - 0.14, 0.82, y, "pale")
        self.windows(0.24, y - 0.12, 0.8, y - 0.03, self.n(4, 6))
        self.hull(0.0, 1.04, y, self.u(0.17, 0.22))
        for x in np.linspace(0.25, 0.78, self.n(4, 6)):
            self.oval(x, y + 0.07, 0.02, 0.02, "glass", detail=True)

    def sofa(self) -> None:
        back, n, arm = self.u(0.22, 0.34), self.n(2, 3), self.u(0.11, 0.15)
        self.legs([0.1, 0.9], 0.8, 0.96, 0.05, "wood")
        self.box(0.06, back, 0.94, 0.8, soft=0.06)
        for k in range(n):
            w = (1 - 2 * arm) / n
            self.box(arm + k * w, back + 0.06, arm + (k + 1) * w, 0.58, "body")
            self.box(arm + k * w, 0.56, arm + (k + 1) * w, 0.68, "trim")
        self.box(0.05, 0.68, 0.95, 0.84, "body")
        for x in (0, 1 - arm):
            self.poly([*_arc(x + arm / 2, 0.5, arm / 2 + 0.02, 0.07, pi, 2 * pi), (x + arm, 0.85), (x, 0.85)])

    def swan(self) -> None:
        top = self.u(0.12, 0.2)
        neck = [(0.6, 0.62), (0.86, 0.52), (0.58, 0.3), (0.66, top - 0.06), (0.76, top)]
        self.wader(neck, 0, self.u(0.06, 0.09), 1.1, 0.065)

    def table(self) -> None:
        top, w = self.u(0.3, 0.42), self.u(0.06, 0.09)
        self.legs([0.2, 0.82], top, 0.84, w, "wood")
        self.legs([0.05, 0.95], top, 0.98, w, "wood")
        self.box(0.05, top, 0.95, top + 0.12, "wood")
        self.poly([(-0.02, top + 0.04), (0.12, top - 0.1), (0.88, top - 0.1), (1.02, top + 0.04)], "body")

    def teapot(self) -> None:
        w, h = self.u(0.27, 0.32), self.u(0.22, 0.28)
        self.handle(0.55 - w, 0.6, self.u(0.17, 0.22), 0.17, 0.05, pi / 2)
        self.tube([(0.44 + w, 0.7), (0.56 + w, 0.62), (0.58 + w, 0.5), (0.7 + w, 0.38)], 0.14, 0.05)
        belly = [(0.7 * w, 0.6 - h), (1.15 * w, 0.6), (0.9 * w, 0.58 + h), (0.6 * w, 0.6 + h)]
        self.lathe([(0, 0.6 - h), *belly, (0, 0.6 + h)])
        self.lathe([(0, 0.53 - h), (0.4 * w, 0.54 - h), (0.6 * w, 0.63 - h), (0, 0.65 - h)], "trim")
        self.oval(0.5, 0.52 - h, 0.035, 0.035, "dark")

    def tent(self) -> None:
        x, top, deep = self.u(0.34, 0.42), self.u(0.24, 0.34), self.u(0.26, 0.34)
        self.poly([(x, top), (x + deep, top + 0.04), (1.0, 0.86), (0.7, 0.95)], "trim")
        self.poly([(x, top), (0.72, 0.95), (0.02, 0.95)], "body")
        self.poly([(x, top + 0.16), (x + 0.15, 0.95), (x - 0.13, 0.95)], "dark")
        self.line([(x, top + 0.02), (x, top - 0.08)], "wood", 0.025)

    def train(self) -> None:
        boiler = self.u(0.44, 0.5)
        self.poly([(0.72, boiler), (0.7, 0.22), (0.86, 0.22), (0.82, boiler)], "dark")
        self.oval(0.54, boiler, 0.07, 0.07, "trim")
        self.box(0.34, boiler, 0.94, 0.72, "body")
        self.box(0.04, 0.3, 0.38, 0.76, "body")
        self.box(0.0, 0.25, 0.43, 0.31, "trim")
        self.windows(0.08, 0.36, 0.34, 0.54, 1)
        self.poly([(0.9, 0.72), (1.06, 0.88), (0.86, 0.88)], "dark")
        n = self.n(3, 4)
        for k in range(n):
            r = 0.36 / n
            self.wheel(0.14 + 0.68 * k / (n - 1), 0.9 - r, r)

    def truck(self) -> None:
        h, cab = self.u(0.36, 0.44), self.u(0.66, 0.7)
        self.box(0.0, 0.7 - h, cab - 0.03, 0.7, "trim")
        self.poly([(cab, 0.74), (cab, 0.4), (cab + 0.16, 0.4), (cab + 0.24, 0.56), (1.02, 0.58), (1.02, 0.74)], "body")
        self.poly([(cab + 0.05, 0.55), (cab + 0.05, 0.44), (cab + 0.14, 0.44), (cab + 0.2, 0.55)], "glass")
        self.box(0.02, 0.7, 0.96, 0.75, "dark")
        for x in [0.14, 0.32, 0.84][self.n(0, 1) :]:
            self.wheel(x, 0.77, self.u(0.085, 0.1))

    def umbrella(self) -> None:
        w, h, n = self.u(0.44, 0.5), self.u(0.36, 0.44), self.n(4, 5)
        hook = _arc(0.42, 0.92, 0.08, 0.08, 0, pi)
        self.line([(0.5, 0.08), (0.5, 0.9), *hook], "wood", 0.035)
        xs = np.linspace(0.5 + w, 0.5 - w, n + 1)
        scallops = [_arc((a + b) / 2, 0.5, (a - b) / 2, 0.06, 0, -pi) for a, b in zip(xs, xs[1:], strict=False)]
        self.poly(np.concatenate([_arc(0.5, 0.5, w, h, pi, 2 * pi), *scallops]))
        for x in xs[1:-1]:
            self.line([(0.5, 0.5 - h), (0.5 + 0.7 * (x - 0.5), 0.5 - 0.5 * h), (x, 0.5)], "dark", 0.012, True, True)
        self.line([(0.5, 0.5 - h), (0.5, 0.43 - h)], "dark", 0.03)

    def whale(self) -> None:
        h = self.u(0.2, 0.26)
        for k in (-1, 1):
            spout = [(0, 0.36), (0.02 * k, 0.22), (0.12 * k, 0.16), (0.15 * k, 0.24)]
            self.line([(0.72 + dx, y) for dx, y in spout], "pale", 0.022, curved=True)
        fluke = [(0.12, 0.5), (-0.02, 0.4), (-0.04, 0.24), (0.1, 0.3), (0.14, 0.36)]
        self.smooth([*fluke, (0.22, 0.24), (0.3, 0.3), (0.26, 0.46)])
        back = [(0.08, 0.4), (0.3, 0.56), (0.5, 0.6 - h), (0.9, 0.58 - h), (1.04, 0.6)]
        self.smooth([*back, (0.92, 0.6 + h), (0.5, 0.62 + h), (0.16, 0.66)])
        self.line([(1.0, 0.64), (0.84, 0.68), (0.78, 0.64)], "dark", 0.018, curved=True)
        self.tube([(0.62, 0.7), (0.6, 0.8), (0.5, 0.86 + 0.2 * h)], 0.12, 0.04, "trim")
        self.eye(0.82, 0.56, 0.02)

    def wine_glass(self) -> None:
        w, deep = self.u(0.17, 0.24), self.u(0.4, 0.5)
        foot = [(self.u(0.16, 0.2), 0.97), (0.18, 1.0), (0, 1.0)]
        self.lathe([(0.03, deep - 0.05), (0.02, 0.7), (0.02, 0.9), *foot], "glass")
        self.lathe([(0.85 * w, 0.0), (1.1 * w, 0.2), (w, 0.36), (0.4 * w, deep), (0, deep)], "glass")
        self.lathe([(w, 0.2), (0.95 * w, 0.33), (0.4 * w, deep - 0.02), (0, deep - 0.02)], "body")
        self.oval(0.5, 0.0, 0.85 * w, 0.03, "pale")


def _rounded(points: Points, *, closed: bool, times: int = 3) -> np.ndarray:
    """Cuts the corners (Chaikin's scheme); an open path keeps its two ends."""
    path = np.asarray(points, dtype=float)
    for _ in range(times):
        here, there = (path, np.roll(path, -1, axis=0)) if closed else (path[:-1], path[1:])
        cut = np.stack([0.75 * here + 0.25 * there, 0.25 * here + 0.75 * there], axis=1).reshape(-1, 2)
        path = cut if closed else np.concatenate([path[:1], cut, path[-1:]])
    return path


def _arc(x: float, y: float, rx: float, ry: float, start: float, stop: float, turn: float = 0.0) -> np.ndarray:
    """Points of an ellipse from angle `start` to `stop` (0 is right, pi / 2 is down), turned about its centre."""
    angle = np.linspace(start, stop, max(5, round(abs(stop - start) * 4)))
    dx, dy = rx * np.cos(angle), ry * np.sin(angle)
    return np.stack([x + dx * cos(turn) - dy * sin(turn), y + dx * sin(turn) + dy * cos(turn)], axis=1)


CATEGORIES: tuple[str, ...] = tuple(sorted(name for name in vars(_World) if not name.startswith("_")))

# Held out by choice of parts, before anything was measured: each shares its parts with categories that stay, so that
# it can be recognised by what was learnt there (truck: bus and train; teapot: cup; giraffe: horse; church: house; ...).
UNSEEN: tuple[str, ...] = tuple(
    "airplane axe church giraffe pear rabbit sailboat sofa teapot truck whale wine_glass".split()
)


# Rendering ----------------------------------------------------------------------------------------------------------


def _rng(*key: object) -> np.random.Generator:
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def _instance(category: str, instance: int, seed: int) -> list[Part]:
    """The parts of one instance in its pose, centred on the origin, with a longer side of 1."""
    if category not in CATEGORIES:
        raise ValueError(f"unknown category {category!r}, expected one of: {', '.join(CATEGORIES)}")
    rng = _rng("instance", category, instance, seed)
    world = _World(rng)
    getattr(world, category)()
    turn, flip, stretch = rng.normal(0, 0.1), rng.choice((-1, 1)), np.exp(rng.normal(0, 0.08))
    pose = np.diag([flip * stretch, 1 / stretch]) @ _rotation(turn)
    posed = [part.points @ pose for part in world.parts]
    everything = np.concatenate(posed)
    low, high = everything.min(axis=0), everything.max(axis=0)
    fit = 1 / (high - low).max()
    return [
        replace(part, points=(points - (low + high) / 2) * fit, width=part.width * fit)
        for part, points in zip(world.parts, posed, strict=True)
    ]


def _rotation(angle: float) -> np.ndarray:
    return np.array([[cos(angle), sin(angle)], [-sin(angle), cos(angle)]])


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


def draw_photo(category: str, instance: int, *, size: int = 128, seed: int = 0) -> np.ndarray:
    """The instance as if photographed: uint8 [size, size, 3]."""
    parts = _instance(category, instance, seed)
    rng = _rng("photo", category, instance, seed)
    roles = [part.role for part in parts]

    # Which part is seen where (0: none), drawn at twice the size so that averaging smooths the edges.
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

    # A bright object on dark ground or the reverse: brightness alone must not give the object away.
    if rng.random() < 0.5:
        tone, ground = rng.uniform(0.7, 0.95), rng.uniform(0.12, 0.42)
    else:
        tone, ground = rng.uniform(0.18, 0.38), rng.uniform(0.62, 0.95)
    hues = {role: _HUES.get(role, (rng.uniform(), rng.uniform(0.1, 0.8))) for role in _TONES}
    palette = [(0, 0, 0)]
    for role in roles:
        hue, saturation = hues[role]
        palette.append(_colour(hue + rng.normal(0, 0.02), saturation, tone + _TONES[role] + rng.normal(0, 0.04)))
    labels.putpalette([channel for colour in palette for channel in colour])
    front = np.asarray(labels.convert("RGB").reduce(2), dtype=np.float32)

    # Light falls across every part from the same side; texture shows on the large surfaces only.
    seen = np.asarray(labels)[::2, ::2]
    slope = rng.uniform(0.15, 0.5) * _rotation(rng.uniform(0, 2 * pi))[0].astype(np.float32) / frames[:, 2:]
    offset = 1 - (slope * frames[:, :2]).sum(axis=1)
    grid = np.arange(size, dtype=np.float32)
    shade = offset[seen] + slope[:, 0][seen] * grid + slope[:, 1][seen] * grid[:, None]
    rough = np.array([0] + [role in ("body", "trim", "leaf") for role in roles], dtype=np.float32)
    shade += (rng.uniform(0.08, 0.25) * rough)[seen] * _texture(rng, size)

    covered = labels.point([0] + [255] * 255, "L").reduce(2)
    shadow = Image.new("L", (size, size))
    shadow.paste(covered, (round(rng.uniform(-0.06, 0.06) * size), round(rng.uniform(0.01, 0.06) * size)))
    shadow = np.asarray(shadow.filter(ImageFilter.BoxBlur(0.04 * size)), dtype=np.float32) / 255
    light = 1 - rng.uniform(0.1, 0.45) * shadow + 0.12 * _clouds(rng, int(rng.integers(4, 24)), size)
    behind = np.asarray(_background(rng, size, ground), dtype=np.float32) * light[..., None]

    # Edge pixels of `front` are already mixed with black, so the background only has to be added.
    mixed = front * shade[..., None] + behind * (1 - np.asarray(covered, dtype=np.float32)[..., None] / 255)
    image = Image.fromarray(mixed.clip(0, 255).astype(np.uint8))
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, max(0.2, 0.006 * size))))
    grain = rng.uniform(2, 7) * rng.standard_normal((size, size, 1), dtype=np.float32)
    return (np.asarray(image) + grain).clip(0, 255).astype(np.uint8)


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


def draw_sketch(category: str, instance: int, *, variant: int = 0, size: int = 128, seed: int = 0) -> np.ndarray:
    """The instance as drawn from memory by hand number `variant`: uint8 [size, size], ink 0 on paper 255."""
    parts = _instance(category, instance, seed)
    rng = _rng("sketch", category, instance, seed, variant)

    # The hand: how large, how crooked, how unsteady, how thick, how careful.
    scale, stretch, shear = rng.uniform(0.66, 0.9), np.exp(rng.normal(0, 0.05)), rng.normal(0, 0.05)
    view = scale * np.array([[stretch, 0], [shear, 1 / stretch]]) @ _rotation(rng.normal(0, 0.06))
    centre = 0.5 + rng.uniform(-1, 1, 2) * (0.96 - scale) / 2
    unsteady, thick, careless = rng.uniform(0.003, 0.009), rng.uniform(0.011, 0.022), rng.uniform(0.05, 0.35)

    paths = [_dense(part.points, part.closed) for part in parts]
    points = np.concatenate(paths) @ view + centre
    # A slow bend over the whole sheet plus a faster tremble that runs along the paths.
    phase, run = rng.uniform(0, 2 * pi, (2, 2)), np.arange(len(points))[:, None]
    points += 2 * unsteady * np.sin(points[:, ::-1] * rng.uniform(3, 7, 2) + phase[0])
    points += unsteady * np.sin(run * rng.uniform(0.5, 1.1, 2) + phase[1]) * rng.uniform(0.2, 1, (len(points), 1))
    points *= 2 * size

    sheet = Image.new("L", (2 * size, 2 * size), 255)
    draw = ImageDraw.Draw(sheet)
    for part, path in zip(parts, np.split(points, np.cumsum([len(p) for p in paths])[:-1]), strict=True):
        if part.detail and rng.random() < careless:
            continue
        if part.closed:
            draw.polygon(path.ravel().tolist(), fill=255)  # hides what lies behind
        strokes = _strokes(path, part.closed, rng)
        for stroke in strokes:
            luck = rng.random(4)
            if luck[0] < 0.04 and len(strokes) > 1:
                continue  # forgotten; never a whole outline
            for again in range(1 + (luck[1] < 0.12)):
                drawn = stroke + again * rng.normal(0, 0.016 * size, 2)
                # The pen overshoots or stops short at both ends.
                drawn[0] += (drawn[0] - drawn[1]) * (luck[2] - 0.4)
                drawn[-1] += (drawn[-1] - drawn[-2]) * (luck[3] - 0.4)
                middle = len(drawn) // 2
                for piece in (drawn[: middle + 1], drawn[middle:]):
                    width = max(2, round(thick * 2 * size * rng.uniform(0.7, 1.25)))
                    draw.line(piece.ravel().tolist(), fill=0, width=width)
    return np.asarray(sheet.reduce(2))
