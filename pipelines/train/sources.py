"""Training batches from the two layouts, behind one interface: `batch(step, rank, world_size)`. `workers` makes the
source, and `zse_model.fit` reads from it.

The batch of step k is items [k*B, (k+1)*B) of an order; B is the items of all workers, and each worker takes its slice.
The order of pair shards depends on `train.seed` alone. Items in memory are in the order of their numbers: they depend
on `shard.seed`, and `train.seed` changes no batch. So a resumed worker needs only its step, and B items in one or
several workers are the same items.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from pipelines.store import storage
from pipelines.train.items import ROLES, ItemPlan
from pipelines.workspace.pairs import Pairs
from pipelines.workspace.parts import open_part
from pipelines.workspace.pictures import decode_pixels
from pipelines.workspace.tensors import to_tensor
from zse_model.methods import TrainBatch

OPEN_PARTS = 8


class ShardSource:
    """Batches of pair shards, read by row group. The items repeat after each epoch, in another order."""

    def __init__(self, pairs: Pairs, batch_size: int, seed: int) -> None:
        self.folder, self.batch_size, self.seed = pairs.url, batch_size, seed
        self.parts = list(pairs.parts.items())
        self.items = sum(pairs.parts.values())
        self.row_group = pairs.row_group
        self._open: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._orders: dict[int, tuple[list[tuple[int, int]], np.ndarray]] = {}
        self._group: tuple[tuple[int, int], dict[str, Any]] | None = None

    def _order(self, epoch: int) -> tuple[list[tuple[int, int]], np.ndarray]:
        """Row groups (part, group) of an epoch in reading order, and int64 [groups + 1], the items before each.

        Parts are shuffled, then the groups within a part, so that few files are open at a time. Items need no shuffle:
        they were planned at random.
        """
        if epoch not in self._orders:
            rng = np.random.default_rng([self.seed, epoch])
            order, sizes = [], []
            for part in rng.permutation(len(self.parts)):
                _, rows = self.parts[part]
                for group in rng.permutation(-(-rows // self.row_group)):
                    order.append((int(part), int(group)))
                    sizes.append(min(self.row_group, rows - group * self.row_group))
            self._orders = {epoch: (order, np.concatenate([[0], np.cumsum(sizes)]))}
        return self._orders[epoch]

    def batch(self, step: int, rank: int, world_size: int) -> TrainBatch:
        """The `batch_size` items of a worker in a step."""
        start = (step * world_size + rank) * self.batch_size
        rows = [self._row(position) for position in range(start, start + self.batch_size)]
        return collate([[decode_pixels(row[role]) for role in ROLES] for row in rows], rows)

    def _row(self, position: int) -> dict[str, Any]:
        epoch, offset = divmod(position, self.items)
        order, before = self._order(epoch)
        k = int(np.searchsorted(before, offset, side="right")) - 1
        columns = self._columns(order[k])
        return {name: values[offset - int(before[k])] for name, values in columns.items()}

    def _columns(self, key: tuple[int, int]) -> dict[str, Any]:
        if self._group is None or self._group[0] != key:
            part, group = key
            if part not in self._open:
                url = storage.join(self.folder, self.parts[part][0])
                self._open[part] = open_part(url)
                if len(self._open) > OPEN_PARTS:
                    self._open.popitem(last=False)[1].close()
            self._open.move_to_end(part)
            self._group = key, self._open[part].read_row_group(group).to_pydict()
        return self._group[1]


class MemorySource:
    """Batches from pictures in memory. Items are planned and augmented on demand, and never repeat.

    pictures: encoded, of the plan's members in their order.
    """

    def __init__(self, plan: ItemPlan, pictures: Sequence[bytes], batch_size: int) -> None:
        self.plan, self.batch_size = plan, batch_size
        self.pixels = [decode_pixels(picture) for picture in pictures]

    def batch(self, step: int, rank: int, world_size: int) -> TrainBatch:
        """The `batch_size` items of a worker in a step."""
        start = (step * world_size + rank) * self.batch_size
        items = [self.plan[i] for i in range(start, start + self.batch_size)]
        rendered = []
        for i, item in enumerate(items):
            a, b, c, d = (self.pixels[index] for index in item.pictures())
            rendered.append(self.plan.render(start + i, (a, b, c, d)))
        return collate(rendered, [vars(item) for item in items])


def collate(pictures: Sequence[Sequence[np.ndarray]], rows: Sequence[dict[str, Any]]) -> TrainBatch:
    """A batch of items. pictures: uint8, of each item in the order of ROLES; rows: `label` and `negative_label` of each
    item."""
    columns = [to_tensor([item[i] for item in pictures]) for i in range(4)]
    return TrainBatch(
        **dict(zip(ROLES, columns, strict=True)),
        label=torch.tensor([row["label"] for row in rows]),
        negative_label=torch.tensor([row["negative_label"] for row in rows]),
    )
