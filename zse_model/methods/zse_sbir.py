"""`zse_sbir`: Lin et al., "Zero-Shot Everything Sketch-Based Image Retrieval, and in Explainable Style", CVPR 2023.

Learnable tokenizer -> self-attention -> cross-attention between a sketch and a photo -> kernel-based relation network.
`ZseSbir.MODES` declares its retrieval modes; `late`, `fused`, `fused-late` and `rerank-K` are ours.

Deviations, ours: the relation head reads tokens as image regions (the published code mixes them); on a convolutional
backbone the tokens are its stride-16 and stride-32 maps, the retrieval token is learned and starts from the pooled
feature, and `depth` self-attention blocks of the method's own follow, all of whose branches start small; `ret` may
read the pooled feature instead; classification, contrast, distillation, late and late_distillation are extra losses, 0
in the paper's configuration.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zse_model.backbones import Backbone, BackboneConfig, Features, has_fixed_size, sketches_in
from zse_model.errors import ZseError
from zse_model.explanation.matches import MATCHES
from zse_model.explanation.patches import PATCHES
from zse_model.late import late_scores
from zse_model.layers import (
    CosineClassifier,
    CrossAttention,
    Layout,
    OverlappingTokenizer,
    RelationHead,
    SelfAttentionBlock,
    Wiring,
)
from zse_model.losses import item_means, nearest_other, normalised, soft_label_divergence, triplet
from zse_model.methods.base import Encoding, MethodConfig, Modality, TrainBatch
from zse_model.methods.codes import Coding, check_bits, code_modes
from zse_model.methods.distillation import Distillation
from zse_model.methods.fusion import fused
from zse_model.methods.global_embedding import contrast
from zse_model.methods.places import LATE, Placing
from zse_model.modes import RET, Mode
from zse_model.pair_scorer import PairScorer


@dataclass(frozen=True, kw_only=True)
class ZseSbirConfig(MethodConfig):
    """The defaults are the paper's for a transformer as backbone. `triplet`, `relation`, `classification`, `contrast`,
    `distillation`, `late` and `late_distillation` are weights of losses. 0 builds none of a loss's parameters: without
    `relation` there is no relation network and no mode that needs one, without `triplet` and `relation` no
    cross-attention, without `late` and `late_distillation` no places."""

    __pydantic_config__ = {"extra": "forbid"}

    tokenizer: Literal["sketch", "both", "none"] = "none"
    """Pictures whose patch embeddings are averaged with overlapping convolutions; vision transformers only."""
    keep_rates: tuple[float, ...] = ()
    """Share of its patches that each block of a vision transformer keeps: those with the most attention of the class
    token. Blocks beyond the list keep all. The authors' (1, 1, 1, 0.9, 1, 1, 0.9, 1, 1, 0.9) keeps 144 of 196 patches,
    after some epochs without selection (`start` of the experiment). Needs pool: false."""
    dim: int | None = None
    """Width of the tokens; None = the backbone's own (transformer) or 256 (maps)."""
    readout: Literal["token", "pooled"] = "token"
    """The vector that `ret` compares: the retrieval token, or the pooled feature of a convolutional backbone (ours),
    which keeps more of the pretraining in short trainings. Losses are of the token either way."""
    depth: int | None = None
    """Self-attention blocks after the backbone; None = 0 where it has a class token, else 2."""
    heads: int = 8
    ffn: int = 1024
    """Hidden width of the cross-attention's feed-forward."""
    cross_attention: Wiring = "standard"
    pool: bool = False
    """Join 2x2 tokens by a strided convolution before the kernel."""
    pooled_dim: int = 512
    layout: Layout = "spatial"
    """The input of the strided convolution: image regions, or the mixture of tokens in the published code."""
    dropout: float = 0.1
    negatives: Literal["item", "batch"] = "item"
    """The photo of a negative pair: the item's own negative, or the photo of another class in the worker's batch that
    is nearest by `ret`. Photos of other workers are not used: at ViT-B their tokens are 0.6 MB a pair, and as much for
    the gradients; an embedding is 3 KB."""
    triplet: float = 2.0
    margin: float = 1.0
    relation: float = 4.0
    classification: float = 0.0
    contrast: float = 0.0
    distillation: float = 0.0
    late: float = 0.0
    """InfoNCE of classes on the scores of `late`, as in `late_interaction`."""
    late_distillation: float = 0.0
    """What `late` learns of `rn`: of a sketch and all photos of a worker's batch, the divergence of the softmax of its
    scores from that of rn's logits. rn learns nothing by it. Needs `relation`."""
    late_temperature: float = 0.05
    """Of the scores in both."""
    late_distance: float = 0.0
    """What a match of `late` costs: this times the squared distance of its two places, with the picture's side as unit,
    is taken from their cosine."""
    place_dim: int = 64
    """Of the vector of a place."""
    temperature: float = 0.07
    scale: float = 16.0
    bits: int = 0
    """Of the codes, fitted when a training ends: 32, 64, 128 or 256; 0 = none."""
    dropped_units: tuple[int, ...] | None = None
    """Units of the pretrained classifier that are not distilled: those that name an unseen class. `zse` fills them in
    from the split; elsewhere distillation needs them, () where no class is unseen."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.triplet or self.relation or self.classification or self.contrast):
            raise ZseError(
                "zse_sbir: one of triplet, relation, classification and contrast must be above 0, to train the tokens"
            )
        if self.late_distillation and not self.relation:
            raise ZseError("zse_sbir: late_distillation teaches late what rn knows; it needs relation above 0")
        if self.layout == "released" and not self.pool:
            raise ZseError("layout: released is about what the strided convolution reads; it needs pool: true")
        check_bits("zse_sbir", self.bits)

    def width(self, backbone: Backbone) -> int:
        """Width of the tokens on a backbone."""
        return self.dim or (backbone.token_dim if backbone.is_transformer else 256)

    def blocks(self, backbone: Backbone) -> int:
        """Number of self-attention blocks after a backbone."""
        return (0 if backbone.has_class_token else 2) if self.depth is None else self.depth

    def validate(self, backbone: Backbone) -> None:
        """Raises ZseError for what cannot be built on a backbone."""
        name, dim = backbone.name, self.width(backbone)
        if self.blocks(backbone) == 0 and not backbone.has_class_token:
            raise ZseError(f"{name!r} has no class token: the retrieval token needs depth >= 1, got depth 0")
        if self.readout == "pooled" and backbone.is_transformer:
            raise ZseError(f"readout: pooled is for convolutional backbones, {name!r} is none; use token")
        if dim % self.heads:
            raise ZseError(f"dim {dim} is not divisible by {self.heads} heads")
        if self.tokenizer != "none":
            if not backbone.runs_in_parts:
                raise ZseError(f"tokenizer: {self.tokenizer} needs a vision transformer, {name!r} is none; use none")
            patch = tuple(backbone.model.patch_embed.patch_size)
            if patch != (16, 16):
                raise ZseError(f"tokenizer: {self.tokenizer} has stride 16, the patches of {name!r} are {patch}")
        if self.pool:
            self._validate_pool(backbone)

    def _validate_pool(self, backbone: Backbone) -> None:
        rows, columns = backbone.grid
        anchors = (rows // 2) * (columns // 2)
        if self.layout == "released" and (rows % 2 or columns % 2):
            raise ZseError(f"layout: released needs an even grid, as the published 14x14 is; got {rows}x{columns}")
        if backbone.tokens != rows * columns:
            raise ZseError(
                f"pool needs all {rows * columns} tokens of the grid, selection leaves {backbone.tokens}; pool: false"
            )
        if anchors < 49:
            raise ZseError(f"pool leaves {anchors} anchors of a {rows}x{columns} grid; at least 49 are needed")


MODES = (
    replace(
        RET,
        score="Cosine of the retrieval tokens before cross-attention, or of pooled features (`readout`).",
        explanation="ret is the cosine of one vector of each picture, at most 1. The vectors are made before "
        "cross-attention, so the correspondences and the synthesis below are not part of this score.",
    ),
    Mode(
        name="rn",
        score="Logit of the relation network, which reads both pictures after cross-attention.",
        explanation="rn is the relation network's logit for the pair. A logit has no bounds: compare it only between "
        "photos of one sketch. rn reads the similarities of all patches at once; the few that are drawn below do not "
        "sum up to it.",
        pair_network=True,
        ready=lambda method: method.config.relation > 0,
        lacking="rn needs a network trained with relation above 0.",
        scorer=lambda method, _, precision: PairScorer(
            method.sketch_attends, method.photo_attends, method.relation, precision=precision
        ),
    ),
    LATE,
    fused(
        "ret",
        "rn",
        needs="dataset.pseudo_unseen and relation above 0",
        explanation="fused is the weighted sum of ret and rn, with weights chosen on pseudo-unseen classes. Only its "
        "rn part depends on the correspondences below.",
    ),
    fused(
        "ret",
        "late",
        name="fused-late",
        needs="dataset.pseudo_unseen and late or late_distillation above 0",
        explanation="fused-late is the weighted sum of ret and late. Its late part is the sum of the matches below.",
        places=True,
    ),
    *code_modes(" The pictures below are not part of it."),
    Mode(
        name="rerank-K",
        score="The K best by ret, ranked by late if the network has it, else by rn.",
        pair_network=True,
        shortlist=("ret", "late", "rn"),
    ),
)


class ZseSbir(Placing, Coding):
    Config = ZseSbirConfig
    MODES = MODES
    EXPLAINERS = (PATCHES, MATCHES)
    config: ZseSbirConfig

    def __init__(
        self, config: ZseSbirConfig, backbone: BackboneConfig, *, size: int, classes: int, load_weights: bool = True
    ) -> None:
        super().__init__(config, backbone, size=size, classes=classes)
        c = config
        self.backbone = Backbone(
            backbone,
            size=size,
            tokens=True,
            pooled=not has_fixed_size(backbone.name) or c.readout == "pooled",
            classifier=c.distillation > 0,
            keep_rates=c.keep_rates,
            load_weights=load_weights,
        )
        c.validate(self.backbone)
        width, dim, depth = self.backbone.token_dim, c.width(self.backbone), c.blocks(self.backbone)
        self.tokenizer = OverlappingTokenizer(width) if c.tokenizer != "none" else None
        self.project = nn.Linear(width, dim) if dim != width else nn.Identity()
        self.ret = None if self.backbone.has_class_token else nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        # Maps come with a pooled feature that already knows classes: the retrieval token starts from it.
        pooled = 0 if self.backbone.is_transformer else self.backbone.pooled_dim
        self.pooled_proj = nn.Linear(pooled, dim) if pooled else None
        # Patches of a transformer have their positions already.
        maps = depth and not self.backbone.is_transformer
        self.positions = nn.Parameter(torch.randn(1, 1 + self.backbone.tokens, dim) * 0.02) if maps else None
        self.blocks = nn.Sequential(*(SelfAttentionBlock(dim, c.heads, 4 * dim, c.dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim) if depth else nn.Identity()
        self._build_pair_network(dim)
        if maps:
            # Then the first kernels are cosines of the backbone's own features, which are worth comparing. Measured on
            # pseudo-unseen classes after 110 steps: fused 0.282 against 0.262.
            for module in self.modules():
                if isinstance(module, SelfAttentionBlock | CrossAttention):
                    module.start_small()
        self.register_buffer("fusion", torch.zeros(2))
        self.local = None
        if c.late or c.late_distillation:
            self.local = self.build_local()
            self.register_buffer("fusion_late", torch.zeros(2))
        if c.classification:
            self.classifier = CosineClassifier(classes, dim, c.scale)
        if c.distillation:
            self.distillation = Distillation(classes, self.backbone.units, c.dropped_units)
        self.build_codes(self.backbone.pooled_dim if c.readout == "pooled" else dim)

    def _build_pair_network(self, dim: int) -> None:
        """Cross-attention, with separate weights for each direction, and the relation network."""
        c = self.config

        def direction() -> CrossAttention | None:
            attends = c.triplet or c.relation
            return CrossAttention(dim, c.heads, c.ffn, c.dropout, c.cross_attention) if attends else None

        self.sketch_attends, self.photo_attends = direction(), direction()
        self.relation: RelationHead | None = None
        if c.relation:
            tokens = self.backbone.tokens
            self.relation = RelationHead(dim, self.backbone.grid, c.dropout, c.pool, c.pooled_dim, c.layout, tokens)

    def features(self, images: Tensor, modality: Modality) -> Features:
        """uint8 [b, 1 or 3, s, s] -> tokens [b, 1 + n, dim], the retrieval token first, the pooled feature and, where
        tokens were selected, the grid cells of the n."""
        return self._with_tokens(self._seen(images, modality))

    def _seen(self, images: Tensor, modality: Modality) -> Features:
        """The backbone's own features."""
        tokenized = self.tokenizer is not None and (modality == "sketch" or self.config.tokenizer == "both")
        return self.backbone(images, self.tokenizer if tokenized else None, sketches=sketches_in(images, modality))

    def _with_tokens(self, features: Features) -> Features:
        """The backbone's features with the method's tokens in place of its own."""
        x = self.project(features.tokens)
        ret = self.project(features.cls)[:, None] if self.ret is None else self.ret.expand(len(x), -1, -1)
        if self.pooled_proj is not None:
            ret = ret + self.pooled_proj(features.pooled)[:, None]
        x = torch.cat([ret, x], dim=1)
        if self.positions is not None:
            x = x + self.positions
        return features._replace(tokens=self.norm(self.blocks(x)))

    def encode(self, images: Tensor, modality: Modality) -> Encoding:
        """-> "embedding" [b, dim or pooled_dim], by `readout`, L2-normalised, and "tokens" [b, 1 + n, dim], float32;
        after token selection also "positions", int64 [b, n]: the grid cell of each of the n patches; with `late` also
        "places", as `late_interaction` has them."""
        seen = self._seen(images, modality)
        features = self._with_tokens(seen)
        x = features.tokens
        assert x is not None
        read = features.pooled if self.config.readout == "pooled" else x[:, 0]
        assert read is not None
        embedding = normalised(read)
        encoding = {"embedding": embedding, **self.coded(embedding, modality), "tokens": x.float()}
        if features.positions is not None:
            encoding["positions"] = features.positions
        if self.local is not None and seen.tokens is not None:
            encoding["places"] = self.places(seen.tokens, images, modality)
        return encoding

    def cross_attend(self, sketch: Tensor, photo: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [b, 1 + n, dim] of both sides, row by row a pair -> the same after cross-attention. Needs `triplet` or
        `relation` above 0. For training: `scorer` does it faster for every sketch with every photo."""
        assert self.sketch_attends is not None and self.photo_attends is not None
        return self.sketch_attends(sketch, photo), self.photo_attends(photo, sketch)

    def losses(self, batch: TrainBatch) -> dict[str, Tensor]:
        c, b = self.config, len(batch)
        images, labels = batch.pictures()
        if self.tokenizer is None:
            seen: list[Features] = [self.backbone(images, sketches=2 * b)]
        else:
            seen = [self._seen(images[: 2 * b], "sketch"), self._seen(images[2 * b :], "photo")]
        both = [self._with_tokens(part) for part in seen]
        x = torch.cat([part.tokens for part in both if part.tokens is not None])

        losses: dict[str, Tensor] = {}
        embedding, photos = normalised(x[:, 0]), x[2 * b :]
        if c.negatives == "batch":
            hardest = hardest_negatives(embedding[b : 2 * b], embedding[2 * b :], labels[b : 2 * b], labels[2 * b :])
            photos = torch.cat([photos[:b], photos[hardest]])
        if c.triplet or c.relation:
            losses |= self._pair_losses(x[: 2 * b], photos)
        if self.local is not None:
            tokens = torch.cat([part.tokens for part in seen if part.tokens is not None])
            losses |= self._late_losses(*self.places_of_batch(tokens, images), x, labels)
        if self.classifier is not None:
            losses["classification"] = c.classification * item_means(self.classifier(embedding, labels), b)
        if c.contrast:
            losses["contrast"] = c.contrast * contrast(embedding, labels, c.temperature)
        if self.distillation is not None:
            pooled = torch.cat([part.pooled for part in both if part.pooled is not None])
            divergence = self.distillation(self.backbone.classify(pooled), labels)
            losses["distillation"] = c.distillation * item_means(divergence, b)
        return losses

    def _late_losses(self, sketches: Tensor, photos: Tensor, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """`places_of_batch`, tokens [4b, 1 + n, dim] and labels [4b] of a batch -> losses [b]."""
        c, b = self.config, len(labels) // 4
        losses: dict[str, Tensor] = {}
        if c.late:
            losses["late"] = c.late * self.late_contrast(sketches, photos, labels)
        if c.late_distillation:
            known = _EAGER(self, x[:b], x[2 * b :]).softmax(1)
            scores = late_scores(sketches[:b], photos, self.distance_costs)
            divergence = soft_label_divergence(scores / c.late_temperature, known)
            losses["late_distillation"] = c.late_distillation * divergence
        return losses

    def _pair_losses(self, sketches: Tensor, photos: Tensor) -> dict[str, Tensor]:
        """Tokens [2b, 1 + n, dim] of b pairs of a class, then of b pairs of two classes -> losses [b]."""
        c, b = self.config, len(sketches) // 2
        sketches, photos = self.cross_attend(sketches, photos)
        losses: dict[str, Tensor] = {}
        if c.triplet:
            anchor, positive, negative = sketches[:b, 0], photos[:b, 0], photos[b:, 0]
            losses["triplet"] = c.triplet * triplet(anchor, positive, negative, c.margin)
        if self.relation is not None:
            logits = self.relation(sketches[:, 1:], photos[:, 1:])
            # Filled on the device: a copy from the host would make it wait in every step.
            target = torch.cat([torch.full((b,), value, device=logits.device) for value in (0.99, 0.01)])
            losses["relation"] = c.relation * item_means((logits.float().sigmoid() - target).square(), b)
        return losses


@torch.no_grad()
def hardest_negatives(sketches: Tensor, photos: Tensor, sketch_labels: Tensor, photo_labels: Tensor) -> Tensor:
    """For each of sketches [b, d] the index of the nearest of photos [2b, d] with another label, int64 [b]; rows are
    L2-normalised. Where there is none, the item's own negative, in the second half of the photos."""
    own = torch.arange(len(sketches), 2 * len(sketches), device=photos.device)
    alone = (sketch_labels[:, None] == photo_labels).all(dim=1)
    return torch.where(alone, own, nearest_other(sketches, photos, sketch_labels, photo_labels))


@torch.no_grad()
def relation_logits(method: ZseSbir, sketches: Tensor, photos: Tensor) -> Tensor:
    """rn's logits for all pairs of tokens [a, 1 + n, dim] and [b, 1 + n, dim], without the dropout of the pair network:
    float32 [a, b]. It costs a * b pairs, without a gradient."""
    assert method.sketch_attends is not None and method.photo_attends is not None and method.relation is not None
    scorer = PairScorer(method.sketch_attends, method.photo_attends, method.relation)
    ours, theirs = scorer.precompute({"tokens": sketches}, "sketch"), scorer.precompute({"tokens": photos}, "photo")
    return scorer.score(ours, theirs).clone()  # an inference tensor cannot be kept for the backward pass


# torch.compile leaves it out: the scorer would break a compiled graph five times, this does once.
_EAGER: Any = torch.compiler.disable(relation_logits)
