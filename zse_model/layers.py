"""Attention layers, the learnable tokenizer and the relation head, small and explicit."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zse_model.errors import ZseError
from zse_model.losses import cosine_cross_entropy, normalised
from zse_model.precision import full_precision

Wiring: TypeAlias = Literal["released", "figure", "standard"]
Layout: TypeAlias = Literal["spatial", "released"]
# The picture that queries, keys and values of cross-attention come from; the residual is always its own. `released` is
# the published code of ZSE-SBIR, `figure` the figure of its paper, `standard` the usual cross-attention.
WIRINGS: dict[str, tuple[str, str, str]] = {
    "released": ("own", "other", "own"),
    "figure": ("other", "own", "own"),
    "standard": ("own", "other", "other"),
}


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[..., n, d] -> [..., heads, n, d/heads]."""
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3)


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention; q [b, heads, n, e], k and v [b, heads, m, e] -> [b, n, heads*e]."""
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).flatten(2)


def _shrink(*outputs: nn.Module, scale: float = 0.1) -> None:
    with torch.no_grad():
        for output in outputs:
            for parameter in output.parameters():
                parameter.mul_(scale)


class SelfAttentionBlock(nn.Module):
    """Pre-norm transformer block on [b, n, d]; dropout on both branches, none on the attention weights."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim), nn.Dropout(dropout)
        )
        self.dropout = nn.Dropout(dropout)

    def start_small(self) -> None:
        """Shrink both branches: a new block begins near the identity (ours)."""
        _shrink(self.out, self.mlp[3])

    def forward(self, x: Tensor) -> Tensor:
        """[b, n, dim] -> [b, n, dim]."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        x = x + self.dropout(self.out(attend(q, k, v)))
        return x + self.mlp(self.norm2(x))


class TokenNorm(nn.Module):
    """gain * (x - mean) / (std + eps) + bias over the last axis [..., dim], std unbiased and eps outside the root.

    The published weights of ZSE-SBIR expect it: `nn.LayerNorm` has the biased std. Only the `released` cross-attention
    uses it: it is four passes over memory, `nn.LayerNorm` is one.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim)), eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] -> float32 [..., dim]."""
        x = x.float()  # as nn.LayerNorm under autocast
        std, mean = torch.std_mean(x, dim=-1, keepdim=True)
        return torch.addcmul(self.bias, self.weight, (x - mean) / (std + self.eps))


class CrossAttention(nn.Module):
    """One direction of cross-attention: tokens of one picture, updated by those of another. Post-norm, ReLU
    feed-forward (the cross-attention of ZSE-SBIR)."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float, wiring: Wiring) -> None:
        """`dim` is a multiple of `heads`."""
        super().__init__()
        self.heads, self.p, self.sources = heads, dropout, WIRINGS[wiring]
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))
        norm = TokenNorm if wiring == "released" else nn.LayerNorm
        self.norm1, self.norm2 = norm(dim), norm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self.dropout = nn.Dropout(dropout)

    def start_small(self) -> None:
        """Shrink both branches: a new layer begins near its norms (ours)."""
        _shrink(self.out, self.ffn[2])

    def project(self, tokens: Tensor, whose: Literal["own", "other"]) -> dict[str, Tensor]:
        """Those of "q", "k", "v" that are read from this picture: [b, n, d] -> [b, heads, n, d/heads] each."""
        layers = {"q": self.q, "k": self.k, "v": self.v}
        return {
            name: split_heads(layers[name](tokens), self.heads)
            for name, source in zip("qkv", self.sources, strict=True)
            if source == whose
        }

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """own [b, n, d], other [b, m, d], row by row a pair -> [b, n, d].

        `released` and `figure` need n = m: their attention weights of one picture address tokens of the other.
        """
        check_counts(self.sources, own, other)
        parts = self.project(own, "own") | self.project(other, "other")
        attended = attend(parts["q"], parts["k"], parts["v"], self.p if self.training else 0.0)
        h = self.norm1(own + self.dropout(self.out(attended)))
        return self.norm2(h + self.dropout(self.ffn(h)))


def check_counts(sources: tuple[str, str, str], own: Tensor, other: Tensor) -> None:
    """Raises ZseError where a wiring needs equally many tokens [..., n, d] of both pictures and the numbers differ."""
    if sources != WIRINGS["standard"] and own.shape[-2] != other.shape[-2]:
        raise ZseError(
            f"This cross-attention needs equally many tokens on both sides, got {own.shape[-2]} and "
            f"{other.shape[-2]}; use cross_attention: standard"
        )


class CosineClassifier(nn.Module):
    """Classification by the scaled cosine with one learned prototype a class; `scale` is above 0."""

    def __init__(self, classes: int, dim: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.prototypes = nn.Parameter(torch.randn(classes, dim) * dim**-0.5)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Embeddings [n, dim] of classes int64 [n] -> cross entropy, float32 [n]."""
        return cosine_cross_entropy(x, self.prototypes, labels, self.scale)


class OverlappingTokenizer(nn.Module):
    """Four convolutions over overlapping 35 px regions at stride 16 (the learnable tokenizer of ZSE-SBIR).

    A region holds thin strokes whole that a 16 px patch cuts.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        widths = (3, 64, 128, 256, dim)
        layers: list[nn.Module] = []
        for i in range(4):
            kernel = 7 if i == 0 else 3
            layers += [
                nn.Conv2d(widths[i], widths[i + 1], kernel, stride=2, padding=kernel // 2, bias=False),
                nn.ReLU(),
            ]
        self.convolutions = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """float [b, 3, h, w] -> [b, (h/16)*(w/16), dim], row-major."""
        return self.convolutions(x).flatten(2).transpose(1, 2)


class RelationHead(nn.Module):
    """A perceptron over the cosine kernel between the patch tokens of two pictures (the relation network of ZSE-SBIR).

    `pool` first joins 2x2 neighbourhoods by a strided convolution, which needs all tokens of the grid. `tokens` is the
    number of tokens where token selection keeps fewer than the grid has. The perceptron is n*n -> round(n*sqrt(n)) -> n
    -> 1 for n anchors.

    `layout: released` reads the tokens [n, d] as maps [d, rows, columns] without transposing, as the published code
    does, on an even grid: its anchors are mixtures of all tokens, not regions. It is for published weights only.
    """

    def __init__(
        self,
        dim: int,
        grid: tuple[int, int],
        dropout: float,
        pool: bool,
        pooled_dim: int,
        layout: Layout = "spatial",
        tokens: int | None = None,
    ) -> None:
        super().__init__()
        self.grid, self.layout = grid, layout
        self.tokens = n = tokens or grid[0] * grid[1]
        self.convolution: nn.Conv2d | None = None
        if pool:
            n = (grid[0] // 2) * (grid[1] // 2)
            self.convolution = nn.Conv2d(dim, pooled_dim, 2, stride=2)
        widths = (n * n, round(n * n**0.5), n, 1)
        layers: list[nn.Module] = []
        for i in range(3):
            layers += [nn.Linear(widths[i], widths[i + 1]), nn.ReLU(), nn.Dropout(dropout)]
        self.perceptron = nn.Sequential(*layers[:-2])

    def anchors(self, tokens: Tensor) -> Tensor:
        """[b, n, d] -> L2-normalised local descriptors, float32 [b, anchors, d']."""
        if self.convolution is not None:
            spatial = self.layout == "spatial"
            maps = tokens.transpose(1, 2) if spatial else tokens.reshape(len(tokens), tokens.shape[2], -1)
            tokens = self.convolution(maps.unflatten(2, self.grid)).flatten(2).transpose(1, 2)
        return normalised(tokens)

    def kernel(self, sketch: Tensor, photo: Tensor) -> Tensor:
        """Tokens [b, n, d] of both sides -> the cosine of every sketch anchor with every photo anchor of the pair,
        float32 [b, anchors, anchors]."""
        ours, theirs = self.anchors(sketch), self.anchors(photo)
        with full_precision(ours.device):
            return ours @ theirs.transpose(-1, -2)

    def forward(self, sketch: Tensor, photo: Tensor) -> Tensor:
        """Tokens of both sides [b, n, dim], row-major over the grid, row by row a pair -> logits [b]."""
        return self.perceptron(self.kernel(sketch, photo).flatten(-2)).squeeze(-1)
