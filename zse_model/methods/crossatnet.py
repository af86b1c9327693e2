"""`crossatnet`: after Chaudhuri et al., "CrossATNet - A Novel Cross-Attention Based Framework for Sketch-Based Image
Retrieval", Image and Vision Computing 2020 (arXiv 2104.09918). A RECONSTRUCTION: no code was published.

What the abstract states: a cross-modal triplet loss, attention by which the sketch guides what is read of the photo, a
graph CNN that brings the class topology into the shared space, hash codes for fast retrieval, nothing of unseen classes
in training. How each is done here is ours, and distillation is an addition.

A photo in a gallery has no sketch. So the photo branch also predicts a mask of its own and learns it from the
sketch-guided one: a gallery is encoded once, and retrieval is a dot product or a Hamming distance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zse_model.backbones import Backbone, BackboneConfig, Features
from zse_model.code_index import BITS, one_of
from zse_model.errors import ZseError
from zse_model.gather import gathered
from zse_model.graph import Edges, GraphEncoder
from zse_model.hashing import Asymmetric, CodeHead, Hamming, pack
from zse_model.losses import cosine_logits, nearest_other, normalised, triplet
from zse_model.methods.base import Encoding, Modality, RetrievalMethod, TrainBatch
from zse_model.methods.distillation import SoftLabels
from zse_model.modes import RET, Mode
from zse_model.precision import full_precision

CODE_PICTURES = 4096  # of the training, that codes are fitted to


@dataclass(frozen=True, kw_only=True)
class CrossATNetConfig:
    """Weights of 0 switch a part off without leaving parameters behind."""

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
    graph: float = 1.0
    class_vectors: str = "random"
    """URL of vectors of the training classes: word2vec or GloVe text or binary, fastText .vec, or .npz[#array]."""
    vector_dim: int = 300
    """Of the class vectors; filled in from the file."""
    edges: Edges = "knn"
    neighbours: int = 5
    classification: float = 1.0
    scale: float = 16.0
    """Of the cosines that classification and graph take for logits."""
    reconstruction: float = 1.0
    bits: int = 64
    """Of the codes, fitted when a training ends: 32, 64, 128 or 256; 0 = none."""
    distillation: float = 0.0
    dropped_units: tuple[int, ...] | None = None
    """Of the pretrained classifier, never distilled: those that name an unseen class. `zse` fills them in from the
    split; elsewhere distillation needs them, () where no class is unseen."""


EXPLAINED_CODES = (
    "The score is the number of equal bits minus the number of different bits of two codes. A code is made from an "
    "embedding. The masks show the weight of each place in the photo's embedding."
)
UNFITTED = "A training fits its codes at its end, with the bits of its configuration (bits above 0)."


def fitted(kind: str) -> Callable[[CrossATNet], bool]:
    return lambda method: bool(method.bits) and method.codes[f"{kind}-{method.bits}"].fitted


CODES = Mode(
    name="hash-N",
    score="Equal minus different bits of two learned codes.",
    explanation=EXPLAINED_CODES,
    bits=BITS,
    ready=fitted("hash"),
    lacking=UNFITTED,
    scorer=lambda method, asked, _: Hamming(method.device, asked),
)


class CrossATNet(RetrievalMethod):
    Config = CrossATNetConfig
    MODES = (
        RET,
        CODES,
        replace(
            CODES,
            name="itq-N",
            score="Equal minus different bits of two ITQ codes of the embeddings: the baseline.",
            ready=fitted("itq"),
        ),
        replace(
            CODES,
            name="asym-N",
            score="Equal minus different bits of a photo's hash-N and a sketch, weighted by the magnitudes of the "
            "sketch's projection.",
            scorer=lambda method, asked, _: Asymmetric(
                method.device, CODES.called(method.bits), method.codes[CODES.called(method.bits)]
            ),
        ),
        Mode(name="rerank-K", score="The K best by hash-N, ranked by ret.", shortlist=("hash-N", "ret")),
    )
    config: CrossATNetConfig

    def __init__(
        self, config: CrossATNetConfig, backbone: BackboneConfig, *, size: int, classes: int, load_weights: bool = True
    ) -> None:
        super().__init__(config, backbone, size=size, classes=classes)
        c = config
        if not (c.triplet or c.classification or c.graph):
            raise ZseError("crossatnet: one of triplet, classification and graph must be above 0, to shape the space")
        if c.bits not in (0, *BITS):
            raise ZseError(f"crossatnet: bits must be 0 (no codes), {one_of(BITS)}, got {c.bits}")
        self.bits = c.bits
        distils = c.distillation > 0

        def build() -> Backbone:
            return Backbone(
                backbone, size=size, pooled=True, tokens=True, classifier=distils, load_weights=load_weights
            )

        self.backbone = build()
        self.sketch_backbone = None if c.share_backbone else build()
        pooled, width = self.backbone.pooled_dim, self.backbone.token_dim
        self.whole, self.parts = nn.Linear(pooled, c.dim), nn.Linear(width, c.dim, bias=False)
        self.ask = nn.Linear(width, c.attention_dim) if c.attention else None
        self.guide = nn.Linear(width, c.attention_dim) if c.attention else None
        self.own_mask: nn.Module | None = None
        if c.attention:
            self.own_mask = nn.Sequential(nn.Linear(width, c.attention_dim), nn.ReLU(), nn.Linear(c.attention_dim, 1))
        self.prototypes = nn.Parameter(torch.randn(classes, c.dim) * c.dim**-0.5) if c.classification else None
        self.graph: GraphEncoder | None = None
        if c.graph:
            self.graph = GraphEncoder(classes, c.vector_dim, c.dim)
            generator = torch.Generator().manual_seed(0)
            vectors = torch.randn(classes, c.vector_dim, generator=generator, device="cpu")
            self.graph.place(vectors, c.edges, c.neighbours)
        self.to_photo = nn.Linear(c.dim, pooled) if c.reconstruction else None
        self.to_sketch = nn.Linear(c.dim, pooled) if c.reconstruction else None
        self.codes: Mapping[str, CodeHead] = nn.ModuleDict(  # type: ignore[assignment]
            {f"{name}-{c.bits}": CodeHead(c.dim, c.bits) for name in ("hash", "itq") if c.bits}
        )
        self.soft_labels: SoftLabels | None = None
        if isinstance(self.backbone.classifier, nn.Linear):
            self.soft_labels = SoftLabels(classes, self.backbone.classifier.out_features, c.dropped_units)

    def set_class_vectors(self, vectors: Tensor) -> None:
        """float32 [classes, v], of the training classes in the order of their labels; nothing else is ever read.

        Raises ValueError for another shape. Without a graph there is nothing to set.
        """
        if self.graph is not None:
            self.graph.place(vectors, self.config.edges, self.config.neighbours)

    def features(self, images: Tensor, modality: Modality) -> Features:
        own = self.sketch_backbone if modality == "sketch" else None
        features: Features = (own or self.backbone)(images)
        return features

    def embed(self, features: Features, mask: Tensor | None) -> Tensor:
        """[b, dim], L2-normalised: the pooled feature and the mean of the map, each place of which counts x + m x.

        It is the mean by those weights, not their sum: with the sum a masked photo's map was half as long again as a
        sketch's, which has no mask, and unseen classes lost what docs/crossatnet.md says. A flat mask changes nothing.
        """
        tokens = features.tokens
        assert tokens is not None and features.pooled is not None
        if mask is None:
            seen = tokens.mean(1)
        else:
            weight = 1 + mask[..., None]
            seen = (tokens * weight).sum(1) / weight.sum(1)
        return normalised(self.whole(features.pooled) + self.parts(seen))

    def mask(self, photo: Tensor) -> Tensor | None:
        """What a photo alone takes for important, tokens [b, n, c] -> [b, n] in 0..1; None without attention."""
        return None if self.own_mask is None else self.own_mask(photo).squeeze(2).sigmoid()

    def guided_mask(self, sketch: Tensor, photo: Tensor) -> Tensor | None:
        """What a sketch finds important in a photo, tokens [b, n, c] each -> [b, n] in 0..1.

        The affinity of a place to the sketch is the smooth maximum over the sketch's places.
        """
        if self.ask is None or self.guide is None:
            return None
        asked, guides = self.ask(photo), self.guide(sketch)
        with full_precision(photo.device):
            affinity = asked.float() @ guides.float().transpose(1, 2) / asked.shape[2] ** 0.5
            return (affinity.logsumexp(2) - math.log(sketch.shape[1])).sigmoid()

    def encode(self, images: Tensor, modality: Modality) -> Encoding:
        """-> "embedding" [b, dim], float32, L2-normalised, and its codes by `hash-N` and `itq-N`, uint8 [b, N / 8]."""
        return self.encoding(self.features(images, modality), modality)

    def encoding(self, features: Features, modality: Modality) -> Encoding:
        """What `encode` gives, of features that are there already."""
        assert features.tokens is not None
        x = self.embed(features, self.mask(features.tokens) if modality == "photo" else None)
        return {"embedding": x, **{n: pack(head(x, modality)) for n, head in self.codes.items() if head.fitted}}

    def losses(self, batch: TrainBatch) -> dict[str, Tensor]:
        c, b = self.config, len(batch)
        images, labels = batch.pictures()
        if self.sketch_backbone is None:
            parts = [self.features(images, "photo")]
        else:
            parts = [self.features(images[: 2 * b], "sketch"), self.features(images[2 * b :], "photo")]
        tokens = torch.cat([part.tokens for part in parts if part.tokens is not None])
        pooled = torch.cat([part.pooled for part in parts if part.pooled is not None])
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
            others, other_labels = gathered(sketch), gathered(labels[: 2 * b])
            hardest = nearest_other(photo[:b], others, labels[:b], other_labels)
            from_sketch = triplet(sketch[:b], seen[:b], seen[b:], c.margin)
            from_photo = triplet(photo[:b], sketch[b:], others[hardest], c.margin)
            alone = (labels[:b, None] == other_labels).all(1)  # nothing to push away
            losses["triplet"] = c.triplet * (from_sketch + from_photo.masked_fill(alone, 0.0)) / 2
        if own is not None and guided is not None:
            followed = (own.float() - guided.detach()).square().mean(1)
            losses["attention"] = c.attention * followed.view(2, b).mean(0)
        for name, weight, prototypes in (
            ("classification", c.classification, self.prototypes),
            ("graph", c.graph, None if self.graph is None else self.graph()),
        ):
            if weight and prototypes is not None:
                loss = F.cross_entropy(cosine_logits(everything, prototypes, c.scale), all_labels, reduction="none")
                losses[name] = weight * loss.view(-1, b).mean(0)
        if self.to_photo is not None and self.to_sketch is not None:
            pairs = (self.to_photo(sketch[:b]), pooled[2 * b : 3 * b]), (self.to_sketch(photo[:b]), pooled[:b])
            missed = [1 - F.cosine_similarity(made.float(), real.detach().float(), dim=1) for made, real in pairs]
            losses["reconstruction"] = c.reconstruction * (missed[0] + missed[1]) / 2
        if self.soft_labels is not None and self.backbone.classifier is not None:
            divergence = self.soft_labels(self._classify(pooled), labels)
            losses["distillation"] = c.distillation * divergence.view(4, b).mean(0)
        return losses

    def _classify(self, pooled: Tensor) -> Tensor:
        """Logits of the pretrained classifiers, [4b, units], sketches first."""
        assert self.backbone.classifier is not None
        if self.sketch_backbone is None or self.sketch_backbone.classifier is None:
            return self.backbone.classifier(pooled)
        half = len(pooled) // 2
        return torch.cat([self.sketch_backbone.classifier(pooled[:half]), self.backbone.classifier(pooled[half:])])

    def prepare(self, batches: Iterator[TrainBatch], total: Callable[[Tensor], Tensor]) -> None:
        if self.soft_labels is not None:
            self.soft_labels.measure(self.backbone, batches, total)

    @torch.no_grad()
    def conclude(self, batches: Iterator[TrainBatch]) -> None:
        """Codes are fitted to the embeddings of training pictures: closed forms, seconds."""
        sketches: list[Tensor] = []
        photos: list[Tensor] = []
        labels: list[Tensor] = []
        while self.codes and 2 * sum(map(len, photos)) < CODE_PICTURES:
            batch = next(batches)
            images, of = batch.pictures()
            half = len(images) // 2
            sketches.append(self.encode(images[:half], "sketch")["embedding"].cpu())
            photos.append(self.encode(images[half:], "photo")["embedding"].cpu())
            labels.append(of.view(2, half).cpu())
        for name, head in self.codes.items():
            if name.startswith("itq"):
                head.fit_itq(torch.cat(sketches + photos))
            else:
                head.fit(torch.cat(sketches), torch.cat(photos), torch.cat(labels, dim=1).flatten())
