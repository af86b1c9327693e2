"""Measure ingest of 50,000 pictures against a plain Pillow loop with one process a core, and its memory at 5,000 and
50,000 pictures.

The plain loop decodes, resizes to the same size and encodes to the same formats. It does not crop sketches to their
ink, hash or write. Ray and its workers are warm before the clock starts, as on a cluster; the cold time of the first
6,250 pictures is printed, too. Each ingest runs between two plain loops and is compared with their mean, because the
speed of machines drifts.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from multiprocessing import Pool
from pathlib import Path

import psutil
import ray
from PIL import Image

from benchmarks.world import as_bytes, originals, repeated
from pipelines.config.experiment import ExperimentConfig
from pipelines.config.load import validate
from pipelines.ingest.stage import ingest, plan_ingest, write_parts

SIZE, PICTURES, ROUNDS = 128, 50_000, 3


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        source = originals(scratch)
        start = time.perf_counter()
        ingest(experiment(source), str(scratch / "cold"))
        print(
            f"cold, start of Ray included, {len(list(source.rglob('*.*')))} files: {time.perf_counter() - start:.1f} s"
        )
        small = repeated(source, scratch / "5k", 5_000)
        large = repeated(source, scratch / "50k", PICTURES)
        _, few = timed(small, scratch / "w5k", look_every=0.5)
        ratios, before, many = [], plain_loop(large, cores), 0.0
        for i in range(ROUNDS):
            ours, many = timed(large, scratch / f"w{i}")
            after = plain_loop(large, cores)
            plain, before = (before + after) / 2, after
            ratios.append(plain / ours)
            print(
                f"round {i + 1}: plain loop, {cores} processes {PICTURES / plain:,.0f} pictures/s; ingest "
                f"{PICTURES / ours:,.0f} pictures/s; ratio {plain / ours:.2f}"
            )
        print(f"ratio, median of {ROUNDS}: {statistics.median(ratios):.2f} (aim >= 0.70)")
        print(f"peak memory of all Ray workers (USS): {few:,.0f} MB at 5,000 pictures, {many:,.0f} MB at {PICTURES:,}")
    ray.shutdown()


def experiment(source: Path) -> ExperimentConfig:
    return validate(
        {
            "name": "bench",
            "dataset": {"adapter": "folder", "name": "bench", "source": str(source), "split": ["airplane"]},
            "transforms": {"size": SIZE},
            "methods": {"global": {}},
            "train": {"steps": 1},
        }
    )


def timed(source: Path, workspace: Path, look_every: float = 3) -> tuple[float, float]:
    """Seconds from before the first read to after the last written part, and the workers' peak in MB."""
    config = experiment(source)
    planned = plan_ingest(config, str(workspace))
    peak, stop = [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(look_every):  # seldom: reading the memory takes CPU time from the workers
            peak[0] = max(peak[0], worker_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    write_parts(config, planned.folder, planned.parts)
    seconds = time.perf_counter() - start
    stop.set()
    watcher.join()
    return seconds, peak[0]


def worker_memory() -> float:
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            if "ray::" in " ".join(process.cmdline()[:1]):
                total += process.memory_full_info().uss / 1e6
        except psutil.Error:
            continue
    return total


def plain_loop(source: Path, cores: int) -> float:
    files = [str(p) for p in sorted(source.rglob("*")) if p.is_file()]
    with Pool(cores) as pool:
        pool.map(convert, files[: 64 * cores])
        start = time.perf_counter()
        for _ in pool.imap_unordered(convert, files, chunksize=500):
            pass
        taken = time.perf_counter() - start
        pool.close()  # not terminated: Ray's handler, inherited by the fork, would print its stack
        pool.join()
    return taken


def convert(path: str) -> int:
    """Prepare one picture of the plain loop."""
    image = Image.open(path)
    if "/sketch/" in path:
        return len(
            as_bytes(image.convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR), "PNG", compress_level=1)
        )
    small = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return len(as_bytes(small, "JPEG", quality=92, subsampling=0))


if __name__ == "__main__":
    main()
