"""The tasks of `zse shard`: read training pictures; plan, augment and encode items, and write a part.

Imports no torch, so that Ray's workers start fast.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import ray

from pipelines.store import storage
from pipelines.train.items import ROLES, ItemPlan
from pipelines.workspace.pairs import Pairs
from pipelines.workspace.parts import read_rows, write_part
from pipelines.workspace.pictures import decode_pixels, encode_photo, encode_sketch


def training_rows(folder: str, wanted: list[tuple[str, np.ndarray]]) -> pa.Table:
    """The column `data` of rows of image shards, in the order of `wanted`: (part, rows) each."""
    return pa.concat_tables(read_rows(folder, wanted, ["data"])).combine_chunks()


def write_pairs(task: dict[str, Any], *, folder: str, tables: list[Any], where: Any, plan: Any) -> dict[str, Any]:
    """Write items [start, start + rows) as one part. Returns its name and rows.

    task: part, start, rows. tables: object references to `training_rows`. where: a reference to int64 [n, 2], table and
    row of each member. plan: a reference to the `ItemPlan`, which is mapped and not copied.
    """
    pictures = [table["data"] for table in ray.get(tables)]
    positions: np.ndarray = ray.get(where)
    items: ItemPlan = ray.get(plan)
    rows = []
    for i in range(task["start"], task["start"] + task["rows"]):
        item = items[i]
        a, b, c, d = (decode_pixels(pictures[t][int(r)].as_py()) for t, r in positions[np.array(item.pictures())])
        rendered = items.render(i, (a, b, c, d))
        encoded = {
            role: (encode_sketch if role.startswith("sketch") else encode_photo)(picture)
            for role, picture in zip(ROLES, rendered, strict=True)
        }
        rows.append({"item": i, "label": item.label, "negative_label": item.negative_label, **encoded})
    table = pa.Table.from_pylist(rows, schema=Pairs.SCHEMA)
    write_part(storage.join(folder, task["part"]), table, row_group=items.config.row_group)
    return {"part": task["part"], "rows": task["rows"]}
