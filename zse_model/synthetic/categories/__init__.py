"""The categories. Adding one = a function in a file of its kind. It changes no picture of another category."""

from zse_model.synthetic.categories import animals, buildings, plants, things, vehicles  # noqa: F401  they register
from zse_model.synthetic.categories.registry import KNOWN

CATEGORIES: tuple[str, ...] = tuple(sorted(KNOWN))
UNSEEN: tuple[str, ...] = tuple(name for name in CATEGORIES if KNOWN[name].unseen)
"""Chosen by their parts, before any measurement."""
