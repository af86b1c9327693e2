"""Stores other than disks and AWS buckets: versions of files, and the spelling of names."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import boto3
import fsspec
import fsspec.config
import pytest

from pipelines.datasets.archives import opened
from pipelines.datasets.diagnose import diagnose
from pipelines.runtime.errors import StorageError
from pipelines.store import storage
from tests.helpers.faulty_store import FaultyStore
from tests.helpers.faulty_store import _Handler as Answer
from tests.helpers.servers import free_ports
from tests.zse_model.test_transforms import as_bytes, drawing, scene

PNG, JPEG = as_bytes(drawing()), as_bytes(scene(), "JPEG")
ODD = [
    "a b",
    "a%20b",
    "50%#1?",
    "ünï",
    "a&amp;b",
    "a+b",
    "it's",
    "e\u0301",
    "😀",
    "a;b=c,d",
    "[1]*",
    "a::b",
    "%41",
    "a ",
]


class Web(SimpleHTTPRequestHandler):
    """A web server that can leave headers out."""

    hidden: ClassVar[set[str]] = set()
    etag: ClassVar[str] = ""
    failures: ClassVar[int] = 0

    def send_header(self, keyword: str, value: str) -> None:
        if keyword not in self.hidden:
            super().send_header(keyword, value)

    def end_headers(self) -> None:
        if self.etag:
            self.send_header("ETag", self.etag)
        super().end_headers()

    def do_HEAD(self) -> None:  # noqa: N802
        if self.failures:
            Web.failures -= 1
            self.send_error(503)
        else:
            super().do_HEAD()

    def log_message(self, format: str, *args: object) -> None:
        """Tests print nothing."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The URL of a web server for `tmp_path`."""
    Web.hidden, Web.etag, Web.failures = set(), "", 0
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Web, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def put(root: Path, path: str, data: bytes = b"x") -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def test_names_on_a_web_server_are_what_they_are_on_its_disk(web: str, tmp_path: Path) -> None:
    paths = [f"set/{folder}/{name}.png" for folder, name in zip(ODD, reversed(ODD), strict=True)]
    for i, path in enumerate(paths):
        put(tmp_path, path, bytes([i]))
    assert {file.path for file in storage.list_files(web)} == set(paths)
    assert storage.read_many(web, paths) == [bytes([i]) for i in range(len(paths))]
    assert storage.folders(f"{web}/set/") == sorted(ODD)
    for i, (folder, name) in enumerate(zip(ODD, reversed(ODD), strict=True)):
        assert storage.names(storage.join(web, "set", folder)) == {f"{name}.png"}
        assert storage.read_bytes(storage.join(web, "set", folder, f"{name}.png")) == bytes([i])
        assert storage.read_ranges(web, paths[i], [(0, 1)]) == [bytes([i])]
    assert (
        storage.read_many(f"{web}/set/a b", ["a .png"]) == storage.read_many(f"{web}/set/a%20b", ["a .png"]) == [b"\0"]
    )
    assert isinstance(storage.read_many(web, ["set/nothing"])[0], FileNotFoundError)


def test_a_data_set_on_a_web_server(web: str, tmp_path: Path) -> None:
    for category in ("hot air balloon", "50%#1?"):
        put(tmp_path, f"sketch/{category}/1 2.png", PNG)
        put(tmp_path, f"photo/{category}/1&2.jpg", JPEG)
    found = diagnose([web])
    assert set(found.counts) == {"hot air balloon", "50%#1?"} and found.tried == 4 and not found.bad


def test_a_page_of_links_lists_what_lies_below_it(web: str, tmp_path: Path) -> None:
    """Apache links to the folder above and to itself in other orders."""
    links = ["?C=N;O=D", "/", "../", "./", "/pics/b.png", "http://127.0.0.1:1/pics/c.png", "a.png", "d.png#top", "sub/"]
    put(tmp_path, "pics/index.html", "".join(f'<a href="{link}">x</a>' for link in links).encode())
    put(
        tmp_path, "pics/sub/index.html", b'<a href="/pics/">up</a> <a href="e&amp;f.png">e</a> <a href="gone.png">g</a>'
    )
    for name in ("a.png", "b.png", "sub/e&f.png"):
        put(tmp_path, f"pics/{name}")
    found = {file.path: file for file in storage.list_files(f"{web}/pics")}
    assert set(found) == {"a.png", "b.png", "sub/e&f.png", "sub/gone.png"}
    assert found["sub/gone.png"].version == "" and isinstance(
        storage.read_many(f"{web}/pics", ["sub/gone.png"])[0], FileNotFoundError
    )


def test_a_changed_file_on_a_web_server_has_another_version(web: str, tmp_path: Path) -> None:
    file = put(tmp_path, "cat/a.png", b"first")
    before = list(storage.list_files(web))
    os.utime(file, (1, 1))
    assert list(storage.list_files(web)) != before and before[0].size == 5
    Web.etag = '"1234"'
    assert [one.version for one in storage.list_files(web)] == ["1234"]
    Web.etag, Web.failures = "", 1
    assert [one.path for one in storage.list_files(web)] == ["cat/a.png"], "a server that is busy is asked again"


@pytest.mark.parametrize("hidden", [{"Last-Modified"}, {"Last-Modified", "Content-Length"}, {"Content-Length"}])
def test_a_web_server_without_versions_is_refused(web: str, tmp_path: Path, hidden: set[str]) -> None:
    put(tmp_path, "cat/a.png", b"12345")
    put(tmp_path, "x.zip")
    Web.hidden = hidden
    with pytest.raises(StorageError, match=rf"{web}/cat gives neither an ETag nor .*'a.png'.* Copy the"):
        list(storage.list_files(f"{web}/cat"))
    with pytest.raises(StorageError, match=r"x.zip gives neither an ETag"):
        opened(f"{web}/x.zip")


class Cloud(fsspec.AbstractFileSystem):
    """A store with one file, whose information the test sets."""

    protocol = "cloud"
    cachable = False
    told: ClassVar[dict[str, Any]] = {}
    data: ClassVar[bytes] = b"12345"

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        return [{"name": "root/a.png", "size": len(self.data), "type": "file", **self.told}]


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> str:
    fsspec.register_implementation("cloud", Cloud, clobber=True)
    return "cloud://root"


@pytest.mark.parametrize(
    "key",
    [
        *(
            "ETag",
            "etag",
            "e_tag",
            "md5",
            "md5Hash",
            "md5Checksum",
            "crc32c",
            "checksum",
            "content_md5",
            "content-hash",
        ),
        *("mtime", "LastModified", "last_modified", "Last-Modified", "updated", "modifiedTime", "date_time"),
    ],
)
def test_a_version_under_any_spelling(cloud: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cloud, "told", {key: "one"})
    before = list(storage.list_files(cloud))
    monkeypatch.setattr(Cloud, "told", {key: "two"})
    assert [file.version for file in (*before, *storage.list_files(cloud))] == ["one", "two"]


@pytest.mark.parametrize(
    "told",
    [{}, {"etag": ""}, {"created": 1}, {"size": None, "mtime": 1}, {"size": None}, {"name": "root/a.png", "ino": 3}],
)
def test_a_size_alone_is_refused(cloud: str, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another picture may have as many bytes."""
    monkeypatch.setattr(Cloud, "told", told)
    with pytest.raises(StorageError, match="cloud://root gives neither an ETag nor a modification time and size"):
        list(storage.list_files(cloud))


def test_a_folder_that_may_not_be_listed_is_not_passed_over(cloud: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def ls(self: Cloud, path: str, detail: bool = True, **options: Any) -> list[Any]:
        if path.endswith("/shut"):
            raise PermissionError("no")
        return [
            {"name": "root/a.png", "size": 1, "type": "file", "etag": "1"},
            {"name": "root/shut", "type": "directory"},
        ]

    monkeypatch.setattr(Cloud, "ls", ls)
    with pytest.raises(StorageError, match="cloud://root cannot be used: PermissionError"):
        list(storage.list_files(cloud))


@pytest.mark.parametrize("protocol", ["http", "ftp"])
def test_a_server_that_is_away_is_named(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("pipelines.store.retry.patience", lambda: 0.0)
    url = f"{protocol}://127.0.0.1:{free_ports(1)[0]}/pictures"
    for call in (storage.folders, lambda url: list(storage.list_files(url))):
        with pytest.raises(StorageError, match=f"{url} cannot be used: "):
            call(url)


def test_a_page_that_a_web_server_refuses_is_named(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Web, "do_GET", lambda self: self.send_error(403))
    for call in (storage.folders, lambda url: list(storage.list_files(url))):
        with pytest.raises(StorageError, match=f"{web} cannot be used: .*403"):
            call(web)


def test_same_length_other_bytes_in_memory_and_on_disk(tmp_path: Path) -> None:
    memory, disk = "memory://versions", str(tmp_path)
    for root in (memory, disk):
        storage.write_bytes(f"{root}/a.png", b"12345")
        before = list(storage.list_files(root))
        storage.write_bytes(f"{root}/a.png", b"54321")
        assert list(storage.list_files(root)) != before
    file = put(tmp_path, "a.png", b"123456")
    os.utime(file, (1, 1))
    before = list(storage.list_files(disk))
    file.write_bytes(b"1234567")
    os.utime(file, (1, 1))
    assert list(storage.list_files(disk)) != before, "the size counts, too"


# Keys of buckets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["photo//ant/1.jpg", "/photo/ant/1.jpg", "photo/../1.jpg", "photo/./1.jpg"])
def test_a_key_that_is_no_path_is_refused_by_its_name(s3: str, store: FaultyStore, tmp_path: Path, key: str) -> None:
    root = f"{s3}/{tmp_path.name}"
    client = boto3.client("s3")
    for path in (key, "sketch/ant/1.png", "photo/bee/1.jpg"):
        client.put_object(Bucket="zse", Key=f"{tmp_path.name}/{path}", Body=JPEG)
    for call in (lambda: list(storage.list_files(f"{root}/{key.split('/')[0]}")), lambda: diagnose([root])):
        with pytest.raises(StorageError, match=r"/.* cannot be read: a key with an empty part \(//\)"):
            call()


def test_a_key_with_versionid_is_refused_and_odd_ones_are_read(s3: str, store: FaultyStore, tmp_path: Path) -> None:
    root = f"{s3}/{tmp_path.name}"
    paths = [f"{folder}/{name}.png" for folder, name in zip(ODD, reversed(ODD), strict=True)]
    for i, path in enumerate(paths):
        storage.write_bytes(storage.join(root, path), bytes([i]))
    assert {file.path for file in storage.list_files(root)} == set(paths)
    assert storage.read_many(root, paths) == [bytes([i]) for i in range(len(paths))]
    assert storage.folders(root) == sorted(ODD)
    boto3.client("s3").put_object(Bucket="zse", Key=f"{tmp_path.name}/x/a?versionId=1.png", Body=b"x")
    with pytest.raises(StorageError, match=r"x/a\?versionId=1.png cannot be read"):
        list(storage.list_files(root))


def test_the_requester_pays_for_a_listing(
    s3: str, store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_bytes(f"{s3}/{tmp_path.name}/a.png", b"x")
    monkeypatch.setitem(fsspec.config.conf, "s3", {"requester_pays": True})  # FSSPEC_S3_REQUESTER_PAYS
    headers: list[dict[str, str]] = []
    passed = Answer._pass_on

    def listening(self: Answer, *args: Any, **options: Any) -> None:
        headers.append(dict(self.headers))
        passed(self, *args, **options)

    monkeypatch.setattr(Answer, "_pass_on", listening)
    assert [file.path for file in storage.list_files(f"{s3}/{tmp_path.name}")] == ["a.png"]
    assert storage.read_many(f"{s3}/{tmp_path.name}", ["a.png"]) == [b"x"]
    assert len(headers) == 2 and all(one.get("x-amz-request-payer") == "requester" for one in headers)
