"""compare: compare reports on the same queries: which is better, by how much, in how many classes.

`zse compare` writes tables and pictures with it; `rules` reads its differences.

    <out>/compare.json  compare-1.png: the first with the second, compare-2.png: with the third, ...

A difference is tested on the queries of both reports, resampled by class (by photo for fine-grained retrieval) like the
intervals of a report. With fewer than ten classes it is shown without a test. The picture shows the queries of the
unseen classes whose average precision differs most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from pipelines.drawing.sheets import Row, decode_all, draw_sheet
from pipelines.store import storage
from pipelines.tracking import reports_of
from pipelines.workspace.images import Images
from pipelines.workspace.parts import open_part
from pipelines.workspace.queries import Difference, Queries, difference, key_parts
from pipelines.workspace.reports import Report
from zse_model.errors import ZseError
from zse_model.evaluation import PROTOCOLS
from zse_model.split import FEWEST

Wanted = Callable[[str, str], bool]
"""(setting, protocol) -> whether its results are wanted."""
KEYS = ("setting", "protocol", "mode", "metric")
SHOWN = 4  # queries that gain most, and as many that lose most


@dataclass(frozen=True)
class Side:
    """One side of a comparison."""

    name: str
    """As the user gave it."""
    report: Report


@dataclass(frozen=True)
class Compared:
    """One metric of two reports on the same queries."""

    setting: str
    protocol: str
    metric: str
    modes: tuple[str, str]
    means: tuple[float, float]
    difference: Difference
    """Second minus first."""
    classes: tuple[int, int, int]
    """Numbers of classes in which the second is better, equal and worse."""


@dataclass(frozen=True)
class Refused:
    """One metric that two reports have, and why it cannot be compared."""

    setting: str
    error: ZseError


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
    """Compare each of `others` with `first`, write `compare.json` and pictures to `out`, and return the tables.

    Raises ZseError if two have no common queries, TrackingError for a name without a report.
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
    """Whether to draw it: mAP_all of the first setting, if both reports keep the first photos (older ones do not)."""
    kept = all(side.report.has(Report.TOP) for side in pair)
    return kept and one.metric == "mAP_all" and one.setting == pair[0].report.settings[0]


def compare(
    first: Side,
    second: Side,
    *,
    metric: str | None = None,
    mode: str | None = None,
    setting: str | None = None,
    wanted: Wanted | None = None,
) -> list[Compared]:
    """Compare all common measurements of two reports on the same queries, or those of a metric, mode and setting.

    mode: None = each mode with itself, or the first mode of each report if they have none in common; `ret,fused` = ret
    of the first, fused of the second. setting: the beginning of its name. wanted: the others are not compared. Raises
    ZseError if the queries differ or nothing is left to compare.
    """
    each = list(_each(first, second, metric, mode, setting, wanted))
    found = [one for one in each if isinstance(one, Compared)]
    if not found and each:
        raise next(one.error for one in each if isinstance(one, Refused))
    return found


def _each(
    first: Side, second: Side, metric: str | None, mode: str | None, setting: str | None, wanted: Wanted | None
) -> Iterator[Compared | Refused]:
    """Every measurement of `compare`, those that cannot be compared among them. Raises ZseError if there is none."""
    a, b = Queries(first.report), Queries(second.report)
    mine = [key_parts(key) for key in a.keys]
    theirs = {key_parts(key) for key in b.keys}
    one, _, other = (mode or "").partition(",")
    pairs = [(key, (*key[:2], other or key[2], key[3])) for key in mine]
    if mode is None and not theirs & set(mine):
        modes = [next((key_parts(key)[2] for key in side.keys), "") for side in (a, b)]
        pairs = [(x, (*x[:2], modes[1], x[3])) for x in mine if x[2] == modes[0]]
    pairs = [(x, y) for x, y in pairs if y in theirs]
    if not pairs:
        raise ZseError(
            f"{first.name} and {second.name} have no common measurement: {_measured(mine)} and {_measured(theirs)}. "
            "Evaluate both on the same data: zse evaluate --checkpoint ... --experiment ..."
        )
    asked = [
        (x, y)
        for x, y in pairs
        if metric in (None, x[3]) and one in ("", x[2]) and (setting is None or x[0].startswith(setting))
    ]
    if not asked:
        known = ", ".join(sorted({"/".join(x) for x, _ in pairs}))
        given = {"setting": setting, "mode": mode, "metric": metric}
        said = ", ".join(f"{name} {value!r}" for name, value in given.items() if value is not None)
        raise ZseError(f"No common measurement has {said}. Common, as setting/protocol/mode/metric: {known}")
    for x, y in asked:
        if wanted is None or wanted(x[0], x[1]):
            try:
                yield _compared(a, b, x, y)
            except ZseError as error:
                yield Refused(x[0], error)


def compare_reports(
    first: Sequence[Side],
    second: Sequence[Side],
    *,
    metric: str | None = None,
    mode: str | None = None,
    setting: str | None = None,
) -> list[tuple[tuple[Side, Side], Compared]]:
    """`compare` each report of `first` with each of `second`; returns the results with their pairs of reports.

    If several pairs have the same measurement, the first pair counts. Raises ZseError if no pair can be compared.
    """
    found: dict[tuple[str, ...], tuple[tuple[Side, Side], Compared]] = {}
    refused: ZseError | None = None
    for pair, one in comparisons(first, second, metric=metric, mode=mode, setting=setting):
        if isinstance(one, Compared):
            found.setdefault((one.setting, one.protocol, one.metric, *one.modes), (pair, one))
        else:
            refused = refused or one.error
    if not found and refused is not None:
        raise refused
    return list(found.values())


def comparisons(
    first: Sequence[Side],
    second: Sequence[Side],
    *,
    metric: str | None = None,
    mode: str | None = None,
    setting: str | None = None,
    wanted: Wanted | None = None,
) -> Iterator[tuple[tuple[Side, Side], Compared | Refused]]:
    """`compare` each report of `first` with each of `second`, one pair of reports at a time.

    The data are in the order of `first`. On the same data, pairs of one split come before pairs of two splits, which
    may have the same unseen classes. wanted: the values of a pair are read, and resampled, only if it has a wanted
    setting. Raises ZseError if no pair has a common measurement.
    """
    measured = {side.report.url: measured_on(side) for side in (*first, *second)}
    data: dict[str, list[Side]] = {}  # fingerprint -> the second reports on it
    for side in second:
        data.setdefault(side.report.fingerprint, []).append(side)
    every = [(a, b) for a in first for b in data.get(a.report.fingerprint, ())]
    order = list(dict.fromkeys(side.report.fingerprint for side in first))

    def rank(pair: tuple[Side, Side]) -> tuple[int, bool]:
        a, b = (side.report for side in pair)
        return order.index(a.fingerprint), measured[a.url] != measured[b.url]

    pairs = sorted((pair for pair in every if not rank(pair)[1] or _overlap(*pair)), key=rank)
    asked = (pair for pair in pairs if wanted is None or _has(pair, wanted))
    none, refused = True, None
    for a, b in asked if pairs else [(first[0], second[0])]:  # that pair raises the error
        try:
            for one in _each(a, b, metric, mode, setting, wanted):
                none = False
                yield (a, b), one
        except ZseError as error:
            refused = refused or error
    if none and refused is not None:
        raise refused


def _has(pair: tuple[Side, Side], wanted: Wanted) -> bool:
    """Whether the first report of a pair has a wanted setting."""
    return any(wanted(setting, protocol) for setting in pair[0].report.settings for protocol in PROTOCOLS)


def _overlap(a: Side, b: Side) -> bool:
    """Whether two reports have a setting in common."""
    return not {*a.report.settings}.isdisjoint(b.report.settings)


def measured_on(side: Side) -> tuple[str, str, frozenset[str]]:
    """(hash of the split, fingerprint of the data, settings) of a report."""
    return side.report.split_hash, side.report.fingerprint, frozenset(side.report.settings)


def _compared(a: Queries, b: Queries, x: tuple[str, ...], y: tuple[str, ...]) -> Compared:
    setting, protocol, mode, metric = x
    key, other = "/".join(x), "/".join(y)
    found = difference(b, a, other, key)
    photos = a.gallery(key), b.gallery(other)
    if photos[0] != photos[1]:
        raise ZseError(
            f"{a.report.url} and {b.report.url} searched different galleries of {setting}: {photos[0]} and {photos[1]} "
            "photos. Evaluate both on the same data and split"
        )
    asked = a.answered(key)
    ours, theirs = a.values(key)[asked], b.values(other)[b.answered(other)]
    signs = np.sign(list(by_class_difference(a.category[asked], (theirs - ours).numpy()).values()))
    classes = int((signs > 0).sum()), int((signs == 0).sum()), int((signs < 0).sum())
    means = float(ours.mean()), float(theirs.mean())
    return Compared(setting, protocol, metric, (mode, y[2]), means, found, classes)


def by_class_difference(categories: np.ndarray, difference: np.ndarray) -> dict[str, float]:
    """Class -> mean difference, without classes of NaN alone. Rounded to 12 decimals: beyond them is float noise."""
    kept = ~np.isnan(difference)
    return {
        str(name): round(float(difference[kept & (categories == name)].mean()), 12)
        for name in np.unique(categories[kept])
    }


def _measured(keys: Iterable[tuple[str, ...]]) -> str:
    return ", ".join(sorted({"/".join(key[:3]) for key in keys})) or "nothing"


def difference_sheet(first: Side, second: Side, compared: Compared) -> bytes:
    """A PNG of the queries that gain most and lose most from the first report to the second. A query has two lines: the
    results of the first and of the second report.
    """
    sides = [Queries(first.report), Queries(second.report)]
    keys = ["/".join((compared.setting, compared.protocol, mode, compared.metric)) for mode in compared.modes]
    asked = [queries.answered(key) for queries, key in zip(sides, keys, strict=True)]
    values = [side.values(key).numpy()[own] for side, key, own in zip(sides, keys, asked, strict=True)]
    ranked = np.argsort(values[0] - values[1], kind="stable")
    half = min(SHOWN, len(ranked) // 2)
    chosen = [*ranked[:half], *ranked[len(ranked) - half :]]
    ids: list[str] = sides[0].id[asked[0]].tolist()
    category = sides[0].category[asked[0]]
    tops = [_first_photos(side, mode) for side, mode in zip((first, second), compared.modes, strict=True)]
    wanted = list(
        dict.fromkeys(id for query in chosen for id in (ids[query], *(p for top in tops for p in top[ids[query]])))
    )
    images = Images.open(first.report.images or "")
    everyone = images.members()
    at = {id: i for i, id in enumerate(everyone.id)}
    decoded = decode_all(images, everyone, np.array([at[id] for id in wanted]))
    pictures = dict(zip(wanted, decoded, strict=True))
    rows = []
    for query in chosen:
        for side, (top, scored) in enumerate(zip(tops, values, strict=True), start=1):
            photos = top[ids[query]]
            names = [str(everyone.category[at[photo]]) for photo in photos]
            rows.append(
                Row(
                    pictures[ids[query]],
                    f"{side}: {scored[query]:.2f} {category[query]}",
                    [pictures[photo] for photo in photos],
                    names,
                    [name == category[query] for name in names],
                )
            )
    return draw_sheet(rows)


def _first_photos(side: Side, mode: str) -> dict[str, list[str]]:
    table = open_part(side.report.file(Report.TOP)).read(columns=["id", mode]).to_pydict()
    return dict(zip(table["id"], table[mode], strict=True))


def table(names: Sequence[str], found: Sequence[Compared]) -> Table:
    out = Table(title=f"{names[1]} minus {names[0]}, on the same queries")
    for column in KEYS:
        out.add_column(column)
    for column in ("first", "second", "difference", "95 % interval", "p", "classes"):
        out.add_column(column, justify="right")
    for one in found:
        d = one.difference
        out.add_row(
            one.setting,
            one.protocol,
            one.modes[0] if one.modes[0] == one.modes[1] else " / ".join(one.modes),
            one.metric,
            *(f"{mean:.3f}" for mean in one.means),
            f"{d.value:+.3f}",
            f"too few classes ({d.classes} < {FEWEST})" if d.few else f"{d.low:+.3f} to {d.high:+.3f}",
            "" if np.isnan(d.p) else f"{d.p:.3f}",
            "{} +, {} =, {} -".format(*one.classes),
        )
    return out


def as_json(names: Sequence[str], found: Sequence[Compared]) -> list[dict[str, Any]]:
    """Rows for scripts; `difference` is the second minus the first."""
    return [
        {
            "first": names[0],
            "second": names[1],
            "setting": one.setting,
            "protocol": one.protocol,
            "metric": one.metric,
            "modes": list(one.modes),
            "means": list(one.means),
            **{k: None if np.isnan(v) else v for k, v in vars(one.difference).items()},
            "classes_better": one.classes[0],
            "classes_equal": one.classes[1],
            "classes_worse": one.classes[2],
        }
        for one in found
    ]
