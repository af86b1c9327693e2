"""Measure what `zse ingest` and `zse shard` cost the driver, and a part of pair shards, with many pictures.

    python -m benchmarks driver                          a million pictures in 250 classes: 5 minutes, 2 GB of disk
    python -m benchmarks driver --pictures 100000

The image shards are real; all sketches are one drawn sketch and all photos one drawn photo, of 32 px. The steps of the
driver run in a fresh process, and their memory is what they add to it. A part's CPU seconds are those of all processes,
between a run of 4 parts and one of 12.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import fsspec
import psutil
import pyarrow as pa
import ray
from PIL import Image

from benchmarks.scale import CLASSES, Keys, experiment, watched
from benchmarks.world import as_bytes
from pipelines.config.data import ShardConfig
from pipelines.config.experiment import ExperimentConfig
from pipelines.datasets.splits import load_split
from pipelines.ingest.stage import ingest, plan_ingest
from pipelines.train.items import ItemPlan
from pipelines.train.shard import shard
from pipelines.workspace.images import Images
from pipelines.workspace.members import training_members
from pipelines.workspace.parts import write_part
from zse_model.synthetic import draw_photo, draw_sketch

SMALL = 32  # px
FEW, MORE, ITEMS = 4, 12, 20  # parts of the two runs, and items a part


def main(options: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks driver", description=__doc__)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    pictures = parser.parse_args(options).pictures
    if pictures < 8 * CLASSES:
        parser.error(f"--pictures {pictures}: give {8 * CLASSES} or more, four sketches and four photos of each class")
    with tempfile.TemporaryDirectory() as workspace:
        print(f"{pictures:,} pictures in {CLASSES} classes    CPU s   MB kept   MB at most")
        for work in (write, of_ingest, of_shard):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                pool.apply(work, (workspace, pictures))
        of_parts(workspace, pictures)


def catalogue(pictures: int) -> ExperimentConfig:
    """A bucket of `pictures` files in 250 classes, half of them sketches."""
    Keys.total = pictures
    fsspec.register_implementation("keys", Keys, clobber=True)
    config = experiment(Path("/set"))
    return replace(config, dataset=replace(config.dataset, source="keys://set"))


def write(workspace: str, pictures: int) -> None:
    """The parts of image shards, as an ingest that was killed before its manifest leaves them."""
    data = {
        "photo": as_bytes(Image.fromarray(draw_photo("cup", 0)).resize((SMALL, SMALL)), "JPEG"),
        "sketch": as_bytes(Image.fromarray(draw_sketch("cup", 0)).resize((SMALL, SMALL)), "PNG"),
    }
    look = {"photo": b"\0" * 192, "sketch": None}
    planned = plan_ingest(catalogue(pictures), workspace)
    for name, records in planned.parts.items():
        rows = [
            {
                "id": one.id,
                "modality": one.modality,
                "category": one.category,
                "instance": one.instance,
                "uri": one.path,
                "sha256": hashlib.sha256(one.id.encode()).hexdigest(),
                "data": data[one.modality],
                "look": look[one.modality],
            }
            for one in records
        ]
        table = pa.Table.from_pylist(rows, schema=Images.SCHEMA)
        write_part(f"{planned.folder}/{name}", table, row_group=len(rows), extra={"skipped": []})


def of_ingest(workspace: str, pictures: int) -> None:
    """Print what the driver's steps of `zse ingest` cost, with every part there."""
    config = catalogue(pictures)
    with step("list the pictures, plan the parts"):
        planned = plan_ingest(config, workspace)
    with step("read the parts, write the manifest"):
        images = ingest(config, workspace, planned)
    assert images.pictures == len(planned.records)


def of_shard(workspace: str, pictures: int) -> None:
    """Print what each step of `zse shard` before its tasks costs."""
    images = shards(workspace)
    split = load_split(catalogue(pictures).dataset, images.counts)
    with step("read the members"):
        members = images.members()
    with step("keep those of the training"):
        inside = training_members(members, split)
    with step("plan the items"):
        plan = ItemPlan(inside, ShardConfig())
    with step("find the members in the shards"):
        images.rows(inside)
    assert len(plan.classes) == len(split.training)


def shards(workspace: str) -> Images:
    (folder,) = Path(workspace, Images.KIND).iterdir()
    return Images.open(str(folder))


def of_parts(workspace: str, pictures: int) -> None:
    """Print the CPU seconds of a part of `zse shard`."""
    images, config, costs = shards(workspace), catalogue(pictures), {}
    for parts in (1, FEW, MORE):  # the first starts Ray
        settings = replace(config.shard, items=parts * ITEMS, part_size=ITEMS)
        with watched() as cost:
            shard(replace(config, shard=settings), workspace, images)
        costs[parts] = cost
        print(f"zse shard, {parts:2d} parts of {ITEMS} items: {cost.cpu:7.1f} CPU s, {cost.peak:.1f} GB", flush=True)
    ray.shutdown()
    print(f"a part more: {(costs[MORE].cpu - costs[FEW].cpu) / (MORE - FEW):.2f} CPU s")


@contextmanager
def step(what: str) -> Iterator[None]:
    """Print the CPU seconds and the memory that the context adds to this process."""
    own, stop = psutil.Process(), threading.Event()
    before = most = own.memory_info().rss

    def look() -> None:
        nonlocal most
        while not stop.wait(0.05):
            most = max(most, own.memory_info().rss)

    watcher = threading.Thread(target=look)
    watcher.start()
    cpu = -time.process_time()
    yield
    cpu += time.process_time()
    stop.set()
    watcher.join()
    after = own.memory_info().rss
    kept, most = (after - before) / 1e6, (max(most, after) - before) / 1e6
    print(f"{what:36s} {cpu:9.1f} {kept:9.0f} {most:12.0f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
