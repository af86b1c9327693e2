"""run: all stages of an experiment, each skipped where its output is there."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Any

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
from pipelines.workspace.reports import REPORT
from zse_model.evaluation.leaks import LeakError
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
