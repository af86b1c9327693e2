"""Which classes of a data set are seen, and which are unseen: by a published split, a list or by chance."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pipelines.datasets.base import DatasetConfig
from pipelines.datasets.built_in import CROSS, built_in, is_split_name, normalised, split_names
from pipelines.datasets.texts import named, rows, some
from pipelines.runtime.errors import StorageError
from pipelines.store import storage
from zse_model import synthetic
from zse_model.errors import ZseError
from zse_model.split import ZeroShotSplit, conflicts, draw_classes, normalise_name, same_thing


class MissingClassesError(ZseError):
    """A split asks for classes that the data does not have."""


def load_split(config: DatasetConfig, categories: Iterable[str]) -> ZeroShotSplit:
    """The split of a data set with these categories, its pseudo-unseen classes drawn.

    Classes of the data that a built-in split does not name belong to neither side. Raises MissingClassesError for an
    unseen class that the data does not have, and ValueError for a split that names nothing known.
    """
    categories = sorted(categories)
    refuse_names(categories)
    present = {normalise_name(category): category for category in categories}
    if config.use == "selection" and isinstance(config.split, str) and {*config.split.split("+")} & {*split_names()}:
        raise ZseError(
            f"dataset.use selection, but dataset.split {config.split!r} is published: its test classes are for "
            "reports. Choose by pseudo-unseen classes, --set evaluation.classes=pseudo_unseen, or by data of your own"
        )
    seen: Iterable[str] | None = None
    name, citation = config.name, "custom split"
    if isinstance(config.split, tuple):
        unseen: Iterable[str] = config.split
    elif config.split == "all":
        unseen, seen = present, ()
    elif config.split == "synthetic":
        unseen, citation = synthetic.UNSEEN, "zse_model.synthetic.UNSEEN"
    elif "+" in config.split and (is_split_name(config.split) or not storage.exists(config.split)):
        return _without(config, present)
    elif drawn := re.fullmatch(r"random-(\d+)", config.split):
        unseen = draw_classes(present, int(drawn[1]), config.split_seed, f"{config.split} asks for {drawn[1]} unseen")
        name = f"{config.name}-{config.split}-{config.split_seed}"
        citation = f"drawn with dataset.split_seed {config.split_seed}"
    elif config.split in split_names():
        raw = built_in(config.split)
        name, citation, seen, unseen = raw["name"], raw["citation"], raw["seen"], raw["unseen"]
    else:
        if not storage.exists(config.split):
            raise ZseError(
                f"dataset.split {config.split!r} is neither a built-in split {split_names()} nor random-N, all, or a "
                "file that exists"
            )
        try:
            unseen = _listed(config.split)
        except IsADirectoryError:
            what = "is a folder. Give a file with one unseen class a line"
            raise ZseError(f"dataset.split {config.split!r} {what}") from None
    wanted = [normalise_name(c) for c in unseen]
    if missing := sorted(set(wanted) - set(present)):
        spelled = dict(zip(wanted, unseen, strict=True))
        said = ", ".join(f"{named(spelled[c])}{_nearest(c, present)}" for c in missing[:10])
        of = f"dataset.split {config.split!r}" if isinstance(config.split, str) else "dataset.split"
        raise MissingClassesError(
            f"The data has no pictures of {len(missing)} of the {len(wanted)} unseen classes of {of}: {said}"
            f"{' ...' if missing[10:] else ''}. It has {len(present)} classes: {some(sorted(present.values()))}"
        )
    trained = [normalise_name(c) for c in seen] if seen is not None else [c for c in present if c not in set(wanted)]
    split = ZeroShotSplit(
        name=name,
        citation=citation,
        seen=tuple(present[c] for c in trained if c in present),
        unseen=tuple(present[c] for c in wanted),
        held_back=config.held_back,
    )
    return split.with_pseudo_unseen(config.pseudo_unseen, seed=config.split_seed)


def refuse_names(categories: Iterable[str]) -> None:
    """Raise ZseError for class names without a letter, number or symbol, and for two that mean the same class."""
    by_name: dict[str, list[str]] = {}
    for category in sorted(categories):
        by_name.setdefault(normalise_name(category), []).append(category)
    if nameless := by_name.get(""):
        raise ZseError(f"Class folders whose names have no letter, number or symbol: {some(nameless)}. Rename them")
    if clashes := sorted(name for group in by_name.values() if len(group) > 1 for name in group):
        raise ZseError(f"Class folders that mean the same class: {some(clashes)}. Merge them")


def _listed(url: str) -> list[str]:
    """The classes that a file lists, one a line; lines that begin with # are comments. Raises ZseError."""
    first: dict[str, int] = {}
    listed = [(row, line.strip()) for row, line in rows(url) if not line.startswith("#")]
    for row, name in listed:
        form = normalise_name(name)
        if not form:
            raise ZseError(f"dataset.split {url!r} row {row} is no class name: {named(name)}. Give one class a line")
        if first.setdefault(form, row) != row:
            raise ZseError(f"dataset.split {url!r} rows {first[form]} and {row} are the same class, {named(name)}")
    if not listed:
        raise ZseError(f"dataset.split {url!r} is empty. Give one unseen class a line")
    return [name for _, name in listed]


def _nearest(missing: str, present: Mapping[str, str]) -> str:
    """What was meant, in brackets: a class that means the same, or else one that is spelled alike."""
    near = [c for c in present if same_thing(missing, c)] or difflib.get_close_matches(missing, present, 1)
    return f" (did you mean {named(present[near[0]])}?)" if near else ""


def _without(config: DatasetConfig, present: dict[str, str]) -> ZeroShotSplit:
    """`sketchy-25+tuberlin-30`: the unseen classes of all of these stay unseen, and nothing is seen that means the same
    as one of them. One without pictures stays on the list: what must not be learnt, or distilled, does not depend on
    what is there."""
    names = str(config.split).split("+")
    known = [name for name in split_names() if name != "synthetic"]
    if unknown := sorted(set(names) - set(known)):
        raise ZseError(f"dataset.split {config.split!r}: {unknown} are no built-in splits. Known: {known}")
    lists = [built_in(name) for name in names]
    unseen = list(dict.fromkeys(normalise_name(c) for raw in lists for c in raw["unseen"]))
    leaking = {a for a, _ in conflicts(present, unseen)}
    split = ZeroShotSplit(
        name=config.name,
        citation=f"without the unseen classes of {', '.join(names)}",
        seen=tuple(present[c] for c in present if c not in leaking),
        unseen=tuple(present.get(c, c) for c in unseen),
        held_back=config.held_back,
    )
    return split.with_pseudo_unseen(config.pseudo_unseen, seed=config.split_seed)


def trained_split(split: str) -> ZeroShotSplit:
    """What weights from elsewhere were trained on: a built-in split, or a JSON file like one (name, citation, seen,
    unseen). Nothing of it counts as pseudo-unseen or held back.

    Raises ValueError for a file without both lists: where there are no pictures, the seen classes are not "the others".
    """
    if split == "synthetic":
        seen = [c for c in synthetic.CATEGORIES if c not in synthetic.UNSEEN]
        raw: Any = {"name": split, "citation": "zse_model.synthetic.UNSEEN", "seen": seen, "unseen": synthetic.UNSEEN}
    elif split in CROSS:
        raise ZseError(f"split {split!r} is what weights of {CROSS[split][0]} are tested on. Give that one instead")
    elif split in split_names():
        raw = built_in(split)
    elif not storage.exists(split):
        raise ZseError(f"split {split!r} is neither a built-in split {split_names()} nor a file that exists")
    else:
        try:
            raw = storage.read_json(split)
        except StorageError:
            raw = None
    fields = ("name", "citation", "seen", "unseen")
    if not isinstance(raw, dict) or not raw.keys() >= set(fields):
        raise ZseError(
            f"split {split!r} does not say which classes were trained on. Give a built-in split {split_names()}, or a "
            f"JSON file with the keys {fields}, seen and unseen being lists of class names"
        )
    return ZeroShotSplit.from_json(json.dumps({field: raw[field] for field in fields} | {"held_back": 0.0}))


def stands_verbatim(trained: ZeroShotSplit, split: ZeroShotSplit) -> bool:
    """Whether a published list across data sets is tested by a checkpoint of the training split it is derived for. Then
    a class is itself only, as on a checkpoint's own split: the alias table knows one pair more that the lists do not
    (rocket and space shuttle, rooster and chicken)."""
    if split.name not in CROSS:
        return False
    source = CROSS[split.name][0]
    return trained.name == source and normalised(trained.seen) <= normalised(built_in(source)["seen"])
