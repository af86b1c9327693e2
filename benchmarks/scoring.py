"""Measure the relation network on every pair at ViT-B dimensions: ours against a plain implementation.

The plain implementation follows the equations: tokens are repeated for each pair, every projection is computed per
pair, and attention weights are a matrix. It runs in 20x20 blocks, as published, at the fastest batch of this machine,
and with torch's fused attention at its fastest batch. The weights are the golden recipe's, whose logits spread; a fresh
network ranks nothing. All implementations score each slice of photos in turn, so that drift of the machine affects all.
The plain ones run in an ordinary process. Ours runs in a process that keeps freed memory, as in the product; the plain
implementation is also timed with kept memory.

    python -m benchmarks scoring            # about half an hour on two cores
    ZSE_BENCH_PHOTOS=200 python -m benchmarks scoring
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from benchmarks.world import originals
from tests.golden import recipe_state
from zse_model.evaluation.search import rank
from zse_model.layers import CrossAttention
from zse_model.memory import keep_freed_memory
from zse_model.methods.zse_sbir import ZseSbir
from zse_model.published import RELEASED, RELEASED_BACKBONE, RELEASED_SIZE, translate
from zse_model.scoring import Encoding, Scorer, score_all
from zse_model.transforms import Modality, TransformConfig, prepare_photo, prepare_sketch

PHOTOS, SKETCHES, SLICE = int(os.environ.get("ZSE_BENCH_PHOTOS", "1000")), 8, 100
TOP, RESCORED = 200, 400
BATCHES = ((1, 1), (1, 2), (1, 4), (2, 4), (1, 8), (4, 4), (8, 8))  # sketches x photos of the plain implementation
GFLOP = {"plain": 3.65, "hoisted": 2.25}  # per pair; counted in zse_model/pair_scorer.py
SKETCHY_25 = (15_229, 17_101)


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    method = released(device)
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        sketches, photos, encoding = encoded(method, originals(Path(scratch)), 20, PHOTOS)
        for dtype in (torch.float32, torch.bfloat16)[: 1 + has_bf16(device)]:
            rate, name = matrix_rate(device, dtype), str(dtype).removeprefix("torch.")
            print(f"matrix products of {name} run at {rate:.0f} GFLOP/s: {GFLOP['hoisted'] / rate * 1e3:.2f} ms a pair")
        keep_freed_memory()
        theirs, keeping = (Plain(device, sketches, photos, keep=keep) for keep in (False, True))
        batches = [fastest_batch(theirs, way) for way in (written_out, with_fused_attention)]
        scorers = {"fp32": method.scorer("rn")}
        if has_bf16(device):
            scorers["bf16"] = method.scorer("rn", "bf16")
        else:
            print("bf16: skipped, this processor has no bfloat16 matrix instructions (AVX-512 BF16 or AMX)")
        compare(method, scorers, theirs, keeping, batches, sketches, photos)
        whole_evaluation(method, theirs, encoding, sketches, photos)


def released(device: torch.device) -> ZseSbir:
    method = ZseSbir(RELEASED, RELEASED_BACKBONE, size=RELEASED_SIZE, classes=1, load_weights=False)
    method.load_state_dict(method.state_dict() | translate(recipe_state(), method.state_dict()).state)
    return method.to(device).eval()


def encoded(method: ZseSbir, source: Path, sketches: int, photos: int) -> tuple[Encoding, Encoding, float]:
    """Some sketches and photos, evenly over the classes, and the seconds of encoding one picture."""
    transforms, out, seconds = TransformConfig(size=RELEASED_SIZE, recipe="published"), [], 0.0
    kinds: tuple[tuple[Modality, Callable[..., np.ndarray], int], ...] = (
        ("sketch", prepare_sketch, sketches),
        ("photo", prepare_photo, photos),
    )
    for modality, prepare, count in kinds:
        files = sorted(p for p in (source / modality).rglob("*") if p.is_file())
        files = files[:: max(1, len(files) // count)][:count]
        parts: list[Encoding] = []
        for i in range(0, len(files), 10):
            pictures = [torch.from_numpy(prepare(f.read_bytes(), transforms)) for f in files[i : i + 10]]
            pixels = torch.stack([p if p.dim() == 3 else p[..., None] for p in pictures]).permute(0, 3, 1, 2)
            start = now(method.device)
            parts.append(method.encode(pixels.to(method.device), modality))
            seconds += now(method.device) - start
        out.append({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
    return out[0], out[1], seconds / sum(len(pictures["tokens"]) for pictures in out)


Relate: TypeAlias = Callable[[ZseSbir, Tensor, Tensor], Tensor]


def written_out(method: ZseSbir, sketch: Tensor, photo: Tensor) -> Tensor:
    """Tokens of pairs, row by row -> logits, following the equations."""

    def attend(layer: CrossAttention, own: Tensor, other: Tensor) -> Tensor:
        parts = layer.project(own, "own") | layer.project(other, "other")
        weights = (parts["q"] @ parts["k"].transpose(2, 3) / parts["q"].shape[3] ** 0.5).softmax(3)
        h = layer.norm1(own + layer.out((weights @ parts["v"]).transpose(1, 2).flatten(2)))
        return layer.norm2(h + layer.ffn(h))

    assert method.sketch_attends and method.photo_attends and method.relation
    ours, theirs = attend(method.sketch_attends, sketch, photo), attend(method.photo_attends, photo, sketch)
    return method.relation(ours[:, 1:], theirs[:, 1:])


def with_fused_attention(method: ZseSbir, sketch: Tensor, photo: Tensor) -> Tensor:
    ours, theirs = method.cross_attend(sketch, photo)
    assert method.relation is not None
    return method.relation(ours[:, 1:], theirs[:, 1:])


def plain(method: ZseSbir, s: Tensor, p: Tensor, block: tuple[int, int], relate: Relate) -> Tensor:
    """Scores [q, g] of tokens [q, n, d] and [g, n, d], block by block, with repeated tokens."""
    rows, columns = block
    scores = torch.empty(len(s), len(p))
    for i in range(0, len(s), rows):
        for j in range(0, len(p), columns):
            sketch, photo = s[i : i + rows], p[j : j + columns]
            pairs = sketch.repeat_interleave(len(photo), 0), photo.repeat(len(sketch), 1, 1)
            scores[i : i + rows, j : j + columns] = relate(method, *pairs).view(len(sketch), len(photo)).cpu()
    return scores


class Plain:
    """The plain implementations in another process, which waits while others are timed."""

    def __init__(self, device: torch.device, sketches: Encoding, photos: Encoding, *, keep: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        tokens = [pictures["tokens"].cpu().numpy() for pictures in (sketches, photos)]
        context.Process(target=serve, args=(theirs, str(device), tokens, keep), daemon=True).start()

    def __call__(self, sketches: int, photos: slice, block: tuple[int, int], relate: Relate) -> tuple[float, Tensor]:
        """(seconds, scores) of the first sketches with some photos."""
        self.pipe.send((sketches, photos, block, relate))
        seconds, scores = self.pipe.recv()
        return seconds, torch.from_numpy(scores)


def serve(pipe: Connection, name: str, tokens: list[np.ndarray], keep: bool) -> None:
    device = torch.device(name)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if keep:
        keep_freed_memory()
    method, (s, p) = released(device), (torch.from_numpy(x).to(device) for x in tokens)
    with torch.inference_mode():
        while True:
            sketches, photos, block, relate = pipe.recv()
            seconds, scores = timed(device, partial(plain, method, s[:sketches], p[photos], block, relate))
            pipe.send((seconds, scores.numpy()))


def fastest_batch(plain: Plain, relate: Relate) -> tuple[int, int]:
    found = {}
    for rows, columns in BATCHES:
        photos = slice(0, max(columns, 16 if rows * columns < 16 else 0))
        seconds = min(plain(rows, photos, (rows, columns), relate)[0] for _ in range(3))
        found[rows, columns] = seconds / (rows * photos.stop)
    blocks = ", ".join(f"{r}x{c} {s * 1e3:.1f}" for (r, c), s in found.items())
    print(f"plain, {relate.__name__}, ms a pair by block: {blocks}")
    return min(found, key=lambda batch: found[batch])


def compare(
    method: ZseSbir,
    scorers: dict[str, Scorer],
    theirs: Plain,
    keeping: Plain,
    batches: list[tuple[int, int]],
    sketches: Encoding,
    photos: Encoding,
) -> None:
    queries, total = first(sketches, SKETCHES), len(photos["tokens"])
    spent: dict[str, list[float]] = {}
    scores: dict[str, list[Tensor]] = {}
    for g in range(0, total, SLICE):
        tile = {name: value[g : g + SLICE] for name, value in photos.items()}
        size = len(tile["tokens"])
        here = slice(g, g + size)
        ways: dict[str, tuple[int, Callable[[], tuple[float, Tensor]]]] = {
            "plain 20x20": (400, lambda g=g: theirs(20, slice(g, g + 20), (20, 20), written_out)),
            "plain fastest": (SKETCHES * size, lambda g=here: theirs(SKETCHES, g, batches[0], written_out)),
            "  memory kept": (SKETCHES * size, lambda g=here: keeping(SKETCHES, g, batches[0], written_out)),
            "  fused, fastest": (SKETCHES * size, lambda g=here: theirs(SKETCHES, g, batches[1], with_fused_attention)),
        }
        for name, scorer in scorers.items():
            ours = lambda t=tile, s=scorer: timed(method.device, lambda: score_all(s, queries, t))  # noqa: E731
            ways[name] = (SKETCHES * size, ours)
        for name, (pairs, run) in ways.items():
            seconds, result = run()
            spent.setdefault(name, []).append(seconds / pairs)
            scores.setdefault(name, []).append(result)
        so_far = ", ".join(f"{name.strip()} {seconds[-1] * 1e3:.1f}" for name, seconds in spent.items())
        print(f"photos {g} to {g + size}, ms a pair: {so_far}", flush=True)
    cost = {name: statistics.median(seconds) * 1e3 for name, seconds in spent.items()}
    print(f"{SKETCHES} sketches x {total} photos, median of {len(spent['fp32'])} slices, ms a pair:")
    for name, ms in cost.items():
        versus = f"{cost['plain 20x20'] / ms:5.2f}x plain 20x20, {cost['plain fastest'] / ms:5.2f}x plain fastest"
        print(f"  {name:16s} {ms:7.2f}   {versus}")
    reference = torch.cat(scores["plain fastest"], 1)
    spread, low, high = reference.std(1).mean(), reference.min(), reference.max()
    print(f"plain logits: std over the gallery {spread:.2f}, range {low:.2f}..{high:.2f}")
    exact = torch.cat(scores["fp32"], 1)
    difference = (exact - reference).abs().max()
    print(f"fp32: largest difference of a logit {difference:.1e}; top {TOP}: {agreement(exact, reference)}")
    if "bf16" in scores:
        half = torch.cat(scores["bf16"], 1)
        print(f"bf16: top {TOP}: {agreement(half, reference)}")
        run = lambda: score_all(scorers["fp32"], queries, photos, shortlist(half, RESCORED))  # noqa: E731
        seconds, rescored = timed(method.device, run)
        ms = cost["bf16"] + seconds * 1e3 / (SKETCHES * total)
        print(
            f"bf16 + fp32 of the first {RESCORED}: {ms:.2f} ms a pair of the gallery "
            f"({cost['plain 20x20'] / ms:.2f}x, {cost['plain fastest'] / ms:.2f}x); {agreement(rescored, reference)}"
        )


def shortlist(scores: Tensor, k: int) -> Tensor:
    """bool [q, g]: the k best of each row. Of equal scores the lower position is better."""
    return torch.zeros(scores.shape, dtype=torch.bool).scatter_(1, rank(scores, k).indices, True)


def agreement(ours: Tensor, reference: Tensor) -> str:
    """The share of the reference's first items among ours, and how many differences are no ties within rounding."""
    k = min(TOP, reference.shape[1] // 2)
    mine, theirs = shortlist(ours, k), shortlist(reference, k)
    last = reference.masked_fill(~theirs, torch.inf).min(1, keepdim=True).values
    unexplained = int(((mine != theirs) & ((reference - last).abs() > 2e-5)).sum())
    overlap = float((mine & theirs).sum() / theirs.sum())
    return f"overlap {overlap:.2%} of N = {int(theirs.sum())}, {unexplained} differences beyond 2e-5 of the last logit"


def whole_evaluation(method: ZseSbir, plain: Plain, encoding: float, sketches: Encoding, photos: Encoding) -> None:
    """Print the time of encoding and scoring together, and extrapolate it to a published gallery."""
    scorer = method.scorer("rn")
    print(f"encoding: {encoding * 1e3:.0f} ms a picture")
    print("20 sketches against g photos, encoding included:")
    ours_pair = plain_pair = 0.0
    for size in (25, 50, 100):
        tile = first(photos, size)
        ours = timed(method.device, lambda t=tile: score_all(scorer, sketches, t))[0]
        theirs = plain(20, slice(0, size), (20, 20), written_out)[0]
        ours_pair, plain_pair = ours / (20 * size), theirs / (20 * size)
        both = [x + (20 + size) * encoding for x in (ours, theirs)]
        print(f"  g = {size:3d}: ours {both[0]:6.1f} s, plain {both[1]:6.1f} s, {both[1] / both[0]:.2f}x")
    q, g = SKETCHY_25
    blocks = -(-q // 20)  # the plain implementation encodes the gallery again for every 20 sketches
    ours, theirs = (q + g) * encoding + q * g * ours_pair, (q + blocks * g) * encoding + q * g * plain_pair
    print(
        f"EXTRAPOLATED, not run: Sketchy-25 ({q} x {g}) on this machine, ours {ours / 86400:.1f} days, plain "
        f"{theirs / 86400:.1f} days, {theirs / ours:.2f}x"
    )


def first(pictures: Encoding, n: int) -> Encoding:
    return {name: value[:n] for name, value in pictures.items()}


def timed(device: torch.device, run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    start = now(device)
    result = run()
    return now(device) - start, result


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """GFLOP/s of a matrix product of the feed-forward's shape, an upper bound for scoring. The best of three seconds,
    because a processor's first second is slower."""
    rows = 2048 if device.type == "cpu" else 65_536
    a, b = torch.randn(rows, 768, device=device, dtype=dtype), torch.randn(768, 1024, device=device, dtype=dtype)
    best, end = float("inf"), now(device) + 3
    while now(device) < end:
        best = min(best, timed(device, lambda: a @ b)[0])
    return 2 * rows * 768 * 1024 / best / 1e9


def has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


if __name__ == "__main__":
    main()
