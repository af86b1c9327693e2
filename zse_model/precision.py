"""Turn autocast off where rounding is not allowed: for scores that rank, and values compared with small margins.

Under autocast a `.float()` before a matrix product has no effect: the product casts its inputs again.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Disable autocast on `device`: operations compute in the dtype of their inputs.

    Nothing is cast: pass float32. `torch.compile` traces the context into one graph. The context therefore does not ask
    torch which devices support autocast, which breaks the graph up to torch 2.11.
    """
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
