"""The tables of docs/results.md and of the README, as lines of Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.results.columns import Column, Found, text
from benchmarks.results.costs import costs
from benchmarks.results.plan import DIFFUSED, DIFFUSED_MODES, MEASURES, MODES

Rows = Mapping[str, Found]


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def head(*names: str) -> list[str]:
    return [line(*names).replace("|  |", "| |"), "|---" * len(names) + "|"]


def not_run(one: Found, columns: int) -> str:
    return f"| {one.row.name} | not run |" + " |" * (columns - 2)


def cell(column: Column | None) -> str:
    return "-" if column is None else str(column)


def difference(one: Found, other: Found, mode: str, their_mode: str) -> str:
    """The mAP_all of a row minus the other row's, each in its mode; empty if either has none."""
    ours, theirs = one.column(f"{mode}/mAP_all"), other.column(f"{their_mode}/mAP_all")
    return "" if ours is None or theirs is None else f"{mode} {text(ours.minus(theirs))}"


def selection(found: Rows, modes: Sequence[str], reference: str, *, by: str | None = None) -> list[str]:
    """by: the mode of the reference; None = the row's own best mode."""
    versus = f"best mode minus `{reference}` {'in that mode' if by is None else f'by {by}'}"
    names = ("row", "seeds", *modes, versus, "steps", "CPU minutes", "")
    rows = (
        selection_row(one, modes, found[reference], by) if one.records else not_run(one, len(names))
        for one in found.values()
    )
    return [*head(*names), *rows]


def selection_row(one: Found, modes: Sequence[str], reference: Found, by: str | None) -> str:
    columns = {mode: one.column(f"{mode}/mAP_all") for mode in modes}
    best = max((column.mean, mode) for mode, column in columns.items() if column is not None)[1]
    return line(
        one.row.name,
        str(len(one.records)),
        *("" if column is None else str(column) for column in columns.values()),
        "" if one is reference else difference(one, reference, best, by or best),
        str(one.records[0]["steps"]),
        cpu_minutes(one),
        one.row.note,
    )


def cpu_minutes(one: Found) -> str:
    """The mean of the seeds that ran without a GPU."""
    minutes = [r["cpu_minutes"] for r in one.records if r.get("device", "CPU") == "CPU"]
    return f"{statistics.mean(minutes):.1f}" if minutes else "GPU"


def by_mode(found: Rows, metrics: Mapping[str, str], part: str = "test") -> list[str]:
    """A line for each row and mode. metrics: head of the column -> key, in which {} stands for the mode."""
    lines = head("row", "seeds", "mode", *metrics)
    for name, one in found.items():
        if not one.records:
            lines.append(not_run(one, 3 + len(metrics)))
        for mode in MODES:
            columns = [one.column(key.format(mode), part) for key in metrics.values()]
            if any(column is not None for column in columns):
                lines.append(line(name, str(len(one.records)), mode, *map(cell, columns)))
    return lines


def styles(found: Rows) -> list[str]:
    """Each row on both styles of drawing, and what it has more than the row `plain`, by `fused`."""
    parts = {"Sketchy": "test", "QuickDraw": "cross"}
    lines = head("row", "seeds", *parts, *(f"{name}, minus `plain`" for name in parts), "")
    for name, one in found.items():
        columns = [one.column("fused/mAP_all", part) for part in parts.values()]
        if not all(columns):
            lines.append(not_run(one, 7))
            continue
        theirs = [found["plain"].column("fused/mAP_all", part) for part in parts.values()]
        gained = [text(a.minus(b)) if a and b and name != "plain" else "" for a, b in zip(columns, theirs, strict=True)]
        lines.append(line(name, str(len(one.records)), *map(cell, columns), *gained, one.row.note))
    return lines


def pairs(found: Rows) -> list[str]:
    """What each row finds by class and by photo, and what it has more than the row `plain`."""
    keys = {
        "mAP_all of `fused`": "fused/mAP_all",
        "acc_1 of `late`, photos of the class": "fg-class:late/acc_1",
        "unseen": "fg:late/acc_1",
        "all": "fg-all:late/acc_1",
    }
    lines = head("row", "steps", *keys, "mAP_all minus `plain`", "all minus `plain`", "")
    for name, one in found.items():
        columns = [one.column(key) for key in keys.values()]
        if not all(columns):
            lines.append(not_run(one, 9))
            continue
        theirs = [found["plain"].column(key) for key in keys.values()]
        gained = [text(a.minus(b)) if a and b and name != "plain" else "" for a, b in zip(columns, theirs, strict=True)]
        lines.append(line(name, str(one.row.steps), *map(cell, columns), gained[0], gained[-1], one.row.note))
    return lines


DIFFUSION = {
    "mAP_all": ("{}/mAP_all", "test"),
    "P_25": ("{}/P_25", "test"),
    "P_1": ("{}/P_1", "test"),
    "mAP_all with held-back photos": ("generalised:{}/mAP_all", "test"),
    "mAP_all of QuickDraw to Caltech-101": ("{}/mAP_all", "cross"),
    "acc_1 of the own photo": ("fg:{}/acc_1", "test"),
}


def diffusion(found: Rows) -> list[str]:
    """A line for each row, metric and mode: as it is, and after diffusion."""
    lines = head("row", "metric", "mode", "as it is", f"`{DIFFUSED}`", "difference")
    for name, one in found.items():
        if not one.records:
            lines.append(not_run(one, 6))
        for metric, (key, part) in DIFFUSION.items():
            for mode in DIFFUSED_MODES:
                plain, again = (one.column(key.format(m), part) for m in (mode, f"{mode}-{DIFFUSED}"))
                if plain is not None and again is not None:
                    lines.append(line(name, metric, mode, str(plain), str(again), text(again.minus(plain))))
    return lines


def final(found: Rows) -> list[str]:
    lines = head("row", "seeds", "mode", "mAP_all", "minus `global`", "P_25", "P_1")
    for name, one in found.items():
        if not one.records:
            lines.append(not_run(one, 7))
        for mode in MODES:
            overall, *others = (one.column(f"{mode}/{metric}") for metric in ("mAP_all", "P_25", "P_1"))
            if others[-1] is not None:
                reference = found[f"{one.row.split}.global"]
                versus = "" if one is reference else difference(one, reference, mode, "ret")
                lines.append(line(name, str(len(one.records)), mode, cell(overall), versus, *map(cell, others)))
    return lines


def codes(found: Rows) -> list[str]:
    names = "row", "seeds", "floats", "hash-64", "asym-64", "itq-64"
    lines = head(*names, "hash-64 / floats", "asym-64 / floats", "hash-64 minus itq-64")
    return [*lines, *(codes_row(one) for one in found.values() if one.row.experiment == "folder+crossatnet")]


def codes_row(one: Found) -> str:
    columns = [c for mode in ("ret", "hash-64", "asym-64", "itq-64") if (c := one.column(f"{mode}/mAP_all"))]
    if len(columns) < 4:
        return not_run(one, 9)
    floats, learned, asymmetric, itq = columns
    return line(
        one.row.name,
        str(len(one.records)),
        str(floats),
        *map(str, (learned, asymmetric, itq)),
        *(f"{codes.mean / floats.mean:.2f}" for codes in (learned, asymmetric)),
        difference(one, one, "hash-64", "itq-64"),
    )


def generalised(found: Rows) -> list[str]:
    lines = head("row", "seeds", "mode", "unseen photos", "with held-back photos", "difference")
    for name, one in found.items():
        if not one.records:
            lines.append(not_run(one, 6))
        for mode in MODES:
            alone, beside = one.column(f"{mode}/mAP_all"), one.column(f"generalised:{mode}/mAP_all")
            if alone is not None and beside is not None:
                cells = str(alone), str(beside), text(beside.minus(alone))
                lines.append(line(name, str(len(one.records)), mode, *cells))
    return lines


def fine_grained(found: Rows) -> list[str]:
    galleries = {"class": "fg-class", "unseen": "fg", "all": "fg-all"}
    ks = ("acc_1", "acc_5", "acc_10")
    return by_mode(found, {f"{name} {k}": f"{kind}:{{}}/{k}" for name, kind in galleries.items() for k in ks})


def across(found: Rows) -> list[str]:
    crossed = {name: one for name, one in found.items() if one.row.cross}
    return by_mode(crossed, {metric: f"{{}}/{metric}" for metric in ("mAP_all", "P_25", "P_1")}, "cross")


def seen(found: Rows) -> list[str]:
    return by_mode(found, {"mAP_all": "{}/mAP_all"}, "seen")


def faithful(found: Rows) -> list[str]:
    lines = head("row", "score", "pairs", "matched minus", *MEASURES)
    for name, one in found.items():
        if one.row.faithful:
            rows = [line for mode in ("rn", "late") for line in faithful_rows(name, one, mode)]
            lines += rows or [not_run(one, 4 + len(MEASURES))]
    return lines


def faithful_rows(name: str, one: Found, mode: str) -> list[str]:
    ours, *controls = (
        [c for measure in MEASURES if (c := one.column(f"{order}/{measure}", f"faithfulness_{mode}"))]
        for order in ("matched", "uniform", "attended")
    )
    return [
        line(
            *(name, f"`{mode}`", str(len(ours[0].values)), other),
            *(text(a.minus(b)) for a, b in zip(ours, theirs, strict=True)),
        )
        for other, theirs in zip(("uniform", "attended"), controls, strict=True)
        if theirs
    ]


LABELS = {
    "global": "`global`",
    "near": "`late_interaction`",
    "zse": "`zse_sbir` with `late`",
    "crossatnet": "`crossatnet`",
}
SPLITS = ("sketchy-25", "sketchy-21")
README_ROWS = (
    ("global", "ret"),
    *(("near", mode) for mode in ("late", "fused")),
    *(("zse", mode) for mode in ("ret", "rn", "fused", "late", "fused-late")),
    *(("crossatnet", mode) for mode in ("ret", "hash-64", "asym-64")),
)


def readme(found: Rows) -> list[str]:
    """A line for each method and mode that was run."""
    names = ("method", "mode", "bytes a photo", "MFLOP a pair")
    lines = head(*names, "mAP_all, 25 unseen", "minus `global`", "mAP_all, 21 unseen", "minus `global`")
    for name, mode in README_ROWS:
        cells = []
        for split in SPLITS:
            ours = found[f"{split}.{name}"].column(f"{mode}/mAP_all")
            theirs = found[f"{split}.global"].column("ret/mAP_all")
            versus = text(ours.minus(theirs)) if ours and theirs and name != "global" else ""
            cells += [cell(ours), versus]
        if any(found[f"{split}.{name}"].column(f"{mode}/mAP_all") for split in SPLITS):
            flop, size = costs(name)[mode]
            cost = f"{size:,}", f"{flop / 1e6:.2g}" if flop < 1e6 else f"{flop / 1e6:.0f}"
            lines.append(line(LABELS[name], f"`{mode}`", *cost, *cells).replace("|  |", "| |"))
    return lines
