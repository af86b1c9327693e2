"""Where autocast may not round. Under autocast a `.float()` in front of a matrix product has no effect: the product
casts its inputs again. What ranks, or is compared with small margins, turns autocast off instead."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Inside, operations on `device` compute in the dtype of their inputs, whatever autocast surrounds them.

    It casts nothing: give float32 in. Without autocast it changes nothing. `torch.compile` traces it.
    """
    known = torch.amp.is_autocast_available(device.type)  # not for "meta"
    return torch.autocast(device.type, enabled=False) if known else nullcontext()
