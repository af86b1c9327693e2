"""Read and write files at URLs. Other rooms call it as `store.storage`.

A write appears whole or not at all: a local one is renamed from a temporary file, and a PUT to an object store is
atomic.
"""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import fsspec
from fsspec import asyn

from pipelines.runtime.errors import StorageError
from pipelines.store.listing import exists, names
from pipelines.store.retry import FETCH_AT_ONCE, NO_FAILURE, answer_of, ask, failure, filesystem, persist
from pipelines.store.urls import absolute, in_url, is_local, join
from zse_model.errors import ZseError

A = TypeVar("A")
B = TypeVar("B")

WAIT_AT_ONCE = 16  # threads that wait for a store: a part in a bucket takes three requests
PARTS_AT_ONCE = 8  # parts of a large file, 50 MB each, that are uploaded at once
BLOCK = 16 * 2**20  # bytes a request, where a file in a store is read from start to end


def read_bytes(url: str) -> bytes:
    """The content of a file. Raises FileNotFoundError, and StorageError for a failure of the store."""
    return bytes(ask(url, "cat_file"))


class RangeFile(io.RawIOBase):
    """A file in a store with random access; each read is one request. Raises StorageError for a missing file and for a
    folder."""

    def __init__(self, url: str) -> None:
        try:
            info = ask(url, "info")
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
        data = bytes(ask(self.url, "cat_file", start=self.position, end=end))
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
    """A file as a stream from its start; .gz, .bz2 and .xz are decompressed. Raises StorageError for a missing file."""
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
    """The contents of files below `url`, requested in parallel where the store allows it. A failed file is its
    exception."""
    fs, root = filesystem(url)
    full = [f"{root.rstrip('/')}/{in_url(url, path)}" for path in paths]
    if not fs.async_impl:  # file by file: `fs.cat` reads * and [ in a name as a pattern
        read = _read_local if is_local(url) else fs.cat_file  # for a local file fsspec takes 0.1 ms more
        return [_try(read, path) for path in full]
    return _fetch_all(fs, [(path, None, None) for path in full])


def _fetch_all(fs: Any, wanted: Sequence[tuple[str, int | None, int | None]]) -> list[bytes | Exception]:
    out: list[bytes | Exception] = []
    for i in range(0, len(wanted), FETCH_AT_ONCE):
        found: Any = asyn.sync(fs.loop, _fetch, fs, wanted[i : i + FETCH_AT_ONCE])
        out.extend(found)
    return out


async def _fetch(fs: Any, wanted: Sequence[tuple[str, int | None, int | None]]) -> Sequence[bytes | Exception]:
    """One GET for each (path, start, end), in parallel. `fs.cat` reads * and [ in a name as a pattern, and
    `fs.cat_ranges` sends two requests."""
    return await asyncio.gather(*(_get(fs, *one) for one in wanted))


async def _get(fs: Any, path: str, start: int | None, end: int | None) -> bytes | Exception:
    try:
        return await persist(fs, "cat_file", path, start=start, end=end)
    except NO_FAILURE as error:
        return error
    except Exception as error:
        return failure(fs.unstrip_protocol(path), error)


def read_ranges(url: str, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes | Exception]:
    """Byte ranges (start, length) of a file below `url`, without reading the whole file. A failed range is its
    exception."""
    fs, root = filesystem(url)
    full = f"{root.rstrip('/')}/{in_url(url, path)}"
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
    """Copy a file to a local path without holding it in memory. Raises StorageError for a missing file."""
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
    """Write a file whole or not at all. Raises StorageError for a full disk and for a failure of the store."""
    if not is_local(url):
        # Without this s3fs uploads the parts of a large file one after the other.
        ask(url, "pipe_file", data, **({"max_concurrency": PARTS_AT_ONCE} if url.startswith("s3") else {}))
        return
    with _replacing(Path(filesystem(url)[1])) as temporary:
        temporary.write_bytes(data)


def create(url: str, data: bytes) -> bool:
    """Write a file if it does not exist; False if it does. Of several processes at once, one gets True.

    A store without conditional writes, or a disk without links, is only checked first: two processes in the same moment
    may both get True.
    """
    try:
        if not is_local(url):
            ask(url, "pipe_file", data, mode="create")
            return True
        target = Path(filesystem(url)[1])
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.") as temporary:
            temporary.write(data)
            temporary.flush()
            os.link(temporary.name, target)
        return True
    except FileExistsError:
        return _has_content(url, data)
    except StorageError as error:
        code = answer_of(error.__cause__).get("Code") if error.__cause__ else None
        if code in ("PreconditionFailed", "412"):  # s3fs raises FileExistsError for S3's form of this answer only
            return _has_content(url, data)
        if code != "NotImplemented":
            raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    if exists(url):
        return False
    write_bytes(url, data)
    return True


def _has_content(url: str, data: bytes) -> bool:
    """Whether the existing file has this content: an earlier attempt wrote it and its answer was lost."""
    try:
        return read_bytes(url) == data
    except FileNotFoundError:  # another process wrote and deleted it
        return False


def copy_file(source: str, target: str) -> None:
    """Copy a file within one store, whole or not at all; a bucket copies without a download. Raises StorageError for a
    missing source."""
    to = filesystem(target)[1]
    try:
        if not is_local(target):
            ask(source, "cp_file", to)
            return
        with _replacing(Path(to)) as temporary:
            shutil.copyfile(filesystem(source)[1], temporary)
    except FileNotFoundError as error:
        raise StorageError(f"{source} does not exist") from error


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A temporary path beside the target: renamed to the target at the end, deleted after an error. Raises StorageError
    for a full disk."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageError(
            f"{target} cannot be written: {error.strerror}. Finished work is kept; free disk space there and run the "
            "same command again to continue"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_json(url: str) -> Any:
    """Read a JSON file. Raises FileNotFoundError, and StorageError for a file that is not JSON, such as a cut one."""
    try:
        return json.loads(read_bytes(url))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise StorageError(
            f"{url} is not JSON{line}. Restore it, or delete its folder and run the stage again"
        ) from None


def write_json(url: str, value: Any) -> None:
    write_bytes(url, as_json(value))


def as_json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()


def upload_folder(folder: Path, url: str, last: str) -> None:
    """Upload the files of a flat folder; `last` is written last, so its presence means a complete copy."""
    *others, final = sorted(folder.iterdir(), key=lambda f: f.name == last)
    for file in (others, [final]):
        for _ in side_by_side(lambda one: write_bytes(join(url, one.name), one.read_bytes()), file):
            pass


def download_folder(url: str, folder: Path, files: Collection[str] = ()) -> Path:
    """Copy these files of a folder, or all that are directly in it, to a local folder, which is made; returns the local
    one."""
    folder.mkdir(parents=True, exist_ok=True)
    for _ in side_by_side(lambda name: (folder / name).write_bytes(read_bytes(join(url, name))), files or names(url)):
        pass
    return folder


def side_by_side(work: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """The result of `work` for each item, in order, from `WAIT_AT_ONCE` threads: for work that waits for a store."""
    with ThreadPoolExecutor(WAIT_AT_ONCE) as pool:
        yield from pool.map(work, items)


@contextmanager
def local_copy(url: str, files: Collection[str] = ()) -> Iterator[Path]:
    """A local path with the content of a file or a flat folder: `url` itself, or a copy that is deleted at the end.

    files: of a folder, all that is copied; empty = every file.
    Raises StorageError for a missing local path, FileNotFoundError for a missing file in a store. A ZseError of the
    caller that names the copy names `url` instead.
    """
    if is_local(url):
        local = Path(absolute(url))
        if not local.exists():
            raise StorageError(f"{url} does not exist")
        yield local
        return
    with tempfile.TemporaryDirectory(prefix="zse-") as temporary:
        folder = Path(temporary)
        if ask(url, "isdir"):
            copy = download_folder(url, folder, files)
        else:
            copy = folder / url.rsplit("/", 1)[-1]
            copy.write_bytes(read_bytes(url))
        with naming(copy, url):
            yield copy


@contextmanager
def naming(copy: Path, url: str) -> Iterator[None]:
    """A ZseError of the context that names a copy, which is deleted, names the URL that it is of."""
    try:
        yield
    except ZseError as error:
        error.args = tuple(str(arg).replace(str(copy), url) for arg in error.args)
        raise


def remove(url: str) -> None:
    """Delete a file, if it exists."""
    with suppress(FileNotFoundError):
        ask(url, "rm_file")


def remove_folder(url: str) -> None:
    """Delete a folder with its content, if it exists."""
    if exists(url):
        ask(url, "rm", recursive=True)
