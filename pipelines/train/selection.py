"""Evaluate a network during training, to choose its checkpoint without any test class.

Rank 0 of a training calls Selection at every check. It searches pictures that are not trained on.
"""

from __future__ import annotations

import numpy as np
import torch

from pipelines.config.data import ShardConfig
from pipelines.workspace.images import Images
from pipelines.workspace.members import Members, held_back, training_members
from pipelines.workspace.tensors import encode_pictures
from zse_model.evaluation.evaluate import Evaluation, Task, evaluate_scores
from zse_model.methods import Encoding, RetrievalMethod
from zse_model.split import FEWEST, ZeroShotSplit
from zse_model.transforms import Modality

PER_CLASS = 50  # pictures of each modality: enough to rank checkpoints, and cheap enough for every check

CALIBRATION_QUERIES = 5  # per class; each is scored with every photo by every mode
# Photos of seen classes for one of the selection's: a confidence that was fitted in the small gallery alone was 0.2 to
# 0.3 too high in larger ones.
DISTRACTORS = 4
AT_ONCE = 256  # distractors whose encodings are held


class Selection:
    """Search sketches and photos of the pseudo-unseen classes with a method's first mode. Photos of a sketch's class
    are relevant.

    pairs: search held-back pictures of the seen classes instead, for a fine-grained training without pseudo-unseen
    classes. Only photos of the sketch's instance are relevant; with one such photo mAP_all is the mean reciprocal rank.
    """

    def __init__(self, images: Images, split: ZeroShotSplit, batch_size: int, *, pairs: bool = False) -> None:
        members = chosen_by(images.members(), split, pairs=pairs).by_content()
        names = members.instance if pairs else members.category
        self.batch_size, self.numbers = batch_size, {name: i for i, name in enumerate(sorted(set(names)))}
        self.sketches, self.query_labels = self._load(images, members, names, "sketch")
        self.photos, self.gallery_labels = self._load(images, members, names, "photo")
        self.images = images
        self.distractors = None if pairs else _some_photos(images, split, DISTRACTORS * len(self.photos))

    @property
    def usable(self) -> bool:
        """Whether any sketch has a relevant photo."""
        return bool(torch.isin(self.query_labels, self.gallery_labels).any())

    def _load(
        self, images: Images, members: Members, names: np.ndarray, modality: Modality
    ) -> tuple[list[bytes], torch.Tensor]:
        kept = np.zeros(len(members), dtype=bool)
        for name in self.numbers:
            kept[np.flatnonzero((names == name) & (members.modality == modality))[:PER_CLASS]] = True
        labels = torch.tensor([self.numbers[name] for name in names[kept]], dtype=torch.int64)
        return images.data(members.where(kept)), labels

    def __call__(self, method: RetrievalMethod) -> dict[str, float]:
        """mAP_all and P_25 of the protocol `plain`, 0..1, under their MLflow keys `selection/<metric>`."""
        queries, gallery = self._encode(method)
        found = self._evaluate(method.score(queries, gallery, method.modes[0]), self.query_labels)
        return {f"selection/{m}": float(found.values("plain", m).nanmean()) for m in found.task.metrics}

    def calibrate(self, method: RetrievalMethod) -> None:
        """Let a method choose the weights of its combined modes, by mAP_all of CALIBRATION_QUERIES a class, then fit
        its confidences."""
        queries, gallery = self._encode(method)
        few = torch.cat(
            [torch.nonzero(self.query_labels == c).flatten()[:CALIBRATION_QUERIES] for c in self.query_labels.unique()]
        )
        queries = {name: value[few] for name, value in queries.items()}
        with torch.inference_mode():
            method.calibrate(
                lambda mode: method.score(queries, gallery, mode),
                lambda scores: float(
                    self._evaluate(scores, self.query_labels[few]).values("plain", "mAP_all").nanmean()
                ),
            )
            if self.distractors is not None and len(self.query_labels.unique()) >= FEWEST:
                self._fit_confidence(method, queries, gallery, self.query_labels[few])

    def _fit_confidence(
        self, method: RetrievalMethod, queries: Encoding, gallery: Encoding, labels: torch.Tensor
    ) -> None:
        """Fit the confidence of each mode in two galleries: of the pseudo-unseen classes' photos, and of these and the
        distractors.

        labels: of the queries, int64 [q]. Queries without a relevant photo are left out.
        """
        answered = torch.isin(labels, self.gallery_labels)
        queries, labels = {name: value[answered] for name, value in queries.items()}, labels[answered]
        relevant = labels[:, None] == self.gallery_labels
        further = self._distractor_scores(method, queries)
        for mode in method.confident:
            own = method.score(queries, gallery, mode)
            wider = torch.cat([own, *further[mode]], 1)
            beside = torch.zeros(len(labels), wider.shape[1] - own.shape[1], dtype=torch.bool)
            method.fit_confidence(mode, [(own, relevant), (wider, torch.cat([relevant, beside], 1))])

    def _distractor_scores(self, method: RetrievalMethod, queries: Encoding) -> dict[str, list[torch.Tensor]]:
        """Mode -> scores of the distractors in blocks, float32 [q, at most AT_ONCE]. Tokens of all of them would take
        gigabytes."""
        assert self.distractors is not None
        device, found = method.device, {mode: list[torch.Tensor]() for mode in method.confident}
        for start in range(0, len(self.distractors), AT_ONCE):
            photos = self.images.data(
                self.distractors.where(np.arange(start, min(start + AT_ONCE, len(self.distractors))))
            )
            block = encode_pictures(lambda x: method.encode(x.to(device), "photo"), photos, self.batch_size)
            for mode, blocks in found.items():
                blocks.append(method.score(queries, block, mode))
        return found

    def _encode(self, method: RetrievalMethod) -> tuple[Encoding, Encoding]:
        device = method.device
        queries = encode_pictures(lambda x: method.encode(x.to(device), "sketch"), self.sketches, self.batch_size)
        gallery = encode_pictures(lambda x: method.encode(x.to(device), "photo"), self.photos, self.batch_size)
        return queries, gallery

    def _evaluate(self, scores: torch.Tensor, query_labels: torch.Tensor) -> Evaluation:
        task = Task(
            setting="selection",
            query_labels=query_labels,
            gallery_labels=self.gallery_labels,
            query_groups=query_labels,
            metrics=("mAP_all", "P_25"),
            protocols=("plain",),
        )
        return evaluate_scores([scores], task)


def _some_photos(images: Images, split: ZeroShotSplit, count: int) -> Members:
    """Photos that are trained on, the first by content hash: none that a test asks for."""
    members = training_members(images.members(), split).by_content()
    return members.where(np.flatnonzero(members.modality == "photo")[:count])


def by_pairs(split: ZeroShotSplit, shard: ShardConfig) -> bool:
    """Whether a training chooses by held-back pairs. Where a fine-grained one has no pseudo-unseen classes, the pairs
    are its task."""
    return not split.pseudo_unseen and shard.hard_negatives == 1


def chosen_by(members: Members, split: ZeroShotSplit, *, pairs: bool) -> Members:
    """The pictures that a checkpoint is chosen by: those of the pseudo-unseen classes, or held-back `pairs`."""
    return _held_back_pairs(members, split) if pairs else members.of(categories=split.pseudo_unseen)


def _held_back_pairs(members: Members, split: ZeroShotSplit) -> Members:
    """Held-back sketches and photos of instances that have both. Empty for a single instance, which any ranking
    finds."""
    kept = members.where(held_back(members, split))
    sketched, shown = ({*kept.instance[kept.modality == m]} - {None} for m in ("sketch", "photo"))
    both = sketched & shown
    return kept.where(np.isin(kept.instance, list(both) if len(both) > 1 else []))
