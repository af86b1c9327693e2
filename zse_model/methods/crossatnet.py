"""`crossatnet`: after Chaudhuri et al., "CrossATNet - A Novel Cross-Attention Based Framework for Sketch-Based Image
Retrieval", Image and Vision Computing 2020 (arXiv 2104.09918). A RECONSTRUCTION: no code was published.

The abstract states: a cross-modal triplet loss, attention by which the sketch guides the reading of the photo, a graph
CNN that brings the class topology into the shared space, hash codes for fast retrieval, no unseen class in training.
How each is done here is ours, and distillation is an addition.

A photo in a gallery has no sketch. So the photo branch also predicts a mask of its own, trained to follow the
sketch-guided mask. A gallery is then encoded once, and retrieval is a dot product or a Hamming distance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zse_model.backbones import Backbone, BackboneConfig, Features, sketches_in
from zse_model.errors import ZseError
from zse_model.explanation.masks import MASKS
from zse_model.gather import gathered
from zse_model.graph import Edges, GraphEncoder
from zse_model.layers import CosineClassifier
from zse_model.losses import cosine_cross_entropy, item_means, nearest_other, normalised, triplet
from zse_model.methods.base import Encoding, MethodConfig, Modality, TrainBatch
from zse_model.methods.codes import RERANK_CODES, Coding, check_bits, code_modes
from zse_model.methods.distillation import Distillation
from zse_model.modes import RET
from zse_model.precision import full_precision


@dataclass(frozen=True, kw_only=True)
class CrossATNetConfig(MethodConfig):
    """`triplet`, `attention`, `graph`, `classification`, `reconstruction` and `distillation` are weights of losses. 0
    builds none of a loss's parameters."""

    __pydantic_config__ = {"extra": "forbid"}

    dim: int = 512
    """Of the shared space."""
    share_backbone: bool = True
    """One backbone for sketches and photos, or one each."""
    triplet: float = 1.0
    margin: float = 0.5
    """Of the triplets, between normalised embeddings: distances are 0 to 2."""
    attention: float = 1.0
    """How strongly a photo's own mask follows the sketch-guided one; 0 = no masks."""
    attention_dim: int = 128
    """Of queries and keys."""
    graph: float = 1.0
    class_vectors: str = "random"
    """URL of vectors of the training classes: word2vec or GloVe text or binary, fastText .vec, or .npz[#array]."""
    vector_dim: int = 300
    """Of the class vectors; filled in from the file."""
    edges: Edges = "knn"
    neighbours: int = 5
    classification: float = 1.0
    scale: float = 16.0
    """Of the cosines that are the logits of classification and graph."""
    reconstruction: float = 1.0
    bits: int = 64
    """Of the codes, fitted when a training ends: 32, 64, 128 or 256; 0 = none."""
    distillation: float = 0.0
    dropped_units: tuple[int, ...] | None = None
    """Units of the pretrained classifier that are not distilled: those that name an unseen class. `zse` fills them in
    from the split; elsewhere distillation needs them, () where no class is unseen."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.triplet or self.classification or self.graph):
            raise ZseError("crossatnet: one of triplet, classification and graph must be above 0, to shape the space")
        check_bits("crossatnet", self.bits)


class CrossATNet(Coding):
    Config = CrossATNetConfig
    MODES = (
        RET,
        *code_modes(" The masks show the weight of each place in the photo's embedding."),
        RERANK_CODES,
    )
    EXPLAINERS = (MASKS,)
    config: CrossATNetConfig

    def __init__(
        self, config: CrossATNetConfig, backbone: BackboneConfig, *, size: int, classes: int, load_weights: bool = True
    ) -> None:
        if backbone.modality_blocks and not config.share_backbone:
            raise ZseError(
                "crossatnet with share_backbone: false has a backbone for each modality. Set "
                "backbone.modality_blocks to 0"
            )
        super().__init__(config, backbone, size=size, classes=classes)
        c = config

        def build() -> Backbone:
            return Backbone(
                backbone, size=size, pooled=True, tokens=True, classifier=c.distillation > 0, load_weights=load_weights
            )

        self.backbone = build()
        self.sketch_backbone = None if c.share_backbone else build()
        pooled, width = self.backbone.pooled_dim, self.backbone.token_dim
        self.global_proj, self.local_proj = nn.Linear(pooled, c.dim), nn.Linear(width, c.dim, bias=False)
        # A photo's places ask (queries) what of them is in the sketch's places (keys).
        self.query_proj = nn.Linear(width, c.attention_dim) if c.attention else None
        self.key_proj = nn.Linear(width, c.attention_dim) if c.attention else None
        self.own_mask: nn.Module | None = None
        if c.attention:
            self.own_mask = nn.Sequential(nn.Linear(width, c.attention_dim), nn.ReLU(), nn.Linear(c.attention_dim, 1))
        if c.classification:
            self.classifier = CosineClassifier(classes, c.dim, c.scale)
        self.graph: GraphEncoder | None = None
        if c.graph:
            self.graph = GraphEncoder(classes, c.vector_dim, c.dim)
            generator = torch.Generator().manual_seed(0)
            vectors = torch.randn(classes, c.vector_dim, generator=generator, device="cpu")
            self.graph.place(vectors, c.edges, c.neighbours)
        self.to_photo = nn.Linear(c.dim, pooled) if c.reconstruction else None
        self.to_sketch = nn.Linear(c.dim, pooled) if c.reconstruction else None
        self.build_codes(c.dim)
        if c.distillation:
            self.distillation = Distillation(classes, self.backbone.units, c.dropped_units)

    def set_class_vectors(self, vectors: Tensor) -> None:
        """float32 [classes, v], of the training classes in the order of their labels. Nothing else is read of them.

        Raises ZseError for another shape. Without a graph it does nothing.
        """
        if self.graph is not None:
            self.graph.place(vectors, self.config.edges, self.config.neighbours)

    def features(self, images: Tensor, modality: Modality) -> Features:
        """uint8 [b, 1 or 3, size, size] -> pooled feature [b, p] and tokens [b, n, w] of the modality's backbone."""
        own = self.sketch_backbone if modality == "sketch" else None
        features: Features = (own or self.backbone)(images, sketches=sketches_in(images, modality))
        return features

    def embed(self, features: Features, mask: Tensor | None) -> Tensor:
        """The projected sum of pooled feature and mean token, L2-normalised: float32 [b, dim].

        mask: [b, n] in 0..1, by which token i has weight 1 + mask[i] in the mean. The weights are divided by their sum:
        a masked photo's mean is as long as a sketch's, which has no mask, and a flat mask changes nothing. With the sum
        instead, photos were half as long again, and unseen classes lost what docs/crossatnet.md says.
        """
        tokens = features.tokens
        assert tokens is not None and features.pooled is not None
        if mask is None:
            seen = tokens.mean(1)
        else:
            weight = 1 + mask[..., None]
            seen = (tokens * weight).sum(1) / weight.sum(1)
        return normalised(self.global_proj(features.pooled) + self.local_proj(seen))

    def mask(self, photo: Tensor) -> Tensor | None:
        """The importance of each token by the photo alone: [b, n, w] -> [b, n] in 0..1; None without attention."""
        return None if self.own_mask is None else self.own_mask(photo).squeeze(2).sigmoid()

    def guided_mask(self, sketch: Tensor, photo: Tensor) -> Tensor | None:
        """The importance of each photo token to a sketch: tokens [b, m, w] and [b, n, w] -> [b, n] in 0..1, or None
        without attention.

        The affinity of a photo token is the smooth maximum, over the sketch's tokens, of scaled query-key products.
        """
        if self.query_proj is None or self.key_proj is None:
            return None
        queries, keys = self.query_proj(photo), self.key_proj(sketch)
        with full_precision(photo.device):
            affinity = queries.float() @ keys.float().transpose(1, 2) / queries.shape[2] ** 0.5
            return (affinity.logsumexp(2) - math.log(sketch.shape[1])).sigmoid()

    def encode(self, images: Tensor, modality: Modality) -> Encoding:
        """-> "embedding" [b, dim], float32, L2-normalised, and its codes by `hash-N` and `itq-N`, uint8 [b, N / 8]."""
        return self.encoding(self.features(images, modality), modality)

    def encoding(self, features: Features, modality: Modality) -> Encoding:
        """The result of `encode`, from `features`."""
        assert features.tokens is not None
        x = self.embed(features, self.mask(features.tokens) if modality == "photo" else None)
        return {"embedding": x, **self.coded(x, modality)}

    def losses(self, batch: TrainBatch) -> dict[str, Tensor]:
        c, b = self.config, len(batch)
        images, labels = batch.pictures()
        pooled, tokens = self._of_batch(images)
        sketches, photos = (Features(pooled[half], tokens[half], None) for half in (slice(2 * b), slice(2 * b, None)))
        sketch_tokens, photo_tokens = tokens[: 2 * b], tokens[2 * b :]
        own = self.mask(photo_tokens)
        guided = self.guided_mask(sketch_tokens[:b].repeat(2, 1, 1), photo_tokens)  # the item's sketch asks both photos
        sketch, photo = self.embed(sketches, None), self.embed(photos, own)
        seen = photo if guided is None else self.embed(photos, guided)
        everything, all_labels = torch.cat([sketch, photo]), labels
        if guided is not None:
            everything, all_labels = torch.cat([everything, seen]), torch.cat([labels, labels[2 * b :]])

        losses: dict[str, Tensor] = {}
        if c.triplet:
            losses["triplet"] = c.triplet * self._triplets(sketch, photo, seen, labels[: 2 * b])
        if own is not None and guided is not None:
            followed = (own.float() - guided.detach()).square().mean(1)
            losses["attention"] = c.attention * item_means(followed, b)
        if self.classifier is not None:
            losses["classification"] = c.classification * item_means(self.classifier(everything, all_labels), b)
        if self.graph is not None:
            loss = cosine_cross_entropy(everything, self.graph(), all_labels, c.scale)
            losses["graph"] = c.graph * item_means(loss, b)
        if self.to_photo is not None and self.to_sketch is not None:
            pairs = (self.to_photo(sketch[:b]), pooled[2 * b : 3 * b]), (self.to_sketch(photo[:b]), pooled[:b])
            missed = [1 - F.cosine_similarity(made.float(), real.detach().float(), dim=1) for made, real in pairs]
            losses["reconstruction"] = c.reconstruction * (missed[0] + missed[1]) / 2
        if self.distillation is not None:
            divergence = self.distillation(self._classify(pooled), labels)
            losses["distillation"] = c.distillation * item_means(divergence, b)
        return losses

    def _of_batch(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """All pictures of a batch [4b, 3, s, s], sketches first -> pooled features [4b, p] and tokens [4b, n, w]."""
        if self.sketch_backbone is None:
            parts: list[Features] = [self.backbone(images, sketches=len(images) // 2)]
        else:
            half = len(images) // 2
            parts = [self.features(images[:half], "sketch"), self.features(images[half:], "photo")]
        return (
            torch.cat([part.pooled for part in parts if part.pooled is not None]),
            torch.cat([part.tokens for part in parts if part.tokens is not None]),
        )

    def _triplets(self, sketch: Tensor, photo: Tensor, seen: Tensor, labels: Tensor) -> Tensor:
        """The mean of two triplet losses, float32 [b]. Embeddings [2b, dim]: of the sketches, of photo and negative
        with their own masks, and the same with guided masks; labels of the sketches, int64 [2b].

        Sketch -> its photo against its negative. Photo -> the second sketch against the nearest sketch of another
        class, of all that are `gathered`; 0 where there is none.
        """
        b, margin = len(sketch) // 2, self.config.margin
        others, other_labels = gathered(sketch), gathered(labels)
        hardest = nearest_other(photo[:b], others, labels[:b], other_labels)
        from_sketch = triplet(sketch[:b], seen[:b], seen[b:], margin)
        from_photo = triplet(photo[:b], sketch[b:], others[hardest], margin)
        alone = (labels[:b, None] == other_labels).all(1)
        return (from_sketch + from_photo.masked_fill(alone, 0.0)) / 2

    def _classify(self, pooled: Tensor) -> Tensor:
        """Pooled features [4b, p], sketches first -> logits of each backbone's pretrained classifier [4b, units]."""
        if self.sketch_backbone is None:
            return self.backbone.classify(pooled)
        half = len(pooled) // 2
        return torch.cat([self.sketch_backbone.classify(pooled[:half]), self.backbone.classify(pooled[half:])])
