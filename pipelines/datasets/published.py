"""What the field knows, as data: its data sets with their published counts (`lists/known.yaml`), and its settings
with their published numbers (`lists/settings.yaml`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal, TypeVar

import yaml
from pydantic import TypeAdapter

from pipelines.datasets.built_in import CROSS, built_in
from pipelines.runtime.errors import ConfigError
from pipelines.runtime.written import did_you_mean
from zse_model.split import normalise_name

Counts = Mapping[str, Mapping[str, int]]  # class -> modality -> pictures
MODALITIES = ("sketch", "photo")
T = TypeVar("T", "Known", "Setting")


@dataclass(frozen=True, kw_only=True)
class Version:
    """One set of published counts."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    counts: Counts
    """Of named classes, or of `all` of them together."""
    about: bool = False
    """Rounded."""

    def text(self) -> str:
        about = "about " * self.about
        counts = [
            ("" if c == "all" else f"{c}: ") + ", ".join(f"{about}{n[m]:,} {m} pictures" for m in MODALITIES if n[m])
            for c, n in self.counts.items()
        ]
        return f"{'; '.join(counts)} ({self.name})"


@dataclass(frozen=True, kw_only=True)
class Known:
    """A data set of the field."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    title: str
    adapter: str
    splits: tuple[str, ...]
    """The classes of the first are the data set's."""
    versions: tuple[Version, ...]
    each: Mapping[str, int] = field(default_factory=dict)
    """Pictures that every class has, by modality."""
    parts: tuple[Mapping[str, str], ...]
    """`what` it consists of, and where that legally comes `from`."""

    def classes(self) -> set[str]:
        """In normalised names; empty where the data set has no list."""
        raw = built_in(self.splits[0]) if self.splits else {"seen": [], "unseen": []}
        return {normalise_name(c) for c in (*raw["seen"], *raw["unseen"])}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is searched in what, by which formula."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    data: str
    """The data set, as the user's file names it."""
    split: str
    """Whose unseen classes are searched."""
    form: Literal["", "-generalised", "-fg-class", "-fg-all", "-fg-seen"] = ""
    metrics: tuple[str, ...]
    """What is published for it, the first one first."""
    protocol: Literal["plain", "zse_paper"] = "plain"
    use: Literal["report", "selection"] = "report"
    queries: int | None = None
    """How many the published setting has; None where there is none."""
    gallery: int | None = None
    published: tuple[Mapping[str, Any], ...] = ()
    """`method`, `mode`, `source`, and values by metric."""

    @property
    def trained_on(self) -> str:
        """The split that what was published had been trained on."""
        return CROSS[self.split][0] if self.split in CROSS else self.split


def known_datasets() -> Mapping[str, Known]:
    return _entries(Known, "known.yaml")


def known_dataset(name: str) -> Known:
    """By its name. Raises ConfigError for an unknown one."""
    every = known_datasets()
    if name not in every:
        raise ConfigError(f"Unknown data set {name!r}.{did_you_mean(name, every)} Known: {', '.join(every)}")
    return every[name]


def load_settings(names: Sequence[str] = ("all",)) -> list[Setting]:
    """The settings of these names, in this order; `all` of them. Raises ConfigError for an unknown one."""
    every = _entries(Setting, "settings.yaml")
    if unknown := sorted(set(names) - {"all", *every}):
        near = did_you_mean(unknown[0], every)
        raise ConfigError(f"Unknown settings {unknown}.{near} Known: all, {', '.join(every)}")
    return list(every.values()) if "all" in names else [every[name] for name in names]


@cache
def _entries(kind: type[T], file: str) -> Mapping[str, T]:
    """The entries of a file in `lists/`, by name."""
    raw = yaml.safe_load(resources.files("pipelines.datasets").joinpath("lists", file).read_text())
    return {entry.name: entry for entry in map(TypeAdapter(kind).validate_python, raw)}
