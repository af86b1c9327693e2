"""Late interaction: two pictures are compared place by place, and the score is the weighted sum of the best matches.

    score = sum over the places i of a sketch: w_i max over the places j of a photo: <s_i, p_j> - c |x_i - x_j|^2

s and p are L2-normalised. x is where a place is, with the picture's side as unit, and c what a distance costs: 0 by
default. The weights w of a sketch sum to 1, so that scores are at most 1 and compare between sketches. w is 0 where a
sketch has no ink. A sketch is kept as the products w_i s_i. What a pair costs is n * m dot products of d numbers, with
a cost of distance d + 4, without a network. The form is ColBERT's (Khattab and Zaharia, SIGIR 2020); weights from ink
and a learned salience, and the cost of distance, are our design.
"""

from __future__ import annotations

import math
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


def located(places: Tensor, side: Modality, grid: tuple[int, int], distance: float) -> Tensor:
    """Places [..., n, d] of a grid, row-major -> [..., n, d + 4]: the dot product of a sketch's and a photo's place is
    less by w times `distance` times the squared distance |x|^2 + |y|^2 - 2 <x, y>. With the distance 0 the places as
    they are."""
    if not distance:
        return places
    rows, columns = grid
    down, right = ((torch.arange(n, device=places.device) + 0.5) / n - 0.5 for n in grid)
    at = math.sqrt(2 * distance) * torch.cartesian_prod(down, right)  # [rows * columns, 2]
    square, one = (at * at).sum(1, keepdim=True) / 2, torch.ones(rows * columns, 1, device=places.device)
    if side == "photo":
        return torch.cat([places, torch.cat([at, one, -square], 1).expand(*places.shape[:-1], 4)], -1)
    weighted = places.norm(dim=-1, keepdim=True) * torch.cat([at, -square, one], 1)
    return torch.cat([places, weighted], -1)


def products(sketch: Tensor, photos: Tensor) -> Tensor:
    """Dot products of every place of a sketch [n, d] with every place of photos [g, m, d]: float32 [n, g, m]."""
    with full_precision(sketch.device):
        return (sketch @ photos.flatten(0, 1).T).unflatten(1, photos.shape[:2])


def late_scores(sketches: Tensor, photos: Tensor) -> Tensor:
    """Scores of all pairs for a loss: places [a, n, d] and [b, m, d] -> float32 [a, b].

    Holds a * n * b * m products and their gradient: 0.5 GB for 32 x 32 pictures with 196 places.
    """
    with full_precision(sketches.device):
        found = sketches.flatten(0, 1) @ photos.flatten(0, 1).T
    return found.view(*sketches.shape[:2], *photos.shape[:2]).amax(3).sum(1)


def pair_scores(sketches: Tensor, photos: Tensor) -> Tensor:
    """Scores of pairs, row by row: places [b, n, d] and [b, m, d] -> float32 [b]."""
    with full_precision(sketches.device):
        return (sketches @ photos.transpose(1, 2)).amax(2).sum(1)


class LateScorer:
    """The scores of every pair of sketches and photos; a `Scorer`. It reads the encoding "places", [b, n, d].

    A photo in the place of a sketch ("more like this") has places of equal weight.
    """

    def __init__(self, device: torch.device, grid: tuple[int, int], dim: int, distance: float = 0.0) -> None:
        """grid, dim: rows and columns of a picture's places, and the numbers of a place. distance: `located`."""
        self.device, self.grid, self.distance = device, grid, distance
        self.places = grid[0] * grid[1]
        self.chunk = GPU_CHUNK if device.type == "cuda" else CPU_CHUNK
        self.tile = max(1, TILE_BYTES // (4 * self.places * (dim + 4)))

    def reads(self, side: Modality) -> tuple[str, ...]:
        return ("places",)

    @torch.inference_mode()
    def precompute(self, pictures: Encoding, side: Modality) -> Tensor:
        places = pictures["places"].to(self.device, torch.float32)
        if side == "sketch":
            places = places / places.norm(dim=2).sum(1)[:, None, None]
        return located(places, side, self.grid, self.distance)

    @torch.inference_mode()
    def score(self, queries: Tensor, gallery: Tensor, wanted: Tensor | None = None) -> Tensor:
        scores = torch.full((len(queries), len(gallery)), -torch.inf, device=self.device)
        for row, places in enumerate(queries):
            if not places.is_meta:  # where FLOPs are counted without numbers, all places count
                places = places[places.any(1)]
            at_once = max(1, self.chunk // (max(len(places), 1) * self.places))
            if wanted is None:  # slices, because an index would copy the gallery
                chunks: Sequence[slice | Tensor] = [slice(i, i + at_once) for i in range(0, len(gallery), at_once)]
            else:
                chunks = wanted[row].nonzero().flatten().to(self.device).split(at_once)
            for chunk in chunks:
                scores[row, chunk] = products(places, gallery[chunk]).amax(2).sum(0)
        return scores
