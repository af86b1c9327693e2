"""Every formula against a naive oracle, against hand-made cases, and against results of the published code.

Property tests draw scores with ties, from a few levels, and the relevance of each gallery item.
"""

import doctest
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from zse_model.evaluation import (
    CATEGORY_METRICS,
    HEADLINES,
    INSTANCE_METRICS,
    LEADING,
    METRICS,
    PROTOCOLS,
    metrics,
    rank,
)
from zse_model.evaluation.metrics import (
    accuracy_at,
    average_precision,
    average_precision_interpolated,
    bootstrap_interval,
    difference_of_means,
    expected_average_precision,
    interpolated_precision,
    paired_difference,
    precision_at,
    recall_at,
)
from zse_model.evaluation.protocol import forms, is_metric

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics_reference.npz"


def naive(protocol, metric, row, total):
    """One query, straight from the definition: row = relevance by rank, total = R."""
    kind, depth = metric.split("_")
    k = len(row) if depth == "all" else int(depth)
    cap = min(k, total) if depth != "all" else total
    if total == 0:
        return math.nan
    if kind == "acc":
        return float(any(row[:k]))
    if kind == "recall":
        return sum(row[:k]) / total
    if kind == "P":
        n = cap if protocol == "zse_paper" else k
        return sum(row[:n]) / n
    head = row[:k]
    precisions = [sum(head[: i + 1]) / (i + 1) for i in range(len(head))]
    if protocol == "zse_paper":
        precisions = [max(precisions[i:]) for i in range(len(head))]
    return sum(p for p, hit in zip(precisions, head, strict=True) if hit) / cap


def gallery(seed, queries, size, levels, tenths, distinct=False):
    """Scores float32 [q, g] of whole numbers, tied or distinct in a row, and relevance bool [q, g]."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(-levels, levels + 1, (queries, size))
    if distinct:  # ties fall to the lower position
        scores = scores * size + np.arange(size)
    return torch.from_numpy(scores).float(), torch.from_numpy(rng.random((queries, size)) < tenths / 10)


SIZES = st.integers(1, 45)


def galleries(sizes=SIZES, **fixed):
    """Of any density of relevant items, none and all included."""
    levels, tenths = st.sampled_from([0, 1, 2, 50]), st.integers(0, 10)
    return st.builds(gallery, st.integers(0, 2**32), st.integers(1, 4), sizes, levels, tenths, **fixed)


DEPTHS = st.sampled_from([1, 2, 3, 7, 25, 44, 45, 200])
KINDS = ("mAP", "P", "acc", "recall")


def measured(protocol, metric, scores, relevant):
    """float64 [q] of ranked scores."""
    return PROTOCOLS[protocol].values(metric, relevant.gather(1, rank(scores).indices), relevant.sum(1))


@given(galleries(), st.sampled_from(sorted(PROTOCOLS)), DEPTHS)
def test_metrics_of_tied_scores_equal_a_loop_over_the_sorted_gallery(drawn, protocol, k):
    scores, relevant = drawn
    rows = list(zip(scores.tolist(), relevant.tolist(), strict=True))
    ranked = [[hits[i] for i in sorted(range(len(row)), key=lambda i: (-row[i], i))] for row, hits in rows]
    for metric in ("mAP_all", *(f"{kind}_{k}" for kind in KINDS)):
        values = measured(protocol, metric, scores, relevant)
        expected = [naive(protocol, metric, row, sum(row)) for row in ranked]
        assert values.dtype == torch.float64
        np.testing.assert_allclose(values.numpy(), expected, rtol=0, atol=1e-12)


MONOTONE = [lambda x: 2 * x + 1, lambda x: x**3, lambda x: (x / 64).exp(), lambda x: x * 2.0**-140, torch.atan]


@given(galleries(), st.sampled_from(MONOTONE), DEPTHS)
def test_a_strictly_rising_map_of_the_scores_changes_no_metric(drawn, rising, k):
    scores, relevant = drawn
    for protocol, metric in itertools.product(PROTOCOLS, ("mAP_all", f"mAP_{k}", f"P_{k}")):
        before, after = (measured(protocol, metric, x, relevant) for x in (scores, rising(scores)))
        assert torch.equal(after.nan_to_num(-1), before.nan_to_num(-1))


@given(galleries(SIZES | st.just(400), distinct=st.just(True)), DEPTHS, st.data())
def test_the_order_of_gallery_and_queries_changes_no_digit_of_a_metric(drawn, k, data):
    scores, relevant = drawn
    columns = np.random.default_rng(data.draw(st.integers(0, 99))).permutation(scores.shape[1])
    rows = data.draw(st.lists(st.integers(0, len(scores) - 1), min_size=1))  # a query beside any others
    for protocol, metric in itertools.product(PROTOCOLS, ("mAP_all", f"mAP_{k}", f"P_{k}")):
        moved = measured(protocol, metric, scores[rows][:, columns], relevant[rows][:, columns])
        assert torch.equal(moved.nan_to_num(-1), measured(protocol, metric, scores, relevant)[rows].nan_to_num(-1))


@given(galleries(), st.sampled_from(sorted(PROTOCOLS)), DEPTHS)
def test_metrics_keep_their_bounds(drawn, protocol, k):
    scores, relevant = drawn
    total, hits = relevant.sum(1), relevant.gather(1, rank(scores).indices)[:, :k].sum(1)
    found = {kind: measured(protocol, f"{kind}_{k}", scores, relevant) for kind in KINDS}
    for values in (*found.values(), measured(protocol, "mAP_all", scores, relevant)):
        assert torch.equal(values.isnan(), total == 0) and ((0 <= values) & (values <= 1) | values.isnan()).all()
    full = hits == total.clamp(max=k)
    answered = total > 0
    assert torch.equal((found["mAP"] == 1)[answered], (full & _leads(scores, relevant, total.clamp(max=k)))[answered])
    assert torch.equal(found["acc"][answered] > 0, found["recall"][answered] > 0)
    if protocol == "plain":
        assert (found["P"] <= total.double() / k)[answered].all()
        chance = expected_average_precision(total, scores.shape[1], k)
        assert (chance <= 1).all() and torch.equal(chance == 0, total == 0)
    if k >= scores.shape[1]:
        all_ranks = measured(protocol, "mAP_all", scores, relevant)
        assert torch.equal(found["mAP"].nan_to_num(-1), all_ranks.nan_to_num(-1))


def _leads(scores, relevant, depth):
    """bool [q]: whether the first `depth` ranks are all relevant."""
    ranked = relevant.gather(1, rank(scores).indices)
    return torch.tensor([bool(row[:n].all()) for row, n in zip(ranked, depth.tolist(), strict=True)])


@given(galleries(), st.data())
def test_a_hit_one_rank_higher_raises_average_precision(drawn, data):
    _, relevant = drawn
    places = (relevant[:, 1:] & ~relevant[:, :-1]).nonzero().tolist()
    if not places:
        return
    row, column = data.draw(st.sampled_from(places))
    better = relevant.clone()
    better[row, column], better[row, column + 1] = True, False
    total = relevant.sum(1)
    for k in (None, column + 1, 200):
        assert average_precision(better, total, k)[row] > average_precision(relevant, total, k)[row]
        # the envelope may hide a step up
        worse = average_precision_interpolated(relevant, total, k)[row]
        assert worse <= average_precision_interpolated(better, total, k)[row]
        assert average_precision(relevant, total, k)[row] <= worse


@given(galleries(), st.integers(2, 12))
@example((torch.zeros(1, 40), torch.arange(40)[None] < 30), 11)  # 0.1 * 30 is above 3 in floating point
def test_precision_recall_curve_is_the_best_precision_at_a_recall_or_beyond(drawn, points):
    _, relevant = drawn
    total = relevant.sum(1)
    curve = interpolated_precision(relevant, total, points)
    assert (curve.diff(dim=1) <= 0).all()
    for row, r, got in zip(relevant.tolist(), total.tolist(), curve.tolist(), strict=True):
        reached = [(sum(row[: i + 1]), sum(row[: i + 1]) / (i + 1)) for i in range(len(row))]
        best = [max(p for hits, p in reached if (points - 1) * hits >= t * r) for t in range(points)]
        np.testing.assert_allclose(got, best, rtol=0, atol=1e-12)


def test_closed_form_average_precision():
    relevant = torch.tensor([[1, 0, 1, 0, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1], [0, 1, 1, 0, 0]]).bool()
    total = torch.tensor([3, 1, 5, 2])
    expected = torch.tensor([(1 + 2 / 3 + 3 / 5) / 3, 1 / 5, 1, (1 / 2 + 2 / 3) / 2]).double()
    envelope = torch.tensor([(1 + 2 / 3 + 3 / 5) / 3, 1 / 5, 1, (2 / 3 + 2 / 3) / 2]).double()
    torch.testing.assert_close(average_precision(relevant, total), expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(average_precision_interpolated(relevant, total), envelope, rtol=0, atol=1e-7)


@pytest.mark.parametrize("size", range(1, 8))
def test_chance_is_the_mean_over_every_order(size):
    for total in range(1, size + 1):
        places = list(itertools.combinations(range(size), total))  # each as probable as any other
        relevant = torch.zeros(len(places), size, dtype=torch.bool)
        relevant[torch.arange(len(places))[:, None], torch.tensor(places)] = True
        found = torch.full((len(places),), total)
        for k in (None, 1, 2, 3, size, size + 2):
            expected = average_precision(relevant, found, k).mean()
            assert expected_average_precision(torch.tensor([total]), size, k).item() == pytest.approx(expected.item())


def test_chance_is_what_random_scores_read_and_more_than_the_share():
    generator = torch.Generator().manual_seed(0)
    for total, size, chance in ((1, 40, 0.107), (25, 625, 0.049), (25, 525, 0.058), (24, 288, 0.100)):
        order = torch.rand(4000, size, generator=generator).argsort(1)
        drawn = average_precision(order < total, torch.full((4000,), total))
        expected = expected_average_precision(torch.tensor([total]), size).item()
        assert expected == pytest.approx(chance, abs=5e-4) and expected > total / size
        assert abs(drawn.mean().item() - expected) < 4 * drawn.std().item() / 4000**0.5


def test_chance_of_nothing_is_nothing_and_more_than_the_gallery_is_refused():
    assert expected_average_precision(torch.tensor([0, 3]), 3).tolist() == [0, 1]
    for relevant, size, k in (([4], 3, None), ([0], 0, None), ([1], 3, 0)):
        with pytest.raises(ValueError, match="R at most size"):
            expected_average_precision(torch.tensor(relevant), size, k)
    found = doctest.testmod(metrics, globs={"torch": torch, **vars(metrics)})
    assert found.attempted >= 4 and found.failed == 0


def test_denominator_is_min_of_k_and_relevant():
    """R = 3, k = 2: two hits give 1 (divided by R: 2/3), a hit at rank 1 only gives 1/2 (divided by the hits: 1)."""
    relevant = torch.tensor([[1, 1, 0, 1], [1, 0, 1, 1]]).bool()
    assert average_precision(relevant, torch.tensor([3, 3]), k=2).tolist() == [1, 0.5]
    assert average_precision_interpolated(relevant, torch.tensor([3, 3]), k=2).tolist() == [1, 0.5]


def test_precision_denominators():
    relevant = torch.tensor([[1, 0, 1, 0, 0]]).bool()
    total = torch.tensor([2])
    assert precision_at(relevant, total, 4).tolist() == [0.5]
    assert precision_at(relevant, total, 4, cap_at_relevant=True).tolist() == [0.5]  # of the first two ranks, not 2/2
    assert precision_at(relevant, total, 10).tolist() == [0.2]


@pytest.mark.parametrize("case", "abcd")
def test_zse_paper_equals_the_published_code(case):
    data = np.load(GOLDEN)
    labels = torch.from_numpy(data[f"{case}_gallery_label"])
    queries = torch.from_numpy(data[f"{case}_query_label"])
    relevant = labels[rank(-torch.from_numpy(data[f"{case}_distance"])).indices] == queries[:, None]
    total = (labels == queries[:, None]).sum(1)
    columns = [PROTOCOLS["zse_paper"].values(m, relevant, total) for m in ("mAP_all", "mAP_200", "P_100", "P_200")]
    got = torch.stack(columns, dim=1).numpy()
    np.testing.assert_allclose(got, data[f"{case}_per_query"], rtol=0, atol=1e-9, equal_nan=True)
    np.testing.assert_allclose(np.nanmean(got, axis=0), data[f"{case}_result"], rtol=0, atol=1e-9)


def test_metric_names_are_the_two_lists():
    assert METRICS == CATEGORY_METRICS + INSTANCE_METRICS
    assert all(name == protocol.name for name, protocol in PROTOCOLS.items())
    assert all(map(is_metric, METRICS)) and is_metric("recall_7") and set(LEADING) <= set(HEADLINES) <= set(METRICS)
    assert not any(map(is_metric, ("P_all", "P", "P_", "P_0", "P_01", "P_1_1", "nDCG_10", "")))
    assert forms().startswith("mAP_all, mAP_k, P_k, acc_k") and forms().endswith("recall_k, with a number for k")


def test_a_ranking_too_short_for_the_metric_is_refused():
    _, relevant = gallery(4, 5, 300, 50, 5)
    total = relevant.sum(1)
    plain = PROTOCOLS["plain"]
    torch.testing.assert_close(plain.values("P_100", relevant[:, :100], total), plain.values("P_100", relevant, total))
    for metric in ("mAP_all", "mAP_200", "P_200"):
        with pytest.raises(ValueError, match="first 100 ranks"):
            plain.values(metric, relevant[:, :100], total)


def test_wrong_arguments_are_refused():
    _, relevant = gallery(5, 4, 10, 50, 5)
    total = relevant.sum(1)
    with pytest.raises(ValueError, match="Unknown metric 'mAP@all'"):
        PROTOCOLS["plain"].values("mAP@all", relevant, total)
    with pytest.raises(ValueError, match="bool"):
        average_precision(relevant.double(), total)
    with pytest.raises(ValueError, match="num_relevant"):
        average_precision(relevant, total[:3])
    with pytest.raises(ValueError, match="at least 1"):
        accuracy_at(relevant, 0)
    with pytest.raises(ValueError, match="at least 1"):
        recall_at(relevant, total, -1)
    for wrong in (relevant.long(), relevant[0]):
        with pytest.raises(ValueError, match=r"relevant must be bool \[q, k\]"):
            recall_at(wrong, total, 3)


def test_interval_of_constant_values_has_no_width():
    assert bootstrap_interval(torch.full((40,), 0.25), torch.arange(40) % 7) == (0.25, 0.25)


def test_interval_resamples_groups_not_queries():
    """Two classes, one always right and one always wrong: a draw has neither, one or both of them."""
    groups = torch.arange(1000) % 2
    assert bootstrap_interval(groups.double(), groups) == (0, 1)
    low, high = bootstrap_interval(groups.double(), torch.arange(1000))  # every query its own group: much narrower
    assert 0.45 < low < 0.5 < high < 0.55


def test_interval_equals_a_naive_bootstrap():
    generator = torch.Generator().manual_seed(0)
    groups = (12 * torch.rand(300, generator=generator) ** 2).long()  # the first classes are the large ones
    values = torch.rand(300, generator=generator).double() + groups / 12
    rng, means = np.random.default_rng(5), []
    for _ in range(2000):
        drawn = [values[groups == group] for group in rng.integers(12, size=12)]
        means.append(torch.cat(drawn).mean().item())
    interval = bootstrap_interval(values, groups, samples=2000, level=0.9)
    np.testing.assert_allclose(interval, np.quantile(means, [0.05, 0.95]), atol=0.02)
    assert interval[0] < values.mean() < interval[1]


def test_interval_is_fixed_by_its_seed():
    values, groups = torch.arange(60).double(), torch.arange(60) % 11
    assert bootstrap_interval(values, groups, seed=3) == bootstrap_interval(values, groups, seed=3)
    assert bootstrap_interval(values, groups, seed=3) != bootstrap_interval(values, groups, seed=4)
    assert bootstrap_interval(values, groups * 1000 - 5, seed=3) == bootstrap_interval(values, groups, seed=3)


def test_interval_leaves_nan_out():
    values, groups = torch.arange(60).double(), torch.arange(60) % 5
    padded = torch.cat([values, torch.full((9,), torch.nan)])
    more_groups = torch.cat([groups, torch.arange(9)])  # groups 5 to 8 have no value at all and are never drawn
    assert bootstrap_interval(padded, more_groups) == bootstrap_interval(values, groups)
    with pytest.raises(ValueError, match="No value"):
        bootstrap_interval(torch.full((3,), torch.nan), torch.arange(3))
    with pytest.raises(ValueError, match="alike"):
        bootstrap_interval(values, groups[:5])


def test_interval_of_one_group_is_unknown():
    assert all(math.isnan(end) for end in bootstrap_interval(torch.arange(5).double(), torch.zeros(5).long()))
    one = paired_difference(torch.arange(5).double(), torch.zeros(5).double(), torch.zeros(5).long())
    assert one.value == 2 and math.isnan(one.p)


def test_paired_difference():
    generator = torch.Generator().manual_seed(1)
    groups = torch.arange(400) % 20
    base = torch.rand(400, generator=generator).double()
    noise = 0.02 * torch.randn(400, generator=generator).double()
    better = paired_difference(base + 0.01 + noise, base, groups)
    worse = paired_difference(base, base + 0.01 + noise, groups)
    assert 0 < better.low < better.value < better.high and better.p == pytest.approx(2 / 1001)
    assert (worse.value, worse.low) == pytest.approx((-better.value, -better.high)) and worse.p == better.p
    # The pairing is what makes 0.01 visible: the interval of either side alone is far wider than the difference.
    low, high = bootstrap_interval(base, groups)
    assert high - low > 4 * (better.high - better.low)


def test_paired_difference_without_a_difference():
    groups = torch.arange(400) % 20
    values = torch.rand(400, generator=torch.Generator().manual_seed(2)).double()
    values[7] = torch.nan
    same = paired_difference(values, values, groups)
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    p = [
        paired_difference(a, b, groups).p
        for a, b in torch.rand(100, 2, 400, generator=torch.Generator().manual_seed(3)).double()
    ]
    assert sum(value < 0.05 for value in p) <= 15  # about 5 of 100 by definition; 15 would be far out


def test_paired_difference_needs_the_same_queries():
    values = torch.tensor([0.1, torch.nan, 0.3]).double()
    with pytest.raises(ValueError, match="Query 1"):
        paired_difference(values, values.nan_to_num(), torch.arange(3))
    with pytest.raises(ValueError, match="3 and 2"):
        paired_difference(values, values[:2], torch.arange(3))


def test_a_difference_of_means_pairs_classes_not_queries():
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(20).repeat_interleave(5)
    level = torch.rand(20, generator=generator, dtype=torch.float64)
    a, b = (level[classes] + 0.02 * torch.randn(100, generator=generator, dtype=torch.float64) for _ in range(2))
    order = torch.randperm(100, generator=generator)
    same = difference_of_means(a, b[order], classes, classes[order])
    assert same.low < 0 < same.high and same.high - same.low < 0.02 and same.p > 0.05  # classes differ by 0.3
    less = difference_of_means(a - 0.1, b[order], classes, classes[order])
    assert less.high < -0.08 and less.p < 0.01 and less.value == pytest.approx(same.value - 0.1)
    more = difference_of_means(a + 0.1, b[order], classes, classes[order])
    assert less.p == more.p == pytest.approx(2 / 1001), "no resampled mean is on the other side of 0"
    apart = difference_of_means(a, b, classes, classes + 20)
    assert apart.high - apart.low > 0.2
    zeros = torch.zeros(100, dtype=torch.int64)
    for groups in (zeros, zeros + 1, classes):
        one = difference_of_means(a, b, zeros, groups)
        assert math.isnan(one.low) and math.isnan(one.p)
    with pytest.raises(ValueError, match="No value to average"):
        difference_of_means(a, b * torch.nan, classes, classes)
    with pytest.raises(ValueError, match="alike"):
        difference_of_means(a, b, classes, classes[:5])


@pytest.mark.parametrize("count", [3, 12, 999])
def test_blocks_of_resamples_are_those_of_one_matrix_to_the_last_bit(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(count)
    groups = torch.cat([torch.arange(count), torch.randint(count, (3000,), generator=generator)])
    a, b = torch.rand(2, len(groups), generator=generator, dtype=torch.float64)  # float32 would add without rounding
    largest, draws = [], metrics._draws

    def watched(*given: int) -> Iterator[np.ndarray]:
        for block in draws(*given):
            largest.append(len(block))
            yield block

    monkeypatch.setattr(metrics, "_draws", watched)
    means, quantiles = [], metrics._quantiles
    monkeypatch.setattr(metrics, "_quantiles", lambda of, level: means.append(of) or quantiles(of, level))
    bootstrap_interval(a, groups)
    paired_difference(a, b, groups)
    difference_of_means(a, b, groups, groups)
    assert max(largest) <= 64 < 1000 and sum(largest) == 3000
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=1000)

    def whole(values: torch.Tensor) -> np.ndarray:
        sums = np.bincount(groups.numpy(), weights=values.numpy())
        return (weights @ sums) / (weights @ np.bincount(groups.numpy()))

    for found, expected in zip(means, (whole(a), whole(a - b), whole(a) - whole(b)), strict=True):
        assert np.array_equal(found, expected)
