"""Where results will go, asked before the work is done."""

from __future__ import annotations

import os
from pathlib import Path

from pipelines.store import storage
from zse_model.errors import ZseError


def check_output(option: str, path: str | Path, *, folder: bool = False) -> None:
    """Raise ZseError where a file, or a folder with files, cannot be written to `path`, which `option` gave. Folders
    above it may be missing: they are made later. A store is not asked."""
    path = str(path)
    if not storage.is_local(path):
        return
    target = Path(storage.absolute(path))
    if not folder and target.is_dir():
        raise ZseError(f"{option} {path!r} is a folder. Give the name of a file in it")
    if folder and target.exists() and not target.is_dir():
        raise ZseError(f"{option} {path!r} is a file. Give a folder, which is made if it is missing")
    above = target if folder else target.parent
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        raise ZseError(f"{option} {path!r} cannot be written: {above} is a file. Give a path in a folder")
    if not os.access(above, os.W_OK | os.X_OK) or (target.is_file() and not os.access(target, os.W_OK)):
        raise ZseError(f"{option} {path!r} cannot be written: this user may not write to {above}. Give another path")
