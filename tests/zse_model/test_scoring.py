"""The scoring engine gives what the network gives pair by pair, whatever the tiles, and only what it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from zse_model import scoring
from zse_model.evaluation.search import rank
from zse_model.layers import WIRINGS, CrossAttention, RelationHead
from zse_model.pair_scorer import PairScorer
from zse_model.scoring import DotProduct, Encoding, Fused, score_all, search, weighted

GRID, DIM = (14, 14), 16
HEADS: dict[str, dict[str, Any]] = {
    "all tokens": {"grid": (5, 5), "pool": False},
    "pooled": {"grid": GRID, "pool": True},
    "pooled, odd": {"grid": (15, 17), "pool": True},
    "released": {"grid": GRID, "pool": True, "layout": "released"},
}


@dataclass
class Network:
    """Random, and rough enough that logits spread."""

    wiring: Any
    head: str

    def __post_init__(self) -> None:
        torch.manual_seed(1)
        layers = [CrossAttention(DIM, 4, 32, 0.1, self.wiring) for _ in range(2)]
        self.sketch_attends, self.photo_attends = (layer.eval() for layer in layers)
        self.relation = RelationHead(DIM, dropout=0.1, pooled_dim=12, **HEADS[self.head]).eval()
        for parameter in (p for m in (*layers, self.relation) for p in m.parameters()):
            torch.nn.init.normal_(parameter, std=0.3)

    def pictures(self, n: int, seed: int) -> dict[str, Tensor]:
        tokens = torch.randn(n, 1 + self.relation.tokens, DIM, generator=torch.manual_seed(seed))
        return {"tokens": tokens, "embedding": tokens[:, 0]}

    def scorer(self, **options: Any) -> PairScorer:
        return PairScorer(self.sketch_attends, self.photo_attends, self.relation, **options)

    def logits(self, sketches: Tensor, photos: Tensor) -> Tensor:
        """Pair by pair, tokens repeated."""
        out = []
        for sketch, photo in product(sketches, photos):
            s, p = sketch[None], photo[None]
            out.append(self.relation(self.sketch_attends(s, p)[:, 1:], self.photo_attends(p, s)[:, 1:]))
        return torch.cat(out).view(len(sketches), len(photos))


def tiles(gallery: Encoding, size: int) -> list[Encoding]:
    total = len(gallery["embedding"])
    return [{name: value[i : i + size] for name, value in gallery.items()} for i in range(0, total, size)]


def close(scores: Tensor, expected: Tensor) -> None:
    """Within rounding, as a share of what ranks the pairs: how far their logits spread."""
    assert (scores - expected).abs().max() < 1e-4 * expected.std()


@pytest.mark.parametrize("head", sorted(HEADS))
@pytest.mark.parametrize("wiring", sorted(WIRINGS))
@torch.no_grad()
def test_the_engine_equals_the_network(wiring: str, head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(wiring, head)
    sketches, photos = network.pictures(5, 2), network.pictures(7, 3)
    expected = network.logits(sketches["tokens"], photos["tokens"])
    scorer = network.scorer()
    close(score_all(scorer, sketches, photos), expected)
    for chunk, tile, block, held in ((2, 3, 2, 64), (3, 7, 5, 0), (1, 4, 3, 4)):
        scorer.chunk, scorer.tile = chunk, tile
        monkeypatch.setattr(scoring, "QUERY_BLOCK", block)
        monkeypatch.setattr(scoring, "QUERIES_HELD", held)
        close(score_all(scorer, sketches, photos), expected)


@torch.no_grad()
def test_only_the_wanted_pairs_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network("standard", "all tokens")
    sketches, photos = network.pictures(4, 2), network.pictures(9, 3)
    scorer = network.scorer()
    scorer.tile, scorer.chunk = 4, 2
    everything = score_all(scorer, sketches, photos)
    wanted = torch.rand(4, 9, generator=torch.manual_seed(0)) < 0.4
    wanted[2] = False
    scored = []
    monkeypatch.setattr(
        PairScorer, "kernel", lambda self, s, p, real=PairScorer.kernel: scored.append(len(p)) or real(self, s, p)
    )
    scores = score_all(scorer, sketches, photos, wanted)
    assert sum(scored) == wanted.sum()
    close(scores[wanted], everything[wanted])
    assert scores[~wanted].isneginf().all()


@torch.no_grad()
@pytest.mark.parametrize("weights", [(0.0, 1.0), (1.0, 0.0), (0.3, 0.7)])
def test_what_is_not_wanted_is_minus_infinity_whatever_the_weights(weights: tuple[float, float]) -> None:
    network = Network("standard", "all tokens")
    sketches, photos = network.pictures(4, 2), network.pictures(9, 3)
    wanted = torch.rand(4, 9, generator=torch.manual_seed(0)) < 0.4
    wanted[2] = False
    first, second = DotProduct(torch.device("cpu")), network.scorer()
    alone = [score_all(scorer, sketches, photos) for scorer in (first, second)]
    expected = weights[0] * alone[0] + weights[1] * alone[1]
    for combine in (
        lambda a, b: weights[0] * a + weights[1] * b,
        lambda a, b: weighted(a, b, torch.tensor(weights)),
    ):
        scores = score_all(Fused(combine, first, second), sketches, photos, wanted)
        close(scores[wanted], expected[wanted])
        assert scores[~wanted].isneginf().all()
        close(score_all(Fused(combine, first, second), sketches, photos), expected)
    for side in (0, 1):  # ranked by one of them alone
        part = [scores.masked_fill(~wanted, -torch.inf) if i == side else scores for i, scores in enumerate(alone)]
        fused = weighted(part[0], part[1], torch.tensor(weights))
        assert fused[~wanted].isneginf().all() and not fused.isnan().any()


@torch.no_grad()
def test_a_gallery_in_tiles_is_searched_as_a_whole() -> None:
    network = Network("released", "all tokens")
    sketches, photos = network.pictures(3, 2), network.pictures(11, 3)
    for scorer in (network.scorer(), DotProduct(torch.device("cpu"))):
        whole = rank(score_all(scorer, sketches, photos), 4)
        streamed = search(scorer, sketches, tiles(photos, 3), 4)
        assert torch.equal(streamed.indices, whole.indices)
        torch.testing.assert_close(streamed.scores, whole.scores)
    with pytest.raises(ValueError, match="gallery is empty"):
        search(scorer, sketches, [], 4)


@torch.no_grad()
def test_half_precision_ranks_by_float32_logits() -> None:
    network = Network("standard", "pooled")
    sketches, photos = network.pictures(4, 2), network.pictures(60, 3)
    exact, half = (score_all(network.scorer(precision=p), sketches, photos) for p in ("fp32", "bf16"))
    assert half.dtype == torch.float32 and len(half.unique()) > 230  # bfloat16 itself would tie
    assert torch.corrcoef(torch.stack([exact.flatten(), half.flatten()]))[0, 1] > 0.98


@torch.no_grad()
def test_wirings_that_need_equal_counts_refuse_others() -> None:
    network = Network("released", "all tokens")
    photos = network.pictures(2, 3)
    fewer = {name: value[:, :-3] if name == "tokens" else value for name, value in photos.items()}
    with pytest.raises(ValueError, match="equally many tokens on both sides, got 25 and 22"):
        score_all(network.scorer(), network.pictures(2, 2), fewer)


@torch.no_grad()
def test_a_kernel_is_compiled_for_a_length_that_came_often(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network("standard", "all tokens")
    sketches, photos = network.pictures(4, 2), network.pictures(9, 3)
    expected = score_all(network.scorer(), sketches, photos)
    scorer = network.scorer()
    assert scorer.compile_after == float("inf"), "on a processor nothing is gained"
    lengths: list[int] = []

    def compiled(sketch: Any, gallery: Any) -> Tensor:
        lengths.append(len(gallery))
        return scorer.kernel(sketch, gallery)

    monkeypatch.setattr(scorer, "compiled", compiled)
    scorer.chunk, scorer.compile_after = 4, 8  # chunks of 4, 4 and 1: after two sketches' worth of 4
    close(score_all(scorer, sketches, photos), expected)
    assert lengths == [4, 4] * 3


@torch.no_grad()
def test_without_a_compiler_pairs_are_scored_as_before_and_the_log_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = Network("standard", "all tokens")
    sketches, photos = network.pictures(4, 2), network.pictures(9, 3)
    expected = score_all(network.scorer(), sketches, photos)
    scorer = network.scorer()
    scorer.compile_after = 0

    def compiled(*_: Any) -> Tensor:
        raise RuntimeError("Cannot find a working triton installation.\nMore of it")

    monkeypatch.setattr(scorer, "compiled", compiled)
    assert torch.equal(score_all(scorer, sketches, photos), expected)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.endswith("RuntimeError: Cannot find a working triton installation.") and "without a compiler" in said


def test_long_chunks_are_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network("standard", "all tokens")
    monkeypatch.setattr("zse_model.pair_scorer.CPU_CHUNK", 25 * 32 * 4 * 130)
    assert network.scorer().chunk == 128
    monkeypatch.setattr("zse_model.pair_scorer.CPU_CHUNK", 25 * 32 * 4 * 63)
    assert network.scorer().chunk == 63
