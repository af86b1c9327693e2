"""Unpack archives that are sources of pictures, once per machine. `tree` and `quickdraw_strokes` call `opened`.

The first process that needs an archive unpacks it, the others wait. The target is a folder in $ZSE_SCRATCH or in the
system's temporary folder, named by the archive's URL, size and version. A rename makes it visible only when complete.
It may be deleted at any time: the archive is then unpacked again.
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

# Larger than any known data set: an archive that claims more is a bomb or a mistake.
MAX_BYTES = 256 * 2**30
MAX_FILES = 20_000_000
SPARE_BYTES = 2**30  # left free for other writers to the disk


class ArchiveError(StorageError):
    """An archive that cannot or must not be unpacked. The message names the archive and the reason."""


@dataclass(frozen=True)
class Opened:
    folder: str
    """The given folder, or the folder of the unpacked archive."""
    version: str | None
    """Version of the archive, since unpacked files have none. None for a folder."""


def is_archive(url: str) -> bool:
    return url.lower().endswith(ENDINGS)


def opened(url: str) -> Opened:
    """Unpack an archive if necessary; a folder is returned as it is.

    Raises ArchiveError for an archive that cannot be unpacked, StorageError for one that does not exist.
    """
    info = storage.file_info(url) if is_archive(url) else None
    if info is None:
        return Opened(url, None)
    version = storage.digest([url, info.size, info.version], 16)
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", info.path[: -len(_ending(url))])[:60]
    folder = scratch() / f"{stem}-{version}"
    if not folder.exists():
        with FileLock(f"{folder}.lock"):
            if not folder.exists():  # another process may have unpacked it during the wait
                _publish(url, folder, info.size)
    return Opened(str(folder), version)


def scratch() -> Path:
    """The folder that archives are unpacked into on this machine. Raises ArchiveError for a folder of another user."""
    if given := os.environ.get("ZSE_SCRATCH"):
        folder = Path(given).expanduser().resolve()
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    folder = Path(tempfile.gettempdir()) / f"zse-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.is_symlink():  # any user may create it in /tmp
        raise ArchiveError(f"{folder} belongs to another user. Set ZSE_SCRATCH to a folder of your own")
    return folder


def _publish(url: str, folder: Path, size: int) -> None:
    """Unpack into `<folder>.partial`, then rename. The caller holds the lock: an old partial is of a dead process."""
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
    except Exception as error:  # the readers raise many types for damaged files
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
    """The folder that an archive is unpacked into. Refuses members outside it, and more bytes or files than allowed."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        free = shutil.disk_usage(folder).free - SPARE_BYTES
        self.limit = min(MAX_BYTES, max(0, free))
        self.bytes = self.files = 0

    def path(self, name: str, *, ordinary: bool) -> Path:
        """The path of a member. Raises ArchiveError for a name that leads outside, and for links and devices."""
        parts = name.replace("\\", "/").split("/")  # archives from Windows may have backslashes
        if name.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", name) or "\0" in name:
            raise ArchiveError(
                f"{self.url} has the member {name!r}, which leads out of the folder, and is not unpacked. Pack it "
                "again with relative names"
            )
        if not ordinary:
            raise ArchiveError(
                f"{self.url} has the member {name!r}, which is a link or a device. Only files and folders are allowed. "
                "If you trust the archive, unpack it yourself and give the folder"
            )
        return self.folder.joinpath(*(part for part in parts if part not in ("", ".")))

    def announce(self, sizes: Sequence[int]) -> None:
        """Check the declared sizes (bytes) of all files. Raises ArchiveError for too many."""
        self._check(sum(sizes), len(sizes))

    def _check(self, size: int, files: int) -> None:
        if size > self.limit or files > MAX_FILES:
            raise ArchiveError(
                f"{self.url} unpacks to more than the {self.limit / 2**30:.1f} GiB or {MAX_FILES:,} files allowed in "
                f"{self.folder.parents[1]}. Set ZSE_SCRATCH to a folder on a larger disk"
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
        for member, name in zip(members, names, strict=True):  # check all before writing any
            kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the writer kept no Unix mode
            target.path(name, ordinary=kind in (0, stat.S_IFREG, stat.S_IFDIR))
        target.announce([member.file_size for member in members])
        for member, name in zip(members, names, strict=True):
            if not member.is_dir():
                with archive.open(member) as source:
                    target.write(name, source)


def _zip_names(url: str, members: Sequence[zipfile.ZipInfo]) -> list[str]:
    """The names of the members. By the ZIP format a name without the UTF-8 flag is in code page 437, but macOS and
    others write UTF-8 without the flag. Names without it are read as UTF-8 if all of them are; else a message says
    so."""
    unmarked = [m for m in members if not m.flag_bits & UTF8_MARK and not m.filename.isascii()]
    try:
        read = {m.filename: m.filename.encode("cp437").decode() for m in unmarked}
    except UnicodeError:
        read = {}
        say(
            f"{len(unmarked):,} names in {url} have no UTF-8 flag and are not all UTF-8, such as "
            f"{printable(unmarked[0].filename)}. They are read as code page 437. If that is wrong, pack it again with "
            "UTF-8 names, or unpack it yourself and give the folder"
        )
    return [m.filename if m.flag_bits & UTF8_MARK else read.get(m.filename, m.filename) for m in members]


def _untar(file: Path, target: _Target) -> None:
    with tarfile.open(file) as archive:
        for member in archive:
            target.path(member.name, ordinary=member.isreg() or member.isdir())
            source = archive.extractfile(member) if member.isreg() else None
            if source is not None:
                target.write(member.name, source)
        # tarfile takes a damaged header for the end of the archive; a complete archive ends with zero blocks.
        assert archive.fileobj is not None
        archive.fileobj.seek(archive.offset)
        end = archive.fileobj.read(tarfile.BLOCKSIZE)
    if end != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"the archive is truncated or damaged after {target.files} files")


def _un7z(file: Path, target: _Target) -> None:
    import py7zr  # imported here: slow to import and rarely needed

    with py7zr.SevenZipFile(file) as archive:
        for member in archive.files:
            link = member.is_symlink or member.is_junction or member.is_socket
            target.path(member.filename, ordinary=not link)
        # py7zr writes at most the declared sizes.
        target.announce([member.uncompressed or 0 for member in archive.files])
        archive.extractall(target.folder)
