"""Tools, vessels and other small things."""

from __future__ import annotations

from math import pi

import numpy as np

from zse_model.synthetic.categories.registry import category
from zse_model.synthetic.shapes import Drawing, arc, rounded


@category("axe", unseen="the rod and metal head of hammer")
def axe(draw: Drawing) -> None:
    draw.rod(1.0, draw.u(0.05, 0.075))
    w, h = draw.u(0.22, 0.3), draw.u(0.13, 0.18)
    edge = rounded([(0.5 + w, 0.1 - h * 0.6), (0.56 + w, 0.18), (0.5 + w, 0.26 + h * 0.6)], closed=False)
    draw.poly(np.concatenate([[(0.44, 0.1), (0.56, 0.1)], edge, [(0.56, 0.26), (0.44, 0.26)]]), "metal")
    draw.line(edge - (0.05, 0), "pale", 0.008, detail=True)


@category("bell")
def bell(draw: Drawing) -> None:
    w = draw.u(0.28, 0.38)
    draw.line(arc(0.5, 0.08, 0.07, 0.08, 0, 2 * pi), "trim", 0.03)
    draw.oval(0.5, 0.86, 0.07, 0.07, "dark")
    draw.lathe([(0, 0.13), (0.5 * w, 0.13), (0.6 * w, 0.5), (0.7 * w, 0.7), (w, 0.82)])
    draw.box(0.5 - w, 0.8, 0.5 + w, 0.86, "trim")


@category("bottle")
def bottle(draw: Drawing) -> None:
    w, neck = draw.u(0.12, 0.18), draw.u(0.04, 0.06)
    draw.lathe([(neck, 0.06), (neck, 0.3), (w, 0.36), (w, 0.5), (w, 0.9), (w, 1.0), (0, 1.0)], "body")
    draw.box(0.5 - neck - 0.012, 0, 0.5 + neck + 0.012, 0.09, "trim")
    draw.box(0.5 - w, 0.55, 0.5 + w, draw.u(0.72, 0.85), "pale", detail=True)


@category("cup")
def cup(draw: Drawing) -> None:
    top, base = draw.u(0.28, 0.34), draw.u(0.18, 0.26)
    if draw.maybe():
        draw.oval(0.5, 0.92, 0.46, 0.07, "trim")
    draw.handle(0.46 + top, 0.5, draw.u(0.16, 0.22), 0.17, 0.05)
    draw.lathe([(top, 0.22), (top, 0.6), (base, 0.92), (0, 0.94)])
    draw.oval(0.5, 0.22, top, draw.u(0.04, 0.07), "dark")


@category("hammer")
def hammer(draw: Drawing) -> None:
    draw.rod(1.0, draw.u(0.06, 0.09))
    w, h = draw.u(0.2, 0.26), draw.u(0.12, 0.15)
    draw.poly([(0.5 - w, 0), (0.6, 0), (0.6, h), (0.5 - w, h)], "metal")
    draw.box(0.46 - w, -0.02, 0.52 - w, h + 0.02, "metal")
    claw = rounded([(0.6, 0), (0.74, 0), (0.82, h + 0.04)], closed=False)
    draw.poly([*claw, (0.6, h)], "metal")


@category("hat")
def hat(draw: Drawing) -> None:
    w, top = draw.u(0.2, 0.26), draw.u(0.26, 0.36)
    draw.oval(0.5, 0.7, 0.5, draw.u(0.08, 0.11), "body")
    draw.lathe([(0, top), (0.95 * w, top), (w, top + 0.08), (1.05 * w, 0.66), (0.8 * w, 0.72), (0, 0.73)])
    draw.lathe([(1.03 * w, 0.57), (1.06 * w, 0.67), (0.8 * w, 0.71), (0, 0.73)], "trim", curved=False)


@category("key")
def key(draw: Drawing) -> None:
    r = draw.u(0.15, 0.2)
    draw.tube([(0.5, 0.2), (0.5, 1.0)], 0.06, 0.06, "metal")
    draw.oval(0.5, 0.18, r, r * draw.u(0.8, 1.1), "metal")
    draw.oval(0.5, 0.18, 0.55 * r, 0.55 * r, "dark")
    for y in np.linspace(0.95, 0.76, draw.n(2, 3)):
        draw.box(0.52, y - 0.035, 0.52 + draw.u(0.1, 0.17), y + 0.035, "metal")


@category("pan")
def pan(draw: Drawing) -> None:
    w = draw.u(0.26, 0.3)
    draw.tube([(0.3 + w, 0.5), (1.06, draw.u(0.36, 0.48))], 0.07, 0.08, "wood")
    draw.lathe([(w, 0.48), (0.95 * w, 0.62), (0.7 * w, 0.7), (0, 0.7)], "body", x=0.32)
    draw.oval(0.32, 0.48, w, draw.u(0.07, 0.12), "dark")


@category("saw")
def saw(draw: Drawing) -> None:
    n, h = draw.n(8, 12), draw.u(0.16, 0.22)
    xs = np.linspace(0.28, 1.0, 2 * n + 1)
    teeth = [(x, 0.56 + 0.04 * (k % 2)) for k, x in enumerate(xs)]
    draw.poly([*teeth, (1.0, 0.5), (0.28, 0.56 - h)], "metal")
    draw.smooth([(0.0, 0.36), (0.3, 0.32), (0.36, 0.5), (0.3, 0.64), (0.04, 0.66), (0.06, 0.5)], "wood")
    draw.oval(0.17, 0.5, 0.07, 0.06, "dark", turn=0.2)


@category("teapot", unseen="the turned body and the handle of cup")
def teapot(draw: Drawing) -> None:
    w, h = draw.u(0.27, 0.32), draw.u(0.22, 0.28)
    draw.handle(0.55 - w, 0.6, draw.u(0.17, 0.22), 0.17, 0.05, pi / 2)
    draw.tube([(0.44 + w, 0.7), (0.56 + w, 0.62), (0.58 + w, 0.5), (0.7 + w, 0.38)], 0.14, 0.05)
    belly = [(0.7 * w, 0.6 - h), (1.15 * w, 0.6), (0.9 * w, 0.58 + h), (0.6 * w, 0.6 + h)]
    draw.lathe([(0, 0.6 - h), *belly, (0, 0.6 + h)])
    draw.lathe([(0, 0.53 - h), (0.4 * w, 0.54 - h), (0.6 * w, 0.63 - h), (0, 0.65 - h)], "trim")
    draw.oval(0.5, 0.52 - h, 0.035, 0.035, "dark")


@category("umbrella")
def umbrella(draw: Drawing) -> None:
    w, h, n = draw.u(0.44, 0.5), draw.u(0.36, 0.44), draw.n(4, 5)
    hook = arc(0.42, 0.92, 0.08, 0.08, 0, pi)
    draw.line([(0.5, 0.08), (0.5, 0.9), *hook], "wood", 0.035)
    xs = np.linspace(0.5 + w, 0.5 - w, n + 1)
    scallops = [arc((a + b) / 2, 0.5, (a - b) / 2, 0.06, 0, -pi) for a, b in zip(xs, xs[1:], strict=False)]
    draw.poly(np.concatenate([arc(0.5, 0.5, w, h, pi, 2 * pi), *scallops]))
    for x in xs[1:-1]:
        draw.line([(0.5, 0.5 - h), (0.5 + 0.7 * (x - 0.5), 0.5 - 0.5 * h), (x, 0.5)], "dark", 0.012, True, True)
    draw.line([(0.5, 0.5 - h), (0.5, 0.43 - h)], "dark", 0.03)


@category("wine_glass", unseen="turned glass as of bottle, the foot of lamp")
def wine_glass(draw: Drawing) -> None:
    w, deep = draw.u(0.17, 0.24), draw.u(0.4, 0.5)
    foot = [(draw.u(0.16, 0.2), 0.97), (0.18, 1.0), (0, 1.0)]
    draw.lathe([(0.03, deep - 0.05), (0.02, 0.7), (0.02, 0.9), *foot], "glass")
    draw.lathe([(0.85 * w, 0.0), (1.1 * w, 0.2), (w, 0.36), (0.4 * w, deep), (0, deep)], "glass")
    draw.lathe([(w, 0.2), (0.95 * w, 0.33), (0.4 * w, deep - 0.02), (0, deep - 0.02)], "body")
    draw.oval(0.5, 0.0, 0.85 * w, 0.03, "pale")
