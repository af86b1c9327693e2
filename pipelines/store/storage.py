"""Bytes at URLs: a local folder or any fsspec store (s3://bucket/prefix). Nobody else touches paths.

Writes appear whole or not at all: locally through a temporary name and a rename, on an object store because a PUT is
atomic. Credentials and endpoints come from the environment or the machine's role (AWS_ENDPOINT_URL for other stores).
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import html
import io
import json
import math
import os
import random
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any, TypeVar, cast
from urllib.parse import quote, unquote

import fsspec
from fsspec import AbstractFileSystem, asyn

from pipelines.runtime.errors import StorageError
from pipelines.runtime.progress import say
from pipelines.runtime.redaction import printable, shown
from pipelines.store.walk import entries, walk
from zse_model.errors import ZseError

A = TypeVar("A")
B = TypeVar("B")

FETCH_AT_ONCE = 32
WAIT_AT_ONCE = 16  # threads that wait for a store: in a bucket a part is three answers
PARTS_AT_ONCE = 8  # of one large file, 50 MB each, that are sent side by side
BLOCK = 16 * 2**20  # bytes of a file in a store that are asked for at once where it is read through
ATTEMPTS = 8
LONG = 4.0  # s; whoever waits longer for a store is told
TIMEOUTS = {"connect_timeout": 10, "read_timeout": 60}  # s, of an attempt: until connected, and for the next byte
PAGE = 1000  # keys of a bucket listed at once
ARCHIVES = (".zip", ".7z", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")  # that may be a source


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A listed file."""

    path: str
    """Relative to the listed folder, `/` between parts."""
    size: int
    version: str
    """A hash or ETag, or the modification time: it or the size changes when the content does. Empty for a link that
    leads nowhere."""


def filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """The fsspec file system of a URL, and the path on it."""
    if is_local(url):  # fsspec would take a name with :: in it for a chain of URLs
        return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(url.removeprefix("file://")))
    if _is_web(url):
        url = quote(url, safe=_OF_URLS)
    s3 = url.startswith(("s3://", "s3a://"))
    options = _s3_options() if s3 else {}
    try:
        if s3 and "::" in url:  # a key: no chain of URLs begins with s3
            fs: Any = fsspec.filesystem("s3", **options)
            path = fs._strip_protocol(url)
        else:
            fs, path = fsspec.core.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        raise StorageError(
            f"Cannot use {url!r}: {error}. Allowed: a folder, s3://bucket/prefix, any fsspec URL"
        ) from error
    except OSError as error:  # FTP connects at once
        raise _failure(url, error) from error
    if s3:
        fs.retries = 1  # s3fs would begin botocore's attempts again, five times and for reads 25 times, without jitter
    return fs, path


def patience() -> float:
    """Seconds for which a store that fails is asked again: what AWS_MAX_ATTEMPTS, which every client of AWS knows,
    comes to at most where the waits double from one second on."""
    return 2.0 ** (int(os.environ.get("AWS_MAX_ATTEMPTS") or ATTEMPTS) - 1)


def _s3_options() -> dict[str, Any]:
    """Botocore asks again after 500, 502, 503 SlowDown, a reset or a time-out, and waits longer each time, with jitter:
    here within a few seconds; `_persist` goes on where that was not enough.

    `legacy` is its mode without a quota: `standard` gives up on everything after 100 failed attempts of a process,
    which 32 reads at once make in a few seconds of SlowDown. Concurrency within a file would ask for its size first.
    """
    retries = {"mode": "legacy", "total_max_attempts": 3}
    return {"max_concurrency": 1, "config_kwargs": {"retries": retries, **TIMEOUTS}}


def _ask(url: str, method: str, *args: Any, **options: Any) -> Any:
    """A method of the store of a URL, on its path. What is not there raises FileNotFoundError, as everywhere; a store
    is asked again, and what it fails for good raises StorageError."""
    fs: Any
    fs, path = filesystem(url)
    fs.invalidate_cache()
    try:
        if fs.async_impl:
            return asyn.sync(fs.loop, _persist, fs, method, path, *args, **options)
        return getattr(fs, method)(path, *args, **options)
    except _NO_FAILURE:
        raise
    except Exception as error:
        if is_local(url):  # the system's errors name the path and the reason
            raise
        raise _failure(url, error) from error


async def _persist(fs: Any, method: str | Callable[..., Any], *args: Any, **options: Any) -> Any:
    """A method of a file system, or what takes one. Asks again until `patience` is over: where a store is away for
    longer than botocore waits, where an answer broke off on its way, which botocore does not notice, and where
    credentials expired: they are then read anew from where they come from."""
    ask = getattr(fs, f"_{method}") if isinstance(method, str) else partial(method, fs)
    end, wait = 0.0, 1.0
    while True:
        session = getattr(fs, "_s3", None)
        try:
            return await ask(*args, **options)
        except Exception as error:
            end = end or time.monotonic() + patience()  # from the first failure on: what is large takes its time
            left = end - time.monotonic()
            expired = _answer(error).get("Code") in _EXPIRED
            if left <= 0 or not (expired or _broke_off(error) or _away(error)):
                raise
            if wait > LONG:
                _tell(f"The store is waited for, {left:.0f} s more: {_reason(error)}")
        await asyncio.sleep(min(random.uniform(wait / 2, wait), left))
        wait = min(2 * wait, 2 * LONG)
        if expired and fs._s3 is session:  # of many reads that it failed, the first renews it
            await fs.set_session(refresh=True)


_told = -math.inf


def _tell(what: str) -> None:
    """Of many that wait at once, one tells."""
    global _told
    if time.monotonic() - _told > 2 * LONG:
        _told = time.monotonic()
        say(what)


_NO_FAILURE = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
_BUSY = (429, 500, 502, 503, 504)
_CROSSED = ("ConditionalRequestConflict", "OperationAborted")  # 409: another write was under way; nobody has it yet
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired")


def _answer(error: BaseException) -> dict[str, str]:
    """The Code and Message of an error that S3 answered with; empty where it did not answer."""
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {})


def _reason(error: Exception) -> str:
    answer = _answer(error)
    return f"{answer.get('Code', type(error).__name__)}: {answer.get('Message', error)}".rstrip(".")


def _away(error: Exception) -> bool:
    """Whether a store answered that it is itself to blame, or not at all."""
    from aiohttp import ClientResponseError
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError

    cause = error.__cause__ or error
    if isinstance(cause, ClientResponseError):
        return cause.status in _BUSY
    if isinstance(cause, ClientError):
        status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status in _BUSY or _answer(error).get("Code") in _CROSSED
    return isinstance(cause, ConnectionError | HTTPClientError)


def _broke_off(error: Exception) -> bool:
    from aiobotocore.response import AioReadTimeoutError  # s3fs brings them; slow to import, and rarely needed
    from aiohttp import ClientPayloadError
    from botocore.exceptions import ResponseStreamingError

    return isinstance(error, ClientPayloadError | ResponseStreamingError | AioReadTimeoutError)


def _failure(url: str, error: Exception) -> StorageError:
    mend = f"It was asked for {patience():.0f} s" if _away(error) or _broke_off(error) else "It is not asked again"
    if isinstance(error, PermissionError):
        mend = "Check that the credentials are valid and allow it"
    # Raised in a task it is in Ray's logs, too, and a URL may hold a password.
    reason, user = _reason(error), re.match(r"[\w+.-]+://([^/]+)@", url)
    reason = reason.replace(user[1], "***") if user else reason  # a client may repeat them without what is before
    said = f"{url} cannot be used: {reason}. {mend}. What is written is kept: the same command goes on from there"
    failure = StorageError(shown(said))
    failure.passes = _away(error) or _broke_off(error)
    return failure


def is_local(url: str) -> bool:
    return "://" not in url or url.startswith("file://")


def _is_web(url: str) -> bool:
    return url.startswith(("http://", "https://"))


_OF_URLS = "%/:?#&=@+,;~!$'()*[]"  # what the URL of a web server may hold as it is


def _in_url(url: str, name: str) -> str:
    """A name as URLs of this store spell it: on a web server with %20 for a space."""
    return quote(name, errors="surrogateescape") if _is_web(url) else name


def absolute(url: str) -> str:
    """A URL that means the same in every process: local paths lose `~`, `..` and the working folder."""
    if is_local(url):
        return str(Path(url.removeprefix("file://")).expanduser().resolve())
    return url.rstrip("/")


def join(url: str, *parts: str) -> str:
    """url/part/part. A part is a name, which the URL of a web server spells with %20 for a space. One that is absolute
    or climbs out raises ValueError."""
    for part in parts:
        if part.startswith("/") or ".." in part.split("/"):
            raise ZseError(f"{part!r} would leave {url}")
    return "/".join([url.rstrip("/"), *(_in_url(url, part) for part in parts)])


def list_files(url: str) -> Iterator[FileInfo]:
    """Every file below a folder, in no particular order. Raises StorageError for a folder that is not there, for a
    store that does not say when a file changes, and for a key that no path leads to."""
    if is_local(url):
        root = absolute(url)
        if not os.path.exists(root):
            raise StorageError(f"{url} does not exist")
        if not os.path.isdir(root):
            raise StorageError(_no_folder(url))
        for path, status in walk(root):
            size, version = (status.st_size, str(status.st_mtime)) if status else (0, "")
            yield FileInfo(os.path.relpath(path, root), size, version)
        return
    root = filesystem(url)[1].rstrip("/")
    listed = _listed(url)
    first = next(listed, None)
    if first is None and not exists(url):
        raise _missing(url)
    if first is None and _ask(url, "isfile"):
        raise StorageError(_no_folder(url))
    for info in chain([first] if first else [], listed):
        path = str(info["name"])
        if path.rstrip("/") == root or path.endswith("/"):  # some writers leave an empty object named like a folder
            continue
        path = _below(url, path[len(root) + 1 :])
        yield FileInfo(path, int(info.get("size") or 0), "" if info.get("gone") else _sure_version(url, path, info))


def _missing(url: str) -> StorageError:
    return StorageError(f"{url} does not exist, or holds nothing that these credentials may list")


def _no_folder(url: str) -> str:
    return f"{url} is a file. Give a folder, or for pictures one of {' '.join(ARCHIVES)}"


def _below(url: str, key: str) -> str:
    """What follows a folder in a key or URL, as a path. Raises StorageError where the path would lead elsewhere."""
    if _is_web(url):
        return unquote(key, errors="surrogateescape")
    no_path = key.startswith("/") or not {".", ".."}.isdisjoint(key.split("/"))
    if no_path or (url.startswith("s3") and "?versionId=" in key):
        raise StorageError(
            f"{printable(f'{url}/{key}')} cannot be read: a key with an empty part (//) for a folder's name, "
            "with . or .. as a part or with ?versionId= is no path. Rename that object, or give a folder without it"
        )
    return key


def _listed(url: str) -> Iterator[dict[str, Any]]:
    """What a store says of each file: a page of S3 at a time, a folder of others. `fs.find` would hold all, and s3fs
    would go on holding them."""
    fs: Any
    fs, root = filesystem(url)
    fs.invalidate_cache()
    try:
        if url.startswith(("s3://", "s3a://")):
            yield from _objects(fs, root.rstrip("/"))
        elif _is_web(url):
            yield from _web_files(fs, root)
        else:
            for info in _walked(fs, root):
                yield info if _version(info) else info | {"modified": _modified(fs, info["name"])}
    except _NO_FAILURE:
        raise
    except Exception as error:  # of web servers aiohttp's, which are no OSError
        raise _failure(url, error) from error


def _walked(fs: AbstractFileSystem, root: str) -> Iterator[dict[str, Any]]:
    """Every file below a folder. `fs.walk` passes over a folder that may not be listed; here its error is raised."""
    left = [root]
    while left:
        folder = left.pop()
        with suppress(FileNotFoundError):  # it is gone, or was never there
            for info in cast(list[dict[str, Any]], fs.ls(folder, detail=True)):
                if info["type"] != "directory":
                    yield info
                elif info["name"].rstrip("/") != folder.rstrip("/"):
                    left.append(info["name"])


def _objects(fs: Any, root: str) -> Iterator[dict[str, Any]]:
    bucket, key, _ = fs.split_path(root)
    wanted = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "MaxKeys": PAGE, **fs.req_kw}  # requester pays
    while wanted:
        page: Any = asyn.sync(fs.loop, _persist, fs, "call_s3", "list_objects_v2", **wanted)
        for found in page.get("Contents", ()):
            yield {"name": f"{bucket}/{found['Key']}", "size": found["Size"], "ETag": found["ETag"]}
        more = page.get("NextContinuationToken")
        wanted = wanted | {"ContinuationToken": more} if more else {}


def _web_files(fs: Any, root: str) -> Iterator[dict[str, Any]]:
    """What a web server says of each file that its pages of folders link to. The pages have no version: each file is
    asked for its header."""
    left, seen = [root], {root.rstrip("/")}
    while left:
        new = [(link, folder) for link, folder in _web_links(fs, left.pop()) if link not in seen]
        seen |= {link for link, _ in new}
        left += [link for link, folder in new if folder]
        files = [link for link, folder in new if not folder]
        for i in range(0, len(files), FETCH_AT_ONCE):
            yield from cast(list[Any], asyn.sync(fs.loop, _heads, fs, files[i : i + FETCH_AT_ONCE]))


def _web_links(fs: Any, folder: str) -> list[tuple[str, bool]]:
    """URLs of the files and folders that the page of a folder links to, and whether it is a folder. Links that sort the
    page or lead out of the folder are none."""
    page: Any = asyn.sync(fs.loop, _persist, fs, "ls", f"{folder.rstrip('/')}/", detail=True)
    inside = f"{folder.rstrip('/')}/"
    links = sorted({html.unescape(info["name"]).replace("/./", "/") for info in page})
    own = [
        link
        for link in links
        if link.startswith(inside) and not re.search(r"[?#]|/\.\.?(/|$)", link[len(inside) - 1 :])
    ]
    return [(link.rstrip("/"), link.endswith("/")) for link in own if link != inside]


async def _heads(fs: Any, urls: Sequence[str]) -> list[dict[str, Any]]:
    return list(await asyncio.gather(*(_persist(fs, _head, url) for url in urls)))


async def _head(fs: Any, url: str) -> dict[str, Any]:
    """The headers of a file on a web server; `gone` for a link that leads nowhere."""
    session = await fs.set_session()
    plain = {"headers": {"Accept-Encoding": "identity"}, "allow_redirects": True}
    async with session.head(fs.encode_url(url), **plain) as answer:
        if answer.status in (404, 410):
            return {"name": url, "gone": True}
        if answer.status not in (405, 501):  # it does not know HEAD, and so tells no version
            answer.raise_for_status()
        return {**answer.headers, "name": url, "size": answer.headers.get("Content-Length")}


# What changes with a file's content, and what tells when it was written, in the spellings of fsspec's stores: without
# capitals and marks.
_HASHES = (
    *("etag", "md5", "md5hash", "md5checksum", "contentmd5", "crc32c", "crc", "checksum", "contenthash"),
    *("sha256", "sha1", "sha", "blobid", "generation", "digest"),
)
_TIMES = ("mtime", "lastmodified", "modified", "modifiedtime", "timemodified", "updated", "modify", "datetime")


def _version(info: dict[str, Any]) -> str:
    """Empty where a store tells neither a hash nor both a time and a size: a size alone may stay."""
    told = {re.sub("[^a-z0-9]", "", key.lower()): value for key, value in info.items()}
    keys = (*_HASHES, *_TIMES) if told.get("size") is not None else _HASHES
    return str(next((told[key] for key in keys if told.get(key)), "")).strip('"')


def _sure_version(url: str, path: str, info: dict[str, Any]) -> str:
    """Raises StorageError where there is none."""
    if version := _version(info):
        return version
    raise StorageError(
        f"{url} tells neither an ETag nor a time of change with a size for {printable(path)!r}, so a changed file "
        "would be taken for the old one. Copy the files into a folder or a bucket and give that, or have the server "
        "send ETag or Last-Modified"
    )


def _modified(fs: AbstractFileSystem, path: str) -> Any:
    """When a file was written, of stores that tell it when asked; None of others."""
    try:
        return fs.modified(path)
    except NotImplementedError:
        return None


def exists(url: str) -> bool:
    return _ask(url, "exists")


def names(url: str) -> set[str]:
    """Names of the files directly in a folder; empty if it is not there."""
    try:
        inside = _inside(url)
    except FileNotFoundError:
        return set()
    return {name for name, folder in inside if not folder}


def folders(url: str) -> list[str]:
    """Names of the folders directly in a folder, sorted. A folder that is not there raises StorageError."""
    try:
        found = sorted({name for name, folder in _inside(url) if folder})
        if not found and not is_local(url) and _ask(url, "isfile"):
            raise NotADirectoryError(url)
        return found
    except NotADirectoryError as error:
        raise StorageError(_no_folder(url)) from error
    except FileNotFoundError as error:
        raise _missing(url) from error


def _inside(url: str) -> list[tuple[str, bool]]:
    """Name, and whether it is a folder, of the files and folders directly in a folder."""
    if is_local(url):
        modes = [(entry.name, status.st_mode) for entry, status in entries(absolute(url)) if status]
        return [(name, stat.S_ISDIR(mode)) for name, mode in modes if stat.S_ISDIR(mode) or stat.S_ISREG(mode)]
    fs, root = filesystem(url)
    if _is_web(url):
        try:
            links = _web_links(fs, root)
        except _NO_FAILURE:
            raise
        except Exception as error:
            raise _failure(url, error) from error
        return [(_below(url, link.rsplit("/", 1)[-1]), folder) for link, folder in links]
    root = root.strip("/")
    found = [(str(entry["name"]), entry["type"] == "directory") for entry in _ask(url, "ls", detail=True)]
    if any(folder and name.endswith("/") and name.strip("/") == root for name, folder in found):
        _below(url, "/")
    # As above: not the empty object named like the folder itself.
    real = [(name.rstrip("/"), folder) for name, folder in found if folder or not name.endswith("/")]
    return [(name.rsplit("/", 1)[-1], folder) for name, folder in real if name.strip("/") != root]


def file_info(url: str) -> FileInfo | None:
    """What the store says of one file; None for a folder. Raises StorageError where there is neither."""
    try:
        info = _ask(url, "info")
    except FileNotFoundError as error:
        raise StorageError(f"{url} is not there: no file and no folder has this name") from error
    if info["type"] == "directory":
        return None
    name = url.rsplit("/", 1)[-1]
    return FileInfo(name, int(info.get("size") or 0), _sure_version(url, name, info))


def read_bytes(url: str) -> bytes:
    return bytes(_ask(url, "cat_file"))


class RangeFile(io.RawIOBase):
    """A file in a store, for who reads it here and there or in blocks; each read is one request."""

    def __init__(self, url: str) -> None:
        try:
            info = _ask(url, "info")
        except FileNotFoundError as error:
            raise StorageError(f"{url} does not exist") from error
        if info["type"] == "directory":
            raise StorageError(f"{url} is a folder, expected a file")
        self.url, self.size, self.position = url, int(info.get("size") or 0), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + (0, self.position, self.size)[whence]
        return self.position

    def read(self, size: int | None = -1) -> bytes:
        end = self.size if size is None or size < 0 else min(self.position + size, self.size)
        if end <= self.position:
            return b""
        data = bytes(_ask(self.url, "cat_file", start=self.position, end=end))
        self.position += len(data)
        return data

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def open_read(url: str) -> Iterator[IO[bytes]]:
    """A file to read through from its start; .gz, .bz2 and .xz are unpacked on the way. Raises StorageError."""
    fs, path = filesystem(url)
    try:
        if not fs.async_impl:
            with fs.open(path, "rb", compression="infer") as file:
                yield cast(IO[bytes], file)
            return
    except FileNotFoundError as error:
        raise StorageError(f"{url} does not exist") from error
    with io.BufferedReader(RangeFile(url), BLOCK) as file:
        packed = fsspec.core.get_compression(path, "infer")
        yield fsspec.compression.compr[packed](file, mode="rb") if packed else cast(IO[bytes], file)


def read_many(url: str, paths: Sequence[str]) -> list[bytes | Exception]:
    """Files below `url`, fetched side by side where the store allows it; a failed one is its exception."""
    fs, root = filesystem(url)
    full = [f"{root.rstrip('/')}/{_in_url(url, path)}" for path in paths]
    if not fs.async_impl:  # one after the other, and no pattern is read into a name with * or [ in it
        read = _read_local if is_local(url) else fs.cat_file  # fsspec's own way to a local file costs 0.1 ms more
        return [_try(read, path) for path in full]
    return _fetch_all(fs, [(path, None, None) for path in full])


def _fetch_all(fs: Any, wanted: Sequence[tuple[str, int | None, int | None]]) -> list[bytes | Exception]:
    out: list[bytes | Exception] = []
    for i in range(0, len(wanted), FETCH_AT_ONCE):
        found: Any = asyn.sync(fs.loop, _fetch, fs, wanted[i : i + FETCH_AT_ONCE])
        out.extend(found)
    return out


async def _fetch(fs: Any, wanted: Sequence[tuple[str, int | None, int | None]]) -> Sequence[bytes | Exception]:
    """One GET for each (path, start, end), side by side: `fs.cat` reads * and [ in a name as a pattern,
    `fs.cat_ranges` asks twice."""
    return await asyncio.gather(*(_get(fs, *one) for one in wanted))


async def _get(fs: Any, path: str, start: int | None, end: int | None) -> bytes | Exception:
    try:
        return await _persist(fs, "cat_file", path, start=start, end=end)
    except _NO_FAILURE as error:
        return error
    except Exception as error:
        return _failure(fs.unstrip_protocol(path), error)


def read_ranges(url: str, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes | Exception]:
    """Byte ranges (start, length) of a file below `url`; a failed one is its exception. Never the whole file."""
    fs, root = filesystem(url)
    full = f"{root.rstrip('/')}/{_in_url(url, path)}"
    if is_local(url):
        try:
            with open(full, "rb") as file:
                return [os.pread(file.fileno(), length, start) for start, length in ranges]
        except OSError as error:
            return [error] * len(ranges)
    if not fs.async_impl:
        return [_try(lambda p, a=a, n=n: fs.cat_file(p, start=a, end=a + n), full) for a, n in ranges]
    return _fetch_all(fs, [(full, start, start + length) for start, length in ranges])


def download_file(url: str, target: Path) -> None:
    """Copy one file to a local path, without holding it in memory."""
    with RangeFile(url) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, BLOCK)


def _try(read: Callable[[str], Any], path: str) -> bytes | Exception:
    try:
        return bytes(read(path))
    except OSError as error:
        return error


def _read_local(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileNotFoundError(error.errno, "A link to itself", path) from error
        raise


def write_bytes(url: str, data: bytes) -> None:
    """Whole or not at all."""
    if not is_local(url):
        # s3fs sends the parts of a large file one after the other, but for this.
        _ask(url, "pipe_file", data, **({"max_concurrency": PARTS_AT_ONCE} if url.startswith("s3") else {}))
        return
    with _replacing(Path(filesystem(url)[1])) as temporary:
        temporary.write_bytes(data)


def create(url: str, data: bytes) -> bool:
    """`write_bytes` for one of several processes at once: False where the file is there already. A store that cannot
    tell (no conditional writes, no links) is asked first, and two in the same moment may both be told True."""
    try:
        if not is_local(url):
            _ask(url, "pipe_file", data, mode="create")
            return True
        target = Path(filesystem(url)[1])
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.") as temporary:
            temporary.write(data)
            temporary.flush()
            os.link(temporary.name, target)
        return True
    except FileExistsError:
        return _holds(url, data)
    except StorageError as error:
        code = _answer(error.__cause__).get("Code") if error.__cause__ else None
        if code in ("PreconditionFailed", "412"):  # as stores other than S3 say FileExistsError
            return _holds(url, data)
        if code != "NotImplemented":
            raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    if exists(url):
        return False
    write_bytes(url, data)
    return True


def _holds(url: str, data: bytes) -> bool:
    """Whether the file that is there already was written by us: an answer that broke off was asked for again."""
    try:
        return read_bytes(url) == data
    except FileNotFoundError:  # it was somebody's, and is gone
        return False


def copy_file(source: str, target: str) -> None:
    """Whole or not at all, both in one store: a bucket copies by itself. Raises StorageError where there is none."""
    to = filesystem(target)[1]
    try:
        if not is_local(target):
            _ask(source, "cp_file", to)
            return
        with _replacing(Path(to)) as temporary:
            shutil.copyfile(filesystem(source)[1], temporary)
    except FileNotFoundError as error:
        raise StorageError(f"{source} does not exist") from error


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A name beside the target, which becomes it on leaving; gone after an error. Raises StorageError where the disk is
    full."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageError(
            f"{target} cannot be written: {error.strerror}. Make room there; what is written is kept: the same command "
            "goes on from there"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_json(url: str) -> Any:
    """Raises StorageError for a file that is not JSON, such as one that was cut."""
    try:
        return json.loads(read_bytes(url))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise StorageError(f"{url} is not JSON{line}. Restore it, or delete its folder and make it again") from None


def write_json(url: str, value: Any) -> None:
    write_bytes(url, as_json(value))


def as_json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()


def upload_folder(folder: Path, url: str, last: str) -> None:
    """Copy the files of a flat folder; `last` goes last, so that its presence means all of it."""
    *others, final = sorted(folder.iterdir(), key=lambda f: f.name == last)
    for file in (others, [final]):
        for _ in side_by_side(lambda one: write_bytes(join(url, one.name), one.read_bytes()), file):
            pass


def download_folder(url: str, folder: Path) -> Path:
    """Copy the files directly in a folder to a local one."""
    folder.mkdir(parents=True, exist_ok=True)
    for _ in side_by_side(lambda name: (folder / name).write_bytes(read_bytes(join(url, name))), names(url)):
        pass
    return folder


def side_by_side(work: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """`work` of each item in threads, results in order: for what waits for a store."""
    with ThreadPoolExecutor(WAIT_AT_ONCE) as pool:
        yield from pool.map(work, items)


@contextmanager
def local_copy(url: str) -> Iterator[Path]:
    """A local path with the content of a file or a flat folder: itself, or a copy that is deleted on leaving."""
    if is_local(url):
        local = Path(absolute(url))
        if not local.exists():
            raise StorageError(f"{url} does not exist")
        yield local
        return
    with tempfile.TemporaryDirectory(prefix="zse-") as temporary:
        folder = Path(temporary)
        if _ask(url, "isdir"):
            yield download_folder(url, folder)
        else:
            target = folder / url.rsplit("/", 1)[-1]
            target.write_bytes(read_bytes(url))
            yield target


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest(value: Any, length: int = 64) -> str:
    """sha256 of the canonical JSON of a value, hex: how outputs are named by what made them."""
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode())[:length]


def digest_lines(lines: Iterable[str]) -> str:
    """sha256 of lines, order counts, without holding them."""
    sha = hashlib.sha256()
    for line in lines:
        sha.update(line.encode())
        sha.update(b"\n")
    return sha.hexdigest()


def remove(url: str) -> None:
    """Delete a file; nothing if it is not there."""
    with suppress(FileNotFoundError):
        _ask(url, "rm_file")


def remove_folder(url: str) -> None:
    """Delete a folder and what is in it; nothing if it is not there."""
    if exists(url):
        _ask(url, "rm", recursive=True)
