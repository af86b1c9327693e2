"""compare: names to reports, reports to tables and pictures. `pipelines/judge/compare.py` says how two are compared."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from pipelines.judge.compare import Compared, Side, as_json, compare_reports, difference_sheet, table
from pipelines.store import storage
from pipelines.tracking import reports_of
from pipelines.workspace.reports import Report


def compare_all(
    first: str,
    others: Sequence[str],
    workspace: str,
    out: str,
    *,
    metric: str | None = None,
    mode: str | None = None,
    setting: str | None = None,
) -> list[Table]:
    """Compare each of `others` with the first one, write `compare.json` and pictures to `out`; gives the tables.

    Raises ValueError where two have no common queries, TrackingError for a name that means no report.
    """
    tables, rows = [], []
    left = [Side(first, report) for report in reports_of(first, workspace)]
    for position, other in enumerate(others, start=1):
        right = [Side(other, report) for report in reports_of(other, workspace)]
        compared = compare_reports(left, right, metric=metric, mode=mode, setting=setting)
        found = [one for _, one in compared]
        tables.append(table((first, other), found))
        rows += as_json((first, other), found)
        for pair, one in [each for each in compared if _drawable(*each)][:1]:
            png = difference_sheet(*pair, one)
            storage.write_bytes(storage.join(out, f"compare-{position}.png"), png)
    storage.write_json(storage.join(out, "compare.json"), rows)
    return tables


def _drawable(pair: tuple[Side, Side], one: Compared) -> bool:
    """Average precision of the first setting, whose first photos reports keep (those of older code do not)."""
    kept = all(side.report.has(Report.TOP) for side in pair)
    return kept and one.metric == "mAP_all" and one.setting == pair[0].report.settings[0]
