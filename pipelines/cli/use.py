"""The verbs that search with one sketch, and show why."""

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
    sketch: Annotated[str, typer.Option("--sketch", help="A drawing: any picture file or URL.")],
    gallery: Annotated[str, typer.Option("--gallery", help="A folder or URL with photos, at any depth.")],
    checkpoint: Annotated[str, typer.Option("--checkpoint", "-c", help=f"The model to search with: {CHECKPOINT}")],
    workspace: Workspace = WORKSPACE,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="How many photos.")] = 10,
    mode: Annotated[
        str | None,
        typer.Option("--mode", help="A retrieval mode of the model; `zse methods` lists them. Default: its first."),
    ] = None,
    rerank_by: Annotated[
        str | None,
        typer.Option("--rerank-by", metavar="CHECKPOINT", help="Re-rank the results with a second checkpoint."),
    ] = None,
    depth: Annotated[int, typer.Option("--depth", min=1, help="How many of them it re-ranks.")] = 100,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the picture of the result goes.")] = Path(
        "search.png"
    ),
) -> None:
    """Find the photos that a sketch means. Prints the best of the gallery and draws them.

    Example: `zse search --sketch cat.png --gallery ~/photos --checkpoint workspace/checkpoints/...`

    Search by codes and re-rank with another checkpoint: `--mode asym-64 --rerank-by CHECKPOINT --depth 200`
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
    last(f"Drawn in {out}", command("search", *words, "--out", str(out)))


def explain(
    sketch: Annotated[str, typer.Option("--sketch", help="A drawing: any picture file or URL.")],
    checkpoint: Annotated[str, typer.Option("--checkpoint", "-c", help="A zse_sbir or crossatnet checkpoint.")],
    photo: Annotated[str | None, typer.Option("--photo", help="Explain the sketch with this photo; or")] = None,
    gallery: Annotated[str | None, typer.Option("--gallery", help="with the best of this folder or URL.")] = None,
    workspace: Workspace = WORKSPACE,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="How many photos of the gallery.")] = 5,
    mode: Annotated[
        str | None,
        typer.Option("--mode", help="As of `zse search`. Default: the mode that the pictures explain."),
    ] = None,
    patch: Annotated[
        list[str] | None,
        typer.Option("--patch", metavar="row,column", help="A sketch patch to follow, from 0; may be given again."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for explain.html and its PNGs.")] = Path(
        "explained"
    ),
) -> None:
    """Show what the network saw in a sketch and a photo: of zse_sbir which patches correspond, what is attended and a
    synthesis; of crossatnet the photo's own mask and the one that the sketch guides.

    Example: `zse explain --sketch cat.png --photo cat.jpg --mode rn --patch 2,3 --checkpoint workspace/checkpoints/...`
    """
    from pipelines.search.explain import PAGE
    from pipelines.search.explain import explain as draw
    from pipelines.store.storage import join, read_json
    from zse_model.checkpoint import INFO

    check_output("--out", out, folder=True)
    patches = [_patch(text) for text in patch or []]
    used = checkpoint_folder(checkpoint, workspace)
    found = draw(sketch, used, workspace, out, photo=photo, gallery=gallery, top=top, mode=mode, patches=patches)
    for i, match in enumerate(found):
        show(f"{i + 1:3d}  {match.score:8.4f}  {printable(match.path)}")
    one = ["--photo", str(photo), "--checkpoint", checkpoint, "--workspace", workspace]
    words = one if photo is not None else [*searched(str(gallery), checkpoint, workspace), "--top", str(top)]
    words += ["--mode", mode] if mode else []
    if read_json(join(used, INFO))["method"] == "crossatnet":  # it has masks: another sketch, another mask
        following = command("explain", "--sketch", "ANOTHER", *words, "--out", str(out))
    else:
        following = command("explain", "--sketch", sketch, *words, "--patch", "ROW,COLUMN", "--out", str(out))
    last(f"{out / PAGE}   (open it in a browser)", following)


def _patch(text: str) -> tuple[int, int]:
    row, comma, column = text.partition(",")
    if not (comma and row.strip().isdigit() and column.strip().isdigit()):
        raise ZseError(f"--patch takes row,column, counted from 0 as in --patch 2,3; got {text!r}")
    return int(row), int(column)
