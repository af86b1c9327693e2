"""The stage `zse evaluate`: score every query against its gallery, evaluate the rankings and write a report.

`searches` plans the settings, `matrices` scores, `rankings` evaluates, `report` writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.config.experiment import ExperimentConfig, experiment_of
from pipelines.datasets.splits import stands_verbatim
from pipelines.drawing import sheets
from pipelines.drawing.explanations import explanation_sheets
from pipelines.evaluate.confidences import write_confidences
from pipelines.evaluate.costs import cost
from pipelines.evaluate.matrices import Matrices
from pipelines.evaluate.rankings import evaluate_searches, find_shortlists, union_of_shortlists
from pipelines.evaluate.report import place_of, provenance_of, report_key, write_report
from pipelines.evaluate.searches import Search, plan_searches, without_repeated
from pipelines.runtime import logs
from pipelines.runtime.progress import Meter, say
from pipelines.store import storage
from pipelines.workspace.encodings import Encodings
from pipelines.workspace.images import Images
from pipelines.workspace.members import (
    Members,
    leakable,
)
from pipelines.workspace.reports import Report
from zse_model.checkpoint import Checkpoint, load_checkpoint
from zse_model.diffusion import diffused
from zse_model.evaluation.evaluate import Evaluation
from zse_model.evaluation.leaks import distilled_units, refuse_leaks
from zse_model.explanation.pair import mode_of_explanation
from zse_model.methods import RetrievalMethod
from zse_model.modes import rerank_depth, undiffused
from zse_model.scoring import Precision, count
from zse_model.split import ZeroShotSplit

DIFFUSED_AT_ONCE = 64  # queries between two signs of progress


@logs.stage("evaluate")
def evaluate(
    config: ExperimentConfig, workspace: str, images: Images, encodings: Encodings, method: str, split: ZeroShotSplit
) -> Report:
    """The report of one checkpoint's encodings; made unless it is complete.

    method: the name in the result rows. Raises LeakError if the checkpoint has seen tested classes or pictures.
    """
    place = place_of(config, workspace, encodings.name, {**encodings.about, "split": split.digest})
    logs.about(run=place.url.rsplit("/", 1)[1])
    if (done := Report.find(*place)) is not None:
        return done
    with storage.local_copy(encodings.checkpoint) as copy:
        checkpoint = load_checkpoint(copy)
    sketches, photos = (encodings.read(m, images) for m in ("sketch", "photo"))
    _refuse_leaks(config, checkpoint, split, (sketches.members, photos.members))
    matrices = Matrices(config, workspace, encodings, checkpoint, sketches, photos)
    gallery = matrices.gallery
    everyone = images.members() if "drawn" in config.evaluation.distractors else None
    searches = plan_searches(config, split, images.fingerprint, sketches.members, gallery, everyone)
    searches = without_repeated(searches, images, gallery)
    modes = _modes(config, checkpoint.method, method)
    evaluations = {mode: _evaluated(matrices, searches, mode) for mode in modes}
    provenance = provenance_of(config, split, images.fingerprint, encodings.checkpoint_hash)
    provenance["checkpoint"] = checkpoint.training["run"]
    provenance["distilled_test_units"] = distilled_units(checkpoint, split)
    if told := provenance["distilled_test_units"]:
        say(
            f"{method} was distilled from {told} ImageNet units that name tested classes of {split.name}. "
            "distilled_test_units in its rows has the number"
        )
    of_base = {undiffused(mode)[0]: mode for mode in sorted(modes, key=lambda mode: -undiffused(mode)[1])}
    shown = mode_of_explanation(checkpoint.method, of_base)
    if shown is not None:
        queries, first = sketches.members.where(searches[0].queries), gallery.where(searches[0].gallery)
        found = _explanations(checkpoint.method, shown, evaluations[of_base[shown]][0], images, queries, first)
        for name, png in found.items():
            storage.write_bytes(storage.join(place.url, Report.SHEETS, name), png)
    write_confidences(place.url, checkpoint.method, searches, evaluations)
    storage.write_json(
        storage.join(place.url, Report.COSTS), _costs(checkpoint.method, encodings, modes, config.evaluation.precision)
    )
    same = report_key(config, split, images.fingerprint, encodings.checkpoint_hash)
    extra = {"report_key": same, "images": images.url, "encodings": encodings.url, "experiment": experiment_of(config)}
    return write_report(place, extra, images, searches, evaluations, sketches.members, gallery, method, provenance)


def _refuse_leaks(
    config: ExperimentConfig, checkpoint: Checkpoint, split: ZeroShotSplit, encoded: Sequence[Members]
) -> None:
    asked = config.evaluation
    tested: dict[str, str] = {}
    for members in encoded:
        tested |= leakable(members, split, asked.distractors, seen_classes=asked.seen_classes).names()
    verbatim, selection = stands_verbatim(checkpoint.split, split), asked.classes == "pseudo_unseen"
    refuse_leaks(checkpoint, split, tested, verbatim=verbatim, selection=selection)


def _evaluated(matrices: Matrices, searches: Sequence[Search], mode: str) -> list[Evaluation]:
    """The evaluations of all searches by one mode. For `rerank-K` the first mode finds the shortlists, and only their
    pairs are scored."""
    base, spread = undiffused(mode)
    if spread:
        with Meter(f"Diffuse {base}", sum(len(search.queries) for search in searches), "queries") as meter:
            return evaluate_searches(matrices.rows(base), searches, mode, again=_diffusion(matrices, spread, meter))
    depth = rerank_depth(mode)
    if depth is None:
        return evaluate_searches(matrices.rows(mode), searches, mode)
    finds, _ = matrices.method.rerank or ("", "")
    best = find_shortlists(matrices.rows(finds), searches, depth)
    among = union_of_shortlists(searches, best, count(matrices.sketches))
    return evaluate_searches(matrices.rows(mode, among), searches, mode, best)


def _diffusion(matrices: Matrices, depth: int, meter: Meter) -> Callable[[Tensor, np.ndarray], Tensor]:
    """`again` of `evaluate_searches`, which ranks the best photos of each query again by their embeddings."""
    vectors = matrices.photos["embedding"][matrices.columns]

    def again(scores: Tensor, gallery: np.ndarray) -> Tensor:
        found, columns = [], torch.from_numpy(gallery)
        for some in scores.split(DIFFUSED_AT_ONCE):
            found.append(diffused(some, lambda best: vectors[columns[best]].float(), depth))
            meter.update(meter.done + len(some))
        return torch.cat(found)

    return again


def _costs(
    method: RetrievalMethod, encodings: Encodings, modes: Sequence[str], precision: Precision
) -> list[dict[str, Any]]:
    """The costs of all modes but `rerank-K` and diffused ones, measured on one part of the encodings."""
    sketches, photos = (encodings.values(next(iter(encodings.parts(m))), m) for m in ("sketch", "photo"))
    return [cost(method, mode, precision, sketches, photos) for mode in modes if mode in method.modes]


def _modes(config: ExperimentConfig, method: RetrievalMethod, name: str) -> list[str]:
    """The modes of `evaluation.modes` that the method has, else its first mode; without `evaluation.modes` all of its
    modes. Prints the modes that are left out: an experiment may list modes that only one of its methods has."""
    asked = config.evaluation.modes or method.modes
    known = [mode for mode in asked if method.has(mode)]
    if left_out := [m for m in asked if m not in known]:
        say(f"{name} has no mode {', '.join(left_out)}. It is evaluated by {', '.join(known or method.modes[:1])}")
    return known or [method.modes[0]]


def _explanations(
    method: RetrievalMethod,
    mode: str,
    found: Evaluation,
    images: Images,
    sketches: Members,
    photos: Members,
) -> dict[str, bytes]:
    """Explanation sheets of the best, the median and the worst query by average precision, each with its first
    photo."""
    chosen = sheets.by_precision(found)
    queries = np.array([chosen[0], chosen[len(chosen) // 2], chosen[-1]])
    first = found.top.indices[torch.from_numpy(queries), 0].numpy()
    return explanation_sheets(
        method,
        sheets.decode_all(images, sketches, queries),
        sheets.decode_all(images, photos, first),
        [f"{sketches.category[q]} found {photos.category[p]}" for q, p in zip(queries, first, strict=True)],
        mode=mode,
    )
