"""Options that several verbs share, and the last lines that every verb prints."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.runtime.commands import repeated
from pipelines.runtime.progress import say
from zse_model.errors import ZseError

if TYPE_CHECKING:
    from pipelines.config.experiment import ExperimentConfig


def _not_a_file(workspace: str) -> str:
    """The workspace itself. Raises ZseError for a file: later, MLflow's database would fail to be made in it."""
    from pipelines.store import storage

    if storage.is_local(workspace) and os.path.isfile(storage.absolute(workspace)):
        raise ZseError(f"--workspace {workspace} is a file. Give a folder, or s3://bucket/prefix")
    return workspace


WORKSPACE = os.environ.get("ZSE_WORKSPACE", "workspace")
Experiment = Annotated[
    str, typer.Option("--experiment", "-e", help="A shipped experiment or a YAML file. `zse experiments` lists them.")
]
Workspace = Annotated[
    str,
    typer.Option(
        "--workspace",
        "-w",
        callback=_not_a_file,
        help="Where outputs are kept: a folder or s3://bucket/prefix. Env: ZSE_WORKSPACE.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="a.b=c", help="Override a field of the experiment. Repeatable."),
]
CHECKPOINT = "a checkpoint folder or URL, or models:/NAME@ALIAS."
Report = Annotated[Path | None, typer.Option("--report", help="Also write all result rows as JSON to this file.")]


def searched(gallery: str, checkpoint: str, workspace: str) -> list[str]:
    """The options by which `zse search` finds the encodings of a gallery."""
    return ["--gallery", gallery, "--checkpoint", checkpoint, "--workspace", workspace]


def check_output(option: str, path: str | Path | None, *, folder: bool = False) -> None:
    """Raise ZseError if `path`, the value of `option`, cannot be written. Verbs call it before they do any work.

    folder: the path is a folder for files. Missing folders are allowed: they are made later. URLs are not checked.
    """
    from pipelines.store import storage

    if path is None or not storage.is_local(str(path)):
        return
    path = str(path)
    target = Path(storage.absolute(path))
    if not folder and target.is_dir():
        raise ZseError(f"{option} {path!r} is a folder. Give the name of a file in it")
    if folder and target.exists() and not target.is_dir():
        raise ZseError(f"{option} {path!r} is a file. Give a folder; a missing one is made")
    above = target if folder else target.parent
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        raise ZseError(f"{option} {path!r} cannot be written: {above} is a file. Give a path in a folder")
    if not os.access(above, os.W_OK | os.X_OK) or (target.is_file() and not os.access(target, os.W_OK)):
        raise ZseError(f"{option} {path!r} cannot be written: this user may not write to {above}. Give another path")


def absolute(url: str) -> str:
    from pipelines.store import storage

    return storage.absolute(url)


def given(experiment: str, workspace: str, set_: list[str] | None) -> list[str]:
    """The options of an experiment, as the user gave them."""
    return ["--experiment", experiment, "--workspace", workspace, *repeated("--set", set_)]


def loaded(name: str, overrides: list[str] | None, workspace: str) -> ExperimentConfig:
    from pipelines.config.load import load_experiment

    config = load_experiment(name, overrides or [])
    return replace(config, start=config.start and checkpoint_folder(config.start, workspace, config.tracking.uri))


def checkpoint_folder(name: str, workspace: str, tracking: str | None = None) -> str:
    """The folder or URL of a checkpoint; `name` may be models:/NAME@ALIAS. Raises ZseError for a missing folder."""
    from pipelines.store import storage

    if not name.startswith("models:/"):
        if storage.is_local(name) and not os.path.isdir(storage.absolute(name)):
            raise ZseError(f"The checkpoint {name} does not exist. Give {CHECKPOINT[:-1]}")
        return name
    from pipelines.tracking import checkpoint_of

    return checkpoint_of(name, workspace, tracking)


def last(result: str, *following: str) -> None:
    """Print the last lines of a verb: the place of its result, and the next commands to paste."""
    say(f"Result: {result}\nNext: {f'{chr(10)}      '.join(following)}")
