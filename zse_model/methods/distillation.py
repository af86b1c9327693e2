"""Soft-label distillation from the frozen backbone's own classifier (our design), for any method with pooled features.

Before training, the pretrained classifier labels the training photos; the mean label of a class becomes the target of
every sketch and photo of that class. It keeps in the network what the pretraining knew about how classes relate.
Units that name an unseen class are dropped: the target says nothing about them (evaluation rule 10).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from zse_model.backbones import Backbone
from zse_model.errors import ZseError
from zse_model.losses import soft_label_divergence
from zse_model.methods.base import TrainBatch


class SoftLabels(nn.Module):
    """Class-mean soft labels over the allowed units of a pretrained classifier."""

    targets: Tensor
    allowed: Tensor

    def __init__(self, classes: int, units: int, dropped: Sequence[int] | None) -> None:
        """Raises ZseError where nobody has decided which units of `units` are dropped (None)."""
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
    def measure(self, backbone: Backbone, batches: Iterator[TrainBatch], total: Callable[[Tensor], Tensor]) -> None:
        """Fill the targets from photos of training batches, over all workers."""
        assert backbone.classifier is not None
        sums = torch.zeros_like(self.targets, dtype=torch.float64)
        counts = torch.zeros(len(self.targets), 1, dtype=torch.float64, device=sums.device)
        for batch in batches:
            pooled = backbone(torch.cat([batch.photo, batch.negative])).pooled
            p = backbone.classifier(pooled)[:, self.allowed].double().softmax(dim=1)
            labels = torch.cat([batch.label, batch.negative_label])
            sums.index_add_(0, labels, p)
            counts.index_add_(0, labels, torch.ones(len(labels), 1, dtype=torch.float64, device=sums.device))
        sums, counts = total(sums), total(counts)
        if not bool(counts.any()):  # nothing was measured: the targets stay even
            return
        overall = sums.sum(0, keepdim=True) / counts.sum()  # stands in for a class that no measured photo showed
        self.targets.copy_(torch.where(counts > 0, sums / counts.clamp(min=1), overall))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits [n, units], labels int64 [n] -> float32 [n]."""
        return soft_label_divergence(logits[:, self.allowed], self.targets[labels])
