"""From scores to the result table."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from zse_model.evaluation import (
    CATEGORY_METRICS,
    INSTANCE_METRICS,
    METRICS,
    PROTOCOLS,
    Task,
    bootstrap_interval,
    evaluate_scores,
    paired_difference,
    rank,
    search,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics_reference.npz"


def make_task(queries=23, gallery=61, classes=4, seed=0, **changes):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (queries,), generator=generator)
    fields = {
        "setting": "synthetic-4",
        "query_labels": labels,
        "gallery_labels": torch.randint(classes, (gallery,), generator=generator),
        "query_groups": labels,
        "metrics": METRICS,
    }
    return Task(**(fields | changes))


def make_scores(task, seed=0, strength=0.5):
    noise = torch.randn(len(task.query_labels), len(task.gallery_labels), generator=torch.Generator().manual_seed(seed))
    return noise + strength * (task.query_labels[:, None] == task.gallery_labels)


@pytest.mark.parametrize("tile", [1, 5, 22, 23, 100])
@pytest.mark.parametrize("kind", ["random", "rounded", "all tied"])
def test_tiles_equal_the_whole_matrix(tile, kind, monkeypatch):
    task = make_task(query_labels=torch.arange(23) % 5)  # class 4 has no photo: its queries stay unanswered
    scores = {"random": make_scores(task), "rounded": make_scores(task).round(), "all tied": torch.ones(23, 61)}[kind]
    monkeypatch.setattr(search, "BLOCK_CELLS", 3 * 61)
    evaluation = evaluate_scores(scores.split(tile), task, keep=9)
    whole = rank(scores)
    relevant = task.gallery_labels[whole.indices] == task.query_labels[:, None]
    total = relevant.sum(1)
    assert torch.equal(task.num_relevant, total)
    assert torch.equal(evaluation.top.indices, whole.indices[:, :9])
    assert torch.equal(evaluation.top.scores, whole.scores[:, :9])
    assert list(evaluation.per_query) == [(p, m) for p in ("plain", "zse_paper") for m in METRICS]
    for (protocol, metric), values in evaluation.per_query.items():
        expected = PROTOCOLS[protocol].values(metric, relevant, total)
        torch.testing.assert_close(values, expected, rtol=0, atol=0, equal_nan=True)
    assert (evaluation.answered, evaluation.unanswered) == (19, 4)


def test_scores_without_an_opinion_come_out_at_chance():
    """Why galleries are ordered by content hash: ties go to the lower position, so in a gallery sorted by class the
    first classes would be found by a scorer that says the same of everything."""
    classes, photos = 25, 40
    by_class = torch.arange(classes).repeat_interleave(photos)
    shuffled = by_class[torch.randperm(len(by_class), generator=torch.Generator().manual_seed(0))]
    queries = torch.arange(classes).repeat(4)

    def mean_ap(gallery_labels, scores):
        task = make_task(query_labels=queries, query_groups=queries, gallery_labels=gallery_labels)
        return evaluate_scores([scores], task).values("plain", "mAP_all").mean().item()

    constant = torch.zeros(len(queries), len(by_class))
    chance = mean_ap(by_class, torch.rand(constant.shape, generator=torch.Generator().manual_seed(1)))
    assert mean_ap(shuffled, constant) == pytest.approx(chance, rel=0.1)
    assert mean_ap(by_class, constant) > 1.7 * chance
    assert make_task(query_labels=queries, query_groups=queries, gallery_labels=shuffled).chance == pytest.approx(
        chance, rel=0.02
    )


@pytest.mark.parametrize("case", "abcd")
def test_evaluation_equals_the_published_code(case):
    data = np.load(GOLDEN)
    queries = torch.from_numpy(data[f"{case}_query_label"])
    names = ("mAP_all", "mAP_200", "P_100", "P_200")
    task = make_task(
        query_labels=queries,
        query_groups=queries,
        gallery_labels=torch.from_numpy(data[f"{case}_gallery_label"]),
        metrics=names,
        protocols=("zse_paper",),
    )
    evaluation = evaluate_scores((-torch.from_numpy(data[f"{case}_distance"])).split(7), task)
    rows = evaluation.rows(method="reference", mode="rn", provenance={})
    assert [row["metric"] for row in rows] == list(names)
    np.testing.assert_allclose([row["value"] for row in rows], data[f"{case}_result"], rtol=0, atol=1e-9)
    assert evaluation.unanswered == (3 if case == "d" else 0)


def test_fine_grained_retrieval():
    """Three sketches of each of ten photos; the score prefers the right photo, then the next ones."""
    photos = torch.arange(10)
    sketches = photos.repeat_interleave(3)
    task = make_task(
        setting="chair-v2",
        query_labels=sketches,
        query_groups=sketches,
        gallery_labels=photos,
        metrics=INSTANCE_METRICS,
        protocols=("plain",),
    )
    distance = (sketches[:, None] + torch.tensor([0, 3, 7]).repeat(10)[:, None] - photos).abs().float()
    evaluation = evaluate_scores([-distance], task)
    rows = evaluation.rows(method="ours", mode="ret", provenance={})
    assert rows[0]["metric"] == "acc_1" and rows[0]["value"] == pytest.approx(
        12 / 30
    )  # photo 9 also catches what points beyond it
    assert rows[2]["value"] == 1 and rows[2]["classes"] == 10


def test_rows_carry_provenance_and_intervals():
    task = make_task(metrics=CATEGORY_METRICS, query_labels=torch.arange(23) % 5)
    evaluation = evaluate_scores([make_scores(task)], task)
    provenance = {"split_hash": "ab12", "dataset_fingerprint": "cd34", "checkpoint_hash": "ef56", "step": 7}
    rows = evaluation.rows(method="global", mode="rerank-100", provenance=provenance)
    columns = "setting protocol method mode metric value ci_low ci_high queries gallery classes".split()
    assert len(rows) == 12
    for row in rows:
        assert list(row) == columns + list(provenance)
        values = evaluation.values(row["protocol"], row["metric"])
        assert row["value"] == values.nanmean()
        assert (row["ci_low"], row["ci_high"]) == bootstrap_interval(values, task.query_groups)
        assert row["ci_low"] <= row["value"] <= row["ci_high"]
        assert (row["queries"], row["gallery"], row["classes"], row["step"]) == (19, 61, 4, 7)


def test_rows_refuse_names_and_clashes():
    task = make_task()
    evaluation = evaluate_scores([make_scores(task)], task)
    with pytest.raises(ValueError, match="mode 'Rerank@100'"):
        evaluation.rows(method="global", mode="Rerank@100", provenance={})
    with pytest.raises(ValueError, match="method 'Global →'"):
        evaluation.rows(method="Global →", mode="ret", provenance={})
    with pytest.raises(ValueError, match="queries"):
        evaluation.rows(method="global", mode="ret", provenance={"queries": 3})


def test_per_class_means_add_up():
    task = make_task(query_labels=torch.arange(23) % 5, query_groups=torch.arange(23) % 5)
    evaluation = evaluate_scores([make_scores(task)], task)
    rows = evaluation.per_class("plain", "mAP_all", ["ant", "bee", "cat", "dog", "elk"])
    assert [row["class"] for row in rows] == ["ant", "bee", "cat", "dog", "elk"]
    assert [row["queries"] for row in rows] == [5, 5, 5, 4, 0] and math.isnan(rows[4]["value"])
    total = sum(row["value"] * row["queries"] for row in rows[:4]) / evaluation.answered
    assert total == pytest.approx(evaluation.values("plain", "mAP_all").nanmean().item(), abs=1e-12)
    with pytest.raises(ValueError, match="group 4 has no name: 4 names"):
        evaluation.per_class("plain", "mAP_all", ["ant", "bee", "cat", "dog"])
    with pytest.raises(ValueError, match="plain/mAP was not evaluated"):
        evaluation.per_class("plain", "mAP", [])


def test_precision_recall_is_a_falling_mean():
    task = make_task(query_labels=torch.arange(23) % 5)
    curve = evaluate_scores([make_scores(task)], task).precision_recall()
    assert curve.shape == (11,) and (curve.diff() <= 0).all() and curve[0] <= 1
    perfect = evaluate_scores([make_scores(task, strength=100)], task).precision_recall()
    assert perfect.tolist() == [1] * 11


def test_the_better_model_is_told_from_noise():
    task = make_task(queries=400, gallery=300, classes=20)
    weak, strong = (
        evaluate_scores([make_scores(task, strength=strength)], task).values("plain", "mAP_all")
        for strength in (0.5, 0.6)
    )
    difference = paired_difference(strong, weak, task.query_groups)
    assert difference.low > 0 and difference.p < 0.01


def test_keep_is_cut_to_the_gallery():
    task = make_task()
    assert evaluate_scores([make_scores(task)], task).top.indices.shape == (23, 61)
    with pytest.raises(ValueError, match="keep"):
        evaluate_scores([make_scores(task)], task, keep=0)


def test_tiles_that_do_not_fit_the_task_are_refused():
    task = make_task()
    scores = make_scores(task)
    with pytest.raises(ValueError, match="hold 20 queries, synthetic-4 has 23"):
        evaluate_scores([scores[:20]], task)
    with pytest.raises(ValueError, match="after query 20 is .4, 61.*at most .3, 61"):
        evaluate_scores([scores[:20], scores[:4]], task)
    with pytest.raises(ValueError, match=r"\[23, 60\]"):
        evaluate_scores([scores[:, :60]], task)
    with pytest.raises(ValueError, match="float64"):
        evaluate_scores([scores.double()], task)
    scores[21, 3] = torch.nan
    with pytest.raises(ValueError, match="query 21 and gallery item 3"):
        evaluate_scores(scores.split(10), task)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"setting": "Sketchy→TU"}, "setting 'Sketchy→TU'"),
        ({"query_groups": torch.zeros(22).long()}, "23 query_labels, but 22 query_groups"),
        ({"query_labels": torch.zeros(23)}, "query_labels must be int64"),
        ({"gallery_labels": torch.zeros(61, 1).long()}, r"\[61, 1\]"),
        ({"gallery_labels": torch.zeros(0).long()}, "gallery of synthetic-4 is empty"),
        ({"gallery_labels": torch.full((61,), 9)}, "None of the 23 queries"),
        ({"metrics": ("mAP_all", "mAP@200")}, r"metric: \['mAP@200'\]. Known metrics: mAP_all, "),
        ({"metrics": ()}, "no metric"),
        ({"protocols": ("sake",)}, r"protocol: \['sake'\]. Known protocols: plain, zse_paper"),
    ],
)
def test_a_broken_task_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_task(**changes)
