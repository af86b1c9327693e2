"""Gather the embeddings of all workers, so that a loss compares each picture with the whole batch.

The backward pass sums the gradient of an embedding over all workers and returns it to the worker that computed it.
DistributedDataParallel divides by the number of workers: gradients are those of the mean loss of the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_gathering = False


@contextmanager
def gathering(enabled: bool) -> Iterator[None]:
    """Let `gathered` communicate. All workers must enter, and call `gathered` equally often inside."""
    global _gathering
    before, _gathering = _gathering, enabled
    try:
        yield
    finally:
        _gathering = before


def gathered(x: Tensor) -> Tensor:
    """[b, ...] of this worker -> [workers * b, ...] in the order of ranks. b is the same on each worker.

    Returns x itself outside `gathering`, without a process group, and for a single worker.
    """
    alone = not (_gathering and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)
    return x if alone else _gather(x)  # type: ignore[call-overload]


@torch.compiler.disable
def _gather(x: Tensor) -> Tensor:
    return _Gather.apply(x)  # type: ignore[return-value]


class _Gather(torch.autograd.Function):
    """All-gather with a gradient. That of torch.distributed.nn is deprecated, and its successor is private."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        ctx.own = slice(dist.get_rank() * len(x), (dist.get_rank() + 1) * len(x))
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.own]
