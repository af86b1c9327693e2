"""Read a training: the folder that `zse train` writes, with its checkpoint.

    <workspace>/checkpoints/<experiment>-<method>-<key>/
        run.json             what is trained and by which command, written first; the steps of a budget when known
        state/               the states to resume from; removed when the checkpoint is complete
        model.safetensors  checkpoint.json  seen.safetensors  history.json  manifest.json

The folder exists before it is complete: `read_run` and `write_run` need no manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.runtime.errors import StorageError
from pipelines.store import storage
from pipelines.workspace.kept import Kept

RUN, HISTORY = "run.json", "history.json"
RUN_ID = "mlflow.json"  # the training's run in MLflow: its URI and id


class Training(Kept):
    KIND, MADE_BY = "checkpoints", "zse train"

    @property
    def run_name(self) -> str:
        """The name of the training everywhere; for an imported checkpoint not the name of the folder."""
        return self.manifest["name"]

    @property
    def method(self) -> str:
        return self.manifest["method"]

    @property
    def digest(self) -> str:
        """sha256 of weights and configuration. Encodings and reports depend on it."""
        return self.manifest["digest"]

    @property
    def training(self) -> Mapping[str, Any]:
        """steps, best_step, selection_mAP_all, images and workers; other keys for an imported checkpoint."""
        return self.manifest["training"]

    @property
    def cpu_seconds(self) -> float:
        return self.manifest["cpu_seconds"]

    @property
    def last_weights_sha256(self) -> str:
        """sha256 of the weights of the last step; the checkpoint has those of the best step."""
        return self.manifest["last_weights_sha256"]

    def history(self) -> list[dict[str, float]]:
        """The measurements in order, each with its step."""
        return storage.read_json(storage.join(self.url, HISTORY))

    def images(self) -> str:
        """The URL of the trained image shards. Raises StorageError for a folder without run.json."""
        if not has_run(self.url):
            raise StorageError(
                f"{self.url} does not name its training data: it has no {RUN}. Give a checkpoint of `{self.MADE_BY}`"
            )
        return read_run(self.url)["images"]


def has_run(folder: str) -> bool:
    """Whether a training was started in a folder."""
    return storage.exists(storage.join(folder, RUN))


def read_run(folder: str) -> dict[str, Any]:
    """name, experiment, method, images, pairs, command; steps and ended if known."""
    return storage.read_json(storage.join(folder, RUN))


def write_run(folder: str, run: Mapping[str, Any]) -> None:
    storage.write_json(storage.join(folder, RUN), run)
