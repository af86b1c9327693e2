"""Measure whether int8 would make a faster shortlist of the pair network than bfloat16, on a processor.

    python -m benchmarks int8

The products with weights are made of int8: activations with a scale a row, weights with a scale an output, sums in
int32 (`torch._int_mm`). Everything else is that of the engine in bfloat16. The golden recipe's weights score 6 sketches
with 160 real photos, and float32 is the reference.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.scoring import encoded, released, shortlist
from benchmarks.world import originals
from zse_model import pair_scorer
from zse_model.memory import keep_freed_memory
from zse_model.scoring import score_all

SKETCHES, PHOTOS, TOP, ROUNDS = 6, 160, 40, 5
TIMED = 2, 60  # sketches and photos of a round


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    method = released(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        sketches, photos, _ = encoded(method, originals(Path(scratch)), SKETCHES, PHOTOS)
        exact, scorer = score_all(method.scorer("rn"), sketches, photos), method.scorer("rn", "bf16")
        half = score_all(scorer, sketches, photos)
        with products_of_int8():
            eighth = score_all(scorer, sketches, photos)
        first = shortlist(exact, TOP)
        for name, scores in (("bf16", half), ("int8", eighth)):
            of, twice = (float((shortlist(scores, k) & first).sum() / first.sum()) for k in (TOP, 2 * TOP))
            print(f"{name}: of the first {TOP} of float32 {of:.1%} are in its first {TOP}, {twice:.1%} in {2 * TOP}")
        queries = scorer.precompute({"tokens": sketches["tokens"][: TIMED[0]]}, "sketch")
        gallery = scorer.precompute({"tokens": photos["tokens"][: TIMED[1]]}, "photo")
        ratios = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            scorer.score(queries, gallery)
            middle = time.perf_counter()
            with products_of_int8():
                scorer.score(queries, gallery)
            ratios.append((middle - start) / (time.perf_counter() - middle))
        print(f"int8 is {statistics.median(ratios):.2f} times as fast as bf16 ({min(ratios):.2f} to {max(ratios):.2f})")


@contextmanager
def products_of_int8() -> Iterator[None]:
    """`F.linear` of the pair scorer, for bfloat16, by products of int8."""
    int_mm: Any = torch._int_mm  # type: ignore[reportPrivateImportUsage]
    known: dict[int, tuple[Tensor, Tensor]] = {}

    def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
        if id(weight) not in known:
            scale = weight.float().abs().amax(1) / 127
            known[id(weight)] = (weight.float() / scale[:, None]).round().to(torch.int8).T.contiguous(), scale
        return known[id(weight)]

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if x.dtype != torch.bfloat16:
            return F.linear(x, weight, bias)
        rows, (columns, scale) = x.flatten(0, -2), quantised(weight)
        step = rows.abs().amax(1, keepdim=True).float().clamp_min(1e-12) / 127
        whole = (rows.float() / step).round_().to(torch.int8)
        out = int_mm(whole, columns).float().mul_(step).mul_(scale).to(x.dtype)
        return (out if bias is None else out.add_(bias)).view(*x.shape[:-1], -1)

    class Functions:
        def __getattr__(self, name: str) -> Any:
            return linear if name == "linear" else getattr(F, name)

    kept, pair_scorer.F = pair_scorer.F, Functions()  # type: ignore[assignment]
    try:
        yield
    finally:
        pair_scorer.F = kept


if __name__ == "__main__":
    main()
