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
from zse_model.evaluation.search import rank
from zse_model.methods import create_method, is_known_mode
from zse_model.methods.global_embedding import GlobalConfig
from zse_model.modes import undiffused


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
    assert found.dtype == torch.float32 and float(found.max()) == 1.0
    np.testing.assert_allclose(found, oracle(scores.double().numpy(), vectors.double().numpy()), rtol=1e-5)


def test_a_photo_like_the_best_ones_rises_above_another() -> None:
    one, other = torch.eye(6)[0], torch.eye(6)[1]
    near = torch.nn.functional.normalize(torch.stack([one, other])[[0] * 8 + [1] * 8] + 0.1 * photos(16), dim=1)
    scores = torch.tensor([0.9, 0.8, 0.85, 0.9, 0.8, 0.9, 0.85, 0.1] + [0.2, 0.1, 0.15, 0.3, 0.1, 0.2, 0.1, 0.15])
    assert scores.argsort(descending=True)[7] == 11, "a photo of the other kind has a better score"
    assert set(diffuse(scores, near).argsort(descending=True)[:8].tolist()) == set(range(8))


def test_all_but_the_best_follow_in_their_order() -> None:
    vectors, scores = photos(40), torch.randn(3, 40, generator=torch.Generator().manual_seed(2))
    scores[1, 5:] = -torch.inf  # not ranked
    scores[2] = -torch.inf
    again = diffused(scores, vectors, 10)
    first, later = rank(scores[:1]).indices[0], rank(again[:1]).indices[0]
    assert set(first[:10].tolist()) == set(later[:10].tolist()) and torch.equal(first[10:], later[10:])
    assert bool((again[0, first[:10]] > 0).all()) and bool((again[0, first[10:]] <= 0).all())
    assert torch.equal(again[1].isneginf(), scores[1].isneginf()) and bool((again[1, :5] > 0).all())
    assert bool(again[2].isneginf().all())
    assert torch.equal(diffused(scores[:1], vectors, 400), diffused(scores[:1], vectors, 40)), "more than there are"
    assert torch.equal(diffused(scores[:1], vectors, 1).argsort(descending=True)[0], first), "one photo has no other"


@given(st.integers(1, 24), st.integers(1, 30), st.integers(1, 30), st.integers(0, 9))
def test_a_ranking_is_diffused_as_all_scores_are(count: int, depth: int, k: int, seed: int) -> None:
    vectors = photos(count, seed)
    scores = torch.randint(0, 6, (2, count), generator=torch.Generator().manual_seed(seed)).float()  # with ties
    first = rank(scores, max(k, depth))
    found = diffused_ranking(first, [vectors[row[:depth]] for row in first.indices], k)
    wanted = rank(diffused(scores, vectors, depth), k)
    assert torch.equal(found.indices, wanted.indices) and torch.equal(found.scores, wanted.scores)


def test_extreme_scores_and_equal_photos() -> None:
    alone = torch.zeros(MOST)
    alone[3] = 1e9  # 45 standard deviations above all others
    found = diffuse(alone, photos(MOST))
    assert bool(found.isfinite().all()) and bool((found > 0).all()) and int(found.argmax()) == 3
    same = diffuse(torch.zeros(5), photos(1).expand(5, -1))
    assert same.tolist() == pytest.approx([1.0] * 5)
    opposite = diffuse(torch.tensor([1.0, 0.0]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    assert opposite[0] == 1 and 0 < opposite[1] < 1, "no edge joins them"


def test_names() -> None:
    assert undiffused("hash-64-diffused-500") == ("hash-64", 500) and undiffused("ret") == ("ret", 0)
    for name in ("ret-diffused-0", "ret-diffused-", "ret-diffused-2001", "-diffused-5", "diffused-5"):
        assert not is_known_mode(name)
    assert not is_known_mode("rerank-9-diffused-5"), "a shortlist is ranked once"
    assert is_known_mode("ret-diffused-2000") and is_known_mode("hash-64-diffused-5")
    method = create_method("global", GlobalConfig(), BackboneConfig(name="test_resnet"), size=64, classes=2)
    assert method.has("ret-diffused-7") and not method.has("late-diffused-7") and not method.has("rerank-9-diffused-5")
    assert method.mode("ret-diffused-7") is method.mode("ret") and method.ranked_by("ret-diffused-7") == "ret"
    assert method.reads("ret-diffused-7", "photo") == ["embedding"]
    with pytest.raises(ZseError, match="MODE-diffused-K \\(K up to 2,000\\)"):
        method.mode("ret-diffused-2001")
