"""`global`: one vector per picture, compared by cosine. The line that every other method has to beat (our design).

A backbone shared by sketches and photos, a linear head, and up to three losses: cosine classification of the seen
classes, sketch<->photo InfoNCE, and distillation from the backbone's own pretrained classifier. Retrieval reads either
the head's output or the backbone's pooled feature (`readout`): the default was chosen on pseudo-unseen classes
(docs/evaluation.md), and it is part of the configuration, not of the evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zse_model.backbones import Backbone, BackboneConfig
from zse_model.errors import ZseError
from zse_model.gather import gathered
from zse_model.losses import cosine_logits, cross_modal_infonce, normalised
from zse_model.methods.base import Encoding, Modality, RetrievalMethod, TrainBatch
from zse_model.methods.distillation import SoftLabels


@dataclass(frozen=True, kw_only=True)
class GlobalConfig:
    """Weights of 0 switch a loss off without leaving parameters behind."""

    __pydantic_config__ = {"extra": "forbid"}

    dim: int = 512
    readout: Literal["pooled", "head"] = "pooled"
    classification: float = 1.0
    contrast: float = 1.0
    distillation: float = 0.0
    temperature: float = 0.07
    """Of the contrast."""
    scale: float = 16.0
    """Of the cosine classifier's logits."""
    dropped_units: tuple[int, ...] | None = None
    """Of the pretrained classifier, never distilled: those that name an unseen class. `zse` fills them in from the
    split; elsewhere distillation needs them, () where no class is unseen."""


class GlobalEmbedding(RetrievalMethod):
    Config = GlobalConfig
    config: GlobalConfig

    def __init__(
        self, config: GlobalConfig, backbone: BackboneConfig, *, size: int, classes: int, load_weights: bool = True
    ) -> None:
        super().__init__(config, backbone, size=size, classes=classes)
        c = config
        if not (c.classification or c.contrast or c.distillation):
            raise ZseError("global: at least one of classification, contrast, distillation must be above 0")
        self.backbone = Backbone(
            backbone, size=size, pooled=True, classifier=c.distillation > 0, load_weights=load_weights
        )
        wants_head = c.classification > 0 or c.contrast > 0
        if c.readout == "head" and not wants_head:
            raise ZseError("global: readout 'head' needs classification or contrast above 0, which train the head")
        self.head = nn.Linear(self.backbone.pooled_dim, c.dim) if wants_head else None
        self.prototypes = nn.Parameter(torch.randn(classes, c.dim) * c.dim**-0.5) if c.classification else None
        self.soft_labels: SoftLabels | None = None
        if isinstance(self.backbone.classifier, nn.Linear):
            self.soft_labels = SoftLabels(classes, self.backbone.classifier.out_features, c.dropped_units)

    def encode(self, images: Tensor, modality: Modality) -> Encoding:
        """-> "embedding" [b, pooled_dim or dim], float32, L2-normalised."""
        pooled = self.backbone(images).pooled
        return {"embedding": normalised(self.head(pooled) if self.config.readout == "head" and self.head else pooled)}

    def losses(self, batch: TrainBatch) -> dict[str, Tensor]:
        images, labels = batch.pictures()
        pooled = self.backbone(images).pooled
        c, b, losses = self.config, len(batch), {}
        if self.head is not None:
            x = normalised(self.head(pooled))
            losses = embedding_losses(
                x, labels, self.prototypes, c.scale, c.temperature, classification=c.classification, contrast=c.contrast
            )
        if self.soft_labels is not None and self.backbone.classifier is not None:
            divergence = self.soft_labels(self.backbone.classifier(pooled), labels)
            losses["distillation"] = c.distillation * divergence.view(4, b).mean(0)
        return losses

    def prepare(self, batches: Iterator[TrainBatch], total: Callable[[Tensor], Tensor]) -> None:
        if self.soft_labels is not None:
            self.soft_labels.measure(self.backbone, batches, total)


def embedding_losses(
    x: Tensor,
    labels: Tensor,
    prototypes: Tensor | None,
    scale: float,
    temperature: float,
    *,
    classification: float,
    contrast: float,
) -> dict[str, Tensor]:
    """Classification and contrast over x [4b, d], L2-normalised, in the order of `TrainBatch.pictures`; each [b].

    Contrast runs from both sketches and from the photo, over what is `gathered`; the negative photo may be the only
    picture of its class in the batch, so it is a candidate but never an anchor.
    """
    b, losses = len(x) // 4, {}
    if classification and prototypes is not None:
        loss = F.cross_entropy(cosine_logits(x, prototypes, scale), labels, reduction="none")
        losses["classification"] = classification * loss.view(4, b).mean(0)
    if contrast:
        sketches, photos, sketch_labels, photo_labels = x[: 2 * b], x[2 * b :], labels[: 2 * b], labels[2 * b :]
        others, other_labels = gathered(photos), gathered(photo_labels)
        from_sketch = cross_modal_infonce(sketches, others, sketch_labels, other_labels, temperature)
        others, other_labels = gathered(sketches), gathered(sketch_labels)
        from_photo = cross_modal_infonce(photos[:b], others, photo_labels[:b], other_labels, temperature)
        losses["contrast"] = contrast * (from_sketch.view(2, b).mean(0) + from_photo) / 2
    return losses
