"""evaluate: encodings -> report. Scores every sketch against every photo of the unseen classes, by named protocols.

    <workspace>/reports/<checkpoint>-<hash>/report.json  queries.parquet  top.parquet  per_class.json  confusion.json
                                            curves.json  costs.json  sheets/*.png  charts/*.png  manifest.json

`report.json` is a list of rows (docs/evaluation.md). `queries.parquet` keeps each query's own values, so that
two reports of the same queries can be compared pair by pair, `top.parquet` the first photos that each found. The other
tables are of the unseen classes, by class: average precision, whose photos stand among the first ten, interpolated
precision at eleven recalls; and what a mode costs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipelines.config.experiment import ExperimentConfig, experiment_of
from pipelines.datasets.splits import stands_verbatim
from pipelines.drawing import charts, sheets
from pipelines.drawing.explanations import explanation_sheets
from pipelines.encode.encodings import Encodings, encoded_parts, read_encodings, read_values
from pipelines.evaluate.costs import cost
from pipelines.evaluate.score import score, score_rows
from pipelines.runtime import logs
from pipelines.runtime.progress import say
from pipelines.store import storage
from pipelines.workspace import shards
from pipelines.workspace.images import Images
from pipelines.workspace.looks import NEAR, repeated
from pipelines.workspace.members import (
    Members,
    drawn,
    held_back,
    leakable,
    tested_members,
)
from pipelines.workspace.pictures import decode_pixels
from pipelines.workspace.queries import QUERIES, claimed
from zse_model.checkpoint import Checkpoint, load_checkpoint
from zse_model.evaluation.evaluate import Evaluation, Evaluator, Task
from zse_model.evaluation.leaks import distilled_units, refuse_leaks
from zse_model.evaluation.protocol import CATEGORY_METRICS, INSTANCE_METRICS, PROTOCOLS, metrics_within
from zse_model.evaluation.search import order
from zse_model.explain import explained_mode, has_masks
from zse_model.methods import Encoding, RetrievalMethod
from zse_model.modes import RET, rerank_depth
from zse_model.scoring import Precision, count
from zse_model.split import ZeroShotSplit

REPORT, TOP, PER_CLASS, SHEETS = "report.json", "top.parquet", "per_class.json", "sheets"
CONFUSION, CURVES, COSTS, CHARTS = "confusion.json", "curves.json", "costs.json", "charts"
FORMAT = 3  # of a report: one of another is made again
SHOWN = 10  # photos of a query that are kept by name, and that the confusion of classes looks at
EMBEDDING_TILE = 512  # rows of a score matrix that are held at once


@dataclass(frozen=True)
class Search:
    """A task with the pictures behind it: which of the encoded sketches and photos take part."""

    task: Task
    queries: np.ndarray
    """int64, rows of the encoded sketches"""
    gallery: np.ndarray
    """int64, rows of the encoded photos"""
    within: tuple[Tensor, Tensor] | None = None
    """int64 [sketches], [g]: a sketch is searched only among the photos with its number; None = among all"""


@logs.stage("evaluate")
def evaluate(
    config: ExperimentConfig, workspace: str, images: Images, encodings: str, method: str, split: ZeroShotSplit
) -> str:
    """Run the stage for one checkpoint's encodings, or find it done; gives the folder of the report.

    Raises LeakError where the checkpoint has seen what it would be tested on.
    """
    embedded = shards.read_manifest(encodings, "zse embed")
    with storage.local_copy(embedded["checkpoint"]) as copy:
        checkpoint = load_checkpoint(copy)
    folder = _folder(config, workspace, encodings.rsplit("/", 1)[1], {**embedded, "split": split.digest})
    logs.about(run=folder.rsplit("/", 1)[1])
    if shards.has_manifest(folder):
        return folder
    distractors, selection = config.evaluation.distractors, config.evaluation.classes == "pseudo_unseen"
    sketches, photos = (read_encodings(encodings, m, images) for m in ("sketch", "photo"))
    seen_classes = config.evaluation.seen_classes
    encoded = (e.members for e in (sketches, photos))
    tested: dict[str, str] = {}
    for members in encoded:
        tested |= leakable(members, split, distractors, seen_classes=seen_classes).names()
    verbatim = stands_verbatim(checkpoint.split, split)
    refuse_leaks(checkpoint, split, tested, verbatim=verbatim, selection=selection)
    matrices = Matrices(config, workspace, encodings, checkpoint, sketches, photos)
    gallery = matrices.gallery
    everyone = images.members() if "drawn" in distractors else None
    searches = plan_searches(config, split, images.fingerprint, sketches.members, gallery, everyone)
    searches = without_repeated(searches, images, gallery)
    evaluations: dict[str, list[Evaluation]] = {}
    modes = _modes(config, checkpoint.method, method)
    for mode in modes:
        depth = rerank_depth(mode)
        if depth is None:
            evaluations[mode] = _evaluate(matrices.rows(mode), searches, mode)
        else:
            finds, _ = matrices.method.rerank or ("", "")
            best = _shortlists(matrices.rows(finds), searches, depth)
            evaluations[mode] = _evaluate(
                matrices.rows(mode, _union(searches, best, len(sketches.members))), searches, mode, best
            )
    provenance = _provenance(config, split, images.fingerprint, embedded["checkpoint_hash"])
    provenance["checkpoint"] = checkpoint.training["run"]
    provenance["distilled_test_units"] = distilled_units(checkpoint, split)
    if told := provenance["distilled_test_units"]:
        say(
            f"{method} was distilled from {told} ImageNet units that name test classes of {split.name}; the rows say so"
        )
    shown = explained_mode(checkpoint.method)
    if shown in modes and (checkpoint.method.pair_mode or has_masks(checkpoint.method)):
        queries, first = sketches.members.where(searches[0].queries), gallery.where(searches[0].gallery)
        found = _explanations(checkpoint.method, evaluations[shown][0], images, queries, first)
        for name, png in found.items():
            storage.write_bytes(storage.join(folder, SHEETS, name), png)
    storage.write_json(
        storage.join(folder, COSTS), _costs(checkpoint.method, encodings, modes, config.evaluation.precision)
    )
    key = report_key(config, split, images.fingerprint, embedded["checkpoint_hash"])
    of = {"report_key": key, "images": images.url, "encodings": encodings, "experiment": experiment_of(config)}
    _write(folder, of, images, searches, evaluations, sketches.members, gallery, method, provenance)
    return folder


def raw_pixels(config: ExperimentConfig, workspace: str, images: Images, split: ZeroShotSplit) -> str:
    """The reference row that anything has to beat: 32x32 grey pixels, centred, compared by cosine."""
    folder = _folder(config, workspace, "raw_pixels", {"images": images.url, "split": split.digest})
    if shards.has_manifest(folder):
        return folder
    everyone = images.members()
    asked = config.evaluation
    tested = tested_members(everyone, split, asked.distractors, seen_classes=asked.seen_classes).by_content()
    encodings = []
    for modality in ("sketch", "photo"):
        members = tested.where(tested.modality == modality)
        encodings.append(Encodings(members, _pixels(images.data(members))))
    sketches, photos = encodings
    scores = sketches.values["embedding"] @ photos.values["embedding"].T
    searches = plan_searches(config, split, images.fingerprint, sketches.members, photos.members, everyone)
    searches = without_repeated(searches, images, photos.members)
    evaluations = {RET.name: _evaluate(scores.split(EMBEDDING_TILE), searches, RET.name)}
    provenance = _provenance(config, split, images.fingerprint, "none")
    key = report_key(config, split, images.fingerprint, "none")
    of = {"report_key": key, "images": images.url, "experiment": experiment_of(config)}
    _write(folder, of, images, searches, evaluations, sketches.members, photos.members, "raw_pixels", provenance)
    return folder


def _costs(method: RetrievalMethod, encodings: str, modes: Sequence[str], precision: Precision) -> list[dict[str, Any]]:
    """Of the modes that score every pair, by some of the encoded pictures."""
    manifest = shards.read_manifest(encodings, "zse embed")
    sketches, photos = (read_values(encodings, encoded_parts(manifest, m)[0][0], m) for m in ("sketch", "photo"))
    return [cost(method, mode, precision, sketches, photos) for mode in modes if mode in method.modes]


def setting_name(split: ZeroShotSplit, fingerprint: str, form: str = "") -> str:
    """The setting with what it was run on: members other than the published ones never carry the bare name."""
    return f"{split.name}{form}.{fingerprint[:8]}"


def plan_searches(
    config: ExperimentConfig,
    split: ZeroShotSplit,
    fingerprint: str,
    sketches: Members,
    photos: Members,
    everyone: Members | None,
) -> list[Search]:
    """By class among the unseen photos; where pairs are known also by instance: among the drawn ones of them (`-fg`)
    and among those of the sketch's class (`-fg-class`), of a seen class among the held-back ones (`-fg-seen`).
    Distractors make one more each: `-generalised`, `-fg-all`.

    everyone: all pictures of the data set, to know which photos of seen classes are drawn; needed for `drawn` alone.
    """
    labels = {category: i for i, category in enumerate(split.unseen)}
    classes, others = (torch.tensor([labels.get(c, -1) for c in m.category]) for m in (sketches, photos))
    asked, unseen, distractors = (classes >= 0).numpy(), (others >= 0).numpy(), config.evaluation.distractors
    galleries = {"": unseen}
    if "held_back" in distractors:
        galleries["-generalised"] = unseen | held_back(photos, split)

    def task(form: str, wanted: Tensor, there: Tensor, **how: tuple[str, ...]) -> Task:
        name = setting_name(split, fingerprint, form)
        return Task(setting=name, query_labels=wanted, gallery_labels=there, query_groups=wanted, **how)

    searches = []
    for form, gallery in galleries.items():
        how = {"metrics": CATEGORY_METRICS, "protocols": config.evaluation.protocols}
        own = task(form, classes[asked], others[gallery], **how)
        searches.append(Search(own, np.flatnonzero(asked), np.flatnonzero(gallery)))
    if not config.evaluation.instance_level:
        return searches
    paired = sorted((set(sketches.instance) & set(photos.instance)) - {None})
    ids = {instance: i for i, instance in enumerate(paired)}
    of_sketch, of_photo = (torch.tensor([ids.get(i, -1) for i in m.instance]) for m in (sketches, photos))
    has_photo, has_sketch = (of_sketch >= 0).numpy(), (of_photo >= 0).numpy()
    forms = {"-fg": (asked, unseen & has_sketch), "-fg-class": (asked, unseen)}
    if "drawn" in distractors:
        assert everyone is not None
        everywhere = np.isin(photos.id, everyone.id[drawn(everyone)])
        forms["-fg-all"] = (asked, unseen & has_sketch | everywhere)
    if config.evaluation.seen_classes:
        forms["-fg-seen"] = (~asked, held_back(photos, split))
    names = {category: i for i, category in enumerate(sorted({*sketches.category, *photos.category}))}
    named = [torch.tensor([names[c] for c in m.category]) for m in (sketches, photos)]
    for form, (chosen, gallery) in forms.items():
        queries = np.flatnonzero(chosen & has_photo)
        if len(of_sketch[queries].unique()) < 2:
            continue
        how = {"metrics": INSTANCE_METRICS, "protocols": ("plain",)}
        own = task(form, of_sketch[queries], of_photo[gallery], **how)
        within = (named[0], named[1][gallery]) if form in ("-fg-class", "-fg-seen") else None
        searches.append(Search(own, queries, np.flatnonzero(gallery), within))
    return searches


def without_repeated(searches: Sequence[Search], images: Images, photos: Members) -> list[Search]:
    """The searches with galleries as their protocols want them: one that leaves repeated photos out becomes a search of
    its own where there are any. By instance only photos of the same one are repeated: each is somebody's right answer.
    """
    if all(PROTOCOLS[name].repeated for search in searches for name in search.task.protocols):
        return list(searches)
    looks = images.looks(photos)
    found = []
    for search in searches:
        by_class = search.task.metrics == CATEGORY_METRICS
        groups = photos.category if by_class else photos.instance
        left_out = repeated(looks[search.gallery], groups[search.gallery])
        for kept in (True, False) if left_out.any() else (None,):
            protocols = tuple(n for n in search.task.protocols if kept in (None, PROTOCOLS[n].repeated))
            if protocols:
                found.append(_of_gallery(search, protocols, ~left_out if kept is False else slice(None)))
    return found


def _of_gallery(search: Search, protocols: tuple[str, ...], kept: np.ndarray | slice) -> Search:
    """The search by some of its protocols, in some of its gallery."""
    labels = search.task.gallery_labels[kept]
    within = search.within and (search.within[0], search.within[1][kept])
    task = dataclasses.replace(search.task, protocols=protocols, gallery_labels=labels)
    return dataclasses.replace(search, task=task, gallery=search.gallery[kept], within=within)


class Matrices:
    """The score matrix of every mode, a block of rows at a time: rows are the sketches in stored order, columns the
    photos in the order of their content hash (evaluation rule 3). Pair networks run on the cluster, once."""

    def __init__(
        self,
        config: ExperimentConfig,
        workspace: str,
        encodings: str,
        checkpoint: Checkpoint,
        sketches: Encodings,
        photos: Encodings,
    ) -> None:
        self.config, self.workspace, self.encodings, self.method = config, workspace, encodings, checkpoint.method
        self.sketches, self.photos = sketches.values, photos.values
        members = photos.members
        self.columns = torch.from_numpy(members.content_order())
        self.gallery = members.by_content()

    def rows(self, mode: str, among: Tensor | None = None) -> Iterator[Tensor]:
        """among: int64 [q, k], the columns that `rerank-K` is about; the others are -inf."""
        for scores in self._stored(mode, None if among is None else self.columns[among]):
            yield scores[:, self.columns]

    def _stored(self, mode: str, among: Tensor | None = None) -> Iterator[Tensor]:
        """Rows and columns in stored order."""
        scored_by = self.method.ranked_by(mode)
        declared = self.method.mode(scored_by)
        if declared.combined and declared.combine:
            for parts in zip(*map(self._stored, declared.combined), strict=True):
                yield declared.combine(self.method, *parts)
        elif declared.pair_network:
            for scores in score_rows(score(self.config, self.workspace, self.encodings, mode, among)):
                yield from scores.split(EMBEDDING_TILE)
        else:
            for start in range(0, count(self.sketches), EMBEDDING_TILE):
                yield self._block(scored_by, start, EMBEDDING_TILE)

    def _block(self, mode: str, start: int, rows: int) -> Tensor:
        sketches = {name: value[start : start + rows] for name, value in self.sketches.items()}
        return self.method.score(sketches, self.photos, mode)


def _modes(config: ExperimentConfig, method: RetrievalMethod, name: str) -> list[str]:
    """The asked modes that this method has, or all of its own. Says which it has not: an experiment may ask several
    methods for what only one of them can."""
    asked = config.evaluation.modes or method.modes
    known = [mode for mode in asked if method.has(mode)]
    if left_out := [m for m in asked if m not in known]:
        say(f"{name} has no mode {', '.join(left_out)}: evaluated by {', '.join(known or method.modes[:1])}")
    return known or [method.modes[0]]


def _evaluate(
    blocks: Iterable[Tensor],
    searches: Sequence[Search],
    mode: str,
    shortlists: Sequence[Tensor] | None = None,
) -> list[Evaluation]:
    """Every search in one pass over the blocks of a whole score matrix.

    shortlists: by search, int64 [q, k], the positions in its gallery that `rerank-K` looks at.
    """
    evaluators = [Evaluator(_ranked_by(mode, search.task)) for search in searches]
    start = 0
    for block in blocks:
        for i, (search, evaluator) in enumerate(zip(searches, evaluators, strict=True)):
            scores = _picked(block, start, search)
            if shortlists is not None:
                chosen = shortlists[i][evaluator.done : evaluator.done + len(scores)]
                scores = torch.full_like(scores, -torch.inf).scatter(1, chosen, scores.gather(1, chosen))
            evaluator.add(scores)
        start += len(block)
    return [evaluator.result() for evaluator in evaluators]


def _ranked_by(mode: str, task: Task) -> Task:
    """A shortlist claims what it can tell, and says what it lost."""
    depth = rerank_depth(mode)
    if depth is None:
        return task
    return dataclasses.replace(task, metrics=(*metrics_within(task.metrics, depth), f"recall_{depth}"))


def _shortlists(blocks: Iterable[Tensor], searches: Sequence[Search], depth: int) -> list[Tensor]:
    """By search, int64 [q, depth or fewer]: the positions in its gallery that score best."""
    found: list[list[Tensor]] = [[] for _ in searches]
    start = 0
    for block in blocks:
        for search, parts in zip(searches, found, strict=True):
            parts.append(order(_picked(block, start, search), depth))
        start += len(block)
    return [torch.cat(parts) for parts in found]


def _union(searches: Sequence[Search], shortlists: Sequence[Tensor], sketches: int) -> Tensor:
    """int64 [sketches, k], the columns that any search has on a sketch's shortlist; 0 where it does not ask for it."""
    parts = []
    for search, chosen in zip(searches, shortlists, strict=True):
        columns = torch.zeros(sketches, chosen.shape[1], dtype=torch.int64)
        columns[search.queries] = torch.from_numpy(search.gallery)[chosen]
        parts.append(columns)
    return torch.cat(parts, dim=1)


def _picked(block: Tensor, start: int, search: Search) -> Tensor:
    """A setting's rows and columns of a block whose first row is sketch `start`."""
    rows = search.queries[(search.queries >= start) & (search.queries < start + len(block))]
    scores = block[rows - start][:, search.gallery]
    if search.within is not None:
        sketches, gallery = search.within
        scores = scores.masked_fill(sketches[rows, None] != gallery, -torch.inf)
    return scores


def _explanations(
    method: RetrievalMethod,
    found: Evaluation,
    images: Images,
    sketches: Members,
    photos: Members,
) -> dict[str, bytes]:
    """The best, a typical and the worst query by average precision, each with the first photo it found."""
    chosen = sheets.by_precision(found)
    queries = np.array([chosen[0], chosen[len(chosen) // 2], chosen[-1]])
    first = found.top.indices[torch.from_numpy(queries), 0].numpy()
    return explanation_sheets(
        method,
        sheets.decode_all(images, sketches, queries),
        sheets.decode_all(images, photos, first),
        [f"{sketches.category[q]} found {photos.category[p]}" for q, p in zip(queries, first, strict=True)],
        mode=explained_mode(method),
    )


def _pixels(pictures: list[bytes]) -> Encoding:
    rows = []
    for picture in pictures:
        pixels = torch.from_numpy(decode_pixels(picture).astype(np.float32))
        grey = pixels.mean(-1) if pixels.dim() == 3 else pixels
        small = torch.nn.functional.adaptive_avg_pool2d(grey[None, None], 32).flatten()
        rows.append(torch.nn.functional.normalize(small - small.mean(), dim=0))
    return {"embedding": torch.stack(rows)}


def _provenance(config: ExperimentConfig, split: ZeroShotSplit, fingerprint: str, checkpoint: str) -> dict[str, Any]:
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
    """What a report is of: two with one key have the same rows, whatever folder the pictures came from."""
    return storage.digest([checkpoint_hash, fingerprint, split.digest, *_settings(config)], 16)


def _settings(config: ExperimentConfig) -> list[Any]:
    e = config.evaluation
    asked = [e.protocols, e.instance_level, e.modes, e.precision, sorted(e.distractors), e.seen_classes]
    return [asked, config.use, NEAR, FORMAT]


def _folder(config: ExperimentConfig, workspace: str, name: str, depends: dict[str, Any]) -> str:
    return storage.join(workspace, "reports", f"{name}-{storage.digest([depends, *_settings(config)], 8)}")


def _write(
    folder: str,
    of: dict[str, Any],
    images: Images,
    searches: list[Search],
    evaluations: dict[str, list[Evaluation]],
    sketches: Members,
    photos: Members,
    method: str,
    provenance: dict[str, Any],
) -> None:
    """of: what the manifest says besides."""
    rows: list[dict[str, Any]] = []
    columns: dict[str, Any] = {"id": sketches.id, "category": sketches.category, "instance": sketches.instance}
    for i, search in enumerate(searches):
        for mode, found in ((mode, each[i]) for mode, each in evaluations.items()):
            rows.extend(found.rows(method=method, mode=mode, provenance=provenance))
            for (protocol, metric), values in found.per_query.items():
                column = np.full(len(sketches), np.nan)
                column[search.queries] = values.numpy()
                columns[f"{search.task.setting}/{protocol}/{mode}/{metric}"] = column
    by_class = {mode: each[0] for mode, each in evaluations.items()}
    asked = sketches.where(searches[0].queries)
    first = photos.where(searches[0].gallery)
    names = _names(searches[0].task, asked, first)
    protocol = searches[0].task.protocols[0]
    per_class = [
        {"mode": mode, **row}
        for mode, found in by_class.items()
        if _whole(found)
        for row in found.per_class(protocol, "mAP_all", names)
    ]
    default = next(iter(by_class.values()))
    curves = {mode: found.precision_recall().tolist() for mode, found in by_class.items() if _whole(found)}
    storage.write_json(storage.join(folder, CURVES), curves)
    shares = _confusion(default, len(names))
    storage.write_json(
        storage.join(folder, CONFUSION),
        [
            {"class": names[i], "found": names[j], "share": float(shares[i, j])}
            for i, j in zip(*np.nonzero(shares), strict=True)
        ],
    )
    known = np.flatnonzero(shares.any(0) | shares.any(1))
    pictures = {
        **({"precision-recall.png": charts.precision_recall(curves)} if curves else {}),
        "confusion.png": charts.confusion(shares[np.ix_(known, known)], [names[i] for i in known], SHOWN),
    }
    for name, png in pictures.items():
        storage.write_bytes(storage.join(folder, CHARTS, name), png)
    for name, png in sheets.retrieval_sheets(default, images, asked, first).items():
        storage.write_bytes(storage.join(folder, SHEETS, name), png)
    found_first = {mode: first.id[found.top.indices[:, :SHOWN].numpy()].tolist() for mode, found in by_class.items()}
    top = pa.table({"id": asked.id, **found_first}).sort_by("id")
    storage.write_bytes(storage.join(folder, TOP), shards.encode_part(top, row_group=4096))
    by_id = pa.table(columns).sort_by("id")  # one order for whatever was evaluated on these queries
    storage.write_bytes(storage.join(folder, QUERIES), shards.encode_part(by_id, row_group=4096))
    storage.write_json(storage.join(folder, PER_CLASS), [_finite(row) for row in per_class])
    storage.write_json(storage.join(folder, REPORT), [_finite(claimed(row)) for row in rows])
    settings = list(dict.fromkeys(search.task.setting for search in searches))
    by_class_of = [search.task for search in searches if {*search.task.metrics} & {"mAP_all"}]
    chance = {task.setting: task.chance for task in by_class_of if "plain" in task.protocols}
    about = {"method": method, "dataset": images.dataset, "settings": settings, "chance": chance}
    shards.write_manifest(folder, {**about, **provenance, **of})


def _whole(found: Evaluation) -> bool:
    """Not a shortlist."""
    return "mAP_all" in found.task.metrics


def _confusion(found: Evaluation, classes: int) -> np.ndarray:
    """float64 [classes, classes]: of the first photos for a sketch of a class (row), the share of each class."""
    top = found.task.gallery_labels[found.top.indices[:, :SHOWN]]
    counts = np.zeros((classes, classes))
    np.add.at(counts, (found.task.query_labels[:, None].expand_as(top).numpy(), top.numpy()), 1)
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def _names(task: Task, sketches: Members, photos: Members) -> list[str]:
    """Names of the classes by their label."""
    named = dict(zip(task.gallery_labels.tolist(), photos.category, strict=True))
    named |= dict(zip(task.query_labels.tolist(), sketches.category, strict=True))
    return [str(named.get(label, "")) for label in range(max(named) + 1)]


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: an interval that cannot be had is null."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
