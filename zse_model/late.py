"""Late interaction: two pictures are compared place by place, and the score is the weighted sum of the best matches.

    score = sum over the places i of a sketch: w_i max over the places j of a photo: <s_i, p_j> - c |x_i - x_j|^2

s and p are L2-normalised. x is where a place is, with the picture's side as unit, and c what a distance costs: 0 by
default. The weights w of a sketch sum to 1, so that scores are at most 1 and compare between sketches. w is 0 where a
sketch has no ink. A sketch is kept as the products w_i s_i. What a pair costs is n * m dot products of d numbers,
without a network. The form is ColBERT's (Khattab and Zaharia, SIGIR 2020); weights from ink and a learned salience, and
the cost of distance, are our design.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zse_model.losses import normalised
from zse_model.precision import full_precision
from zse_model.scoring import Encoding
from zse_model.transforms import Modality

INK = 0.05
"""A place of a sketch is compared from this share of the ink of its darkest place."""
# Numbers of a block of products: 8 MB of float32, which stay in the cache of a processor; on a GPU 512 MB.
CPU_CHUNK, GPU_CHUNK = 2**21, 2**27
TILE_BYTES = 2**28  # of the places of a precomputed gallery tile


class LocalHead(nn.Module):
    """Tokens of a backbone -> the vectors that late interaction compares.

    A new head is random until `start` makes it the principal axes of the tokens, which keep what the pretraining knows:
    after 52 steps `late` ranked unseen classes with a mAP_all of 0.321, from random numbers 0.247 (docs/results.md).
    Every sketch's places weigh alike at first.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, dim, bias=False)
        # Sketches and photos differ most in their means, which say nothing of what is shown.
        self.sketch_bias, self.photo_bias = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        self.salience = nn.Linear(width, 1, bias=False)  # the softmax would cancel a bias
        nn.init.zeros_(self.salience.weight)

    @property
    def started(self) -> bool:
        """Whether it is no new head: `start` was called, or trained weights were loaded."""
        return bool(self.sketch_bias.any() or self.photo_bias.any())

    def photo(self, tokens: Tensor) -> Tensor:
        """[b, n, width] -> the places of photos, float32 [b, n, dim], L2-normalised."""
        return normalised(self.project(tokens) + self.photo_bias)

    def sketch(self, tokens: Tensor, inked: Tensor) -> Tensor:
        """Tokens [b, n, width] and where there is ink, bool [b, n] -> the places of sketches, float32 [b, n, dim]. The
        lengths of a sketch's places are their weights: they sum to 1, and are 0 without ink."""
        weights = self.salience(tokens).float().masked_fill(~inked[:, :, None], -torch.inf).softmax(1)
        return weights * normalised(self.project(tokens) + self.sketch_bias)

    @torch.no_grad()
    def start(self, sketches: Moments, photos: Moments) -> None:
        """Project to the first principal axes of tokens around the mean of their modality, each divided by the root of
        its standard deviation: halfway to whitening."""
        covariance = (sketches.scatter() + photos.scatter()) / (sketches.count + photos.count)
        variances, axes = torch.linalg.eigh(covariance)
        first = min(len(self.project.weight), len(axes))
        scale = variances.flip(0)[:first].clamp(min=1e-6 * float(variances[-1]) + 1e-12) ** -0.25
        self.project.weight[:first] = (axes.flip(1)[:, :first] * scale).T.to(self.project.weight.dtype)
        for bias, moments in ((self.sketch_bias, sketches), (self.photo_bias, photos)):
            bias.copy_(-self.project(moments.mean().to(self.project.weight.dtype)))


class Moments:
    """Count, sum and sum of products of tokens, float64."""

    def __init__(self, width: int, device: torch.device) -> None:
        self.count = torch.zeros((), dtype=torch.float64, device=device)
        self.sums = torch.zeros(width, dtype=torch.float64, device=device)
        self.products = torch.zeros(width, width, dtype=torch.float64, device=device)

    def add(self, tokens: Tensor) -> None:
        """[n, width]."""
        tokens = tokens.float()
        self.count += len(tokens)
        self.sums += tokens.sum(0)
        with full_precision(tokens.device):
            self.products += tokens.T @ tokens

    def summed(self, total: Callable[[Tensor], Tensor]) -> Moments:
        """Of all workers."""
        self.count, self.sums, self.products = total(self.count), total(self.sums), total(self.products)
        return self

    def mean(self) -> Tensor:
        return self.sums / self.count.clamp(min=1)

    def scatter(self) -> Tensor:
        """The sum of products around the mean, [width, width]."""
        return self.products - torch.outer(self.mean(), self.sums)


def inked(sketches: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which places of a grid have ink: uint8 [b, 1 or 3, s, s], 255 paper -> bool [b, rows * columns]. All places of an
    empty sketch."""
    ink = F.adaptive_avg_pool2d(255 - sketches.float().mean(1), grid).flatten(1)
    return ink >= INK * ink.amax(1, keepdim=True)


def distance_costs(grid: tuple[int, int], distance: float, device: torch.device) -> Tensor | None:
    """What a match of the sketch's place i with the photo's place j costs, float32 [n, n], row-major: `distance` times
    the squared distance of the places, with a picture of 1 by 1. None without a cost (0)."""
    if not distance:
        return None
    down, right = (torch.arange(n, device=device) / n for n in grid)
    at = torch.cartesian_prod(down, right)
    return distance * (at[:, None] - at).square().sum(2)


def products(sketch: Tensor, photos: Tensor) -> Tensor:
    """Dot products of every place of a sketch [n, d] with every place of photos [g, m, d]: float32 [n, g, m]."""
    with full_precision(sketch.device):
        return (sketch @ photos.flatten(0, 1).T).unflatten(1, photos.shape[:2])


def late_scores(sketches: Tensor, photos: Tensor, costs: Tensor | None = None) -> Tensor:
    """Scores of all pairs for a loss: places [a, n, d] and [b, m, d], `distance_costs` [n, m] -> float32 [a, b].

    Holds a * n * b * m products and their gradient: 0.5 GB for 32 x 32 pictures with 196 places.
    """
    with full_precision(sketches.device):
        found = sketches.flatten(0, 1) @ photos.flatten(0, 1).T
    found = found.view(*sketches.shape[:2], *photos.shape[:2])
    if costs is not None:
        found -= charged(sketches, costs)[:, :, None]
    return found.amax(3).sum(1)


def pair_scores(sketches: Tensor, photos: Tensor, costs: Tensor | None = None) -> Tensor:
    """Scores of pairs, row by row: places [b, n, d] and [b, m, d], `distance_costs` [n, m] -> float32 [b]."""
    with full_precision(sketches.device):
        found = sketches @ photos.transpose(1, 2)
    if costs is not None:
        found -= charged(sketches, costs)
    return found.amax(2).sum(1)


def charged(sketches: Tensor, costs: Tensor) -> Tensor:
    """The costs [n, m] times the weights of a sketch's places [..., n, d]: [..., n, m]."""
    return sketches.norm(dim=-1, keepdim=True) * costs


class LateScorer:
    """The scores of every pair of sketches and photos; a `Scorer`. It reads the encoding "places", [b, n, d].

    A photo in the place of a sketch ("more like this") has places of equal weight.
    """

    def __init__(self, device: torch.device, grid: tuple[int, int], dim: int, distance: float = 0.0) -> None:
        """grid, dim: rows and columns of a picture's places, and the numbers of a place. distance: what a match costs
        (`distance_costs`)."""
        self.device, self.places, self.costs = device, grid[0] * grid[1], distance_costs(grid, distance, device)
        self.chunk = GPU_CHUNK if device.type == "cuda" else CPU_CHUNK
        self.tile = max(1, TILE_BYTES // (4 * self.places * dim))

    def reads(self, side: Modality) -> tuple[str, ...]:
        return ("places",)

    @torch.inference_mode()
    def precompute(self, pictures: Encoding, side: Modality) -> Tensor:
        places = pictures["places"].to(self.device, torch.float32)
        return places / places.norm(dim=2).sum(1)[:, None, None] if side == "sketch" else places

    @torch.inference_mode()
    def score(self, queries: Tensor, gallery: Tensor, wanted: Tensor | None = None) -> Tensor:
        scores = torch.full((len(queries), len(gallery)), -torch.inf, device=self.device)
        for row, places in enumerate(queries):
            costs = None if self.costs is None else charged(places, self.costs)[:, None]
            if not places.is_meta:  # where FLOPs are counted without numbers, all places count
                inked = places.any(1)
                places, costs = places[inked], None if costs is None else costs[inked]
            at_once = max(1, self.chunk // (max(len(places), 1) * self.places))
            if wanted is None:  # slices, because an index would copy the gallery
                chunks: Sequence[slice | Tensor] = [slice(i, i + at_once) for i in range(0, len(gallery), at_once)]
            else:
                chunks = wanted[row].nonzero().flatten().to(self.device).split(at_once)
            for chunk in chunks:
                found = products(places, gallery[chunk])
                if costs is not None:
                    found -= costs
                scores[row, chunk] = found.amax(2).sum(0)
        return scores
