"""Losses over labelled sketches and photos, one value a row.

All compute in float32, also under autocast: bfloat16 rounds two cosines that differ by 0.004 to one number.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zse_model.precision import full_precision


def cross_modal_infonce(
    anchors: Tensor, others: Tensor, anchor_labels: Tensor, other_labels: Tensor, t: float
) -> Tensor:
    """`infonce` of dot products: anchors [n, d] and others [m, d], L2-normalised, labels int64 [n] and [m] -> float32
    [n], 0 or more (our design)."""
    with full_precision(anchors.device):
        similarities = anchors.float() @ others.float().T
    return infonce(similarities, anchor_labels, other_labels, t)


def infonce(similarities: Tensor, anchor_labels: Tensor, other_labels: Tensor, t: float) -> Tensor:
    """InfoNCE with several positives: the mean negative log-probability of an anchor's same-class items among all items
    of the other modality, float32 [n], 0 or more (our design).

    similarities: float32 [n, m]. Labels are int64 [n] and [m]; t is the temperature, above 0. Every anchor needs an
    item of its class among the others. With one such item and equal similarities the loss is log(m).
    """
    with full_precision(similarities.device):
        log_p = (similarities / t).log_softmax(dim=1)
    positive = anchor_labels[:, None] == other_labels[None, :]
    return -(log_p * positive).sum(1) / positive.sum(1)


def triplet(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0) -> Tensor:
    """max(0, |a - p| - |a - n| + margin) of rows [b, d], not normalised here: float32 [b] (the triplet loss of
    ZSE-SBIR)."""
    with full_precision(anchor.device):
        return F.triplet_margin_loss(
            anchor.float(), positive.float(), negative.float(), margin=margin, reduction="none"
        )


def nearest_other(anchors: Tensor, others: Tensor, labels: Tensor, other_labels: Tensor) -> Tensor:
    """For each anchor [b, d] the index of the nearest of others [m, d] with another label, int64 [b]; any index where
    there is none. Rows are L2-normalised; labels are int64 [b] and [m]."""
    same = labels[:, None] == other_labels
    with full_precision(anchors.device):
        return (anchors.float() @ others.float().T).masked_fill(same, -torch.inf).argmax(dim=1)


def soft_label_divergence(logits: Tensor, targets: Tensor) -> Tensor:
    """KL(targets || softmax(logits)) of rows: logits [b, c] and probabilities [b, c] -> float32 [b], 0 or more."""
    with full_precision(logits.device):
        return F.kl_div(logits.float().log_softmax(dim=1), targets.float(), reduction="none").sum(1)


def normalised(x: Tensor) -> Tensor:
    """L2-normalised along the last axis: [..., d] -> float32 [..., d]; a zero vector stays zero."""
    with full_precision(x.device):
        return F.normalize(x.float(), dim=-1)


def cosine_logits(x: Tensor, weight: Tensor, scale: float) -> Tensor:
    """scale * cosine of every row of x [b, d] with every row of weight [c, d]: float32 [b, c]."""
    with full_precision(x.device):
        return scale * torch.mm(normalised(x), normalised(weight).T)


def cosine_cross_entropy(x: Tensor, prototypes: Tensor, labels: Tensor, scale: float) -> Tensor:
    """Cross entropy of `cosine_logits` with one prototype a class: x [n, d], prototypes [c, d], labels int64 [n] in
    0..c-1 -> float32 [n]; 0 or more."""
    return F.cross_entropy(cosine_logits(x, prototypes, scale), labels, reduction="none")


def item_means(losses: Tensor, items: int) -> Tensor:
    """Losses [k * items] of k pictures an item, all first pictures before all second ones -> their means, [items]."""
    return losses.view(-1, items).mean(0)
