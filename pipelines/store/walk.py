"""Walk a local folder: links are followed, and the walk always ends. `listing` calls it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator


def walk(root: str) -> Iterator[tuple[str, os.stat_result | None]]:
    """Yield the path of every file below a folder with its `os.stat`; None for a broken link.

    A link to a folder is followed, unless it leads to a folder that contains the link. Below a followed link no link to
    a folder is followed: links cannot make the walk endless. Pipes, sockets and devices are skipped: reading one may
    never end. Raises PermissionError for a folder that may not be listed: its files must not be missed silently.
    """
    left = [(root, False)]
    while left:
        folder, linked = left.pop()
        for entry, status in entries(folder):
            if status is None or stat.S_ISREG(status.st_mode):
                yield entry.path, status
            elif stat.S_ISDIR(status.st_mode):
                link = entry.is_symlink()
                if not link or not (linked or _leads_up(entry.path)):
                    left.append((entry.path, linked or link))


def entries(folder: str) -> Iterator[tuple[os.DirEntry[str], os.stat_result | None]]:
    """Yield what is directly in a folder with its `os.stat`; for a link that of its target, None for a broken one."""
    with os.scandir(folder) as found:
        for entry in found:
            try:
                yield entry, entry.stat()
            except OSError:  # a link without a target, or to itself
                yield entry, None


def _leads_up(link: str) -> bool:
    target, here = os.path.realpath(link), os.path.realpath(os.path.dirname(link))
    return os.path.commonpath([target, here]) == target
