"""Make the tables at the end of a run: every method and mode, with the differences to the reference rows. The command
line calls it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from rich.table import Table

from pipelines.run import Outputs
from pipelines.workspace.queries import Queries, difference, interval, metric_key
from zse_model.evaluation import CATEGORY_METRICS, HEADLINES, LEADING, expected_average_precision
from zse_model.evaluation.protocol import is_zero_shot
from zse_model.modes import RET


def chance(rows: Sequence[dict[str, Any]], out: Outputs) -> dict[str, float]:
    """Setting -> expected mAP_all of a random order."""
    report = next(iter(out.reports.values()))
    if report.chance is not None:
        return dict(report.chance)
    # A report of an earlier version has no chance: compute that of its first setting from the ingested counts.
    counts = out.images.counts
    queries = Queries(report)
    categories = queries.category[~queries.values(metric_key(rows[0])).isnan().numpy()]
    photos = {c: counts[c].get("photo", 0) for c in set(categories)}
    relevant = torch.tensor([photos[c] for c in categories])
    return {rows[0]["setting"]: float(expected_average_precision(relevant, sum(photos.values())).mean())}


def result_tables(out: Outputs) -> list[Table]:
    """The table of the unseen classes, and those of the pseudo-unseen classes and of trained classes if they were
    evaluated."""
    chosen = [result_table(out.selection, "Pseudo-unseen classes (to choose models)")] if out.selection else []
    by_class = [row for row in out.rows() if row["metric"] == LEADING[0]]
    trained = "Trained classes, NOT zero-shot: held-back pictures"
    seen = [result_table(out, trained, zero_shot=False)] if not all(map(is_zero_shot, by_class)) else []
    return [result_table(out), *chosen, *seen]


def result_table(out: Outputs, searched: str = "Unseen classes", *, zero_shot: bool = True) -> Table:
    """One row for each method and mode: the headline metrics at category level, and differences to reference rows.

    zero_shot: of the settings that are, or of those that are not."""
    rows = [row for row in replace(out, selection=None).rows() if row["protocol"] == "plain"]
    rows = [row for row in rows if is_zero_shot(row) == zero_shot]
    settings = list(dict.fromkeys(row["setting"] for row in rows if row["metric"] == LEADING[0]))
    references = [name for name in out.reports if name.endswith("-untrained") or name == "raw_pixels"]
    queries = {name: Queries(report) for name, report in out.reports.items()}
    by_chance = chance(rows, out)
    named = [f"{name} (chance mAP_all {by_chance[name]:.3f})" if name in by_chance else name for name in settings]
    table = Table(title=f"{searched} of {', '.join(named)}")
    leading, *others = (metric for metric in HEADLINES if metric in CATEGORY_METRICS)
    columns = ("method", "mode", leading, "95 % interval", *others, "vs untrained", "vs raw_pixels")
    for column in columns if references else columns[:-2]:
        table.add_column(column, justify="left" if column in ("method", "mode") else "right")
    for (setting, method, mode), cells in _grouped(rows).items():
        best = cells.get(leading)
        if cells.keys().isdisjoint(CATEGORY_METRICS):
            continue
        line = [
            method,
            mode,
            f"{best['value']:.3f}" if best is not None else "-",  # a shortlist has no mAP_all
            interval(best) if best is not None else "",
            *(f"{cells[m]['value']:.3f}" if m in cells else "" for m in others),
        ]
        for reference in (f"{method}-untrained", "raw_pixels") if references else ():
            if best is not None and reference in out.reports and method not in references:
                theirs = {row["mode"] for row in rows if row["method"] == reference}
                their_mode = mode if mode in theirs else RET.name
                d = difference(
                    queries[method],
                    queries[reference],
                    f"{setting}/plain/{mode}/{leading}",
                    f"{setting}/plain/{their_mode}/{leading}",
                )
                line.append(d.text())
            else:
                line.append("")
        table.add_row(*line)
    return table


def _grouped(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str, str], dict[str, dict[str, Any]]]:
    grouped: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault((row["setting"], row["method"], row["mode"]), {})[row["metric"]] = row
    return grouped
