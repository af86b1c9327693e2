"""Draw the tables of docs/results.md as figures: a dot with its 95 % interval, if it has one, for each row and mode."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.results.columns import Column, Found
from benchmarks.results.plan import DIFFUSED, DIFFUSED_MODES
from benchmarks.results.tables import LABELS, README_ROWS, SPLITS

Rows = Mapping[str, Found]
Lines = Mapping[str, Mapping[str, Column]]
"""Name of a line -> what is measured -> its values."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
"""Okabe and Ito's, which people with any colour vision tell apart."""


def figures(found: Mapping[str, Rows]) -> dict[str, str]:
    """Name of a figure -> SVG. Lines without a value are left out, and a figure without a line."""
    final = {one.row.name: one for one in found["final"].values() if one.records}
    galleries = {"photos of its class": "fg-class", "unseen": "fg", "all drawn photos": "fg-all"}
    photo = {name: (f"{kind}:{{}}/acc_1", "test") for name, kind in galleries.items()}
    drawn = {
        "selection": by_row(found["selection"], ("ret", "rn", "fused")),
        "crossatnet": by_row(found["crossatnet"], ("ret", "hash-64", "itq-64")),
        "rates": by_row(found["rates"], ("ret", "rn", "fused", "hash-64")),
        "recipes": by_row(found["recipes"], ("ret",)),
        "late": by_row(found["late"], ("ret", "rn", "fused", "late", "fused-late")),
        "photos": by_row({**of(found["late"], "global"), **found["photos"]}, ("ret",)),
        "styles": by_mode(found["styles"], ("fused",), {"Sketchy": ("{}/mAP_all", "test"), "QuickDraw": CROSSED}),
        "pairs": by_mode(found["pairs"], ("ret", "late", "fused"), photo),
        "final": by_method(found["final"]),
        "generalised": by_mode(final, BEST, {"unseen photos": PLAIN, "and held-back photos": GENERALISED}),
        "fine": by_mode(final, BEST, photo),
        "across": by_mode(final, BEST, {"QuickDraw to Caltech-101": CROSSED}),
        "diffusion": by_mode(
            found["diffusion"], DIFFUSED_MODES, {"as they are": PLAIN, DIFFUSED: (f"{{}}-{DIFFUSED}/mAP_all", "test")}
        ),
        "seen": by_mode(final, BEST, {"seen classes": ("{}/mAP_all", "seen")}),
    }
    return {
        name: svg(lines, "acc_1" if name in ("pairs", "fine") else "mAP_all") for name, lines in drawn.items() if lines
    }


BEST = ("ret", "late", "fused", "fused-late", "hash-64", "asym-64")
PLAIN, GENERALISED, CROSSED = ("{}/mAP_all", "test"), ("generalised:{}/mAP_all", "test"), ("{}/mAP_all", "cross")


def by_row(found: Rows, modes: Sequence[str]) -> Lines:
    """A line for each row, with its modes beside each other."""
    return kept({name: {mode: one.column(f"{mode}/mAP_all") for mode in modes} for name, one in found.items()})


def by_mode(found: Rows, modes: Sequence[str], series: Mapping[str, tuple[str, str]]) -> Lines:
    """A line for each row and mode. series: what is measured -> (key, in which {} stands for the mode; part)."""
    return kept(
        {
            f"{name} {mode}": {label: one.column(key.format(mode), part) for label, (key, part) in series.items()}
            for name, one in found.items()
            for mode in modes
        }
    )


def by_method(found: Rows) -> Lines:
    """The lines of README's table, with both splits beside each other."""
    return kept(
        {
            f"{LABELS[name]} {mode}".replace("`", ""): {
                f"{split.removeprefix('sketchy-')} unseen classes": found[f"{split}.{name}"].column(f"{mode}/mAP_all")
                for split in SPLITS
                if f"{split}.{name}" in found
            }
            for name, mode in README_ROWS
        }
    )


def of(found: Rows, name: str) -> Rows:
    return {name: found[name]} if name in found else {}


def kept(lines: Mapping[str, Mapping[str, Column | None]]) -> Lines:
    found = {line: {name: c for name, c in columns.items() if c is not None} for line, columns in lines.items()}
    return {line: columns for line, columns in found.items() if columns}


def svg(lines: Lines, metric: str) -> str:
    """The figure, the same text at every call."""
    series = list(unique(name for columns in lines.values() for name in columns))
    with rc_context({"svg.hashsalt": "zse", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}):
        figure = Figure(figsize=(7.5, 0.7 + len(lines) * max(0.26, 0.13 * len(series))), layout="constrained")
        axes = figure.add_subplot()
        for i, name in enumerate(series):
            shift = (i - (len(series) - 1) / 2) * 0.7 / len(series)
            points = [(y + shift, columns[name]) for y, columns in enumerate(lines.values()) if name in columns]
            bounds = [(column.mean, *column.interval) for _, column in points]
            axes.errorbar(
                [mean for mean, _, _ in bounds],
                [y for y, _ in points],
                xerr=[[mean - low for mean, low, _ in bounds], [high - mean for mean, _, high in bounds]],
                fmt="o",
                markersize=4,
                linewidth=1.2,
                color=COLOURS[i],
                label=name,
            )
        axes.set(xlabel=f"{metric}, with 95 % interval", ylim=(len(lines) - 0.5, -0.5))
        axes.set_yticks(range(len(lines)), list(lines))
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if len(series) > 1:
            figure.legend(loc="outside lower center", ncols=len(series), frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def unique(names: Iterable[str]) -> Iterable[str]:
    return dict.fromkeys(names)
