"""The rows of docs/results.md, each made once: `make results DATA=... WEIGHTS=...` makes those that are missing.

A row is one experiment with one seed. What it gave is written to docs/results/<row>.json when it is finished, with the
command that makes it again and every query's own value; the page is drawn from these files alone, so a row that was not
run says so. Interrupted rows go on where they were: their stages do.

    python -m benchmarks.results                       every row that is missing, then the page
    python -m benchmarks.results --only selection      those whose name begins so
    python -m benchmarks.results --page                the page alone
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.world import REAL
from pipelines import shards
from pipelines.catalog.folder import FolderConfig
from pipelines.config import ExperimentConfig, load_experiment
from pipelines.jobs.run import Outputs, evaluate_checkpoint, run
from pipelines.members import read_members, read_pictures
from pipelines.pictures import decode_pixels
from pipelines.progress import say
from pipelines.queries import Queries
from zse_model.checkpoint import load_checkpoint
from zse_model.evaluation.metrics import bootstrap_interval, paired_difference
from zse_model.faithfulness import curves, orders
from zse_model.split import conflicts

ROOT = Path(__file__).parents[1]
ROWS, PAGE = ROOT / "docs" / "results", ROOT / "docs" / "results.md"
DATA = os.environ.get("DATA") or str(REAL.parent)
WEIGHTS = os.environ.get("WEIGHTS") or str(REAL.parents[1] / "weights" / "mobilenetv2_100_imagenet.safetensors")
KEPT = ("mAP_all", "mAP_200", "P_1", "P_25", "acc_1", "acc_5", "acc_10")
PAIRS, MEASURES = 250, ("drop 10 %", "drop 20 %", "drop 30 %", "deletion AUC", "insertion AUC")
COLUMNS = ("setting", "protocol", "mode", "metric", "value", "ci_low", "ci_high")


@dataclass(frozen=True)
class Row:
    table: str
    name: str
    experiment: str
    settings: tuple[str, ...] = ()
    """a.b=c, with $DATA and $WEIGHTS standing for themselves."""
    seeds: tuple[int, ...] = (0,)
    note: str = ""
    split: str = "sketchy-selection"
    steps: int = 110
    """Fixed, so that a row can be made again whatever else the machine does; chosen to fit the table's CPU minutes."""
    cross: bool = False
    """Also evaluate on the other data set."""
    faithful: bool = False
    """Also take patches away from photos that match."""
    start: Row | None = None
    """Whose checkpoint of seed 0 the training starts from."""

    def file(self, seed: int) -> Path:
        return ROWS / f"{self.table}.{self.name}.{seed}.json"

    def overrides(self, seed: int) -> list[str]:
        return [
            "dataset.source=$DATA/sketchy125_128",
            f"dataset.split={self.split}",
            "backbone.weights=$WEIGHTS",
            "train.minutes=null",
            f"train.steps={self.steps}",
            f"train.seed={seed}",
            *self.settings,
            *(["start=$START"] if self.start else []),
        ]

    def command(self, seed: int) -> str:
        """`$START` stands for the checkpoint of the row that is named."""
        text = f"zse run -e {self.experiment} " + " ".join(f"--set {s}" for s in self.overrides(seed))
        return text + (f"  # START: {self.start.command(0)}" if self.start else "")


def zse(name: str, *settings: str, note: str = "", **options: Any) -> Row:
    changed = tuple(f"methods.zse_sbir.{s}" for s in settings)
    return Row("selection", name, "folder+zse_sbir", changed, note=note, **options)


PUBLISHED = ("classification=0", "contrast=0", "distillation=0")
OLD_RATE = "train.backbone_lr=1"
SELECTION = [
    # At the rate from before `RATES`: what the ablation of CrossATNet starts from stays as it was.
    Row("selection", "global", "folder+global", (OLD_RATE,), note="one vector a picture", steps=150),
    zse("zse", note="as `folder+zse_sbir` has it", faithful=True),
    zse("zse-published-losses", *PUBLISHED, note="triplet and relation alone", faithful=True),
    zse("zse-token-readout", "readout=token"),
    zse("zse-d64", "dim=64", "ffn=64"),
    zse("zse-d256", "dim=256", "ffn=256", steps=90),
    zse("zse-depth2", "depth=2", steps=100),
    zse("zse-no-dropout", "dropout=0"),
    zse("zse-batch-negatives", "negatives=batch", note="negative pairs with the hardest photo of the batch"),
    zse("zse-released-attention", "cross_attention=released", faithful=True),
    zse("zse-figure-attention", "cross_attention=figure", faithful=True),
    zse("zse-no-distillation", "distillation=0"),
    zse("zse-distillation-4", "distillation=4"),
    zse("zse-no-classification", "classification=0"),
    zse("zse-no-contrast", "contrast=0"),
    zse("zse-no-triplet", "triplet=0"),
    zse("zse-relation-8", "relation=8"),
    Row(
        "selection",
        "zse-hard-negatives",
        "folder+zse_sbir",
        ("shard.hard_negatives=0.25",),
        note="a quarter of the negatives are other photos of the class",
    ),
    # The published layout is about the strided convolution, which needs 14x14 tokens: 224 px, a third of the steps.
    *(
        Row(
            "selection",
            f"zse-224-{layout}",
            "folder+zse_sbir",
            (
                "transforms.size=224",
                "methods.zse_sbir.pool=true",
                "methods.zse_sbir.pooled_dim=128",
                f"methods.zse_sbir.layout={layout}",
            ),
            note="224 px, strided convolution",
            steps=32,
        )
        for layout in ("spatial", "released")
    ),
]


WARM = SELECTION[0]


def crossatnet(name: str, *settings: str, note: str = "", **options: Any) -> Row:
    vectors = f"class_vectors={VECTORS.format('word2vec')}"
    changed = tuple(f"methods.crossatnet.{s}" for s in (vectors, *settings))
    return Row("crossatnet", name, "folder+crossatnet", changed, (0, 1, 2), note, steps=140, start=WARM, **options)


VECTORS = "$DATA/class_vectors/class_vectors_sketchy125.npz#{}"
CROSSATNET = [
    Row("crossatnet", "global", "folder+global", (), (0, 1, 2), "trained on", steps=150, start=WARM),
    crossatnet("crossatnet", note="as `folder+crossatnet` has it, with word2vec"),
    *(crossatnet(f"crossatnet-no-{part}", f"{part}=0") for part in ("triplet", "attention", "graph", "classification")),
    crossatnet("crossatnet-no-reconstruction", "reconstruction=0"),
    *(crossatnet(f"crossatnet-{v}", f"class_vectors={VECTORS.format(v)}") for v in ("glove", "fasttext")),
    crossatnet("crossatnet-random-vectors", "class_vectors=random", note="a graph without meaning"),
    crossatnet("crossatnet-mst", "edges=mst", note="minimum spanning tree"),
    crossatnet("crossatnet-distillation", "distillation=1", note="not of the reconstruction"),
]


WORD2VEC = f"methods.crossatnet.class_vectors={VECTORS.format('word2vec')}"


def rate(name: str, experiment: str, value: float, steps: int, *settings: str) -> Row:
    return Row("rates", name, experiment, (*settings, f"train.backbone_lr={value}"), note=f"{value}", steps=steps)


RATES = [
    rate("global", "folder+global", 1, 560),
    rate("global-slow-backbone", "folder+global", 0.3, 560),
    rate("global-slower-backbone", "folder+global", 0.1, 560),
    rate("crossatnet", "folder+crossatnet", 0.3, 520, WORD2VEC),
    rate("crossatnet-fast-backbone", "folder+crossatnet", 1, 520, WORD2VEC),
    rate("zse", "folder+zse_sbir", 0.5, 410),
    rate("zse-slow-backbone", "folder+zse_sbir", 0.15, 410),
]


BEST = ()  # settings of `folder+zse_sbir` that the selection table chose; () = as shipped
MODES = ("ret", "rn", "fused", "hash-64", "asym-64", "itq-64", "rerank-100")
ASKED = (
    f"evaluation.modes=[{','.join(MODES)}]",
    "evaluation.distractors=[drawn,held_back]",
)
STEPS = {"folder+global": 560, "folder+zse_sbir": 410, "folder+crossatnet": 520}


def final(name: str, experiment: str, *settings: str, note: str) -> list[Row]:
    return [
        Row(
            "final",
            f"{split}.{name}",
            experiment,
            (*ASKED, *settings),
            (0, 1, 2),
            note,
            split,
            STEPS[experiment],
            split == "sketchy-25",
        )
        for split in ("sketchy-25", "sketchy-21")
    ]


FINAL = [
    *final("global", "folder+global", note="one vector a picture"),
    *final("zse", "folder+zse_sbir", *BEST, note="with the auxiliary losses that `global` has"),
    *final(
        "zse-published-losses",
        "folder+zse_sbir",
        *(f"methods.zse_sbir.{s}" for s in PUBLISHED),
        note="triplet and relation alone",
    ),
    *final(
        "global-head",
        "folder+global",
        "methods.global.dim=512",
        "methods.global.readout=head",
        note="ranks by its 512-d head",
    ),
    *final("crossatnet", "folder+crossatnet", WORD2VEC, note="the reconstruction, 512-d"),
    *final("crossatnet-d64", "folder+crossatnet", WORD2VEC, "methods.crossatnet.dim=64", note="64-d"),
    *final(
        "crossatnet-distillation",
        "folder+crossatnet",
        WORD2VEC,
        "methods.crossatnet.distillation=1",
        note="with the auxiliary loss that `global` has",
    ),
]
ROWS_OF_ALL = [*SELECTION, *CROSSATNET, *RATES, *FINAL]


@dataclass
class Found:
    """All seeds of a row that are there."""

    row: Row
    records: list[dict[str, Any]] = field(default_factory=list)

    def values(self, key: str, *, cross: bool = False) -> np.ndarray | None:
        """float64 [queries], the mean over seeds of each query's own value; key as in `recorded`."""
        columns = [(r["cross"] if cross else r)["per_query"].get(key) for r in self.records]
        found = [np.array(c, dtype=float) for c in columns if c is not None]
        return np.mean(found, axis=0) if found else None

    def groups(self, column: str = "category", *, cross: bool = False) -> torch.Tensor:
        """int64 [queries], the unit of the bootstrap: a class, or a photo."""
        names = [str(x) for x in (self.records[0]["cross"] if cross else self.records[0])[column]]
        return torch.tensor(np.unique(names, return_inverse=True)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose table.name begins so")
    parser.add_argument("--page", action="store_true", help="draw the page from the rows that are there")
    parser.add_argument("--workspace", default="workspace/results")
    options = parser.parse_args()
    rows = ROWS_OF_ALL
    left = [
        (row, seed)
        for seed in range(3)  # one seed of every row first: a page with few seeds is better than one with few rows
        for row in rows
        if seed in row.seeds
        if f"{row.table}.{row.name}".startswith(options.only) and not row.file(seed).exists()
    ]
    if left and not options.page and not (Path(DATA).exists() and Path(WEIGHTS).exists()):
        sys.exit(
            f"Nothing to measure on: DATA is {DATA}, WEIGHTS is {WEIGHTS}. Give both: make results DATA=... WEIGHTS=..."
        )
    for i, (row, seed) in enumerate([] if options.page else left):
        say(f"Row {i + 1} of {len(left)}: {row.table}.{row.name}, seed {seed}")
        make(row, seed, options.workspace)
        PAGE.write_text(page(rows))
    PAGE.write_text(page(rows))
    say(f"Result: {PAGE}\nNext: commit docs/results")


def make(row: Row, seed: int, workspace: str) -> None:
    """Run one row and write its file, whole."""
    config, start = configured(row, seed, workspace), time.time()
    out = run(config, workspace)
    (name,) = config.methods
    manifest = shards.read_manifest(out.checkpoints[name], "zse train")
    record = {
        "command": row.command(seed),
        "cpu_minutes": round(manifest["cpu_seconds"] / 60, 2),
        "steps": manifest["training"]["steps"],
        "wall_minutes": round((time.time() - start) / 60, 1),
        **recorded(out, name),
    }
    if row.cross:
        record["cross"] = recorded(*across(config, out.checkpoints[name], workspace))
    if row.faithful:
        record["faithfulness"] = faithfulness(out, name)
    file = row.file(seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(record))
    part.rename(file)


def configured(row: Row, seed: int, workspace: str) -> ExperimentConfig:
    start = ""
    if row.start is not None:
        config = configured(row.start, 0, workspace)
        (start,) = run(config, workspace, until="train").checkpoints.values()
    values = {"$DATA": DATA, "$WEIGHTS": WEIGHTS, "$START": start}
    overrides = row.overrides(seed)
    for name, value in values.items():
        overrides = [s.replace(name, value) for s in overrides]
    return load_experiment(row.experiment, [*overrides, "tracking.enabled=false"])


def recorded(out: Outputs, name: str) -> dict[str, Any]:
    """Result rows, and each query's own values: `ret/mAP_all` by class, `fg:ret/acc_1` by instance,
    `generalised:ret/mAP_all` beside held-back photos."""
    queries, kept = Queries(out.reports[name]), {}
    for column in queries.keys:
        setting, *rest = column.split("/")
        if rest[0] == "plain" and rest[2] in KEPT:
            kind = re.search(r"-(fg|fg-class|fg-all|generalised)\.[0-9a-f]{8}$", setting)
            key = (f"{kind[1]}:" if kind else "") + f"{rest[1]}/{rest[2]}"
            kept[key] = [None if np.isnan(v) else round(v, 5) for v in queries.values(column).tolist()]
    rows = [{k: r[k] for k in COLUMNS} for r in out.rows()]
    of = {"category": queries.category.tolist(), "instance": queries.instance.tolist()}
    return {**of, "rows": rows, "per_query": kept}


def across(config: ExperimentConfig, checkpoint: str, workspace: str) -> tuple[Outputs, str]:
    """The checkpoint on QuickDraw sketches and Caltech-101 photos, of the classes that it has not seen by any name."""
    source = f"{DATA}/quickdraw_x_caltech101"
    seen = load_checkpoint(checkpoint).split.seen
    unseen = [c for c in sorted(p.name for p in Path(source, "sketch").iterdir()) if not conflicts(seen, [c])]
    dataset = FolderConfig(name="quickdraw_x_caltech101", source=source, split=tuple(unseen), pseudo_unseen=0)
    other = dataclasses.replace(config, dataset=dataset)
    (name,) = config.methods
    return evaluate_checkpoint(other, workspace, checkpoint), name


def faithfulness(out: Outputs, name: str) -> dict[str, Any]:
    """Sketches of unseen classes with their own photos, evenly over the classes: by order of the patches, what each of
    `MEASURES` is for each pair."""
    checkpoint, source = load_checkpoint(out.checkpoints[name]), shards.read_manifest(out.images, "zse ingest")
    members = read_members(out.images, source).of(categories=checkpoint.split.unseen)
    photo_of = {members.instance[i]: i for i in np.flatnonzero(members.modality == "photo")}
    sketches = [i for i in np.flatnonzero(members.modality == "sketch") if members.instance[i] in photo_of]
    sketches = sketches[:: max(1, len(sketches) // PAIRS)][:PAIRS]
    pictures = [
        [
            torch.from_numpy(decode_pixels(data))
            for data in read_pictures(out.images, source, members.where(np.array(rows)))
        ]
        for rows in (sketches, [photo_of[members.instance[i]] for i in sketches])
    ]
    generator = torch.Generator().manual_seed(0)
    found: dict[str, list[list[float]]] = {}
    for drawn, pixels in zip(*pictures, strict=True):
        sketch, photo = drawn[None], pixels.permute(2, 0, 1)
        for order, patches in orders(checkpoint.method, sketch, photo, generator).items():
            c = curves(checkpoint.method, sketch, photo, patches)
            values = [c.drop(0.1), c.drop(0.2), c.drop(0.3), c.deletion_auc, c.insertion_auc]
            found.setdefault(order, []).append([round(v, 4) for v in values])
    return {"category": [str(members.category[i]) for i in sketches], **found}


def load(rows: Iterable[Row]) -> list[Found]:
    return [
        Found(row, [json.loads(row.file(s).read_text()) for s in row.seeds if row.file(s).exists()]) for row in rows
    ]


def page(rows: list[Row]) -> str:
    found = load(rows)
    chosen, parted, rates, last = (
        {one.row.name: one for one in found if one.row.table == table}
        for table in ("selection", "crossatnet", "rates", "final")
    )
    parts = [INTRODUCTION, *selection_table(chosen, ("ret", "rn", "fused"), "zse")]
    parts += [CHOSEN, CROSSATNET_TEXT, *selection_table(parted, ("ret", "hash-64", "itq-64"), "crossatnet")]
    parts += [PARTS_TEXT.rstrip(), RATES_TEXT.rstrip()]
    for name, modes in (("global", ("ret",)), ("crossatnet", ("ret", "hash-64")), ("zse", ("ret", "rn", "fused"))):
        parts += ["", *selection_table({k: v for k, v in rates.items() if k.startswith(name)}, modes, name)]
    parts += [
        FINAL_TEXT,
        *final_table(last),
        CODES_TEXT,
        *codes_table(last),
        GENERALISED_TEXT,
        *generalised_table(last),
    ]
    parts += [FINE_TEXT, *fine_table(last), CROSS_TEXT, *cross_table(last), FAITHFUL_TEXT, *faithful_table(chosen), ""]
    return "\n".join(parts)


INTRODUCTION = """# Results

Made by `make results`; every row is one file of `docs/results/` with its command, drawn by `benchmarks/results.py`.
The pictures are a 128 px subset of Sketchy (25 photos and 25 sketches a class), not comparable with published numbers.
mAP_all of the plain protocol; intervals are 95 % bootstrap intervals over classes, differences are paired on the same
queries and resampled by class. With several seeds a query counts with its mean. Budgets are CPU minutes over all
workers and threads, on two AVX-512 cores. A row's steps are fixed to fit, so that it can be made again: on a busy
machine (some rows ran two at a time) the same steps take longer, and the column says what they took.

## Choosing settings

The 20 unseen classes of `sketchy-selection`, which are seen in every test split, after a budget of 4 CPU minutes on 63
others. Nothing in this table read a test class. The rows chose their checkpoints by 6 pseudo-unseen classes, as
`dataset.pseudo_unseen` drew them then; it draws at least 10 now, so that new rows are not made of the same trainings.
"""


CHOSEN = """
What the table decided, in the order of what it is worth: the losses beside the published ones (0.089 together, of
which distillation 0.051), the readout of pooled features instead of the retrieval token (0.035), negative pairs of
another class drawn at random instead of the hardest of the batch (0.034, and 0.106 of `rn`) or of the same class
(0.030). Their intervals, but for the last two, are apart from 0. Attention variant, layout, width, depth, dropout and
the other weights make differences that one seed cannot tell from none, the published layout and attention included. So
`folder+zse_sbir` stays as it is shipped, and the final table runs it so.
"""


CROSSATNET_TEXT = """
## What the parts of CrossATNet are worth

The same classes and budget, every row started from the backbone of `global` above (seed 0), which was tuned on the
seen classes. Each part off by its weight, other class vectors, another graph. Codes are fitted to the embeddings when a
training has ended: without them the row `crossatnet` is the same to the bit. `global`, trained on, found no step that
was better than its start on the classes that choose, so it is that start, whatever the seed.
"""


PARTS_TEXT = """
Classification by learned prototypes carries the model (0.029 less without it), triplets add 0.007, hardly apart
from 0. **Attention, graph and reconstruction do not help here**: without any of them the difference cannot be told from
none, and neither can it with other class vectors, random ones included, with a spanning tree, or with distillation.
They stay as they are because they are what the method is; `attention=0` and `reconstruction=0` make it cheaper.
"""


RATES_TEXT = """
## How fast the backbone learns

The same classes, as long as in the final table and from ImageNet's weights: `train.backbone_lr`, the backbone's rate as
a share of that of the layers on it, which is 5e-4, and 1e-3 for `zse`. `folder+crossatnet` and `folder+global`
have 0.3, `folder+zse_sbir` has 0.5: one seed does not tell 0.15 from it.
"""


FINAL_TEXT = """
## Final table

The unseen classes of two published splits, a budget of 15 CPU minutes a run on nine tenths of the seen photos: 625 and
525 sketches, as many photos. A shortlist has no mAP_all.
"""
CODES_TEXT = """
## Codes

The same checkpoints by the cosine of their embeddings, by 64 learned bits, by those of the photos and the sketch's
projection before its signs, and by 64 bits of ITQ: 2,048 (512-d) or 256 (64-d) bytes a photo, and 8. `global-head` has
512 floats too.
"""
GENERALISED_TEXT = """
## Generalised

The unseen photos alone, and beside the photos of seen classes that were held back from training (a tenth). mAP_all.
"""
FINE_TEXT = """
## Fine-grained, unseen classes

A sketch's own photo: among the 25 photos of its class, among the drawn photos of all unseen classes, and among all 578
drawn photos of the data, most of them of classes that were trained on. Resampled by photo.
"""
CROSS_TEXT = """
## Across data sets

The checkpoints of `sketchy-25` on QuickDraw sketches and Caltech-101 photos, of the classes that they have not seen
under any name.
"""


FAITHFUL_TEXT = """
## Do explanations point at what the score depends on?

Photo patches of matching pairs (a sketch of an unseen class of `sketchy-selection` with its own photo) are replaced by
the picture's mean colour and the pair is scored anew by `rn` (docs/explaining.md). "matched" takes the patches first
that the correspondences point at; the controls are random, over all patches or over the half with the most attention
first. Differences of logits, paired, 95 % bootstrap intervals over classes. A higher drop, a lower deletion AUC and a
higher insertion AUC speak for the explanation.
"""


def not_run(one: Found, columns: int) -> str:
    return f"| {one.row.name} | not run |" + " |" * (columns - 2)


def selection_table(found: dict[str, Found], modes: Sequence[str], reference: str) -> list[str]:
    lines = [
        f"| row | seeds | {' | '.join(modes)} | best mode minus the same of `{reference}` | steps | CPU minutes | |",
        "|---" * (6 + len(modes)) + "|",
    ]
    for name, one in found.items():
        if not one.records:
            lines.append(not_run(one, 6 + len(modes)))
            continue
        cells = {mode: one.values(f"{mode}/mAP_all") for mode in modes}
        best = max(((float(np.nanmean(v)), m) for m, v in cells.items() if v is not None), default=(0.0, "ret"))[1]
        lines.append(
            f"| {name} | {len(one.records)} | "
            + " | ".join("" if v is None else interval(v, one.groups()) for v in cells.values())
            + f" | {difference(one, found[reference], best, best) if name != reference else ''} "
            + f"| {one.records[0]['steps']} | {statistics.mean(r['cpu_minutes'] for r in one.records):.1f} "
            + f"| {one.row.note} |"
        )
    return lines


def final_table(found: dict[str, Found]) -> list[str]:
    lines = ["| row | seeds | mode | mAP_all | minus `global` | P_25 | P_1 |", "|---|---|---|---|---|---|---|"]
    for name, one in found.items():
        if not one.records:
            lines.append(not_run(one, 7))
        for mode in MODES:
            cells = [one.values(f"{mode}/{metric}") for metric in ("mAP_all", "P_25", "P_1")]
            if cells[2] is None:
                continue
            reference = found[f"{one.row.split}.global"]
            versus = "" if one is reference else difference(one, reference, mode, "ret")
            texts = ["-" if v is None else interval(v, one.groups()) for v in cells]
            lines.append(f"| {name} | {len(one.records)} | {mode} | {texts[0]} | {versus} | {texts[1]} | {texts[2]} |")
    return lines


def codes_table(found: dict[str, Found]) -> list[str]:
    lines = [
        "| row | seeds | floats | minus `global-head` | hash-64 | asym-64 | itq-64 | hash-64 / floats "
        "| asym-64 / floats | hash-64 minus itq-64 |",
        "|---" * 10 + "|",
    ]
    for name, one in found.items():
        if one.row.experiment != "folder+crossatnet":
            continue
        values = [one.values(f"{mode}/mAP_all") for mode in ("ret", "hash-64", "asym-64", "itq-64")]
        if any(v is None for v in values):
            lines.append(not_run(one, 10))
            continue
        floats, *_ = means = [float(np.nanmean(v)) for v in values if v is not None]
        cells = [interval(v, one.groups()) for v in values if v is not None]
        cells.insert(1, difference(one, found[f"{one.row.split}.global-head"], "ret", "ret"))
        cells += [f"{mean / floats:.2f}" for mean in means[1:3]]
        lines.append(
            f"| {name} | {len(one.records)} | {' | '.join(cells)} | {difference(one, one, 'hash-64', 'itq-64')} |"
        )
    return lines


def generalised_table(found: dict[str, Found]) -> list[str]:
    lines = ["| row | seeds | mode | unseen alone | beside seen ones | the difference |", "|---" * 6 + "|"]
    for name, one in found.items():
        if not one.records:
            lines.append(not_run(one, 6))
        for mode in MODES:
            alone, beside = one.values(f"{mode}/mAP_all"), one.values(f"generalised:{mode}/mAP_all")
            if alone is not None and beside is not None:
                d = paired_difference(torch.tensor(beside), torch.tensor(alone), one.groups())
                lines.append(
                    f"| {name} | {len(one.records)} | {mode} | {interval(alone, one.groups())} "
                    f"| {interval(beside, one.groups())} | {d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}] |"
                )
    return lines


def fine_table(found: dict[str, Found]) -> list[str]:
    ks, galleries = ("acc_1", "acc_5", "acc_10"), {"fg-class": "class", "fg": "unseen", "fg-all": "all"}
    lines = [
        "| row | seeds | mode | " + " | ".join(f"{name} {k}" for name in galleries.values() for k in ks) + " |",
        "|---" * 12 + "|",
    ]
    for name, one in found.items():
        if not one.records:
            lines.append(not_run(one, 12))
        for mode in MODES:
            cells = [one.values(f"{kind}:{mode}/{k}") for kind in galleries for k in ks]
            if any(v is not None for v in cells):
                texts = ["-" if v is None else interval(v, one.groups("instance")) for v in cells]
                lines.append(f"| {name} | {len(one.records)} | {mode} | " + " | ".join(texts) + " |")
    return lines


def cross_table(found: dict[str, Found]) -> list[str]:
    lines = ["| row | seeds | mode | mAP_all | P_25 | P_1 |", "|---|---|---|---|---|---|"]
    for name, one in found.items():
        if not one.row.cross:
            continue
        if not one.records:
            lines.append(not_run(one, 6))
        for mode in MODES:
            cells = (
                [one.values(f"{mode}/{metric}", cross=True) for metric in ("mAP_all", "P_25", "P_1")]
                if one.records
                else []
            )
            if any(v is not None for v in cells):
                texts = ["-" if v is None else interval(v, one.groups(cross=True)) for v in cells]
                lines.append(f"| {name} | {len(one.records)} | {mode} | " + " | ".join(texts) + " |")
    return lines


def faithful_table(found: dict[str, Found]) -> list[str]:
    lines = ["| row | pairs | matched minus | " + " | ".join(MEASURES) + " |", "|---" * (3 + len(MEASURES)) + "|"]
    for one in found.values():
        if not one.row.faithful:
            continue
        if not one.records:
            lines.append(not_run(one, 3 + len(MEASURES)))
            continue
        record = one.records[0]["faithfulness"]
        groups = torch.tensor(np.unique(record["category"], return_inverse=True)[1])
        ours = torch.tensor(record["matched"], dtype=torch.float64)
        for control in ("uniform", "attended"):
            if control in record:
                theirs = torch.tensor(record[control], dtype=torch.float64)
                cells = [paired_difference(a, b, groups) for a, b in zip(ours.T, theirs.T, strict=True)]
                texts = [f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]" for d in cells]
                lines.append(f"| {one.row.name} | {len(ours)} | {control} | " + " | ".join(texts) + " |")
    return lines


def interval(values: np.ndarray, groups: torch.Tensor) -> str:
    low, high = bootstrap_interval(torch.tensor(values), groups)
    return f"{np.nanmean(values):.3f} ({low:.3f}-{high:.3f})"


def difference(one: Found, other: Found, mode: str, their_mode: str) -> str:
    """Of one row's mAP_all in a mode to the other's, empty where either has none."""
    if not one.records or not other.records:
        return ""
    ours, theirs = one.values(f"{mode}/mAP_all"), other.values(f"{their_mode}/mAP_all")
    if ours is None or theirs is None:
        return ""
    d = paired_difference(torch.tensor(ours), torch.tensor(theirs), one.groups())
    return f"{mode} {d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"


if __name__ == "__main__":
    main()
