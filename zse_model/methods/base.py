"""The interface of a retrieval method: `encode` once a picture, `score` for every pair, `losses` for a training batch.
Search, evaluation and training work with every method that implements it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from zse_model.backbones import Backbone, BackboneConfig
from zse_model.code_index import CodeIndex
from zse_model.confidence import Confidence, confidence_of, fit
from zse_model.diffusion import MOST, diffused_ranking
from zse_model.errors import ZseError
from zse_model.evaluation.search import Ranking
from zse_model.explanation.base import Explainer
from zse_model.layers import CosineClassifier
from zse_model.methods.distillation import Distillation
from zse_model.modes import RET, Mode, rerank_depth, undiffused
from zse_model.scoring import Encoding, Fused, Precision, Scorer, score_all, search
from zse_model.transforms import Modality


@dataclass(frozen=True, kw_only=True)
class TrainBatch:
    """b training items, all uint8; an item is (sketch, photo, another sketch of the class, photo of another class)."""

    sketch: Tensor
    """[b, 1, s, s]"""
    photo: Tensor
    """[b, 3, s, s], of the sketch's class: its own photo where pairs are known"""
    sketch2: Tensor
    """[b, 1, s, s]"""
    negative: Tensor
    """[b, 3, s, s]"""
    label: Tensor
    """int64 [b], index of the class among the training classes"""
    negative_label: Tensor
    """int64 [b]; equal to `label` for a hard negative (another instance of the class)"""

    def __len__(self) -> int:
        return len(self.label)

    def to(self, device: torch.device) -> TrainBatch:
        """The batch on another device, without waiting for the copy."""
        return TrainBatch(**{k: v.to(device, non_blocking=True) for k, v in vars(self).items()})

    def pictures(self) -> tuple[Tensor, Tensor]:
        """All 4b pictures, sketch, sketch2, photo, negative in this order: uint8 [4b, 3, s, s] and labels [4b].

        One batch for one forward: batch statistics are then of both modalities, as the running ones are.
        """
        sketches = torch.cat([self.sketch, self.sketch2]).expand(-1, 3, -1, -1)
        labels = torch.cat([self.label, self.label, self.label, self.negative_label])
        return torch.cat([sketches, self.photo, self.negative]), labels


POSITIVE = ("temperature", "late_temperature", "scale", "dim", "place_dim", "heads", "ffn")


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """The configuration of a method. A value or a combination that makes no sense raises ZseError when it is built;
    what depends on the backbone is checked by the method."""

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self) -> None:
        """Raises ZseError for a number below 0 or not finite (a loss of negative weight trains the opposite), a 0 in
        POSITIVE, a dropout of 1 or more, and a text that its field does not allow."""
        name = type(self).__name__
        for field, kind in get_type_hints(type(self)).items():
            value = getattr(self, field)
            if isinstance(value, int | float) and not 0 <= value < math.inf:
                raise ZseError(f"{name}: {field} must be 0 or more, and finite, got {value}")
            if field in POSITIVE and value == 0:
                raise ZseError(f"{name}: {field} must be above 0, got {value}")
            if field == "dropout" and value >= 1:
                raise ZseError(f"{name}: dropout must be below 1, got {value}")
            if get_origin(kind) is Literal and value not in get_args(kind):
                raise ZseError(f"{name}: {field} must be one of {', '.join(get_args(kind))}, got {value!r}")


class RetrievalMethod(nn.Module, ABC):
    """A network that encodes sketches and photos and scores pairs of them.

    A subclass sets `Config`, a `MethodConfig`. `create_method` builds it.
    """

    Config: ClassVar[type]
    MODES: ClassVar[tuple[Mode, ...]] = (RET,)
    """The modes that the method declares; `modes` are those that this network has."""
    EXPLAINERS: ClassVar[tuple[Explainer, ...]] = ()
    """How a pair is explained, each for the score of one mode; () = it cannot be."""
    bits: int = 0
    """Bits of a photo's code; 0 = no codes."""
    backbone: Backbone
    classifier: CosineClassifier | None
    """None for a weight of 0."""
    distillation: Distillation | None
    """None for a weight of 0."""
    confidence: Tensor
    """float32 [modes, 3], a buffer: a row of `zse_model.confidence` for each of MODES; zeros = none."""

    def __init__(
        self, config: Any, backbone: BackboneConfig, *, size: int, classes: int, load_weights: bool = True
    ) -> None:
        super().__init__()
        # First of all modules: an optimizer's state knows parameters by their order, also one of an earlier version.
        self.register_module("classifier", None)
        self.register_module("distillation", None)
        self.register_buffer("confidence", torch.zeros(len(self.MODES), 3))
        self.config, self.backbone_config, self.size, self.classes = config, backbone, size, classes

    @abstractmethod
    def encode(self, images: Tensor, modality: Modality) -> Encoding:
        """uint8 [b, 1 or 3, size, size] -> the encoding of each picture, independent of the other pictures."""

    @abstractmethod
    def losses(self, batch: TrainBatch) -> dict[str, Tensor]:
        """The losses by name, weighted, each float32 [b]; training minimises the mean of their sum."""

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes that score every pair. The first is the default, and the one that selects checkpoints."""
        return tuple(mode.called(self.bits) for mode in self.MODES if not mode.shortlist and mode.ready(self))

    @property
    def pair_mode(self) -> str | None:
        """The mode that does more for every pair than a dot product."""
        whole = (mode for mode in self.MODES if not (mode.shortlist or mode.combined))
        return next((mode.name for mode in whole if mode.pair_network and mode.ready(self)), None)

    @property
    def rerank(self) -> tuple[str, str] | None:
        """The two modes of `rerank-K`: one finds the K best, one ranks them. None = this network has no `rerank-K`."""
        declared = {mode.name: mode for mode in self.MODES}
        for finds, *ranks in (mode.shortlist for mode in self.MODES if mode.shortlist):
            ranked_by = next((name for name in ranks if declared[name].ready(self)), None)
            if ranked_by and declared[finds].ready(self):
                return declared[finds].called(self.bits), declared[ranked_by].called(self.bits)
        return None

    def has(self, asked: str) -> bool:
        """Whether this network ranks by a mode."""
        return undiffused(asked)[0] in self.modes or (self.rerank is not None and rerank_depth(asked) is not None)

    def mode(self, asked: str) -> Mode:
        """The declaration of a mode that this network has; of MODE-diffused-K that of MODE, whose scores are diffused.
        Raises ZseError for another, with the reason."""
        base, _ = undiffused(asked)
        declared = next((mode for mode in self.MODES if mode.number(base) is not None), None)
        if declared and self.has(asked):
            return declared
        reranked = ["rerank-K (such as rerank-100)"] if self.rerank else []
        again = f"MODE-diffused-K of each but rerank-K (such as {self.modes[0]}-diffused-500; K up to {MOST:,})"
        known = ", ".join((*self.modes, *reranked, again))
        why = f" {declared.lacking}" if declared and declared.lacking else ""
        raise ZseError(f"Unknown retrieval mode {asked!r}. Modes of this model: {known}.{why}")

    def ranked_by(self, asked: str) -> str:
        """The mode whose scores rank: `asked`, the mode that ranks its shortlist, or the mode that is diffused."""
        return self.rerank[1] if self.mode(asked).shortlist and self.rerank else undiffused(asked)[0]

    def scorer(self, mode: str, precision: Precision = "fp32") -> Scorer:
        """The scorer of pairs for one of `modes`, with the current weights. Raises ZseError for another mode."""
        declared, (base, depth) = self.mode(mode), undiffused(mode)
        if depth:
            raise ZseError(f"Mode {mode} is no way of scoring every pair; it ranks the {depth} best of {base} again")
        if declared.shortlist:
            raise ZseError(f"Mode {mode} is no way of scoring every pair; it is {' then '.join(self.rerank or ())}")
        if declared.combined and declared.combine:
            first, second = (self.scorer(part, precision) for part in declared.combined)
            return Fused(partial(declared.combine, self), first, second)
        return declared.scorer(self, mode, precision)

    def reads(self, mode: str, side: Modality) -> list[str]:
        """Names of the encodings that a search by a mode reads, sorted. Raises ZseError for an unknown mode."""
        declared, (base, depth) = self.mode(mode), undiffused(mode)
        parts = self.rerank if declared.shortlist and self.rerank else (base,)
        names = {name for part in parts for name in self.scorer(part).reads(side)}
        return sorted(names | ({"embedding"} if depth and side == "photo" else set()))

    def score(self, queries: Encoding, gallery: Encoding, mode: str) -> Tensor:
        """Scores by one of `modes`, float32 [q, g] on the CPU, higher is more alike. Entry i, j depends on query i and
        gallery item j only."""
        return score_all(self.scorer(mode), queries, gallery)

    def search(
        self,
        queries: Encoding,
        gallery: Callable[[], Iterable[Encoding]],
        mode: str,
        k: int,
        indices: dict[str, CodeIndex] | None = None,
    ) -> Ranking:
        """The best k by any mode, of a gallery in tiles. Each call of `gallery()` starts at the first tile.

        indices: of this gallery's codes, by the name of their encoding. A missing index is built, and added for the
        next search. None = built for this search only.
        Raises ZseError for an unknown mode, an empty gallery, or a k beyond the K of rerank-K.
        """
        declared, depth = self.mode(mode), rerank_depth(mode)
        base, diffused = undiffused(mode)
        if diffused:
            first = self.search(queries, gallery, base, max(k, diffused), indices)
            return diffused_ranking(first, _embeddings(gallery(), first.indices[:, :diffused]), k)
        if declared.bits:
            return self._search_codes(queries, gallery, mode, k, {} if indices is None else indices)
        if depth is None or self.rerank is None:
            return search(self.scorer(mode), queries, gallery(), k)
        if k > depth:
            raise ZseError(f"{mode} ranks {depth} photos, not {k}: ask for fewer, or for rerank-{k}")
        finds, ranks = self.rerank
        first = self.search(queries, gallery, finds, depth, indices)
        return search(self.scorer(ranks), queries, gallery(), k, among=first)

    def _search_codes(
        self,
        queries: Encoding,
        gallery: Callable[[], Iterable[Encoding]],
        mode: str,
        k: int,
        indices: dict[str, CodeIndex],
    ) -> Ranking:
        scorer = self.scorer(mode)
        (name,) = scorer.reads("photo")
        if name not in indices:
            index = CodeIndex(self.bits)
            for tile in gallery():
                index.add(tile[name])
            indices[name] = index
        return indices[name].search(queries[name] if mode == name else scorer.precompute(queries, "sketch"), k)

    def calibrate(self, scores: Callable[[str], Tensor], value: Callable[[Tensor], float]) -> None:  # noqa: B027
        """Called once after a training, on its pseudo-unseen classes: choose how scores are combined. `scores(mode)` is
        float32 [q, g]; `value(scores)` is the metric to maximise. The choice must be a buffer."""

    def confidence_of(self, asked: str) -> Confidence | None:
        """The confidence of one of `modes`; None where its training fitted none."""
        return confidence_of(self.confidence[self.MODES.index(self.mode(asked))])

    @property
    def confident(self) -> tuple[str, ...]:
        """The modes that may have a confidence: all but those whose pairs a network compares, which would take
        minutes to fit and a query's median seconds to find."""
        return tuple(mode for mode in self.modes if not self.runs_network(mode))

    def runs_network(self, asked: str) -> bool:
        """Whether a network compares the pairs of a mode. The dot products of `places` are none."""
        declared = self.mode(asked)
        return declared.pair_network and not declared.places

    @torch.no_grad()
    def fit_confidence(self, mode: str, galleries: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Fit the confidence of one of `modes` after a training: scores and relevant photos as `confidence.fit`."""
        self.confidence[self.MODES.index(self.mode(mode))] = fit(galleries).to(self.confidence)

    @property
    def device(self) -> torch.device:
        """Of its parameters, which are all on one."""
        return next(self.parameters()).device

    def forward(self, batch: TrainBatch) -> dict[str, Tensor]:
        """`losses`, under the name that DistributedDataParallel calls."""
        return self.losses(batch)

    def measure_start(
        self, batches: Iterator[TrainBatch], total: Callable[[Tensor], Tensor], *, shares: int = 1
    ) -> None:
        """Called once before a new training, in eval mode: measure the pretrained network on training batches.

        `total` sums a tensor over all workers. A result must be a buffer, so that the checkpoint has it.
        shares: how many batches of each step are this worker's. Count steps, not batches: fewer workers have more
        batches each, and the result must not depend on the number of workers.
        """
        if self.distillation is not None:
            self.distillation.measure(self.backbone, batches, total)

    def checkpoint_activations(self) -> None:
        """Let every backbone compute its activations again in the backward pass. Raises ZseError for one that
        cannot."""
        for module in self.modules():
            if isinstance(module, Backbone):
                module.checkpoint_activations()

    def set_class_vectors(self, vectors: Tensor) -> None:  # noqa: B027
        """Word vectors of the training classes' names in the order of their labels, float32 [classes, v]. Called before
        a training whose method's configuration names a file as `class_vectors`."""

    def conclude(self, batches: Iterator[TrainBatch]) -> None:  # noqa: B027
        """Called once after a training on rank 0, in eval mode with its best weights: measure the trained network on
        training batches, which do not end. A result must be a buffer."""


def _embeddings(gallery: Iterable[Encoding], positions: Tensor) -> Iterator[Tensor]:
    """For each row of positions, int64 [q, k], the embeddings of these photos of a gallery in tiles, float32 [k, d]."""
    wanted, places = positions.unique(return_inverse=True)
    found, start = [], 0
    for tile in gallery:
        end = start + len(tile["embedding"])
        here = wanted[(wanted >= start) & (wanted < end)]
        found.append(tile["embedding"][here - start].float().cpu())
        start = end
    every = torch.cat(found)
    return (every[row] for row in places)
