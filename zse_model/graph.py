"""Graphs over class vectors: which classes are near in meaning, and the propagation along them."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from zse_model.errors import ZseError
from zse_model.losses import normalised
from zse_model.precision import full_precision

Edges: TypeAlias = Literal["knn", "mst"]


def class_graph(vectors: Tensor, edges: Edges, neighbours: int) -> Tensor:
    """D^-1/2 (A + I) D^-1/2 over classes, float32 [c, c], symmetric (Kipf and Welling 2017, section 2).

    vectors: float32 [c, v]; only their directions count. `knn` joins a class with its `neighbours` nearest by cosine,
    either way round; `mst` is the minimum spanning tree of the cosine distances.
    Raises ValueError for so many neighbours that every class is joined with every other.
    """
    if edges == "knn" and not 0 < neighbours < len(vectors) - 1:
        raise ZseError(
            f"neighbours: {neighbours} of {len(vectors)} classes; allowed are 1 to {len(vectors) - 2}, with all others "
            "every class would have the same prototype"
        )
    unit = normalised(vectors)
    with full_precision(unit.device):
        similarity = unit @ unit.T
    adjacency = torch.zeros_like(similarity)
    if edges == "knn":
        nearest = similarity.fill_diagonal_(-torch.inf).topk(neighbours, dim=1).indices
        adjacency.scatter_(1, nearest, 1.0)
    else:
        from scipy.sparse.csgraph import minimum_spanning_tree

        # A distance of 0 is no edge to scipy, and two names may have one vector: 1 is added, which changes no tree.
        distance = (2 - similarity).clamp(min=1.0)
        adjacency = torch.from_numpy(minimum_spanning_tree(distance.numpy()).toarray()).ne(0).float()
    adjacency = torch.maximum(adjacency, adjacency.T)
    looped = adjacency.fill_diagonal_(1.0)
    scale = looped.sum(1).rsqrt()
    return scale[:, None] * looped * scale[None, :]


class GraphEncoder(nn.Module):
    """Two graph convolutions: class vectors [c, v] -> one prototype a class, [c, d]."""

    vectors: Tensor
    adjacency: Tensor

    def __init__(self, classes: int, vector_dim: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(classes, vector_dim))
        self.register_buffer("adjacency", torch.eye(classes))
        self.inner, self.outer = nn.Linear(vector_dim, dim), nn.Linear(dim, dim)

    def place(self, vectors: Tensor, edges: Edges, neighbours: int) -> None:
        """Set the classes' vectors [c, v] and the graph over them. Raises ValueError for another shape."""
        if vectors.shape != self.vectors.shape:
            raise ZseError(
                f"Class vectors must be {list(self.vectors.shape)}, one a training class, got {list(vectors.shape)}"
            )
        self.vectors.copy_(normalised(vectors))
        self.adjacency.copy_(class_graph(vectors.cpu(), edges, neighbours))

    def forward(self) -> Tensor:
        """One prototype a class, float32 [c, d], also under autocast."""
        with full_precision(self.vectors.device):
            return self.adjacency @ self.outer(self.adjacency @ self.inner(self.vectors).relu())
