"""Archives as sources of pictures: unpacked once a machine, found again the second time.

An archive is unpacked by whoever needs it first, into $ZSE_SCRATCH or a folder of the user's in the system's temporary
one; others on the machine wait. The folder is named by the archive's URL, size and version, and appears whole or not at
all. Deleting it costs nothing but the next unpacking.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from filelock import FileLock

from pipelines.runtime.errors import StorageError
from pipelines.runtime.progress import say
from pipelines.runtime.redaction import printable
from pipelines.store import storage

ENDINGS = storage.ARCHIVES
UTF8_MARK = 0x800  # bit 11 of a ZIP member's flags

# No data set of this field is as large; what claims to be is a bomb or a mistake.
MAX_BYTES = 256 * 2**30
MAX_FILES = 20_000_000
SPARE_BYTES = 2**30  # left free for whoever else writes to the same disk


class ArchiveError(StorageError):
    """An archive that cannot or must not be unpacked; the message names it and the reason."""


@dataclass(frozen=True)
class Opened:
    folder: str
    """Where the content is: what was given, or the folder that the archive was unpacked into."""
    version: str | None
    """Of the archive: files that were unpacked have no version of their own. None for a folder."""


def is_archive(url: str) -> bool:
    return url.lower().endswith(ENDINGS)


def opened(url: str) -> Opened:
    """A folder as it is; an archive unpacked. Raises ArchiveError, and StorageError where it does not exist."""
    info = storage.file_info(url) if is_archive(url) else None
    if info is None:
        return Opened(url, None)
    version = storage.digest([url, info.size, info.version], 16)
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", info.path[: -len(_ending(url))])[:60]
    folder = scratch() / f"{stem}-{version}"
    if not folder.exists():
        with FileLock(f"{folder}.lock"):
            if not folder.exists():  # another process may have unpacked it while this one waited
                _publish(url, folder, info.size)
    return Opened(str(folder), version)


def scratch() -> Path:
    """The folder that archives are unpacked into, on this machine."""
    if given := os.environ.get("ZSE_SCRATCH"):
        folder = Path(given).expanduser().resolve()
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    folder = Path(tempfile.gettempdir()) / f"zse-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.is_symlink():  # anybody may make a folder in /tmp
        raise ArchiveError(f"{folder} belongs to somebody else. Set ZSE_SCRATCH to a folder of your own")
    return folder


def _publish(url: str, folder: Path, size: int) -> None:
    """Unpack beside, then rename. The caller holds the lock, so what lies there is of a process that died."""
    partial = Path(f"{folder}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    content = partial / "content"
    content.mkdir(parents=True)
    target = _Target(url, content)
    try:
        file = Path(url)
        if not storage.is_local(url):
            say(f"Fetching {url} ...")
            file = partial / f"archive{_ending(url)}"
            target.announce([size])
            storage.download_file(url, file)
        say(f"Unpacking {url} into {folder} ...")
        _unpacker(url)(file, target)
        os.rename(content, folder)
    except ArchiveError:
        raise
    except Exception as error:  # the four readers raise what they like on damaged files
        raise ArchiveError(
            f"{url} cannot be unpacked: {type(error).__name__}: {error}. Fetch it again, or unpack it yourself and "
            "give the folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _ending(url: str) -> str:
    return max((e for e in ENDINGS if url.lower().endswith(e)), key=len)


def _unpacker(url: str) -> Callable[[Path, _Target], None]:
    return {".zip": _unzip, ".7z": _un7z}.get(_ending(url), _untar)


class _Target:
    """The folder that one archive is unpacked into: nothing gets out of it, and not more than fits gets in."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        free = shutil.disk_usage(folder).free - SPARE_BYTES
        self.limit = min(MAX_BYTES, max(0, free))
        self.bytes = self.files = 0

    def path(self, name: str, *, ordinary: bool) -> Path:
        """Where a member goes. Refuses names that lead out, and anything that is neither a file nor a folder."""
        parts = name.replace("\\", "/").split("/")  # archives from Windows may have backslashes
        if name.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", name) or "\0" in name:
            raise ArchiveError(f"{self.url} has the member {name!r}, which would leave the folder. It is not unpacked")
        if not ordinary:
            raise ArchiveError(
                f"{self.url} has the member {name!r}, which is a link or a device; files and folders are allowed. If "
                "you trust it, unpack it yourself and give the folder"
            )
        return self.folder.joinpath(*(part for part in parts if part not in ("", ".")))

    def announce(self, sizes: Sequence[int]) -> None:
        """What the archive says that it will unpack to."""
        self._check(sum(sizes), len(sizes))

    def _check(self, size: int, files: int) -> None:
        if size > self.limit or files > MAX_FILES:
            raise ArchiveError(
                f"{self.url} unpacks to more than {self.limit / 2**30:.1f} GiB or {MAX_FILES:,} files, which is all "
                f"that {self.folder.parents[1]} may take. Set ZSE_SCRATCH to a folder on a larger disk"
            )

    def write(self, name: str, source: IO[bytes]) -> None:
        path = self.path(name, ordinary=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.files += 1
        with path.open("wb") as file:
            while block := source.read(2**20):
                self.bytes += len(block)
                self._check(self.bytes, self.files)
                file.write(block)


def _unzip(file: Path, target: _Target) -> None:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = _zip_names(target.url, members)
        for member, name in zip(members, names, strict=True):  # all of them before the first is written
            kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the writer kept no Unix mode
            target.path(name, ordinary=kind in (0, stat.S_IFREG, stat.S_IFDIR))
        target.announce([member.file_size for member in members])
        for member, name in zip(members, names, strict=True):
            if not member.is_dir():
                with archive.open(member) as source:
                    target.write(name, source)


def _zip_names(url: str, members: Sequence[zipfile.ZipInfo]) -> list[str]:
    """The names of the members. One without the mark of UTF-8 is in code page 437 by the format, but macOS and others
    write UTF-8 without it: what is UTF-8 in all of them is read as that. Other encodings cannot be told, which is said.
    """
    unmarked = [m for m in members if not m.flag_bits & UTF8_MARK and not m.filename.isascii()]
    try:
        read = {m.filename: m.filename.encode("cp437").decode() for m in unmarked}
    except UnicodeError:
        read = {}
        say(
            f"{len(unmarked):,} names in {url} are neither marked as UTF-8 nor are UTF-8, such as "
            f"{printable(unmarked[0].filename)}: they are read as code page 437. If they should be others, pack it "
            "again with names in UTF-8, or unpack it yourself and give the folder"
        )
    return [m.filename if m.flag_bits & UTF8_MARK else read.get(m.filename, m.filename) for m in members]


def _untar(file: Path, target: _Target) -> None:
    with tarfile.open(file) as archive:
        for member in archive:
            target.path(member.name, ordinary=member.isreg() or member.isdir())
            source = archive.extractfile(member) if member.isreg() else None
            if source is not None:
                target.write(member.name, source)
        # tarfile takes a damaged header for the end: a whole archive ends with empty blocks.
        assert archive.fileobj is not None
        archive.fileobj.seek(archive.offset)
        end = archive.fileobj.read(tarfile.BLOCKSIZE)
    if end != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"it is cut short or damaged after {target.files} files")


def _un7z(file: Path, target: _Target) -> None:
    import py7zr  # here: it is slow to import, and few need it

    with py7zr.SevenZipFile(file) as archive:
        for member in archive.files:
            link = member.is_symlink or member.is_junction or member.is_socket
            target.path(member.filename, ordinary=not link)
        # py7zr writes no more than this, whatever the streams hold.
        target.announce([member.uncompressed or 0 for member in archive.files])
        archive.extractall(target.folder)
