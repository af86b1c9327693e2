"""Confidences: the fit finds how scores were made, holds in other galleries, and a checkpoint keeps it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from zse_model.backbones import BackboneConfig
from zse_model.checkpoint import WEIGHTS, load_checkpoint, read_tensors, save_checkpoint
from zse_model.confidence import REFUSED, Confidence, confidence_of, fit, median_of, reliability
from zse_model.evaluation.evaluate import Evaluation, Task, evaluate_scores
from zse_model.methods import LateInteractionConfig, create_method

KEPT = Path(__file__).parents[1] / "kept" / "v1" / "workspace" / "checkpoints"


def gallery(queries: int, relevant: int, others: int, seed: int) -> tuple[Tensor, Tensor]:
    """Scores and relevant photos: each query has its own level; relevant photos stand 2.5 deviations above others."""
    random = torch.Generator().manual_seed(seed)
    scores = torch.randn(queries, relevant + others, generator=random) * 0.1
    scores[:, :relevant] += 0.25
    scores += torch.randn(queries, 1, generator=random)  # levels of queries do not compare
    return scores, (torch.arange(relevant + others) < relevant).expand(queries, -1)


def evaluated(scores: Tensor, relevant: int) -> Evaluation:
    labels = torch.zeros(len(scores), dtype=torch.int64)
    others = (torch.arange(scores.shape[1]) >= relevant).long()
    task = Task(setting="s", query_labels=labels, gallery_labels=others, query_groups=labels, metrics=("mAP_all",))
    return evaluate_scores([scores], task)


@pytest.mark.parametrize("others", [500, 2000, 20_000])
def test_a_fit_holds_in_galleries_that_it_did_not_see(others: int) -> None:
    row = fit([gallery(200, 20, 200, 0), gallery(200, 20, 1000, 1)])
    found = confidence_of(row)
    assert found is not None and found.b > 0
    scores, _ = gallery(400, 20, others, 2)
    checked = evaluated(scores, 20).reliability(found)
    assert checked.ece < 0.05
    assert sum(bin["photos"] for bin in checked.bins) == 400 * 20
    assert checked.refused < 2 * REFUSED  # a tenth where it was fitted
    # Without the query's own median it does not hold.
    whole = evaluated(scores, 20)
    unlike = dataclasses.replace(whole, median=torch.zeros_like(whole.median))
    assert unlike.reliability(found).ece > 0.2


def test_the_level_refuses_a_tenth_and_catches_what_is_absent() -> None:
    scores, relevant = gallery(1000, 20, 1000, 3)
    found = confidence_of(fit([(scores, relevant)]))
    assert found is not None
    checked = evaluated(scores, 20).reliability(found)
    assert checked.refused == pytest.approx(REFUSED, abs=0.01)
    assert checked.caught > 0.5
    other = scores[:, 20:]
    assert checked.caught == pytest.approx(float((~found.similar(other.amax(1), median_of(scores))).float().mean()))


@pytest.mark.parametrize("ranked", [5, 205])  # fewer than the kept items; more, and less than half of the gallery
def test_a_shortlist_has_no_confidences(ranked: int) -> None:
    scores, relevant = gallery(40, 20, 400, 4)
    found = confidence_of(fit([(scores, relevant)]))
    assert found is not None
    kept = torch.full_like(scores, -math.inf).scatter(1, scores.topk(ranked).indices, scores.topk(ranked).values)
    with pytest.raises(ValueError, match="some are -inf: not ranked"):
        evaluated(kept, 20).reliability(found)


def test_reliability_is_that_of_a_plain_count() -> None:
    confidence = Confidence(a=0.0, b=1.0, level=0.5)
    scores = torch.tensor([[2.0, 0.0], [0.0, -3.0]])
    median, relevant = torch.tensor([0.0, 0.0]), torch.tensor([[True, False], [False, True]])
    checked = reliability(confidence, scores, relevant, median, torch.tensor([0.0, math.nan]), 1)
    said = [1 / (1 + math.exp(-x)) for x in (2.0, 0.0, 0.0, -3.0)]  # bins 8, 5, 5, 0
    assert checked.ece == pytest.approx((abs(said[0] - 1) + 2 * abs(said[1] - 0) + abs(said[3] - 1)) / 4)
    assert [(bin["photos"], bin["relevant"]) for bin in checked.bins] == [(1, 1.0), (2, 0.0), (1, 1.0)]
    assert [(bin["low"], bin["high"]) for bin in checked.bins] == [(0.0, 0.1), (0.5, 0.6), (0.8, 0.9)]
    assert (checked.refused, checked.caught) == (0.5, 1.0)


def test_without_anything_to_tell_apart_there_is_no_confidence() -> None:
    scores, relevant = gallery(5, 20, 100, 0)
    assert confidence_of(fit([(scores, torch.zeros_like(relevant))])) is None
    assert confidence_of(fit([(-scores, relevant)])) is None  # a higher score is worse
    best = torch.zeros_like(relevant)
    best[0, scores[0].argmax()] = True
    assert confidence_of(fit([(scores, best)])) is not None, "one relevant photo is one to tell apart"
    separate = scores + 100.0 * relevant  # no overlap: b stays finite
    assert bool(fit([(separate[:, :30], relevant[:, :30])]).isfinite().all())


def test_a_checkpoint_keeps_confidences_and_an_earlier_one_has_none(tmp_path: Path) -> None:
    earlier = KEPT / "kept-maps-global-0a3f393a"
    old = load_checkpoint(earlier)
    assert "confidence" not in read_tensors(earlier / WEIGHTS)
    assert old.method.confidence_of("ret") is None
    save_checkpoint(old, tmp_path / "again")
    again = load_checkpoint(tmp_path / "again")
    file = tmp_path / "again" / WEIGHTS
    save_file({name: value for name, value in read_tensors(file).items() if name != "confidence"}, file)
    assert load_checkpoint(tmp_path / "again").digest == again.digest  # zeros change no identity
    old.method.fit_confidence("ret", [gallery(50, 10, 100, 0)])
    save_checkpoint(old, tmp_path / "fitted")
    fitted = load_checkpoint(tmp_path / "fitted")
    assert fitted.digest != again.digest
    assert fitted.method.confidence_of("ret") == old.method.confidence_of("ret") is not None


def test_modes_whose_pairs_a_network_compares_have_none() -> None:
    network = load_checkpoint(KEPT / "kept-tokens-zse_sbir-fbaf516a").method
    assert network.confident == ("ret",) and "rn" in network.modes
    config = LateInteractionConfig(dim=16, place_dim=16, bits=32)
    places = create_method("late_interaction", config, BackboneConfig(name="test_resnet"), size=64, classes=2)
    assert {"ret", "late"} <= {*places.confident}
