"""run: all stages of an experiment, each skipped where its output is there. And the table at the end."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from rich.table import Table

from pipelines.config.experiment import ExperimentConfig
from pipelines.encode.embed import embed
from pipelines.evaluate.raw_pixels import raw_pixels
from pipelines.evaluate.stage import evaluate
from pipelines.ingest.stage import Planned, ingest, plan_ingest
from pipelines.operate import preflight
from pipelines.operate.preflight import STAGES
from pipelines.runtime.progress import say
from pipelines.runtime.ray_tasks import expecting
from pipelines.store import storage
from pipelines.tracking import deliver_evaluation, deliver_training
from pipelines.train.shard import shard
from pipelines.train.stage import train, untrained
from pipelines.workspace import shards
from pipelines.workspace.images import Images
from pipelines.workspace.kept import complete
from pipelines.workspace.queries import Queries, difference, interval, metric_key
from pipelines.workspace.reports import REPORT
from zse_model.evaluation import CATEGORY_METRICS, HEADLINES, LEADING, expected_average_precision
from zse_model.evaluation.leaks import LeakError
from zse_model.modes import RET
from zse_model.split import ZeroShotSplit


@dataclass
class Outputs:
    """What an experiment has made so far; all but the images by their folder."""

    images: Images
    pairs: str = ""
    checkpoints: dict[str, str] = field(default_factory=dict)
    """By method, `-untrained` for the reference rows."""
    encodings: dict[str, str] = field(default_factory=dict)
    reports: dict[str, str] = field(default_factory=dict)
    selection: Outputs | None = None
    """The same of the pseudo-unseen classes, where those were evaluated, too."""

    def rows(self) -> list[dict[str, Any]]:
        """Of all reports, those to choose by last."""
        own = [row for report in self.reports.values() for row in storage.read_json(storage.join(report, REPORT))]
        return own + (self.selection.rows() if self.selection else [])


def run(config: ExperimentConfig, workspace: str, until: str = "evaluate") -> Outputs:
    """Every stage up to `until`, in order."""
    last = STAGES.index(until)
    workspace = storage.absolute(workspace)
    planned = plan_ingest(config, workspace)
    fresh = not complete(planned.folder)
    preflight.check(config, workspace, planned.records, until, fresh=fresh)
    with expecting(config.cluster if last >= 2 else None):
        out = Outputs(_ingested(config, workspace, planned))
        split = experiment_split(config, out.images)
        if last >= 1:
            preflight.refuse_repeats(config, out.images)
            out.pairs = _reported("shard", shard(config, workspace, out.images))
        if last >= 2:
            for method in config.methods:
                out.checkpoints[method] = train(config, method, workspace, out.images, out.pairs)
                _reported("train", out.checkpoints[method])
                deliver_training(config, workspace, out.checkpoints[method])
                if "untrained" in config.evaluation.references:
                    folder = untrained(config, method, workspace, out.images, out.pairs)
                    out.checkpoints[f"{method}-untrained"] = folder
    if last >= 3:
        _embed_all(config, workspace, out, split)
    if last >= 4:
        _evaluate_all(config, workspace, out, split)
        if config.evaluation.classes == "both":
            out.selection = _selection(config, workspace, out, split)
    return out


def _embed_all(config: ExperimentConfig, workspace: str, out: Outputs, split: ZeroShotSplit) -> None:
    for name, checkpoint in out.checkpoints.items():
        out.encodings[name] = _reported("embed", embed(config, workspace, out.images, checkpoint, split))


def _evaluate_all(config: ExperimentConfig, workspace: str, out: Outputs, split: ZeroShotSplit) -> None:
    for name, encodings in out.encodings.items():
        out.reports[name] = evaluate(config, workspace, out.images, encodings, name, split)
        deliver_evaluation(config, workspace, out.reports[name], out.checkpoints[name])
    if "raw_pixels" in config.evaluation.references:
        out.reports["raw_pixels"] = raw_pixels(config, workspace, out.images, split)
        deliver_evaluation(config, workspace, out.reports["raw_pixels"], None)


def _selection(config: ExperimentConfig, workspace: str, trained: Outputs, split: ZeroShotSplit) -> Outputs | None:
    """The pseudo-unseen classes, evaluated as the unseen ones are but without distractors, to compare and promote by.
    None, with a word, where they cannot be searched."""
    counts = trained.images.counts
    searched = [c for c in split.pseudo_unseen if counts[c].get("sketch") and counts[c].get("photo")]
    if not searched:
        say("No pseudo-unseen class has sketches and photos (dataset.pseudo_unseen): nothing is evaluated to choose by")
        return None
    asked = replace(config.evaluation, classes="pseudo_unseen", distractors=(), seen_classes=False)
    chosen = replace(config, evaluation=asked)
    out = Outputs(trained.images, trained.pairs, dict(trained.checkpoints))
    try:
        _embed_all(chosen, workspace, out, split.for_selection())
        _evaluate_all(chosen, workspace, out, split.for_selection())
    except LeakError as error:  # the result on unseen classes stands
        say(f"The pseudo-unseen classes are not evaluated: {error}", logging.WARNING)
        return None
    return out


def evaluate_checkpoint(config: ExperimentConfig, workspace: str, checkpoint: str) -> Outputs:
    """A checkpoint from anywhere on this experiment's data and split; refused where it has seen what is tested."""
    workspace = storage.absolute(workspace)
    planned = plan_ingest(config, workspace)
    preflight.check_test(config, workspace, planned.records, storage.absolute(checkpoint))
    return evaluate_images(config, workspace, _ingested(config, workspace, planned), checkpoint)


def evaluate_images(config: ExperimentConfig, workspace: str, images: Images, checkpoint: str) -> Outputs:
    """`evaluate_checkpoint` of data that is ingested."""
    checkpoint, split = storage.absolute(checkpoint), experiment_split(config, images)
    name = shards.read_manifest(checkpoint, "zse train")["method"]
    encodings = _reported("embed", embed(config, workspace, images, checkpoint, split))
    out = Outputs(images, "", {name: checkpoint}, {name: encodings})
    _evaluate_all(config, workspace, out, split)
    return out


def experiment_split(config: ExperimentConfig, images: Images) -> ZeroShotSplit:
    """The split whose unseen classes are searched."""
    return preflight.searched_split(config, images.counts)


def _ingested(config: ExperimentConfig, workspace: str, planned: Planned) -> Images:
    images = ingest(config, workspace, planned)
    images.summarise("ingest")
    return images


def _reported(stage: str, folder: str) -> str:
    """`report.json` beside a stage's output: what it is, for scripts. (That of evaluate is its rows.)"""
    url = storage.join(folder, REPORT)
    if not storage.exists(url):
        summary = {k: v for k, v in storage.read_json(storage.join(folder, shards.MANIFEST)).items() if k != "shards"}
        storage.write_json(url, {"stage": stage, "output": folder, **summary})
    return folder


# The table ----------------------------------------------------------------------------------------------------------


def chance(rows: Sequence[dict[str, Any]], out: Outputs) -> dict[str, float]:
    """By setting, the mAP_all that a random order is expected to have."""
    report = next(iter(out.reports.values()))
    told = shards.read_manifest(report, "zse evaluate").get("chance")
    if told is not None:
        return told
    # Of a report that an earlier version wrote: of its first setting, by what was ingested.
    counts = out.images.counts
    queries = Queries(report)
    categories = queries.category[~queries.values(metric_key(rows[0])).isnan().numpy()]
    photos = {c: counts[c].get("photo", 0) for c in set(categories)}
    relevant = torch.tensor([photos[c] for c in categories])
    return {rows[0]["setting"]: float(expected_average_precision(relevant, sum(photos.values())).mean())}


def result_tables(out: Outputs) -> list[Table]:
    """Of the unseen classes, and of the pseudo-unseen ones where they were evaluated, too."""
    chosen = [result_table(out.selection, "Pseudo-unseen classes, to choose by,")] if out.selection else []
    return [result_table(out), *chosen]


def result_table(out: Outputs, searched: str = "Unseen classes") -> Table:
    """One line a method and mode: the headlines of a search by class, and the difference to the reference rows."""
    rows = [row for row in replace(out, selection=None).rows() if row["protocol"] == "plain"]
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
