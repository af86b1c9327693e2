"""Measure the memory of the indices that a searcher holds, and the time of a query: codes and float16 rows.

    python -m benchmarks memory                    1 and 10 million codes of 64 bits, 1 million rows of 256 numbers
    ZSE_BENCH_MILLIONS=100 python -m benchmarks memory      also 100 million codes: 1.4 GB

Each size has a process of its own, two threads, and random content. Memory is what the index adds to a process that has
imported torch and faiss.
"""

from __future__ import annotations

import multiprocessing
import os
import time

import numpy as np
import psutil

MOST = float(os.environ.get("ZSE_BENCH_MILLIONS", "10"))
THREADS, STEP, QUERIES, K = 2, 2**19, 50, 20


def main() -> None:
    print(f"{'':36s}   MB   bytes a photo   p50 ms   p99 ms")
    for kind, millions in (("codes", 1), ("codes", 10), ("codes", 100), ("rows", 1)):
        if millions <= MOST:
            process = multiprocessing.get_context("spawn").Process(target=measure, args=(kind, millions * 10**6))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{kind} of {millions} million: ended with {process.exitcode}")


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
