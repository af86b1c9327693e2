"""Three random faults; `make chaos` tries twenty."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.cluster
@pytest.mark.timeout(1500)
def test_three_faults_change_nothing() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--faults", "3", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "Nothing is lost or changed by 3 faults, seed 7"
