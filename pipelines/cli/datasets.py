"""The verbs of `zse datasets`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import absolute, check_output, last
from pipelines.runtime.commands import command
from pipelines.runtime.progress import show

if TYPE_CHECKING:
    pass


app = typer.Typer(
    no_args_is_help=True,
    help="The data sets of the field: which there are, what a folder of yours holds, subsets that others can rebuild.",
)


@app.command("list")
def datasets_list() -> None:
    """The data sets that are known, with their published counts and their splits.

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
    last("docs/datasets.md says how each is laid out", show_one, look)


@app.command("show")
def datasets_show(name: Annotated[str, typer.Argument(help="As `zse datasets list` names it.")]) -> None:
    """One data set: where it legally comes from, its splits and their citations, its settings and published numbers.

    Example: `zse datasets show sketchy`
    """
    from pipelines.datasets.diagnose import describe
    from pipelines.datasets.published import known_dataset

    known = known_dataset(name)
    show("\n".join(describe(known)))
    last("docs/datasets.md says how it is laid out", command("datasets doctor", "FOLDER"))


@app.command("doctor")
def datasets_doctor(
    source: Annotated[
        list[str], typer.Argument(help="A folder, URL or archive; several where the data lies in several.")
    ],
    read: Annotated[int, typer.Option("--read", min=0, help="How many pictures to read, evenly over all.")] = 50,
) -> None:
    """What a source holds: its layout, its counts beside the published ones, what is missing, the possible splits.

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
    members: Annotated[str, typer.Argument(help="A shipped list (sketchy125_128), or a TSV file or URL of members.")],
    source: Annotated[list[str], typer.Option("--source", help="Your copy of the data set; may be given again.")],
    out: Annotated[str, typer.Option("--out", "-o", help="Where the subset goes: a folder or s3://bucket/prefix.")],
    size: Annotated[
        int | None, typer.Option("--size", min=16, max=1024, help="Side in px; none = as they are.")
    ] = None,
) -> None:
    """A listed part of a data set, from your own copy, as `sketch/<class>/*`, `photo/<class>/*` and pairs.tsv.

    Example: `zse datasets subset sketchy125_128 --source /data/Sketchy --size 128 --out /data/sketchy125_128`
    """
    from pipelines.datasets.subset import write_subset

    check_output("--out", out, folder=True)
    written = write_subset(members, [absolute(s) for s in source], out, size)
    last(f"{written:,} pictures in {out}", command("datasets doctor", out))
