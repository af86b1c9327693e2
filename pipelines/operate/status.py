"""status: the progress of a workspace's trainings. Reads the workspace only: no cluster, no MLflow, no data."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from pipelines.operate.status_lines import State, Status
from pipelines.store import storage
from pipelines.store.lease import holder
from pipelines.workspace.endings import ended
from pipelines.workspace.images import Images
from pipelines.workspace.kept import MANIFEST, complete
from pipelines.workspace.pairs import Pairs
from pipelines.workspace.parts import is_part
from pipelines.workspace.reports import Report
from pipelines.workspace.states import STATE_FILE, STATES, last_state
from pipelines.workspace.training import RUN, RUN_ID, Training, has_run, read_run
from zse_model.errors import ZseError

ENDINGS: dict[str, State] = {"FAILED": "failed", "KILLED": "killed"}


def find(name: str, workspace: str) -> tuple[str, str]:
    """(workspace, name) of a training, from its folder or URL, its name, or the unique beginning of its name.

    Raises ZseError for an unknown or ambiguous name.
    """
    name = name.rstrip("/")
    if "/" in name:
        folder = storage.absolute(name)
        workspace, parent, own = folder.rsplit("/", 2)
        if parent == Training.KIND and has_run(folder):
            return workspace, own
        raise ZseError(f"{folder} is not a training: it has no {RUN}, or is not in WORKSPACE/{Training.KIND}")
    workspace = storage.absolute(workspace)
    known = trainings(workspace)
    found = [name] if name in known else [one for one in known if one.startswith(name)]
    if len(found) == 1:
        return workspace, found[0]
    which = f"begins with {name!r}" if not found else f"is meant by {name!r} alone: {len(found)} begin with it"
    there = found or known
    listed = ", ".join(there[:20]) + (f" and {len(there) - 20} more" if len(there) > 20 else "")
    raise ZseError(f"No training in {workspace} {which}. Trainings: {listed or 'none'}")


def trainings(workspace: str) -> list[str]:
    """Names of the trainings of a workspace. Raises StorageError if the workspace does not exist."""
    if Training.KIND not in storage.folders(workspace):
        return []
    folder = storage.join(workspace, Training.KIND)
    names = storage.folders(folder)
    there = storage.side_by_side(lambda name: has_run(storage.join(folder, name)), names)
    return [name for name, one in zip(names, there, strict=True) if one]


def unfinished(workspace: str) -> list[str]:
    """Incomplete outputs of ingest and shard, such as `images/photos-0123abcd, 12 parts`."""
    found = []
    for kind in sorted({Images.KIND, Pairs.KIND} & set(storage.folders(workspace))):
        for name in storage.folders(storage.join(workspace, kind)):
            files = storage.names(storage.join(workspace, kind, name))
            if MANIFEST not in files:
                found.append(f"{kind}/{name}, {sum(map(is_part, files))} parts")
    return found


def status(workspace: str, name: str) -> Status:
    """The status of a training and of its outputs."""
    folder = storage.join(workspace, Training.KIND, name)
    run, files = read_run(folder), storage.names(folder)
    done = MANIFEST in files
    state = _finished(Training.open(folder)) if done else _last_state(folder)
    how = None if done else ended(folder, run)
    trained: State = "done" if done else "running" if how is None else ENDINGS[how.state]
    held = None if done else holder(folder)
    planned = run.get("steps") or run["experiment"]["train"]["steps"]
    known = _known(state, planned) | (held["note"] if held and not how and "step" in held.get("note", {}) else {})
    encodings, reports = (_made_with(workspace, kind, name) for kind in ("encodings", Report.KIND))
    return Status(
        name=name,
        folder=folder,
        method=run["method"],
        stages={
            "ingest": _stage([run["images"]]),
            "shard": _stage([run["pairs"]]),
            "train": trained,
            "embed": _stage(encodings),
            "evaluate": _stage(reports),
        },
        ended=how.reason if how else None,
        step=known["step"],
        total=known["total"],
        state=None if done or state is None else state["step"],
        best=state["best"] if state else None,
        best_step=state["best_step"] if state else None,
        images_per_second=known.get("images_per_second"),
        seconds_left=None if done else known.get("seconds_left"),
        holder={key: held[key] for key in ("host", "pid", "since", "renewed")} if held else None,
        mlflow=storage.read_json(storage.join(folder, RUN_ID)) if RUN_ID in files else None,
        reports=[report for report in reports if complete(report)],
        command=run.get("command"),
    )


def statuses(workspace: str) -> list[Status]:
    """The status of all trainings of a workspace."""
    return list(storage.side_by_side(lambda name: status(workspace, name), trainings(workspace)))


def as_json(found: Status) -> str:
    return json.dumps(asdict(found))


def _known(state: dict[str, Any] | None, planned: int | None) -> dict[str, Any]:
    """step, total, images_per_second and seconds_left of a training, from a state and at its speed."""
    if state is None:
        return {"step": 0, "total": planned}
    step, total = state["step"], state["total"] or planned
    speeds = [event["train/images_per_second"] for event in state["history"] if "train/images_per_second" in event]
    if not (speeds and step and total):
        return {"step": step, "total": total}
    left = (total - step) * state["images"] / step / speeds[-1]
    return {"step": step, "total": total, "images_per_second": speeds[-1], "seconds_left": left}


def _last_state(folder: str) -> dict[str, Any] | None:
    """The content of the last complete state; None if there is none."""
    latest = last_state(folder)
    if latest is None:
        return None
    try:
        return storage.read_json(storage.join(folder, STATES, latest, STATE_FILE))
    except FileNotFoundError:  # a newer state has just replaced it
        return _last_state(folder)


def _finished(training: Training) -> dict[str, Any]:
    """The same content for a finished checkpoint, whose states are deleted."""
    done = training.training
    return {
        "step": done["steps"],
        "total": done["steps"],
        "best": done["selection_mAP_all"],
        "best_step": done["best_step"],
        "images": done["images"],
        "history": training.history(),
    }


def _made_with(workspace: str, kind: str, name: str) -> list[str]:
    """Folders of outputs made with a checkpoint: their names begin with the checkpoint's, which ends with a hash."""
    if kind not in storage.folders(workspace):
        return []
    folder = storage.join(workspace, kind)
    return [storage.join(folder, one) for one in storage.folders(folder) if one.startswith(f"{name}-")]


def _stage(folders: list[str]) -> State:
    """The state of a stage from its output folders: done if one of them is, since each may be of another data set."""
    if any(map(complete, folders)):
        return "done"
    return "half done" if any(map(storage.names, folders)) else "missing"
