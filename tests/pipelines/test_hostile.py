"""Whatever lies in people's folders and buckets: each file has a stated outcome, nothing is lost, nothing hangs."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pipelines import shards, storage
from pipelines.catalog import ImageRecord, create_dataset
from pipelines.config import ExperimentConfig
from pipelines.prepare import write_images
from tests.conftest import tiny_folder
from tests.zse_model.test_transforms import as_bytes, drawing, scene

PNG = as_bytes(drawing())
JPEG = as_bytes(scene(), "JPEG")


def put(root: Path, path: str, data: bytes = PNG) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


# What is listed -----------------------------------------------------------------------------------------------------


def test_links_are_followed_and_loops_of_links_end(tmp_path: Path) -> None:
    photos, elsewhere = tmp_path / "photo", tmp_path / "elsewhere"
    for path in ("photo/cat/1.png", "photo/a/2.png", "photo/b/3.png", "elsewhere/4.png", "elsewhere/dog/5.png"):
        put(tmp_path, path)
    for link, target in {
        "cat/up": photos,  # into itself
        "cat/further up": tmp_path,
        "cat/here": photos / "cat",
        "cat/itself.png": photos / "cat" / "itself.png",
        "cat/nowhere.png": photos / "gone.png",
        "cat/file.png": elsewhere / "4.png",
        "cat/zeros.png": Path("/dev/zero"),  # would be read for ever
        "dog": elsewhere / "dog",
        "a/b": photos / "b",  # into each other
        "b/a": photos / "a",
    }.items():
        (photos / link).symlink_to(target)
    os.mkfifo(photos / "cat" / "pipe.png")  # would be waited for
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(photos / "cat" / "socket.png"))  # such a path may have 107 bytes only
    real = {"cat/1.png", "cat/file.png", "dog/5.png", "a/2.png", "b/3.png", "a/b/3.png", "b/a/2.png"}
    broken = {"cat/itself.png", "cat/nowhere.png"}
    found = list(storage.list_files(str(photos)))
    assert len(found) == len(real | broken) and {file.path for file in found} == real | broken
    assert storage.folders(str(photos)) == ["a", "b", "cat", "dog"]
    assert storage.names(str(photos / "cat")) == {"1.png", "file.png"}
    data = dict(zip(sorted(real | broken), storage.read_many(str(photos), sorted(real | broken)), strict=True))
    assert {path for path, content in data.items() if content == PNG} == real
    assert all(isinstance(data[path], FileNotFoundError) for path in broken)
    before = {file.path: file.version for file in found}
    os.utime(elsewhere / "4.png", (1, 1))
    after = {file.path: file.version for file in storage.list_files(str(photos))}
    assert {path for path in before if before[path] != after[path]} == {"cat/file.png"}, (
        "a link's version is its file's"
    )

    (tmp_path / "set").mkdir()
    for name in ("sketch", "photo"):
        (tmp_path / "set" / name).symlink_to(photos)
    assert len(create_dataset(tiny_folder(str(tmp_path / "set"), ["a"]).dataset).records()) == 2 * len(found)


@pytest.fixture
def as_somebody() -> Iterator[Path]:
    """A folder for a user whom permissions bind: root becomes `nobody` meanwhile."""
    folder = Path(tempfile.mkdtemp())
    if os.geteuid():
        yield folder
    else:
        folder.chmod(0o777)
        os.seteuid(65534)
        yield folder
        os.seteuid(0)
    shutil.rmtree(folder)


def write_part(config: ExperimentConfig, records: list[ImageRecord], folder: Path) -> dict[str, Any]:
    """One ingest task, in this process."""
    task = {"part": shards.part_name(0, 1), "records": json.dumps([asdict(record) for record in records])}
    settings = {"transforms": config.transforms, "ingest": config.ingest}
    return write_images(task, folder=str(folder), dataset=config.dataset, **settings)


def test_what_may_not_be_read_stops_the_job_and_is_read_once_it_may(as_somebody: Path) -> None:
    """Never skipped: a mended permission changes neither size nor time, so nobody would look again."""
    source = as_somebody / "data"
    config = tiny_folder(str(source), ["cat"])
    put(source, "photo/cat/1.jpg", JPEG)
    file, folder = put(source, "sketch/cat/1.png"), source / "sketch" / "cat"
    records = create_dataset(config.dataset).records()
    file.chmod(0)
    with pytest.raises(PermissionError, match=r"sketch/cat/1.png"):
        write_part(config, records, as_somebody / "w")
    assert not (as_somebody / "w").exists()
    file.chmod(0o600)
    assert write_part(config, records, as_somebody / "w")["skipped"] == "[]"
    folder.chmod(0)
    try:
        with pytest.raises(PermissionError, match="sketch/cat"):
            create_dataset(config.dataset).records()
    finally:
        folder.chmod(0o700)


def test_a_name_that_is_no_text_is_skipped_and_named(tmp_path: Path) -> None:
    """Archives of old systems leave Latin-1 names; no Parquet file could hold them."""
    config = tiny_folder(str(tmp_path), ["cat"])
    put(tmp_path, "photo/cat/1.jpg", JPEG)
    put(tmp_path, "sketch/cat/1.png")
    put(tmp_path, "sketch/cat/two\nlines\t.png")
    put(tmp_path, os.fsdecode(b"sketch/cat/\xe9t\xe9.png"))
    records = create_dataset(config.dataset).records()
    done = write_part(config, records, tmp_path / "w")
    kept = shards.open_part(str(tmp_path / "w" / done["part"])).read(columns=["id"])["id"].to_pylist()
    assert kept == ["photo/cat/1.jpg", "sketch/cat/1.png", "sketch/cat/two\nlines\t.png"]
    (skipped,) = json.loads(done["skipped"])
    assert skipped == {"uri": "sketch/cat/\\udce9t\\udce9.png", "reason": "its name is not UTF-8: rename it"}


def test_a_key_with_an_empty_part_is_read(s3: str) -> None:
    config = tiny_folder(f"{s3}/slashes", ["cat"])
    keys = ["photo/cat//1.jpg", "sketch/cat/a///1.png"]
    for key in keys:
        storage.write_bytes(f"{s3}/slashes/{key}", key.encode())
    dataset = create_dataset(config.dataset)
    records = dataset.records()
    assert [(r.path, r.category) for r in records] == [(key, "cat") for key in keys]
    assert dataset.read(records) == [key.encode() for key in keys]
