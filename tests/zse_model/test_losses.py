"""The loss functions against numbers worked out by hand, and against loops over rows in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers.oracles import cosine, cross_entropy, divergence, doubles, hinge, infonce
from zse_model.layers import CosineClassifier
from zse_model.losses import (
    cosine_cross_entropy,
    cosine_logits,
    cross_modal_infonce,
    item_means,
    nearest_other,
    normalised,
    soft_label_divergence,
    triplet,
)

E = math.e


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.manual_seed(seed))


def check(found: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_infonce_of_one_right_photo_of_three_by_hand() -> None:
    """Cosines 1, 0 and 0.6 over a temperature of 0.5 are logits 2, 0 and 1.2."""
    anchors, others = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    total = E**2 + 1 + E**1.2
    for right, logit in enumerate((2, 0, 1.2)):
        labels = torch.tensor([7 if i == right else i for i in range(3)])
        check(cross_modal_infonce(anchors, others, torch.tensor([7]), labels, 0.5), [math.log(total) - logit])


def test_infonce_is_the_mean_over_the_right_photos_by_hand() -> None:
    anchors, others = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    found = cross_modal_infonce(anchors, others, torch.tensor([1]), torch.tensor([1, 0, 1]), 0.5)
    check(found, [math.log(E**2 + 1 + E**1.2) - (2 + 1.2) / 2])


def test_infonce_of_equal_similarities_is_the_log_of_the_number_of_photos() -> None:
    anchors, others = torch.zeros(2, 3), torch.zeros(5, 3)
    check(cross_modal_infonce(anchors, others, torch.arange(2), torch.arange(5), 0.1), [math.log(5)] * 2)


def test_infonce_equals_a_loop_over_anchors() -> None:
    anchors, others = normalised(drawn(5, 4, seed=0)), normalised(drawn(9, 4, seed=1))
    labels, of_others = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([2, 0, 1, 1, 3, 0, 0, 3, 1])
    expected = [
        infonce(a, list(others.double().numpy()), int(label), of_others.tolist(), 0.3)
        for a, label in zip(anchors.double().numpy(), labels, strict=True)
    ]
    check(cross_modal_infonce(anchors, others, labels, of_others, 0.3), expected)


def test_a_triplet_is_how_much_the_positive_is_too_far_by_hand() -> None:
    """The positive is at 5 from the anchor, the negative at 2 and then at 13."""
    anchor, positive = torch.tensor([[1.0, -1.0]]), torch.tensor([[4.0, 3.0]])
    near, far = torch.tensor([[1.0, 1.0]]), torch.tensor([[6.0, 11.0]])
    check(triplet(anchor, positive, near, 0.25), [3.25])
    check(triplet(anchor, positive, far, 0.25), [0.0])
    check(triplet(anchor, positive, far, 9.0), [1.0])
    check(triplet(anchor, positive, near), [4.0])  # the margin is 1 unless given


def test_a_triplet_equals_a_loop_over_rows() -> None:
    rows = [drawn(6, 3, seed=seed) for seed in range(3)]
    expected = [hinge(*(x[i].double().numpy() for x in rows), 0.4) for i in range(6)]
    assert min(expected) == 0 < max(expected)
    check(triplet(*rows, 0.4), expected)


def test_the_nearest_other_has_another_label_and_the_largest_cosine() -> None:
    anchors, others = normalised(drawn(7, 3, seed=0)), normalised(drawn(11, 3, seed=1))
    labels, of_others = torch.arange(7) % 3, torch.arange(11) % 4
    found = nearest_other(anchors, others, labels, of_others)
    for i in range(7):
        allowed = [j for j in range(11) if j % 4 != i % 3]
        assert found[i] == max(allowed, key=lambda j: float(anchors[i] @ others[j]))
    assert found.unique().numel() > 3


def test_the_divergence_is_of_the_targets_from_the_prediction_by_hand() -> None:
    """A target of 0 counts nothing; the other direction would be infinite there."""
    targets = torch.tensor([[0.5, 0.5, 0.0], [0.75, 0.25, 0.0]])
    logits = torch.tensor([[0.25, 0.25, 0.5], [0.5, 0.25, 0.25]]).log() + torch.tensor([[3.0], [-1.0]])
    check(soft_label_divergence(logits, targets), [math.log(2), 0.75 * math.log(1.5)])


def test_the_divergence_equals_a_loop_over_units() -> None:
    logits, targets = drawn(4, 5, seed=0), (2 * drawn(4, 5, seed=1)).softmax(1)
    expected = [divergence(logits[i].double().numpy(), targets[i].double().numpy()) for i in range(4)]
    check(soft_label_divergence(logits, targets), expected)


def test_a_row_is_normalised_by_its_own_length() -> None:
    x = torch.tensor([[[3.0, 4.0], [0.0, 0.0]], [[-5.0, 12.0], [0.0, 2.0]]])
    expected = torch.tensor([[[0.6, 0.8], [0.0, 0.0]], [[-5 / 13, 12 / 13], [0.0, 1.0]]])
    torch.testing.assert_close(normalised(x), expected)


def test_cosine_logits_are_scaled_cosines_of_rows_with_rows() -> None:
    x, weight = drawn(3, 4, seed=0), drawn(5, 4, seed=1)
    found = cosine_logits(x, weight, 7.0)
    expected = [[7 * cosine(a, w) for w in weight.double().numpy()] for a in x.double().numpy()]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_cross_entropy_of_cosines_by_hand() -> None:
    """Of a zero embedding it is log(3); of a prototype, whose cosines are 1, 0 and -1, log(1 + exp(-5) + exp(-10))."""
    prototypes = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    found = cosine_cross_entropy(torch.tensor([[0.0, 0.0], [7.0, 0.0]]), prototypes, torch.tensor([1, 0]), 5.0)
    check(found, [math.log(3), math.log(1 + math.exp(-5) + math.exp(-10))])


def test_a_cosine_classifier_is_the_cross_entropy_with_its_prototypes_of_about_unit_length() -> None:
    torch.manual_seed(0)
    classifier = CosineClassifier(5, 400, 6.0)
    assert classifier.prototypes.norm(dim=1).sub(1).abs().max() < 0.15
    x, labels = drawn(4, 400, seed=1), torch.tensor([4, 0, 2, 2])
    expected = [
        cross_entropy([6 * cosine(a, p) for p in doubles(classifier.prototypes)], int(label))
        for a, label in zip(doubles(x), labels, strict=True)
    ]
    check(classifier(x, labels), expected)


def test_the_mean_of_an_item_is_over_its_pictures_which_are_an_item_count_apart() -> None:
    losses = torch.tensor([1.0, 2.0, 3.0, 10.0, 20.0, 30.0])
    assert item_means(losses, 3).tolist() == [5.5, 11.0, 16.5] and item_means(losses, 6).tolist() == losses.tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_half_precision_are_float32(dtype: torch.dtype) -> None:
    a, b = drawn(3, 4, seed=0).to(dtype), drawn(3, 4, seed=1).to(dtype)
    labels = torch.arange(3)
    found = [
        (
            cross_modal_infonce(a, b, labels, labels, 0.1),
            cross_modal_infonce(a.float(), b.float(), labels, labels, 0.1),
        ),
        (triplet(a, b, b.flip(0)), triplet(a.float(), b.float(), b.flip(0).float())),
        (soft_label_divergence(a, b.softmax(1)), soft_label_divergence(a.float(), b.softmax(1).float())),
        (cosine_logits(a, b, 3.0), cosine_logits(a.float(), b.float(), 3.0)),
    ]
    for half, single in found:
        assert half.dtype == torch.float32 and torch.equal(half, single)
