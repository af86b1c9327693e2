"""Binary codes: packing, scoring, fitting, and ITQ, the baseline at equal bits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zse_model.errors import ZseError
from zse_model.precision import full_precision
from zse_model.scoring import DotProduct, Encoding
from zse_model.transforms import Modality

WEIGHT = 2047  # of a query's largest projection: sums of 11-bit weights are exact in float32, also with TF32


def pack(bits: Tensor) -> Tensor:
    """bool [n, k] -> uint8 [n, k / 8]; the first of eight bits is the lowest. k is a multiple of 8."""
    weights = 2 ** torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (bits.unflatten(1, (-1, 8)) * weights).sum(2, dtype=torch.uint8)


def unpack(codes: Tensor) -> Tensor:
    """The inverse of `pack`: uint8 [n, k / 8] -> bool [n, k]."""
    return (codes[..., None] >> torch.arange(8, dtype=torch.uint8, device=codes.device) & 1).flatten(1).bool()


class Hamming(DotProduct):
    """A `Scorer` of codes of k bits: k - 2 * Hamming distance, an integer from -k to k (the same code); equal ones tie.

    name: of the encoding that holds the packed codes. Bits become +1 and -1, whose dot product is the score.
    """

    def __init__(self, device: torch.device, name: str) -> None:
        super().__init__(device)
        self.name = name

    def reads(self, side: Modality) -> tuple[str, ...]:
        return (self.name,)

    def precompute(self, pictures: Encoding, side: Modality) -> Tensor:
        return unpack(pictures[self.name].to(self.device)).float().mul_(2).sub_(1)


class CodeHead(nn.Module):
    """Embeddings -> bits, the signs of a projection. The projection is zero until it is fitted; no loss trains it."""

    mean: Tensor
    projection: Tensor

    def __init__(self, dim: int, bits: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2, dim))
        self.register_buffer("projection", torch.zeros(dim, bits))

    @property
    def fitted(self) -> bool:
        """Whether the projection is set; not on the meta device, which has no values."""
        return not self.projection.is_meta and bool(self.projection.any())

    def project(self, x: Tensor, modality: Modality) -> Tensor:
        """[n, dim] -> [n, bits], of x's dtype; the signs are the code."""
        with full_precision(x.device):
            return (x - self.mean[int(modality == "photo")]) @ self.projection.to(x.dtype)

    def forward(self, x: Tensor, modality: Modality) -> Tensor:
        """[n, dim] -> bool [n, bits]."""
        return self.project(x, modality) >= 0

    def fit_itq(self, x: Tensor) -> None:
        """Fit to embeddings [n, dim] of both modalities by `itq`."""
        mean, projection = itq(x, self.projection.shape[1])
        self.mean.copy_(mean.expand(2, -1))
        self.projection.copy_(projection)

    def fit(self, sketches: Tensor, photos: Tensor, labels: Tensor) -> None:
        """Fit to embeddings [n, dim] and [m, dim] of classes int64 [n + m], sketches first (our design).

        Each modality is centred by its own mean, so that about half of its pictures have a bit on. The projection is
        `discriminant`, rotated as ITQ rotates, to lose little by taking signs. Of one class only, it is ITQ's.
        """
        means = torch.stack([sketches.mean(0), photos.mean(0)])
        x = torch.cat([sketches - means[0], photos - means[1]])
        alone = bool((labels == labels[0]).all())
        directions = torch.eye(x.shape[1]) if alone else discriminant(x, labels, self.projection.shape[1])
        _, rotation = itq(x @ directions, self.projection.shape[1])
        self.mean.copy_(means)
        self.projection.copy_(directions @ rotation)


class Asymmetric(Hamming):
    """A `Scorer` of the codes of photos with the projections of sketches, before signs are taken: `agreement`, -1 to 1.

    A photo costs the bytes of its code. Half of the loss by signs is avoided, that of the query (docs/crossatnet.md).
    Weights are whole numbers: their sums are equal in any order, and equal codes tie. After asymmetric distances (Gordo
    et al., PAMI 2014); the scale is ours.
    """

    def __init__(self, device: torch.device, name: str, head: CodeHead) -> None:
        super().__init__(device, name)
        self.head = head

    def reads(self, side: Modality) -> tuple[str, ...]:
        return ("embedding",) if side == "sketch" else super().reads(side)

    def precompute(self, pictures: Encoding, side: Modality) -> Tensor:
        if side == "photo":
            return super().precompute(pictures, side)
        # In float64: the last bits of a float32 product depend on the batch size, and so would some rounded weights.
        projected = self.head.project(pictures["embedding"].to(self.device, torch.float64), side)
        largest = projected.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        return (projected / largest * WEIGHT).round().float()

    def score(self, queries: Tensor, gallery: Tensor, wanted: Tensor | None = None) -> Tensor:
        return agreement(super().score(queries, gallery, wanted), queries)


def agreement(sums: Tensor, weights: Tensor) -> Tensor:
    """Signed sums [q, n] of a query's weights [q, bits], divided by the sum of their magnitudes: 1 = the code of the
    query's signs, -1 = its complement."""
    return sums / weights.abs().sum(1, keepdim=True).clamp(min=1).to(sums.device)


def discriminant(x: Tensor, labels: Tensor, bits: int, shrinkage: float = 3.0) -> Tensor:
    """Linear discriminant analysis with shrinkage: a projection float32 [d, bits] of x [n, d] with classes int64 [n].

    Columns are Fisher's directions, scaled by the fourth root of their eigenvalue; columns beyond classes - 1 are zero.
    The within-class scatter is shrunk by adding `shrinkage` times its mean variance to the diagonal. On unseen classes
    of real sketches a shrinkage of 1 to 3 was best for 64 to 256 bits; training the projection with a loss ended below
    its start (docs/crossatnet.md). Our design.
    """
    names, members = labels.unique(return_inverse=True)
    x = x.double()
    sums = torch.zeros(len(names), x.shape[1], dtype=x.dtype).index_add_(0, members, x)
    means = sums / members.bincount()[:, None]
    inside = x - means[members]
    apart = means - means.mean(0)
    within, between = inside.T @ inside / len(x), apart.T @ apart / len(apart)
    spread = within.trace()
    spread = spread if spread > 0 else spread + len(within)  # 0 where all pictures of a class are equal
    within += shrinkage * spread / len(within) * torch.eye(len(within), dtype=x.dtype)
    unrolled = torch.linalg.inv(torch.linalg.cholesky(within))
    values, vectors = torch.linalg.eigh(unrolled @ between @ unrolled.T)
    order = values.argsort(descending=True)[:bits]
    directions = (unrolled.T @ vectors[:, order]) * values[order].clamp(min=0) ** 0.25
    return torch.nn.functional.pad(directions, (0, bits - len(order))).float()


def itq(x: Tensor, bits: int, steps: int = 50, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Iterative quantisation (Gong and Lazebnik, CVPR 2011): mean float32 [d] and projection float32 [d, bits], such
    that the signs of (x - mean) @ projection lose little of x [n, d].

    Principal directions, then the rotation of least quantisation error, by alternating `steps` times between signs and
    rotation. More bits than min(n, d) are filled with random directions. Raises ZseError for fewer than 2 rows.
    """
    if len(x) < 2:
        raise ZseError(f"ITQ needs at least 2 embeddings, got {len(x)}")
    generator = torch.Generator().manual_seed(seed)
    mean = x.double().mean(0)
    centred = x.double() - mean
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[:bits].T
    if directions.shape[1] < bits:
        extra = torch.randn(x.shape[1], bits - directions.shape[1], generator=generator, dtype=torch.float64)
        directions = torch.cat([directions, extra / x.shape[1] ** 0.5], dim=1)
    projected = centred @ directions
    rotation = torch.linalg.qr(torch.randn(bits, bits, generator=generator, dtype=torch.float64)).Q
    for _ in range(steps):
        signs = (projected @ rotation >= 0).double() * 2 - 1
        u, _, vh = torch.linalg.svd(projected.T @ signs)
        rotation = u @ vh
    return mean.float(), (directions @ rotation).float()
