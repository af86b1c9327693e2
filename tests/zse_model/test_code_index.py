"""An index of codes ranks as all scores do, whatever its scan rounds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import faiss
import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zse_model import code_index
from zse_model.code_index import BITS, CodeIndex
from zse_model.errors import ZseError
from zse_model.evaluation.search import rank
from zse_model.hashing import WEIGHT, Asymmetric, CodeHead, Hamming, agreement, pack, unpack
from zse_model.scoring import score_all

CPU = torch.device("cpu")


def codes(n: int, bits: int = 64, seed: int = 1, kinds: int = 40) -> torch.Tensor:
    """Few different ones, so that most distances tie."""
    different = torch.rand(kinds, bits, generator=torch.manual_seed(seed)) < 0.5
    return pack(different[torch.randint(kinds, (n,), generator=torch.manual_seed(seed + 1))])


def filled(gallery: torch.Tensor, **options: int) -> CodeIndex:
    index = CodeIndex(gallery.shape[1] * 8, **options)
    for part in gallery.split(1000):
        index.add(part)
    return index


@pytest.mark.parametrize("bits", [32, 64, 128, 256])
def test_an_index_of_codes_ranks_as_their_hamming_distance_does(bits: int) -> None:
    queries, gallery = codes(9, bits, seed=5), codes(3000, bits)
    distance = (unpack(queries)[:, None] != unpack(gallery)[None]).sum(2)
    scores = score_all(Hamming(CPU, "hash"), {"hash": queries}, {"hash": gallery})
    assert torch.equal(scores, bits - 2 * distance.float())
    flat, lists = filled(gallery), filled(gallery, lists=12, probed=12)
    for k in (1, 100, 3000, 4000):
        expected = rank(scores, k)
        for query in (queries, queries[:1]):
            found = flat.search(query, k)
            assert torch.equal(found.indices, expected.indices[: len(query)]), "ties go to the lower position"
            assert torch.equal(found.scores, expected.scores[: len(query)])
        listed = lists.search(queries, k)
        assert torch.equal(listed.indices, expected.indices), "every list probed: the same ties"
        assert torch.equal(listed.scores, expected.scores)


def test_ties_are_looked_for_beyond_the_first_block_of_codes() -> None:
    """All but a few are the same, those stand late, and the first of them are wanted."""
    gallery = codes(70_000, kinds=1)
    gallery[40_000:40_003] = gallery[0] ^ 1
    query = gallery[40_000:40_001].clone()
    query[:, 1] ^= 1
    found = filled(gallery).search(query, 10)
    assert found.indices[0].tolist() == [40_000, 40_001, 40_002, 0, 1, 2, 3, 4, 5, 6]
    gallery[:69_000] = ~gallery[0]
    assert filled(gallery).search(gallery[-1:], 5).indices[0].tolist() == [69_000, 69_001, 69_002, 69_003, 69_004]


@pytest.mark.parametrize("bits", [32, 64, 128, 256])
@pytest.mark.parametrize("heavy", [1, 40], ids=["even", "one bit outweighs"])
def test_an_index_ranks_as_the_asymmetric_score_does(bits: int, heavy: int) -> None:
    generator = torch.manual_seed(bits)
    head = CodeHead(24, bits)
    head.mean.normal_(generator=generator)
    head.projection.normal_(generator=generator)
    head.projection[:, 0] *= heavy  # the scan rounds by its largest table: all others are coarse
    sketches = torch.randn(7, 24, generator=generator)
    gallery = torch.cat([codes(3000, bits), codes(3000, bits, kinds=3000)])
    scorer = Asymmetric(CPU, "hash", head)
    scores = score_all(scorer, {"embedding": sketches}, {"hash": gallery})
    signs, projected = 2.0 * unpack(gallery) - 1, (sketches - head.mean[0]) @ head.projection
    torch.testing.assert_close(scores, projected @ signs.T / projected.abs().sum(1, keepdim=True), atol=5e-3, rtol=0)
    assert scores.abs().max() <= 1
    weights = scorer.precompute({"embedding": sketches}, "sketch")
    index = filled(gallery)
    for k in (1, 100, 6000):
        expected = rank(scores, k)
        for query in (weights, weights[:1]):
            found = index.search(query.clone().requires_grad_(), k)
            assert torch.equal(found.indices, expected.indices[: len(query)])
            assert torch.equal(found.scores, expected.scores[: len(query)])


def test_a_sketch_that_says_nothing_is_as_far_from_everything() -> None:
    head = CodeHead(8, 32)
    weights = Asymmetric(CPU, "hash", head).precompute({"embedding": torch.ones(1, 8)}, "sketch")
    found = filled(codes(50, 32)).search(weights, 3)
    assert found.indices.tolist() == [[0, 1, 2]] and found.scores.tolist() == [[0.0, 0.0, 0.0]]
    assert not found.scores.signbit().any()


@pytest.mark.parametrize("bits", [32, 64, 128, 256])
def test_opposites_of_the_query_are_ranked_too(bits: int) -> None:
    """The scan's sum of a code that is all that the query is not is 0, and it never returns a 0; and at 256 bits its
    rounding adds up to more than half of what two scores are apart."""
    query, heavy = pack(torch.zeros(1, bits) > 0), torch.full((1, bits), -1.0)
    heavy[:, 0] = -WEIGHT
    for kinds in ((0xFF,), (0xFF, 0xFF, 0xFF, 0x33), (0x33,), (0x0F, 0xFF, 0x00)):
        bytes_of = torch.tensor(kinds, dtype=torch.uint8)[torch.arange(300) % len(kinds)]
        gallery = bytes_of[:, None].repeat(1, bits // 8)
        signs = 2.0 * unpack(gallery) - 1
        for asked, weights in ((query, -torch.ones(1, bits)), (heavy, heavy)):
            scores = weights @ signs.T
            scores = scores if asked is query else agreement(scores, weights)
            for k in (1, 7, 30, 300):
                expected, found = rank(scores, k), filled(gallery).search(asked, k)
                assert torch.equal(found.indices, expected.indices) and torch.equal(found.scores, expected.scores)


@contextmanager
def small_parts() -> Iterator[None]:
    """Parts of 256 codes, read in blocks, on two threads: few codes fill several, and few results are a small share."""
    threads = faiss.omp_get_max_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code_index, "PART", 256)
        patch.setattr(code_index, "BLOCK", 32)
        faiss.omp_set_num_threads(2)
        try:
            yield
        finally:
            faiss.omp_set_num_threads(threads)


@given(st.sampled_from(BITS), st.integers(1, 800), st.sampled_from([1, 2, 6, 40, 999]), st.integers(0, 999), st.data())
def test_a_filter_is_applied_before_the_ranking(bits: int, n: int, kinds: int, seed: int, data: st.DataObject) -> None:
    generator, draw = np.random.default_rng(seed), data.draw
    gallery = torch.from_numpy(
        generator.integers(0, 256, (kinds, bits // 8), np.uint8)[generator.integers(kinds, size=n)]
    )
    if draw(st.booleans(), "sorted"):
        gallery = gallery[np.lexsort(gallery.numpy().T)]
    passes = generator.random(n) < draw(st.sampled_from([0, 0.01, 0.2, 0.6, 1]), "share")
    if draw(st.booleans(), "filter by code"):
        passes &= gallery[:, 0].numpy() < 128
    among, signs = torch.from_numpy(np.flatnonzero(passes)), 2.0 * unpack(gallery) - 1
    if draw(st.booleans(), "codes"):
        asked = gallery[:2] ^ draw(st.sampled_from([0, 1, 255]), "flipped")
        scores = (2.0 * unpack(asked) - 1) @ signs.T
    else:
        asked = torch.from_numpy(generator.integers(-WEIGHT, WEIGHT + 1, (draw(st.integers(1, 2)), bits))).float()
        asked *= torch.from_numpy(generator.random(bits) < draw(st.sampled_from([0, 0.1, 1]), "weighted"))
        scores = agreement(asked @ signs.T, asked)
    k = draw(st.one_of(st.integers(1, 8), st.integers(1, n + 9)), "k")
    with small_parts():
        index = filled(gallery)
        found, filtered = index.search(asked, k), index.search(asked, k, among=among)
    expected = rank(scores, k)
    assert torch.equal(found.indices, expected.indices) and torch.equal(found.scores, expected.scores)
    assert filtered.indices.shape == (len(asked), min(k, len(among)))
    if len(among):
        expected = rank(scores[:, among], k)
        assert torch.equal(filtered.indices, among[expected.indices])
        assert torch.equal(filtered.scores, expected.scores)


@pytest.mark.parametrize(
    ("k", "parts", "expected"),
    [
        (1, [[(2, "", 0), (254, "in", 1)], [(200, "", 0), (55, "in", 1), (1, "in", 0)]], [511]),
        (
            4,
            [
                [(2, "in", 0), (150, "", 1), (103, "in", 2), (1, "in", 1)],
                [(100, "", 1), (156, "in", 1)],
                [(256, "in", 1)],
            ],
            [0, 1, 255, 356],
        ),
    ],
    ids=["nearer than those found", "ties before those found"],
)
def test_members_of_a_filter_are_found_behind_other_codes(
    k: int, parts: list[list[tuple[int, str, int]]], expected: list[int]
) -> None:
    """A part: how many codes, whether they pass the filter, and their distance. Scans show those that do not pass."""
    rows = [row for part in parts for count, *row in part for _ in range(count)]
    gallery = torch.zeros(len(rows), 8, dtype=torch.uint8)
    gallery[:, 3] = torch.tensor([2**distance - 1 for _, distance in rows])
    among = torch.tensor([i for i, (passes, _) in enumerate(rows) if passes])
    query = torch.zeros(1, 8, dtype=torch.uint8)
    with small_parts():
        index = filled(gallery)
        assert index.search(query, k, among=among).indices.tolist() == [expected]
        assert index.search(2.0 * unpack(query) - 1, k, among=among).indices.tolist() == [expected]


def test_a_filter_that_one_percent_passes_gives_as_many_results() -> None:
    gallery, among = codes(4000), torch.arange(7, 4000, 100)
    found = filled(gallery).search(gallery[:1], 20, among=among)
    expected = rank(score_all(Hamming(CPU, "hash"), {"hash": gallery[:1]}, {"hash": gallery[among]}), 20)
    assert torch.equal(found.indices, among[expected.indices]) and found.indices.shape == (1, 20)


def test_an_index_keeps_its_codes_once() -> None:
    """16 million codes of 32 bits, 64 MB, and two parts of 4 MB."""
    process, index = psutil.Process(os.getpid()), CodeIndex(32)
    index.add(codes(100, 32))
    index.search(codes(1, 32), 1)
    before, part = process.memory_info().rss, torch.randint(256, (2**18, 4), dtype=torch.uint8)
    for _ in range(64):
        index.add(part)
    index.search(part[:1], 20)
    assert len(index) == 2**24 + 100 and process.memory_info().rss - before < 96e6


def test_an_index_in_lists_says_what_it_found_and_never_fewer_than_asked() -> None:
    gallery = codes(3000)
    index = filled(gallery, lists=12, probed=1)
    found = index.search(gallery[:5], 10)
    assert torch.equal(found.scores[:, 0], torch.full((5,), 64.0)), "a code's own list holds it"
    assert torch.equal(index.search(gallery[:5], 3000).indices.sort().values, torch.arange(3000).expand(5, -1))


def test_an_index_grows() -> None:
    gallery = codes(300)
    index = CodeIndex(64)
    for start, end in ((0, 100), (100, 300)):
        index.add(gallery[start:end])
        expected = rank(score_all(Hamming(CPU, "hash"), {"hash": gallery[:3]}, {"hash": gallery[:end]}), 20)
        assert torch.equal(index.search(gallery[:3], 20).indices, expected.indices) and len(index) == end


@pytest.mark.parametrize("lists", [None, 2])
def test_no_codes_and_no_queries_are_none(lists: int | None) -> None:
    gallery, index = codes(300), CodeIndex(64, lists=lists)
    for part in (gallery[:0], gallery, gallery[:0]):
        index.add(part)
    assert len(index) == 300 and index.search(gallery[:0], 5).indices.shape == (0, 5)
    if lists is None:
        assert index.search(torch.zeros(0, 64), 500).scores.shape == (0, 300)


def test_what_an_index_cannot_search_is_refused() -> None:
    with pytest.raises(ValueError, match="bits must be 32, 64, 128 or 256, got 2048"):
        CodeIndex(2048)
    index = CodeIndex(64)
    with pytest.raises(ValueError, match="gallery is empty"):
        index.search(codes(1), 5)
    with pytest.raises(ValueError, match=r"Codes of 64 bits are uint8 \[n, 8\], got torch.uint8 \[2, 4\]"):
        index.add(codes(2, 32))
    index.add(codes(2))
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        index.search(codes(1), 0)
    with pytest.raises(ValueError, match=r"Weights of 64 bits are float32 \[q, 64\], got torch.float32 \[1, 8\]"):
        index.search(torch.ones(1, 8), 1)
    for weight in (0.5, WEIGHT + 1.0, torch.nan):
        with pytest.raises(ValueError, match="Weights must be whole numbers from -2047 to 2047"):
            index.search(torch.full((1, 64), weight), 1)
    lists = filled(codes(600), lists=2)
    with pytest.raises(ValueError, match="An index with lists is searched by codes"):
        lists.search(torch.ones(1, 64), 1)
    with pytest.raises(ValueError, match="An index with lists searches all its codes"):
        lists.search(codes(1), 1, among=torch.tensor([0]))


@pytest.mark.parametrize("positions", [[-1, 0], [0, 2], [2]])
def test_positions_outside_the_index_are_refused(positions: list[int]) -> None:
    with pytest.raises(
        ZseError, match=f"among must hold positions from 0 to 1, got {[p for p in positions if p % 3][0]}"
    ):
        filled(codes(2)).search(codes(1), 1, among=torch.tensor(positions))


@pytest.mark.parametrize(
    ("among", "error"),
    [
        (torch.tensor([1, 0]), "among must be sorted and hold each position once"),
        (torch.tensor([1, 1]), "among must be sorted and hold each position once"),
        (torch.tensor([0.0]), r"among must be positions, int64 \[m\], got torch.float32 \[1\]"),
        (torch.tensor([[0]]), r"among must be positions, int64 \[m\], got torch.int64 \[1, 1\]"),
    ],
)
def test_positions_that_do_not_rise_are_refused(among: torch.Tensor, error: str) -> None:
    with pytest.raises(ZseError, match=error):
        filled(codes(2)).search(codes(1), 1, among=among)


def test_another_layout_of_faiss_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    index, real = filled(codes(40)), faiss.IndexPQFastScan
    monkeypatch.setattr(faiss, "IndexPQFastScan", lambda quantizer: real(quantizer, 64))
    with pytest.raises(ZseError, match="packs codes in an unknown layout"):
        index.search(codes(1), 1)
