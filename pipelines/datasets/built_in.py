"""Built-in splits: published lists of seen and unseen classes (`lists/splits/`), and splits across data sets.

`splits` makes a `ZeroShotSplit` of them; `published` and `diagnose` compare data with them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from importlib import resources
from typing import Any

from zse_model.split import normalise_name

CROSS = {
    "sketchy-25-to-tuberlin-21": ("sketchy-25", "tuberlin-30"),
    "sketchy-25-to-quickdraw-11": ("sketchy-25", "quickdraw-30"),
    "tuberlin-30-to-sketchy-8": ("tuberlin-30", "sketchy-25"),
}
"""Splits across data sets, as derived by ZSE-SBIR (CVPR 2023): trained on the first split, tested on the unseen classes
of the second whose names are not seen in the first."""


def split_names() -> list[str]:
    """Names of the built-in splits, sorted."""
    files = resources.files("pipelines.datasets").joinpath("lists", "splits").iterdir()
    return sorted([f.name.removesuffix(".json") for f in files if f.name.endswith(".json")] + ["synthetic", *CROSS])


def is_split_name(split: str) -> bool:
    """Whether `dataset.split` is a built-in name, `all`, `random-N` or names joined by `+`. If not: a file or URL."""
    known = {*split_names(), "all"}
    return split in known or bool(re.fullmatch(r"random-\d+", split)) or {*split.split("+")} <= known


def normalised(categories: Iterable[str]) -> set[str]:
    return {normalise_name(category) for category in categories}


def built_in(split: str) -> dict[str, Any]:
    """name, citation, seen and unseen classes of a built-in split; not of `synthetic`, which has no list."""
    if split in CROSS:
        source, target = (built_in(name) for name in CROSS[split])
        known = normalised(source["seen"])
        unseen = [c for c in target["unseen"] if normalise_name(c) not in known]
        others = [c for c in (*target["seen"], *target["unseen"]) if c not in unseen]
        citation = f"those unseen classes of ({target['citation']}) that are not seen in ({source['citation']})"
        return {"name": split, "citation": citation, "seen": others, "unseen": unseen}
    return json.loads(resources.files("pipelines.datasets").joinpath("lists", "splits", f"{split}.json").read_text())
