"""Format the status of trainings as lines, as a table and as the next command. `zse status` prints them."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.table import Table

from pipelines.runtime.commands import command
from pipelines.runtime.redaction import shown

State = Literal["done", "running", "failed", "killed", "half done", "missing"]


@dataclass(frozen=True)
class Status:
    """The status of a training and of the stages before and after it."""

    name: str
    folder: str
    method: str
    stages: Mapping[str, State]
    """State of ingest, shard, train, embed and evaluate. Only train can be failed or killed."""
    ended: str | None
    """Why the training did not reach its end."""
    step: int
    """The last known step: of the last renewal of the lease while it runs, else of the last state."""
    total: int | None
    """Steps of the whole training; None until a budget in minutes was measured."""
    state: int | None
    """The step that it would resume from; None if no state is kept."""
    best: float | None
    """Best mAP_all of the checks so far, on the classes that the checkpoint is chosen by."""
    best_step: int | None
    images_per_second: float | None
    seconds_left: float | None
    holder: Mapping[str, Any] | None
    """The process that trains it: host, pid, since, renewed (s since the epoch)."""
    mlflow: Mapping[str, str] | None
    """`uri` and `run`."""
    reports: Sequence[str]
    """Folders of its reports."""
    command: str | None
    """The command that started or resumed it."""


def next_command(status: Status, workspace: str) -> str:
    """The command that continues the run, watches it, or uses its result."""
    place = ["--workspace", workspace]
    if status.stages["train"] == "running":
        return command("status", status.name, *place)
    if status.stages["evaluate"] == "done":
        return command("search", "--sketch", "FILE", "--gallery", "FOLDER", "--checkpoint", status.folder, *place)
    try:
        program, verb, *words = shlex.split(status.command or "")
    except ValueError:  # too few words, or an unclosed quote
        program, verb, words = "", "", list[str]()
    if program != "zse" or verb not in ("run", "train", "quickstart"):
        return command("run", "--experiment", "NAME", *place)
    if not any(word.startswith(("-w", "--workspace")) for word in words):
        words += place
    if status.stages["train"] == "done" and verb == "train":  # the next verb with the same options
        verb = "evaluate"
        words = [
            part for word in words for part in (["--set", "train.overfit=true"] if word == "--overfit" else [word])
        ]
    return command(verb, *words)


def report(status: Status, now: float) -> list[str]:
    """The status as lines of text. now: s since the epoch."""
    lines = [
        status.name,
        f"  stages      {', '.join(f'{name} {state}' for name, state in status.stages.items())}",
        f"  training    {_progress(status)}",
    ]
    if status.ended is not None:
        lines.append(f"  {status.stages['train']:11} {shown(status.ended)}")
    if status.state is not None:
        lines.append(f"  last state  step {status.state:,}")
    if status.best is not None:
        lines.append(f"  best check  mAP_all {status.best:.3f} at step {status.best_step:,}")
    if status.holder is not None:
        lines.append(f"  held by     {_holder(status.holder, now)}")
    if status.mlflow is not None:
        lines.append(f"  MLflow      {_mlflow(status.mlflow)}")
    lines += [f"  report      {folder}" for folder in status.reports]
    lines.append(f"  checkpoint  {status.folder}")
    return lines


def table(found: Iterable[Status]) -> Table:
    """A table with a row for each training."""
    rows = Table(title="Trainings")
    for column in ("run", "method", "training", "step", "best check", "left", "embed", "evaluate"):
        rows.add_column(column, justify="left" if column in ("run", "method", "training") else "right", no_wrap=True)
    for one in found:
        best = "" if one.best is None else f"{one.best:.3f}"
        rows.add_row(
            one.name,
            one.method,
            one.stages["train"],
            f"{one.step:,}/{_total(one)}",
            best,
            _duration(one.seconds_left),
            one.stages["embed"],
            one.stages["evaluate"],
        )
    return rows


def _progress(status: Status) -> str:
    parts = [f"step {status.step:,} of {_total(status)}"]
    if status.images_per_second is not None:
        parts.append(f"{status.images_per_second:.0f} img/s")
    if status.seconds_left is not None:
        parts.append(f"{_duration(status.seconds_left)} left")
    return ", ".join(parts)


def _total(status: Status) -> str:
    return "?" if status.total is None else f"{status.total:,}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes = round(seconds) // 60
    return (
        f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {round(seconds) % 60:02d} s"
    )


def _holder(holder: Mapping[str, Any], now: float) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
    seen = f"sign of life {max(now - holder['renewed'], 0):.0f} s ago"
    return f"process {holder['pid']} on {holder['host']}, since {since}, {seen}"


def _mlflow(tracked: Mapping[str, str]) -> str:
    uri, run = tracked["uri"], tracked["run"]
    return f"{uri.rstrip('/')}/#/runs/{run}" if uri.startswith("http") else f"run {run} in {uri}"
