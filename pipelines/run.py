"""The route of an experiment: all stages in order. A stage whose output is complete is skipped.

`zse run` and the verbs of single stages call `run`; `zse evaluate --checkpoint` calls `evaluate_checkpoint`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pipelines.config.experiment import ExperimentConfig
from pipelines.encode.embed import embed
from pipelines.evaluate.raw_pixels import raw_pixels
from pipelines.evaluate.stage import evaluate
from pipelines.ingest.stage import ingest, plan_ingest
from pipelines.operate import preflight
from pipelines.operate.preflight import STAGES
from pipelines.runtime.progress import say
from pipelines.runtime.ray_tasks import expecting
from pipelines.store import storage
from pipelines.tracking import deliver_evaluation, deliver_training
from pipelines.train.shard import shard
from pipelines.train.stage import train, untrained
from pipelines.workspace.encodings import Encodings
from pipelines.workspace.images import Images
from pipelines.workspace.kept import Kept, complete
from pipelines.workspace.pairs import Pairs
from pipelines.workspace.reports import Report
from pipelines.workspace.training import Training
from zse_model.evaluation.leaks import LeakError
from zse_model.split import ZeroShotSplit

Made = TypeVar("Made", bound=Kept)


@dataclass
class Outputs:
    """The outputs of the stages that have run."""

    images: Images
    pairs: Pairs | None = None
    checkpoints: dict[str, Training] = field(default_factory=dict)
    """Name of the method -> checkpoint; `<method>-untrained` for the reference row."""
    encodings: dict[str, Encodings] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    selection: Outputs | None = None
    """The outputs of the evaluation on pseudo-unseen classes, if there was one."""

    def rows(self) -> list[dict[str, Any]]:
        """The result rows of all reports, those of the pseudo-unseen classes last."""
        own = [row for report in self.reports.values() for row in report.rows()]
        return own + (self.selection.rows() if self.selection else [])


def run(config: ExperimentConfig, workspace: str, until: str = "evaluate") -> Outputs:
    """Run the stages up to `until`, one of STAGES.

    Raises PreflightError or ZseError for errors that can be found before any picture is read, LeakError if a checkpoint
    has seen tested classes, HeldError if another process trains the same.
    """
    last = STAGES.index(until)
    workspace = storage.absolute(workspace)
    planned = plan_ingest(config, workspace)
    fresh = not complete(planned.folder)
    preflight.check(config, workspace, planned.records, until, fresh=fresh)
    with expecting(config.cluster if last >= 2 else None):
        out = Outputs(_summarised("ingest", ingest(config, workspace, planned)))
        split = experiment_split(config, out.images)
        if last >= 1:
            preflight.refuse_repeats(config, out.images)
            pairs = out.pairs = _summarised("shard", shard(config, workspace, out.images))
            if last >= 2:
                _train_all(config, workspace, out, pairs)
    if last >= 3:
        _embed_all(config, workspace, out, split)
    if last >= 4:
        _evaluate_all(config, workspace, out, split)
        if config.evaluation.classes == "both":
            out.selection = _selection(config, workspace, out, split)
    return out


def _train_all(config: ExperimentConfig, workspace: str, out: Outputs, pairs: Pairs) -> None:
    for method in config.methods:
        training = _summarised("train", train(config, method, workspace, out.images, pairs))
        out.checkpoints[method] = training
        deliver_training(config, workspace, training, pairs)
        if "untrained" in config.evaluation.references:
            out.checkpoints[f"{method}-untrained"] = untrained(config, method, workspace, out.images, pairs)


def _embed_all(config: ExperimentConfig, workspace: str, out: Outputs, split: ZeroShotSplit) -> None:
    for name, checkpoint in out.checkpoints.items():
        out.encodings[name] = _summarised("embed", embed(config, workspace, out.images, checkpoint, split))


def _evaluate_all(config: ExperimentConfig, workspace: str, out: Outputs, split: ZeroShotSplit) -> None:
    for name, encodings in out.encodings.items():
        out.reports[name] = evaluate(config, workspace, out.images, encodings, name, split)
        deliver_evaluation(config, workspace, out.reports[name], out.checkpoints[name])
    if "raw_pixels" in config.evaluation.references:
        out.reports["raw_pixels"] = raw_pixels(config, workspace, out.images, split)
        deliver_evaluation(config, workspace, out.reports["raw_pixels"], None)


def _selection(config: ExperimentConfig, workspace: str, trained: Outputs, split: ZeroShotSplit) -> Outputs | None:
    """Evaluate the pseudo-unseen classes without distractors, to compare and promote models. None, with a message, if
    they cannot be searched."""
    counts = trained.images.counts
    searched = [c for c in split.pseudo_unseen if counts[c].get("sketch") and counts[c].get("photo")]
    if not searched:
        say(
            "No pseudo-unseen class has sketches and photos (dataset.pseudo_unseen), so there is no evaluation to "
            "choose models by"
        )
        return None
    asked = replace(config.evaluation, classes="pseudo_unseen", distractors=(), seen_classes=False)
    chosen = replace(config, evaluation=asked)
    out = Outputs(trained.images, trained.pairs, dict(trained.checkpoints))
    try:
        _embed_all(chosen, workspace, out, split.for_selection())
        _evaluate_all(chosen, workspace, out, split.for_selection())
    except LeakError as error:  # the reports on unseen classes stay valid
        say(f"The pseudo-unseen classes were not evaluated: {error}", logging.WARNING)
        return None
    return out


def evaluate_checkpoint(config: ExperimentConfig, workspace: str, checkpoint: str) -> Outputs:
    """Evaluate a checkpoint, given as folder or URL, on this experiment's data and split. Raises LeakError if it has
    seen tested classes or pictures."""
    workspace = storage.absolute(workspace)
    planned = plan_ingest(config, workspace)
    preflight.check_test(config, workspace, planned.records, storage.absolute(checkpoint))
    images = _summarised("ingest", ingest(config, workspace, planned))
    return evaluate_images(config, workspace, images, Training.open(storage.absolute(checkpoint)))


def evaluate_images(config: ExperimentConfig, workspace: str, images: Images, training: Training) -> Outputs:
    """`evaluate_checkpoint` on ingested data."""
    split = experiment_split(config, images)
    out = Outputs(images, checkpoints={training.method: training})
    _embed_all(config, workspace, out, split)
    _evaluate_all(config, workspace, out, split)
    return out


def experiment_split(config: ExperimentConfig, images: Images) -> ZeroShotSplit:
    """The experiment's split; for an evaluation of the pseudo-unseen classes these are its unseen classes."""
    return preflight.searched_split(config, images.counts)


def _summarised(stage: str, made: Made) -> Made:
    made.summarise(stage)
    return made
