"""The index of a catalogue of photos: a table with one row for each photo, for each checkpoint that encoded them.

    <index>/source.json                               the catalogue that the index follows
    <index>/generations/<method>-<key>/photos.lance   a row for each photo: id, version, encodings, thumbnail, metadata
                                      /skipped.lance  a row for each file that cannot be used: id, version, reason
                                      /manifest.json  written last: every photo of the catalogue has its row

`encode/index.py` writes it, `search/searcher.py` reads it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.runtime.errors import StorageError
from pipelines.store import storage
from pipelines.store.table import Table
from pipelines.workspace.kept import Kept
from pipelines.workspace.looks import SIDE
from zse_model.errors import ZseError

SOURCE = "source.json"
PHOTOS, SKIPPED = "photos", "skipped"
ABOUT = b"zse.generation"  # in the metadata of a table's schema
OWN = (
    pa.field("id", pa.string(), nullable=False),  # path below the source
    pa.field("version", pa.string()),  # of the file, as the store gives it, and its size
    pa.field("sha256", pa.binary(32)),
    pa.field("width", pa.int32()),  # pixels, upright
    pa.field("height", pa.int32()),
    pa.field("thumbnail", pa.binary()),  # JPEG
    pa.field("look", pa.binary(SIDE * SIDE * 3)),  # finds repeated photos
    pa.field("indexed_at", pa.timestamp("ms", tz="UTC")),
)
"""The columns of every photo, before its encodings and the user's own columns."""
SKIPPED_SCHEMA = pa.schema(
    [pa.field("id", pa.string(), nullable=False), ("version", pa.string()), ("reason", pa.string())]
)


class OtherCheckpointError(ZseError):
    """An index has no generation of this checkpoint."""


UNIT = "unit-int8"
"""The type of vectors of length 1 of which the direction is kept: int8 whose largest number is 127 or -127, and what is
read has the length 1 again. numpy does not know the name: older code, which would store zeros, fails before it commits.
"""


@dataclass(frozen=True)
class EncodingForm:
    """How an encoding of a photo is stored, its numbers in one list."""

    dtype: str
    """float16 for floats, `UNIT` for vectors of length 1; others as they are: codes are uint8, positions int64."""
    shape: tuple[int, ...]

    @property
    def kept(self) -> np.dtype:
        """Of the stored numbers."""
        return np.dtype("int8" if self.dtype == UNIT else self.dtype)

    @property
    def arrow(self) -> pa.DataType:
        return pa.list_(pa.from_numpy_dtype(self.kept), math.prod(self.shape))

    @property
    def bytes(self) -> int:
        """Of a photo."""
        return self.kept.itemsize * math.prod(self.shape)

    def column(self, values: np.ndarray) -> pa.Array:
        """[n, *shape] -> a column of n rows. Raises ZseError for a `UNIT` vector that is not finite."""
        if self.dtype == UNIT:
            largest = np.abs(values).max(axis=-1, keepdims=True, initial=1e-9)
            if not np.isfinite(largest).all():
                raise ZseError("The network gives places that are not finite numbers. Use another checkpoint")
            values = np.rint(values * (127 / largest))
        flat = np.ascontiguousarray(values, dtype=self.kept).reshape(-1)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), math.prod(self.shape))

    def values(self, column: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """A column of n rows -> [n, *shape]; float32 of a `UNIT`."""
        whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        found = whole.flatten().to_numpy().reshape(-1, *self.shape)
        if self.dtype != UNIT:
            return found
        wide = found.astype(np.float32)
        # Three times as fast as linalg.norm, which makes another array of this size.
        lengths = np.sqrt(np.einsum("...i,...i", wide, wide))
        wide /= np.maximum(lengths, 1)[..., None]
        return wide


@dataclass(frozen=True)
class Source:
    """The catalogue that an index follows."""

    url: str
    """A folder, bucket or archive of photos."""
    metadata: str | None = None
    """A table with a row for each photo, joined by its path."""


class Generation(Kept):
    """The photos of an index, encoded by one checkpoint. The key is the digest of the checkpoint."""

    KIND, MADE_BY = "generations", "zse index"
    VERSION, OLDER = 2, {1: lambda manifest: manifest}

    @staticmethod
    def version_of(forms: Mapping[str, EncodingForm]) -> int:
        """1 for what older code reads rightly: all but `UNIT`."""
        return 2 if any(form.dtype == UNIT for form in forms.values()) else 1

    @property
    def checkpoint_hash(self) -> str:
        return self.key

    @property
    def method(self) -> str:
        return self.manifest["method"]

    @property
    def registered(self) -> str | None:
        """The registered name that the checkpoint had, such as models:/zse@champion."""
        return self.manifest["registered"]

    @cached_property
    def forms(self) -> Mapping[str, EncodingForm]:
        """Name of each encoding -> its form."""
        return forms_of(self.manifest["encodings"])

    def photos(self) -> Table:
        """The table of photos, at its latest version."""
        return _opened(self.url, PHOTOS)

    def skipped(self) -> Table:
        return _opened(self.url, SKIPPED)


class PhotoIndex:
    """An index at a URL. Its files are read when they are asked for."""

    def __init__(self, url: str) -> None:
        self.url = storage.absolute(url)

    @property
    def source(self) -> Source | None:
        """None for a folder that is no index yet."""
        try:
            return Source(**storage.read_json(storage.join(self.url, SOURCE)))
        except FileNotFoundError:
            return None

    def required(self) -> Source:
        """The source. Raises StorageError for a folder that is no index."""
        if (source := self.source) is None:
            raise StorageError(f"{self.url} is not an index. Run: zse index SOURCE --index {self.url} --model MODEL")
        return source

    def follow(self, source: Source) -> None:
        """Write which catalogue the index follows."""
        storage.write_json(storage.join(self.url, SOURCE), asdict(source))

    def place(self, method: str, digest: str) -> str:
        """The folder of a checkpoint's generation, complete or not."""
        return Generation.place(self.url, method, digest)

    def places(self) -> list[str]:
        """The folders of all generations, complete or not."""
        folder = storage.join(self.url, Generation.KIND)
        return [storage.join(folder, name) for name in storage.folders(folder)] if storage.exists(folder) else []

    def generations(self) -> list[Generation]:
        """The complete generations, by name."""
        return [found for place in self.places() if (found := Generation.find(place)) is not None]

    def generation(self, digest: str, called: str) -> Generation:
        """The complete generation of a checkpoint. called: the checkpoint's name, for errors.

        Raises StorageError for a folder that is no index, OtherCheckpointError for an index without that generation.
        """
        self.required()
        known = self.generations()
        for one in known:
            if one.key == digest:
                return one
        there = (
            ", ".join(f"{one.key[:12]} ({one.registered or one.method})" for one in known) or "none that is complete"
        )
        raise OtherCheckpointError(
            f"{self.url} was not encoded by {called}, checkpoint {digest[:12]}. It has generations of: {there}. "
            f"Run: zse index --index {self.url} --model {called}"
        )


def photos_schema(forms: Mapping[str, EncodingForm], about: Mapping[str, Any]) -> pa.Schema:
    """The schema of a generation's photos, without the user's columns. about: written into its metadata."""
    fields = [*OWN, *(pa.field(name, form.arrow) for name, form in forms.items())]
    return pa.schema(fields, metadata={ABOUT: json.dumps(about)})


def about_of(schema: pa.Schema) -> dict[str, Any]:
    """What `photos_schema` wrote into the metadata."""
    return json.loads(schema.metadata[ABOUT])


def forms_of(said: Mapping[str, Mapping[str, Any]]) -> dict[str, EncodingForm]:
    return {name: EncodingForm(form["dtype"], tuple(form["shape"])) for name, form in said.items()}


def own_columns(schema: pa.Schema, forms: Mapping[str, EncodingForm]) -> list[str]:
    """The names of the user's columns."""
    ours = {field.name for field in OWN} | set(forms)
    return [name for name in schema.names if name not in ours]


def _opened(url: str, name: str) -> Table:
    table = Table.find(url, name)
    if table is None:
        raise StorageError(
            f"{url} has no table {name}: a part of the index was deleted. Delete {url}, and run `zse index` again"
        )
    return table
