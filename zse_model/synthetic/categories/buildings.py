"""Buildings and furniture."""

from __future__ import annotations

from math import pi

import numpy as np

from zse_model.synthetic.categories.registry import category
from zse_model.synthetic.shapes import Drawing, arc


@category("chair")
def chair(draw: Drawing) -> None:
    seat, w = draw.u(0.52, 0.6), draw.u(0.44, 0.54)
    x0, x1, deep = 0.5 - w / 2, 0.5 + w / 2, draw.u(0.08, 0.14)
    draw.legs([x0 + deep, x1 + deep - 0.02], seat, 0.94, 0.05, "wood")
    for x in (x0 + deep, x1 + deep):
        draw.tube([(x, seat), (x + 0.02, 0.02)], 0.05, 0.045, "wood")
    for y in np.linspace(0.06, seat - 0.16, draw.n(2, 3)):
        draw.box(x0 + deep, y, x1 + deep + 0.03, y + 0.07, "body")
    draw.legs([x0 + 0.03, x1 - 0.03], seat, 1.05, 0.05, "wood")
    draw.poly([(x0 - 0.03, seat + 0.09), (x0 + deep, seat), (x1 + deep + 0.03, seat), (x1, seat + 0.09)], "body")


@category("church", unseen="walls, roof and door of house, a tower as of lighthouse")
def church(draw: Drawing) -> None:
    w, wall, tower = draw.u(0.22, 0.28), draw.u(0.56, 0.64), draw.u(0.34, 0.42)
    draw.box(0.4, wall, 1.0, 1.0, "body")
    draw.poly([(0.36, wall), (0.46, wall - 0.17), (0.96, wall - 0.17), (1.05, wall)], "trim")
    draw.box(0.2, tower, 0.2 + w, 1.0, "body")
    draw.roof(0.2, 0.2 + w, tower, draw.u(0.22, 0.3), 0.03)
    x, y = 0.2 + w / 2, tower - 0.22
    draw.line([(x, y), (x, y - 0.18)], "dark", 0.022)
    draw.line([(x - 0.05, y - 0.12), (x + 0.05, y - 0.12)], "dark", 0.022)
    draw.door(x, 1.0, 0.11, 0.14, arched=True)
    draw.oval(x, tower + 0.12, 0.045, 0.045, "glass")
    for x in np.linspace(0.58, 0.9, draw.n(2, 3)):
        draw.door(x, 0.88, 0.08, 0.12, arched=True)


@category("house")
def house(draw: Drawing) -> None:
    w, wall = draw.u(0.3, 0.42), draw.u(0.42, 0.54)
    if draw.maybe(0.7):
        draw.box(0.5 + 0.4 * w, wall - 0.3, 0.5 + 0.4 * w + 0.09, wall, "body")
    draw.box(0.5 - w, wall, 0.5 + w, 0.98, "body")
    draw.roof(0.5 - w, 0.5 + w, wall, draw.u(0.26, 0.36), 0.07)
    x = 0.5 + draw.u(-0.3, 0.3) * w
    draw.door(x, 0.98, 0.15, draw.u(0.24, 0.3))
    for side in (-1, 1):
        x = 0.5 + side * 0.66 * w
        draw.windows(x - 0.09, wall + 0.08, x + 0.09, wall + 0.28, 1)


@category("ladder")
def ladder(draw: Drawing) -> None:
    w, lean = draw.u(0.14, 0.2), draw.u(-0.1, 0.1)
    for t in np.linspace(0.1, 0.92, draw.n(5, 7)):
        x = 0.5 + lean * (0.5 - t)
        draw.tube([(x - w, t), (x + w, t)], 0.045, 0.045, "wood")
    for side in (-1, 1):
        x = 0.5 + side * w
        draw.tube([(x + lean / 2, 0), (x - lean / 2 + side * 0.02, 1)], 0.055, 0.06, "wood")


@category("lamp")
def lamp(draw: Drawing) -> None:
    w, h = draw.u(0.28, 0.36), draw.u(0.3, 0.4)
    draw.tube([(0.5, 0.3), (0.5, 0.95)], 0.05, 0.06, "metal")
    draw.lathe([(0.05, 0.92), (draw.u(0.18, 0.25), 0.95), (0.24, 1.0), (0, 1.0)], "metal")
    draw.lathe([(0.5 * w, 0.0), (w, h)], "body", curved=False)
    draw.line([(0.5 - 0.7 * w, h), (0.5 - 0.7 * w, h + 0.14)], "dark", 0.012, detail=True)


@category("lighthouse")
def lighthouse(draw: Drawing) -> None:
    w, top, n = draw.u(0.14, 0.19), draw.u(0.26, 0.32), draw.n(2, 3)
    ys, rs = np.linspace(top, 0.95, 2 * n + 2), np.linspace(0.6 * w, w, 2 * n + 2)
    for k in range(2 * n + 1):
        draw.lathe([(rs[k], ys[k]), (rs[k + 1], ys[k + 1])], "trim" if k % 2 else "body", curved=False)
    draw.box(0.5 - 0.4 * w, top - 0.12, 0.5 + 0.4 * w, top, "glass")
    draw.box(0.5 - 0.8 * w, top - 0.02, 0.5 + 0.8 * w, top + 0.02, "dark")
    draw.roof(0.5 - 0.4 * w, 0.5 + 0.4 * w, top - 0.12, 0.12, 0.03)
    draw.door(0.5, 0.95, 0.09, 0.08, arched=True)
    draw.smooth([(0.14, 1.0), (0.3, 0.92), (0.7, 0.93), (0.86, 1.0), (0.7, 1.06), (0.3, 1.06)], "dark")


@category("sofa", unseen="legs, seat and back of chair")
def sofa(draw: Drawing) -> None:
    back, n, arm = draw.u(0.22, 0.34), draw.n(2, 3), draw.u(0.11, 0.15)
    draw.legs([0.1, 0.9], 0.8, 0.96, 0.05, "wood")
    draw.box(0.06, back, 0.94, 0.8, soft=0.06)
    for k in range(n):
        w = (1 - 2 * arm) / n
        draw.box(arm + k * w, back + 0.06, arm + (k + 1) * w, 0.58, "body")
        draw.box(arm + k * w, 0.56, arm + (k + 1) * w, 0.68, "trim")
    draw.box(0.05, 0.68, 0.95, 0.84, "body")
    for x in (0, 1 - arm):
        draw.poly([*arc(x + arm / 2, 0.5, arm / 2 + 0.02, 0.07, pi, 2 * pi), (x + arm, 0.85), (x, 0.85)])


@category("table")
def table(draw: Drawing) -> None:
    top, w = draw.u(0.3, 0.42), draw.u(0.06, 0.09)
    draw.legs([0.2, 0.82], top, 0.84, w, "wood")
    draw.legs([0.05, 0.95], top, 0.98, w, "wood")
    draw.box(0.05, top, 0.95, top + 0.12, "wood")
    draw.poly([(-0.02, top + 0.04), (0.12, top - 0.1), (0.88, top - 0.1), (1.02, top + 0.04)], "body")


@category("tent")
def tent(draw: Drawing) -> None:
    x, top, deep = draw.u(0.34, 0.42), draw.u(0.24, 0.34), draw.u(0.26, 0.34)
    draw.poly([(x, top), (x + deep, top + 0.04), (1.0, 0.86), (0.7, 0.95)], "trim")
    draw.poly([(x, top), (0.72, 0.95), (0.02, 0.95)], "body")
    draw.poly([(x, top + 0.16), (x + 0.15, 0.95), (x - 0.13, 0.95)], "dark")
    draw.line([(x, top + 0.02), (x, top - 0.08)], "wood", 0.025)
