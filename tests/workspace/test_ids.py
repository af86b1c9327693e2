"""Ids of a union contain those of its parts; a name that Parquet cannot hold is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.datasets.adapters.synthetic import SyntheticConfig
from pipelines.datasets.base import ImageRecord
from pipelines.datasets.union import _of_part
from pipelines.workspace.ids import MARK, own_name, refuse_name
from zse_model.errors import ZseError
from zse_model.transforms import BadPicture

NAMES = st.text("abcxyz0123456789_.-", min_size=1, max_size=8).filter(lambda name: name.strip("."))
"""Of data sets and of the parts of a union."""
FILES = st.lists(st.text(st.characters(exclude_characters="/"), min_size=1, max_size=6), min_size=1, max_size=3)
"""Folders and a file: between two marks of a path stands at least one character."""


@given(NAMES, st.sampled_from(["sketch", "photo"]), FILES, st.booleans())
def test_the_id_in_a_union_gives_the_id_in_the_part_back(name, modality, parts, known):
    category, file = "hot-air balloon", "/".join(parts)
    record = ImageRecord(
        id=f"{modality}/{category}/{file}",
        modality=modality,
        category=category,
        instance=f"{category}/{file}" if known else None,
        path=file,
        size=1,
        version="v",
    )
    SyntheticConfig(name=name, split="synthetic")  # the name is allowed
    joined = _of_part(name, record, category)
    assert joined.id.split("/", 2)[:2] == [modality, category] and joined.id.count(MARK) == 1
    assert own_name(joined.id) == own_name(record.id) == record.id
    assert joined.id.split("/")[2] == name, "shard.weights reads the part there"
    assert (own_name(joined.instance) if joined.instance else None) == record.instance
    assert joined.path.removeprefix(name + MARK) == record.path


@given(NAMES, st.integers(0, 8), st.sampled_from([MARK, "/", "", "A", " ", "é"]))
def test_the_name_of_a_part_holds_no_mark(name, at, wrong):
    given_name = name[:at] + wrong + name[at:] if wrong else wrong
    with pytest.raises(ZseError, match="dataset.name is"):
        SyntheticConfig(name=given_name, split="synthetic")


@given(st.text(st.characters() | st.integers(0xD800, 0xDFFF).map(chr)))
def test_exactly_the_names_in_utf_8_are_allowed(path):
    if any(0xD800 <= ord(character) < 0xE000 for character in path):
        with pytest.raises(BadPicture, match="not UTF-8: rename it"):
            refuse_name(path)
    else:
        refuse_name(path)
        assert path.encode().decode() == path
