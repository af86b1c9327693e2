"""A catalogue of data sets that arrive: each folder in it is one.

    s3://bucket/datasets/shop-2026-11/{sketch,photo}/<class>/*  pairs.tsv  dataset.yaml

`dataset.yaml` says what is different from a folder whose classes are all unseen: the fields of an experiment's
`dataset`, and there above all `split` (a list of the unseen classes) and `use: selection`, by which its owner allows
models to be chosen by it. A file or folder that it names is relative to its own folder and lies there. What lies
elsewhere is not read, unless the operator allows a prefix: whoever delivers data must not read what the operator may.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import yaml

from pipelines.datasets.base import DatasetConfig
from pipelines.datasets.registry import read_dataset
from pipelines.datasets.texts import named
from pipelines.runtime.errors import ConfigError, StorageError
from pipelines.runtime.written import read_yaml
from pipelines.store import storage
from zse_model.errors import ZseError

DESCRIPTION = "dataset.yaml"
MOST_BYTES = 2**20  # of a description: its classes, and little more


def arrived(catalog: str, allowed: Sequence[str] = ()) -> dict[str, DatasetConfig | ConfigError]:
    """The data sets of a catalogue by the names of their folders, or why one cannot be read.

    allowed: folders and URLs outside of its own folder that a data set may name, with all that is below.
    Raises StorageError for a catalogue that is not there, ConfigError for one without folders.
    """
    names = storage.folders(catalog)
    if not names:
        raise ConfigError(f"{catalog} has no folders: each folder of a catalogue is a data set")
    return {name: _described(Walls(storage.join(catalog, name), tuple(allowed)), name) for name in names}


def _described(walls: Walls, name: str) -> DatasetConfig | ConfigError:
    folder = walls.folder
    url = storage.join(folder, DESCRIPTION)
    try:
        walls.refuse_links()
        raw: Any = _read(url) if storage.exists(url) else {}
        raw = {} if raw is None else raw
    except ConfigError as error:
        return error
    except (StorageError, OSError) as error:
        return ConfigError(f"{url} cannot be read: {error}")
    if not isinstance(raw, dict):
        return ConfigError(f"{url} must give fields of a data set, such as `use: selection`; got {type(raw).__name__}")
    plain = re.sub(r"[^a-z0-9_.-]+", "-", name.casefold()).strip("-") or "dataset"
    described = {"adapter": "folder", "name": plain, "split": "all", "pseudo_unseen": 0.0, **raw}
    if described["adapter"] not in ("union", "synthetic"):  # the parts of a union have their own
        described.setdefault("source", folder)
    try:
        return read_dataset(described).placed(walls.placed)
    except ZseError as error:
        return ConfigError(f"{url}: {error}")


def _read(url: str) -> Any:
    info = storage.file_info(url)
    if info is None or (storage.is_local(url) and not os.path.isfile(url)):  # of a pipe the first byte may never come
        raise ConfigError(f"{url} is no file. Give a file of text, or leave it out")
    if info.size > MOST_BYTES:
        raise ConfigError(f"{url} has {info.size:,} bytes. A description may have {MOST_BYTES:,}")
    data = storage.read_bytes(url)
    raw = read_yaml(data, url)
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(data)):  # few lines of them hold a billion values
        raise ConfigError(f"{url} has an alias (`*name`). Write the value out")
    return raw


@dataclass(frozen=True)
class Walls:
    """What a data set may see: its own folder, and what the operator allows."""

    folder: str
    allowed: tuple[str, ...] = ()

    def placed(self, field: str, given: str) -> str:
        """A file or folder that a field names, as an absolute path or URL without links. Raises ConfigError for one
        outside."""
        place = self._absolute(given)
        if not any(_is_below(place, _absolute(wall)) for wall in (self.folder, *self.allowed)):
            raise ConfigError(
                f"dataset.{field} {named(given)} lies outside of {self.folder}. A data set that arrives may name what "
                "is in its own folder; what lies elsewhere the operator allows: --allow-prefix FOLDER_OR_URL"
            )
        return place

    def _absolute(self, given: str) -> str:
        remote = "://" in given and not given.startswith("file://")
        if "::" in given or "\0" in given:  # fsspec would take what follows for the URL of another store
            raise ConfigError(f"{named(given)} is no plain path or URL. Give one without `::`")
        if not remote and (storage.is_local(self.folder) or given.startswith(("/", "file://"))):
            return os.path.realpath(os.path.join(self.folder, given.removeprefix("file://")))
        url = given if remote else f"{self.folder}/{given}"
        if ".." in re.split(r"[/\\]", unquote(url)):  # a server may read %2e%2e%2f as ../
            raise ConfigError(f"{named(given)} leads upwards. Give a path or URL without `..`")
        return re.sub(r"(/\.)+(?=/|$)", "", url).rstrip("/")

    def refuse_links(self) -> None:
        """Raises ConfigError for a link to what lies outside: it would be followed."""
        if not storage.is_local(self.folder):
            return
        if os.path.islink(self.folder):
            catalog = Walls(os.path.dirname(self.folder), self.allowed)
            catalog.placed("source: the link to", os.path.realpath(self.folder))
        for link in _links(self.folder):
            name = named(os.path.relpath(link, self.folder))
            self.placed(f"source: the link {name} to", os.path.realpath(link))


def _absolute(url: str) -> str:
    return os.path.realpath(storage.absolute(url)) if storage.is_local(url) else url.rstrip("/")


def _is_below(place: str, wall: str) -> bool:
    return place == wall or place.startswith(f"{wall.rstrip('/')}/")


def _links(folder: str) -> Iterator[str]:
    """Every link below a folder; none is followed."""
    left = [folder]
    while left:
        with os.scandir(left.pop()) as found:
            for entry in found:
                if entry.is_symlink():
                    yield entry.path
                elif entry.is_dir():
                    left.append(entry.path)
