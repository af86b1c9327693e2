"""Compare the two layouts of training items, pair shards and pictures in memory, read by one process.

Prints images per CPU second, the cost of each before the first step, and bytes per item and worker.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import ray

from benchmarks.world import originals
from pipelines.config.load import load_experiment
from pipelines.ingest.stage import ingest
from pipelines.train.items import ItemPlan
from pipelines.train.shard import shard
from pipelines.train.sources import MemorySource, ShardSource
from pipelines.workspace.members import training_members

ITEMS, BATCH = 4_000, 16


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        unseen = scratch / "unseen.txt"
        source = originals(scratch)
        classes = sorted(p.name for p in (source / "photo").iterdir())
        unseen.write_text("\n".join(classes[::5]))
        config = load_experiment(
            "folder+global",
            [f"dataset.source={source}", f"dataset.split={unseen}", f"shard.items={ITEMS}", "transforms.size=128"],
        )
        images = ingest(config, str(scratch / "w"))
        start = time.perf_counter()
        pairs = shard(config, str(scratch / "w"), images)
        sharding = time.perf_counter() - start
        size = sum(p.stat().st_size for p in Path(pairs.url).glob("part-*"))
        streamed = ShardSource(pairs, BATCH, seed=0)

        start = time.perf_counter()
        members = training_members(images.members(), pairs.split)
        memory = MemorySource(ItemPlan(members, config.shard), images.data(members), BATCH)
        loading = time.perf_counter() - start
        held = sum(pixels.nbytes for pixels in memory.pixels)

        print(f"shards: {ITEMS} items written in {sharding:.1f} s, {size / ITEMS / 1024:.1f} KiB an item")
        print(f"memory: {len(members)} pictures loaded in {loading:.1f} s, {held / 1e6:.0f} MB a worker")
        for name, reader in (("shards", streamed), ("memory", memory), ("shards", streamed), ("memory", memory)):
            start, steps = time.process_time(), 60
            for step in range(steps):
                reader.batch(step, 0, 1)
            seconds = time.process_time() - start
            print(f"{name}: {steps * BATCH * 4 / seconds:,.0f} images per CPU second")
    ray.shutdown()


if __name__ == "__main__":
    main()
