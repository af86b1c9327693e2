"""Where autocast may not round. Under autocast a `.float()` in front of a matrix product has no effect: the product
casts its inputs again. What ranks, or is compared with small margins, turns autocast off instead."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Inside, operations on `device` compute in the dtype of their inputs, whatever autocast surrounds them.

    It casts nothing: give float32 in. Without autocast it changes nothing. `torch.compile` traces it into one graph: it
    must not ask torch which devices know autocast, which breaks the graph up to torch 2.11.
    """
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
