"""Make a data set's zero-shot split: from a built-in split, a list or file of unseen classes, or a random draw.

`zse shard` and `zse estimate` split the data; `zse import-checkpoint` reads the split of imported weights.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

from pipelines.datasets.base import DatasetConfig
from pipelines.datasets.built_in import CROSS, built_in, is_split_name, normalised, split_names
from pipelines.datasets.texts import named, rows, some
from pipelines.runtime.errors import StorageError
from pipelines.runtime.progress import say
from pipelines.store import storage
from zse_model import synthetic
from zse_model.errors import ZseError
from zse_model.split import ZeroShotSplit, conflicts, draw_classes, normalise_name, same_thing

FORMS = ("-selection", "-generalised", "-seen", "-fg", "-fg-class", "-fg-all", "-fg-seen")
"""What stands between split and fingerprint in the names of settings."""


class MissingClassesError(ZseError):
    """A split asks for classes that the data does not have."""


def load_split(config: DatasetConfig, categories: Iterable[str]) -> ZeroShotSplit:
    """The split of a data set with these categories, with its pseudo-unseen classes drawn.

    A class that a built-in split does not name is neither seen nor unseen. Nor is, with a list or a file, a class that
    means the same as an unseen one. Raises MissingClassesError for an unseen class that the data does not have, and
    ZseError for an unknown split, class names that clash, or a name of the data set that ends like a form of settings.
    """
    categories = sorted(categories)
    refuse_names(categories)
    present = {normalise_name(category): category for category in categories}
    if config.use == "selection" and isinstance(config.split, str):
        _refuse_published({*config.split.split("+")} & {*split_names()})
    if isinstance(config.split, str) and "+" in config.split:
        if is_split_name(config.split) or not storage.exists(config.split):
            return _without(config, present)
    name, citation, unseen, seen = _named_classes(config, present)
    wanted = [normalise_name(c) for c in unseen]
    if config.use == "selection":
        _refuse_published(split for split in split_names() if normalised(_test_classes(split)) == {*wanted})
    _refuse_missing(config.split, dict(zip(wanted, unseen, strict=True)), present)
    trained = [normalise_name(c) for c in seen] if seen is not None else _others(present, wanted)
    if name == config.name:
        _refuse_form(config)
    split = ZeroShotSplit(
        name=name,
        citation=citation,
        seen=tuple(present[c] for c in trained if c in present),
        unseen=tuple(present[c] for c in wanted),
        held_back=config.held_back,
    )
    return split.with_pseudo_unseen(config.pseudo_unseen, seed=config.split_seed)


def _others(present: Mapping[str, str], unseen: Collection[str]) -> list[str]:
    """The classes that are not unseen, without those that mean the same as one that is: training on a bike shows a
    model what a bicycle is."""
    others = [c for c in present if c not in {*unseen}]
    same = dict(conflicts(others, unseen))
    if same:
        _tell_left_out(tuple(f"{named(present[a])} = {named(present[b])}" for a, b in same.items()))
    return [c for c in others if c not in same]


@cache  # a process asks for the split several times
def _tell_left_out(same: tuple[str, ...]) -> None:
    more = f" and {len(same) - 20} more" if len(same) > 20 else ""
    say(f"Not trained on, because they mean the same as an unseen class: {', '.join(same[:20])}{more}")


def _refuse_form(config: DatasetConfig) -> None:
    """Raise ZseError for a data set whose settings would be taken for those of a form, by rules and pages."""
    forms = [form for form in FORMS if config.name.endswith(form)]
    if forms and not (forms == ["-selection"] and config.use == "selection"):
        raise ZseError(
            f"dataset.name {config.name!r} ends in {forms[0]}, as the names of some settings do (docs/evaluation.md). "
            "Give the data set another name"
        )


def _refuse_published(splits: Iterable[str]) -> None:
    """Raise ZseError if the test classes of a data set to choose models by are those of published splits."""
    if names := " and ".join(repr(split) for split in sorted(splits)):
        raise ZseError(
            f"dataset.use is selection, but the test classes of the published split {names} are for reports. "
            "Select on pseudo-unseen classes (--set evaluation.classes=pseudo_unseen) or on other data"
        )


def _test_classes(split: str) -> Collection[str]:
    """The unseen classes of a built-in split."""
    return synthetic.UNSEEN if split == "synthetic" else built_in(split)["unseen"]


class _Classes(NamedTuple):
    """A split as named. seen None: all classes that are not unseen."""

    name: str
    citation: str
    unseen: Collection[str]
    seen: Collection[str] | None = None


def _named_classes(config: DatasetConfig, present: Mapping[str, str]) -> _Classes:
    """The classes of `dataset.split`: a list, a drawn, a built-in split or a file."""
    if isinstance(config.split, tuple):
        return _Classes(config.name, "custom split", config.split)
    if config.split == "all":
        return _Classes(config.name, "custom split", present, ())
    if config.split == "synthetic":
        return _Classes(config.name, "zse_model.synthetic.UNSEEN", synthetic.UNSEEN)
    if drawn := re.fullmatch(r"random-(\d+)", config.split):
        unseen = draw_classes(present, int(drawn[1]), config.split_seed, f"{config.split} asks for {drawn[1]} unseen")
        name = f"{config.name}-{config.split}-{config.split_seed}"
        return _Classes(name, f"drawn with dataset.split_seed {config.split_seed}", unseen)
    if config.split in split_names():
        raw = built_in(config.split)
        return _Classes(raw["name"], raw["citation"], raw["unseen"], raw["seen"])
    if not storage.exists(config.split):
        raise ZseError(
            f"dataset.split {config.split!r} is unknown. Give a built-in split {split_names()}, random-N, all, or "
            "a file that exists"
        )
    try:
        return _Classes(config.name, "custom split", _listed(config.split))
    except IsADirectoryError:
        what = "is a folder. Give a file with one unseen class a line"
        raise ZseError(f"dataset.split {config.split!r} {what}") from None


def _refuse_missing(split: str | tuple[str, ...], spelled: Mapping[str, str], present: Mapping[str, str]) -> None:
    """Raise MissingClassesError for unseen classes without pictures. spelled, present: normal form -> class name."""
    missing = sorted(spelled.keys() - present.keys())
    if not missing:
        return
    said = ", ".join(f"{named(spelled[c])}{_nearest(c, present)}" for c in missing[:10])
    of = f"dataset.split {split!r}" if isinstance(split, str) else "dataset.split"
    raise MissingClassesError(
        f"The data has no pictures of {len(missing)} of the {len(spelled)} unseen classes of {of}: {said}"
        f"{' ...' if missing[10:] else ''}. It has {len(present)} classes: {some(sorted(present.values()))}"
    )


def refuse_names(categories: Iterable[str]) -> None:
    """Raise ZseError for a class name without letter, number or symbol, and for two names of one class."""
    by_name: dict[str, list[str]] = {}
    for category in sorted(categories):
        by_name.setdefault(normalise_name(category), []).append(category)
    if nameless := by_name.get(""):
        raise ZseError(f"Class folders have names without letter, number or symbol: {some(nameless)}. Rename them")
    if clashes := sorted(name for group in by_name.values() if len(group) > 1 for name in group):
        raise ZseError(f"Several class folders name the same class: {some(clashes)}. Merge them")


def _listed(url: str) -> list[str]:
    """The classes that a file lists, one per line; # begins a comment line. Raises ZseError for other content."""
    first: dict[str, int] = {}
    listed = [(row, line.strip()) for row, line in rows(url) if not line.startswith("#")]
    for row, name in listed:
        form = normalise_name(name)
        if not form:
            raise ZseError(f"dataset.split {url!r} row {row} is no class name: {named(name)}. Give one class per line")
        if first.setdefault(form, row) != row:
            raise ZseError(
                f"dataset.split {url!r} rows {first[form]} and {row} name the same class, {named(name)}. Remove one"
            )
    if not listed:
        raise ZseError(f"dataset.split {url!r} is empty. Give one unseen class per line")
    return [name for _, name in listed]


def _nearest(missing: str, present: Mapping[str, str]) -> str:
    """A suggestion in brackets: a class with the same meaning, or else the class spelled most alike; or nothing."""
    near = [c for c in present if same_thing(missing, c)] or difflib.get_close_matches(missing, present, 1)
    return f" (did you mean {named(present[near[0]])}?)" if near else ""


def _without(config: DatasetConfig, present: dict[str, str]) -> ZeroShotSplit:
    """The split `sketchy-25+tuberlin-30`: unseen are the unseen classes of each, seen are the others without an alias
    among the unseen. An unseen class without pictures stays listed: distillation must not learn it either."""
    names = str(config.split).split("+")
    known = [name for name in split_names() if name != "synthetic"]
    if unknown := sorted(set(names) - set(known)):
        raise ZseError(f"dataset.split {config.split!r} names unknown splits {unknown}. Known: {known}")
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
    """The split that imported weights were trained on: a built-in split, or a JSON file with name, citation, seen and
    unseen. No class is pseudo-unseen, and no picture is held back.

    Raises ZseError for a file without both lists: without pictures, seen cannot be derived from unseen.
    """
    if split == "synthetic":
        seen = [c for c in synthetic.CATEGORIES if c not in synthetic.UNSEEN]
        raw: Any = {"name": split, "citation": "zse_model.synthetic.UNSEEN", "seen": seen, "unseen": synthetic.UNSEEN}
    elif split in CROSS:
        raise ZseError(f"split {split!r} is for tests of weights trained on {CROSS[split][0]}. Give the latter instead")
    elif split in split_names():
        raw = built_in(split)
    elif not storage.exists(split):
        raise ZseError(f"split {split!r} is unknown. Give a built-in split {split_names()} or a file that exists")
    else:
        try:
            raw = storage.read_json(split)
        except StorageError:
            raw = None
    fields = ("name", "citation", "seen", "unseen")
    if not isinstance(raw, dict) or not raw.keys() >= set(fields):
        raise ZseError(
            f"split {split!r} does not list the trained classes. Give a built-in split {split_names()}, or a JSON file "
            f"with the keys {fields}, where seen and unseen are lists of class names"
        )
    return ZeroShotSplit.from_json(json.dumps({field: raw[field] for field in fields} | {"held_back": 0.0}))


def stands_verbatim(trained: ZeroShotSplit, split: ZeroShotSplit) -> bool:
    """Whether `split` is across data sets and `trained` is the split it was derived from. Leaks are then compared by
    name only, as on a checkpoint's own split: the published lists ignore aliases (rocket and space shuttle, rooster and
    chicken)."""
    if split.name not in CROSS:
        return False
    source = CROSS[split.name][0]
    return trained.name == source and normalised(trained.seen) <= normalised(built_in(source)["seen"])
