"""A training: the folder that `zse train` fills, and what its checkpoint is.

    <workspace>/checkpoints/<experiment>-<method>-<key>/
        run.json             what is trained and by which command, written first; a budget's steps once they are known
        state/               what an interrupted training resumes from; removed when the checkpoint is complete
        model.safetensors  checkpoint.json  seen.safetensors  history.json  manifest.json

The folder is there before it is complete: `read_run` and `write_run` are for that time too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.runtime.errors import StorageError
from pipelines.store import storage
from pipelines.workspace.kept import Kept

RUN, HISTORY = "run.json", "history.json"


class Training(Kept):
    KIND, MADE_BY = "checkpoints", "zse train"

    @property
    def run_name(self) -> str:
        """What the training is called everywhere; of an imported checkpoint it is not the folder's name."""
        return self.manifest["name"]

    @property
    def method(self) -> str:
        return self.manifest["method"]

    @property
    def digest(self) -> str:
        """sha256 of weights and configuration: results are filed under it."""
        return self.manifest["digest"]

    @property
    def training(self) -> Mapping[str, Any]:
        """steps, best_step, selection_mAP_all, images and workers; other things of what was not trained here."""
        return self.manifest["training"]

    @property
    def cpu_seconds(self) -> float:
        return self.manifest["cpu_seconds"]

    @property
    def last_weights_sha256(self) -> str:
        """Of the last step's weights, which are not the best ones that the checkpoint has."""
        return self.manifest["last_weights_sha256"]

    def history(self) -> list[dict[str, float]]:
        """What was measured, one event after the other, each with its step."""
        return storage.read_json(storage.join(self.url, HISTORY))

    def images(self) -> str:
        """The URL of the image shards that were trained on. Raises StorageError where the folder does not say."""
        if not has_run(self.url):
            raise StorageError(f"{self.url} does not say what it was trained on: it has no {RUN}")
        return read_run(self.url)["images"]


def has_run(folder: str) -> bool:
    """Whether a training was begun in a folder."""
    return storage.exists(storage.join(folder, RUN))


def read_run(folder: str) -> dict[str, Any]:
    """name, experiment, method, images, pairs, command; steps and ended where they are known."""
    return storage.read_json(storage.join(folder, RUN))


def write_run(folder: str, run: Mapping[str, Any]) -> None:
    storage.write_json(storage.join(folder, RUN), run)
