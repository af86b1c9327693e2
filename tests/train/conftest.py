"""What tests of whole trainings share."""

from __future__ import annotations

import subprocess

import pytest

from tests.helpers.servers import BIN
from tests.helpers.trainings import experiment


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A workspace with the images and pairs of `experiment`, whatever its method, training and cluster.

    To be copied: an ingest and shards on a Ray of their own take longer than a small training.
    """
    folder = tmp_path_factory.mktemp("prepared")
    command = [BIN / "zse", "shard", "-e", experiment(folder), "-w", folder / "workspace"]
    subprocess.run(command, check=True, capture_output=True)
    return str(folder / "workspace")
