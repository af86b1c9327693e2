"""`late_interaction`: `global`, and a vector of each place, compared where they match best (our design, after ColBERT).

The score `late` is the sum of the matches of a sketch's places (`zse_model/late.py`): it shows by construction what it
is made of. Its places are the tokens of the shared backbone, projected.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from zse_model.backbones import BackboneConfig, sketches_in
from zse_model.errors import ZseError
from zse_model.explanation.matches import MATCHES
from zse_model.late import pair_scores
from zse_model.methods.base import Encoding, Modality, TrainBatch
from zse_model.methods.codes import code_modes
from zse_model.methods.fusion import fused
from zse_model.methods.global_embedding import GlobalConfig, GlobalEmbedding
from zse_model.methods.places import LATE, Placing
from zse_model.modes import RET, Mode


@dataclass(frozen=True, kw_only=True)
class LateInteractionConfig(GlobalConfig):
    """`late` and `pairs` are weights of losses of places. One must be above 0. The others are those of `global`."""

    __pydantic_config__ = {"extra": "forbid"}
    METHOD = "late_interaction"

    place_dim: int = 64
    """Of the vector of a place."""
    late: float = 1.0
    """InfoNCE of classes, the mean of both directions, on the scores of all sketches and photos of a step."""
    pairs: float = 0.0
    """A logistic loss of how much higher a sketch's photo scores than its negative: for known pairs and hard negatives.
    """
    late_temperature: float = 0.05
    """Of `late` and `pairs`."""
    late_distance: float = 0.0
    """What a match of `late` costs: this times the squared distance of its two places, with the picture's side as unit,
    is taken from their cosine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.late or self.pairs):
            raise ZseError("late_interaction: one of late and pairs must be above 0, to train the places")


MODES = (
    replace(
        RET,
        explanation="ret is the cosine of one vector of each picture. The matches below are not part of it.",
    ),
    LATE,
    fused(
        "ret",
        "late",
        needs="dataset.pseudo_unseen",
        explanation="fused is the weighted sum of ret and late. Its late part is the sum of the matches below.",
        places=True,
    ),
    *code_modes(" The pictures below are not part of it."),
    Mode(
        name="rerank-K",
        score="The K best by ret, ranked by late.",
        pair_network=True,
        places=True,
        shortlist=("ret", "late"),
    ),
)


class LateInteraction(GlobalEmbedding, Placing):
    Config = LateInteractionConfig
    MODES = MODES
    EXPLAINERS = (MATCHES,)
    config: LateInteractionConfig  # type: ignore[reportIncompatibleVariableOverride]

    READS_TOKENS = True

    def __init__(
        self,
        config: LateInteractionConfig,
        backbone: BackboneConfig,
        *,
        size: int,
        classes: int,
        load_weights: bool = True,
    ) -> None:
        super().__init__(config, backbone, size=size, classes=classes, load_weights=load_weights)
        self.local = self.build_local()
        self.register_buffer("fusion", torch.zeros(2))

    def encode(self, images: Tensor, modality: Modality) -> Encoding:
        """-> "embedding" as `global`, and "places", float32 [b, n, place_dim]: of photos L2-normalised, of sketches as
        long as their weights, which sum to 1."""
        features = self.backbone(images, sketches=sketches_in(images, modality))
        x = self._embedding(features.pooled)
        return {"embedding": x, **self.coded(x, modality), "places": self.places(features.tokens, images, modality)}

    def losses(self, batch: TrainBatch) -> dict[str, Tensor]:
        c, b = self.config, len(batch)
        images, labels = batch.pictures()
        features = self.backbone(images, sketches=2 * b)
        losses = self._global_losses(features.pooled, labels)
        sketches, photos = self.places_of_batch(features.tokens, images)
        if c.late:
            losses["late"] = c.late * self.late_contrast(sketches, photos, labels)
        if c.pairs:
            costs = self.distance_costs
            own, other = (pair_scores(sketches[:b], some, costs) for some in photos.split(b))
            losses["pairs"] = c.pairs * F.softplus((other - own) / c.late_temperature)
        return losses
