"""Files at URLs are written whole or not at all, with the same behaviour on a disk and in a bucket."""

from __future__ import annotations

import errno
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from botocore.exceptions import NoCredentialsError

from pipelines.datasets.adapters.folder import Folder, FolderConfig
from pipelines.runtime.errors import StorageError
from pipelines.store import storage
from pipelines.store.retry import failure
from pipelines.workspace.parts import open_part, write_part
from tests.helpers.faulty_store import LATE, FaultyStore

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
    with pytest.raises(StorageError, match="nothing does not exist"):
        storage.copy_file(storage.join(root, "nothing"), target)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path / "file")
    storage.write_bytes(url, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
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
    with pytest.raises(StorageError, match="does not exist"):
        Folder(FolderConfig(name="x", split=("a",), source=storage.join(root, "nothing"))).records()


def test_a_listing_goes_on_over_pages(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.store.listing.PAGE", 2)
    expected = {}
    for i in range(5):  # the last page is full, or not
        path = f"deep {i % 2}/{i}.png"
        storage.write_bytes(storage.join(root, "pages", path), b"x" * i)
        expected[path] = i
        assert {file.path: file.size for file in storage.list_files(storage.join(root, "pages"))} == expected


# A store that fails --------------------------------------------------------------------------------------------------

FAULTS = ("slow down", "reset", "truncated", "expired")


@pytest.fixture
def bucket(s3: str, store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with one file for each fault and a good one, in a store with two attempts a request."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    monkeypatch.setattr("botocore.retryhandler.random", SimpleNamespace(random=lambda: 0.0))  # no wait between attempts
    url = f"{s3}/{tmp_path.name}"
    for name in (*FAULTS, "late", "good"):
        storage.write_bytes(storage.join(url, name), name.encode() * 1000)
    store.clear()
    return url


def test_a_picture_is_one_request(bucket: str, store: FaultyStore) -> None:
    storage.read_many(bucket, ["good", "late"])
    assert sorted(request.split("/")[-1] for request in store.asked) == ["good", "late"]


def test_a_request_that_fails_once_is_retried(bucket: str, store: FaultyStore) -> None:
    for name in (*FAULTS, "late"):
        store.fail(name, f"GET .*/{name}$", times=1)
    names = [*FAULTS, "late", "good"]
    assert storage.read_many(bucket, names) == [name.encode() * 1000 for name in names]
    assert len(store.asked) == len(names) + len(FAULTS), "late is not failed"
    for fault in FAULTS:
        store.fail(fault, "GET .*list-type", times=1)
        assert {f.path for f in storage.list_files(bucket)} == set(names), fault
    for fault in ("slow down", "reset", "expired"):
        store.fail(fault, "PUT", times=1)
        storage.write_bytes(storage.join(bucket, "good"), fault.encode())
        assert storage.read_bytes(storage.join(bucket, "good")) == fault.encode()
    assert not any(fault.times for fault in store.faults)


def test_a_request_that_keeps_failing_raises_an_error_with_the_reason(
    bucket: str, store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # patience for a second
    for fault in FAULTS:
        store.fail(fault, f"/{fault}$")
    start = time.monotonic()
    *failed, good, missing = storage.read_many(bucket, [*FAULTS, "good", "nothing"])
    reasons = (
        "SlowDown: Please reduce",
        "\\w*Connection\\w*: ",
        "ClientPayloadError: ",
        "ExpiredToken: .*Check that the cred",
    )
    for fault, reason, error in zip(FAULTS, reasons, failed, strict=True):
        assert isinstance(error, StorageError)
        assert re.match(f"{bucket}/{fault} cannot be used: {reason}", str(error)), error
    assert good == b"good" * 1000 and isinstance(missing, FileNotFoundError)
    with pytest.raises(StorageError, match=f"{bucket}/truncated cannot be used: {reasons[2]}"):
        storage.download_file(storage.join(bucket, "truncated"), tmp_path / "file")

    store.fail("slow down", "list-type|PUT")
    for call in (storage.list_files, storage.names, storage.folders):
        with pytest.raises(StorageError, match=f"{bucket} cannot be used: {reasons[0]}"):
            list(call(bucket))
    with pytest.raises(StorageError, match=f"{bucket}/new cannot be used: {reasons[0]}"):
        storage.write_bytes(storage.join(bucket, "new"), b"new")
    store.fail("denied", "/late$")
    with pytest.raises(StorageError, match=f"{bucket}/late cannot be used: AccessDenied: .*Check that the cred"):
        storage.read_bytes(storage.join(bucket, "late"))
    assert sum(request.endswith("/late") for request in store.asked) == 1, "no is an answer"
    monkeypatch.setitem(storage.TIMEOUTS, "read_timeout", 0.2)
    store.fail("never", "/good$")
    with pytest.raises(StorageError, match=f"{bucket}/good cannot be used: ReadTimeoutError"):
        storage.read_bytes(storage.join(bucket, "good"))
    assert time.monotonic() - start < 60
    store.clear()
    assert not storage.exists(storage.join(bucket, "new"))


def test_many_reads_outlast_a_burst_of_slow_down(
    bucket: str, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More failures than the quota of botocore's standard mode, 100 in a process."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "4")
    monkeypatch.setattr("pipelines.store.files.FETCH_AT_ONCE", 48)
    names = [f"{i}.png" for i in range(48)]
    for name in names:
        storage.write_bytes(storage.join(bucket, name), name.encode())
    store.clear()
    for name in names:
        store.fail("slow down", f"/{name}$", times=3)
    assert storage.read_many(bucket, names) == [name.encode() for name in names]
    assert len(store.asked) == 4 * len(names)


def test_a_part_is_never_read_from_half_an_answer(
    bucket: str, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, table = storage.join(bucket, "part.parquet"), pa.table({"data": [bytes([i]) * 9999 for i in range(20)]})
    write_part(url, table, row_group=5)
    store.fail("truncated", "GET .*part.parquet", times=1)
    file = open_part(url)
    store.fail("truncated", "GET .*part.parquet", times=1)
    assert file.read().equals(table.replace_schema_metadata(file.schema_arrow.metadata))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store.fail("truncated", "GET .*part.parquet")
    for broken in (file.read, lambda: open_part(url)):
        with pytest.raises(StorageError, match="part.parquet cannot be used: ClientPayloadError"):
            broken()


@pytest.mark.parametrize("place", ["folder", "s3", "without links"])
def test_one_of_several_creates(place: str, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if place == "without links":
        monkeypatch.setattr(os, "link", refuse)
    url = f"{s3}/created/1.json" if place == "s3" else str(tmp_path / "created" / "1.json")
    assert storage.create(url, b"mine")
    assert not storage.create(url, b"theirs") and storage.read_bytes(url) == b"mine"
    assert storage.names(url.rpartition("/")[0]) == {"1.json"}
    storage.remove(url)
    storage.remove(url)
    assert not storage.exists(url)


def test_a_write_conflict_is_retried_and_a_failed_condition_is_an_answer(
    s3: str, store: FaultyStore, tmp_path: Path
) -> None:
    url = f"{s3}/{tmp_path.name}/lease.json"
    store.fail("conflict", "PUT", times=1)
    assert storage.create(url, b"mine") and storage.read_bytes(url) == b"mine"
    assert sum(request.startswith("PUT") for request in store.asked) == 2
    store.fail("taken", "PUT")
    assert storage.create(url, b"mine"), "a request whose answer broke off is retried"
    assert not storage.create(url, b"theirs")
    assert not storage.create(f"{url}.2", b"theirs"), "whose it was has removed it since"


def test_an_error_about_a_copy_names_the_url(s3: str, tmp_path: Path) -> None:
    url = f"{s3}/{tmp_path.name}/damaged"
    storage.write_bytes(f"{url}/weights", b"")
    for of, file in ((url, "/weights"), (f"{url}/weights", "")):
        with pytest.raises(StorageError) as refused, storage.local_copy(of) as copy:
            raise StorageError(f"{copy}{file} is damaged")
        assert str(refused.value) == f"{url}/weights is damaged"


def test_uploads_and_downloads_of_a_folder_go_side_by_side(s3: str, store: FaultyStore, tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    for name in (*"abcdef", "manifest.json"):
        (tmp_path / "from" / name).write_text(name)
    url = f"{s3}/{tmp_path.name}"
    store.fail("late", "PUT|GET .*/[a-f]$")
    start = time.monotonic()
    storage.upload_folder(tmp_path / "from", url, last="manifest.json")
    between = time.monotonic()
    storage.download_folder(url, tmp_path / "to")
    assert between - start < 5 * LATE and time.monotonic() - between < 5 * LATE, "six, and the one that goes last"
    assert {file.name: file.read_text() for file in (tmp_path / "to").iterdir()} == {
        name: name for name in (*"abcdef", "manifest.json")
    }
    puts = [request for request in store.asked if request.startswith("PUT")]
    assert puts[-1].endswith("/manifest.json") and len(puts) == 7


def test_missing_credentials_say_which_variables_to_set() -> None:
    said = str(failure("s3://bucket/zse", NoCredentialsError()))
    assert "s3://bucket/zse cannot be used: NoCredentialsError" in said
    assert "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE" in said
