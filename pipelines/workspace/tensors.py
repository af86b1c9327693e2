"""Convert stored pictures to tensors, and encode them in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from pipelines.workspace.pictures import decode_pixels


def to_tensor(pictures: Sequence[np.ndarray]) -> torch.Tensor:
    """uint8 [s, s] or [s, s, 3] each -> uint8 [b, 1 or 3, s, s]."""
    stacked = torch.from_numpy(np.stack(pictures))
    return stacked[:, None] if stacked.dim() == 3 else stacked.permute(0, 3, 1, 2)


def encode_pictures(
    encode: Callable[[torch.Tensor], dict[str, torch.Tensor]], pictures: Sequence[bytes], batch_size: int
) -> dict[str, torch.Tensor]:
    """Encode stored pictures of one modality in batches.

    encode: uint8 [b, 1 or 3, s, s] → encodings, [b, ...] each. Returns encodings [n, ...] on the CPU, in order.
    """
    out: dict[str, list[torch.Tensor]] = {}
    with torch.inference_mode():
        for i in range(0, len(pictures), batch_size):
            images = to_tensor([decode_pixels(p) for p in pictures[i : i + batch_size]])
            for name, value in encode(images).items():
                out.setdefault(name, []).append(value.cpu())
    return {name: torch.cat(values) for name, values in out.items()}
