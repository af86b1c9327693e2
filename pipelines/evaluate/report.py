"""Write a report's files (`pipelines/workspace/reports.py`) and their manifest. `evaluate` and `raw_pixels` call it.

`report.json` has the result rows (docs/evaluation.md), `queries.parquet` the values of each query, for comparisons
paired by query, `top.parquet` the first photos of each query. These photos, the charts, the sheets and the other tables
are of the first setting, by `plain` if it is asked for: average precision by class, classes of the first ten photos,
and interpolated precision at eleven recalls.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.config.experiment import ExperimentConfig, to_dict
from pipelines.drawing import report_charts, sheets
from pipelines.drawing.charts import Charted
from pipelines.evaluate.searches import Search
from pipelines.store import storage
from pipelines.workspace.images import Images
from pipelines.workspace.looks import NEAR
from pipelines.workspace.members import Members
from pipelines.workspace.parts import encode_part
from pipelines.workspace.queries import claimed
from pipelines.workspace.reports import Report
from zse_model.evaluation.evaluate import Evaluation, Task
from zse_model.split import ZeroShotSplit

SHOWN = 10  # photos of a query in top.parquet and in the confusion of classes


def provenance_of(config: ExperimentConfig, split: ZeroShotSplit, fingerprint: str, checkpoint: str) -> dict[str, Any]:
    """The provenance columns of every result row. checkpoint: its hash, or `none`. `evaluate` then sets the name of the
    training and the number of distilled test units."""
    return {
        "split": split.name,
        "split_hash": split.digest,
        "dataset_fingerprint": fingerprint,
        "checkpoint_hash": checkpoint,
        "checkpoint": "none",
        "distilled_test_units": 0,
        "use": config.use,
    }


def report_key(config: ExperimentConfig, split: ZeroShotSplit, fingerprint: str, checkpoint_hash: str) -> str:
    """A digest of checkpoint, data, split and settings, of raw pixels also of the transforms, which a checkpoint holds.
    Reports with the same key have the same rows, even if their pictures come from different folders."""
    transforms = [to_dict(config.transforms)] if checkpoint_hash == "none" else []
    return storage.digest([checkpoint_hash, fingerprint, split.digest, *transforms, *_settings(config)], 16)


def _settings(config: ExperimentConfig) -> list[Any]:
    e = config.evaluation
    asked = [e.protocols, e.instance_level, e.modes, e.precision, sorted(e.distractors)]
    asked.append(e.seen_classes and "and by class")  # reports of earlier versions have no such rows
    return [asked, config.use, NEAR, Report.FORMAT]


class Place(NamedTuple):
    """The folder of a report, and its full key."""

    url: str
    key: str


def place_of(config: ExperimentConfig, workspace: str, name: str, depends: dict[str, Any]) -> Place:
    """The place of a report. depends: what the report depends on besides the settings of the evaluation."""
    key = storage.digest([depends, *_settings(config)])
    return Place(Report.place(workspace, name, key), key)


def write_report(
    place: Place,
    extra: dict[str, Any],
    images: Images,
    searches: list[Search],
    evaluations: dict[str, list[Evaluation]],
    sketches: Members,
    photos: Members,
    method: str,
    provenance: dict[str, Any],
) -> Report:
    """Write tables, charts and sheets, and the manifest last.

    evaluations: mode -> one evaluation per search; the first mode is the one of confusion and sheets. sketches, photos:
    the encoded pictures that the searches index. extra: further fields of the manifest. provenance: columns of every
    row.
    """
    folder = place.url
    rows, columns = _measured(searches, evaluations, sketches, method, provenance)
    _write_first_setting(folder, images, searches[0], {m: e[0] for m, e in evaluations.items()}, sketches, photos)
    by_id = pa.table(columns).sort_by("id")  # all reports on these queries have the same order
    storage.write_bytes(storage.join(folder, Report.QUERIES), encode_part(by_id, row_group=4096))
    storage.write_json(storage.join(folder, Report.ROWS), [_finite(claimed(row)) for row in rows])
    settings = list(dict.fromkeys(search.task.setting for search in searches))
    by_class_of = [search.task for search in searches if {*search.task.metrics} & {"mAP_all"}]
    chance = {task.setting: task.chance for task in by_class_of if "plain" in task.protocols}
    about = {"method": method, "dataset": images.dataset, "settings": settings, "chance": chance}
    return Report.write(*place, **about, **provenance, **extra)


def _measured(
    searches: list[Search],
    evaluations: dict[str, list[Evaluation]],
    sketches: Members,
    method: str,
    provenance: dict[str, Any],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The result rows, and the columns of the value of each query: NaN where a search does not ask the query."""
    rows: list[dict[str, Any]] = []
    columns: dict[str, Any] = {"id": sketches.id, "category": sketches.category, "instance": sketches.instance}
    for i, search in enumerate(searches):
        for mode, found in ((mode, each[i]) for mode, each in evaluations.items()):
            rows.extend(found.rows(method=method, mode=mode, provenance=provenance))
            for (protocol, metric), values in found.per_query.items():
                column = np.full(len(sketches), np.nan)
                column[search.queries] = values.numpy()
                columns[f"{search.task.setting}/{protocol}/{mode}/{metric}"] = column
    return rows, columns


def _write_first_setting(
    folder: str, images: Images, search: Search, by_mode: dict[str, Evaluation], sketches: Members, photos: Members
) -> None:
    """Write the tables, charts and sheets of one search. Confusion and sheets are of the first mode."""
    asked, first = sketches.where(search.queries), photos.where(search.gallery)
    names = _names(search.task, asked, first)
    whole = {mode: found for mode, found in by_mode.items() if _whole(found)}
    per_class = [
        {"mode": mode, **row}
        for mode, found in whole.items()
        for row in found.per_class(search.task.protocols[0], "mAP_all", names)
    ]
    storage.write_json(storage.join(folder, Report.PER_CLASS), [_finite(row) for row in per_class])
    curves = {mode: found.precision_recall().tolist() for mode, found in whole.items()}
    storage.write_json(storage.join(folder, Report.CURVES), curves)
    default = next(iter(by_mode.values()))
    shares = _confusion(default, len(names))
    pairs = zip(*np.nonzero(shares), strict=True)
    confused = [{"class": names[i], "found": names[j], "share": float(shares[i, j])} for i, j in pairs]
    storage.write_json(storage.join(folder, Report.CONFUSION), confused)
    charted = Charted(by_mode, names, curves, shares, SHOWN)
    for name, draw in report_charts.CHARTS.items():
        if png := draw(charted):
            storage.write_bytes(storage.join(folder, Report.CHARTS, name), png)
    for name, png in sheets.retrieval_sheets(default, images, asked, first).items():
        storage.write_bytes(storage.join(folder, Report.SHEETS, name), png)
    shown = {mode: first.id[found.top.indices[:, :SHOWN].numpy()].tolist() for mode, found in by_mode.items()}
    top = pa.table({"id": asked.id, **shown}).sort_by("id")
    storage.write_bytes(storage.join(folder, Report.TOP), encode_part(top, row_group=4096))


def _whole(found: Evaluation) -> bool:
    """Whether the whole gallery was ranked, and not a shortlist."""
    return "mAP_all" in found.task.metrics


def _confusion(found: Evaluation, classes: int) -> np.ndarray:
    """float64 [classes, classes]: share of each class (column) in the first SHOWN photos of a class (row)."""
    top = found.task.gallery_labels[found.top.indices[:, :SHOWN]]
    counts = np.zeros((classes, classes))
    np.add.at(counts, (found.task.query_labels[:, None].expand_as(top).numpy(), top.numpy()), 1)
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def _names(task: Task, sketches: Members, photos: Members) -> list[str]:
    """Names of the classes, indexed by label."""
    named = dict(zip(task.gallery_labels.tolist(), photos.category, strict=True))
    named |= dict(zip(task.query_labels.tolist(), sketches.category, strict=True))
    return [str(named.get(label, "")) for label in range(max(named) + 1)]


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """The row with None for NaN, which JSON lacks: the bounds of an interval that cannot be computed."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
