"""compare: names to reports, reports to tables and pictures. `pipelines/compare.py` says how two are compared."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from pipelines import shards, storage
from pipelines.compare import Compared, Report, as_json, compare, difference_sheet, table
from pipelines.jobs.evaluate import TOP
from pipelines.tracking import reports_of


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
    left = reports_of(first, workspace)
    for position, other in enumerate(others, start=1):
        pairs, found = _common(first, left, other, reports_of(other, workspace), metric, mode, setting)
        tables.append(table((first, other), found))
        rows += as_json((first, other), found)
        drawn = [(pair, one) for pair, one in zip(pairs, found, strict=True) if _drawable(pair, one)]
        for pair, one in drawn[:1]:
            png = difference_sheet(*pair, one)
            storage.write_bytes(storage.join(out, f"compare-{position}.png"), png)
    storage.write_json(storage.join(out, "compare.json"), rows)
    return tables


def _common(
    first: str,
    left: Sequence[str],
    other: str,
    right: Sequence[str],
    metric: str | None,
    mode: str | None,
    setting: str | None,
) -> tuple[list[tuple[Report, Report]], list[Compared]]:
    """Every pair of reports that measured the same; of what several did, the newest pair."""
    candidates = [(Report(first, a), Report(other, b)) for a in left for b in right if _of(a) == _of(b)]
    pairs: list[tuple[Report, Report]] = []
    found: dict[tuple[str, ...], Compared] = {}
    refused: ValueError | None = None
    for pair in candidates or [(Report(first, left[0]), Report(other, right[0]))]:  # the latter says what they lack
        try:
            compared = compare(*pair, metric=metric, mode=mode, setting=setting)
        except ValueError as error:
            refused = refused or error
            continue
        for one in compared:
            key = (one.setting, one.protocol, one.metric, *one.modes)
            if key not in found:
                found[key] = one
                pairs.append(pair)
    if not found and refused is not None:
        raise refused
    return pairs, list(found.values())


def _of(report: str) -> tuple[str, str]:
    """What a report was evaluated on."""
    manifest = shards.read_manifest(report, "zse evaluate")
    return manifest["split_hash"], manifest["dataset_fingerprint"]


def _drawable(pair: tuple[Report, Report], one: Compared) -> bool:
    """Average precision of the unseen classes, of reports that kept what they found first."""
    kept = all(storage.exists(storage.join(side.folder, TOP)) for side in pair)
    return kept and one.metric == "mAP_all" and not one.setting.rpartition(".")[0].endswith(("-generalised", "-fg-all"))
