"""Measure search in a million photos by codes and by floats: time per query, bytes per photo and recall of the codes.

`hash` compares codes, `asym` the sketch's projection before its signs with the codes of the photos.

The photos are sampled from real embeddings: a `crossatnet` is trained on the seen classes of the real pictures (or
drawn ones), and noise with the covariance of each class is added to its photo embeddings, so that neighbourhoods, and
with them recall, are realistic. Queries are the embeddings of real sketches. One thread; all ways run in turns on the
same machine.

Recall is the share of the float top 100 in the first 100, 1,000 and 10,000 by codes, and of the float top 10 and 100
after the first 200 by codes are ranked by float16 rows. Of photos at the same distance the lower position comes first.

    ZSE_BENCH_MILLIONS=0.1 python -m benchmarks search      a tenth of the photos
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.results.make import WEIGHTS
from benchmarks.world import REAL, originals
from pipelines.config.load import load_experiment
from pipelines.run import run
from zse_model.checkpoint import load_checkpoint
from zse_model.code_index import CodeIndex
from zse_model.hashing import pack
from zse_model.methods.crossatnet import CrossATNet
from zse_model.vector_index import VectorIndex

PHOTOS = int(float(os.environ.get("ZSE_BENCH_MILLIONS", "1")) * 1e6)
WORKSPACE = os.environ.get("ZSE_BENCH_WORKSPACE", "")
SINGLE, BATCH, BATCHES, K, RERANKED = 500, 256, 3, 100, 200
NOISE = 0.7  # share of a class's spread: a sampled photo is nearer to its origin than to most photos of the class
DEPTHS = (100, 1000, 10_000)


def main() -> None:
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        method, sketches, photos = trained(Path(scratch))
    vectors = multiplied(*photos, PHOTOS)
    queries = sketches[torch.randperm(len(sketches), generator=torch.Generator().manual_seed(1))]
    queries = queries.repeat(-(-max(SINGLE, BATCH * BATCHES) // len(queries)), 1)
    print(f"{len(vectors):,} photos, {vectors.shape[1]}-d, {len(sketches)} different sketches, 1 thread, top {K}")

    learned, baseline, asymmetric = modes = method.modes[1:]
    heads = {mode: method.codes[mode] for mode in (learned, baseline)}
    codes = {mode: torch.cat([pack(h(x, "photo")) for x in vectors.split(2**15)]) for mode, h in heads.items()}
    asked = {mode: pack(head(queries, "sketch")) for mode, head in heads.items()}
    asked[asymmetric] = method.scorer(asymmetric).precompute({"embedding": queries}, "sketch")
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors.numpy())
    binary = faiss.IndexBinaryFlat(method.config.bits)
    binary.add(codes[learned].numpy())
    index = CodeIndex(method.config.bits)
    index.add(codes[learned])
    lists = max(16, round(len(vectors) ** 0.5))
    started = time.perf_counter()
    inverted = CodeIndex(method.config.bits, lists=lists, probed=32)
    inverted.add(codes[learned])
    print(f"{lists} lists made in {time.perf_counter() - started:.1f} s")

    rows = VectorIndex(vectors.shape[1])
    for some in vectors.split(2**15):
        rows.add(some.half())

    def reranked(i: int) -> Tensor:
        first = index.search(asked[asymmetric][i : i + 1], RERANKED).indices[0]
        return rows.search(queries[i : i + 1], K, among=first.sort().values).indices[0]

    floats, packed, numbers = queries.numpy(), asked[learned].numpy(), vectors.numpy()
    ways: dict[str, Callable[[int, int], object]] = {
        "floats, faiss IndexFlatIP": lambda i, n: flat.search(floats[i : i + n], K),
        "floats, NumPy matmul and partition": lambda i, n: plain.by_products(floats[i : i + n], numbers, K),
        "float16 rows, VectorIndex": lambda i, n: rows.search(queries[i : i + n], K),
        f"{learned}, faiss IndexBinaryFlat": lambda i, n: binary.search(packed[i : i + n], K),
        f"{learned}, exact": lambda i, n: index.search(asked[learned][i : i + n], K),
        f"{asymmetric}, exact": lambda i, n: index.search(asked[asymmetric][i : i + n], K),
        f"{asymmetric}, {RERANKED} ranked by float16 rows": lambda i, n: [reranked(j) for j in range(i, i + n)],
        f"{learned}, 32 of {lists} lists": lambda i, n: inverted.search(asked[learned][i : i + n], K),
        "floats, torch matmul and topk": lambda i, n: (queries[i : i + n] @ vectors.T).topk(K),
    }
    print_times(ways)

    truth = torch.from_numpy(flat.search(floats[: len(sketches)], K)[1])
    baselines = CodeIndex(method.config.bits)
    baselines.add(codes[baseline])
    first = {mode: of[: len(sketches)] for mode, of in asked.items()}
    print_recall({mode: (baselines if mode == baseline else index, first[mode]) for mode in modes}, truth)
    again = torch.stack([reranked(i) for i in range(len(sketches))])
    for depth in (10, K):
        share = recall(again[:, :depth], truth[:, :depth])
        print(f"{asymmetric}, {RERANKED} ranked by float16 rows: recall of the float top {depth} is {share:.3f}")
    exact, probed = index.search(first[learned], K), inverted.search(first[learned], K)
    nearest = exact.scores[:, -1:]
    print(f"the lists' first {K} are as near as the exact ones: {float((probed.scores >= nearest).float().mean()):.3f}")
    stored = codes[learned].shape[1]
    print(f"bytes a photo: {stored} as a code, {vectors.shape[1] * 4} as floats ({vectors.shape[1] * 4 // stored}x)")


def print_times(ways: dict[str, Callable[[int, int], object]]) -> None:
    """ways: name -> (first query, number of queries) -> a search. The last way is timed in batches only."""
    single = {name: times(way, 1, 25 if name.startswith("float") else SINGLE) for name, way in list(ways.items())[:-1]}
    base = statistics.median(single["floats, faiss IndexFlatIP"])
    print(f"\none query at a time{'':23s}   p50 ms   p99 ms   p50 against IndexFlatIP")
    for name, seconds in single.items():
        p50, p99 = np.percentile(seconds, [50, 99])
        print(f"{name:42s} {p50 * 1e3:8.2f} {p99 * 1e3:8.2f}   {base / p50:6.0f}x")
    batched = {name: statistics.median(times(way, BATCH, BATCHES)) for name, way in ways.items()}
    base = min(seconds for name, seconds in batched.items() if name.startswith("floats"))
    print(f"\nbatches of {BATCH}{'':28s} ms a query   against the faster of the floats")
    for name, seconds in batched.items():
        print(f"{name:42s} {seconds / BATCH * 1e3:8.3f}   {base / seconds:16.1f}x")


def print_recall(modes: dict[str, tuple[CodeIndex, Tensor]], truth: Tensor) -> None:
    """modes: name -> the index and its queries. truth: int64 [q, K], the top K by floats."""
    print(f"\nrecall of the float top {K}{'':19s}" + "".join(f"{f'@{depth:,}':>10s}" for depth in DEPTHS))
    for mode, (index, queries) in modes.items():
        found = index.search(queries, max(DEPTHS)).indices
        print(f"{mode:42s}" + "".join(f"{recall(found[:, :depth], truth):10.3f}" for depth in DEPTHS))


def trained(scratch: Path) -> tuple[CrossATNet, Tensor, tuple[Tensor, np.ndarray]]:
    """A network, sketch embeddings, and photo embeddings with their classes. The network did not train on the
    classes."""
    source, weights = originals(scratch), Path(WEIGHTS)
    settings = [f"dataset.source={source}", "train.minutes=null", "train.steps=150", "tracking.enabled=false"]
    settings += ["backbone.name=mobilenetv2_100", "transforms.size=128"]  # the network of docs/crossatnet.md
    if source == REAL:
        settings += ["dataset.split=sketchy-selection"]
    else:
        settings += [f"dataset.split={sorted(p.name for p in (source / 'photo').iterdir())[::3]}"]
    settings += [f"backbone.weights={weights}"] if weights.exists() else ["backbone.weights=null", "backbone.frozen=0"]
    workspace = WORKSPACE or str(scratch / "workspace")
    out = run(load_experiment("folder+crossatnet", settings), workspace, until="embed")
    sketches, photos = (out.encodings["crossatnet"].read(m, out.images) for m in ("sketch", "photo"))
    method = load_checkpoint(out.checkpoints["crossatnet"].url).method
    assert isinstance(method, CrossATNet)
    return method, sketches.values["embedding"], (photos.values["embedding"], photos.members.category)


def multiplied(embeddings: Tensor, categories: np.ndarray, count: int) -> Tensor:
    """float32 [count, d], L2-normalised: embeddings of real photos with added noise of their class's covariance."""
    generator = torch.Generator().manual_seed(0)
    made = torch.empty(count, embeddings.shape[1])
    groups = [torch.from_numpy(np.flatnonzero(categories == c)) for c in np.unique(categories)]
    for i, rows in enumerate(groups):
        own = embeddings[rows]
        part = slice(i * count // len(groups), (i + 1) * count // len(groups))
        n = part.stop - part.start
        noise = torch.randn(n, len(own), generator=generator) @ (own - own.mean(0)) / (len(own) - 1) ** 0.5
        made[part] = own[torch.randint(len(own), (n,), generator=generator)] + NOISE * noise
    made /= made.norm(dim=1, keepdim=True)
    return made[torch.randperm(count, generator=generator)]


def times(way: Callable[[int, int], object], size: int, rounds: int) -> list[float]:
    """Seconds of each call. Each call has other queries."""
    way(0, size)
    found = []
    for i in range(rounds):
        started = time.perf_counter()
        way(i * size, size)
        found.append(time.perf_counter() - started)
    return found


def recall(found: Tensor, truth: Tensor) -> float:
    """The share of truth [q, k] in found [q, n], row by row."""
    shares = [np.isin(t, f).mean() for t, f in zip(truth.numpy(), found.numpy(), strict=True)]
    return float(np.mean(shares))


if __name__ == "__main__":
    main()
