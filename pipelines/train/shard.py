"""The stage `zse shard`: plan training items of a split, augment them and write them as Parquet.

    <workspace>/pairs/<dataset>-<hash>/part-00000-of-00020.parquet ... manifest.json

Each part is one task and has a fixed file name, so a repeated command writes the missing parts only. With
`shard.layout: memory` only the manifest is written, and the training makes the same items from pictures in memory.
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
from pipelines.drawing.sheets import Row, decode_all, draw_sheet
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
from zse_model.split import ZeroShotSplit


@logs.stage("shard")
def shard(config: ExperimentConfig, workspace: str, images: Images) -> Pairs:
    """The pair shards; written unless they are complete. Raises ZseError if the split or the items cannot be
    planned."""
    split = load_split(config.dataset, images.counts)
    settings = config.shard
    members = training_members(images.members(), split)
    pictures = _pictures_hash(members)
    depends = {
        "schema": Pairs.VERSION,
        "fingerprint": images.fingerprint,
        "transforms": images.transforms,
        "split": split.digest,
        "shard": _identity(settings),
    }
    key, earlier = storage.digest(depends | {"pictures": pictures}), storage.digest(depends)
    folder = Pairs.place(workspace, config.dataset.name, key)
    logs.about(run=folder.rsplit("/", 1)[1])
    done = Pairs.find(folder, key) or _find_earlier(workspace, config.dataset.name, earlier, split, pictures)
    if done is not None:
        return done
    plan = ItemPlan(members, settings)
    if plan.incomplete:
        say(f"Classes without sketches or without photos are not trained on: {', '.join(plan.incomplete[:20])}")
    sheet = storage.join(folder, Pairs.SHEET)
    storage.write_bytes(sheet, items_sheet(plan, members, images))
    say(f"Some items, as a training sees them: {sheet}")
    written: list[dict[str, Any]] = []
    if settings.layout == "shards":
        starts = range(0, settings.items, settings.part_size)
        written = [
            {"name": part_name(i, len(starts)), "rows": min(settings.part_size, settings.items - start)}
            for i, start in enumerate(starts)
        ]
        _write(folder, written, images, members, plan, config.ingest.part_size)
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
        pictures_hash=pictures,
        shard=_identity(settings),
        row_group=settings.row_group,
        shards=written,
    )


def items_sheet(plan: ItemPlan, members: Members, images: Images, items: int = 12) -> bytes:
    """A PNG of the first items, augmented: sketch, photo, another sketch of the class, photo of another class."""
    planned = [plan[i] for i in range(items)]
    pixels = iter(decode_all(images, members, np.array([item.pictures() for item in planned]).ravel()))
    rows = []
    for i, item in enumerate(planned):
        sketch, *others = plan.render(i, (next(pixels), next(pixels), next(pixels), next(pixels)))
        made = members.modality[item.sketch] == "photo"
        captions = [plan.classes[label] for label in (item.label, item.label, item.negative_label)]
        rows.append(Row(sketch, "from a photo" if made else "drawn", others, captions, None))
    return draw_sheet(rows)


def _pictures_hash(members: Members) -> str:
    """Of ids and contents. The fingerprint has no ids, but items depend on them: planning draws pictures in the order
    of their ids, an id names the part of a union, and without an instance it decides what is held back."""
    return storage.digest_lines(json.dumps(picture) for picture in zip(members.id, members.sha256, strict=True))


def _find_earlier(workspace: str, name: str, key: str, split: ZeroShotSplit, pictures: str) -> Pairs | None:
    """Pair shards under the key of earlier code, which does not cover the ids; None unless the image shards that they
    were made of are there and have the same training pictures."""
    if (found := Pairs.find(Pairs.place(workspace, name, key), key)) is None:
        return None
    made_of = Images.find(storage.join(workspace, Images.KIND, found.images.rsplit("/", 1)[1]))
    if made_of is None or _pictures_hash(training_members(made_of.members(), split)) != pictures:
        return None
    return found


def _identity(settings: ShardConfig) -> dict[str, Any]:
    """The settings that items depend on. Newer ones count only above 0, so that older pair shards keep their names."""
    out = to_dict(settings)
    augment = {k: v for k, v in out["augment"].items() if v or k not in ("wobble", "pressure", "gaps", "merge")}
    kept = {k: v for k, v in out.items() if v or k != "pseudo_sketches"} | {"augment": augment}
    # Earlier code drew a sketch's own photo as its hard negative, where the item's photo was another one.
    return kept | ({"own_photo_is_no_negative": True} if settings.hard_negatives and settings.own_photo < 1 else {})


def _write(
    folder: str,
    written: list[dict[str, Any]],
    images: Images,
    members: Members,
    plan: ItemPlan,
    table_rows: int,
) -> None:
    there = storage.names(folder)
    tasks = [
        {"part": part["name"], "start": i * plan.config.part_size, "rows": part["rows"]}
        for i, part in enumerate(written)
        if part["name"] not in there
    ]
    if not tasks:
        return
    connect()
    # Any item may need any picture. So the training pictures are read once into Ray's object store, which maps them
    # into every process and spills to disk. One table holds the rows of several image shards.
    load = ray.remote(training_rows)
    wanted = images.rows(members)
    batches = batched_parts([len(rows) for _, rows in wanted], table_rows)
    tables = [load.remote(images.url, wanted[batch.start : batch.stop]) for batch in batches]
    where = _positions(members.part, batches)
    work = partial(write_pairs, folder=folder, tables=tables, where=ray.put(where), plan=ray.put(plan))
    for _ in run_parts(tasks, work, what="Shard", unit="items", total=sum(task["rows"] for task in tasks)):
        pass


def _positions(parts: np.ndarray, batches: list[range]) -> np.ndarray:
    """int64 [n, 2]: table, and row in the table, of every member. parts [n]: image shard of each member, ascending."""
    of_part = np.concatenate([np.full(len(batch), table) for table, batch in enumerate(batches)])
    table = of_part[np.unique(parts, return_inverse=True)[1]]
    row = np.arange(len(parts)) - np.searchsorted(table, table)
    return np.stack([table, row], axis=1)
