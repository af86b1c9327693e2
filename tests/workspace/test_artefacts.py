"""Artefacts: manifest, schema versions and keys."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest

from pipelines.runtime.errors import StorageError
from pipelines.store import storage
from pipelines.workspace.images import Images
from pipelines.workspace.kept import Kept, complete
from pipelines.workspace.parts import write_part
from zse_model.errors import ZseError

KEY, OTHER = "0123abcd" + 56 * "0", "0123abcd" + 56 * "f"


class Sample(Kept):
    KIND, MADE_BY = "samples", "zse sample"


class Newer(Sample):
    VERSION = 3
    OLDER: ClassVar[Any] = {
        1: lambda manifest: {**manifest, "size": 128},
        2: lambda manifest: {**manifest, "size": [manifest["size"]] * 2},
    }


def test_an_artefact_opens_as_it_was_written(tmp_path: Path) -> None:
    url = Sample.place(str(tmp_path), "a+b", KEY)
    assert url == f"{tmp_path}/samples/a+b-0123abcd"
    assert Sample.find(url, KEY) is None and not complete(url)
    written = Sample.write(url, KEY, numbers=(1, 2))
    assert complete(url) and written.manifest["numbers"] == [1, 2]
    assert written == Sample.open(url) == Sample.find(url, KEY) == pickle.loads(pickle.dumps(written))
    assert storage.read_json(f"{url}/manifest.json") == {"schema_version": 1, "key": KEY, "numbers": [1, 2]}


def test_a_folder_that_is_not_complete_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"x is not complete: it has no manifest.json. Run `zse sample` first"):
        Sample.open(f"{tmp_path}/x")


def test_a_folder_of_another_key_is_refused(tmp_path: Path) -> None:
    url = Sample.place(str(tmp_path), "a", KEY)
    Sample.write(url, OTHER)
    assert Sample.open(url).key == OTHER, "without a key to compare with, the folder is valid"
    with pytest.raises(
        ZseError, match=f"a-0123abcd holds another artefact: .* key {OTHER}, .* to {KEY}. Move or delete"
    ):
        Sample.find(url, KEY)


def test_a_folder_of_a_workspace_that_was_renamed_to_another_key_is_refused(tmp_path: Path) -> None:
    renamed = Sample.place(str(tmp_path), "a", "f" * 64)
    Sample.write(renamed, KEY)
    with pytest.raises(ZseError, match=f"has the key {KEY}, but the folder belongs to ffffffff. Move or delete"):
        Sample.open(renamed)
    for name in ("a-0123abcd", "a-ffffffff-copy"):
        Sample.write(f"{tmp_path}/samples/{name}", KEY)
        assert Sample.open(f"{tmp_path}/samples/{name}").key == KEY


def test_a_copy_outside_of_a_workspace_has_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("checkpoint", "best-20261126"):  # the first: a model's own copy; the second ends in hex digits
        Sample.write(f"{tmp_path}/{name}", KEY)
        assert Sample.open(f"{tmp_path}/{name}").key == KEY
    monkeypatch.chdir(tmp_path)
    assert [Sample.open(url).name for url in ("checkpoint", "checkpoint/", "./checkpoint")] == ["checkpoint"] * 3


def test_a_manifest_of_older_code_has_no_key(tmp_path: Path) -> None:
    url = Sample.place(str(tmp_path), "a", KEY)
    Sample.write(url)
    found = Sample.find(url, KEY)
    assert found is not None and found.key == "" and "key" not in found.manifest


def test_each_form_has_its_own_version_and_reads_older_ones(tmp_path: Path) -> None:
    old, middle = f"{tmp_path}/old", f"{tmp_path}/middle"
    Sample.write(old)
    storage.write_json(f"{middle}/manifest.json", {"schema_version": 2, "size": 64})
    assert Newer.open(old).manifest == {"schema_version": 3, "size": [128, 128]}
    assert Newer.open(middle).manifest == {"schema_version": 3, "size": [64, 64]}
    new = Newer.write(f"{tmp_path}/new", size=[1, 2])
    with pytest.raises(StorageError, match="has schema version 3, this code reads 1. Delete .* run `zse sample`"):
        Sample.open(new.url)
    storage.write_json(f"{old}/manifest.json", {})
    with pytest.raises(StorageError, match="has schema version None, this code reads 1, 2, 3"):
        Newer.open(old)


def test_the_summary_is_written_once_and_leaves_the_parts_out(tmp_path: Path) -> None:
    made = Sample.write(f"{tmp_path}/a", KEY, shards=["part"], pictures=3)
    made.summarise("sample")
    told = storage.read_json(f"{made.url}/report.json")
    assert told == {"stage": "sample", "output": made.url, "schema_version": 1, "pictures": 3}


def test_image_shards_give_each_member_its_own_picture_in_any_order(tmp_path: Path) -> None:
    shards = {"part-0.parquet": "ab", "part-1.parquet": "c"}
    for name, pictures in shards.items():
        of_all = {"modality": "photo", "category": "fish", "sha256": "0"}
        rows = [{"id": p, "data": p.encode(), "look": 192 * p.encode(), **of_all} for p in pictures]
        write_part(f"{tmp_path}/{name}", pa.Table.from_pylist(rows, schema=Images.SCHEMA), row_group=8)
    images = Images.write(str(tmp_path), shards=[{"name": name, "rows": len(of)} for name, of in shards.items()])
    members = images.members()
    assert [(id, members.part[i], members.row[i]) for i, id in enumerate(members.id)] == [
        ("a", 0, 0),
        ("b", 0, 1),
        ("c", 1, 0),
    ]
    assert type(members.id[0]) is str and members.instance[0] is None, "columns hold the values of Python"
    asked = members.where(np.array([2, 1, 0]))
    assert images.data(asked) == [b"c", b"b", b"a"]
    assert np.array_equal(images.looks(asked), np.repeat([[ord("c")], [ord("b")], [ord("a")]], 192, axis=1))
