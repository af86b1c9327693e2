"""Keep and read the states that an interrupted training resumes from.

    <training>/state/<step>-<random>/    weights, optimizer, state.json; the last file makes the state complete

The highest complete state counts. A worker that was declared dead may still write: its late state has a folder of its
own and a lower step than newer states. It removes only states that are lower than a complete one. Our design.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.store import storage
from zse_model.errors import ZseError

STATES = "state"
STATE_FILE = "state.json"  # the name in `zse_model.fit`, whose import loads torch for seconds


def keep_state(training: str, state: Path) -> None:
    """Upload the files of a local folder as a state of the training, and remove lower states."""
    step = json.loads((state / STATE_FILE).read_text())["step"]
    url = storage.join(training, STATES)
    storage.upload_folder(state, storage.join(url, f"{step:08d}-{uuid.uuid4().hex[:8]}"), last=STATE_FILE)
    latest = last_state(training)
    for name in _folders(training):
        if latest is not None and name < latest:
            storage.remove_folder(storage.join(url, name))


def last_state(training: str) -> str | None:
    """The name of the highest complete state; None if there is none."""
    for name in reversed(_folders(training)):
        if storage.exists(storage.join(training, STATES, name, STATE_FILE)):
            return name
    return None


@contextmanager
def state_copy(training: str, name: str | None) -> Iterator[Path | None]:
    """A local folder with a state, read-only; None for no state."""
    if name is None:
        yield None
        return
    url = storage.join(training, STATES, name)
    with storage.local_copy(url) as folder:
        try:
            yield folder
        except ZseError as error:
            if type(error) is not ZseError or storage.is_local(url):
                raise
            raise ZseError(str(error).replace(str(folder), url)) from error  # the copy is deleted before anybody reads


def _folders(training: str) -> list[str]:
    if STATES not in storage.folders(training):
        return []
    return [name for name in storage.folders(storage.join(training, STATES)) if name[:8].isdigit()]
