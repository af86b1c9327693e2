"""Soft-label distillation from the backbone's own pretrained classifier (our design), for any method that has one.

Before training, the pretrained classifier labels the training photos. The mean label of a class is the target of every
sketch and photo of that class, so that the network keeps what the pretraining knew about the relations of classes.
Units that name an unseen class are dropped: no target depends on them, as zero-shot evaluation demands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zse_model.backbones import Backbone
from zse_model.errors import ZseError
from zse_model.losses import soft_label_divergence

if TYPE_CHECKING:  # base imports this module
    from zse_model.methods.base import TrainBatch


class Distillation(nn.Module):
    """Class-mean soft labels over the units of a pretrained classifier that are not dropped, and the loss on them.

    The classifier stays in its backbone, whose learning rate it has.
    """

    targets: Tensor
    """float32 [classes, kept units], rows sum to 1; uniform until they are measured."""
    allowed: Tensor
    """int64 [kept units], rising."""

    def __init__(self, classes: int, units: int, dropped: Sequence[int] | None) -> None:
        """Raises ZseError where dropped units are not decided (None), or are none of 0..units-1."""
        super().__init__()
        if dropped is None:
            raise ZseError(
                "distillation needs dropped_units, the ImageNet units that name an unseen class: "
                "zse_model.split.imagenet_units_naming(unseen). () drops none, where no class is unseen"
            )
        if any(not 0 <= unit < units for unit in dropped):
            raise ZseError(f"Dropped units must lie in 0..{units - 1}, got {sorted(dropped)}")
        kept = torch.tensor(sorted(set(range(units)) - set(dropped)))
        self.register_buffer("allowed", kept)
        self.register_buffer("targets", torch.full((classes, len(kept)), 1 / len(kept)))

    @torch.no_grad()
    def measure(self, backbone: Backbone, batches: Iterable[TrainBatch], total: Callable[[Tensor], Tensor]) -> None:
        """Set the targets from the photos of training batches; `total` sums a tensor over all workers.

        A class without a photo gets the mean over all photos. Without any photo the targets stay as they are.
        """
        sums = torch.zeros_like(self.targets, dtype=torch.float64)
        counts = torch.zeros(len(self.targets), 1, dtype=torch.float64, device=sums.device)
        for batch in batches:
            pooled = backbone(torch.cat([batch.photo, batch.negative])).pooled
            p = backbone.classify(pooled)[:, self.allowed].double().softmax(dim=1)
            labels = torch.cat([batch.label, batch.negative_label])
            sums.index_add_(0, labels, p)
            counts.index_add_(0, labels, torch.ones(len(labels), 1, dtype=torch.float64, device=sums.device))
        sums, counts = total(sums), total(counts)
        if not bool(counts.any()):
            return
        overall = sums.sum(0, keepdim=True) / counts.sum()
        self.targets.copy_(torch.where(counts > 0, sums / counts.clamp(min=1), overall))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits of the classifier [n, units] for pictures of classes int64 [n] -> KL(target || prediction) over the
        kept units, float32 [n]."""
        return soft_label_divergence(logits[:, self.allowed], self.targets[labels])
