"""Measure the memory of the indices that a searcher holds, and the time of a query: codes and float16 rows. Then the
memory of a searcher and of a run of `zse index` over catalogues of several sizes.

    python -m benchmarks memory                    1 and 10 million codes of 64 bits, 1 million rows of 256 numbers
    ZSE_BENCH_MILLIONS=100 python -m benchmarks memory      also 100 million codes: 1.4 GB
    ZSE_CATALOGUES=10000,100000 python -m benchmarks memory       smaller catalogues than a million photos: 4 GB of disk

Each size has a process of its own, two threads, and random content. Memory is what the work adds to a process that has
done the same with a small catalogue: what stays, and the most at any time.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

MOST = float(os.environ.get("ZSE_BENCH_MILLIONS", "10"))
ROWS = tuple(int(rows) for rows in os.environ.get("ZSE_CATALOGUES", "10000,100000,1000000").split(","))
THREADS, STEP, QUERIES, K = 2, 2**19, 50, 20


def main() -> None:
    print(f"{'':36s}   MB   bytes a photo   p50 ms   p99 ms")
    for kind, millions in (("codes", 1), ("codes", 10), ("codes", 100), ("rows", 1)):
        if millions <= MOST:
            apart(measure, kind, millions * 10**6)
    print(f"\n{'':44s} MB kept   MB at most   seconds")
    for rows in ROWS:
        catalogue(rows)


def apart(work: Callable[..., None], *given: Any) -> None:
    """`work` in a process of its own."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=given)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{work.__name__}{given}: ended with {process.exitcode}")


def measure(kind: str, count: int) -> None:
    import faiss
    import torch

    from zse_model.code_index import CodeIndex
    from zse_model.vector_index import VectorIndex

    faiss.omp_set_num_threads(THREADS)
    torch.set_num_threads(THREADS)
    chance = np.random.default_rng(0)
    index = CodeIndex(64) if kind == "codes" else VectorIndex(256)

    def made(n: int) -> torch.Tensor:
        if kind == "codes":
            return torch.from_numpy(chance.integers(0, 256, (n, 8), dtype=np.uint8))
        return torch.from_numpy(chance.standard_normal((n, 256), dtype=np.float32)).half()

    small = CodeIndex(64) if kind == "codes" else VectorIndex(256)  # loads what a first use loads
    small.add(made(1000))
    small.search(made(1) if kind == "codes" else made(1).float(), K)
    before = psutil.Process().memory_info().rss
    for first in range(0, count, STEP):
        index.add(made(min(STEP, count - first)))
    queries = made(QUERIES + 1) if kind == "codes" else made(QUERIES + 1).float()
    index.search(queries[:1], K)
    held = psutil.Process().memory_info().rss - before
    asked = {
        "by code": queries,
        "by weights": torch.from_numpy(chance.integers(-2047, 2048, (QUERIES + 1, 64))).float(),
    }
    for name, of in asked.items() if kind == "codes" else (("by vector", queries),):
        taken = []
        for i in range(QUERIES + 1):
            begun = time.perf_counter()
            index.search(of[i : i + 1], K)
            taken.append(time.perf_counter() - begun)
        p50, p99 = np.percentile(taken[1:], [50, 99]) * 1e3
        what = f"{count:,} {kind} {name}"
        print(f"{what:36s} {held / 1e6:6.0f} {held / count:12.1f} {p50:12.1f} {p99:8.1f}", flush=True)


def catalogue(rows: int) -> None:
    """Nights and a search of a catalogue with so many photos, whose encodings are generated."""
    with tempfile.TemporaryDirectory() as folder:
        apart(prepare, Path(folder), {"warm": 1000, "measured": rows})
        apart(nights, Path(folder), rows)


def prepare(root: Path, worlds: dict[str, int]) -> None:
    from benchmarks.index import generated, made_checkpoint, photographs

    checkpoint = made_checkpoint(root / "checkpoint")
    for world, rows in worlds.items():
        names = photographs(root / world, rows)
        generated(str(root / world / "photos"), str(root / f"{world}.index"), checkpoint, names)


def nights(root: Path, rows: int) -> None:
    from pipelines.encode import index as indexing
    from pipelines.search.searcher import Searcher

    checkpoint = str(root / "checkpoint")
    encoding = indexing.run_parts

    def night(world: str, changes: bool = False, first: bool = False) -> None:
        photos = root / world / "photos"
        if changes:
            one, two, *_ = sorted((photos / "0000").iterdir())
            two.unlink()
            for i, path in enumerate((one, photos / "new.jpg")):
                path.unlink(missing_ok=True)
                path.write_bytes((root / world / "drawn" / f"{i}.jpg").read_bytes() + b"\0")
        if first:
            indexing.run_parts = lambda *_, **__: iter(())  # all but the encoding
        indexing.index(str(photos), str(root / f"{world}{'.new' * first}.index"), checkpoint, called="generated")
        indexing.run_parts = encoding

    def searching(world: str, search: bool = False) -> Searcher:
        searcher = Searcher.open(str(root / f"{world}.index"), checkpoint)
        if search:
            searcher.search([[[0, 60, 30], [0, 10, 60]]])
        return searcher

    works: dict[str, Callable[[str], Any]] = {
        "the plan of a first build": lambda world: night(world, first=True),
        "compaction of its first build": lambda world: night(world),
        "a night without a change": lambda world: night(world),
        "a night with three changes": lambda world: night(world, changes=True),
        "a searcher": searching,
        "its first search": lambda world: searching(world, search=True),
    }
    for what, work in works.items():
        work("warm")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before, begun = psutil.Process().memory_info().rss, time.perf_counter()
        held = work("measured")
        seconds, kept = time.perf_counter() - begun, psutil.Process().memory_info().rss - before
        most = int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) * 1024 - before
        print(f"{f'{rows:,} photos, {what}':44s} {kept / 1e6:7.0f} {most / 1e6:12.0f} {seconds:9.1f}", flush=True)
        del held
    for name, form in Searcher.open(str(root / "measured.index"), checkpoint).generation.forms.items():
        print(f"    {name} takes {form.bytes:,} bytes a photo: {form.bytes * rows / 1e6:,.0f} MB", flush=True)
