"""Plain ways to what the project computes: textbook NumPy and torch, the baselines of several benchmarks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zse_model.evaluation.protocol import CATEGORY_METRICS


def by_products(queries: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions, int64 [q, k], and products, float32 [q, k], of the rows with the largest products, largest first.
    queries: float32 [q, d]. rows: float32 [n, d], n > k. Ties at the k-th are broken arbitrarily."""
    products = queries @ rows.T
    some = np.argpartition(-products, k, axis=1)[:, :k]
    found = np.take_along_axis(products, some, axis=1)
    order = np.argsort(-found, axis=1)
    return np.take_along_axis(some, order, axis=1), np.take_along_axis(found, order, axis=1)


def by_distances(query: np.ndarray, codes: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions, int64 [k], and Hamming distances of the nearest codes; equal ones are ordered by position. query:
    uint64 [1]. codes: uint64 [n], of 64 bits each."""
    distances = np.bitwise_count(codes ^ query)
    order = np.argsort(distances, kind="stable")[:k]
    return order, distances[order]


def late(sketches: Tensor, photos: Tensor, batch: int = 32) -> Tensor:
    """Late interaction, float32 [q, g]: each sketch [n, d] with a batch of photos [m, d] at a time, places without ink
    included."""
    parts = [
        torch.stack([torch.einsum("nd,gmd->gnm", sketch, some).amax(2).sum(1) for sketch in sketches])
        for some in photos.split(batch)
    ]
    return torch.cat(parts, dim=1)


def metrics(scores: np.ndarray, of_query: np.ndarray, of_item: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """(protocol, metric) -> float64 [q], one query after the other: `CATEGORY_METRICS` in both protocols. scores:
    float32 [q, g]. of_query, of_item: labels; every query has an item."""
    values: dict[tuple[str, str], list[float]] = {}
    ranks = np.arange(1, scores.shape[1] + 1)
    for row, label in zip(scores, of_query, strict=True):
        hits = of_item[np.argsort(-row, kind="stable")] == label
        total, found = int(hits.sum()), hits.cumsum()
        precision = found / ranks
        for name in CATEGORY_METRICS:
            kind, depth = name.split("_")
            k = len(row) if depth == "all" else min(int(depth), len(row))
            most = min(k, total)
            if kind == "P":
                both = found[k - 1] / int(depth), found[most - 1] / most
            else:
                envelope = np.maximum.accumulate(precision[:k][::-1])[::-1]
                both = precision[:k][hits[:k]].sum() / most, envelope[hits[:k]].sum() / most
            for protocol, value in zip(("plain", "zse_paper"), both, strict=True):
                values.setdefault((protocol, name), []).append(float(value))
    return {of: np.array(found) for of, found in values.items()}
