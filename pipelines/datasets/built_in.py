"""The published splits: lists of classes, each from where it was published, and splits across data sets."""

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
"""Splits across data sets: trained on the first's, tested on those unseen classes of the second that the first has not
seen by name. As ZSE-SBIR (CVPR 2023) derives them."""


def split_names() -> list[str]:
    """The built-in splits."""
    files = resources.files("pipelines.datasets").joinpath("lists", "splits").iterdir()
    return sorted([f.name.removesuffix(".json") for f in files if f.name.endswith(".json")] + ["synthetic", *CROSS])


def is_split_name(split: str) -> bool:
    """Whether `dataset.split` names classes by itself; else it is a file or a URL."""
    known = {*split_names(), "all"}
    return split in known or bool(re.fullmatch(r"random-\d+", split)) or {*split.split("+")} <= known


def normalised(categories: Iterable[str]) -> set[str]:
    return {normalise_name(category) for category in categories}


def built_in(split: str) -> dict[str, Any]:
    """The lists of a built-in split that data was published for: name, citation, seen, unseen."""
    if split in CROSS:
        source, target = (built_in(name) for name in CROSS[split])
        known = normalised(source["seen"])
        unseen = [c for c in target["unseen"] if normalise_name(c) not in known]
        others = [c for c in (*target["seen"], *target["unseen"]) if c not in unseen]
        citation = f"those unseen classes of ({target['citation']}) that are not seen in ({source['citation']})"
        return {"name": split, "citation": citation, "seen": others, "unseen": unseen}
    return json.loads(resources.files("pipelines.datasets").joinpath("lists", "splits", f"{split}.json").read_text())
