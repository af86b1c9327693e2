"""Vehicles."""

from __future__ import annotations

import numpy as np

from zse_model.synthetic.categories.registry import category
from zse_model.synthetic.shapes import Drawing, arc, rounded


@category("airplane", unseen="windows as of bus and ship, swept wings as of rocket, a tail as of helicopter")
def airplane(draw: Drawing) -> None:
    h = draw.u(0.07, 0.09)
    draw.poly([(0.42, 0.47), (0.32, 0.22), (0.4, 0.22), (0.6, 0.47)], "trim")
    draw.poly([(0.06, 0.5), (0.0, 0.28), (0.09, 0.28), (0.22, 0.47)], "trim")
    nose = [(0.3, 0.5 - h), (0.85, 0.5 - h), (1.02, 0.52), (0.85, 0.5 + h), (0.3, 0.5 + h)]
    draw.smooth([(0, 0.46), *nose, (0.05, 0.5)])
    for x in np.linspace(0.3, 0.72, draw.n(4, 7)):
        draw.oval(x, 0.485, 0.016, 0.02, "glass", detail=True)
    draw.poly([(0.85, 0.46), (0.91, 0.46), (0.95, 0.5), (0.85, 0.5)], "glass", detail=True)
    reach = draw.u(0.24, 0.34)
    draw.poly([(0.42, 0.53), (0.6, 0.53), (0.38, 0.53 + reach), (0.28, 0.53 + reach)], "trim")
    draw.poly([(0.04, 0.49), (0.15, 0.5), (0.06, 0.58), (0.0, 0.58)], "trim")


@category("bicycle")
def bicycle(draw: Drawing) -> None:
    r, base, spokes = draw.u(0.18, 0.22), draw.u(0.54, 0.62), draw.n(3, 6)
    x0, x1 = 0.5 - base / 2, 0.5 + base / 2
    for x in (x0, x1):
        draw.spoked(x, 0.75, r, spokes)
    pedal, seat, stem = (0.47, 0.75), (0.42, draw.u(0.36, 0.42)), (x1 - 0.08, 0.42)
    for path in ([(x0, 0.75), seat, pedal, (x0, 0.75)], [(seat[0] + 0.01, 0.46), stem, pedal], [(x1, 0.75), stem]):
        draw.line(path, "body", 0.032)
    draw.line([stem, (stem[0] - 0.03, 0.3), (stem[0] + 0.08, 0.28)], "dark", 0.03)
    draw.tube([(seat[0] - 0.09, seat[1] - 0.01), (seat[0] + 0.07, seat[1])], 0.05, 0.03, "dark")
    draw.oval(*pedal, 0.04, 0.04, "dark", detail=True)


@category("bus")
def bus(draw: Drawing) -> None:
    h = draw.u(0.36, 0.46)
    draw.box(0, 0.3, 1, 0.3 + h, soft=0.06)
    draw.windows(0.03, 0.33, 0.8, 0.33 + 0.4 * h, draw.n(4, 6))
    draw.box(0.83, 0.36, 0.94, 0.28 + h, "glass")
    for x in (0.2, draw.u(0.68, 0.74)):
        draw.wheel(x, 0.3 + h, draw.u(0.08, 0.095))


@category("car")
def car(draw: Drawing) -> None:
    roof, left, right = draw.u(0.3, 0.38), draw.u(0.14, 0.24), draw.u(0.62, 0.72)
    draw.poly([(left, 0.54), (left + 0.1, roof), (right - 0.08, roof), (right + 0.07, 0.54)], "body")
    mid = (left + right) / 2
    draw.poly([(left + 0.06, 0.53), (left + 0.13, roof + 0.04), (mid, roof + 0.04), (mid, 0.53)], "glass")
    draw.poly([(mid + 0.03, 0.53), (mid + 0.03, roof + 0.04), (right - 0.09, roof + 0.04), (right, 0.53)], "glass")
    draw.poly(rounded([(0, 0.5), (0.8, 0.5), (1.03, 0.58), (1.0, 0.73), (0, 0.73)], closed=True, times=1), "body")
    draw.oval(0.95, 0.61, 0.03, 0.025, "pale", detail=True)
    for x in (draw.u(0.18, 0.24), draw.u(0.74, 0.8)):
        draw.wheel(x, 0.73, draw.u(0.09, 0.12))


@category("helicopter")
def helicopter(draw: Drawing) -> None:
    w = draw.u(0.22, 0.27)
    draw.tube([(0.5, 0.46), (0.0, 0.42)], 0.12, 0.05)
    draw.poly([(0.0, 0.45), (-0.05, 0.28), (0.02, 0.28), (0.08, 0.44)], "trim")
    draw.line([(0.62, 0.4), (0.62, 0.22)], "dark", 0.03)
    draw.tube([(0.62 - draw.u(0.38, 0.46), 0.21), (1.04, 0.21)], 0.03, 0.03, "dark")
    draw.oval(0.63, 0.5, w, draw.u(0.16, 0.19))
    draw.poly(np.concatenate([arc(0.64, 0.5, 0.85 * w, 0.13, -1.3, 0.15), [(0.68, 0.52)]]), "glass")
    for x in (0.54, 0.72):
        draw.line([(x, 0.65), (x - 0.02, 0.78)], "dark", 0.022)
    draw.line([(0.36, 0.78), (0.84, 0.78), (0.9, 0.74)], "dark", 0.028)


@category("hot_air_balloon")
def hot_air_balloon(draw: Drawing) -> None:
    w = draw.u(0.34, 0.42)
    for side in (-1, 1):
        draw.line([(0.5 + side * 0.14, 0.6), (0.5 + side * 0.07, 0.86)], "dark", 0.015)
    top = [(0, 0), (0.8 * w, 0), (1.1 * w, 0.2), (1.0 * w, 0.42), (0.4 * w, 0.66), (0, 0.67)]
    draw.lathe(top)
    for k in (0.6, 0.22):
        draw.lathe([(k * r, y) for r, y in top], "trim" if k > 0.5 else "body")
    draw.lathe([(0.1, 0.85), (0.08, 1.0)], "wood", curved=False)


@category("rocket")
def rocket(draw: Drawing) -> None:
    w = draw.u(0.12, 0.17)
    draw.lathe([(0.6 * w, 0.84), (0.3 * w, 0.96), (0, draw.u(1.0, 1.1))], "pale", curved=False)
    for side in (-1, 1):
        x, reach = 0.5 + side * 0.8 * w, side * draw.u(0.12, 0.18)
        draw.poly([(x, 0.54), (x + reach, 0.78), (x + reach, 0.92), (x, 0.82)], "trim")
    draw.lathe([(0, 0), (0.5 * w, 0.08), (1.1 * w, 0.3), (1.15 * w, 0.6), (0.7 * w, 0.86)])
    draw.lathe([(0, 0), (0.32 * w, 0.05), (0.72 * w, 0.17)], "trim")
    for y in np.linspace(0.34, 0.56, draw.n(1, 2)):
        draw.oval(0.5, y, 0.055, 0.055, "glass")


@category("sailboat", unseen="the hull of ship, a pole as of umbrella")
def sailboat(draw: Drawing) -> None:
    x, top = draw.u(0.42, 0.52), draw.u(0.0, 0.08)
    draw.hull(0.06, 0.98, 0.76, draw.u(0.13, 0.18))
    draw.line([(x, 0.76), (x, top)], "wood", 0.025)
    draw.poly([(x + 0.03, top + 0.04), (x + draw.u(0.32, 0.4), 0.7), (x + 0.03, 0.7)], "pale")
    draw.poly([(x - 0.03, top + 0.1), (x - 0.03, 0.7), (x - draw.u(0.22, 0.32), 0.7)], "trim")
    draw.poly([(x, top), (x - 0.12, top + 0.03), (x, top + 0.06)], "trim", detail=True)


@category("ship")
def ship(draw: Drawing) -> None:
    y = draw.u(0.6, 0.66)
    for x in np.linspace(0.38, 0.62, draw.n(1, 3)):
        draw.poly([(x, y - 0.14), (x, y - 0.38), (x + 0.09, y - 0.38), (x + 0.09, y - 0.14)], "trim")
        draw.box(x - 0.005, y - 0.38, x + 0.095, y - 0.32, "dark", detail=True)
    draw.box(0.22, y - 0.14, 0.82, y, "pale")
    draw.windows(0.24, y - 0.12, 0.8, y - 0.03, draw.n(4, 6))
    draw.hull(0.0, 1.04, y, draw.u(0.17, 0.22))
    for x in np.linspace(0.25, 0.78, draw.n(4, 6)):
        draw.oval(x, y + 0.07, 0.02, 0.02, "glass", detail=True)


@category("train")
def train(draw: Drawing) -> None:
    boiler = draw.u(0.44, 0.5)
    draw.poly([(0.72, boiler), (0.7, 0.22), (0.86, 0.22), (0.82, boiler)], "dark")
    draw.oval(0.54, boiler, 0.07, 0.07, "trim")
    draw.box(0.34, boiler, 0.94, 0.72, "body")
    draw.box(0.04, 0.3, 0.38, 0.76, "body")
    draw.box(0.0, 0.25, 0.43, 0.31, "trim")
    draw.windows(0.08, 0.36, 0.34, 0.54, 1)
    draw.poly([(0.9, 0.72), (1.06, 0.88), (0.86, 0.88)], "dark")
    n = draw.n(3, 4)
    for k in range(n):
        r = 0.36 / n
        draw.wheel(0.14 + 0.68 * k / (n - 1), 0.9 - r, r)


@category("truck", unseen="wheels, box and cab windows of bus, car and train")
def truck(draw: Drawing) -> None:
    h, cab = draw.u(0.36, 0.44), draw.u(0.66, 0.7)
    draw.box(0.0, 0.7 - h, cab - 0.03, 0.7, "trim")
    draw.poly([(cab, 0.74), (cab, 0.4), (cab + 0.16, 0.4), (cab + 0.24, 0.56), (1.02, 0.58), (1.02, 0.74)], "body")
    draw.poly([(cab + 0.05, 0.55), (cab + 0.05, 0.44), (cab + 0.14, 0.44), (cab + 0.2, 0.55)], "glass")
    draw.box(0.02, 0.7, 0.96, 0.75, "dark")
    for x in [0.14, 0.32, 0.84][draw.n(0, 1) :]:
        draw.wheel(x, 0.77, draw.u(0.085, 0.1))
