"""Measure the pair network as a share of its floor: the time of its matrix products alone.

    python -m benchmarks roofline

At ViT-B dimensions, on a processor: 8 sketches x 110 photos, precomputed, because a picture is projected once and
scored with thousands. The floor makes the products of the same pairs in the same chunks and shapes, and nothing else:
no softmax, norm, residual, ReLU, copy or addition of a bias. Beside them: the plain way in its 20x20 blocks, which
projects again for each pair. Floor, engine and plain way run in turn, five times; a share is the median of five ratios.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.scoring import has_bf16, now, plain, released, written_out
from zse_model.memory import keep_freed_memory
from zse_model.methods.zse_sbir import ZseSbir
from zse_model.pair_scorer import PairScorer
from zse_model.scoring import Precision

SKETCHES, PHOTOS, ROUNDS = 8, 110, 5
PLAIN = 20  # sketches and photos of a block, as published


def main() -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    keep_freed_memory()
    device = torch.device("cpu")
    method = released(device)
    generator = torch.Generator().manual_seed(0)
    s, p = (torch.randn(n, 197, 768, generator=generator) for n in (max(SKETCHES, PLAIN), PHOTOS))
    with torch.inference_mode():
        for precision in ("fp32", "bf16")[: 1 + has_bf16(device)]:
            print(f"{precision}, ms a pair: floor, engine, plain {PLAIN}x{PLAIN}")
            shares, ratios, best = measure(method, precision, s, p)
            print(
                f"{precision}: {statistics.median(shares):.0%} of the floor ({min(shares):.0%} to {max(shares):.0%}), "
                f"{statistics.median(ratios):.2f} times as fast as the plain way in float32; fastest "
                f"{best * 1e3:.2f} ms a pair",
                flush=True,
            )


def measure(method: ZseSbir, precision: Precision, s: Tensor, p: Tensor) -> tuple[list[float], list[float], float]:
    """(floor / engine of each round, plain / engine of each round, the engine's least seconds a pair). s, p: float32
    tokens [n, 197, 768]."""
    scorer = method.scorer("rn", precision)
    assert isinstance(scorer, PairScorer)
    queries = scorer.precompute({"tokens": s[:SKETCHES]}, "sketch")
    gallery = scorer.precompute({"tokens": p}, "photo")
    floor, pairs = Floor(scorer), SKETCHES * len(p)
    ways: list[tuple[int, Callable[[], object]]] = [
        (pairs, lambda: floor(SKETCHES, len(p))),
        (pairs, lambda: scorer.score(queries, gallery)),
        (PLAIN**2, lambda: plain(method, s[:PLAIN], p[:PLAIN], (PLAIN, PLAIN), written_out)),
    ]
    for _, run in ways[:2]:
        run()  # a processor's first second is slower
    rounds = []
    for _ in range(ROUNDS):
        spent = []
        for count, run in ways:
            start = now(scorer.device)
            run()
            spent.append((now(scorer.device) - start) / count)
        rounds.append(spent)
        print("  " + "  ".join(f"{seconds * 1e3:6.2f}" for seconds in spent), flush=True)
    return [f / e for f, e, _ in rounds], [w / e for _, e, w in rounds], min(e for _, e, _ in rounds)


class Floor:
    """The matrix products of a scorer, into memory that is there: `floor(sketches, photos)`."""

    def __init__(self, scorer: PairScorer) -> None:
        self.chunk = scorer.chunk
        self.scorer, self.memory = scorer, dict[int, list[tuple[Tensor, Tensor, Tensor]]]()

    def __call__(self, sketches: int, photos: int) -> None:
        for _ in range(sketches):
            for start in range(0, photos, self.chunk):
                for left, right, out in self._products(min(self.chunk, photos - start)):
                    torch.matmul(left, right, out=out)

    def _products(self, n: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(left, right, out) of every product of n pairs, with random numbers on the left and the scorer's weights."""
        if n not in self.memory:
            scorer, d = self.scorer, self.scorer.sketch_side.out.shape[0]
            assert scorer.convolution is not None
            heads, width = scorer.layers["sketch"].heads, d // scorer.layers["sketch"].heads
            patches, places = scorer.relation.tokens, scorer.relation.grid[0] * scorer.relation.grid[1] // 4
            shapes = []
            for side in (scorer.sketch_side, scorer.photo_side):
                keys, values = self._random(n * heads, width, patches + 1), self._random(n * heads, patches + 1, width)
                shapes += [
                    (self._random(n * heads, patches, width), keys),
                    (self._random(n * heads, patches, patches + 1), values),
                    (self._random(n * patches, d), side.out.T),
                    (self._random(n * patches, d), side.up.T),
                    (self._random(n * patches, side.up.shape[0]), side.down.T),
                    (self._random(n * places, 4 * d), scorer.convolution.T),
                ]
            anchors = self._random(n, places, len(scorer.convolution))
            shapes.append((anchors, anchors.transpose(1, 2)))
            self.memory[n] = [(left, right, left @ right) for left, right in shapes]
        return self.memory[n]

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(shape).to(self.scorer.dtype)


if __name__ == "__main__":
    main()
