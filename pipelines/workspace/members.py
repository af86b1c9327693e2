"""The pictures of image shards as columns, and the selection of those that a stage may use.

Training sets are made by `training_members` only. It needs a `ZeroShotSplit`, and none of its arguments admits an
unseen, pseudo-unseen or held-back picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from pipelines.workspace.groups import Groups
from pipelines.workspace.ids import own_name
from zse_model.split import ZeroShotSplit
from zse_model.transforms import Modality

Distractors: TypeAlias = Literal["held_back", "drawn"]


@dataclass(frozen=True)
class Members:
    """Columns of n pictures, each [n]; row i of all columns is one picture."""

    id: np.ndarray
    modality: np.ndarray
    category: np.ndarray
    instance: np.ndarray
    """None if unknown."""
    sha256: np.ndarray
    part: np.ndarray
    """int64, index of the picture's image shard."""
    row: np.ndarray
    """int64, row in that shard."""

    def __len__(self) -> int:
        return len(self.id)

    def where(self, mask: np.ndarray) -> Members:
        return Members(*(column[mask] for column in vars(self).values()))

    def names(self) -> dict[str, str]:
        """sha256 -> the id of a picture with this content."""
        return dict(zip(self.sha256, self.id, strict=True))

    def of(self, *, categories: Iterable[str], modality: Modality | None = None) -> Members:
        mask = _among(self.category, categories)
        return self.where(mask & (self.modality == modality) if modality else mask)

    def by_part(self) -> list[tuple[int, np.ndarray]]:
        """(image shard, int64 indices of its pictures among these) for each shard that has some, ascending."""
        parts = Groups.of(self.part, int(self.part.max(initial=-1)) + 1)
        return [(int(part), parts[int(part)]) for part in np.flatnonzero(parts.sizes())]

    def by_content(self) -> Members:
        """The pictures in the order of their content hash, so that no order of classes helps a scorer."""
        return self.where(self.content_order())

    def content_order(self) -> np.ndarray:
        """int64 [n], the rows in the order of content hash, then id."""
        return np.lexsort((self.id, self.sha256))


def training_members(members: Members, split: ZeroShotSplit) -> Members:
    """The pictures that training may use: those of training classes without held-back instances."""
    inside = members.of(categories=split.training)
    return inside.where(~held_back(inside, split))


def tested_members(
    members: Members, split: ZeroShotSplit, distractors: Iterable[Distractors] = (), *, seen_classes: bool = False
) -> Members:
    """The pictures of a test: the unseen classes and the distractors.

    seen_classes: add held-back pictures of seen classes, sketches and photos.
    """
    wanted = _among(members.category, split.unseen)
    if seen_classes:
        wanted |= held_back(members, split)
    for kind in distractors:
        others = held_back(members, split) if kind == "held_back" else drawn(members)
        wanted |= others & (members.modality == "photo")
    return members.where(wanted)


def leakable(
    members: Members, split: ZeroShotSplit, distractors: Iterable[Distractors], *, seen_classes: bool
) -> Members:
    """The `tested_members` that a checkpoint must not have seen. It may have seen drawn distractors of seen classes."""
    unknown: list[Distractors] = [d for d in distractors if d == "held_back"]
    return tested_members(members, split, unknown, seen_classes=seen_classes)


def held_back(members: Members, split: ZeroShotSplit) -> np.ndarray:
    """bool [n], the pictures of seen classes that no training uses; in a union the same as in each part alone."""
    kept = _among(members.category, split.seen)
    if not split.held_back:
        return np.zeros(len(members), dtype=bool)
    ids, instances = members.id[kept], members.instance[kept]
    kept[kept] = [split.is_held_back(own_name(instance or id)) for instance, id in zip(instances, ids, strict=True)]
    return kept


def drawn(members: Members) -> np.ndarray:
    """bool [n], the pictures whose instance has a sketch."""
    instances = set(members.instance[members.modality == "sketch"]) - {None}
    return np.array([instance in instances for instance in members.instance], dtype=bool)


def counts(members: Members, categories: Sequence[str]) -> dict[str, dict[str, int]]:
    """Number of pictures by category and modality."""
    table = {c: {"sketch": 0, "photo": 0} for c in categories}
    for category, modality in zip(members.category, members.modality, strict=True):
        if category in table:
            table[category][modality] += 1
    return table


def _among(column: np.ndarray, wanted: Iterable[str]) -> np.ndarray:
    """bool [n], which texts of a column are wanted. `np.isin` would sort the column: 2 s for a million texts."""
    texts = set(wanted)
    return np.fromiter((text in texts for text in column), dtype=bool, count=len(column))
