"""The verbs `search` and `explain`: rank photos by a sketch, and explain a result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli.options import CHECKPOINT, WORKSPACE, Workspace, check_output, checkpoint_folder, last, searched
from pipelines.runtime.commands import command
from pipelines.runtime.progress import say, show
from pipelines.runtime.redaction import printable
from zse_model.errors import ZseError

CLEAN = (
    "Whether the sketch is cleaned: a photo or scan of paper becomes a drawing, and another photo is refused (auto); "
    "each picture (always); none (never)."
)


def search(
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", "--model", "-c", "-m", help=f"The model to search with: {CHECKPOINT}")
    ],
    sketch: Annotated[
        str | None,
        typer.Option("--sketch", help="The query: a picture, SVG or strokes (.json), file or URL.", show_default=False),
    ] = None,
    sketches: Annotated[
        str | None,
        typer.Option("--sketches", help="With --index: a folder or URL of queries instead; --out is a .parquet file."),
    ] = None,
    gallery: Annotated[
        str | None, typer.Option("--gallery", help="The photos to search: a folder or URL. Give this or --index.")
    ] = None,
    index: Annotated[
        str | None, typer.Option("--index", "-i", help="The index to search, which `zse index` made.")
    ] = None,
    workspace: Workspace = WORKSPACE,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="Number of photos to find.")] = 10,
    page: Annotated[int, typer.Option("--page", min=1, help="With --index: the page of so many photos.")] = 1,
    where: Annotated[
        str | None, typer.Option("--where", help='With --index: a filter by metadata, such as "price < 100".')
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            help="A mode of the model, such as ret-diffused-500; `zse methods` lists all. Default: its first.",
        ),
    ] = None,
    rerank: Annotated[
        int | None,
        typer.Option("--rerank", min=1, help="With --index: rank the best so many of --mode again by --rerank-mode."),
    ] = None,
    rerank_mode: Annotated[
        str | None,
        typer.Option(
            "--rerank-mode", help="With --rerank: the mode that ranks, such as fused. Default: the model's first mode."
        ),
    ] = None,
    rerank_by: Annotated[
        str | None,
        typer.Option(
            "--rerank-by", metavar="CHECKPOINT", help="With --gallery: re-rank the results with a second checkpoint."
        ),
    ] = None,
    depth: Annotated[int, typer.Option("--depth", min=1, help="Number of results that --rerank-by re-ranks.")] = 100,
    clean: Annotated[str, typer.Option("--clean", metavar="auto|always|never", help=CLEAN)] = "auto",
    drawing: Annotated[
        Path | None,
        typer.Option("--drawing", help="With --sketch: a PNG file to write the drawing to, as the model reads it."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture file of the results.")] = Path("search.png"),
) -> None:
    """Rank the photos of an index or of a folder by a sketch. Prints and draws the best ones.

    Example: `zse search --sketch cat.png --index s3://bucket/photos.index --model models:/zse@champion`

    Without an index: `zse search --sketch cat.png --gallery ~/photos --checkpoint workspace/checkpoints/...`

    Many sketches: `zse search --sketches drawings/ --index URL --model MODEL --out answers.parquet`

    Codes find and places rank, with --index: `--mode asym-64 --rerank 1000 --rerank-mode fused`

    Photos that are alike stand together: `--mode ret-diffused-500`, or `--rerank-mode fused-diffused-500`

    To search by codes and re-rank with a second checkpoint: `--mode asym-64 --rerank-by CHECKPOINT --depth 200`
    """
    check_output("--out", out)
    if (gallery is None) == (index is None):
        raise ZseError("Give either --index URL, which `zse index` made, or --gallery FOLDER")
    if (sketch is None) == (sketches is None):
        raise ZseError("Give either --sketch FILE or --sketches FOLDER")
    if sketches is not None:
        if index is None or page != 1 or drawing is not None or rerank_by is not None:
            raise ZseError("--sketches goes with --index, and without --page, --drawing and --rerank-by")
        asked: dict[str, Any] = {"top": top, "where": where, "mode": mode, "rerank": rerank, "rerank_mode": rerank_mode}
        _search_folder(sketches, index, checkpoint, workspace, str(out), clean=clean, **asked)
        return
    assert sketch is not None
    if index is not None:
        if rerank_by is not None:
            raise ZseError("--rerank-by goes with --gallery. With --index: --rerank N, or --mode rerank-N")
        asked = {
            "top": top,
            "page": page,
            "where": where,
            "mode": mode,
            "rerank": rerank,
            "rerank_mode": rerank_mode,
        }
        _search_index(sketch, index, checkpoint, workspace, out, clean, drawing, **asked)
        return
    assert gallery is not None
    if where is not None or rerank is not None or rerank_mode is not None or page != 1:
        raise ZseError(
            "--where, --rerank, --rerank-mode and --page go with --index. Make one: "
            "zse index FOLDER --index URL --model ..."
        )
    from pipelines.search.cleaning import clean_of
    from pipelines.search.search import search as find
    from zse_model.modes import rerank_depth

    finds, ranks = checkpoint_folder(checkpoint, workspace), rerank_by and checkpoint_folder(rerank_by, workspace)
    found = find(
        sketch,
        gallery,
        finds,
        workspace,
        top=top,
        mode=mode,
        picture=out,
        rerank_by=ranks,
        depth=depth,
        clean=clean_of(clean),
        drawing=drawing,
    )
    for i, match in enumerate(found, 1):
        show(_line(i, match.score, match.confidence, match.path))
    more = 5 * top
    words = ["--sketch", sketch, *searched(gallery, checkpoint, workspace), "--top", str(more)]
    if mode:
        words += ["--mode", mode if (shortlist := rerank_depth(mode)) is None else f"rerank-{max(more, shortlist)}"]
    words += ["--clean", clean] if clean != "auto" else []
    if rerank_by:
        words += ["--rerank-by", rerank_by, "--depth", str(max(depth, more))]
    last(str(out), command("search", *words, "--out", str(out)))


def _search_index(
    sketch: str, index: str, model: str, workspace: str, out: Path, clean: str, drawing: Path | None, **asked: Any
) -> None:
    from pipelines.search.cleaning import clean_of
    from pipelines.search.search import search_index
    from pipelines.search.searcher import Searcher

    checkpoint_folder(model, workspace)  # names a model that does not exist
    how = clean_of(clean)
    searcher = Searcher.open(index, model, workspace=workspace)
    found = search_index(sketch, searcher, out, clean=how, drawing=drawing, **asked)
    top, page = asked["top"], asked["page"]
    for i, one in enumerate(found, (page - 1) * top + 1):
        own = "".join(f"  {name}={value}" for name, value in one.metadata.items() if value is not None)
        show(
            _line(i, one.score, one.confidence, one.id)
            + own
            + (f"  (+{len(one.repeats)} repeated)" if one.repeats else "")
        )
    if not found:
        where = asked.get("where")
        none = f"no photo passes {where}" if where and page == 1 else f"no photo on page {page}"
        return last(none, command("index", "--index", index, "--status"))
    words = ["--sketch", sketch, "--index", index, "--model", model, "--workspace", workspace]
    words += ["--clean", clean] if clean != "auto" else []
    for name, value in (asked | {"page": page + 1}).items():
        words += [f"--{name.replace('_', '-')}", str(value)] if value is not None else []
    last(str(out), command("search", *words, "--out", str(out)))


def _search_folder(sketches: str, index: str, model: str, workspace: str, out: str, clean: str, **asked: Any) -> None:
    from pipelines.search.batch import search_folder
    from pipelines.search.cleaning import clean_of

    if not out.endswith(".parquet"):
        raise ZseError(f"--out {out}: the answers to a folder of sketches are one .parquet file")
    total, bad = search_folder(
        sketches, index, checkpoint_folder(model, workspace), out, clean=clean_of(clean), **asked
    )
    say(f"{total - bad:,} sketches are answered" + (f"; {bad} are not: see the column error" if bad else ""))
    last(out, f"python -c \"import pandas; print(pandas.read_parquet('{out}'))\"")


def _line(rank: int, score: float, confidence: float | None, id: str) -> str:
    sure = "" if confidence is None else f"{confidence:4.0%}  "
    return f"{rank:3d}  {score:8.4f}  {sure}{printable(id)}"


def serve(
    index: Annotated[str, typer.Option("--index", "-i", help="The index to search, which `zse index` made.")],
    model: Annotated[str, typer.Option("--model", "-m", help=f"The model to search with: {CHECKPOINT}")],
    workspace: Workspace = WORKSPACE,
    host: Annotated[
        str, typer.Option("--host", help="The address to listen at; 0.0.0.0 = every network of the machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0 = any free one.")] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="A name that requests may be sent to, such as that of a proxy. Default: those of this machine with "
            "--host 127.0.0.1, all others with another --host. Repeatable.",
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-origin",
            metavar="https://SITE",
            help="Another site whose pages may read the answers (CORS). Repeatable.",
        ),
    ] = None,
    mode: Annotated[
        str | None, typer.Option("--mode", help="The mode of requests that name none. Default: the model's first.")
    ] = None,
    credit: Annotated[
        str | None, typer.Option("--credit", help="Whose photos these are, and their licence: the page shows it.")
    ] = None,
    originals: Annotated[
        bool, typer.Option("--originals", help="Also give out the photos themselves, not thumbnails only.")
    ] = False,
    on: Annotated[
        str, typer.Option("--on", metavar="uvicorn|ray", help="One process here, or replicas on a Ray cluster.")
    ] = "uvicorn",
    replicas: Annotated[int, typer.Option("--replicas", min=1, help="With --on ray: processes that answer.")] = 1,
) -> None:
    """Search an index over HTTP: a page to draw on at `/`, an API at `/v1`, its documentation at `/docs`.

    The service takes up new versions of the index, and a new champion, between two requests. ZSE_TOKEN in the
    environment sets a bearer token that requests must carry. SIGTERM ends the service when running requests are done.

    Example: `zse serve --index s3://bucket/photos.index --model models:/zse@champion`
    """
    if on not in ("uvicorn", "ray") or (on == "uvicorn" and replicas != 1):
        raise ZseError(f"--on {on} --replicas {replicas}: give --on uvicorn, which is one process, or --on ray")
    try:
        from pipelines.serve.run import serve as run
        from pipelines.serve.service import Settings
    except ModuleNotFoundError as error:
        raise ZseError(f"{error.name} is not installed: pip install 'zse-retrieval[serve]'") from error
    checkpoint_folder(model, workspace)  # names a model that does not exist
    settings = Settings(
        index=index,
        model=model,
        workspace=workspace,
        hosts=tuple(name.lower() for name in allow_host or ()),
        origins=tuple(allow_origin or ()),
        mode=mode,
        credit=credit,
        originals=originals,
    )
    if on == "ray":
        from pipelines.serve.replicas import serve_replicas

        return serve_replicas(settings, host, port, replicas)
    run(settings, host, port)


def explain(
    sketch: Annotated[str, typer.Option("--sketch", help="The query: a picture, SVG or strokes (.json), file or URL.")],
    checkpoint: Annotated[
        str,
        typer.Option(
            "--checkpoint", "-c", help="The model: a checkpoint of any method but global, or models:/NAME@ALIAS."
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
    clean: Annotated[str, typer.Option("--clean", metavar="auto|always|never", help=CLEAN)] = "auto",
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The output folder for explain.html and its PNG files.")
    ] = Path("explained"),
) -> None:
    """Draw what a model saw in a sketch and a photo.

    For zse_sbir: the corresponding patches, the attention and a synthesis. For the mode late, of zse_sbir too: the
    matches that the score is the sum of. For crossatnet: the photo's own mask and the mask that the sketch guides.

    Example: `zse explain --sketch cat.png --photo cat.jpg --checkpoint workspace/checkpoints/...`

    Of zse_sbir, one patch of the sketch: `--mode rn --patch 2,3`
    """
    from pipelines.search.cleaning import clean_of
    from pipelines.search.explain import PAGE
    from pipelines.search.explain import explain as draw
    from pipelines.store.storage import join, read_json
    from zse_model.checkpoint import INFO
    from zse_model.methods import METHODS

    check_output("--out", out, folder=True)
    patches = [_patch(text) for text in patch or []]
    used = checkpoint_folder(checkpoint, workspace)
    found = draw(
        sketch,
        used,
        workspace,
        out,
        photo=photo,
        gallery=gallery,
        top=top,
        mode=mode,
        patches=patches,
        clean=clean_of(clean),
    )
    for i, match in enumerate(found):
        show(f"{i + 1:3d}  {match.score:8.4f}  {printable(match.path)}")
    one = ["--photo", str(photo), "--checkpoint", checkpoint, "--workspace", workspace]
    words = one if photo is not None else [*searched(str(gallery), checkpoint, workspace), "--top", str(top)]
    words += ["--mode", mode] if mode else []
    words += ["--clean", clean] if clean != "auto" else []
    explainers = METHODS[read_json(join(used, INFO))["method"]].EXPLAINERS
    if any(explainer.patches for explainer in explainers):
        following = command("explain", "--sketch", sketch, *words, "--patch", "ROW,COLUMN", "--out", str(out))
    else:
        following = command("explain", "--sketch", "ANOTHER", *words, "--out", str(out))
    last(f"{out / PAGE}   (open it in a browser)", following)


def _patch(text: str) -> tuple[int, int]:
    row, comma, column = text.partition(",")
    if not (comma and row.strip().isdigit() and column.strip().isdigit()):
        raise ZseError(f"--patch {text!r} is not row,column. Give two numbers, counted from 0, such as --patch 2,3")
    return int(row), int(column)
