"""Bytes at URLs: whole or not at all, and the same on a disk and in a bucket."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import storage
from pipelines.catalog.folder import Folder, FolderConfig

NAMES = ["a b.png", "50%#1?.png", "ünï.png", "[1]*.png"]


@pytest.fixture(params=["disk", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "disk" else f"{request.getfixturevalue('s3')}/{tmp_path.name}"


def test_files_with_odd_names_survive_the_round(root: str) -> None:
    for i, name in enumerate(NAMES):
        storage.write_bytes(storage.join(root, "deep er", name), bytes([i]))
    assert storage.names(storage.join(root, "deep er")) == set(NAMES)
    assert {f.path for f in storage.list_files(root)} == {f"deep er/{name}" for name in NAMES}
    assert storage.read_many(storage.join(root, "deep er"), NAMES) == [bytes([i]) for i in range(len(NAMES))]
    missing = storage.read_many(root, ["deep er/a b.png", "nothing.png"])
    assert missing[0] == b"\0" and isinstance(missing[1], FileNotFoundError)
    storage.remove_folder(storage.join(root, "deep er"))
    assert not storage.exists(storage.join(root, "deep er/a b.png"))


def test_folders_are_copied_with_one_file_last(root: str, tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    for name in ("z", "a", "manifest.json"):
        (tmp_path / "from" / name).write_text(name)
    storage.upload_folder(tmp_path / "from", storage.join(root, "copy"), last="manifest.json")
    assert {f.read_text() for f in storage.download_folder(storage.join(root, "copy"), tmp_path / "to").iterdir()} == {
        "z",
        "a",
        "manifest.json",
    }


def test_a_file_is_copied_within_a_store(root: str) -> None:
    source, target = storage.join(root, "from", "a [1] b"), storage.join(root, "to", "a [1] b")
    storage.write_bytes(source, b"content")
    storage.copy_file(source, target)
    assert storage.read_bytes(target) == b"content" and storage.names(storage.join(root, "to")) == {"a [1] b"}
    with pytest.raises(storage.StorageError, match="nothing does not exist"):
        storage.copy_file(storage.join(root, "nothing"), target)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path / "file")
    storage.write_bytes(url, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(storage.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        storage.write_bytes(url, b"new")
    assert storage.read_bytes(url) == b"old" and list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_paths_cannot_climb_out() -> None:
    for part in ("../x", "/etc/passwd", "a/../../b"):
        with pytest.raises(ValueError, match="would leave"):
            storage.join("s3://bucket/prefix", part)


def test_a_folder_data_set_lists_pictures_and_pairs(root: str) -> None:
    for path in ("sketch/a cat/1.png", "sketch/a cat/.hidden.png", "sketch/a cat/Thumbs.db", "photo/a cat/sub/1.JPG"):
        storage.write_bytes(storage.join(root, "set", path), b"x")
    storage.write_bytes(storage.join(root, "set", "pairs.tsv"), b"class\tsketch\tphoto\na cat\t1.png\tsub/1.JPG\n")
    records = Folder(FolderConfig(name="x", split=("a cat",), source=storage.join(root, "set"))).records()
    assert [(r.id, r.category, r.instance) for r in records] == [
        ("photo/a cat/sub/1.JPG", "a cat", "a cat/sub/1.JPG"),
        ("sketch/a cat/1.png", "a cat", "a cat/sub/1.JPG"),
    ]
    with pytest.raises(storage.StorageError, match="does not exist"):
        Folder(FolderConfig(name="x", split=("a",), source=storage.join(root, "nothing"))).records()


def test_a_listing_goes_on_over_pages(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PAGE", 2)
    expected = {}
    for i in range(5):  # the last page is full, or not
        path = f"deep {i % 2}/{i}.png"
        storage.write_bytes(storage.join(root, "pages", path), b"x" * i)
        expected[path] = i
        assert {file.path: file.size for file in storage.list_files(storage.join(root, "pages"))} == expected
