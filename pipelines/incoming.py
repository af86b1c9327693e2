"""A catalogue of data sets that arrive: each folder in it is one.

    s3://bucket/datasets/shop-2026-11/{sketch,photo}/<class>/*  pairs.tsv  dataset.yaml

`dataset.yaml` says what is different from a folder whose classes are all unseen: the fields of an experiment's
`dataset`, and there above all `split` (a list of the unseen classes) and `use: selection`, by which its owner allows
models to be chosen by it. `source` is the folder itself, or another URL.
"""

from __future__ import annotations

import re
from typing import Any

from pipelines import storage
from pipelines.catalog import DatasetConfig
from pipelines.config import ConfigError, read_dataset
from pipelines.written import read_yaml

DESCRIPTION = "dataset.yaml"


def arrived(catalog: str) -> dict[str, DatasetConfig | ConfigError]:
    """The data sets of a catalogue by the names of their folders, or why one cannot be read.

    Raises StorageError for a catalogue that is not there, ConfigError for one without folders.
    """
    names = storage.folders(catalog)
    if not names:
        raise ConfigError(f"{catalog} has no folders: each folder of a catalogue is a data set")
    return {name: _described(storage.join(catalog, name), name) for name in names}


def _described(folder: str, name: str) -> DatasetConfig | ConfigError:
    url = storage.join(folder, DESCRIPTION)
    try:
        raw: Any = read_yaml(storage.read_bytes(url), url) if storage.exists(url) else {}
        raw = {} if raw is None else raw
    except ConfigError as error:
        return error
    except (storage.StorageError, OSError) as error:
        return ConfigError(f"{url} cannot be read: {error}")
    if not isinstance(raw, dict):
        return ConfigError(f"{url} must give fields of a data set, such as `use: selection`; got {type(raw).__name__}")
    plain = re.sub(r"[^a-z0-9_.-]+", "-", name.casefold()).strip("-") or "dataset"
    described = {"adapter": "folder", "name": plain, "source": folder, "split": "all", "pseudo_unseen": 0.0, **raw}
    try:
        return read_dataset(described)
    except ConfigError as error:
        return ConfigError(f"{url}: {error}")
