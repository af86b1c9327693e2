"""The verbs `doctor`, `status` and `import-checkpoint`: before, during and beside a run."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from pipelines.cli.options import WORKSPACE, Set, Workspace, absolute, check_output, last, loaded
from pipelines.runtime.commands import command, repeated
from pipelines.runtime.failures import to_fix
from pipelines.runtime.progress import show
from zse_model.errors import ZseError


def doctor(
    workspace: Workspace = WORKSPACE,
    experiment: Annotated[
        str | None,
        typer.Option("--experiment", "-e", help="Also check that this experiment fits and its data can be read."),
    ] = None,
    set_: Set = None,
) -> None:
    """Check MLflow and every node of the cluster before a run: versions, clock, GPUs, NCCL, memory, disk, storage.

    Lists problems with their fixes. Exit code 1: a run would fail. To check another cluster, submit the command to it:
    `ray job submit ... -- zse doctor ...`.

    Example: `zse doctor -w s3://bucket/zse -e folder+zse_sbir -s dataset.source=s3://bucket/pics -s dataset.split=FILE`
    """
    from pipelines.operate.doctor import examine
    from pipelines.operate.nodes import Finding

    config, unread = None, list[Finding]()
    try:
        config = loaded(experiment, set_, workspace) if experiment else None
    except (ZseError, OSError) as error:  # the cluster is still checked
        if (said := to_fix(error)) is None:
            raise
        unread = [Finding("experiment", "fails", said, "see the message")]
    found = [*unread, *examine(workspace, config)]
    for one in found:
        show(f"{one.state:5s}  {one.what}: {one.text}" + (f"\n       fix: {one.fix}" if one.fix else ""))
    failing = sum(one.state == "fails" for one in found)
    slow = sum(one.state == "slow" for one in found)
    verdict = (
        f"problems to fix: {failing}"
        if failing
        else "ready" + (f"; findings that make it slow: {slow}" if slow else "")
    )
    words = ["--experiment", experiment, *repeated("--set", set_)] if experiment else []
    following = ("doctor", *words) if failing else ("run", *(words or ["--experiment", "quickstart"]))
    last(verdict, command(*following, "--workspace", workspace))
    if failing:
        raise typer.Exit(1)


def status(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="A training's name, the beginning of it, or a folder. Default: all."),
    ] = None,
    workspace: Workspace = WORKSPACE,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON for each training.")] = False,
) -> None:
    """Show the progress of a training: finished stages, step, last state, best check, process, speed and time left.

    Reads the workspace only, not the cluster or MLflow. Works on any machine that can read the workspace.

    Example: `zse status folder+zse_sbir --workspace s3://bucket/zse`
    """
    from pipelines.operate import status as job
    from pipelines.operate import status_lines as shows

    if run is not None:
        place, name = job.find(run, workspace)
        found = job.status(place, name)
        show(job.as_json(found) if as_json else "\n".join(shows.report(found, time.time())))
        last(f"training {found.stages['train']}", shows.next_command(found, place))
        return
    place = absolute(workspace)
    trainings, begun = job.statuses(place), job.unfinished(place)
    if as_json:
        for one in trainings:
            show(job.as_json(one))
    else:
        show(shows.table(trainings))
        for one in begun:
            show(f"half done: {one}")
    following = ("status", trainings[-1].name) if trainings else ("run", "--experiment", "NAME")
    last(
        f"{len(trainings)} training{'s' * (len(trainings) != 1)} in {place}",
        command(*following, "--workspace", workspace),
    )


def import_checkpoint(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .pth or .safetensors file or URL.")],
    split: Annotated[
        str,
        typer.Option(
            "--split",
            help="The split of its training: a built-in name, or a JSON file with name, citation, seen, unseen.",
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="The checkpoint to write: a folder or s3://bucket/prefix.")],
) -> None:
    """Convert weights of the public ZSE-SBIR code, or of its backbone alone, to a checkpoint of `zse`.

    Example: `zse import-checkpoint best_checkpoint.pth --split sketchy-25 --out workspace/checkpoints/published`
    """
    from pipelines.datasets.built_in import split_names
    from pipelines.operate.import_checkpoint import import_checkpoint as import_

    check_output("--out", out, folder=True)
    folder = import_(file, split, out)
    tested = split if split in split_names() else "FILE"  # a split file of an experiment has only unseen classes
    settings = [
        "dataset.source=FOLDER",
        f"dataset.split={tested}",
        "transforms.size=224",
        "transforms.recipe=published",
    ]
    last(
        folder,
        command("evaluate", "--checkpoint", folder, "-e", "folder+zse_sbir", *repeated("--set", settings)),
        command("search", "--checkpoint", folder, "--sketch", "FILE", "--gallery", "FOLDER"),
    )
