"""The head dies under a training, then there is one fault in a re-evaluation; `make chaos` tries twenty."""

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
    head_killed = done.stdout.partition("1: head killed")[2].partition("2: ")[0]
    assert "given again" in head_killed, "nowhere else does a training resume on another cluster"
    assert done.stdout.splitlines()[-1] == "Nothing is lost or changed by 2 faults, seed 30"
