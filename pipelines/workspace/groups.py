"""Indices of pictures by group: by class, by instance, by part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Groups:
    """`groups[g]` are the indices of group g, int64, in the order in which they were given.

    Two arrays hold all groups, however many there are: Ray maps them into each worker and copies nothing.
    """

    indices: np.ndarray
    """int64 [n], group by group."""
    starts: np.ndarray
    """int64 [groups + 1], where each group begins in `indices`, and the end."""

    @classmethod
    def of(cls, group: np.ndarray, count: int, among: np.ndarray | None = None) -> Groups:
        """group: int64 [pictures], the group of each, 0..count - 1; negative for none. among: int64, the indices to
        group; all by default."""
        chosen = np.arange(len(group)) if among is None else among
        chosen = chosen[group[chosen] >= 0]
        ordered = chosen[np.argsort(group[chosen], kind="stable")]
        return cls(ordered, np.searchsorted(group[ordered], np.arange(count + 1)))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, group: int) -> np.ndarray:
        return self.indices[self.starts[group] : self.starts[group + 1]]

    def sizes(self) -> np.ndarray:
        """int64 [groups]"""
        return np.diff(self.starts)
