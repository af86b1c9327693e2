"""Load published facts: counts of data sets (`lists/known.yaml`) and results in settings (`lists/settings.yaml`).

`diagnose`, `zse datasets` and the standings compare with them.
"""

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
    """Published counts of one version of a data set."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    counts: Counts
    """Per class, or under `all` for all classes together."""
    about: bool = False
    """Whether the counts are rounded."""

    def text(self) -> str:
        about = "about " * self.about
        counts = [
            ("" if c == "all" else f"{c}: ") + ", ".join(f"{about}{n[m]:,} {m} pictures" for m in MODALITIES if n[m])
            for c, n in self.counts.items()
        ]
        return f"{'; '.join(counts)} ({self.name})"


@dataclass(frozen=True, kw_only=True)
class Known:
    """A published data set."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    title: str
    adapter: str
    splits: tuple[str, ...]
    """Its built-in splits. The first one lists all classes of the data set."""
    versions: tuple[Version, ...]
    each: Mapping[str, int] = field(default_factory=dict)
    """Modality -> pictures of every class."""
    parts: tuple[Mapping[str, str], ...]
    """`what`: a part of the data set; `from`: its legal source."""

    def classes(self) -> set[str]:
        """Normalised class names; empty for a data set without a list."""
        raw = built_in(self.splits[0]) if self.splits else {"seen": [], "unseen": []}
        return {normalise_name(c) for c in (*raw["seen"], *raw["unseen"])}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting with its metrics and published results."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    data: str
    """The data set's name, as in the user's file."""
    split: str
    """The split whose unseen classes are searched."""
    form: Literal["", "-generalised", "-fg-class", "-fg-all", "-fg-seen"] = ""
    metrics: tuple[str, ...]
    """The published metrics, the headline first."""
    protocol: Literal["plain", "zse_paper"] = "plain"
    use: Literal["report", "selection"] = "report"
    queries: int | None = None
    """Sketches of the published setting; None if not published."""
    gallery: int | None = None
    """Photos of the published setting; None if not published."""
    published: tuple[Mapping[str, Any], ...] = ()
    """Results: `method`, `mode`, `source`, and a value for each metric."""

    @property
    def trained_on(self) -> str:
        """The split that the published methods were trained on."""
        return CROSS[self.split][0] if self.split in CROSS else self.split


def known_datasets() -> Mapping[str, Known]:
    return _entries(Known, "known.yaml")


def known_dataset(name: str) -> Known:
    """The data set of that name. Raises ConfigError for an unknown name."""
    every = known_datasets()
    if name not in every:
        raise ConfigError(f"Unknown data set {name!r}.{did_you_mean(name, every)} Known: {', '.join(every)}")
    return every[name]


def load_settings(names: Sequence[str] = ("all",)) -> list[Setting]:
    """The settings of these names, in order; every setting for `all`. Raises ConfigError for an unknown name."""
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
