"""How exact numbers are: the policy of training, encoding, validation and scoring.

- Losses, mining, normalisation, kernels of cosines and scores are computed in float32 (`full_precision`), also where
  autocast rounds the rest of a training to bfloat16. Under autocast a `.float()` before a matrix product has no effect:
  the product casts its inputs again.
- float32 is float32 on a GPU, too (`allow_tf32(False)`): encoding, validation and scoring always, training unless
  `train.precision: tf32` asks for TF32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def allow_tf32(allowed: bool) -> None:
    """Whether a GPU rounds the inputs of float32 products to TF32, with 10 bits of mantissa, in this process.

    torch does so for convolutions and not for matrix products unless told otherwise: the two families of backbones
    would be computed differently.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Disable autocast on `device`: operations compute in the dtype of their inputs.

    Nothing is cast: pass float32. `torch.compile` traces the context into one graph. The context therefore does not ask
    torch which devices support autocast, which breaks the graph up to torch 2.11.
    """
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
