"""compare: reports of the same queries, pair by pair. What is better, by how much, and where.

    <out>/compare.json  compare.png

A difference is tested on the queries that both answered, resampled by class (by photo for fine-grained retrieval), as
the intervals of a report are. The picture shows the queries of the unseen classes whose average precision differs most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.table import Table

from pipelines import shards, storage
from pipelines.jobs.evaluate import QUERIES, TOP
from pipelines.members import read_members
from pipelines.sheets import Row, decode_all, draw_sheet
from zse_model.evaluation.metrics import PairedDifference, paired_difference

KEYS = ("setting", "protocol", "mode", "metric")
SHOWN = 4  # queries that gain most, and as many that lose most


@dataclass(frozen=True)
class Report:
    """One side of a comparison."""

    name: str
    """As it was asked for."""
    folder: str


@dataclass(frozen=True)
class Compared:
    """One metric of two reports on the same queries."""

    setting: str
    protocol: str
    metric: str
    modes: tuple[str, str]
    means: tuple[float, float]
    difference: PairedDifference
    """Second minus first."""
    classes: tuple[int, int, int]
    """In how many the second is better, equal, worse."""


class Queries:
    """The columns of a report's queries.parquet."""

    def __init__(self, report: Report) -> None:
        if not storage.exists(storage.join(report.folder, QUERIES)):
            raise storage.StorageError(f"{report.name}: {report.folder} is no report, it has no {QUERIES}")
        self.report = report
        self.columns: dict[str, Any] = shards.open_part(storage.join(report.folder, QUERIES)).read().to_pydict()

    def keys(self) -> list[tuple[str, ...]]:
        return [tuple(name.split("/")) for name in self.columns if name.count("/") == len(KEYS) - 1]

    def values(self, key: Sequence[str]) -> torch.Tensor:
        return torch.tensor(self.columns["/".join(key)], dtype=torch.float64)

    def groups(self, setting: str) -> np.ndarray:
        """What a query is resampled with: its class, or its photo for fine-grained retrieval."""
        column = "instance" if setting.rpartition(".")[0].partition("-fg")[1] else "category"
        return np.asarray([str(value) for value in self.columns[column]])


def compare(
    first: Report, second: Report, *, metric: str | None = None, mode: str | None = None, setting: str | None = None
) -> list[Compared]:
    """Everything that both reports measured on the same queries, or what of it is asked for.

    Modes are compared with themselves, or as asked: `ret,fused` is the first's ret and the second's fused. Without a
    mode in common it is the first mode of each. Raises ValueError for reports of other queries, or with nothing to
    compare.
    """
    a, b = Queries(first), Queries(second)
    ours, theirs = set(a.keys()), set(b.keys())
    one, _, other = (mode or "").partition(",")
    pairs = [(key, (*key[:2], other or key[2], key[3])) for key in a.keys()]
    pairs = [(x, y) for x, y in pairs if y in theirs]
    if not pairs and mode is None:
        modes = [next((key[2] for key in side.keys()), "") for side in (a, b)]
        pairs = [(x, (*x[:2], modes[1], x[3])) for x in a.keys() if x[2] == modes[0]]
        pairs = [(x, y) for x, y in pairs if y in theirs]
    if not pairs:
        raise ValueError(
            f"{first.name} and {second.name} measured nothing in common: {_measured(ours)} and {_measured(theirs)}. "
            "Evaluate both on the same data: zse evaluate --checkpoint ... --experiment ..."
        )
    asked = [
        (x, y)
        for x, y in pairs
        if metric in (None, x[3]) and one in ("", x[2]) and (setting is None or x[0].startswith(setting))
    ]
    if not asked:
        known = ", ".join(sorted({"/".join(x) for x, _ in pairs}))
        raise ValueError(
            f"Nothing of both is setting {setting}, mode {mode}, metric {metric}. Of both there is {known}"
        )
    if a.columns["id"] != b.columns["id"]:
        raise ValueError(
            f"{first.name} and {second.name} are of different queries, {len(a.columns['id'])} and "
            f"{len(b.columns['id'])}: only the same ones can be paired. Evaluate both on the same data"
        )
    return [_compared(a, b, x, y) for x, y in asked]


def _compared(a: Queries, b: Queries, x: tuple[str, ...], y: tuple[str, ...]) -> Compared:
    setting, protocol, mode, metric = x
    ours, theirs = a.values(x), b.values(y)
    groups = np.unique(a.groups(setting), return_inverse=True)[1]
    difference = paired_difference(theirs, ours, torch.tensor(groups))
    by_class = by_class_difference(np.asarray(a.columns["category"]), (theirs - ours).numpy())
    signs = np.sign(list(by_class.values()))
    classes = int((signs > 0).sum()), int((signs == 0).sum()), int((signs < 0).sum())
    means = float(ours.nanmean()), float(theirs.nanmean())
    return Compared(setting, protocol, metric, (mode, y[2]), means, difference, classes)


def by_class_difference(categories: np.ndarray, difference: np.ndarray) -> dict[str, float]:
    """The mean difference of each class that has one, rounded to what a mean of floats can tell."""
    kept = ~np.isnan(difference)
    return {
        str(name): round(float(difference[kept & (categories == name)].mean()), 12)
        for name in np.unique(categories[kept])
    }


def _measured(keys: set[tuple[str, ...]]) -> str:
    return ", ".join(sorted({"/".join(key[:3]) for key in keys})) or "nothing"


def difference_sheet(first: Report, second: Report, compared: Compared) -> bytes:
    """A PNG of the queries that gain most from the first report to the second and of those that lose most, two lines
    a query: what the first found, what the second found.
    """
    a, b = Queries(first), Queries(second)
    x, y = ((compared.setting, compared.protocol, mode, compared.metric) for mode in compared.modes)
    gained = (b.values(y) - a.values(x)).numpy()
    ranked = np.argsort(-np.nan_to_num(gained, nan=0.0), kind="stable")
    half = min(SHOWN, len(ranked) // 2)
    chosen = [*ranked[:half], *ranked[len(ranked) - half :]]
    images = shards.read_manifest(first.folder, "zse evaluate")["images"]
    source = shards.read_manifest(images, "zse ingest")
    everyone = read_members(images, source)
    at = {id: i for i, id in enumerate(everyone.id)}
    tops = [_first_photos(side, mode) for side, mode in zip((first, second), compared.modes, strict=True)]
    rows = []
    for query in chosen:
        id, category = a.columns["id"][query], a.columns["category"][query]
        (drawn,) = decode_all(images, source, everyone, np.array([at[id]]))
        for side, top, queries, key in zip((1, 2), tops, (a, b), (x, y), strict=True):
            photos = np.array([at[photo] for photo in top[id]])
            rows.append(
                Row(
                    drawn,
                    f"{side}: {queries.columns['/'.join(key)][query]:.2f} {category}",
                    decode_all(images, source, everyone, photos),
                    [str(everyone.category[photo]) for photo in photos],
                    [bool(everyone.category[photo] == category) for photo in photos],
                )
            )
    return draw_sheet(rows)


def _first_photos(report: Report, mode: str) -> dict[str, list[str]]:
    table = shards.open_part(storage.join(report.folder, TOP)).read(columns=["id", mode]).to_pydict()
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
            "" if np.isnan(d.low) else f"{d.low:+.3f} to {d.high:+.3f}",
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
