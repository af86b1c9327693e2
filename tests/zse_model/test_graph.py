"""The graph of classes and the propagation along it, against matrices that are written down."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers.oracles import doubles, linear
from zse_model.graph import Edges, GraphEncoder, class_graph


def at(*degrees: float) -> Tensor:
    """Vectors of the plane in these directions, of lengths 1, 2, 3, ...: [c, 2]."""
    return torch.tensor(
        [[i * math.cos(math.radians(a)), i * math.sin(math.radians(a))] for i, a in enumerate(degrees, 1)]
    )


def test_the_nearest_neighbours_are_joined_either_way_round_by_hand() -> None:
    """The nearest of 0, 10, 30 and 90 degrees are 10, 0, 10 and 30: a path, whose ends have degree 2 with the loop."""
    found = class_graph(at(0, 10, 30, 90), "knn", 1)
    outer, inner = 1 / math.sqrt(2 * 3), 1 / 3
    expected = [[1 / 2, outer, 0, 0], [outer, 1 / 3, inner, 0], [0, inner, 1 / 3, outer], [0, 0, outer, 1 / 2]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_the_spanning_tree_is_of_the_nearest_by_hand() -> None:
    """The tree of 0, 40, 100 and 190 degrees is their path, in another order."""
    found = class_graph(at(100, 0, 190, 40), "mst", 0)
    inner, outer = 1 / 3, 1 / math.sqrt(2 * 3)
    expected = [[1 / 3, 0, outer, inner], [0, 1 / 2, 0, outer], [outer, 0, 1 / 2, 0], [inner, outer, 0, 1 / 3]]
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("neighbours", [1, 2, 4])
def test_the_graph_of_nearest_neighbours_equals_a_loop_over_pairs(neighbours: int) -> None:
    vectors = torch.randn(9, 5, generator=torch.manual_seed(3))
    unit = doubles(vectors / vectors.norm(dim=1, keepdim=True))
    expected = np.eye(9)
    for i in range(9):
        for j in sorted(set(range(9)) - {i}, key=lambda j: -unit[i] @ unit[j])[:neighbours]:
            expected[i, j] = expected[j, i] = 1
    degree = expected.sum(1)
    assert degree.min() < degree.max()
    found = class_graph(vectors, "knn", neighbours)
    np.testing.assert_allclose(found, expected / np.sqrt(np.outer(degree, degree)), atol=1e-6)


def test_a_spanning_tree_joins_all_classes_also_those_with_the_same_vector() -> None:
    vectors = torch.randn(6, 4, generator=torch.manual_seed(0))
    vectors[3] = vectors[1]
    joined = class_graph(vectors, "mst", 0) > 0
    assert int(joined.sum()) == 6 + 2 * 5 and joined[1, 3], "a tree of 6 nodes has 5 edges"
    reached = torch.linalg.matrix_power(joined.float(), 6) > 0
    assert reached.all()
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    apart = 1 - unit @ unit.T
    edges = list(itertools.combinations(range(6), 2))
    shortest = min(
        sum(float(apart[e]) for e in tree)
        for tree in itertools.combinations(edges, 5)
        if (torch.linalg.matrix_power(_joined(tree), 6) > 0).all()
    )
    assert sum(float(apart[e]) for e in edges if joined[e]) == pytest.approx(shortest, abs=1e-5)


def test_a_spanning_tree_joins_classes_at_a_distance_of_exactly_zero() -> None:
    joined = class_graph(torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]), "mst", 0) > 0
    assert joined[1, 2] and int(joined.sum()) == 3 + 2 * 2


def _joined(tree: Iterable[tuple[int, int]]) -> torch.Tensor:
    """0 and 1, [6, 6]."""
    joined = torch.eye(6)
    for a, b in tree:
        joined[a, b] = joined[b, a] = 1
    return joined


def test_neighbours_are_at_least_one_and_never_all_others() -> None:
    vectors = at(0, 10, 30, 90)
    for neighbours in (0, 3):
        with pytest.raises(ValueError, match=f"neighbours: {neighbours} of 4 classes; allowed are 1 to 2"):
            class_graph(vectors, "knn", neighbours)
    assert class_graph(vectors, "knn", 2).shape == (4, 4)


def placed(vectors: Tensor, edges: Edges = "knn") -> GraphEncoder:
    """Of three dimensions, with weights of either sign."""
    torch.manual_seed(0)
    encoder = GraphEncoder(len(vectors), vectors.shape[1], 3)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter)
    encoder.place(vectors, edges, 1)
    return encoder


@torch.no_grad()
def test_prototypes_of_a_path_by_hand() -> None:
    """One dimension, A (A relu(x w + b) u + d) number by number: a class is rectified before its neighbours see it."""
    encoder = GraphEncoder(3, 1, 1)
    encoder.vectors.copy_(torch.tensor([[1.0], [-1.0], [0.5]]))
    encoder.adjacency.copy_(torch.tensor([[0.5, 0.25, 0.0], [0.25, 0.5, 0.75], [0.0, 0.75, 1.0]]))
    for layer, weight, bias in ((encoder.inner, 2.0, 1.0), (encoder.outer, -3.0, 0.5)):
        layer.weight.fill_(weight), layer.bias.fill_(bias)
    # inner: 3, -1, 2; rectified: 3, 0, 2; propagated: 1.5, 2.25, 2; outer of those: -4, -6.25, -5.5.
    expected = [
        [0.5 * -4 + 0.25 * -6.25],
        [0.25 * -4 + 0.5 * -6.25 + 0.75 * -5.5],
        [0.75 * -6.25 + 1.0 * -5.5],
    ]
    torch.testing.assert_close(encoder(), torch.tensor(expected))


@torch.no_grad()
@pytest.mark.parametrize("edges", ["knn", "mst"])
def test_prototypes_are_two_graph_convolutions_by_explicit_matrices(edges: Edges) -> None:
    """Of five classes in two groups, which the tree joins and nearest neighbours do not."""
    vectors = at(0, 10, 100, 115, 235)
    encoder = placed(vectors, edges)
    adjacency = doubles(class_graph(vectors, edges, 1))
    assert (adjacency[1, 2] > 0) == (edges == "mst")
    unit = doubles(vectors / vectors.norm(dim=1, keepdim=True))

    def propagate(rows: list[np.ndarray]) -> list[np.ndarray]:
        return [sum((adjacency[i, j] * rows[j] for j in range(5)), np.zeros(3)) for i in range(5)]

    hidden = [np.maximum(linear(encoder.inner, row), 0) for row in unit]
    expected = propagate([linear(encoder.outer, row) for row in propagate(hidden)])
    assert any((row == 0).any() for row in hidden) and any((row > 0).any() for row in hidden)
    np.testing.assert_allclose(encoder(), expected, atol=1e-5)


@torch.no_grad()
def test_only_directions_of_class_vectors_count() -> None:
    vectors = at(0, 10, 30, 90)
    torch.testing.assert_close(placed(3 * vectors)(), placed(vectors)())
    assert not torch.allclose(placed(vectors.flip(0))(), placed(vectors)())


def test_class_vectors_of_another_shape_are_refused() -> None:
    for shape in ((5, 2), (4, 3)):
        with pytest.raises(
            ValueError, match=rf"must be \[4, 2\], one a training class, got \[{shape[0]}, {shape[1]}\]"
        ):
            placed(at(0, 10, 30, 90)).place(torch.randn(shape), "knn", 1)
