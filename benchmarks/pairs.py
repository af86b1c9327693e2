"""The short comparisons of `python -m benchmarks check`: our way and the plain way to the same result.

Each is a context that makes its data and yields `Ways`. The data is generated, the same on every machine. Each runs in
its own process, with one thread: a function imports what it needs, and the process of the command stays small.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ways:
    """Two ways to one result. A call does all the work once, and must take long enough to be timed: 0.1 s or more."""

    ours: Callable[[], Any]
    plain: Callable[[], Any]
    difference: Callable[[Any, Any], float]
    """Of the two results; 0 = equal."""
    allowed: float = 0.0
    """The largest difference by which the results are the same, that of rounding."""


def largest(ours: Any, plain: Any) -> float:
    """The largest difference of two tensors. Infinite where their shapes differ."""
    return float((ours - plain).abs().max()) if ours.shape == plain.shape else float("inf")


@contextmanager
def pair_network(precision: Any, allowed: float) -> Iterator[Ways]:
    import torch

    from benchmarks.scoring import encoded, plain, released, written_out
    from benchmarks.world import drawn
    from zse_model.memory import keep_freed_memory
    from zse_model.scoring import score_all

    keep_freed_memory()  # as where the product scores pairs; the plain way is 2 % faster with it
    method = released(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        sketches, photos, _ = encoded(method, drawn(Path(scratch), 60), 2, 8)
        scorer = method.scorer("rn", precision)
        yield Ways(
            lambda: score_all(scorer, sketches, photos),
            lambda: plain(method, sketches["tokens"], photos["tokens"], (1, 4), written_out),
            largest,
            allowed,
        )


def rn() -> AbstractContextManager[Ways]:
    """16 pairs of ViT-B tokens by `rn` in float32, against the equations written out for 1x4 pairs"""
    return pair_network("fp32", allowed=1e-4)


def rn_bf16() -> AbstractContextManager[Ways]:
    """the same by `rn` in bfloat16, against float32 written out"""
    return pair_network("bf16", allowed=0.1)


@contextmanager
def late() -> Iterator[Ways]:
    """`late`, 4 sketches x 2,000 photos of 144 places, half of a sketch's without ink, against einsum"""
    import torch
    from torch.nn.functional import normalize

    from benchmarks import plain
    from zse_model.late import LateScorer
    from zse_model.scoring import score_all

    generator = torch.Generator().manual_seed(0)
    sketches, photos = (normalize(torch.randn(n, 144, 96, generator=generator), dim=2) for n in (4, 2000))
    sketches[:, ::2] = 0
    sketches /= sketches.norm(dim=2).sum(1)[:, None, None]
    scorer = LateScorer(torch.device("cpu"), (12, 12), 96)
    yield Ways(
        lambda: score_all(scorer, {"places": sketches}, {"places": photos}),
        lambda: plain.late(sketches, photos),
        largest,
        1e-5,
    )


@contextmanager
def codes() -> Iterator[Ways]:
    """the first 100 of a million codes of 64 bits, 40 queries by `CodeIndex`, against NumPy's bitwise_count and sort"""
    import numpy as np
    import torch

    from benchmarks import plain
    from zse_model.code_index import CodeIndex
    from zse_model.memory import keep_freed_memory

    keep_freed_memory()  # with fresh pages for every query the plain way took 2.6 times as long: 10.7x, not 4.1x
    chance = np.random.default_rng(0)
    gallery, asked = (chance.integers(0, 256, (n, 8), dtype=np.uint8) for n in (10**6, 40))
    index, queries = CodeIndex(64), torch.from_numpy(asked)
    index.add(torch.from_numpy(gallery))
    numbers, wanted = gallery.view(np.uint64)[:, 0], asked.view(np.uint64)

    def ours() -> Any:
        found = [index.search(query[None], 100) for query in queries]
        return torch.cat([torch.cat([one.indices, (64 - one.scores.long()) // 2]) for one in found])

    def plainly() -> Any:
        return torch.cat([torch.tensor(np.stack(plain.by_distances(query, numbers, 100))) for query in wanted])

    yield Ways(ours, plainly, largest)


@contextmanager
def vectors() -> Iterator[Ways]:
    """the first 20 of 200,000 rows of 256 numbers, 10 queries by `VectorIndex`, against NumPy's product and partition

    The index holds float16, the plain way float32 of the same values."""
    import numpy as np
    import torch

    from benchmarks import plain
    from zse_model.memory import keep_freed_memory
    from zse_model.vector_index import VectorIndex

    keep_freed_memory()  # as `codes`
    chance = np.random.default_rng(0)
    rows, queries = (torch.from_numpy(chance.standard_normal((n, 256), dtype=np.float32)) for n in (200_000, 10))
    index = VectorIndex(256)
    index.add(rows.half())
    numbers = rows.half().float().numpy()

    def ours() -> Any:
        found = [index.search(query[None], 20) for query in queries]
        return torch.cat([torch.cat([one.indices.double(), one.scores.double()]) for one in found])

    def plainly() -> Any:
        found = [plain.by_products(query[None].numpy(), numbers, 20) for query in queries]
        return torch.cat([torch.from_numpy(np.concatenate(one)) for one in found])

    yield Ways(ours, plainly, largest, 1e-3)


@contextmanager
def ranking() -> Iterator[Ways]:
    """512 x 17,101 scores ranked whole by `order`, against torch's stable sort"""
    import torch

    from zse_model.evaluation.search import order

    scores = torch.randn(512, 17_101, generator=torch.Generator().manual_seed(0)).mul(1000).round()  # some tie
    yield Ways(lambda: order(scores), lambda: scores.argsort(dim=1, descending=True, stable=True), largest)


@contextmanager
def metrics() -> Iterator[Ways]:
    """six metrics, two protocols, of 512 x 17,101 scores by `evaluate_scores`, against NumPy query by query"""
    import numpy as np
    import torch

    from benchmarks import plain
    from benchmarks.scale import task
    from zse_model.evaluation.evaluate import evaluate_scores

    asked = task(512, 17_101, 25)
    scores = torch.randn(512, 17_101, generator=torch.Generator().manual_seed(1))
    scores += asked.query_labels[:, None] == asked.gallery_labels
    labels = asked.query_labels.numpy(), asked.gallery_labels.numpy()

    def difference(ours: Any, plainly: Any) -> float:
        if ours.keys() != plainly.keys():
            return float("inf")
        return max(float(np.abs(ours[of].numpy() - plainly[of]).max()) for of in plainly)

    yield Ways(
        lambda: evaluate_scores([scores], asked).per_query,
        lambda: plain.metrics(scores.numpy(), *labels),
        difference,
        1e-9,
    )


PAIRS: dict[str, Callable[[], AbstractContextManager[Ways]]] = {
    "rn": rn,
    "rn-bf16": rn_bf16,
    "late": late,
    "codes": codes,
    "vectors": vectors,
    "ranking": ranking,
    "metrics": metrics,
}
"""Name -> comparison. The first line of its docstring is its line of the help."""
