"""What lies below a folder of this machine, as its user sees it: links are followed, and the walk ends."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator


def walk(root: str) -> Iterator[tuple[str, os.stat_result | None]]:
    """Every file below a folder, with what the system says of it; None for a link that leads nowhere.

    A link to a folder counts as a folder, unless it leads up, to one that it lies in; and below such a link no further
    one is followed, so links cannot make a tree endless. Pipes, sockets and devices are no files: reading one may never
    end. A folder that may not be listed raises PermissionError: what is in it must not be missed in silence.
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
    """What is directly in a folder; of a link, what it leads to."""
    with os.scandir(folder) as found:
        for entry in found:
            try:
                yield entry, entry.stat()
            except OSError:  # nothing there, or a link to itself
                yield entry, None


def _leads_up(link: str) -> bool:
    target, here = os.path.realpath(link), os.path.realpath(os.path.dirname(link))
    return os.path.commonpath([target, here]) == target
