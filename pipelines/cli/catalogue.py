"""The verb `index`: make an index of a catalogue of photos, and bring it up to date."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.options import CHECKPOINT, WORKSPACE, Workspace, absolute, checkpoint_folder, last
from pipelines.runtime.commands import command
from pipelines.runtime.progress import say, show
from zse_model.errors import ZseError


def index(
    source: Annotated[
        str | None,
        typer.Argument(help="The photos: a folder, URL or archive, at any depth. Left out: those of the run before."),
    ] = None,
    index: Annotated[str, typer.Option("--index", "-i", help="The index: a folder or s3://bucket/prefix.")] = ...,  # type: ignore[assignment]
    model: Annotated[
        str | None, typer.Option("--model", "-m", help=f"The model that encodes the photos: {CHECKPOINT}")
    ] = None,
    metadata: Annotated[
        str | None,
        typer.Option(
            "--metadata",
            help="A .csv, .tsv or .parquet file with a column `path` and a row for each photo. Searches filter by its "
            "other columns.",
        ),
    ] = None,
    tokens: Annotated[
        bool,
        typer.Option(
            "--tokens",
            help="Also keep what modes read that compare patches (rn, late, fused, fused-late, rerank-K): large.",
        ),
    ] = False,
    delete_many: Annotated[
        bool, typer.Option("--delete-many", help="Delete also if more than half of the photos are gone.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Print what the index holds, and change nothing.")] = False,
    compact: Annotated[
        bool, typer.Option("--compact", help="Join small files, and delete versions older than a day.")
    ] = False,
    purge: Annotated[
        list[str] | None,
        typer.Option("--purge", metavar="ID", help="Delete this photo from every version of the index. Repeatable."),
    ] = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Make an index of a catalogue of photos, or bring it up to date: for `zse search --index`.

    New and changed photos are encoded; photos that are gone are deleted; photos that moved keep their encodings. An
    interrupted run continues where it stopped.

    Example: `zse index s3://bucket/photos --index s3://bucket/photos.index --model models:/zse@champion`

    Every night: `zse index --index s3://bucket/photos.index --model models:/zse@champion`
    """
    from pipelines.encode import index as run
    from pipelines.encode.index_upkeep import compact_index, index_status, purge_photos

    if len([one for one in (status, compact, purge) if one]) > 1 or (source and (status or compact or purge)):
        raise ZseError("--status, --compact and --purge each go alone, without a source")
    if status:
        for line in index_status(index):
            show(line)
        return
    again = command("index", "--index", index, "--status")
    if purge:
        return last(f"{purge_photos(index, purge)} photos deleted from every version of {absolute(index)}", again)
    if compact:
        compact_index(index)
        return last(absolute(index), again)
    if model is None:
        raise ZseError(f"--model is missing: {CHECKPOINT} It encodes the photos")
    done = run.index(
        source,
        index,
        checkpoint_folder(model, workspace),
        called=model,
        metadata=metadata,
        tokens=tokens,
        delete_many=delete_many,
    )
    say(done.text())
    options = ["--index", absolute(index), "--model", model]
    last(absolute(index), command("search", "--sketch", "FILE", *options), command("serve", *options))
