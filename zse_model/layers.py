"""Attention layers and the learnable tokenizer, small and explicit. Leading axes are free and broadcast.

That is how one cross-attention serves training (pairs as rows) and scoring (sketches [q, 1, n, d] against photos
[1, g, n, d]): what depends on one picture alone is computed once per picture, only the rest per pair.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Wiring: TypeAlias = Literal["released", "figure", "standard"]
Layout: TypeAlias = Literal["spatial", "released"]
# Which picture the keys and the values of cross-attention come from; queries and residual are always its own,
# except for `figure`, which asks with the other's queries. (q, k, v), zse_sbir section D.
WIRINGS: dict[str, tuple[str, str, str]] = {
    "released": ("own", "other", "own"),
    "figure": ("other", "own", "own"),
    "standard": ("own", "other", "other"),
}


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention; q [..., n, d], k and v [..., m, d], leading axes broadcast -> [..., n, d]."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(-2, -3) for x in (q, k, v))
    if q.dim() == 4 and q.shape[0] == k.shape[0] == v.shape[0]:
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    else:
        weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(dim=-1)
        out = (F.dropout(weights, dropout) if dropout else weights) @ v
    return out.transpose(-2, -3).flatten(-2)


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

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        x = x + self.dropout(self.out(attend(q, k, v, self.heads)))
        return x + self.mlp(self.norm2(x))


class TokenNorm(nn.Module):
    """gain * (x - mean) / (std + eps) + bias over the last axis, std unbiased and eps outside the root (section D).

    What published weights expect: `nn.LayerNorm` has the biased std. It is one fused pass, this is four; so only the
    `released` cross-attention, which exists for published weights, has this one.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim)), eps

    def forward(self, x: Tensor) -> Tensor:
        std, mean = torch.std_mean(x, dim=-1, keepdim=True)
        return torch.addcmul(self.bias, self.weight, (x - mean) / (std + self.eps))


class CrossAttention(nn.Module):
    """One direction of cross-attention: tokens of one picture, informed by another's. Post-norm, ReLU feed-forward."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float, wiring: Wiring) -> None:
        super().__init__()
        if wiring not in WIRINGS:
            raise ValueError(f"Unknown cross_attention {wiring!r}. Known: {sorted(WIRINGS)}")
        if dim % heads:
            raise ValueError(f"dim {dim} is not divisible by {heads} heads")
        self.heads, self.p, self.sources = heads, dropout, WIRINGS[wiring]
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))
        norm = TokenNorm if wiring == "released" else nn.LayerNorm
        self.norm1, self.norm2 = norm(dim), norm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """own [..., n, d], other [..., m, d], leading axes broadcast -> [..., n, d].

        `released` and `figure` need n = m: their attention weights of one picture address tokens of the other.
        """
        if self.sources != WIRINGS["standard"] and own.shape[-2] != other.shape[-2]:
            raise ValueError(
                f"This cross-attention needs equally many tokens on both sides, got {own.shape[-2]} and "
                f"{other.shape[-2]}; use cross_attention: standard"
            )
        of = {"own": own, "other": other}
        q, k, v = (project(of[source]) for project, source in zip((self.q, self.k, self.v), self.sources, strict=True))
        h = self.norm1(own + self.dropout(self.out(attend(q, k, v, self.heads, self.p if self.training else 0.0))))
        return self.norm2(h + self.dropout(self.ffn(h)))


class OverlappingTokenizer(nn.Module):
    """Four convolutions that cut a sketch into overlapping 35 px regions at stride 16 (zse_sbir section A).

    float [b, 3, h, w] -> [b, (h/16)*(w/16), dim]. Thin strokes are seen whole, where a 16 px patch cuts them.
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
        return self.convolutions(x).flatten(2).transpose(1, 2)


class RelationHead(nn.Module):
    """Cosine kernel between the local tokens of two pictures, read by a small perceptron (zse_sbir section F).

    sketch and photo tokens [..., n, d], row-major over `grid`, give one logit per pair [...]. `pool` joins 2x2
    neighbourhoods by a strided convolution first; only where it leaves 49 anchors or more.

    `layout: released` reads the tokens [n, d] as maps [d, rows, columns] without transposing, as the published code
    does: its anchors are mixtures of all tokens, not regions. Published weights need it, nothing else should.
    """

    def __init__(
        self, dim: int, grid: tuple[int, int], dropout: float, pool: bool, pooled_dim: int, layout: Layout = "spatial"
    ) -> None:
        super().__init__()
        if layout == "released" and not pool:
            raise ValueError("layout: released is about what the strided convolution reads; it needs pool: true")
        self.grid, self.layout = grid, layout
        n = grid[0] * grid[1]
        self.convolution: nn.Conv2d | None = None
        if pool:
            n = (grid[0] // 2) * (grid[1] // 2)
            if n < 49:
                raise ValueError(f"pool leaves {n} anchors of a {grid[0]}x{grid[1]} grid; at least 49 are needed")
            self.convolution = nn.Conv2d(dim, pooled_dim, 2, stride=2)
        widths = (n * n, round(n * n**0.5), n, 1)
        layers: list[nn.Module] = []
        for i in range(3):
            layers += [nn.Linear(widths[i], widths[i + 1]), nn.ReLU(), nn.Dropout(dropout)]
        self.perceptron = nn.Sequential(*layers[:-2])

    def anchors(self, tokens: Tensor) -> Tensor:
        """[..., n, d] -> L2-normalised local descriptors [..., anchors, d']."""
        if self.convolution is not None:
            lead = tokens.shape[:-2]
            maps = tokens.reshape(-1, *tokens.shape[-2:])
            if self.layout == "spatial":
                maps = maps.transpose(1, 2).unflatten(2, self.grid)
            else:
                maps = maps.reshape(len(maps), -1, *self.grid)
            tokens = self.convolution(maps).flatten(2).transpose(1, 2).unflatten(0, lead)
        return F.normalize(tokens, dim=-1)

    def kernel(self, sketch: Tensor, photo: Tensor) -> Tensor:
        """Cosine of every sketch anchor with every photo anchor: [..., anchors, anchors]."""
        return self.anchors(sketch) @ self.anchors(photo).transpose(-1, -2)

    def forward(self, sketch: Tensor, photo: Tensor) -> Tensor:
        return self.perceptron(self.kernel(sketch, photo).flatten(-2)).squeeze(-1)
