"""The samples of tests/kept, in the place where they were written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

SAMPLES = Path(__file__).parents[1] / "kept" / "v1"
ROOT = Path("/tmp/zse-kept")  # where they were written: manifests and MLflow's database say so


@contextmanager
def kept_samples() -> Iterator[Path]:
    """A copy of the samples at ROOT, for one test module at a time. Skips where ROOT is another place."""
    if ROOT.parent.resolve() != ROOT.parent:
        pytest.skip(f"{ROOT} is another place on this system, and the samples hold their paths")
    with FileLock(f"{ROOT}.lock"):
        shutil.rmtree(ROOT, ignore_errors=True)
        shutil.copytree(SAMPLES, ROOT)
        yield ROOT
        shutil.rmtree(ROOT)
