"""Codes: bits by hand, distances against loops, and what the fitted projections have to satisfy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from tests.helpers.oracles import doubles
from zse_model.hashing import WEIGHT, Asymmetric, CodeHead, Hamming, agreement, discriminant, itq, pack, unpack

CPU = torch.device("cpu")


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.manual_seed(seed))


def bits(n: int, k: int, seed: int) -> Tensor:
    return drawn(n, k, seed=seed) < 0.3


def test_the_first_bit_of_eight_is_the_lowest_by_hand() -> None:
    written = torch.tensor([[int(b) for b in "1000000011000001"], [int(b) for b in "0100000000000010"]]).bool()
    assert pack(written).tolist() == [[1, 3 + 128], [2, 64]]
    assert torch.equal(unpack(pack(written)), written)


def test_a_hamming_score_is_equal_bits_minus_different_ones() -> None:
    sketches, photos = bits(3, 16, 0), bits(5, 16, 1)
    scorer = Hamming(CPU, "hash-16")
    sides = [scorer.precompute({"hash-16": pack(side)}, "photo") for side in (sketches, photos)]
    expected = [[sum(1 if a == b else -1 for a, b in zip(s, p, strict=True)) for p in photos] for s in sketches]
    assert scorer.score(*sides).tolist() == expected


def head(dim: int, k: int) -> CodeHead:
    head = CodeHead(dim, k)
    head.mean.copy_(drawn(2, dim, seed=5))
    head.projection.copy_(drawn(dim, k, seed=6))
    return head


@pytest.mark.parametrize(("modality", "row"), [("sketch", 0), ("photo", 1)])
def test_a_bit_says_on_which_side_of_its_modality_a_picture_is(modality: Any, row: int) -> None:
    fitted, x = head(4, 8), drawn(6, 4, seed=0)
    offsets, columns = doubles(x) - doubles(fitted.mean)[row], doubles(fitted.projection).T
    projected = [[sum(offset * column) for column in columns] for offset in offsets]
    np.testing.assert_allclose(fitted.project(x, modality), projected, atol=1e-5)
    assert fitted(x, modality).tolist() == [[value >= 0 for value in values] for values in projected]
    assert fitted(fitted.mean[row : row + 1].clone(), modality).all(), "a picture at the mean has all bits"


def test_an_asymmetric_score_weighs_each_bit_by_how_sure_the_sketch_is() -> None:
    fitted, x, photos = head(4, 16), drawn(3, 4, seed=0), bits(5, 16, 1)
    scorer = Asymmetric(CPU, "hash-16", fitted)
    queries = scorer.precompute({"embedding": x}, "sketch")
    found = scorer.score(queries, scorer.precompute({"hash-16": pack(photos)}, "photo"))
    mean, projection = doubles(fitted.mean)[0], doubles(fitted.projection)
    for i in range(3):
        projected = (doubles(x)[i] - mean) @ projection
        weights = [round(2047 * p / max(abs(projected))) for p in projected]
        assert queries[i].tolist() == weights and max(abs(w) for w in weights) == WEIGHT == 2047
        for j in range(5):
            total = sum(w if photos[j, k] else -w for k, w in enumerate(weights))
            assert float(found[i, j]) == pytest.approx(total / sum(abs(w) for w in weights), abs=1e-6)


def test_agreement_by_hand() -> None:
    """Weights 3, -1 and 0: a sum of 2 is half of all, and of a query without weights nothing is divided by zero."""
    weights = torch.tensor([[3.0, -1.0, 0.0], [0.0, 0.0, 0.0]])
    assert agreement(torch.tensor([[2.0, -4.0], [0.0, 0.0]]), weights).tolist() == [[0.5, -1.0], [0.0, 0.0]]


def spreads(x: Tensor, labels: Tensor) -> tuple[Any, Any]:
    """Within classes, the mean over pictures; between them, the mean over classes, each counted once."""
    points, of = doubles(x), labels.tolist()
    means = {c: np.mean([p for p, label in zip(points, of, strict=True) if label == c], axis=0) for c in set(of)}
    middle = np.mean(list(means.values()), axis=0)
    within = sum(np.outer(p - means[c], p - means[c]) for p, c in zip(points, of, strict=True)) / len(of)
    between = sum(np.outer(m - middle, m - middle) for m in means.values()) / len(means)
    return within, between


@pytest.mark.parametrize("shrinkage", [0.5, 3.0])
def test_discriminant_directions_solve_fishers_eigenproblem(shrinkage: float) -> None:
    """between v = l (within + shrinkage * mean spread) v, of length 1 in what it is divided by, times l ** (1 / 4)."""
    labels = torch.tensor([4, 1, 1, 1, 0, 0, 4, 4, 4, 2, 2, 2])
    x = drawn(12, 4, seed=0) * torch.tensor([3.0, 1.0, 0.5, 2.0]) + drawn(5, 4, seed=1)[labels]
    within, between = spreads(x, labels)
    within = within + shrinkage * np.trace(within) / 4 * np.eye(4)
    values, vectors = scipy.linalg.eigh(between, within)
    expected = (vectors * np.maximum(values, 0) ** 0.25)[:, ::-1]
    found = doubles(discriminant(x, labels, 3, shrinkage))
    for k in range(3):
        np.testing.assert_allclose(found[:, k] * np.sign(found[0, k] * expected[0, k]), expected[:, k], atol=1e-5)
    small = doubles(discriminant(x / 100, labels, 3, shrinkage))
    np.testing.assert_allclose(np.abs(small), 100 * np.abs(found), rtol=1e-3, atol=1e-4)  # of any scale
    assert torch.equal(discriminant(x, labels, 6), torch.nn.functional.pad(discriminant(x, labels, 4), (0, 2)))


def test_the_default_shrinkage_is_three_mean_spreads() -> None:
    x, labels = drawn(20, 4, seed=0), torch.arange(20) % 3
    assert torch.equal(discriminant(x, labels, 4), discriminant(x, labels, 4, 3.0))


def test_codes_are_fitted_to_what_each_modality_is_off_its_own_mean() -> None:
    """A rotation leaves the lengths of what it rotates: projection times its transpose is that of the directions."""
    labels = torch.arange(36) % 4
    sketches, photos = drawn(24, 6, seed=0) + 2, 3 * drawn(12, 6, seed=1) - 1
    fitted = CodeHead(6, 8)
    fitted.fit(sketches, photos, labels)
    means = [doubles(sketches).mean(0), doubles(photos).mean(0)]
    np.testing.assert_allclose(fitted.mean, means, atol=1e-6)
    x = torch.tensor(np.concatenate([doubles(sketches) - means[0], doubles(photos) - means[1]]))
    directions = doubles(discriminant(x.float(), labels, 8))
    projection = doubles(fitted.projection)
    np.testing.assert_allclose(projection @ projection.T, directions @ directions.T, atol=1e-5)


def test_itq_ends_at_the_rotation_that_is_nearest_to_its_own_signs() -> None:
    """Of all rotations of the principal directions it is the one that the signs under it ask for (Procrustes)."""
    x = drawn(60, 5, seed=0) @ torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5, 0.1])) + 1
    mean, projection = itq(x, 3)
    centred = doubles(x) - doubles(x).mean(0)
    np.testing.assert_allclose(mean, doubles(x).mean(0), atol=1e-6)
    principal = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :3]
    rotation = principal.T @ doubles(projection)
    np.testing.assert_allclose(principal @ rotation, projection, atol=1e-5)  # it lies in the three largest
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-5)
    projected = centred @ principal
    u, _, vh = np.linalg.svd(projected.T @ np.where(projected @ rotation >= 0, 1.0, -1.0))
    np.testing.assert_allclose(rotation, u @ vh, atol=1e-5)


def test_itq_of_a_single_embedding_is_refused() -> None:
    with pytest.raises(ValueError, match="ITQ needs at least 2 embeddings, got 1"):
        itq(torch.ones(1, 4), 2)
    assert itq(drawn(2, 4, seed=0), 2)[1].isfinite().all()


def test_codes_of_a_single_class_are_of_what_its_pictures_differ_in() -> None:
    x = torch.randn(60, 24, generator=torch.manual_seed(0))
    head = CodeHead(24, 32)
    head.fit(x[:30], x[30:], torch.zeros(60, dtype=torch.long))
    assert head.fitted and 10 < pack(head(x[30:], "photo")).unique(dim=0).shape[0]


def test_codes_are_packed_and_unpacked() -> None:
    bits = torch.rand(20, 64, generator=torch.manual_seed(1)) < 0.5
    packed = pack(bits)
    assert packed.dtype == torch.uint8 and packed.shape == (20, 8)
    np.testing.assert_array_equal(np.unpackbits(packed.numpy(), axis=1, bitorder="little"), bits.numpy())
    assert torch.equal(unpack(packed), bits)


def test_itq_keeps_more_than_the_signs_of_principal_directions() -> None:
    """Its aim is the loss of quantisation, on anisotropic data, for codes shorter and longer than the space."""
    generator = torch.manual_seed(2)
    x = torch.randn(500, 24, generator=generator) @ torch.diag(torch.linspace(3, 0.2, 24)) + 1.5
    mean, projection = itq(x, 16)
    np.testing.assert_allclose(mean, x.mean(0), atol=1e-5)
    principal = torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:16].T

    def loss(projected: torch.Tensor) -> float:
        return float((projected - projected.sign()).square().mean())

    assert loss((x - mean) @ projection) < 0.95 * loss((x - mean) @ principal)
    torch.testing.assert_close(projection.T @ projection, torch.eye(16), atol=1e-4, rtol=1e-4)
    _, longer = itq(x, 128, steps=2)
    assert longer.shape == (24, 128)
    # 24 orthonormal directions and 104 random ones of unit length, rotated together
    assert float(longer.square().sum()) == pytest.approx(24 + 104, rel=0.15)


def test_learned_codes_tell_unseen_classes_apart_better_than_itq() -> None:
    """Classes differ in a few directions, pictures of a class most in others, and each modality stands elsewhere."""
    generator = torch.manual_seed(3)
    telling, misleading = torch.linalg.qr(torch.randn(96, 96, generator=generator)).Q.split([24, 72], dim=1)

    def drawn(labels: torch.Tensor, centres: torch.Tensor, offset: float) -> torch.Tensor:
        own = centres[labels] + 0.3 * torch.randn(len(labels), 24, generator=generator)
        return own @ telling.T + 1.2 * torch.randn(len(labels), 72, generator=generator) @ misleading.T + offset

    seen, unseen = torch.randn(40, 24, generator=generator), torch.randn(15, 24, generator=generator)
    labels, asked = torch.arange(800) % 40, torch.arange(150) % 15
    sketches, photos = drawn(labels, seen, 0.5), drawn(labels, seen, -0.2)
    learned, baseline = CodeHead(96, 64), CodeHead(96, 64)
    assert not learned.fitted
    learned.fit(sketches, photos, torch.cat([labels, labels]))
    baseline.fit_itq(torch.cat([sketches, photos]))
    assert learned.fitted
    queries, gallery = drawn(asked, unseen, 0.5), drawn(asked, unseen, -0.2)

    def precision(head: CodeHead) -> float:
        distance = (head(queries, "sketch")[:, None] != head(gallery, "photo")[None]).sum(2)
        nearest = distance.argsort(dim=1, stable=True)[:, :10]
        return float((asked[nearest] == asked[:, None]).float().mean())

    assert precision(learned) > precision(baseline) + 0.1
    for modality, x in (("sketch", sketches), ("photo", photos)):
        share = learned(x, modality).float().mean(0)  # type: ignore[arg-type]
        assert (share - 0.5).abs().max() < 0.1, "every bit is on for half of either"
    assert discriminant(torch.randn(50, 8), torch.arange(50) % 4, 6)[:, 3:].abs().max() < 1e-3, "4 classes differ in 3"


def test_codes_of_a_collapsed_network_are_finite() -> None:
    """The pictures of a class are one vector: nothing to shrink, and no matrix that has no inverse."""
    labels = torch.arange(8).repeat_interleave(4)
    x = torch.randn(8, 16, generator=torch.manual_seed(0))[labels]
    head = CodeHead(16, 32)
    head.fit(x, x, torch.cat([labels, labels]))
    assert head.fitted and head.projection.isfinite().all()
    assert discriminant(torch.ones(32, 16), labels, 32).isfinite().all()
