"""An index of vectors ranks as all dot products do, and equal rows by their position."""

from __future__ import annotations

import os

import faiss
import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from zse_model import vector_index
from zse_model.errors import ZseError
from zse_model.evaluation.search import rank
from zse_model.scoring import DotProduct, score_all
from zse_model.vector_index import VectorIndex


def filled(rows: torch.Tensor, step: int = 1000) -> VectorIndex:
    index = VectorIndex(rows.shape[1])
    for part in rows.split(step):
        index.add(part)
    return index


def exact(queries: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Dot products summed in float64 and rounded, float32 [q, n]."""
    return torch.from_numpy((queries.numpy()[:, None] * rows.numpy().astype(np.float64)[None]).sum(2)).float()


@given(st.integers(1, 40), st.integers(1, 400), st.sampled_from([1, 3, 20, 999]), st.integers(0, 999), st.data())
def test_the_ranking_is_that_of_all_exact_scores(d: int, n: int, kinds: int, seed: int, data: st.DataObject) -> None:
    generator, draw = np.random.default_rng(seed), data.draw
    different = generator.standard_normal((kinds, d)) * draw(st.sampled_from([1e-3, 1, 300]), "length")
    if draw(st.booleans(), "whole"):
        different = different.round()
    rows = torch.from_numpy(different[generator.integers(kinds, size=n)]).half()
    if draw(st.booleans(), "rising"):
        rows = rows[rows.float().sum(1).argsort(stable=True)]
    passes = generator.random(n) < draw(st.sampled_from([0, 0.01, 0.2, 0.6, 1]), "share")
    among = torch.from_numpy(np.flatnonzero(passes))
    queries = generator.standard_normal((draw(st.integers(1, 4)), d)) * draw(
        st.sampled_from([0, 1e-20, 1, 1e10]), "scale"
    )
    queries = torch.from_numpy(queries).float() if draw(st.booleans(), "drawn") else rows[: len(queries)].float()
    k, scores = draw(st.one_of(st.integers(1, 8), st.integers(1, n + 9)), "k"), exact(queries, rows)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("PART", 64), ("BLOCK", 256), ("QUERIES", 3)):
            patch.setattr(vector_index, name, value)
        index, threads = filled(rows, draw(st.integers(1, 200), "step")), faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(draw(st.integers(1, 2), "threads"))
        found, filtered = index.search(queries, k), index.search(queries, k, among=among)
        faiss.omp_set_num_threads(threads)
    expected = rank(scores, k)
    assert len(index) == n and torch.equal(found.indices, expected.indices)
    assert torch.equal(found.scores, expected.scores)
    assert filtered.indices.shape == (len(queries), min(k, len(among)))
    if len(among):
        expected = rank(scores[:, among], k)
        assert torch.equal(filtered.indices, among[expected.indices])
        assert torch.equal(filtered.scores, expected.scores)


def test_scores_are_those_of_the_dot_product_within_rounding() -> None:
    generator = torch.manual_seed(3)
    queries, rows = (normalize(torch.randn(n, 96, generator=generator), dim=1) for n in (5, 3000))
    rows = rows.half()
    scores = score_all(DotProduct(torch.device("cpu")), {"embedding": queries}, {"embedding": rows})
    found = filled(rows).search(queries, 50)
    torch.testing.assert_close(found.scores, scores.gather(1, found.indices), rtol=0, atol=96 * 2**-24)
    torch.testing.assert_close(found.scores, rank(scores, 50).scores, rtol=0, atol=96 * 2**-24)


def test_queries_of_a_network_that_trains_are_searched() -> None:
    queries, index = torch.randn(70, 16), filled(torch.randn(300, 16).half())
    found, expected = index.search(queries.clone().requires_grad_(), 5), index.search(queries, 5)
    assert torch.equal(found.indices, expected.indices) and torch.equal(found.scores, expected.scores)
    assert not found.scores.requires_grad


@pytest.mark.parametrize("scale", [1, 1e4])
def test_rows_that_differ_by_less_than_a_product_rounds_are_in_order(scale: float) -> None:
    """Near copies of one row, each in one number: float32 products rank them by how their sums round."""
    generator = torch.manual_seed(5)
    row = normalize(torch.randn(1, 256, generator=generator), dim=1).half()
    rows = row.repeat(2000, 1)
    rows[:, 0] = torch.randint(1, 2000, (2000,), generator=generator).half() * 2**-24  # subnormal numbers
    queries = row.float() + 0.01 * torch.randn(3, 256, generator=generator)
    queries[:, 0] = 0.02
    queries *= scale
    assert not torch.equal(rank(queries @ rows.float().T, 40).indices, rank(exact(queries, rows), 40).indices)
    index = filled(rows)
    index.add(0 * rows[:1])
    for asked in (queries, queries[:1]):
        found, expected = index.search(asked, 40), rank(exact(asked, rows), 40)
        assert torch.equal(found.indices, expected.indices) and torch.equal(found.scores, expected.scores)


def test_a_score_does_not_depend_on_the_other_rows_and_queries() -> None:
    generator = torch.manual_seed(4)
    rows, queries = torch.randn(777, 33, generator=generator).half(), torch.randn(70, 33, generator=generator)
    together = filled(rows).search(queries, 777)
    alone = filled(rows[5:6]).search(queries[69:], 1)
    assert together.scores[69][together.indices[69] == 5] == alone.scores[0, 0]


def test_an_index_keeps_its_rows_once() -> None:
    """64 MB of rows, and room for a part of 1 MB."""
    process, part = psutil.Process(os.getpid()), torch.ones(2**14, 32, dtype=torch.float16)
    filled(part[:100]).search(torch.ones(1, 32), 1)
    before, index = process.memory_info().rss, VectorIndex(32)
    for _ in range(64):
        index.add(part)
    index.search(torch.eye(32)[:1] * 0, 1, among=torch.arange(0, 2**20, 999))
    assert len(index) == 2**20 and process.memory_info().rss - before < 80e6


def test_no_rows_and_no_queries_are_none() -> None:
    rows = torch.ones(3, 4, dtype=torch.float16)
    index = filled(torch.cat([rows[:0], rows]))
    index.add(rows[:0])
    assert len(index) == 3 and index.search(torch.ones(0, 4), 9).indices.shape == (0, 3)
    assert index.search(torch.ones(2, 4), 9, among=torch.zeros(0, dtype=torch.int64)).scores.shape == (2, 0)


def test_what_an_index_cannot_hold_or_search_is_refused() -> None:
    with pytest.raises(ZseError, match="dim must be at least 1, got 0"):
        VectorIndex(0)
    index = VectorIndex(4)
    with pytest.raises(ZseError, match="gallery is empty"):
        index.search(torch.ones(1, 4), 1)
    with pytest.raises(ZseError, match=r"float16 \[n, 4\], got torch.float32 \[1, 4\]"):
        index.add(torch.ones(1, 4))
    for bad in (torch.inf, torch.nan):
        rows = torch.ones(9, 4, dtype=torch.float16)
        rows[7, 1] = bad
        with pytest.raises(ZseError, match="Row 7 holds a number that is not finite"):
            index.add(rows)
        with pytest.raises(ZseError, match="A query holds a number that is not finite"):
            index.search(torch.tensor([[0, 0, 0, bad]]), 1)
    assert len(index) == 0, "of refused rows, none is added"
    index.add(torch.ones(2, 4, dtype=torch.float16))
    with pytest.raises(ZseError, match="k must be at least 1, got 0"):
        index.search(torch.ones(1, 4), 0)
    with pytest.raises(ZseError, match=r"float32 \[q, 4\], got torch.float32 \[1, 3\]"):
        index.search(torch.ones(1, 3), 1)
    with pytest.raises(ZseError, match="among must hold positions from 0 to 1, got 2"):
        index.search(torch.ones(1, 4), 1, among=torch.tensor([2]))
