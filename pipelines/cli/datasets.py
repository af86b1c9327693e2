"""The verbs of `zse datasets`."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.options import absolute, check_output, last
from pipelines.runtime.commands import command
from pipelines.runtime.progress import show

app = typer.Typer(
    no_args_is_help=True,
    help="List the published data sets, check your own folder, and write subsets that others can rebuild.",
)


@app.command("list")
def datasets_list() -> None:
    """List the known data sets with their published counts and splits.

    Example: `zse datasets list`
    """
    from pipelines.datasets.published import known_datasets

    for known in known_datasets().values():
        show(f"{known.name:10s} {known.title}")
        for version in known.versions:
            show(f"{'':12s}{version.text()}")
        if known.splits:
            show(f"{'':12s}splits: {', '.join(known.splits)}")
    show_one, look = command("datasets show", "NAME"), command("datasets doctor", "FOLDER")
    last("docs/datasets.md has the layout of each", show_one, look)


@app.command("show")
def datasets_show(name: Annotated[str, typer.Argument(help="A data set of `zse datasets list`.")]) -> None:
    """Show one data set: its legal source, its splits with citations, its settings and published numbers.

    Example: `zse datasets show sketchy`
    """
    from pipelines.datasets.diagnose import describe
    from pipelines.datasets.published import known_dataset

    known = known_dataset(name)
    show("\n".join(describe(known)))
    last("docs/datasets.md has its layout", command("datasets doctor", "FOLDER"))


@app.command("doctor")
def datasets_doctor(
    source: Annotated[list[str], typer.Argument(help="The folder, URL or archive of the data. Repeatable.")],
    read: Annotated[int, typer.Option("--read", min=0, help="Number of pictures to read, evenly over all.")] = 50,
) -> None:
    """Check a source: layout, counts beside the published ones, missing pictures, broken files, possible splits.

    Example: `zse datasets doctor s3://bucket/Sketchy`
    """
    from pipelines.datasets.diagnose import diagnose, next_command
    from pipelines.datasets.diagnose import report as lines

    found = diagnose([absolute(s) for s in source], read)
    show("\n".join(lines(found)))
    unfit = "cannot be used with these class names" if found.unfit else "can be used"
    usable = f"lacks {found.lacking} pictures" if found.lacking else unfit
    last(f"{', '.join(source)} {usable}", next_command(found))


@app.command("subset")
def datasets_subset(
    members: Annotated[
        str, typer.Argument(help="The list of pictures: a shipped one (sketchy125_128), or a TSV file or URL.")
    ],
    source: Annotated[list[str], typer.Option("--source", help="Your copy of the data set. Repeatable.")],
    out: Annotated[str, typer.Option("--out", "-o", help="The subset to write: a folder or s3://bucket/prefix.")],
    size: Annotated[
        int | None, typer.Option("--size", min=16, max=1024, help="Side of the pictures in px. Default: unchanged.")
    ] = None,
) -> None:
    """Write the listed pictures of your copy as `sketch/<class>/*`, `photo/<class>/*` and pairs.tsv.

    Example: `zse datasets subset sketchy125_128 --source /data/Sketchy --size 128 --out /data/sketchy125_128`
    """
    from pipelines.datasets.subset import write_subset

    check_output("--out", out, folder=True)
    written = write_subset(members, [absolute(s) for s in source], out, size)
    last(f"{written:,} pictures in {out}", command("datasets doctor", out))
