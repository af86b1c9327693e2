"""Plants and fruit."""

from __future__ import annotations

from math import cos, pi, sin

import numpy as np

from zse_model.synthetic.categories.registry import category
from zse_model.synthetic.shapes import Drawing, Points, arc


def fruit(draw: Drawing, profile: Points) -> None:
    """A turned fruit with a stem, and mostly a leaf. `profile` as in `Drawing.lathe`."""
    draw.lathe(profile)
    top = profile[0][1]
    draw.tube([(0.5, top + 0.05), (0.51, top - 0.05), (0.5 + draw.u(-0.05, 0.05), top - 0.13)], 0.025, 0.03, "wood")
    if draw.maybe(0.8):
        draw.leaf(0.51, top - 0.05, draw.u(0.18, 0.26), draw.u(-0.7, -0.1))


@category("apple")
def apple(draw: Drawing) -> None:
    w = draw.u(0.3, 0.37)
    cheek = [(0.7 * w, 0.18), (1.15 * w, 0.32), (1.05 * w, 0.7), (0.6 * w, 0.94)]
    fruit(draw, [(0, 0.28), *cheek, (0.1, 0.86), (0, 0.88)])


@category("cactus")
def cactus(draw: Drawing) -> None:
    w = draw.u(0.14, 0.18)
    for side, y in ((-1, draw.u(0.4, 0.55)), (1, draw.u(0.35, 0.5))):
        x = 0.5 + side * draw.u(0.24, 0.3)
        arm = [(0.5, y + 0.1), (x, y + 0.12), (x, y - 0.02), (x, y - draw.u(0.14, 0.22))]
        draw.tube(arm, 0.7 * w, 0.6 * w, "leaf")
    draw.lathe([(0, 0.04), (0.5 * w, 0.04), (0.6 * w, 0.16), (0.55 * w, 0.84)], "leaf")
    for k in (-1, 1):
        draw.line([(0.5 + 0.2 * k * w, 0.14), (0.5 + 0.2 * k * w, 0.76)], "pale", 0.01, detail=True)
    draw.lathe([(0.17, 0.8), (0.12, 1.0)], "trim", curved=False)


@category("carrot")
def carrot(draw: Drawing) -> None:
    for k in (-0.7, 0.0, 0.7):
        draw.leaf(0.5, 0.26, draw.u(0.24, 0.34), -pi / 2 + k + draw.u(-0.15, 0.15), 0.35)
    w = draw.u(0.13, 0.18)
    draw.lathe([(0, 0.22), (w, 0.22), (1.1 * w, 0.4), (0.5 * w, 0.8), (0.01, 1.04)])
    for y in (0.4, 0.55, 0.68):
        draw.line([(0.5 - 0.5 * w, y), (0.5 + draw.u(-0.2, 0.1) * w, y + 0.015)], "dark", 0.01, detail=True)


@category("flower")
def flower(draw: Drawing) -> None:
    n, r, y = draw.n(5, 8), draw.u(0.13, 0.17), 0.32
    draw.tube([(0.5, y), (0.5 + draw.u(-0.06, 0.06), 0.7), (0.5, 1.05)], 0.035, 0.045, "leaf")
    draw.leaf(0.5, 0.86, draw.u(0.24, 0.32), draw.u(-0.7, -0.3))
    draw.leaf(0.5, 0.94, draw.u(0.24, 0.32), pi + draw.u(0.3, 0.7))
    for k in range(n):
        a = 2 * pi * k / n
        draw.oval(0.5 + 1.25 * r * cos(a), y + 1.25 * r * sin(a), r * 0.85, 2.2 * r / n + 0.02, "body", turn=a)
    draw.oval(0.5, y, 0.7 * r, 0.7 * r, "trim")


@category("mushroom")
def mushroom(draw: Drawing) -> None:
    w, y = draw.u(0.36, 0.46), draw.u(0.46, 0.54)
    draw.lathe([(0.1, y - 0.05), (draw.u(0.08, 0.11), 0.75), (draw.u(0.12, 0.16), 1.0), (0, 1.02)], "pale")
    draw.poly(np.concatenate([arc(0.5, y, w, draw.u(0.3, 0.42), pi, 2 * pi), arc(0.5, y, w, 0.06, 0, pi)[1:-1]]))
    for x, up in ((-0.5, 0.1), (-0.1, 0.22), (0.4, 0.13), (0.05, 0.06)):
        draw.oval(0.5 + x * w, y - up, draw.u(0.03, 0.055), 0.035, "pale", detail=True)


@category("pear", unseen="the turned fruit, stem and leaf of apple")
def pear(draw: Drawing) -> None:
    w, neck = draw.u(0.26, 0.32), draw.u(0.1, 0.14)
    cheek = [(neck, 0.14), (neck * 1.1, 0.34), (1.2 * w, 0.56), (1.1 * w, 0.96)]
    fruit(draw, [(0, 0.14), *cheek, (0.3 * w, 0.99), (0, 0.96)])


@category("pine_tree")
def pine_tree(draw: Drawing) -> None:
    n, w = draw.n(3, 4), draw.u(0.26, 0.36)
    draw.trunk(0.7, 0.1)
    for k in reversed(range(n)):
        y, half = 0.88 * k / n, w * (0.5 + 0.5 * (k + 1) / n)
        draw.poly([(0.5, y - 0.04), (0.5 + half, y + 0.92 / n + 0.06), (0.5 - half, y + 0.92 / n + 0.06)], "leaf")
