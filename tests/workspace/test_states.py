"""The state that a training resumes from, with a late write by a worker that was declared dead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.runtime.errors import StorageError
from pipelines.store import storage
from pipelines.workspace import states
from zse_model.errors import ZseError


def state(folder: Path, step: int) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_text(f"weights of {step}")
    (folder / states.STATE_FILE).write_text(json.dumps({"step": step}))
    return folder


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_the_highest_complete_state_counts_despite_a_late_write(
    place: str, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = f"{s3}/states" if place == "s3" else str(tmp_path / "training")
    storage.write_json(storage.join(training, "run.json"), {})
    assert states.last_state(training) is None
    write = storage.write_bytes

    def overtaken(url: str, data: bytes) -> None:
        """Two newer states are kept before the last file of the late one."""
        if url.endswith("state.json") and "00000300" in url and not done:
            done.append(300)
            for step in (300, 400):
                states.keep_state(training, state(tmp_path / "new", step))
        write(url, data)

    done: list[int] = []
    monkeypatch.setattr("pipelines.store.files.write_bytes", overtaken)
    states.keep_state(training, state(tmp_path / "late", 300))
    latest = states.last_state(training)
    assert done and latest is not None and latest.startswith("00000400-")
    assert storage.folders(f"{training}/state") == [latest], "states below a complete one are removed"
    with states.state_copy(training, latest) as folder:
        assert folder is not None and (folder / "model.safetensors").read_text() == "weights of 400"

    def broken(url: str, data: bytes) -> None:
        if url.endswith("state.json"):
            raise StorageError("away")
        write(url, data)

    monkeypatch.setattr("pipelines.store.files.write_bytes", broken)
    with pytest.raises(StorageError):
        states.keep_state(training, state(tmp_path / "new", 500))
    assert states.last_state(training) == latest, "the last file of 500 is missing"


def test_without_a_state_there_is_no_folder() -> None:
    with states.state_copy("s3://nowhere/training", None) as folder:
        assert folder is None


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_an_error_names_the_state_where_it_is_kept_and_not_its_copy(place: str, s3: str, tmp_path: Path) -> None:
    """Errors of other kinds, such as those of a store, pass unchanged."""
    training = f"{s3}/errors" if place == "s3" else str(tmp_path / "training")
    states.keep_state(training, state(tmp_path / "made", 7))
    name = states.last_state(training)
    with pytest.raises(ZseError) as error, states.state_copy(training, name) as folder:
        raise ZseError(f"{folder}/optimizer.pt is damaged")
    assert str(error.value) == f"{training}/state/{name}/optimizer.pt is damaged"
    assert (error.value.__cause__ is None) == (place == "folder"), "a folder is no copy: its error stays as it is"
    with pytest.raises(StorageError, match="^no answer from "), states.state_copy(training, name) as folder:
        raise StorageError(f"no answer from {folder}")
