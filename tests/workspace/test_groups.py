"""Indices by group, against a plain way."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.workspace.groups import Groups
from pipelines.workspace.images import Images
from pipelines.workspace.members import Members


@pytest.mark.parametrize("some", [False, True])
def test_each_group_has_its_indices_in_their_order(some: bool) -> None:
    rng = np.random.default_rng(0)
    group, count = rng.integers(-1, 6, 200), 8  # groups 6 and 7 are empty
    among = rng.permutation(200)[:120] if some else None
    groups = Groups.of(group, count, among)
    given = range(200) if among is None else among.tolist()
    assert len(groups) == count
    assert [groups[g].tolist() for g in range(count)] == [[i for i in given if group[i] == g] for g in range(count)]
    assert groups.sizes().tolist() == [len(groups[g]) for g in range(count)]


def test_no_pictures_are_in_no_group() -> None:
    assert [len(Groups.of(np.empty(0, np.int64), 2)[g]) for g in (0, 1)] == [0, 0]


def test_members_in_any_order_are_found_in_their_parts() -> None:
    images = Images("", {"shards": [{"name": f"part-{i}", "rows": 9} for i in range(4)]})
    part, row = np.array([3, 0, 3, 0, 2]), np.array([5, 8, 1, 2, 7])
    text = np.array(list("abcde"), dtype=object)
    found = images.rows(Members(text, text, text, text, text, part, row))
    assert [(name, rows.tolist()) for name, rows in found] == [("part-0", [8, 2]), ("part-2", [7]), ("part-3", [5, 1])]
