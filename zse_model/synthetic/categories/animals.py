"""Animals."""

from __future__ import annotations

from math import cos, sin

from zse_model.synthetic.categories.registry import category
from zse_model.synthetic.shapes import Drawing, Points, arc


def quadruped(
    draw: Drawing, length: float, depth: float, leg: float, neck: float, tilt: float, thick: float, tail: float = 0.25
) -> tuple[float, float]:
    """Tail, legs, trunk and neck of an animal that faces right. Returns the place of its head, x and y."""
    x0, x1, y, h = 0.5 - length / 2, 0.5 + length / 2, 0.5, depth / 2
    ground = y + h + leg
    draw.legs([x0 + 0.14, x1 - 0.15], y, ground, 0.6 * thick, "trim")
    draw.tube([(x0 + 0.03, y - 0.6 * h), (x0 - 0.07, y - 0.4 * h), (x0 - 0.05, y + tail)], 0.045, 0.025, "trim")
    head = (x1 - 0.05 + neck * cos(tilt), y - 0.2 * depth - neck * sin(tilt))
    draw.tube([(x1 - 0.09, y), head], 1.3 * thick, 0.8 * thick)
    draw.legs([x0 + 0.06, x1 - 0.07], y, ground, 0.65 * thick)
    back = [(x0 - 0.03, y), (x0, y - 0.8 * h), (0.5, y - h), (x1, y - 1.1 * h)]
    draw.smooth([*back, (x1 + 0.03, y), (x1 - 0.05, y + h), (0.5, y + 1.1 * h), (x0, y + h)])
    return head


def sitter(draw: Drawing, plump: float) -> tuple[float, float, float]:
    """An animal that sits and faces the viewer, without its head. Returns the head's centre and radius."""
    w, r = draw.u(0.2, 0.25) * plump, draw.u(0.16, 0.2)
    draw.lathe([(0, 0.4), (0.6 * w, 0.38), (1.1 * w, 0.7), (1.1 * w, 1), (0, 1)])
    for side in (-1, 1):
        draw.oval(0.5 + side * 0.75 * w, 0.94, 0.09, 0.05, "trim")
        draw.tube([(0.5 + side * 0.35 * w, 0.6), (0.5 + side * 0.3 * w, 0.92)], 0.08, 0.07)
    return 0.5, 0.32, r


def face(draw: Drawing, x: float, y: float, r: float) -> None:
    """A head seen from the front: eyes, nose and whiskers."""
    draw.oval(x, y, 1.1 * r, r)
    for side in (-1, 1):
        draw.eye(x + side * 0.42 * r, y - 0.15 * r, 0.02)
        for drop in (0.3, 0.6):
            ends = [(x + side * 0.3 * r, y + 0.4 * r), (x + side * 1.4 * r, y + drop * r)]
            draw.line(ends, "pale", 0.008, detail=True)
    draw.poly([(x - 0.03, y + 0.25 * r), (x + 0.03, y + 0.25 * r), (x, y + 0.45 * r)], "dark", detail=True)


def wader(draw: Drawing, neck: Points, leg: float, beak: float, plump: float = 1.0, w: float = 0.07) -> None:
    """A bird that faces right. `neck` leads from the breast to the head; without `leg` it swims."""
    (hx, hy), r, y, h = neck[-1], draw.u(0.06, 0.075), 0.6, 0.15 * plump
    for x in (0.42, 0.5) if leg else ():
        draw.line([(x, y), (x + draw.u(-0.02, 0.02), y + leg), (x + 0.07, y + leg)], "trim", 0.022)
    draw.beak(hx + 0.6 * r, hy + 0.01, r * 0.5 + beak, draw.u(0.045, 0.07))
    draw.tube(neck, 2.2 * w, w)
    draw.oval(hx, hy, 1.1 * r, r)
    draw.eye(hx + 0.3 * r, hy - 0.2 * r)
    back = [(0.08, y - 0.6 * h), (0.3, y - 0.7 * h), (0.55, y - h), (0.72, y - 0.3 * h)]
    draw.smooth([*back, (0.66, y + h), (0.35, y + 1.1 * h), (0.2, y + 0.3 * h)])
    wing = [(0.17, y - 0.3 * h), (0.4, y - 0.5 * h), (0.56, y), (0.42, y + 0.55 * h), (0.3, y + 0.3 * h)]
    draw.smooth(wing, "trim")


@category("bird")
def bird(draw: Drawing) -> None:
    head = (0.66, draw.u(0.4, 0.45))
    wader(draw, [(0.6, 0.56), head], draw.u(0.26, 0.32), draw.u(0.05, 0.09), draw.u(0.9, 1.2), 0.1)


@category("cat")
def cat(draw: Drawing) -> None:
    draw.tube([(0.62, 0.92), (0.9, 0.96), (0.92, 0.74), (0.84, draw.u(0.55, 0.65))], 0.07, 0.05, "trim")
    x, y, r = sitter(draw, 1.0)
    for side in (-1, 1):
        ear = [(0.25 * r, -0.8 * r), (0.95 * r, -1.75 * r), (1.05 * r, -0.3 * r)]
        draw.poly([(x + side * dx, y + dy) for dx, dy in ear])
    face(draw, x, y, r)


@category("cow")
def cow(draw: Drawing) -> None:
    length, depth = draw.u(0.56, 0.64), draw.u(0.28, 0.33)
    hx, hy = quadruped(draw, length, depth, draw.u(0.22, 0.27), 0.14, draw.u(0.4, 0.7), 0.14)
    for side in (-1, 1):
        horn = [(hx + side * dx, hy - dy) for dx, dy in ((0.03, 0.06), (0.08, 0.1), (0.07, 0.18))]
        draw.tube(horn, 0.03, 0.01, "pale")
        draw.oval(hx + side * 0.1, hy - 0.05, 0.05, 0.025, "trim", turn=0.3)
    draw.smooth([(hx - 0.08, hy - 0.1), (hx + 0.08, hy - 0.1), (hx + 0.12, hy + 0.16), (hx, hy + 0.18)])
    draw.oval(hx + 0.05, hy + 0.11, 0.06, 0.045, "pale")
    draw.eye(hx + 0.03, hy - 0.02)
    draw.oval(0.62, 0.7, 0.06, 0.035, "pale", detail=True)
    for x in (draw.u(0.3, 0.4), draw.u(0.52, 0.62)):
        draw.oval(x, draw.u(0.44, 0.52), draw.u(0.06, 0.09), draw.u(0.05, 0.07), "dark", detail=True)


@category("dog")
def dog(draw: Drawing) -> None:
    length, depth = draw.u(0.46, 0.54), draw.u(0.2, 0.24)
    hx, hy = quadruped(draw, length, depth, draw.u(0.2, 0.26), 0.2, draw.u(0.9, 1.2), 0.12, tail=-0.25)
    draw.tube([(hx - 0.02, hy + 0.01), (hx + 0.17, hy + 0.05)], 0.13, 0.08)
    draw.oval(hx, hy - 0.01, 0.1, 0.085)
    ear = [(hx - 0.09, hy - 0.08), (hx - 0.01, hy - 0.07), (hx - 0.04, hy + 0.13), (hx - 0.12, hy + 0.11)]
    draw.smooth(ear, "dark")
    draw.oval(hx + 0.17, hy + 0.03, 0.025, 0.022, "dark")
    draw.eye(hx + 0.05, hy - 0.02)


@category("duck")
def duck(draw: Drawing) -> None:
    neck = [(0.6, 0.62), (0.68, 0.5), (0.66, draw.u(0.34, 0.4))]
    wader(draw, neck, 0, draw.u(0.1, 0.13), draw.u(1.0, 1.2), 0.08)
    draw.line([(0.02, 0.78), (0.2, 0.75), (0.4, 0.79), (0.6, 0.75), (0.85, 0.78)], "pale", 0.015, True, True)


@category("elephant")
def elephant(draw: Drawing) -> None:
    length, depth = draw.u(0.54, 0.6), draw.u(0.36, 0.42)
    hx, hy = quadruped(draw, length, depth, draw.u(0.14, 0.19), 0.14, draw.u(0.4, 0.6), 0.2, tail=0.12)
    tip = (hx + draw.u(0.2, 0.3), hy + 0.42)
    draw.tube([(hx + 0.06, hy), (hx + 0.2, hy + 0.1), (hx + 0.17, hy + 0.3), tip], 0.13, 0.05)
    draw.tube([(hx + 0.1, hy + 0.12), (hx + 0.2, hy + 0.2), (hx + 0.28, hy + 0.16)], 0.035, 0.01, "pale")
    draw.oval(hx + 0.02, hy, 0.15, 0.15)
    draw.oval(hx - 0.08, hy + 0.02, draw.u(0.1, 0.13), draw.u(0.14, 0.18), "trim")
    draw.eye(hx + 0.08, hy - 0.04, 0.018)


@category("fish")
def fish(draw: Drawing) -> None:
    h = draw.u(0.17, 0.26)
    draw.fin(0.42, 0.55 - 0.7 * h, 0.26, draw.u(0.14, 0.2), -0.08)
    draw.fin(0.48, 0.55 + 0.7 * h, 0.16, -draw.u(0.1, 0.16), -0.06)
    draw.poly([(0.24, 0.55), (0, 0.55 - draw.u(0.16, 0.22)), (0.06, 0.55), (0, 0.55 + draw.u(0.16, 0.22))], "trim")
    back = [(0.15, 0.54), (0.4, 0.55 - h), (0.75, 0.55 - 1.1 * h), (1.02, 0.55)]
    draw.smooth([*back, (0.75, 0.55 + 1.1 * h), (0.4, 0.55 + h)])
    draw.line(arc(0.68, 0.55, 0.09, 0.8 * h, -1, 1), "dark", 0.015, detail=True)
    draw.fin(0.52, 0.55, 0.12, -0.12, -0.08)
    draw.oval(0.86, 0.5, 0.035, 0.035, "pale")
    draw.eye(0.865, 0.5)


@category("giraffe", unseen="trunk, legs, neck and tail of horse and cow")
def giraffe(draw: Drawing) -> None:
    length, depth, leg = draw.u(0.4, 0.46), draw.u(0.19, 0.23), draw.u(0.34, 0.4)
    hx, hy = quadruped(draw, length, depth, leg, draw.u(0.48, 0.58), draw.u(1.1, 1.3), 0.09)
    for side in (0.0, 0.045):
        draw.line([(hx - 0.02 + side, hy - 0.03), (hx - 0.03 + side, hy - 0.12)], "dark", 0.02)
    draw.tube([(hx - 0.05, hy - 0.02), (hx + 0.16, hy + 0.06)], 0.11, 0.07)
    draw.oval(hx - 0.07, hy - 0.04, 0.05, 0.022, "trim", turn=0.4)
    draw.eye(hx + 0.03, hy - 0.01)
    for x, y in [(0.36, 0.48), (0.47, 0.53), (0.58, 0.46), (0.55, 0.56), (0.43, 0.44)]:
        draw.oval(x + draw.u(-0.02, 0.02), y, 0.035, 0.03, "dark", detail=True)


@category("horse")
def horse(draw: Drawing) -> None:
    length, depth, leg = draw.u(0.5, 0.56), draw.u(0.21, 0.26), draw.u(0.3, 0.36)
    hx, hy = quadruped(draw, length, depth, leg, draw.u(0.26, 0.32), draw.u(0.75, 1.0), 0.13, tail=0.22)
    draw.tube([(hx - 0.2, hy + 0.22), (hx - 0.13, hy + 0.06), (hx - 0.04, hy - 0.05)], 0.08, 0.06, "dark")
    draw.poly([(hx - 0.05, hy - 0.03), (hx - 0.03, hy - 0.15), (hx + 0.03, hy - 0.04)])
    draw.tube([(hx - 0.04, hy), (hx + 0.08, hy + 0.06), (hx + 0.16, hy + 0.15)], 0.14, 0.08)
    draw.eye(hx + 0.04, hy + 0.01)


@category("penguin")
def penguin(draw: Drawing) -> None:
    w = draw.u(0.22, 0.28)
    for side in (-1, 1):
        draw.oval(0.5 + side * 0.45 * w, 0.98, 0.1, 0.04, "trim")
        flipper = [(0.8 * w, 0.4), (1.3 * w, 0.58), (draw.u(1.2, 1.5) * w, 0.72)]
        draw.tube([(0.5 + side * dx, y) for dx, y in flipper], 0.1, 0.04)
    head, belly = [(0.7 * w, 0), (0.6 * w, 0.26)], [(1.2 * w, 0.5), (1.05 * w, 0.94), (0.4 * w, 1)]
    draw.lathe([(0, 0), *head, *belly, (0, 1)])
    draw.oval(0.5, 0.64, 0.68 * w, 0.28, "pale")
    for side in (-1, 1):
        draw.eye(0.5 + side * 0.07, 0.15, 0.022)
    draw.poly([(0.45, 0.2), (0.55, 0.2), (0.5, 0.29)], "trim")


@category("rabbit", unseen="the sitting body and the face of cat")
def rabbit(draw: Drawing) -> None:
    x, y, r = sitter(draw, draw.u(0.95, 1.1))
    y += 0.04
    for side in (-1, 1):
        tilt, tall = side * draw.u(0.05, 0.3), draw.u(0.17, 0.22)
        ex, ey = x + side * 0.45 * r + tall * sin(tilt), y - 0.6 * r - tall * cos(tilt)
        draw.oval(ex, ey, 0.055, tall, "body", turn=tilt)
        draw.oval(ex, ey, 0.025, 0.7 * tall, "pale", turn=tilt, detail=True)
    face(draw, x, y, 0.9 * r)


@category("swan")
def swan(draw: Drawing) -> None:
    top = draw.u(0.12, 0.2)
    neck = [(0.6, 0.62), (0.86, 0.52), (0.58, 0.3), (0.66, top - 0.06), (0.76, top)]
    wader(draw, neck, 0, draw.u(0.06, 0.09), 1.1, 0.065)


@category("whale", unseen="the body, tail and fin of fish")
def whale(draw: Drawing) -> None:
    h = draw.u(0.2, 0.26)
    for k in (-1, 1):
        spout = [(0, 0.36), (0.02 * k, 0.22), (0.12 * k, 0.16), (0.15 * k, 0.24)]
        draw.line([(0.72 + dx, y) for dx, y in spout], "pale", 0.022, curved=True)
    fluke = [(0.12, 0.5), (-0.02, 0.4), (-0.04, 0.24), (0.1, 0.3), (0.14, 0.36)]
    draw.smooth([*fluke, (0.22, 0.24), (0.3, 0.3), (0.26, 0.46)])
    back = [(0.08, 0.4), (0.3, 0.56), (0.5, 0.6 - h), (0.9, 0.58 - h), (1.04, 0.6)]
    draw.smooth([*back, (0.92, 0.6 + h), (0.5, 0.62 + h), (0.16, 0.66)])
    draw.line([(1.0, 0.64), (0.84, 0.68), (0.78, 0.64)], "dark", 0.018, curved=True)
    draw.tube([(0.62, 0.7), (0.6, 0.8), (0.5, 0.86 + 0.2 * h)], 0.12, 0.04, "trim")
    draw.eye(0.82, 0.56, 0.02)
