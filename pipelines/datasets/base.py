"""The interface of a data set: a listing of records, the bytes of each picture, and a zero-shot split.

Adapters implement it; `ingest`, `operate` and `zse datasets` call it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import numpy as np

from pipelines.datasets.built_in import is_split_name
from pipelines.store import storage
from pipelines.workspace.members import Members
from zse_model.errors import ZseError
from zse_model.transforms import Modality

Place = Callable[[str, str], str]
"""(field, path or URL as given) -> absolute path or URL. Raises ConfigError for a place that may not be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecord:
    """One picture as listed. Its bytes have not been read."""

    id: str
    """`modality/category/file`: unique in its data set, and independent of where the data is stored."""
    modality: Modality
    category: str
    """The class name, as the data set spells it."""
    instance: str | None
    """The thing that the photo shows and the sketch was drawn from; None if unknown."""
    path: str
    """Where `DatasetAdapter.read` finds the picture."""
    size: int
    """Bytes."""
    version: str
    """Changes with the content, as far as the store reports changes without a read."""
    source: str = ""
    """`source_hash` of the folder that `path` is relative to. Empty for pictures without a folder, and of an archive,
    whose version covers its URL. The last field: names of parts leave it out where it is empty."""

    def values(self) -> list[str | int | None]:
        """The fields in order, for JSON. `of` is the inverse."""
        return [getattr(self, name) for name in self.__slots__]

    @classmethod
    def of(cls, values: Sequence[Any]) -> ImageRecord:
        return cls(**dict(zip(cls.__slots__, values, strict=True)))


def source_hash(folder: str) -> str:
    """Tells folders apart whose files have equal paths, sizes and times. Empty for S3, whose ETags are hashes of the
    content; a web server's ETags are often made of time and size."""
    return "" if folder.startswith(("s3://", "s3a://")) else storage.digest(storage.absolute(folder), 16)


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Settings of every data set. Each adapter adds its own fields in its own file."""

    __pydantic_config__ = {"extra": "forbid"}
    if TYPE_CHECKING:  # a literal of each adapter, in its own file
        adapter: str

    name: str
    """Name in outputs and settings: lower case letters, digits and `_.-`."""
    split: str | tuple[str, ...]
    """The unseen classes. One of:
    - a built-in split;
    - several joined by `+`: the unseen classes of each stay unseen, by name and by alias;
    - `random-N`: N classes drawn with `split_seed`;
    - a file or URL with one class per line, or a list of classes;
    - `all`: every class, for data that is only tested on."""
    use: Literal["report", "selection"] = "report"
    """What results on the unseen classes are for: `report`, or also deciding between models (`zse promote`). Set
    `selection` before looking at results. A published split's test classes are refused."""
    pseudo_unseen: float = 0.1
    """Share of the seen classes kept out of training, to choose checkpoints and models on. With 40 or more seen classes
    at least 10 are drawn: with fewer no difference is significant. 0 = none."""
    held_back: float = 0.1
    """Share of the instances of seen classes kept out of training."""
    split_seed: int = 0
    """Seed of the draw of pseudo-unseen classes, and of the unseen classes of `random-N`."""

    def __post_init__(self) -> None:
        if not self.name.strip(".") or set(self.name) - set("abcdefghijklmnopqrstuvwxyz0123456789_.-"):
            raise ZseError(f"dataset.name is {self.name!r}. Use lower case letters, digits and _ . - only")
        for field in ("pseudo_unseen", "held_back"):
            if not 0 <= getattr(self, field) < 1:
                raise ZseError(f"dataset.{field} must be in 0..1 (1 excluded), got {getattr(self, field)}")

    def placed(self, place: Place) -> Self:
        """A copy with `place` applied to each field that is a file, folder or URL. An adapter with such fields of its
        own must override this method: `arrivals` checks no other field of delivered data."""
        if isinstance(self.split, tuple) or is_split_name(self.split):
            return self
        return replace(self, split=place("split", self.split))


class DatasetAdapter(Protocol):
    """Lists and reads one data set. Built from its configuration. Cheap to build and to pickle."""

    def records(self) -> list[ImageRecord]:
        """All pictures, sorted by id. Reads no picture. Raises ZseError if there is none."""
        ...

    def read(self, records: Sequence[ImageRecord]) -> list[bytes | Exception]:
        """The bytes of each record, in order; the exception in place of a picture that cannot be read."""
        ...


def listed_members(records: Sequence[ImageRecord]) -> Members:
    """Listed pictures as columns. Hashes and places in shards are 0: they are unknown before ingest."""
    columns = {
        name: np.array([getattr(record, name) for record in records], dtype=object)
        for name in ("id", "modality", "category", "instance")
    }
    unknown = np.zeros(len(records), dtype=np.int64)
    return Members(**columns, sha256=unknown, part=unknown, row=unknown)
