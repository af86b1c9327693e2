"""Trainings as processes of their own, and how far they are."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pipelines.store import storage
from tests.conftest import TINY, merged

LONG: dict[str, Any] = {"train": {"steps": 60, "checks": 4}, "cluster": {"workers": 2}}


def experiment(folder: Path, **changes: Any) -> str:
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(merged(TINY, merged(LONG, changes))))
    return str(file)


def copy_inputs(source: str, target: str) -> None:
    """The images and pairs of one workspace to another: what is left to make is the training."""
    for folder in (storage.join(source, "images"), storage.join(source, "pairs")):
        for file in storage.list_files(folder):
            copy = storage.join(target, folder.rpartition("/")[2], file.path)
            storage.write_bytes(copy, storage.read_bytes(storage.join(folder, file.path)))


def states(workspace: Path) -> list[int]:
    """The steps of the states that are kept whole."""
    return sorted(int(file.parent.name[:8]) for file in workspace.glob("checkpoints/*/state/*/state.json"))


def until(what: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        assert process.poll() is None, f"it ended too early:\n{process.communicate()[0][-3000:]}"
        time.sleep(0.05)
    process.kill()
    raise TimeoutError(f"nothing of the kind in {seconds} s:\n{process.communicate()[0][-3000:]}")


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    said = process.communicate(timeout=240)[0]
    assert process.returncode == code, said[-4000:]
    return said
