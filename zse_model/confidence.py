"""Confidence: how likely a found photo is of the sketch's class, from its score and the query's own distribution in the
gallery. Our design.

    logit(confidence) = a + b * (score - median score of the query in the gallery) - log(photos of the gallery)

Scores of two queries do not compare, their distances from the median do: the median hardly moves with the share of
relevant photos. The logarithm is Bayes' rule where a gallery grows by photos of other classes. So a confidence is that
of a catalogue in which a class has about as many photos as in the selection set; with fewer it is too high.

"Nothing similar" is said where the best photo stands out less than in `REFUSED` of the searches whose class was there.
It compares the distance from the median in the first gallery of the fit, of the pseudo-unseen classes alone. The best
of more photos stands out more, so a larger gallery refuses less. A level of confidence, and a level that grows with the
logarithm of the gallery, refused too much (docs/searching.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SHOWN = 20  # photos of a query that are fitted and checked: a first page
REFUSED = 0.1  # share of the selection queries that the level refuses
SAMPLE = 512  # photos whose scores give the median of a query: its standard error is then 0.06 of their deviation
BINS = 10  # of a reliability diagram


@dataclass(frozen=True)
class Confidence:
    """The confidence of one mode."""

    a: float
    b: float
    """Per unit of score, above 0."""
    level: float
    """Distance of the best photo's score from the median below which nothing is similar."""

    def of(self, scores: Tensor, median: Tensor, gallery: int) -> Tensor:
        """Confidences in 0..1, float32 [q, k], of scores [q, k], medians [q] and the number of photos searched."""
        return torch.sigmoid(self.a + self.b * (scores - median[:, None]) - math.log(max(gallery, 1)))

    def similar(self, best: Tensor, median: Tensor) -> Tensor:
        """Whether anything is similar: bool [q], of the best scores [q] and medians [q]."""
        return best - median >= self.level


def confidence_of(row: Tensor) -> Confidence | None:
    """The confidence that a row of the buffer `confidence` holds, float32 [3]; None for zeros."""
    if row.is_meta or not bool(row.any()):
        return None
    return Confidence(*row.tolist())


def median_of(scores: Tensor) -> Tensor:
    """The median score of each query, float32 [q], of scores [q, g]: the lower one of two."""
    return scores.median(1).values


def fit(galleries: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Fit a row of the buffer: a, b and the level, float32 [3].

    galleries: the scores of the same queries in galleries of rising sizes, float32 [q, g], and which photos are
        relevant, bool [q, g]; each query has a relevant photo in each. The level is of the first.
    Zeros if the first photos of all queries are relevant, or none is, or a higher score is no better.
    """
    distances, relevant, sizes = [], [], []
    for scores, of_class in galleries:
        best = scores.topk(min(SHOWN, scores.shape[1]), dim=1)
        distances.append((best.values - median_of(scores)[:, None]).flatten())
        relevant.append(of_class.gather(1, best.indices).flatten())
        sizes.append(torch.full_like(distances[-1], float(scores.shape[1])).log())
    d, y, offset = torch.cat(distances).double(), torch.cat(relevant).double(), torch.cat(sizes).double()
    if not 0 < float(y.sum()) < len(y):
        return torch.zeros(3)
    a, b = _logistic(d, y, offset)
    if b <= 0:
        return torch.zeros(3)
    scores, _ = galleries[0]
    level = (scores.amax(1) - median_of(scores)).double().quantile(REFUSED)
    return torch.tensor([a, b, float(level)])


def _logistic(d: Tensor, y: Tensor, offset: Tensor) -> tuple[float, float]:
    """a and b of logit = a + b d - offset by Newton's method. Distances are scaled, and a faint penalty
    keeps b finite where the classes separate."""
    scale = d.std().clamp(min=1e-12)
    x = torch.stack([torch.ones_like(d), d / scale], 1)
    w = torch.zeros(2, dtype=torch.float64)
    penalty = torch.diag(torch.tensor([0.0, 1e-3], dtype=torch.float64))
    w[0] = offset.mean()
    for _ in range(100):
        p = torch.sigmoid(x @ w - offset)
        gradient = x.T @ (p - y) / len(y) + penalty @ w
        hessian = (x * (p * (1 - p))[:, None]).T @ x / len(y) + penalty + 1e-9 * torch.eye(2, dtype=torch.float64)
        step = torch.linalg.solve(hessian, gradient)
        w -= step * min(1.0, 4.0 / float(step.abs().max().clamp(min=1e-12)))  # far from the solution a step overshoots
        if float(step.abs().max()) < 1e-9:
            break
    return float(w[0]), float(w[1] / scale)


@dataclass(frozen=True)
class Reliability:
    """How confidences of first pages agree with what is relevant."""

    bins: list[dict[str, float]]
    """A bin each: low and high, mean `confidence`, `relevant` (share), `photos`. Empty bins are left out."""
    ece: float
    """Expected calibration error: mean distance of confidence and share of relevant photos, weighted by photos."""
    refused: float
    """Share of the queries whose class is there and that are told "nothing similar"."""
    caught: float
    """Share of the queries that are told so once the photos of their class are left out; NaN if no other is left."""


def reliability(
    confidence: Confidence, scores: Tensor, relevant: Tensor, median: Tensor, other: Tensor, gallery: int
) -> Reliability:
    """Check the confidences of first pages.

    scores, relevant: of the best photos, falling, [q, k]; median [q]; other: the best score of a photo of another
        class, [q], NaN where there is none; gallery: its photos.
    """
    scores, relevant = scores[:, :SHOWN], relevant[:, :SHOWN]
    p, y = confidence.of(scores, median, gallery).flatten().double(), relevant.flatten().double()
    place = (p * BINS).long().clamp(max=BINS - 1)
    bins, error = [], 0.0
    for i in place.unique().tolist():
        inside = place == i
        said, true, photos = float(p[inside].mean()), float(y[inside].mean()), int(inside.sum())
        bins.append({"low": i / BINS, "high": (i + 1) / BINS, "confidence": said, "relevant": true, "photos": photos})
        error += abs(said - true) * photos / len(p)
    present = confidence.similar(scores[:, 0], median)
    known = ~other.isnan()
    absent = confidence.similar(other[known], median[known])
    caught = float((~absent).double().mean()) if len(absent) else float("nan")
    return Reliability(bins, error, float((~present).double().mean()), caught)
