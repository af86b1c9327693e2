"""The verbs `search` and `explain`: rank photos by a sketch, and explain a result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import CHECKPOINT, WORKSPACE, Workspace, check_output, checkpoint_folder, last, searched
from pipelines.runtime.commands import command
from pipelines.runtime.progress import show
from pipelines.runtime.redaction import printable
from zse_model.errors import ZseError


def search(
    sketch: Annotated[str, typer.Option("--sketch", help="The query: a picture or SVG file or URL.")],
    gallery: Annotated[str, typer.Option("--gallery", help="The photos to search: a folder or URL, at any depth.")],
    checkpoint: Annotated[str, typer.Option("--checkpoint", "-c", help=f"The model to search with: {CHECKPOINT}")],
    workspace: Workspace = WORKSPACE,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="Number of photos to find.")] = 10,
    mode: Annotated[
        str | None,
        typer.Option("--mode", help="A retrieval mode of the model; `zse methods` lists all. Default: its first."),
    ] = None,
    rerank_by: Annotated[
        str | None,
        typer.Option("--rerank-by", metavar="CHECKPOINT", help="Re-rank the results with a second checkpoint."),
    ] = None,
    depth: Annotated[int, typer.Option("--depth", min=1, help="Number of results that --rerank-by re-ranks.")] = 100,
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture file of the results.")] = Path("search.png"),
) -> None:
    """Rank the photos of a gallery by a sketch. Prints and draws the best ones.

    Example: `zse search --sketch cat.png --gallery ~/photos --checkpoint workspace/checkpoints/...`

    To search by codes and re-rank with a second checkpoint: `--mode asym-64 --rerank-by CHECKPOINT --depth 200`
    """
    from pipelines.search.search import search as find
    from zse_model.modes import rerank_depth

    check_output("--out", out)
    finds, ranks = checkpoint_folder(checkpoint, workspace), rerank_by and checkpoint_folder(rerank_by, workspace)
    found = find(sketch, gallery, finds, workspace, top=top, mode=mode, picture=out, rerank_by=ranks, depth=depth)
    for i, match in enumerate(found):
        show(f"{i + 1:3d}  {match.score:8.4f}  {printable(match.path)}")
    more = 5 * top
    words = ["--sketch", sketch, *searched(gallery, checkpoint, workspace), "--top", str(more)]
    if mode:
        words += ["--mode", mode if rerank_depth(mode) is None else f"rerank-{more}"]
    if rerank_by:
        words += ["--rerank-by", rerank_by, "--depth", str(max(depth, more))]
    last(str(out), command("search", *words, "--out", str(out)))


def explain(
    sketch: Annotated[str, typer.Option("--sketch", help="The query: a picture or SVG file or URL.")],
    checkpoint: Annotated[
        str,
        typer.Option(
            "--checkpoint", "-c", help="The model: a zse_sbir or crossatnet checkpoint, or models:/NAME@ALIAS."
        ),
    ],
    photo: Annotated[
        str | None, typer.Option("--photo", help="The photo to explain, a file or URL. Give this or --gallery.")
    ] = None,
    gallery: Annotated[
        str | None, typer.Option("--gallery", help="Explain the best photos of this folder or URL.")
    ] = None,
    workspace: Workspace = WORKSPACE,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="With --gallery: number of photos.")] = 5,
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode", help="A retrieval mode, as in `zse search`. Default: the mode that the pictures explain."
        ),
    ] = None,
    patch: Annotated[
        list[str] | None,
        typer.Option("--patch", metavar="row,column", help="A sketch patch to follow, counted from 0. Repeatable."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The output folder for explain.html and its PNG files.")
    ] = Path("explained"),
) -> None:
    """Draw what a model saw in a sketch and a photo.

    For zse_sbir: the corresponding patches, the attention and a synthesis. For crossatnet: the photo's own mask and the
    mask that the sketch guides.

    Example: `zse explain --sketch cat.png --photo cat.jpg --mode rn --patch 2,3 --checkpoint workspace/checkpoints/...`
    """
    from pipelines.search.explain import PAGE
    from pipelines.search.explain import explain as draw
    from pipelines.store.storage import join, read_json
    from zse_model.checkpoint import INFO
    from zse_model.explanation.patches import PATCHES
    from zse_model.methods import METHODS

    check_output("--out", out, folder=True)
    patches = [_patch(text) for text in patch or []]
    used = checkpoint_folder(checkpoint, workspace)
    found = draw(sketch, used, workspace, out, photo=photo, gallery=gallery, top=top, mode=mode, patches=patches)
    for i, match in enumerate(found):
        show(f"{i + 1:3d}  {match.score:8.4f}  {printable(match.path)}")
    one = ["--photo", str(photo), "--checkpoint", checkpoint, "--workspace", workspace]
    words = one if photo is not None else [*searched(str(gallery), checkpoint, workspace), "--top", str(top)]
    words += ["--mode", mode] if mode else []
    if METHODS[read_json(join(used, INFO))["method"]].EXPLAINER is PATCHES:
        following = command("explain", "--sketch", sketch, *words, "--patch", "ROW,COLUMN", "--out", str(out))
    else:
        following = command("explain", "--sketch", "ANOTHER", *words, "--out", str(out))
    last(f"{out / PAGE}   (open it in a browser)", following)


def _patch(text: str) -> tuple[int, int]:
    row, comma, column = text.partition(",")
    if not (comma and row.strip().isdigit() and column.strip().isdigit()):
        raise ZseError(f"--patch {text!r} is not row,column. Give two numbers, counted from 0, such as --patch 2,3")
    return int(row), int(column)
