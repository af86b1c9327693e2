"""Late interaction: the score is the weighted sum of the best matches, and the explanation shows just these."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers.oracles import doubles, linear, unit
from tests.zse_model.test_method_losses import (
    BACKBONE,
    CLASSES,
    LABELS,
    NEGATIVE_LABELS,
    ROLES,
    SIZE,
    batch,
    check,
    classified,
    contrasted,
    features,
    known,
    numbered,
)
from zse_model import late
from zse_model.backbones import BackboneConfig
from zse_model.errors import ZseError
from zse_model.explanation.faithfulness import curves, orders
from zse_model.explanation.matches import MatchExplanation, strongest_places
from zse_model.explanation.pair import explain_pair
from zse_model.fit import LocalContext, TrainConfig
from zse_model.fit.state import Best
from zse_model.fit.trainer import Trainer
from zse_model.late import LateScorer, distance_costs, inked, late_scores, pair_scores
from zse_model.methods import LateInteraction, LateInteractionConfig, TrainBatch, create_method
from zse_model.methods.places import MEASURED_STEPS
from zse_model.scoring import score_all
from zse_model.synthetic import draw_photo

CPU = torch.device("cpu")
GRID = (2, 2)


def network(**changes: Any) -> LateInteraction:
    config: dict[str, Any] = {
        "dim": 6,
        "place_dim": 5,
        "late": 0.8,
        "pairs": 0.6,
        "late_temperature": 0.2,
        "temperature": 0.3,
        "scale": 5.0,
    }
    torch.manual_seed(0)
    settings = LateInteractionConfig(**(config | changes))
    return known(LateInteraction(settings, BACKBONE, size=SIZE, classes=CLASSES))


def half_drawn(role: str) -> Tensor:
    """Pictures whose lower half is paper: only the upper places of a sketch have ink."""
    pictures = numbered(role)
    pictures[:, :, SIZE // 2 :] = 255
    return pictures


def places(method: LateInteraction, role: str) -> list[Any]:
    head = method.local
    assert head is not None
    bias = doubles(head.sketch_bias if "sketch" in role else head.photo_bias)
    return [
        np.array([unit(linear(head.project, token) + bias) for token in tokens])
        for _, tokens in features(method.backbone, role)
    ]


def weights(method: LateInteraction, role: str) -> list[Any]:
    """A softmax over the two inked places."""
    out = []
    for _, tokens in features(method.backbone, role):
        e = np.array([math.exp(linear(method.local.salience, token)[0]) for token in tokens[:2]])
        out.append(np.concatenate([e / e.sum(), [0, 0]]))
    return out


def matched(sketch: Any, weight: Any, photo: Any, distance: float = 0.0) -> float:
    """`late` of a sketch's and a photo's places, on a square grid of the picture, whose side is 1."""
    side = math.isqrt(len(photo))
    at = [((i // side + 0.5) / side, (i % side + 0.5) / side) for i in range(len(photo))]
    best = [
        max(s @ p - distance * math.dist(here, there) ** 2 for p, there in zip(photo, at, strict=True))
        for s, here in zip(sketch, at, strict=True)
    ]
    return float(sum(w * b for w, b in zip(weight, best, strict=True)))


def nce(scores: list[float], label: int, labels: list[int], temperature: float) -> float:
    total = math.log(sum(math.exp(score / temperature) for score in scores))
    right = [total - score / temperature for score, of in zip(scores, labels, strict=True) if of == label]
    return sum(right) / len(right)


@pytest.mark.parametrize("distance", [0.0, 1.5])
def test_losses_of_places_by_hand(distance: float) -> None:
    method = network(late_distance=distance)
    drawn = replace(batch(), sketch=half_drawn("sketch"), sketch2=half_drawn("sketch2"))
    p = {role: places(method, role) for role in ROLES}
    w = {role: weights(method, role) for role in ("sketch", "sketch2")}
    photos, labels = p["photo"] + p["negative"], LABELS + NEGATIVE_LABELS
    sketches = [(s, v) for role in w for s, v in zip(p[role], w[role], strict=True)]
    expected: dict[str, list[float]] = {"late": [], "pairs": []}
    for i, label in enumerate(LABELS):
        asked = [
            nce([matched(p[role][i], w[role][i], photo, distance) for photo in photos], label, labels, 0.2)
            for role in ("sketch", "sketch2")
        ]
        back = nce([matched(s, v, p["photo"][i], distance) for s, v in sketches], label, LABELS + LABELS, 0.2)
        expected["late"].append(0.8 * (sum(asked) / 2 + back) / 2)
        own, other = (matched(p["sketch"][i], w["sketch"][i], p[role][i], distance) for role in ("photo", "negative"))
        expected["pairs"].append(0.6 * math.log1p(math.exp((other - own) / 0.2)))
    pooled = {role: [x for x, _ in features(method.backbone, role)] for role in ROLES}
    x = {role: [unit(linear(method.head, one)) for one in pooled[role]] for role in ROLES}  # type: ignore[arg-type]
    assert method.classifier is not None
    expected["classification"] = classified(x, doubles(method.classifier.prototypes), 5.0, 1.0)
    expected["contrast"] = contrasted(x, 0.3, 1.0)
    check(method(drawn), expected)


def test_pictures_are_encoded_as_they_are_trained() -> None:
    method = network()
    weighted = np.array(weights(method, "sketch"))[:, :, None] * np.array(places(method, "sketch"))
    encoded = method.encode(half_drawn("sketch"), "sketch")
    np.testing.assert_allclose(doubles(encoded["places"]), weighted, atol=1e-5)
    encoded = method.encode(numbered("photo"), "photo")
    np.testing.assert_allclose(doubles(encoded["places"]), places(method, "photo"), atol=1e-5)


@pytest.mark.parametrize(("chunk", "distance"), [(1, 0.0), (100, 0.8), (2**21, 0.0), (2**21, 2.5)])
def test_scores_are_the_sums_of_the_best_matches(chunk: int, distance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late, "CPU_CHUNK", chunk)
    generator = torch.manual_seed(3)
    s, p = (torch.randn(n, 9, 7, generator=generator) for n in (5, 33))
    s, p = torch.nn.functional.normalize(s, dim=2), torch.nn.functional.normalize(p, dim=2)
    v = torch.rand(5, 9, generator=generator).masked_fill(torch.rand(5, 9, generator=generator) < 0.4, 0)
    v = v / v.sum(1, keepdim=True)
    expected = [[matched(doubles(s[i]), doubles(v[i]), doubles(p[j]), distance) for j in range(33)] for i in range(5)]
    weighted = v[:, :, None] * s
    scorer, queries, gallery = LateScorer(CPU, (3, 3), 7, distance), {"places": weighted}, {"places": p}
    np.testing.assert_allclose(doubles(score_all(scorer, queries, gallery)), expected, rtol=1e-5, atol=1e-5)
    costs = distance_costs((3, 3), distance, CPU)
    np.testing.assert_allclose(doubles(late_scores(weighted, p, costs)), expected, rtol=1e-5, atol=1e-5)
    found = pair_scores(weighted, p[:5], costs)
    np.testing.assert_allclose(doubles(found), np.diagonal(expected), rtol=1e-5, atol=1e-5)
    wanted = torch.rand(5, 33, generator=generator) < 0.3
    wanted[2] = False
    some = score_all(scorer, queries, gallery, wanted)
    assert torch.equal(some.isneginf(), ~wanted)
    np.testing.assert_allclose(doubles(some)[wanted], np.array(expected)[wanted], rtol=1e-5, atol=1e-5)


def test_a_new_head_is_the_principal_axes_of_the_tokens_of_each_modality() -> None:
    """Against numpy, over two workers; sketches' tokens without ink do not count."""
    torch.manual_seed(0)
    method = create_method("late_interaction", LateInteractionConfig(dim=8, place_dim=4), BACKBONE, size=64, classes=3)
    method.eval()
    batches = [real_batch(3, seed) for seed in range(3)]
    others: list[Tensor] = []
    twin = copy.deepcopy(method)
    twin.measure_start(iter(batches[2:]), lambda x: (others.append(x.clone()), x)[1])
    method.measure_start(iter(batches[:2]), lambda x: x + others.pop(0))
    sides: dict[str, list[Any]] = {"sketch": [], "photo": []}
    with torch.no_grad():
        for batch in batches:
            for value in vars(batch).values():
                if value.ndim == 4:
                    tokens = method.backbone(value).tokens
                    drawn = value.shape[1] == 1
                    kept = tokens[inked(value, method.backbone.grid)] if drawn else tokens.flatten(0, 1)
                    sides["sketch" if drawn else "photo"].append(doubles(kept))
    of = {name: np.concatenate(parts) for name, parts in sides.items()}
    centred = np.concatenate([x - x.mean(0) for x in of.values()])
    variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    expected = axes[:, ::-1][:, :4] / variances[::-1][:4] ** 0.25
    found = doubles(method.local.project.weight).T
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found, expected * signs, rtol=1e-3, atol=1e-3 * abs(expected).max())
    for side, bias in (("sketch", method.local.sketch_bias), ("photo", method.local.photo_bias)):
        np.testing.assert_allclose(doubles(bias), -of[side].mean(0) @ found, rtol=1e-3, atol=1e-3)
    weights = method.encode(batches[0].sketch, "sketch")["places"].norm(dim=2)
    assert all(len(row[row > 0].round(decimals=5).unique()) == 1 for row in weights), "inked places weigh alike"
    trained = method.local.project.weight.clone()
    method.measure_start(iter(batches), lambda x: x)
    assert trained.equal(method.local.project.weight), "a head that came trained stays"


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_new_head_does_not_depend_on_the_number_of_workers_that_are_there(accumulate: int) -> None:
    """Each of two workers measures its own shares of the first steps. One alone measures the shares of both."""

    class Source:
        def __init__(self) -> None:
            self.asked: list[tuple[int, int]] = []

        def batch(self, step: int, share: int, shares: int) -> TrainBatch:
            self.asked.append((step, share))
            return real_batch(2, step * shares + share)

    class OfTwo(LocalContext):
        world_size = 2

        def __init__(self, rank: int, others: list[Tensor]) -> None:
            super().__init__(None, None, CPU)
            self.rank, self.others = rank, others

        def total(self, value: Tensor) -> Tensor:
            if self.rank == 0:
                return value + self.others.pop(0)
            self.others.append(value.clone())
            return value

    config = TrainConfig(steps=1, batch_size=2, accumulate=accumulate)

    def started(context: LocalContext) -> tuple[set[tuple[int, int]], Tensor]:
        torch.manual_seed(0)
        settings = LateInteractionConfig(dim=8, place_dim=4)
        method = create_method("late_interaction", settings, BACKBONE, size=64, classes=3)
        best, source = Best("selection/mAP_all"), Source()
        trainer = Trainer(method, source, context, config, validate=None, calibrate=None, best=best, workers=2)
        trainer.restore(10)
        return set(source.asked), method.local.project.weight

    others: list[Tensor] = []
    second, _ = started(OfTwo(1, others))
    first, of_two = started(OfTwo(0, others))
    alone, of_one = started(LocalContext(None, None, CPU))
    steps = set(itertools.product(range(MEASURED_STEPS), range(2 * accumulate)))
    assert first | second == alone == steps and not first & second
    torch.testing.assert_close(of_one, of_two, rtol=1e-3, atol=1e-3)


def real_batch(b: int, seed: int) -> TrainBatch:
    """Lines on paper, and noise."""
    generator = torch.manual_seed(seed)
    sketches = torch.full((2 * b, 1, 64, 64), 255, dtype=torch.uint8)
    for i, at in enumerate(torch.randint(2, 60, (2 * b, 2), generator=generator).tolist()):
        sketches[i, :, at[0], :40], sketches[i, :, 10:50, at[1]] = 0, 0
    photos = torch.randint(0, 256, (2 * b, 3, 64, 64), generator=generator, dtype=torch.uint8)
    return TrainBatch(
        sketch=sketches[:b],
        sketch2=sketches[b:],
        photo=photos[:b],
        negative=photos[b:],
        label=torch.arange(b),
        negative_label=(torch.arange(b) + 1) % b,
    )


def test_places_without_ink_are_not_compared() -> None:
    sketch = torch.full((3, 1, 32, 32), 255, dtype=torch.uint8)
    sketch[0, :, 3, 2:9] = 0
    sketch[1, :, 20:30, 20:30] = 128
    sketch[1, :, 0, 0] = 250
    assert inked(sketch, GRID).tolist() == [[True, False, False, False], [False, False, False, True], [True] * 4]


def test_rows_and_columns_of_places_have_their_own_distances() -> None:
    costs = distance_costs((2, 4), 3.0, CPU)
    assert costs is not None and distance_costs((2, 4), 0.0, CPU) is None
    at = [((i // 4 + 0.5) / 2, (i % 4 + 0.5) / 4) for i in range(8)]
    expected = [[3 * math.dist(here, there) ** 2 for there in at] for here in at]
    np.testing.assert_allclose(doubles(costs), expected, atol=1e-6)


@pytest.mark.parametrize("distance", [0.0, 2.5])
def test_an_explanation_sums_to_the_score(distance: float) -> None:
    torch.manual_seed(4)
    config = LateInteractionConfig(dim=8, late_distance=distance)
    method = create_method("late_interaction", config, BACKBONE, size=64, classes=3).eval()
    sketch = torch.full((1, 64, 64), 255, dtype=torch.uint8)
    sketch[:, 5:40, 20] = 0
    photo = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    found = explain_pair(method, sketch, photo)
    assert isinstance(found, MatchExplanation) and found.mode == "late"
    assert float(found.contributions.sum()) == pytest.approx(found.score, abs=1e-5)
    assert float(found.importance.sum()) == pytest.approx(found.score, abs=1e-5)
    assert set(found.importance.nonzero().flatten().tolist()) <= set(found.matches.tolist())
    assert (found.weights > 0).equal(inked(sketch[None], found.grid)[0]) and len(found.weights) == 16
    assert float(found.weights.sum()) == pytest.approx(1, abs=1e-5)
    strongest = strongest_places(found)
    assert strongest and all(found.weights[row * 4 + column] > 0 for row, column in strongest)
    assert int(found.similarity(*strongest[0]).argmax()) == int(found.matches[strongest[0][0] * 4 + strongest[0][1]])
    for patch, why in (((4, 0), "There is no patch 4,0"), ((3, 3), "has no ink at 3,3")):
        with pytest.raises(ZseError, match=why):
            found.similarity(*patch)


@pytest.mark.parametrize("distance", [0.0, 2.5])
def test_a_photo_as_a_query_is_scored_as_a_sketch_of_equal_weights(distance: float) -> None:
    photos = torch.nn.functional.normalize(torch.randn(3, 9, 7, generator=torch.manual_seed(7)), dim=2)
    scores = score_all(LateScorer(CPU, (3, 3), 7, distance), {"places": photos}, {"places": photos})
    expected = [[matched(doubles(s), np.full(9, 1 / 9), doubles(p), distance) for p in photos] for s in photos]
    np.testing.assert_allclose(doubles(scores), expected, atol=1e-5)
    assert scores.diagonal() == pytest.approx([1, 1, 1])


def test_places_are_removed_in_the_order_of_what_they_give() -> None:
    """Places without a match come last, by how well they match; not by where they are."""
    correspondence = torch.tensor([[0.9, 0.2, 0.8, 0.1], [0.3, 0.1, 0.2, 0.7], [0.0] * 4, [0.0] * 4])
    fields: dict[str, Any] = {"mode": "late", "about": "", "scores": {"late": 0.82}, "grid": GRID}
    found = MatchExplanation(**fields, weights=torch.tensor([0.6, 0.4, 0, 0]), correspondence=correspondence)
    assert found.contributions.tolist() == pytest.approx([0.54, 0.28, 0, 0])
    assert found.importance.tolist() == pytest.approx([0.54, 0, 0, 0.28])
    assert found.order.tolist() == [0, 3, 2, 1]
    dear = correspondence - 2 * (torch.tensor([[1.0], [1], [0], [0]]))
    found = MatchExplanation(**fields, weights=torch.tensor([0.6, 0.4, 0, 0]), correspondence=dear)
    assert found.order.tolist() == [3, 0, 2, 1], "matches that cost more than they give come first, too"


def test_what_gives_most_is_removed_first() -> None:
    """Over several photos the score falls faster by the order of the matches than by chance."""
    torch.manual_seed(5)
    method = create_method("late_interaction", LateInteractionConfig(dim=8), BACKBONE, size=64, classes=3).eval()
    sketch = torch.full((1, 64, 64), 255, dtype=torch.uint8)
    sketch[:, 5:40, 20] = 0
    fallen = dict.fromkeys(("matched", "uniform"), 0.0)
    for seed in range(8):
        photo = torch.from_numpy(draw_photo("fish", seed, size=64)).permute(2, 0, 1)
        by = orders(method, sketch, photo, torch.manual_seed(seed))
        assert by.keys() == fallen.keys()
        for name, order in by.items():
            fallen[name] += curves(method, sketch, photo, order).deletion_auc
    assert fallen["matched"] < fallen["uniform"]


def test_what_cannot_be_trained_is_refused() -> None:
    for changes, why in (
        ({"late": 0}, "one of late and pairs must be above 0"),
        ({"place_dim": 0}, "place_dim must be above 0"),
        ({"late_temperature": 0}, "late_temperature must be above 0"),
        ({"late": -1}, "late must be 0 or more"),
        ({"classification": 0, "contrast": 0}, "^late_interaction: at least one of"),
    ):
        with pytest.raises(ZseError, match=why):
            LateInteractionConfig(**changes)  # type: ignore[arg-type]
    dropping = BackboneConfig(name="test_vit", args={"patch_drop_rate": 0.5})
    with pytest.raises(ZseError, match="needs a token for each of 4x4 places, and 'test_vit' drops some"):
        create_method("late_interaction", LateInteractionConfig(dim=8), dropping, size=64, classes=3)
