"""`global`: one embedding a picture, compared by cosine. The baseline of all other methods (our design).

Sketches and photos share a backbone and a linear head. Up to three losses train them: cosine classification of the seen
classes, sketch<->photo InfoNCE, and distillation from the backbone's own pretrained classifier. Retrieval reads the
head's output or the backbone's pooled feature (`readout`). The default was chosen on pseudo-unseen classes
(docs/evaluation.md). It is part of the configuration, not of the evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from zse_model.backbones import Backbone, BackboneConfig, sketches_in
from zse_model.errors import ZseError
from zse_model.gather import gathered
from zse_model.layers import CosineClassifier
from zse_model.losses import cross_modal_infonce, item_means, normalised
from zse_model.methods.base import Encoding, MethodConfig, Modality, TrainBatch
from zse_model.methods.codes import RERANK_CODES, Coding, check_bits, code_modes
from zse_model.methods.distillation import Distillation
from zse_model.modes import RET


@dataclass(frozen=True, kw_only=True)
class GlobalConfig(MethodConfig):
    """`classification`, `contrast` and `distillation` are weights of losses. 0 builds none of a loss's parameters."""

    __pydantic_config__ = {"extra": "forbid"}
    METHOD: ClassVar[str] = "global"

    dim: int = 512
    """Of the head's output."""
    readout: Literal["pooled", "head"] = "pooled"
    classification: float = 1.0
    contrast: float = 1.0
    distillation: float = 0.0
    temperature: float = 0.07
    """Of the contrast."""
    scale: float = 16.0
    """Of the cosine classifier's logits."""
    bits: int = 0
    """Of the codes, fitted when a training ends: 32, 64, 128 or 256; 0 = none."""
    dropped_units: tuple[int, ...] | None = None
    """Units of the pretrained classifier that are not distilled: those that name an unseen class. `zse` fills them in
    from the split; elsewhere distillation needs them, () where no class is unseen."""

    @property
    def has_head(self) -> bool:
        """Whether a loss trains the head."""
        return self.classification > 0 or self.contrast > 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.has_head or self.distillation):
            raise ZseError(f"{self.METHOD}: at least one of classification, contrast, distillation must be above 0")
        if self.readout == "head" and not self.has_head:
            raise ZseError(
                f"{self.METHOD}: readout 'head' needs classification or contrast above 0, which train the head"
            )
        check_bits(self.METHOD, self.bits)


class GlobalEmbedding(Coding):
    Config = GlobalConfig
    MODES = (RET, *code_modes(), RERANK_CODES)
    config: GlobalConfig

    READS_TOKENS: ClassVar[bool] = False
    """Whether a method that adds to this one reads the backbone's tokens."""

    def __init__(
        self, config: GlobalConfig, backbone: BackboneConfig, *, size: int, classes: int, load_weights: bool = True
    ) -> None:
        super().__init__(config, backbone, size=size, classes=classes)
        c = config
        self.backbone = Backbone(
            backbone,
            size=size,
            pooled=True,
            tokens=self.READS_TOKENS,
            classifier=c.distillation > 0,
            load_weights=load_weights,
        )
        self.head = nn.Linear(self.backbone.pooled_dim, c.dim) if c.has_head else None
        if c.classification:
            self.classifier = CosineClassifier(classes, c.dim, c.scale)
        if c.distillation:
            self.distillation = Distillation(classes, self.backbone.units, c.dropped_units)
        self.build_codes(c.dim if c.readout == "head" else self.backbone.pooled_dim)

    def encode(self, images: Tensor, modality: Modality) -> Encoding:
        """-> "embedding" [b, pooled_dim or dim], float32, L2-normalised, and its codes by name."""
        x = self._embedding(self.backbone(images, sketches=sketches_in(images, modality)).pooled)
        return {"embedding": x, **self.coded(x, modality)}

    def _embedding(self, pooled: Tensor) -> Tensor:
        """Pooled features [b, pooled_dim] -> what `ret` compares."""
        return normalised(self.head(pooled) if self.config.readout == "head" and self.head else pooled)

    def losses(self, batch: TrainBatch) -> dict[str, Tensor]:
        images, labels = batch.pictures()
        return self._global_losses(self.backbone(images, sketches=2 * len(batch)).pooled, labels)

    def _global_losses(self, pooled: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Pooled features [4b, pooled_dim] and labels [4b] in the order of `TrainBatch.pictures` -> losses [b]."""
        c, b = self.config, len(labels) // 4
        losses: dict[str, Tensor] = {}
        if self.head is not None:
            x = normalised(self.head(pooled))
            if self.classifier is not None:
                losses["classification"] = c.classification * item_means(self.classifier(x, labels), b)
            if c.contrast:
                losses["contrast"] = c.contrast * contrast(x, labels, c.temperature)
        if self.distillation is not None:
            divergence = self.distillation(self.backbone.classify(pooled), labels)
            losses["distillation"] = c.distillation * item_means(divergence, b)
        return losses


def contrast(x: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """InfoNCE between sketches and photos, the mean of both directions: x [4b, d], L2-normalised, and labels int64
    [4b] in the order of `TrainBatch.pictures` -> float32 [b], 0 or more (our design).

    Candidates are all pictures of the other modality that are `gathered`. Both sketches and the photo are anchors. The
    negative photo is a candidate only: it may be the only picture of its class in the batch.
    """
    b = len(x) // 4
    sketches, photos, sketch_labels, photo_labels = x[: 2 * b], x[2 * b :], labels[: 2 * b], labels[2 * b :]
    others, other_labels = gathered(photos), gathered(photo_labels)
    from_sketch = cross_modal_infonce(sketches, others, sketch_labels, other_labels, temperature)
    others, other_labels = gathered(sketches), gathered(sketch_labels)
    from_photo = cross_modal_infonce(photos[:b], others, photo_labels[:b], other_labels, temperature)
    return (item_means(from_sketch, b) + from_photo) / 2
