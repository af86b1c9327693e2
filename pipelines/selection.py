"""Searching the pseudo-unseen classes: how a training chooses its checkpoint without looking at a test class."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pipelines.loaders import encode_pictures
from pipelines.members import Members, read_members, read_pictures
from zse_model.evaluation.evaluate import Evaluation, Task, evaluate_scores
from zse_model.methods import Encoding, RetrievalMethod
from zse_model.split import ZeroShotSplit

PER_CLASS = 50  # pictures of each modality: enough to rank checkpoints by, cheap enough to do it often

CALIBRATION_QUERIES = 5  # a class: every one of them is scored with every photo by every mode


class PseudoUnseen:
    """Sketches and photos of the pseudo-unseen classes, searched by a method's first mode."""

    def __init__(self, images: str, manifest: dict[str, Any], split: ZeroShotSplit, batch_size: int) -> None:
        members = read_members(images, manifest).of(categories=split.pseudo_unseen).by_content()
        self.batch_size, self.split = batch_size, split
        self.sketches, self.query_labels = self._load(images, manifest, members, "sketch")
        self.photos, self.gallery_labels = self._load(images, manifest, members, "photo")

    @property
    def usable(self) -> bool:
        return bool(self.sketches and self.photos)

    def _load(
        self, images: str, manifest: dict[str, Any], members: Members, modality: Any
    ) -> tuple[list[bytes], torch.Tensor]:
        inside = members.of(categories=self.split.pseudo_unseen, modality=modality)
        kept = np.zeros(len(inside), dtype=bool)
        for category in self.split.pseudo_unseen:
            kept[np.flatnonzero(inside.category == category)[:PER_CLASS]] = True
        inside = inside.where(kept)
        labels = [self.split.pseudo_unseen.index(c) for c in inside.category]
        return read_pictures(images, manifest, inside), torch.tensor(labels, dtype=torch.int64)

    def __call__(self, method: RetrievalMethod) -> dict[str, float]:
        """mAP_all and P_25 of the plain protocol, keys as tracked."""
        queries, gallery = self._encode(method)
        found = self._evaluate(method.score(queries, gallery, method.modes[0]), self.query_labels)
        return {f"selection/{m}": float(found.values("plain", m).nanmean()) for m in found.task.metrics}

    def calibrate(self, method: RetrievalMethod) -> None:
        """Let a method choose how it combines its scores, by mAP_all of a few queries a class."""
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
