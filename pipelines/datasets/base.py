"""What a data set is to the rest of the pipeline: a listing of records, their bytes, and a zero-shot split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, Self

import numpy as np

from pipelines.datasets.built_in import is_split_name
from pipelines.workspace.members import Members
from zse_model.errors import ZseError
from zse_model.transforms import Modality

Place = Callable[[str, str], str]
"""(field, path or URL as given) -> where that is; raises an error for what may not be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecord:
    """One picture as listed, before anybody has read it."""

    id: str
    """`modality/category/file`: unique in its data set and the same wherever the data lies."""
    modality: Modality
    category: str
    """The class name, as the data set spells it."""
    instance: str | None
    """The thing that the photo shows and the sketch was drawn from; None where nobody knows."""
    path: str
    """What `read` needs to find it."""
    size: int
    version: str
    """Changes when the content does, as far as the store can tell without reading."""

    def values(self) -> list[str | int | None]:
        """In the order of the fields, for JSON: `of` makes the record again."""
        return [getattr(self, name) for name in self.__slots__]

    @classmethod
    def of(cls, values: Sequence[Any]) -> ImageRecord:
        return cls(**dict(zip(cls.__slots__, values, strict=True)))


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """What every adapter is told. Each adapter adds its own fields in its own file."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    """In outputs and settings: lower case letters, digits and `_.-`."""
    split: str | tuple[str, ...]
    """A built-in split; several with + between them, whose unseen classes all stay unseen, also by alias; `random-N`
    for N unseen classes drawn by `split_seed`; a file (or URL) with one unseen class a line; or a list of them. `all`:
    every class is unseen, the data is for tests only."""
    use: Literal["report", "selection"] = "report"
    """What results on its unseen classes may do: be reported, or also decide between models (`zse promote`). Say
    `selection` before you look, and never of the test classes of a published split."""
    pseudo_unseen: float = 0.1
    """Share of the seen classes that training never touches and everything is chosen on; where 40 or more are seen at
    least 10 classes, below which nothing is significant; 0 = none."""
    held_back: float = 0.1
    """Share of the instances of seen classes that training never touches."""
    split_seed: int = 0
    """Draws the pseudo-unseen classes, and the unseen ones of `random-N`."""

    def __post_init__(self) -> None:
        if not self.name.strip(".") or set(self.name) - set("abcdefghijklmnopqrstuvwxyz0123456789_.-"):
            raise ZseError(f"dataset.name {self.name!r} may hold only lower case letters, digits and _ . -")
        for field in ("pseudo_unseen", "held_back"):
            if not 0 <= getattr(self, field) < 1:
                raise ZseError(f"dataset.{field} must be in 0..1 (1 excluded), got {getattr(self, field)}")

    def placed(self, place: Place) -> Self:
        """The same with each file, folder and URL that it names put in its place. Every field that is one belongs here
        or in an adapter's own `placed`: of data that arrives no other is checked."""
        if isinstance(self.split, tuple) or is_split_name(self.split):
            return self
        return replace(self, split=place("split", self.split))


class DatasetAdapter(Protocol):
    """Lists and reads one data set. Built from its configuration; cheap to build and to pickle."""

    def records(self) -> list[ImageRecord]:
        """All pictures, sorted by id. Reads no picture. Raises a clear error where there are none."""
        ...

    def read(self, records: Sequence[ImageRecord]) -> list[bytes | Exception]:
        """The bytes of each; a picture that cannot be read is its exception."""
        ...


def listed_members(records: Sequence[ImageRecord]) -> Members:
    """Listed pictures as columns. Nobody has read them: their hashes and places in shards are not known."""
    columns = {
        name: np.array([getattr(record, name) for record in records], dtype=object)
        for name in ("id", "modality", "category", "instance")
    }
    unknown = np.zeros(len(records), dtype=np.int64)
    return Members(**columns, sha256=unknown, part=unknown, row=unknown)
