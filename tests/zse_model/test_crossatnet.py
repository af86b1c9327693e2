"""CrossATNet's own: masks, the class graph, codes and their distance, what is read of class vectors."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from tests.zse_model.test_methods import CLASSES, CNN, SIZE, batch, pictures
from zse_model.graph import class_graph
from zse_model.hashing import Hamming, itq
from zse_model.methods import CrossATNetConfig, create_method
from zse_model.methods.crossatnet import CrossATNet
from zse_model.scoring import score_all


def network(**changes: Any) -> CrossATNet:
    torch.manual_seed(0)
    config = CrossATNetConfig(**{"dim": 32, "vector_dim": 8, "neighbours": 1, "bits": 32, **changes})
    method = create_method("crossatnet", config, CNN, size=SIZE, classes=CLASSES).eval()
    assert isinstance(method, CrossATNet)
    return method


def test_the_class_graph_against_its_definition() -> None:
    vectors = torch.randn(9, 5, generator=torch.manual_seed(3))
    unit = (vectors / vectors.norm(dim=1, keepdim=True)).numpy()
    similar = unit @ unit.T
    expected = np.eye(9)
    for i in range(9):
        for j in [j for j in np.argsort(-similar[i]) if j != i][:2]:
            expected[i, j] = expected[j, i] = 1
    degree = expected.sum(1)
    np.testing.assert_allclose(class_graph(vectors, "knn", 2), expected / np.sqrt(np.outer(degree, degree)), atol=1e-6)


def test_a_spanning_tree_joins_all_classes_also_those_with_the_same_vector() -> None:
    vectors = torch.randn(6, 4, generator=torch.manual_seed(0))
    vectors[3] = vectors[1]
    joined = class_graph(vectors, "mst", 0) > 0
    assert int(joined.sum()) == 6 + 2 * 5 and joined[1, 3], "a tree of 6 nodes has 5 edges"
    reached = torch.linalg.matrix_power(joined.float(), 6) > 0
    assert reached.all()


def test_prototypes_follow_the_vectors_and_nothing_else_is_read() -> None:
    method = network()
    assert method.graph is not None
    vectors = torch.randn(CLASSES, 8)
    before = method.graph()
    method.set_class_vectors(vectors)
    assert not torch.allclose(before, method.graph())
    doubled = method.graph()
    method.set_class_vectors(2 * vectors)
    torch.testing.assert_close(method.graph(), doubled)
    with pytest.raises(ValueError, match=r"must be \[4, 8\], one a training class, got \[5, 8\]"):
        method.set_class_vectors(torch.randn(5, 8))


@torch.no_grad()
def test_a_photo_is_encoded_without_a_sketch_and_a_sketch_guides_its_mask() -> None:
    method = network()
    sketch, photo = (method.features(pictures(3, c), m).tokens for c, m in ((1, "sketch"), (3, "photo")))
    assert sketch is not None and photo is not None
    own, guided = method.mask(photo), method.guided_mask(sketch, photo)
    assert own is not None and guided is not None
    for mask in (own, guided):
        assert mask.shape == photo.shape[:2] and (mask > 0).all() and (mask < 1).all()
    moved = method.guided_mask(sketch.roll(1, 0), photo)
    assert moved is not None and not torch.allclose(moved, guided), "another sketch, another mask"
    shuffled = method.guided_mask(sketch.flip(1), photo)
    torch.testing.assert_close(shuffled, guided)
    assert network(attention=0).mask(photo) is None


def test_the_photos_own_mask_learns_from_the_guided_one_not_the_other_way() -> None:
    method = network(classification=0, graph=0, reconstruction=0, hash=0)
    method.train()(batch(4))["attention"].mean().backward()
    assert method.ask is not None and method.own_mask is not None
    assert method.ask.weight.grad is None
    assert next(method.own_mask.parameters()).grad is not None


def test_the_score_of_codes_is_their_hamming_distance() -> None:
    bits = torch.rand(20, 64, generator=torch.manual_seed(1)) < 0.5
    pictures = {"embedding": torch.where(bits, 1.0, -1.0)}
    scores = score_all(Hamming(torch.device("cpu"), lambda x: x > 0), pictures, pictures)
    distance = (bits[:, None] != bits[None]).sum(2)
    assert torch.equal(scores, 64 - 2 * distance.float())


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
    assert itq(x, 32)[1].shape == (24, 32)


def test_a_training_ends_with_the_baseline_codes() -> None:
    method = network()
    assert method.modes == ("ret", "hash-32")
    method.conclude(itertools.repeat(batch(4)))
    assert method.modes == ("ret", "hash-32", "itq-32")
    again = create_method("crossatnet", method.config, CNN, size=SIZE, classes=CLASSES)
    again.load_state_dict(method.state_dict())
    assert again.modes == method.modes


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="one of triplet, classification and graph must be above 0"):
        network(triplet=0, classification=0, graph=0)
    with pytest.raises(ValueError, match="bits must be 32, 64, 128 or 256, got 48"):
        network(bits=48)
    with pytest.raises(ValueError, match="neighbours: 3 of 4 classes; allowed are 1 to 2"):
        network(neighbours=3)
