"""Check an experiment before any picture is read, so that a run that cannot succeed fails within seconds.

`check` needs the listing only: it checks the split, the classes, the training items, the networks, their weights and
class vectors, the checkpoint to start from, the workspace and MLflow. `check_test` does so for an evaluation of an
existing checkpoint. `refuse_repeats` runs between ingest, which computes the hash of every picture, and training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pipelines.config.experiment import ExperimentConfig
from pipelines.datasets.base import ImageRecord, listed_members
from pipelines.datasets.splits import load_split, stands_verbatim
from pipelines.operate.nodes import written
from pipelines.runtime.errors import PreflightError
from pipelines.runtime.failures import to_fix
from pipelines.store import storage
from pipelines.tracking import reachable
from pipelines.train.class_vectors import class_vectors_of
from pipelines.train.items import ItemPlan
from pipelines.train.networks import check_networks, refuse_random_teacher
from pipelines.train.selection import by_pairs, chosen_by
from pipelines.workspace.images import Images
from pipelines.workspace.members import Members, leakable, training_members
from zse_model.checkpoint import load_checkpoint, picture_key, read_seen
from zse_model.errors import ZseError
from zse_model.evaluation.leaks import LeakError, refuse_leaks, refuse_start
from zse_model.split import ZeroShotSplit
from zse_model.transforms import TransformConfig

STAGES = ("ingest", "shard", "train", "embed", "evaluate")
NAMED = 10  # pictures or classes named in an error


def check(
    config: ExperimentConfig, workspace: str, records: Sequence[ImageRecord], until: str = "evaluate", *, fresh: bool
) -> None:
    """Raise one ZseError with everything that would end a run before or in the stage `until`.

    fresh: a new run, so that MLflow must answer. A continued run goes on without MLflow and delivers later.
    """
    problems = Problems()
    members, last = listed_members(records), STAGES.index(until)
    problems.of(lambda: check_workspace(workspace))
    writable = not problems.found
    split = problems.of(lambda: load_split(config.dataset, set(members.category)))
    if split is not None:
        problems.of(lambda: check_searched(members, split, config))
    if last >= 2:
        problems.of(lambda: check_networks(config))
        for name in config.methods if fresh else ():
            problems.of(lambda name=name: refuse_random_teacher(config, name))
        if fresh and (writable or config.tracking.uri):  # by default MLflow's database is in the workspace
            problems.of(lambda: reachable(config, workspace))
    if split is not None and last >= 1:
        plan = problems.of(lambda: ItemPlan(training_members(members, split), config.shard))
        if plan is not None and last >= 2:
            for settings in config.methods.values():
                problems.of(lambda settings=settings: class_vectors_of(settings, plan.classes))
            if config.start is not None:
                problems.of(lambda: check_start(str(config.start), split))
    problems.raise_all()


def check_test(config: ExperimentConfig, workspace: str, records: Sequence[ImageRecord], checkpoint: str) -> None:
    """Raise one ZseError with everything that would end the evaluation of a checkpoint on this data."""
    problems = Problems()
    problems.of(lambda: check_workspace(workspace))
    split = problems.of(lambda: searched_split(config, {record.category for record in records}))

    def fits() -> None:
        with storage.local_copy(checkpoint) as copy:
            loaded = load_checkpoint(copy)
        check_transforms(loaded.transforms, config.transforms)
        if split is not None:
            verbatim, selection = stands_verbatim(loaded.split, split), config.evaluation.classes == "pseudo_unseen"
            refuse_leaks(loaded, split, verbatim=verbatim, selection=selection)

    problems.of(fits)
    problems.raise_all()


class Problems:
    """Collects all mistakes, so that a user can fix them at once."""

    def __init__(self) -> None:
        self.found: list[ZseError] = []

    def of(self, look: Callable[[], Any]) -> Any:
        """`look()`; None if it raised an error that a user can fix."""
        try:
            return look()
        except (ZseError, OSError) as error:
            if (said := to_fix(error)) is None:
                raise
            self.found.append(error if isinstance(error, ZseError) else ZseError(said))
            return None

    def raise_all(self) -> None:
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            lines = tuple(" ".join(str(error).splitlines()) for error in self.found)
            listed = "".join(f"\n- {line}" for line in lines)
            several = PreflightError(f"{len(lines)} things must be fixed before this can run:{listed}")
            several.found = lines
            raise several


def check_workspace(workspace: str) -> None:
    """Raise ZseError for a workspace that cannot be written: by a probe in a store, by the permissions of a local
    folder. Nothing stays."""
    if not storage.is_local(workspace):
        if problem := written(workspace):
            raise ZseError(f"--workspace {problem}. Give a folder or bucket with write permission")
        return
    folder = Path(storage.absolute(workspace))
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not there.is_dir():
        raise ZseError(f"--workspace {workspace}: {there} is a file. Give a folder, or s3://bucket/prefix")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ZseError(f"--workspace {workspace}: {there} cannot be written by this user. Give another folder")


def searched_split(config: ExperimentConfig, categories: Iterable[str]) -> ZeroShotSplit:
    """The split whose unseen classes the evaluation searches."""
    split = load_split(config.dataset, categories)
    return split.for_selection() if config.evaluation.classes == "pseudo_unseen" else split


def check_searched(members: Members, split: ZeroShotSplit, config: ExperimentConfig) -> None:
    """Raise ZseError if an unseen class has sketches but no photos, or if no unseen class has a sketch."""
    if config.evaluation.classes == "pseudo_unseen":
        split = split.for_selection()
    counts = {c: [0, 0] for c in split.unseen}
    for category, modality in zip(members.category, members.modality, strict=True):
        if category in counts:
            counts[category][modality == "photo"] += 1
    if without := [c for c, (sketches, photos) in counts.items() if sketches and not photos]:
        raise ZseError(
            f"{len(without)} of {len(counts)} unseen classes have sketches but no photos to find: {_few(without)}. "
            "Add photos, or remove the classes from dataset.split"
        )
    if not any(sketches for sketches, _ in counts.values()):
        raise ZseError(f"No unseen class has a sketch to search with: {_few(list(counts))}. Add sketches")


def check_start(start: str, split: ZeroShotSplit) -> None:
    """Raise LeakError for a start checkpoint that has seen classes which the split tests."""
    with storage.local_copy(start) as copy:
        refuse_start(load_checkpoint(copy), split)


def check_transforms(trained: TransformConfig, asked: TransformConfig) -> None:
    """Raise ZseError if the experiment prepares pictures differently from a checkpoint's training."""
    if trained != asked:
        raise ZseError(
            f"The checkpoint was trained on pictures prepared with {vars(trained)}, but this experiment prepares them "
            f"with {vars(asked)}. Give --set transforms.size={trained.size} --set transforms.recipe={trained.recipe}"
        )


# When the hashes are known ------------------------------------------------------------------------------------------


def refuse_repeats(config: ExperimentConfig, images: Images) -> None:
    """Raise LeakError, with both names, for a picture of this training or of its start with the same content as a
    picture that is tested or that checkpoints are chosen by. Runs after ingest and before the cost of training."""
    split = load_split(config.dataset, images.counts)
    members, asked = images.members(), config.evaluation
    trained = training_members(members, split)
    first, started = trained.names(), _seen_by_start(config)
    tested = leakable(members, split, asked.distractors, seen_classes=asked.seen_classes)
    pairs = by_pairs(split, config.shard)
    others = "give both one instance" if pairs else "draw other pseudo-unseen classes by --set dataset.split_seed=N"
    for what, pictures, fix in (
        ("tested", tested, "put both classes on one side of dataset.split"),
        ("chosen by", chosen_by(members, split, pairs=pairs), others),
    ):
        both = [
            (first.get(sha, "a picture of start"), id)
            for sha, id in zip(pictures.sha256, pictures.id, strict=True)
            if sha in first or (started and picture_key(sha) in started)
        ]
        if both:
            named = "; ".join(f"{a} = {b}" for a, b in both[:NAMED]) + (" ..." if len(both) > NAMED else "")
            raise LeakError(
                f"{len(both)} pictures with the same content are trained on and {what}: {named}. Remove one of each "
                f"pair from {images.source}, or {fix}"
                + (", or start from a checkpoint that has not seen them" if started else "")
            )


def _seen_by_start(config: ExperimentConfig) -> set[int]:
    """The `picture_key` of every picture that the start has seen."""
    if config.start is None:
        return set()
    with storage.local_copy(config.start) as copy:
        return set(read_seen(copy).tolist())


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
