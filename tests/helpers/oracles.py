"""Formulas of the losses in float64 numpy, one row at a time; they share no code with `zse_model`."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from torch import Tensor, nn

Vector: TypeAlias = Any
"""float64 numpy [d]"""


def doubles(x: Tensor) -> Any:
    """The values of a tensor, float64 numpy."""
    return x.detach().cpu().double().numpy()


def linear(layer: nn.Linear, x: Vector) -> Vector:
    """layer(x) of the last axis."""
    bias = 0.0 if layer.bias is None else doubles(layer.bias)
    return x @ doubles(layer.weight).T + bias


def unit(x: Vector) -> Vector:
    return x / np.sqrt((x * x).sum())


def cosine(a: Vector, b: Vector) -> float:
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def log_softmax(x: Vector) -> Vector:
    return x - np.log(np.exp(x).sum())


def distance(a: Vector, b: Vector) -> float:
    return float(np.sqrt(((a - b) ** 2).sum()))


def hinge(anchor: Vector, positive: Vector, negative: Vector, margin: float) -> float:
    """The triplet loss of one anchor."""
    return max(0.0, distance(anchor, positive) - distance(anchor, negative) + margin)


def infonce(anchor: Vector, others: list[Vector], label: int, labels: list[int], temperature: float) -> float:
    """Mean negative log-probability of the items of the anchor's class; all vectors are L2-normalised."""
    logits = [float(anchor @ other) / temperature for other in others]
    total = np.log(sum(np.exp(logit) for logit in logits))
    right = [total - logit for logit, of in zip(logits, labels, strict=True) if of == label]
    return float(sum(right) / len(right))


def cross_entropy(logits: list[float], label: int) -> float:
    return float(np.log(np.exp(logits).sum()) - logits[label])


def divergence(logits: Vector, targets: Vector) -> float:
    """KL(targets || softmax(logits))."""
    log_p = log_softmax(logits)
    return float(sum(t * (np.log(t) - log_p[i]) for i, t in enumerate(targets) if t > 0))


def nearest(anchor: Vector, others: list[Vector], label: int, labels: list[int]) -> int | None:
    """The index of the other with another label and the largest cosine; None = all have the anchor's label."""
    allowed = [j for j in range(len(others)) if labels[j] != label]
    return max(allowed, key=lambda j: cosine(anchor, others[j])) if allowed else None
