"""shard: image shards and a split -> pair shards. Plans training items, augments them, writes them as Parquet.

    <workspace>/pairs/<dataset>-<hash>/part-00000-of-00020.parquet ... manifest.json

Each planned part is one task with a fixed file name. With `shard.layout: memory` only the manifest is written: the
trainer makes the same items on the fly.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
import ray

from pipelines.config.data import ShardConfig
from pipelines.config.experiment import ExperimentConfig, to_dict
from pipelines.datasets.splits import load_split
from pipelines.runtime import logs
from pipelines.runtime.progress import say
from pipelines.runtime.ray_tasks import connect, run_parts
from pipelines.store import storage
from pipelines.train.items import ItemPlan
from pipelines.train.pairing import training_rows, write_pairs
from pipelines.workspace.images import Images
from pipelines.workspace.members import Members, training_members
from pipelines.workspace.pairs import Pairs
from pipelines.workspace.parts import batched_parts, part_name


@logs.stage("shard")
def shard(config: ExperimentConfig, workspace: str, images: Images) -> Pairs:
    """Run the stage, or find it done."""
    split = load_split(config.dataset, images.counts)
    settings = config.shard
    key = storage.digest(
        {
            "schema": Pairs.VERSION,
            "fingerprint": images.fingerprint,
            "transforms": images.transforms,
            "split": split.digest,
            "shard": to_dict(settings),
        }
    )
    folder = Pairs.place(workspace, config.dataset.name, key)
    logs.about(run=folder.rsplit("/", 1)[1])
    if (done := Pairs.find(folder, key)) is not None:
        return done
    members = training_members(images.members(), split)
    plan = ItemPlan(members, settings)
    if plan.incomplete:
        say(f"Left out of training, no sketch or no photo: {', '.join(plan.incomplete[:20])}")
    written: list[dict[str, Any]] = []
    if settings.layout == "shards":
        starts = range(0, settings.items, settings.part_size)
        written = [
            {"name": part_name(i, len(starts)), "rows": min(settings.part_size, settings.items - start)}
            for i, start in enumerate(starts)
        ]
        _write(folder, written, images, members, settings, config.ingest.part_size)
    return Pairs.write(
        folder,
        key,
        dataset=config.dataset.name,
        images=images.url,
        fingerprint=images.fingerprint,
        transforms=images.transforms,
        split=json.loads(split.to_json()),
        split_hash=split.digest,
        classes=plan.classes,
        left_out=plan.incomplete,
        pictures=len(members),
        shard=to_dict(settings),
        row_group=settings.row_group,
        shards=written,
    )


def _write(
    folder: str,
    written: list[dict[str, Any]],
    images: Images,
    members: Members,
    settings: ShardConfig,
    table_rows: int,
) -> None:
    there = storage.names(folder)
    tasks = [
        {"part": part["name"], "start": i * settings.part_size, "rows": part["rows"]}
        for i, part in enumerate(written)
        if part["name"] not in there
    ]
    if not tasks:
        return
    connect()
    # Training pictures are read once and shared by all tasks through the object store, which maps them into each
    # process and spills what does not fit; any item may need any picture. A table is of several image shards.
    load = ray.remote(training_rows)
    wanted = images.rows(members)
    batches = batched_parts([len(rows) for _, rows in wanted], table_rows)
    tables = [load.remote(images.url, wanted[batch.start : batch.stop]) for batch in batches]
    where = _positions(members.part, batches)
    work = partial(
        write_pairs, folder=folder, tables=tables, where=ray.put(where), members=ray.put(members), settings=settings
    )
    for _ in run_parts(tasks, work, what="Shard", unit="items", total=sum(task["rows"] for task in tasks)):
        pass


def _positions(parts: np.ndarray, batches: list[range]) -> np.ndarray:
    """int64 [n, 2]: table and row in it of every member, as `training_rows` leaves them; parts never fall along [n]."""
    of_part = np.concatenate([np.full(len(batch), table) for table, batch in enumerate(batches)])
    table = of_part[np.unique(parts, return_inverse=True)[1]]
    row = np.arange(len(parts)) - np.searchsorted(table, table)
    return np.stack([table, row], axis=1)
