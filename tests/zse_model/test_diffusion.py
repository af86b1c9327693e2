"""Diffusion: the walk is that of an oracle, photos like the best ones rise, and everything else keeps its place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zse_model.backbones import BackboneConfig
from zse_model.diffusion import MOST, NEIGHBOURS, SHARPNESS, STEPS, WALK, diffuse, diffused, diffused_ranking
from zse_model.errors import ZseError
from zse_model.evaluation.search import order, rank
from zse_model.methods import create_method, is_known_mode
from zse_model.methods.global_embedding import GlobalConfig
from zse_model.modes import ranks_together, undiffused


def photos(count: int, seed: int = 0) -> torch.Tensor:
    vectors = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=1)


def oracle(scores: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Edge by edge, and the sum over walks of each length instead of repeated steps."""
    count = len(scores)
    edges = np.zeros((count, count))
    for i in range(count):
        others = sorted((j for j in range(count) if j != i), key=lambda j: -(vectors[i] @ vectors[j]))
        for j in others[:NEIGHBOURS]:
            weight = max(0.0, float(vectors[i] @ vectors[j]))
            edges[i, j] += weight
            edges[j, i] += weight
    degree = edges.sum(0)
    walk = edges / np.sqrt(np.outer(degree, degree))
    seeds = np.exp(SHARPNESS * (scores - scores.mean()) / scores.std())
    lengths = [np.linalg.matrix_power(WALK * walk, n) @ seeds for n in range(STEPS + 1)]
    spread = (1 - WALK) * sum(lengths[:STEPS]) + lengths[STEPS]
    return spread / spread.max()


def test_the_walk_is_that_of_the_oracle() -> None:
    vectors, scores = photos(30), torch.randn(30, generator=torch.Generator().manual_seed(1))
    found = diffuse(scores, vectors)
    assert float(found.max()) == 1.0
    np.testing.assert_allclose(found, oracle(scores.double().numpy(), vectors.double().numpy()), rtol=1e-5)


def test_a_photo_like_the_best_ones_rises_above_another() -> None:
    one, other = torch.eye(6)[0], torch.eye(6)[1]
    near = torch.nn.functional.normalize(torch.stack([one, other])[[0] * 8 + [1] * 8] + 0.1 * photos(16), dim=1)
    scores = torch.tensor([0.9, 0.8, 0.85, 0.9, 0.8, 0.9, 0.85, 0.1] + [0.2, 0.1, 0.15, 0.3, 0.1, 0.2, 0.1, 0.15])
    assert scores.argsort(descending=True)[7] == 11, "a photo of the other kind has a better score"
    assert set(diffuse(scores, near).argsort(descending=True)[:8].tolist()) == set(range(8))


def test_copies_of_a_photo_are_one_photo() -> None:
    """Twelve copies would be each other's neighbours, and would rise by themselves. Their last bits may differ."""
    vectors, scores = photos(40), torch.randn(40, generator=torch.Generator().manual_seed(3))
    near = (vectors[7].half() + 2**-11 * torch.eye(6, dtype=torch.float16)).repeat(2, 1).float()
    assert not (near == vectors[7]).all(1).any()
    copied, their = torch.cat([vectors, near]), torch.cat([scores, scores[7] - torch.arange(12.0)])
    alone, beside = diffuse(scores, vectors), diffuse(their, copied)
    torch.testing.assert_close(beside[:40], alone)
    assert bool((beside[40:] == beside[7]).all())
    again = rank(diffused(their[None], copied.__getitem__, len(their))).indices[0].tolist()
    first = again.index(7)
    assert again[first : first + 13] == [7, *range(40, 52)], "equal photos stand in stored order"


def test_all_but_the_best_keep_scores_and_order() -> None:
    vectors, scores = photos(40), torch.randn(3, 40, generator=torch.Generator().manual_seed(2))
    scores[0, 20:25] = torch.tensor([3e-9, 1e-9, 2e-9, -1e-9, 0.0])
    scores[1, 5:] = -torch.inf  # not ranked
    scores[2] = -torch.inf
    again = diffused(scores, vectors.__getitem__, 10)
    first, later = order(scores[:1])[0], order(again[:1])[0]
    assert set(first[:10].tolist()) == set(later[:10].tolist()) and first[:10].tolist() != later[:10].tolist()
    assert torch.equal(first[10:], later[10:]) and torch.equal(again[0, first[10:]], scores[0, first[10:]])
    spread = diffuse(scores[0, first[:10]], vectors[first[:10]])
    assert later[:10].tolist() == first[:10][spread.argsort(descending=True)].tolist()
    torch.testing.assert_close(again[0, later[:10]], scores[0, first[:10]])  # dealt out, the highest first
    assert torch.equal(again[1].isneginf(), scores[1].isneginf())
    assert bool(again[2].isneginf().all())
    whole = diffused(scores[:1], vectors.__getitem__, 40)
    assert torch.equal(diffused(scores[:1], vectors.__getitem__, 400), whole), "more than there are"
    assert torch.equal(order(diffused(scores[:1], vectors.__getitem__, 1))[0], first), "one photo has no other"


@given(st.integers(1, 24), st.integers(1, 30), st.integers(1, 30), st.integers(0, 9), st.sampled_from([1.0, 1e-9]))
def test_a_ranking_is_diffused_as_all_scores_are(count: int, depth: int, k: int, seed: int, scale: float) -> None:
    vectors = photos(count, seed)
    scores = scale * torch.randint(-3, 4, (2, count), generator=torch.Generator().manual_seed(seed))  # with ties
    first = rank(scores, max(k, depth))
    found = diffused_ranking(first, (vectors[row[:depth]] for row in first.indices), k)
    wanted = rank(diffused(scores, vectors.__getitem__, depth), k)
    assert torch.equal(found.indices, wanted.indices) and torch.equal(found.scores, wanted.scores)
    for row, own in zip(found.indices, first.indices, strict=True):
        head = min(depth, count, k)
        assert set(row[:head].tolist()) <= set(own[:depth].tolist()), "the best stay before all others"


def test_extreme_scores_and_photos_without_neighbours() -> None:
    alone = torch.zeros(MOST)
    alone[3] = 1e9  # 45 standard deviations above all others
    found = diffuse(alone, photos(MOST))
    assert bool(found.isfinite().all()) and bool((found > 0).all()) and int(found.argmax()) == 3
    assert diffuse(torch.zeros(5), photos(1).expand(5, -1)).tolist() == [1.0] * 5
    opposite = diffuse(torch.tensor([1.0, 0.0]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    assert opposite[0] == 1 and 0 < opposite[1] < 1, "no edge joins them"


def test_names() -> None:
    assert undiffused("hash-64-diffused-500") == ("hash-64", 500) and undiffused("ret") == ("ret", 0)
    assert ranks_together("ret-diffused-5") and not ranks_together("rerank-5")
    for name in ("ret-diffused-0", "ret-diffused-", "ret-diffused-2001", "-diffused-5", "diffused-5"):
        assert not is_known_mode(name)
    assert not is_known_mode("rerank-9-diffused-5"), "a shortlist is ranked once"
    assert is_known_mode("ret-diffused-2000") and is_known_mode("hash-64-diffused-5")
    method = create_method("global", GlobalConfig(), BackboneConfig(name="test_resnet"), size=64, classes=2)
    assert method.has("ret-diffused-7") and not method.has("late-diffused-7") and not method.has("rerank-9-diffused-5")
    assert method.mode("ret-diffused-7") is method.mode("ret") and method.ranked_by("ret-diffused-7") == "ret"
    assert method.reads("ret-diffused-7", "photo") == ["embedding"]
    with pytest.raises(ZseError, match="such as ret-diffused-500; K up to 2,000"):
        method.mode("ret-diffused-2001")
    with pytest.raises(ZseError, match="it ranks the 7 best of ret again"):
        method.score({"embedding": photos(2)}, {"embedding": photos(3)}, "ret-diffused-7")
