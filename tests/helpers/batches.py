"""Random training batches, without data: tests of `zse_model` and the benchmarks train on them."""

from __future__ import annotations

import torch
from torch import Tensor

from zse_model.methods import TrainBatch

SIZE, CLASSES = 32, 6


class Pictures:
    """Random items by position: the same global batch for any number of workers."""

    def __init__(self, items: int, size: int = SIZE, classes: int = CLASSES) -> None:
        self.items, self.size, self.classes = items, size, classes

    def batch(self, step: int, rank: int, world_size: int) -> TrainBatch:
        first = (step * world_size + rank) * self.items
        drawn = [self._item(i) for i in range(first, first + self.items)]
        columns = {name: torch.stack([item[name] for item in drawn]) for name in drawn[0]}
        return TrainBatch(**columns)

    def _item(self, i: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(i)
        label, step = (int(torch.randint(low, self.classes, (1,), generator=generator)) for low in (0, 1))
        pictures = {
            role: torch.randint(0, 256, (channels, self.size, self.size), generator=generator, dtype=torch.uint8)
            for role, channels in (("sketch", 1), ("photo", 3), ("sketch2", 1), ("negative", 3))
        }
        labels = {"label": label, "negative_label": (label + step) % self.classes}
        return pictures | {name: torch.tensor(value) for name, value in labels.items()}
