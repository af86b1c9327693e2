"""The head dies under a training, then the store fails in a re-evaluation; `make chaos` tries twenty random faults."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.cluster
@pytest.mark.timeout(1500)
def test_two_faults_change_nothing() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--faults", "2", "--seed", "30"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "1: head killed" in done.stdout, "nowhere else does a training resume on another cluster"
    assert done.stdout.splitlines()[-1] == "Nothing is lost or changed by 2 faults, seed 30"
