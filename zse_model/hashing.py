"""Binary codes: packed bits, their Hamming distance as a score and as an index, and ITQ, the baseline at equal bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zse_model.evaluation.search import Ranking
from zse_model.scoring import DotProduct, Encoding
from zse_model.transforms import Modality


def pack(bits: Tensor) -> Tensor:
    """bool [n, k] -> uint8 [n, k / 8], the first bit of eight the lowest. 8 has to divide k."""
    weights = 2 ** torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (bits.unflatten(1, (-1, 8)) * weights).sum(2, dtype=torch.uint8)


def unpack(codes: Tensor) -> Tensor:
    """What was packed: uint8 [n, k / 8] -> bool [n, k]."""
    return (codes[..., None] >> torch.arange(8, dtype=torch.uint8, device=codes.device) & 1).flatten(1).bool()


class Hamming(DotProduct):
    """A `Scorer` of codes: k - 2 * distance, from k (the same code) to -k; a small integer, so equal ones are ties.

    name: the encoding that holds them, packed. Their bits become +1 and -1: a matrix product counts what agrees.
    """

    def __init__(self, device: torch.device, name: str) -> None:
        super().__init__(device)
        self.reads = (name,)

    def prepare(self, pictures: Encoding, side: Modality) -> Tensor:
        return unpack(pictures[self.reads[0]].to(self.device)).float().mul_(2).sub_(1)


class CodeHead(nn.Module):
    """Embeddings -> bits, the signs of a projection. Zeros until it is fitted; nothing here is trained by a loss."""

    mean: Tensor
    projection: Tensor

    def __init__(self, dim: int, bits: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2, dim))
        self.register_buffer("projection", torch.zeros(dim, bits))

    @property
    def fitted(self) -> bool:
        return not self.projection.is_meta and bool(self.projection.any())

    def forward(self, x: Tensor, modality: Modality) -> Tensor:
        """[n, dim] -> bool [n, bits]."""
        return (x - self.mean[int(modality == "photo")]) @ self.projection >= 0

    def fit_itq(self, x: Tensor) -> None:
        """To embeddings [n, dim] of both modalities, by `itq`."""
        mean, projection = itq(x, self.projection.shape[1])
        self.mean.copy_(mean.expand(2, -1))
        self.projection.copy_(projection)

    def fit(self, sketches: Tensor, photos: Tensor, labels: Tensor) -> None:
        """To embeddings [n, dim] and [m, dim] of classes int64 [n + m], sketches first: each modality is centred by its
        own mean, so that every bit is on for half the sketches and for half the photos, `discriminant` directions are
        taken, and rotated as ITQ does, so that their signs lose little."""
        means = torch.stack([sketches.mean(0), photos.mean(0)])
        x = torch.cat([sketches - means[0], photos - means[1]])
        directions = discriminant(x, labels, self.projection.shape[1])
        _, rotation = itq(x @ directions, self.projection.shape[1])
        self.mean.copy_(means)
        self.projection.copy_(directions @ rotation)


class CodeIndex:
    """Packed codes in memory, searched by faiss: the ranking of `Hamming` scores.

    lists: None = every code is compared, exact, 2 to 3 ms a query and million codes of 64 bits. A number = for
    tens of millions: codes are sorted into so many lists by the nearest of as many centres, `probed` lists are
    searched, and what stands in another list is missed, of codes that are equally near at the k-th place any. The
    first codes added find the centres: add a representative part first, of at least 39 codes a list. Raises ImportError
    without faiss (`pip install faiss-cpu`).
    """

    def __init__(self, bits: int, *, lists: int | None = None, probed: int = 16) -> None:
        import faiss  # here, because networks train and score where it is not installed

        self.bits = bits
        flat = faiss.IndexBinaryFlat(bits)
        self._index: Any = flat
        if lists is not None:
            self._index = faiss.IndexBinaryIVF(flat, bits, lists)  # keeps a reference to its quantizer
            self._index.nprobe = probed

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, codes: Tensor) -> None:
        """uint8 [n, bits / 8], the next n positions of the gallery. Raises ValueError for another shape or dtype, and
        for fewer codes in the first part than there are lists."""
        packed = self._checked(codes)
        if not self._index.is_trained:
            if len(packed) < self._index.nlist:
                raise ValueError(f"{self._index.nlist} lists need as many codes in the first part, got {len(packed)}")
            self._index.train(packed)
        self._index.add(packed)

    def search(self, codes: Tensor, k: int) -> Ranking:
        """The best min(k, len) of each query, uint8 [q, bits / 8]; scores are bits - 2 * distance, equal ones in the
        order of positions. Raises ValueError for an empty index, k < 1, or another shape or dtype."""
        queries = self._checked(codes)
        if len(self) == 0:
            raise ValueError("The gallery is empty: there is nothing to search.")
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}.")
        distances, indices = self._index.search(queries, min(k, len(self)))
        short = indices[:, -1] < 0  # the lists probed held fewer than k
        if short.any():
            probed, self._index.nprobe = self._index.nprobe, self._index.nlist
            distances[short], indices[short] = self._index.search(queries[short], min(k, len(self)))
            self._index.nprobe = probed
        order = np.argsort(distances.astype(np.int64) << 40 | indices, axis=1)
        distances, indices = (np.take_along_axis(values, order, axis=1) for values in (distances, indices))
        return Ranking(torch.from_numpy(indices), torch.from_numpy((self.bits - 2 * distances).astype(np.float32)))

    def _checked(self, codes: Tensor) -> np.ndarray:
        if codes.dtype != torch.uint8 or codes.ndim != 2 or codes.shape[1] * 8 != self.bits:
            raise ValueError(
                f"Codes of {self.bits} bits are uint8 [n, {self.bits // 8}], got {codes.dtype} {list(codes.shape)}"
            )
        return np.ascontiguousarray(codes.cpu().numpy())


def discriminant(x: Tensor, labels: Tensor, bits: int, shrinkage: float = 3.0) -> Tensor:
    """Projection [d, bits] of x [n, d] onto the directions in which its classes, int64 [n], differ most for
    how much the pictures of a class differ (Fisher); in what is left of `bits` beyond classes - 1 there is nothing.

    A direction counts with the fourth root of how well it tells classes apart. The spread within classes is shrunk
    towards `shrinkage` times its mean: on unseen classes of real sketches codes by 1 to 3 were the best for 64 to 256
    bits, and +0.02 mAP above those of plain ITQ, while training the projection on a loss ended below where it began
    (docs/crossatnet.md). Our design.
    """
    names, members = labels.unique(return_inverse=True)
    x = x.double()
    sums = torch.zeros(len(names), x.shape[1], dtype=x.dtype).index_add_(0, members, x)
    means = sums / members.bincount()[:, None]
    inside = x - means[members]
    apart = means - means.mean(0)
    within, between = inside.T @ inside / len(x), apart.T @ apart / len(apart)
    within += shrinkage * within.trace() / len(within) * torch.eye(len(within), dtype=x.dtype)
    unrolled = torch.linalg.inv(torch.linalg.cholesky(within))
    values, vectors = torch.linalg.eigh(unrolled @ between @ unrolled.T)
    order = values.argsort(descending=True)[:bits]
    directions = (unrolled.T @ vectors[:, order]) * values[order].clamp(min=0) ** 0.25
    return torch.nn.functional.pad(directions, (0, bits - len(order))).float()


def itq(x: Tensor, bits: int, steps: int = 50, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Iterative quantisation (Gong and Lazebnik, CVPR 2011): mean [d] and projection [d, bits] such that the signs of
    (x - mean) @ projection lose little of x [n, d].

    Principal directions, then the rotation that is nearest to its own signs, found by turns. More bits than d has
    dimensions repeat the rotation's start with random directions. Raises ValueError for fewer than 2 rows.
    """
    if len(x) < 2:
        raise ValueError(f"ITQ needs at least 2 embeddings, got {len(x)}")
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
