"""Ranking by score: order, ties, depth, and joining the tiles of a gallery."""

import pytest
import torch

from zse_model.evaluation import Ranking, merge, rank, search


def naive(scores, k=None):
    """Positions by falling score, then by rising position."""
    return [sorted(range(len(row)), key=lambda i: (-row[i], i))[:k] for row in scores.tolist()]


def random_scores(seed=0, shape=(7, 53), levels=None):
    generator = torch.Generator().manual_seed(seed)
    if levels is None:
        return torch.randn(*shape, generator=generator)
    return torch.randint(-levels, levels, shape, generator=generator).float()


SCORES = {
    "random": random_scores(),
    "few levels": random_scores(levels=2),
    "all tied": torch.full((3, 40), -1.5),
    "wide": random_scores(1) * 10.0 ** torch.linspace(-42, 38, 53),  # denormals to nearly the largest
    "infinite": random_scores(levels=1).masked_fill(random_scores() > 1, torch.inf).log(),
    "one item": torch.zeros(4, 1),
    "no query": torch.zeros(0, 5),
}
SCORES["infinite"] = SCORES["infinite"].nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


@pytest.mark.parametrize("k", [None, 1, 10, 52, 53, 500])
@pytest.mark.parametrize("name", SCORES)
def test_rank_equals_a_stable_sort(name, k):
    scores = SCORES[name]
    ranking = rank(scores, k)
    assert ranking.indices.tolist() == naive(scores, k)
    assert torch.equal(ranking.scores, scores.gather(1, ranking.indices))


def test_zero_and_minus_zero_tie():
    assert rank(torch.tensor([[-0.0, 0.0, -0.0, 1.0, 0.0]])).indices.tolist() == [[3, 0, 1, 2, 4]]


def test_neighbouring_floats_do_not_tie():
    one = torch.tensor(1.0)
    up = torch.nextafter(one, torch.tensor(2.0))
    assert rank(torch.stack([one, up, -up, -one])[None]).indices.tolist() == [[1, 0, 3, 2]]


@pytest.mark.parametrize("cells", [1, 53, 200])
@pytest.mark.parametrize("k", [None, 4])
def test_rank_does_not_depend_on_its_block_size(cells, k, monkeypatch):
    whole = rank(SCORES["few levels"], k)
    monkeypatch.setattr(search, "BLOCK_CELLS", cells)
    blocked = rank(SCORES["few levels"], k)
    assert torch.equal(whole.indices, blocked.indices) and torch.equal(whole.scores, blocked.scores)


def test_rank_leaves_its_input_alone():
    scores = random_scores()
    before = scores.clone()
    rank(scores)
    rank(scores, 3)
    assert torch.equal(scores, before)


def test_rank_of_columns_in_any_memory_order():
    scores = random_scores(shape=(53, 7))
    assert rank(scores.T).indices.tolist() == naive(scores.T)
    assert rank(scores.requires_grad_(), 2).scores.requires_grad is False


def test_rank_refuses_what_it_cannot_order():
    with pytest.raises(ValueError, match="float16"):
        rank(torch.zeros(2, 3, dtype=torch.float16))
    with pytest.raises(ValueError, match="float64"):
        rank(torch.zeros(2, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"\[3\]"):
        rank(torch.zeros(3))
    with pytest.raises(ValueError, match="empty"):
        rank(torch.zeros(3, 0))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        rank(torch.zeros(3, 2), 0)


def test_rank_names_the_place_of_a_nan(monkeypatch):
    monkeypatch.setattr(search, "BLOCK_CELLS", 100)
    scores = random_scores()
    scores[5, 31] = torch.nan
    with pytest.raises(ValueError, match="query 5 and gallery item 31"):
        rank(scores)


@pytest.mark.parametrize("k", [1, 5, 17, 53, 99])
@pytest.mark.parametrize("sizes", [(53,), (17, 17, 17, 2), (1, 50, 2), (30, 23)])
@pytest.mark.parametrize("name", ["random", "few levels", "wide", "infinite"])
def test_merge_equals_the_ranking_of_the_whole(name, sizes, k):
    scores, offsets, tiles = SCORES[name], [0], []
    for tile in scores.split(sizes, dim=1):
        tiles.append(rank(tile, k))
        offsets.append(offsets[-1] + tile.shape[1])
    merged, whole = merge(tiles, offsets[:-1], k), rank(scores, k)
    assert torch.equal(merged.indices, whole.indices) and torch.equal(merged.scores, whole.scores)


def test_merge_refuses_tiles_that_do_not_fit():
    scores = random_scores(shape=(4, 20))
    left, right = rank(scores[:, :10], 5), rank(scores[:, 10:], 5)
    with pytest.raises(ValueError, match="at least 8 deep, got depth 5"):
        merge([left, right], [0, 10], 8)
    with pytest.raises(ValueError, match="positions below"):
        merge([left, right], [0, 4], 3)
    with pytest.raises(ValueError, match="positions below"):
        merge([right, left], [10, 0], 5)
    with pytest.raises(ValueError, match="one offset each"):
        merge([left, right], [0], 5)
    with pytest.raises(ValueError, match="one offset each"):
        merge([], [], 5)
    with pytest.raises(ValueError, match="same queries"):
        merge([left, rank(scores[:2, 10:], 5)], [0, 10], 5)


@pytest.mark.parametrize(
    ("indices", "scores", "message"),
    [
        ([[0, 1, 2]], [[3.0, 1.0, 2.0]], "Row 0 .* not sorted"),
        ([[0, 1, 2], [1, 0, 2]], [[3.0, 2.0, 1.0], [2.0, 2.0, 1.0]], "Row 1 .* not sorted"),
        ([[0, 1, 0]], [[3.0, 2.0, 1.0]], "twice"),
        ([[0, 0, 1]], [[3.0, 3.0, 1.0]], "not sorted"),
        ([[0, -1]], [[3.0, 2.0]], "negative"),
        ([[0]], [[torch.nan]], "NaN"),
        ([[0, 1]], [[3.0]], r"\[1, 2\] and \[1, 1\]"),
        ([0, 1], [3.0, 2.0], r"\[2\] and \[2\]"),
    ],
)
def test_a_broken_ranking_is_refused(indices, scores, message):
    with pytest.raises(ValueError, match=message):
        Ranking(torch.tensor(indices), torch.tensor(scores))


def test_a_ranking_has_fixed_dtypes():
    with pytest.raises(ValueError, match="int32"):
        Ranking(torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 1))
    with pytest.raises(ValueError, match="float64"):
        Ranking(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.float64))
