"""Estimate the cost of a run without running it. `zse run --dry-run` prints the table.

The data set is listed, its split resolved and its items planned as in the stages. Networks are built without memory
(torch's meta device), and torch counts the FLOP of a training step, of encoding a picture and of scoring a pair. A few
pictures are prepared, for their size. Nothing is written, and no weights are fetched.

FLOP are of matrix products and convolutions; a multiplication and an addition are two. `utilisation` covers all other
operations. Left out: the searches that choose checkpoints, diffusion, the preparation of the data, and waiting for
storage.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.table import Table

from pipelines.config.experiment import ExperimentConfig
from pipelines.datasets.base import DatasetAdapter, ImageRecord, listed_members
from pipelines.datasets.registry import create_dataset
from pipelines.datasets.splits import load_split
from pipelines.evaluate.costs import count_flop
from pipelines.evaluate.score import PHOTOS, SKETCHES
from pipelines.operate.preflight import check_start
from pipelines.train.class_vectors import class_vectors_of
from pipelines.train.items import ItemPlan
from pipelines.train.networks import buildable
from pipelines.workspace.members import Members, tested_members, training_members
from pipelines.workspace.pictures import prepared
from zse_model.errors import ZseError
from zse_model.installed_weights import INSTALLED
from zse_model.methods import METHODS, Encoding, RetrievalMethod, TrainBatch, create_method
from zse_model.modes import rerank_depth, undiffused
from zse_model.scoring import Scorer
from zse_model.split import ZeroShotSplit
from zse_model.transforms import BadPicture, Modality

TFLOPS = {"fp32": 60.0, "tf32": 200.0, "bf16": 400.0}
"""TFLOP/s of one GPU of the class of an H100: round numbers below the maker's. `--tflops` replaces them."""
UTILISATION = 0.35
_MODALITIES: tuple[Modality, ...] = ("sketch", "photo")
SAMPLED = 8  # pictures of each modality to prepare, for their size

Count = dict[Modality, int]


@dataclass(frozen=True)
class Data:
    """Counts from the listing. No picture was checked: a few may be unusable."""

    split: ZeroShotSplit
    pictures: Count
    training: Count
    tested: Count
    chosen_by: Count
    """Pictures of the pseudo-unseen classes, if the evaluation searches them, too."""
    classes: list[str]
    """Training classes."""
    picture_bytes: dict[Modality, float]
    """Mean bytes in a shard, of at most SAMPLED pictures."""

    @property
    def searches(self) -> tuple[Count, Count]:
        """The queries and photos of the two searches: unseen, and pseudo-unseen classes."""
        return self.tested, self.chosen_by


@dataclass(frozen=True)
class Cost:
    """The cost of one method, in FLOP unless another unit is named."""

    parameters: int
    trained: int
    """Parameters that are not frozen."""
    step: int
    """A training step, forward and backward, all workers together."""
    encode: Count
    """Per picture."""
    stored: int
    """Bytes of a picture's encoding."""
    precompute: Count = dataclasses.field(default_factory=lambda: {"sketch": 0, "photo": 0})
    """Preparation for scoring: per photo, and per sketch and tile of photos."""
    pair: int = 0
    """Of the asked modes that do more for a pair than a dot product, together, per pair; 0 = there is none."""
    tile: int = 1
    """Photos precomputed at once."""
    lacks: frozenset[str] = frozenset()
    """Modes that the network has not, by its configuration."""


@dataclass(frozen=True)
class Rates:
    """The assumed speed of a GPU."""

    tflops: float | None = None
    """TFLOP/s of matrix products at the experiment's precision; None = `TFLOPS`."""
    utilisation: float = UTILISATION

    def __post_init__(self) -> None:
        if (self.tflops is not None and self.tflops <= 0) or not 0 < self.utilisation <= 1:
            raise ZseError(
                f"--tflops must be above 0 and --utilisation in 0..1, got {self.tflops} and {self.utilisation}"
            )

    def hours(self, flop: float, precision: str) -> float:
        return flop / (self._tflops(precision) * 1e12 * self.utilisation) / 3600

    def words(self, flop: float, precision: str) -> str:
        """The GPU hours and the rates that they were estimated at."""
        hours = self.hours(flop, precision)
        shown = f"{hours:,.2f}" if hours >= 0.01 else "under 0.01"
        return f"{shown} GPU hours in {precision} at {self._tflops(precision):g} TFLOP/s x {self.utilisation:g}"

    def _tflops(self, precision: str) -> float:
        return self.tflops or TFLOPS[precision]


@dataclass(frozen=True)
class Estimate:
    config: ExperimentConfig
    data: Data
    costs: dict[str, Cost]
    """Name of a method -> cost."""

    def training(self, method: str) -> int | None:
        """FLOP of the whole training; None for a budget in minutes."""
        steps = self.config.train.steps
        return None if steps is None else steps * self.costs[method].step

    def encoding(self, method: str) -> int:
        """FLOP of encoding the queries and photos of the searches."""
        return sum(search[m] * flop for search in self.data.searches for m, flop in self.costs[method].encode.items())

    def pairs(self, method: str) -> int:
        """Pairs that are scored by more than a dot product, in all modes: every pair, or K per query for rerank-K."""
        return sum(self._pairs(method, search) for search in self.data.searches)

    def _pairs(self, method: str, search: Count) -> int:
        if not self.costs[method].pair:
            return 0
        queries, gallery = search["sketch"], search["photo"]
        asked = [undiffused(name)[0] for name in self.config.evaluation.modes]
        pays = [
            mode for mode in METHODS[method].MODES if mode.pair_network and mode.name not in self.costs[method].lacks
        ]
        depths = {rerank_depth(name) for name in asked for mode in pays if mode.number(name) is not None}
        every = None in depths or not asked  # fused and the mode that it combines share scores
        return queries * (sum(min(depth, gallery) for depth in depths if depth) + gallery * every)

    def scoring(self, method: str) -> int:
        """FLOP of scoring these pairs, with the preparation of the pictures."""
        cost, total = self.costs[method], 0
        for search in self.data.searches:
            if pairs := self._pairs(method, search):
                tiles = math.ceil(search["photo"] / PHOTOS) * math.ceil(PHOTOS / cost.tile)
                bands = math.ceil(search["sketch"] / SKETCHES)
                times: Count = {"photo": bands * search["photo"], "sketch": tiles * search["sketch"]}
                total += pairs * cost.pair + sum(times[m] * cost.precompute[m] for m in _MODALITIES)
        return total

    def scoring_reads(self, method: str) -> int:
        """Bytes that each node reads for scoring: every encoding once."""
        return self.encoding_bytes(method) if self.pairs(method) else 0

    def score_bytes(self) -> int:
        """Bytes of the float32 scores of all pairs."""
        return sum(4 * search["sketch"] * search["photo"] for search in self.data.searches)

    def image_bytes(self) -> float:
        return sum(self.data.pictures[m] * size for m, size in self.data.picture_bytes.items())

    def pair_bytes(self) -> float:
        """Bytes of the pair shards: two sketches and two photos per item, before augmentation. 0 for layout
        `memory`."""
        stored = self.config.shard.layout == "shards"
        return self.config.shard.items * 2 * sum(self.data.picture_bytes.values()) if stored else 0

    def memory_bytes(self) -> int:
        """Bytes of the training pictures in the memory of each worker; 0 for layout `shards`."""
        per = self.config.transforms.size**2
        in_memory = self.config.shard.layout == "memory"
        return per * (self.data.training["sketch"] + 3 * self.data.training["photo"]) if in_memory else 0

    def encoding_bytes(self, method: str) -> int:
        return sum(sum(search.values()) for search in self.data.searches) * self.costs[method].stored


def estimate(config: ExperimentConfig, records: Sequence[ImageRecord] | None = None) -> Estimate:
    """Estimate the cost of an experiment. records: the data set's, if already listed.

    Raises the errors of the stages for the data set, its split, the items, the class vectors, the network and a start
    that would leak. `preflight.check` checks the rest.
    """
    data = look_at(config, records)
    if config.start is not None:
        check_start(config.start, data.split)
    return Estimate(config, data, {name: cost_of(config, name, data.classes) for name in config.methods})


# The data -----------------------------------------------------------------------------------------------------------


def look_at(config: ExperimentConfig, records: Sequence[ImageRecord] | None = None) -> Data:
    """List the data set, resolve its split, plan its items, and prepare a few pictures."""
    dataset = create_dataset(config.dataset)
    records = dataset.records() if records is None else records
    members = listed_members(records)
    split = load_split(config.dataset, set(members.category))
    training, asked = training_members(members, split), config.evaluation
    return Data(
        split=split,
        pictures=_count(members),
        training=_count(training),
        tested=_count(tested_members(members, split, asked.distractors, seen_classes=asked.seen_classes)),
        chosen_by=_count(members.of(categories=split.pseudo_unseen if asked.classes == "both" else ())),
        classes=ItemPlan(training, config.shard).classes,
        picture_bytes={m: _mean_bytes(config, dataset, [r for r in records if r.modality == m]) for m in _MODALITIES},
    )


def _count(members: Members) -> Count:
    found = Counter(members.modality)
    return {m: found[m] for m in _MODALITIES}


def _mean_bytes(config: ExperimentConfig, dataset: DatasetAdapter, records: Sequence[ImageRecord]) -> float:
    """Mean bytes of a few prepared pictures, evenly spaced; 0 without records. Raises BadPicture if none is usable."""
    chosen = [records[i] for i in np.linspace(0, len(records) - 1, min(SAMPLED, len(records))).astype(int)]
    sizes, error = [], None
    for record, data in zip(chosen, dataset.read(chosen), strict=True):
        try:
            if isinstance(data, Exception):
                raise data
            sizes.append(len(prepared(record.modality, data, config.transforms)[0]))
        except (BadPicture, OSError) as problem:
            error = BadPicture(f"None of {len(chosen)} pictures can be used. The last, {record.path}: {problem}")
    if error is not None and not sizes:
        raise error
    return float(np.mean(sizes)) if sizes else 0.0


# The networks -------------------------------------------------------------------------------------------------------


def cost_of(config: ExperimentConfig, name: str, classes: Sequence[str]) -> Cost:
    """Build a method without memory and count its FLOP. Raises the errors of building it."""
    method = _on_meta(config, name, classes)
    size = config.transforms.size
    if config.train.activation_checkpointing:
        method.checkpoint_activations()
    step = count_flop(lambda: _step(method.train(), _batch(config.train.batch_size, size)))
    method.eval()
    with torch.no_grad():
        encode: Count = {m: count_flop(lambda m=m: method.encode(_pictures(1, size, m), m)) for m in _MODALITIES}
        encoding = method.encode(_pictures(1, size, "photo"), "photo")
    parameters = list(method.parameters())
    cost = Cost(
        parameters=sum(p.numel() for p in parameters),
        trained=sum(p.numel() for p in parameters if p.requires_grad),
        step=step * config.train.accumulate * max(config.cluster.workers, 1),
        encode=encode,
        stored=sum(x.numel() * _stored_size(x) for x in encoding.values()),
    )
    scorers = [method.scorer(mode, config.evaluation.precision) for mode in _paid(method, config.evaluation.modes)]
    if not scorers:
        return cost
    precompute: Count = {
        m: sum(count_flop(lambda m=m, one=one: one.precompute(encoding, m)) for one in scorers) for m in _MODALITIES
    }
    pair, tile = sum(_pair(one, encoding) for one in scorers), min(one.tile for one in scorers)
    declared = {mode.name: mode for mode in method.MODES}
    lacks = {
        mode.name
        for mode in method.MODES
        if not all(declared[name].ready(method) for name in mode.combined or (() if mode.shortlist else (mode.name,)))
    }
    return dataclasses.replace(cost, precompute=precompute, pair=pair, tile=tile, lacks=frozenset(lacks))


def _paid(method: RetrievalMethod, asked: Sequence[str]) -> list[str]:
    """The modes of this network that do more for a pair than a dot product, and that modes of `evaluation.modes` read:
    themselves, combined, or to rank a shortlist. Without `evaluation.modes` all but `rerank-K` are asked."""
    declared = {mode.name: mode for mode in method.MODES}
    asked = [undiffused(name)[0] for name in asked]
    reads: set[str] = set()
    for mode in method.MODES:
        if any(mode.number(name) is not None for name in asked) if asked else not mode.shortlist:
            ranks = method.rerank[1:] if mode.shortlist and method.rerank else (mode.name,)
            reads.update(mode.combined or ranks)
    return [name for name in sorted(reads) if declared[name].pair_network and declared[name].ready(method)]


def _on_meta(config: ExperimentConfig, name: str, classes: Sequence[str]) -> RetrievalMethod:
    settings = buildable(config.methods[name])
    vectors = class_vectors_of(settings, classes)
    if vectors is not None:
        settings = dataclasses.replace(settings, vector_dim=vectors.shape[1])
    with torch.device("meta"):
        method = create_method(
            name,
            settings,
            config.backbone,
            size=config.transforms.size,
            classes=len(classes),
            load_weights=False,
        )
    if vectors is not None:
        method.set_class_vectors(vectors)
    return method


def _pictures(n: int, size: int, modality: Modality) -> torch.Tensor:
    return torch.empty(n, 1 if modality == "sketch" else 3, size, size, dtype=torch.uint8, device="meta")


def _batch(b: int, size: int) -> TrainBatch:
    labels = torch.empty(b, dtype=torch.int64, device="meta")
    sketches, photos = (_pictures(b, size, m) for m in _MODALITIES)
    return TrainBatch(
        sketch=sketches, photo=photos, sketch2=sketches, negative=photos, label=labels, negative_label=labels
    )


def _step(method: RetrievalMethod, batch: TrainBatch) -> None:
    torch.stack([value.mean() for value in method(batch).values()]).sum().backward()


def _pair(scorer: Scorer, encoding: Encoding) -> int:
    sketch, photo = (scorer.precompute(encoding, m) for m in _MODALITIES)
    return count_flop(lambda: scorer.score(sketch, photo))


def _stored_size(x: torch.Tensor) -> int:
    """Bytes per number as `embed` writes them: all floats as float32."""
    return 4 if x.is_floating_point() else x.element_size()


# The table ----------------------------------------------------------------------------------------------------------


def table(found: Estimate, rates: Rates) -> Table:
    """The estimate as a table of three columns."""
    config, data = found.config, found.data
    split, train, evaluation = data.split, config.train, config.evaluation
    out = Table(title=f"{config.name}: estimate, nothing was run", show_header=False, title_justify="left")
    for _ in range(3):
        out.add_column()
    classes = f"{len(split.seen)} seen, {len(split.pseudo_unseen)} of them pseudo-unseen, {len(split.unseen)} unseen"
    held = f"{split.held_back:.0%} of the seen classes' instances held back" if split.held_back else "nothing held back"
    out.add_row("data", config.dataset.name, _pictures_of(data.pictures))
    out.add_row("split", split.name, f"classes: {classes}; {held}")
    out.add_row("training", f"classes: {len(data.classes)}", _pictures_of(data.training))
    out.add_row("checkpoint chosen by", _chosen_by(config, split), "")
    out.add_row("test", f"classes: {len(split.unseen)}", _pictures_of(data.tested))
    if any(data.chosen_by.values()):
        chosen_by = _pictures_of(data.chosen_by)
        out.add_row("selection", f"classes: {len(split.pseudo_unseen)}", f"{chosen_by}: also searched, to select by")
    out.add_row("backbone", config.backbone.name, _weights(config))
    sizes = " and ".join(f"{_bytes(size)} per {m}" for m, size in data.picture_bytes.items())
    out.add_row("image shards", _bytes(found.image_bytes()), f"{sizes}, the mean of up to {SAMPLED}")
    if config.shard.layout == "shards":
        items = f"{config.shard.items:,} items of two sketches and two photos, before augmentation"
        out.add_row("pair shards", _bytes(found.pair_bytes()), items)
    else:
        out.add_row("pair shards", "none", f"pictures in memory: {_bytes(found.memory_bytes())} per worker")
    for name, cost in found.costs.items():
        out.add_section()
        frozen = f", {(cost.parameters - cost.trained) / 1e6:.1f} M frozen" if cost.trained < cost.parameters else ""
        out.add_row(
            name, f"{cost.parameters / 1e6:.1f} M parameters{frozen}", f"{_bytes(4 * cost.parameters)} of weights"
        )
        workers = max(config.cluster.workers, 1)
        batch = f"{train.batch_size * train.accumulate} items x {workers} worker{'s' if workers > 1 else ''}"
        out.add_row("a training step", flops(cost.step), f"{batch}, forward and backward")
        total = found.training(name)
        if total is None or train.steps is None:
            out.add_row("the training", f"{train.minutes:g} CPU minutes", "the run measures the number of steps")
        else:
            seen = train.steps * train.batch_size * train.accumulate * workers
            hours = rates.words(total, train.precision)
            passes = f"{train.steps:,} steps, {seen:,} items, {seen / config.shard.items:.1f} passes"
            out.add_row("the training", flops(total), f"{hours}; {passes}")
        encode = " and ".join(f"{flops(flop)} per {m}" for m, flop in cost.encode.items())
        total = found.encoding(name)
        out.add_row("encoding the test", flops(total), f"{rates.words(total, 'fp32')}; {encode}")
        out.add_row("encodings", _bytes(found.encoding_bytes(name)), f"{_bytes(cost.stored)} per picture")
        if pairs := found.pairs(name):
            total = found.scoring(name)
            hours = rates.words(total, evaluation.precision)
            out.add_row("scoring pairs", flops(total), f"{hours}; {pairs:,} pairs, {flops(cost.pair)} each")
            read = f"each node reads {_bytes(found.scoring_reads(name))} of encodings"
            out.add_row("scores", _bytes(found.score_bytes()), read)
        else:
            out.add_row("scoring pairs", "none", "a score is a product of two vectors")
    return out


def _chosen_by(config: ExperimentConfig, split: ZeroShotSplit) -> str:
    if split.pseudo_unseen:
        return f"mAP_all of {len(split.pseudo_unseen)} pseudo-unseen classes"
    if config.shard.hard_negatives == 1 and split.held_back:
        return "mAP_all of held-back pairs"
    return "nothing: the last weights"


def _weights(config: ExperimentConfig) -> str:
    weights = config.backbone.weights
    if weights is None:
        return "random weights; for others --set backbone.weights=hub|installed|FILE"
    named = {"hub": "timm's weights, fetched by the run", INSTALLED: "the weights of an installed package"}
    return named.get(weights, f"weights of {weights}")


def _pictures_of(count: Count) -> str:
    return f"{count['sketch']:,} sketches, {count['photo']:,} photos"


def flops(flop: float) -> str:
    return _scaled(flop, "FLOP")


def _bytes(size: float) -> str:
    return _scaled(size, "B")


def _scaled(value: float, unit: str) -> str:
    """12,345,678 -> 12.3 M; powers of 1,000."""
    power = min(int(math.log10(value) // 3), 6) if value >= 1 else 0
    prefix = ("", "k", "M", "G", "T", "P", "E")[power]
    return f"{value / 1000**power:,.3g} {prefix}{unit}"
