"""Score pairs with the pair network of ZSE-SBIR: exact, and as fast as its matrix products.

Counted at ViT-B dimensions (197 tokens of 768, feed-forward 1024, pooled head): 3.65 GFLOP a pair as defined, of
which 1.39 are projections of one picture. They are computed once a picture (`precompute`), 2.25 remain
(`score`): 0.24 attention, 0.46 output projections, 1.24 feed-forward, 0.31 strided convolution. The variance in the
two norms is quadratic in the pair, so that the rest cannot be factored further.

Further savings: the row of the retrieval token is not computed (the relation network reads patches only); a sketch is
broadcast to its photos by stride, without a copy; pairs run in chunks whose activations stay in the cache; the relation
network's perceptron, which has the largest weights of a head without convolution, runs once for a sketch and a tile.

On a GPU bfloat16 is bound by memory bandwidth, not by matrix products: a compiler fuses the residuals, the norms and
the ReLU between the products. Measured on an H100 at ViT-B (benchmarks/gpu_h100.json): docs/scoring.md.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zse_model.layers import CrossAttention, RelationHead, TokenNorm, attend, check_counts
from zse_model.precision import full_precision
from zse_model.scoring import Encoding, Precision
from zse_model.transforms import Modality

# Bytes of the widest activation of a chunk of pairs, measured (docs/scoring.md).
CPU_CHUNK, GPU_CHUNK = 2**23, 2**29
# Longer chunks are cut to a multiple of this number of pairs. The strided convolution's product has 49 rows a pair: its
# matrices are not aligned for an odd number of pairs, and an H100 scores 9 % fewer pairs a second.
ALIGNED = 64
# A GPU's bfloat16 kernel is compiled for a chunk length after so many pairs in chunks of that length: by then compiling
# saves more than the 10 s that it takes. A kernel compiled for every length was slower than an uncompiled one.
COMPILE_AFTER = 2**22
TILE_BYTES = 2**29  # of a precomputed gallery tile


@dataclass(frozen=True, eq=False)
class Precomputed:
    """The part of the pair network that depends on one picture alone, for n pictures of one side."""

    residual: Tensor
    """[n, tokens, d], without the retrieval token; the output projection's bias is added."""
    own: dict[str, Tensor]
    """"q", "k", "v" that the cross-attention of this side reads from its own picture: [n, heads, tokens, e]"""
    other: dict[str, Tensor]
    """"q", "k", "v" that the cross-attention of the other side reads from this picture: [n, heads, tokens, e]"""

    def __len__(self) -> int:
        return len(self.residual)

    def take(self, rows: slice | Tensor) -> Precomputed:
        """Some of the pictures; a slice is a view."""
        own, other = ({name: x[rows] for name, x in parts.items()} for parts in (self.own, self.other))
        return Precomputed(self.residual[rows], own, other)

    def repeated(self, n: int) -> Precomputed:
        """One picture seen n times, by stride: nothing is copied."""
        own, other = (
            {name: x.expand(n, *x.shape[1:]) for name, x in parts.items()} for parts in (self.own, self.other)
        )
        return Precomputed(self.residual, own, other)


class Direction:
    """One direction of cross-attention, after its projections."""

    def __init__(self, layer: CrossAttention, dtype: torch.dtype) -> None:
        up, down = layer.ffn[0], layer.ffn[2]
        assert isinstance(up, nn.Linear) and isinstance(down, nn.Linear)
        self.out = _cast(layer.out.weight, dtype)
        self.up, self.up_bias, self.down, self.down_bias = (
            _cast(x, dtype) for x in (up.weight, up.bias, down.weight, down.bias)
        )
        self.norms = [_fused_norm(norm, dtype) for norm in (layer.norm1, layer.norm2)]
        self.attend = _attend_in_products if dtype == torch.bfloat16 and self.out.device.type == "cpu" else attend

    def __call__(self, own: Precomputed, other: Precomputed) -> Tensor:
        """Equally many pictures on both sides, or one residual for all -> [n, tokens, d]."""
        parts = own.own | other.other
        x = F.linear(self.attend(parts["q"], parts["k"], parts["v"]), self.out)
        x = self._norm(x.add_(own.residual), 0)
        y = F.linear(F.linear(x, self.up, self.up_bias).relu_(), self.down, self.down_bias)
        return self._norm(y.add_(x), 1)

    def _norm(self, x: Tensor, which: int) -> Tensor:
        weight, bias, eps = self.norms[which]
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


class PairScorer:
    """Logits of the relation network for every pair of precomputed sketches and photos; a `Scorer`.

    precision: bf16 computes everything but the perceptron in bfloat16. Logits are always float32.
    Source: cross-attention and kernel-based relation network of ZSE-SBIR (Lin et al., CVPR 2023); the order of the
    computation is our design (docs/scoring.md).
    """

    def __init__(
        self,
        sketch_attends: CrossAttention,
        photo_attends: CrossAttention,
        relation: RelationHead,
        *,
        precision: Precision = "fp32",
    ) -> None:
        self.layers: dict[Modality, CrossAttention] = {"sketch": sketch_attends, "photo": photo_attends}
        self.relation = relation
        self.device = sketch_attends.q.weight.device
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.sketch_side, self.photo_side = (Direction(x, self.dtype) for x in (sketch_attends, photo_attends))
        convolution = relation.convolution
        self.convolution: Tensor | None = None
        if convolution is not None:  # [d', 4 * d], neighbours major
            self.convolution = _cast(convolution.weight, self.dtype).permute(0, 2, 3, 1).flatten(1)
        self.bias = None if convolution is None or convolution.bias is None else _cast(convolution.bias, self.dtype)
        self.perceptron = [layer for layer in relation.perceptron if isinstance(layer, nn.Linear)]
        width = max(sketch_attends.q.in_features, self.sketch_side.up.shape[0])
        cache = GPU_CHUNK if self.device.type == "cuda" else CPU_CHUNK
        chunk = max(1, cache // (relation.tokens * width * self.dtype.itemsize))
        self.chunk = chunk if chunk < ALIGNED else chunk - chunk % ALIGNED
        bound_by_bytes = self.device.type == "cuda" and self.dtype == torch.bfloat16
        self.compile_after = COMPILE_AFTER if bound_by_bytes else math.inf
        self.seen: Counter[int] = Counter()
        self.compiled = torch.compile(self.kernel, dynamic=False, fullgraph=True)  # compiles when it is called first
        precomputed = 4 * relation.tokens * sketch_attends.q.in_features * self.dtype.itemsize
        self.tile = max(self.chunk, TILE_BYTES // precomputed)

    def reads(self, side: Modality) -> tuple[str, ...]:
        return ("tokens",)

    @torch.inference_mode()
    def precompute(self, pictures: Encoding, side: Modality) -> Precomputed:
        tokens = pictures["tokens"].to(self.device, torch.float32)
        mine, others = self.layers[side], self.layers["photo" if side == "sketch" else "sketch"]
        # In float32: this runs once a picture, and its rounding errors would enter every pair.
        with full_precision(self.device):
            own, other = mine.project(tokens, "own"), others.project(tokens, "other")
        for parts in (own, other):
            if "q" in parts:
                parts["q"] = parts["q"][..., 1:, :]
        residual = tokens[:, 1:] + mine.out.bias
        own, other = ({name: _cast(x, self.dtype) for name, x in parts.items()} for parts in (own, other))
        return Precomputed(_cast(residual, self.dtype), own, other)

    @torch.inference_mode()
    def score(self, queries: Precomputed, gallery: Precomputed, wanted: Tensor | None = None) -> Tensor:
        check_counts(self.layers["sketch"].sources, queries.residual, gallery.residual)
        scores = torch.full((len(queries), len(gallery)), -torch.inf, device=self.device)
        for row in range(len(queries)):
            sketch = queries.take(slice(row, row + 1))
            if wanted is None:
                columns: slice | Tensor = slice(None)
                chunks = [slice(i, i + self.chunk) for i in range(0, len(gallery), self.chunk)]
            else:
                columns = wanted[row].nonzero().flatten().to(self.device)
                chunks = [chunk for chunk in columns.split(self.chunk) if len(chunk)]
            with full_precision(self.device):  # `precision` sets the dtype, not autocast
                kernels = [self._kernel(sketch, gallery.take(chunk)) for chunk in chunks]
                if kernels:
                    scores[row, columns] = self._logits(torch.cat(kernels))
        return scores

    def kernel(self, sketch: Precomputed, photos: Precomputed) -> Tensor:
        """One sketch, n photos -> float32 [n, anchors, anchors]."""
        sketches = sketch.repeated(len(photos))
        ours = self._anchors(self.sketch_side(sketches, photos))
        theirs = self._anchors(self.photo_side(photos, sketches))
        return (ours @ theirs.transpose(1, 2)).float()

    def _kernel(self, sketch: Precomputed, photos: Precomputed) -> Tensor:
        """`kernel`, compiled for frequent numbers of photos; uncompiled if compiling fails."""
        self.seen[len(photos)] += len(photos)
        if self.seen[len(photos)] > self.compile_after:
            try:
                return self.compiled(sketch, photos)
            except Exception as error:  # no Triton, no C compiler, a compiler's defect: different classes
                self.compile_after = math.inf
                first = (str(error).strip().splitlines() or [""])[0]
                logging.getLogger(__name__).warning(
                    "Pairs are scored without a compiler, a quarter slower. %s: %s", type(error).__name__, first
                )
        return self.kernel(sketch, photos)

    def _anchors(self, tokens: Tensor) -> Tensor:
        """`RelationHead.anchors` of tokens [n, tokens, d], L2-normalised."""
        if self.convolution is None:
            return F.normalize(tokens, dim=-1)
        # One matrix product of gathered neighbourhoods, 14 to 23 % faster than a convolution of maps, which would
        # have to be transposed (`spatial`) or reordered (`released`).
        n, (rows, columns) = len(tokens), (size // 2 for size in self.relation.grid)
        if self.relation.layout == "released":
            patches = tokens.view(n, -1, rows, 2, columns, 2).permute(3, 5, 1, 0, 2, 4)
            patches = patches.reshape(-1, n * rows * columns).T
        else:
            patches = tokens.unflatten(1, self.relation.grid)[:, : 2 * rows, : 2 * columns]
            patches = patches.unflatten(2, (columns, 2)).unflatten(1, (rows, 2)).transpose(2, 3)
            patches = patches.reshape(n * rows * columns, -1)
        pooled = F.linear(patches, self.convolution, self.bias).view(n, rows * columns, -1)
        return F.normalize(pooled, dim=-1)

    def _logits(self, kernels: Tensor) -> Tensor:
        """float32 [n, anchors, anchors] -> [n], sketch index major."""
        x = kernels.flatten(1)
        for layer in self.perceptron[:-1]:
            x = layer(x).relu_()
        return self.perceptron[-1](x).squeeze(-1)


def _attend_in_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`attend` as two matrix products, for bfloat16 on a CPU: 0.70 ms a direction and pair. torch's fused attention
    takes 1.12 ms there, as in float32. Both round the weights to bfloat16."""
    n, heads, rows, width = q.shape
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    weights = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=width**-0.5).softmax(2)
    return (weights @ v).view(n, heads, rows, width).transpose(1, 2).flatten(2)


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.detach().to(dtype)


def _fused_norm(norm: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor, float]:
    """Weight, bias and eps of the layer norm of torch that equals `norm`.

    The published norm divides by the unbiased std, a constant factor, plus an eps of 1e-6 outside the root. Leaving
    this eps out changes tokens whose std is near 1, as after a residual, by one part in a million.
    """
    assert isinstance(norm, TokenNorm | nn.LayerNorm)
    weight, bias = norm.weight.detach(), norm.bias.detach()
    if isinstance(norm, TokenNorm):
        d = len(weight)
        return _cast(weight * ((d - 1) / d) ** 0.5, dtype), _cast(bias, dtype), 1e-12
    return _cast(weight, dtype), _cast(bias, dtype), norm.eps
