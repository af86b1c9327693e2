"""Binary codes: their Hamming distance as a score, and ITQ, the baseline at equal bits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zse_model.scoring import DotProduct, Encoding
from zse_model.transforms import Modality


class Hamming(DotProduct):
    """A `Scorer` of codes: k - 2 * distance, from k (the same code) to -k; a small integer, so equal ones are ties.

    code: embeddings [n, d] -> bool [n, k], which are kept as +1 and -1: a matrix product counts what agrees.
    """

    def __init__(self, device: torch.device, code: Callable[[Tensor], Tensor]) -> None:
        super().__init__(device)
        self.code = code

    @torch.inference_mode()
    def prepare(self, pictures: Encoding, side: Modality) -> Tensor:
        return self.code(super().prepare(pictures, side)).float().mul_(2).sub_(1)


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
