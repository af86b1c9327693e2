"""What the verbs have in common: options, and the last lines that each of them ends with."""

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


WORKSPACE = os.environ.get("ZSE_WORKSPACE", "workspace")
Experiment = Annotated[
    str, typer.Option("--experiment", "-e", help="A shipped experiment or a YAML file. `zse experiments` lists them.")
]
Workspace = Annotated[
    str, typer.Option("--workspace", "-w", help="Where outputs go: a folder or s3://bucket/prefix. Env: ZSE_WORKSPACE.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="a.b=c", help="Override a field of the experiment; may be given again."),
]
CHECKPOINT = "a folder or URL that `zse train` ended with, or models:/NAME@ALIAS of the registry."
Report = Annotated[Path | None, typer.Option("--report", help="Also write all result rows to this JSON file.")]


def searched(gallery: str, checkpoint: str, workspace: str) -> list[str]:
    """Options that find a gallery's encodings again."""
    return ["--gallery", gallery, "--checkpoint", checkpoint, "--workspace", workspace]


def check_output(option: str, path: str | Path | None, *, folder: bool = False) -> None:
    """Raise ZseError where a file, or a folder with files, cannot be written to `path`, which `option` gave: before the
    work is done. Folders above it may be missing: they are made later. A store is not asked."""
    from pipelines.store import storage

    if path is None or not storage.is_local(str(path)):
        return
    path = str(path)
    target = Path(storage.absolute(path))
    if not folder and target.is_dir():
        raise ZseError(f"{option} {path!r} is a folder. Give the name of a file in it")
    if folder and target.exists() and not target.is_dir():
        raise ZseError(f"{option} {path!r} is a file. Give a folder, which is made if it is missing")
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
    """The options that name an experiment, as they were given."""
    return ["--experiment", experiment, "--workspace", workspace, *repeated("--set", set_)]


def loaded(name: str, overrides: list[str] | None, workspace: str) -> ExperimentConfig:
    from pipelines.config.load import load_experiment

    config = load_experiment(name, overrides or [])
    return replace(config, start=config.start and checkpoint_folder(config.start, workspace, config.tracking.uri))


def checkpoint_folder(name: str, workspace: str, tracking: str | None = None) -> str:
    """The folder of a checkpoint that may be named as the registry does."""
    if not name.startswith("models:/"):
        return name
    from pipelines.tracking import checkpoint_of

    return checkpoint_of(name, workspace, tracking)


def last(result: str, *following: str) -> None:
    """The last lines of every verb: where the result is, and which commands may follow, to be pasted."""
    say(f"Result: {result}\nNext: {f'{chr(10)}      '.join(following)}")
