"""Read a catalogue of delivered data sets, one folder each. `zse reevaluate` calls it.

    s3://bucket/datasets/shop-2026-11/{sketch,photo}/<class>/*  pairs.tsv  dataset.yaml

`dataset.yaml` is optional. It sets fields of an experiment's `dataset`, above all `split` (a list of the unseen
classes; default: all) and `use: selection`, by which the owner allows model selection on the data. Paths in it are
relative to its folder and must stay inside, unless the operator allows a prefix: a supplier must not read through the
operator's permissions.
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
MOST_BYTES = 2**20  # of a description: a list of classes needs far less


def arrived(catalog: str, allowed: Sequence[str] = ()) -> dict[str, DatasetConfig | ConfigError]:
    """Folder name -> configuration of each data set of a catalogue, or the error of one that cannot be read.

    allowed: folders and URLs outside its own folder that a data set may read, with everything below them.
    Raises StorageError for a catalogue that does not exist, ConfigError for one without folders.
    """
    names = storage.folders(catalog)
    if not names:
        raise ConfigError(f"Catalogue {catalog} has no folders. Put each data set into a folder of its own")
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
        return ConfigError(f"{url} must hold fields of a data set, such as `use: selection`; got {type(raw).__name__}")
    plain = re.sub(r"[^a-z0-9_.-]+", "-", name.casefold()).strip("-") or "dataset"
    described = {"adapter": "folder", "name": plain, "split": "all", "pseudo_unseen": 0.0, **raw}
    if described["adapter"] not in ("union", "synthetic"):  # a union's parts have sources; synthetic has none
        described.setdefault("source", folder)
    try:
        return read_dataset(described).placed(walls.placed)
    except ZseError as error:
        return ConfigError(f"{url}: {error}")


def _read(url: str) -> Any:
    info = storage.file_info(url)
    if info is None or (storage.is_local(url) and not os.path.isfile(url)):  # a read from a pipe may never return
        raise ConfigError(f"{url} is not a file. Give a text file, or remove it")
    if info.size > MOST_BYTES:
        raise ConfigError(f"{url} has {info.size:,} bytes. At most {MOST_BYTES:,} are allowed")
    data = storage.read_bytes(url)
    raw = read_yaml(data, url)
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(data)):  # a few lines can expand to 10^9 values
        raise ConfigError(f"{url} has a YAML alias (`*name`), which is not allowed. Write the value out")
    return raw


@dataclass(frozen=True)
class Walls:
    """The places that a data set may read: its own folder, and those the operator allows."""

    folder: str
    allowed: tuple[str, ...] = ()

    def placed(self, field: str, given: str) -> str:
        """The path or URL of a field, absolute and with links resolved. Raises ConfigError for one outside the
        walls."""
        place = self._absolute(given)
        if not any(_is_below(place, _absolute(wall)) for wall in (self.folder, *self.allowed)):
            raise ConfigError(
                f"dataset.{field} {named(given)} is outside {self.folder}, the only folder that a delivered data set "
                "may read. To allow another place, pass --allow-prefix FOLDER_OR_URL"
            )
        return place

    def _absolute(self, given: str) -> str:
        remote = "://" in given and not given.startswith("file://")
        if "::" in given or "\0" in given:  # fsspec reads a second URL after ::
            raise ConfigError(f"{named(given)} is not a plain path or URL. Give one without `::`")
        if not remote and (storage.is_local(self.folder) or given.startswith(("/", "file://"))):
            return os.path.realpath(os.path.join(self.folder, given.removeprefix("file://")))
        url = given if remote else f"{self.folder}/{given}"
        if ".." in re.split(r"[/\\]", unquote(url)):  # a server may decode %2e%2e%2f to ../
            raise ConfigError(f"{named(given)} contains `..`. Give a path or URL without it")
        return re.sub(r"(/\.)+(?=/|$)", "", url).rstrip("/")

    def refuse_links(self) -> None:
        """Raise ConfigError for a link below the folder that leads outside: listing would follow it."""
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
    """Paths of all links below a folder. Links are not followed."""
    left = [folder]
    while left:
        with os.scandir(left.pop()) as found:
            for entry in found:
                if entry.is_symlink():
                    yield entry.path
                elif entry.is_dir():
                    left.append(entry.path)
