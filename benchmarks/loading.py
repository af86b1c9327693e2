"""Measure data loading: images per second and core of a reader of pair shards at 224 px, the reader cores that a GPU
needs, and the share of time that a training waits for its batches.

A sleep stands for a GPU's step, during which the processor is free for the reading thread. Its length is torch's count
of FLOP divided by an assumed rate (`pipelines.operate.estimate`; no GPU was measured), times CORES / cores of this
machine, because a GPU is assumed to have CORES cores. Reading is measured in CPU seconds. Waiting is wall time, which
other work on the machine makes longer.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from benchmarks.world import originals
from pipelines.config.load import load_experiment
from pipelines.ingest.stage import ingest
from pipelines.operate.estimate import TFLOPS, UTILISATION, cost_of
from pipelines.train.items import ROLES
from pipelines.train.shard import shard
from pipelines.train.sources import ShardSource
from pipelines.workspace.pairs import Pairs
from pipelines.workspace.pictures import decode_pixels
from zse_model.fit import BatchSource, prefetch

RECIPE, CLASSES = "zse_sbir-sketchy-25-modern", 90
ITEMS, BATCH = 512, 32
CORES = 8  # assumed per GPU


def main() -> None:
    with pair_shards() as pairs:
        size = sum(file.stat().st_size for file in Path(pairs.url).glob("part-*"))
        source = ShardSource(pairs, BATCH, seed=0)
        print(f"pair shards at 224 px: {size / source.items / 1024:.1f} KiB an item of four pictures")
        rate = reading(source)
        print(f"reading: {rate:,.0f} images per CPU second, {decoding_share(source):.0%} of it decoding")
        needed = images_a_second()
        print(
            f"cores a GPU = images a second of the GPU / images a second of a core = {needed:,.0f} / {rate:,.0f} = "
            f"{needed / rate:.2f}  ({RECIPE}, {TFLOPS['bf16']:.0f} TFLOP/s x {UTILISATION} assumed)"
        )
        cores = len(os.sched_getaffinity(0))
        step = 4 * BATCH / needed * CORES / cores
        waited = waiting(source, step, steps=ITEMS // BATCH)
        print(f"waiting: {waited:.1%} of the time at a step of {step:.2f} s on {cores} cores (aim <= 5 %)")
    ray.shutdown()


@contextmanager
def pair_shards() -> Iterator[Pairs]:
    """Pair shards of ITEMS items at 224 px, made by the stages."""
    with tempfile.TemporaryDirectory() as temporary:
        scratch, unseen = Path(temporary), Path(temporary) / "unseen.txt"
        source = originals(scratch)
        unseen.write_text("\n".join(sorted(p.name for p in (source / "photo").iterdir())[::5]))
        settings = [
            f"dataset.source={source}",
            f"dataset.split={unseen}",
            f"shard.items={ITEMS}",
            "transforms.size=224",
        ]
        config = load_experiment("folder+global", [*settings, "shard.layout=shards", f"shard.part_size={ITEMS // 2}"])
        yield shard(config, str(scratch / "w"), ingest(config, str(scratch / "w")))


def reading(source: ShardSource) -> float:
    """Images per CPU second: reading Parquet, decoding and collation."""
    source.batch(0, 0, 1)
    start, steps = time.process_time(), ITEMS // BATCH
    for step in range(steps):
        source.batch(step, 0, 1)
    return 4 * BATCH * steps / (time.process_time() - start)


def decoding_share(source: ShardSource) -> float:
    """The share of decoding in the CPU time of a batch."""
    start = time.process_time()
    source.batch(0, 0, 1)
    whole = time.process_time() - start
    rows = [source._row(position) for position in range(BATCH)]
    start = time.process_time()
    for row in rows:
        for role in ROLES:
            decode_pixels(row[role])
    return (time.process_time() - start) / whole


def images_a_second() -> float:
    """The images per second that one GPU is assumed to train on."""
    config = load_experiment(RECIPE)
    cost = cost_of(config, "zse_sbir", [str(i) for i in range(CLASSES)])
    items = config.train.batch_size * config.train.accumulate * max(config.cluster.workers, 1)
    return 4 * items / (cost.step / (TFLOPS["bf16"] * 1e12 * UTILISATION))


def waiting(source: BatchSource, step: float, steps: int) -> float:
    """The share of wall time that a loop waits for batches, without the first. step: seconds of a step."""
    batches, waited = prefetch(source, ((step, 0) for step in itertools.count()), 1), 0.0
    next(batches)
    start = time.perf_counter()
    for _ in range(steps):
        time.sleep(step)
        asked = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - asked
    batches.close()
    return waited / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
