"""Bytes at URLs: a local folder or any fsspec store (s3://bucket/prefix). Nobody else touches paths.

Writes appear whole or not at all: locally through a temporary name and a rename, on an object store because a PUT is
atomic. Credentials and endpoints come from the environment or the machine's role (AWS_ENDPOINT_URL for other stores).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

import fsspec
from fsspec import AbstractFileSystem, asyn

# Object stores answer 503 SlowDown in bursts: botocore waits between attempts, longer each time, with jitter.
S3_OPTIONS = {
    "config_kwargs": {"retries": {"mode": "standard", "max_attempts": 8}, "connect_timeout": 10, "read_timeout": 60}
}
FETCH_AT_ONCE = 32
PAGE = 1000  # keys of a bucket listed at once


class StorageError(RuntimeError):
    """A store that could not be read or written; the message names the URL and the reason."""


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
    try:
        options = S3_OPTIONS if url.startswith(("s3://", "s3a://")) else {}
        return fsspec.core.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        raise StorageError(
            f"Cannot use {url!r}: {error}. Allowed: a folder, s3://bucket/prefix, any fsspec URL"
        ) from error


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
            raise ValueError(f"{part!r} would leave {url}")
    return "/".join([url.rstrip("/"), *parts])


def list_files(url: str) -> Iterator[FileInfo]:
    """Every file below a folder, in no particular order. A folder that is not there raises StorageError."""
    fs, root = filesystem(url)
    root = root.rstrip("/")
    entries = _entries(fs, root)
    first = next(entries, None)
    if first is None and not fs.exists(root):
        raise StorageError(f"{url} does not exist, or holds nothing that these credentials may list")
    for info in chain([first] if first else [], entries):
        path = str(info["name"])
        if path.rstrip("/") == root or path.endswith("/"):  # some writers leave an empty object named like a folder
            continue
        yield FileInfo(path[len(root) :].lstrip("/"), int(info.get("size") or 0), _version(info))


def _entries(fs: Any, root: str) -> Iterator[dict[str, Any]]:
    """What the store says of each file: a page of S3 at a time, a folder of others. `fs.find` would hold all, and s3fs
    would go on holding them."""
    if not hasattr(fs, "_iterdir"):
        for _, _, files in fs.walk(root, detail=True):
            yield from files.values()
        return
    bucket, key, _ = fs.split_path(root)
    entries = fs._iterdir(bucket, delimiter="", prefix=f"{key}/" if key else "")
    page: Any = True
    while page:
        page = asyn.sync(fs.loop, _page, entries)
        yield from page


async def _page(entries: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
    page = []
    async for entry in entries:
        page.append(entry)
        if len(page) == PAGE:
            break
    return page


def _version(info: dict[str, Any]) -> str:
    return str(info.get("ETag") or info.get("mtime") or info.get("LastModified") or "").strip('"')


def exists(url: str) -> bool:
    fs, path = filesystem(url)
    fs.invalidate_cache()
    return fs.exists(path)


def names(url: str) -> set[str]:
    """Names of the files directly in a folder; empty if it is not there."""
    fs, path = filesystem(url)
    fs.invalidate_cache()
    try:
        entries = fs.ls(path, detail=True)
    except FileNotFoundError:
        return set()
    # As above: not the empty object named like the folder itself.
    files = [str(entry["name"]) for entry in entries if entry["type"] == "file"]
    return {name.rsplit("/", 1)[-1] for name in files if not name.endswith("/") and name.strip("/") != path.strip("/")}


def folders(url: str) -> list[str]:
    """Names of the folders directly in a folder, sorted. A folder that is not there raises StorageError."""
    fs, path = filesystem(url)
    fs.invalidate_cache()
    try:
        entries = fs.ls(path, detail=True)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StorageError(f"{url} does not exist, or holds nothing that these credentials may list") from error
    return sorted({str(e["name"]).rstrip("/").rsplit("/", 1)[-1] for e in entries if e["type"] == "directory"})


def file_info(url: str) -> FileInfo | None:
    """What the store says of one file; None for a folder. Raises StorageError where there is neither."""
    fs, path = filesystem(url)
    fs.invalidate_cache()
    try:
        info = fs.info(path)
    except FileNotFoundError as error:
        raise StorageError(f"{url} does not exist") from error
    if info["type"] == "directory":
        return None
    return FileInfo(path.rsplit("/", 1)[-1], int(info.get("size") or 0), _version(info))


def read_bytes(url: str) -> bytes:
    fs, path = filesystem(url)
    return bytes(fs.cat_file(path))  # type: ignore[arg-type]


@contextmanager
def open_read(url: str) -> Iterator[IO[bytes]]:
    """A file to read through from its start; .gz, .bz2 and .xz are unpacked on the way. Raises StorageError."""
    fs, path = filesystem(url)
    try:
        with fs.open(path, "rb", compression="infer") as file:
            yield cast(IO[bytes], file)
    except FileNotFoundError as error:
        raise StorageError(f"{url} does not exist") from error


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


async def _fetch(fs: Any, wanted: Sequence[tuple[str, int | None, int | None]]) -> Sequence[bytes | BaseException]:
    """One GET for each (path, start, end), side by side: `fs.cat` reads * and [ in a name as a pattern,
    `fs.cat_ranges` asks twice."""
    gets = (fs._cat_file(path, start=start, end=end) for path, start, end in wanted)
    return await asyncio.gather(*gets, return_exceptions=True)


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
    fs, path = filesystem(url)
    try:
        fs.get_file(path, str(target))
    except FileNotFoundError as error:
        raise StorageError(f"{url} does not exist") from error


def _try(read: Callable[[str], Any], path: str) -> bytes | Exception:
    try:
        return bytes(read(path))
    except OSError as error:
        return error


def _read_local(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def write_bytes(url: str, data: bytes) -> None:
    """Whole or not at all."""
    fs, path = filesystem(url)
    if not is_local(url):
        fs.pipe_file(path, data)
        return
    with _replacing(Path(path)) as temporary:
        temporary.write_bytes(data)


def copy_file(source: str, target: str) -> None:
    """Whole or not at all, both in one store: a bucket copies by itself. Raises StorageError where there is none."""
    fs, path = filesystem(source)
    to = filesystem(target)[1]
    try:
        if not is_local(target):
            fs.cp_file(path, to)
            return
        with _replacing(Path(to)) as temporary:
            shutil.copyfile(path, temporary)
    except FileNotFoundError as error:
        raise StorageError(f"{source} does not exist") from error


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A name beside the target, which becomes it on leaving; gone after an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(url: str) -> Any:
    return json.loads(read_bytes(url))


def write_json(url: str, value: Any) -> None:
    write_bytes(url, json.dumps(value, indent=1, sort_keys=True).encode())


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
    fs, path = filesystem(url)
    with tempfile.TemporaryDirectory(prefix="zse-") as temporary:
        folder = Path(temporary)
        if fs.isdir(path):
            yield download_folder(url, folder)
        else:
            target = folder / path.rsplit("/", 1)[-1]
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


def remove_folder(url: str) -> None:
    """Delete a folder and what is in it; nothing if it is not there."""
    fs, path = filesystem(url)
    fs.invalidate_cache()
    if fs.exists(path):
        fs.rm(path, recursive=True)
