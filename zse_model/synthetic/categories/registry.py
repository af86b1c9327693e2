"""Declare a category: its name, how it is drawn, and why it is unseen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zse_model.synthetic.shapes import Drawing

Draw = Callable[[Drawing], None]


@dataclass(frozen=True)
class Category:
    """A category of the drawn world."""

    name: str
    """It seeds the instances: another name draws other pictures."""
    draw: Draw
    unseen: str
    """The seen categories that have its parts, if the split `synthetic` holds it out. Empty = it is seen there."""


KNOWN: dict[str, Category] = {}


def category(name: str, *, unseen: str = "") -> Callable[[Draw], Draw]:
    """Register a function as the category `name`; `unseen` as in `Category`."""

    def register(draw: Draw) -> Draw:
        KNOWN[name] = Category(name, draw, unseen)
        return draw

    return register
