"""Graphs over class vectors: edges between classes of near meaning, and graph convolution along them."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from zse_model.errors import ZseError
from zse_model.losses import normalised
from zse_model.precision import full_precision

Edges: TypeAlias = Literal["knn", "mst"]


def class_graph(vectors: Tensor, edges: Edges, neighbours: int) -> Tensor:
    """The normalised adjacency D^-1/2 (A + I) D^-1/2 of classes, float32 [c, c], symmetric (Kipf and Welling 2017,
    section 2).

    vectors: float32 [c, v]; only their directions count. `knn` joins two classes if one is among the `neighbours`
    nearest of the other by cosine. `mst` is the minimum spanning tree of the cosine distances; it ignores `neighbours`.
    Raises ZseError for `knn` unless 0 < neighbours < c - 1.
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

        # scipy reads a distance of 0 as no edge, and two names may have one vector. Adding 1 leaves the tree equal.
        distance = (2 - similarity).clamp(min=1.0)
        adjacency = torch.from_numpy(minimum_spanning_tree(distance.numpy()).toarray()).ne(0).float()
    adjacency = torch.maximum(adjacency, adjacency.T)
    looped = adjacency.fill_diagonal_(1.0)
    scale = looped.sum(1).rsqrt()
    return scale[:, None] * looped * scale[None, :]


class GraphEncoder(nn.Module):
    """Two graph convolutions, A (A relu(X W1 + b1) W2 + b2): class vectors X [c, v] -> one prototype a class, [c, d].

    The ReLU is before the averaging over neighbours; in Kipf and Welling's network it is after (docs/crossatnet.md).
    """

    vectors: Tensor
    adjacency: Tensor

    def __init__(self, classes: int, vector_dim: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(classes, vector_dim))
        self.register_buffer("adjacency", torch.eye(classes))
        self.inner, self.outer = nn.Linear(vector_dim, dim), nn.Linear(dim, dim)

    def place(self, vectors: Tensor, edges: Edges, neighbours: int) -> None:
        """Set the classes' vectors, float32 [c, v], and the graph over them. Raises ZseError for another shape, and as
        `class_graph` does."""
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
