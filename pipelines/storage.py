"""Bytes at URLs: a local folder or any fsspec store (s3://bucket/prefix). Nobody else touches paths.

Writes appear whole or not at all: locally through a temporary name and a rename, on an object store because a PUT is
atomic. Credentials and endpoints come from the environment or the machine's role (AWS_ENDPOINT_URL for other stores).
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import json
import math
import os
import random
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

import fsspec
from fsspec import AbstractFileSystem, asyn

from pipelines.progress import say
from pipelines.redaction import shown
from pipelines.walk import entries, walk
from zse_model.errors import ZseError

FETCH_AT_ONCE = 32
BLOCK = 16 * 2**20  # bytes of a file in a store that are asked for at once where it is read through
ATTEMPTS = 8
LONG = 4.0  # s; whoever waits longer for a store is told
TIMEOUTS = {"connect_timeout": 10, "read_timeout": 60}  # s, of an attempt: until connected, and for the next byte
PAGE = 1000  # keys of a bucket listed at once


class StorageError(ZseError):
    """A store that could not be read or written; the message names the URL and the reason."""

    passes = False
    """Whether the store was away, and may answer soon."""


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A listed file."""

    path: str
    """Relative to the listed folder, `/` between parts."""
    size: int
    version: str
    """ETag, or the modification time: changes when the content does."""


def filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """The fsspec file system of a URL, and the path on it."""
    s3 = url.startswith(("s3://", "s3a://"))
    try:
        fs, path = fsspec.core.url_to_fs(url, **(_s3_options() if s3 else {}))
    except (ValueError, ImportError) as error:
        raise StorageError(
            f"Cannot use {url!r}: {error}. Allowed: a folder, s3://bucket/prefix, any fsspec URL"
        ) from error
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


async def _persist(fs: Any, method: str, *args: Any, **options: Any) -> Any:
    """Asks again until `patience` is over: where a store is away for longer than botocore waits, where an answer broke
    off on its way, which botocore does not notice, and where credentials expired: they are then read anew from where
    they come from."""
    end, wait = 0.0, 1.0
    while True:
        session = getattr(fs, "_s3", None)
        try:
            return await getattr(fs, f"_{method}")(*args, **options)
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
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError

    cause = error.__cause__ or error
    if isinstance(cause, ClientError):
        return cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (429, 500, 502, 503, 504)
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
    failure = StorageError(
        shown(
            f"{url} cannot be used: {_reason(error)}. {mend}. What is written is kept: the same command goes on from "
            "there"
        )
    )
    failure.passes = _away(error) or _broke_off(error)
    return failure


def is_local(url: str) -> bool:
    return "://" not in url or url.startswith("file://")


def absolute(url: str) -> str:
    """A URL that means the same in every process: local paths lose `~`, `..` and the working folder."""
    if is_local(url):
        return str(Path(url.removeprefix("file://")).expanduser().resolve())
    return url.rstrip("/")


def join(url: str, *parts: str) -> str:
    """url/part/part. A part that is absolute or climbs out raises ValueError."""
    for part in parts:
        if part.startswith("/") or ".." in part.split("/"):
            raise ZseError(f"{part!r} would leave {url}")
    return "/".join([url.rstrip("/"), *parts])


def list_files(url: str) -> Iterator[FileInfo]:
    """Every file below a folder, in no particular order. A folder that is not there raises StorageError."""
    if is_local(url):
        root = absolute(url)
        if not os.path.exists(root):
            raise StorageError(f"{url} does not exist")
        for path, status in walk(root):
            size, version = (status.st_size, str(status.st_mtime)) if status else (0, "")
            yield FileInfo(os.path.relpath(path, root), size, version)
        return
    root = filesystem(url)[1].rstrip("/")
    listed = _listed(url)
    first = next(listed, None)
    if first is None and not exists(url):
        raise StorageError(f"{url} does not exist, or holds nothing that these credentials may list")
    for info in chain([first] if first else [], listed):
        path = str(info["name"])
        if path.rstrip("/") == root or path.endswith("/"):  # some writers leave an empty object named like a folder
            continue
        yield FileInfo(path[len(root) :].lstrip("/"), int(info.get("size") or 0), _version(info))


def _listed(url: str) -> Iterator[dict[str, Any]]:
    """What a store says of each file: a page of S3 at a time, a folder of others. `fs.find` would hold all, and s3fs
    would go on holding them."""
    fs: Any
    fs, root = filesystem(url)
    fs.invalidate_cache()
    try:
        if url.startswith(("s3://", "s3a://")):
            yield from _objects(fs, root.rstrip("/"))
        else:
            for _, _, files in fs.walk(root, detail=True):
                yield from files.values()
    except _NO_FAILURE:
        raise
    except OSError as error:
        raise _failure(url, error) from error


def _objects(fs: Any, root: str) -> Iterator[dict[str, Any]]:
    bucket, key, _ = fs.split_path(root)
    wanted = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "MaxKeys": PAGE}
    while wanted:
        page: Any = asyn.sync(fs.loop, _persist, fs, "call_s3", "list_objects_v2", **wanted)
        for found in page.get("Contents", ()):
            yield {"name": f"{bucket}/{found['Key']}", "size": found["Size"], "ETag": found["ETag"]}
        more = page.get("NextContinuationToken")
        wanted = wanted | {"ContinuationToken": more} if more else {}


def _version(info: dict[str, Any]) -> str:
    return str(info.get("ETag") or info.get("mtime") or info.get("LastModified") or "").strip('"')


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
        return sorted({name for name, folder in _inside(url) if folder})
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StorageError(f"{url} does not exist, or holds nothing that these credentials may list") from error


def _inside(url: str) -> list[tuple[str, bool]]:
    """Name, and whether it is a folder, of the files and folders directly in a folder."""
    if is_local(url):
        modes = [(entry.name, status.st_mode) for entry, status in entries(absolute(url)) if status]
        return [(name, stat.S_ISDIR(mode)) for name, mode in modes if stat.S_ISDIR(mode) or stat.S_ISREG(mode)]
    root = filesystem(url)[1].strip("/")
    found = [(str(entry["name"]), entry["type"] == "directory") for entry in _ask(url, "ls", detail=True)]
    # As above: not the empty object named like the folder itself.
    real = [(name.rstrip("/"), folder) for name, folder in found if folder or not name.endswith("/")]
    return [(name.rsplit("/", 1)[-1], folder) for name, folder in real if name.strip("/") != root]


def file_info(url: str) -> FileInfo | None:
    """What the store says of one file; None for a folder. Raises StorageError where there is neither."""
    try:
        info = _ask(url, "info")
    except FileNotFoundError as error:
        raise StorageError(f"{url} does not exist") from error
    if info["type"] == "directory":
        return None
    return FileInfo(url.rsplit("/", 1)[-1], int(info.get("size") or 0), _version(info))


def read_bytes(url: str) -> bytes:
    return bytes(_ask(url, "cat_file"))


class RangeFile(io.RawIOBase):
    """A file in a store, for who reads it here and there or in blocks; each read is one request."""

    def __init__(self, url: str) -> None:
        info = file_info(url)
        if info is None:
            raise StorageError(f"{url} is a folder, expected a file")
        self.url, self.size, self.position = url, info.size, 0

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
    full = [f"{root.rstrip('/')}/{path}" for path in paths]
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
    full = f"{root.rstrip('/')}/{path}"
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
        _ask(url, "pipe_file", data)
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
        return read_bytes(url) == data  # an answer that broke off was asked for again
    except StorageError as error:
        if error.__cause__ is None or _answer(error.__cause__).get("Code") != "NotImplemented":
            raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    if exists(url):
        return False
    write_bytes(url, data)
    return True


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
    for file in sorted(folder.iterdir(), key=lambda f: f.name == last):
        write_bytes(join(url, file.name), file.read_bytes())


def download_folder(url: str, folder: Path) -> Path:
    """Copy the files directly in a folder to a local one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names(url):
        (folder / name).write_bytes(read_bytes(join(url, name)))
    return folder


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
