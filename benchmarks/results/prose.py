"""The sentences of docs/results.md, and the numbers that sentences here and on other pages take from the rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.results.columns import Found, bounds
from benchmarks.results.plan import DIFFUSED
from pipelines.workspace.queries import Difference

Tables = Mapping[str, Mapping[str, Found]]

INTRODUCTION = """# Results

This page has every measured row of the methods on real pictures, for readers who compare methods or settings.
`make results DATA=folder WEIGHTS=file` makes the rows. DATA holds the folders `sketchy125_128`, `class_vectors` and
`quickdraw_x_caltech101`. Each row is one file of `benchmarks/results/rows/` with its command. The words are in the
[glossary](glossary.md).

- **Data**: a 128 px subset of Sketchy (25 photos and 25 sketches a class). The results are not comparable with
  published numbers.
- **Metric**: mAP_all of the plain protocol, unless the column says otherwise.
- **Intervals**: 95 % bootstrap intervals over classes. Differences are paired on the same queries and resampled by
  class. With fewer than 10 classes (`acc_k`: photos) nothing is significant, so there is no interval
  ([why ten](choosing.md#why-ten-classes)).
- **Seeds**: with several seeds, the value of a query is its mean over the seeds.
- **Budget**: CPU minutes over all workers and threads, on two AVX-512 cores. The number of steps of a row is fixed to
  fit the budget, so that the row can be made again. On a busy machine (some rows ran two at a time) the same steps take
  longer; the column says how long they took. Rows with "GPU" ran on one, in float32, with the same steps.

## Choosing settings

The rows are evaluated on the 20 unseen classes of `sketchy-selection`, which are seen in every test split, after a
budget of 4 CPU minutes on 63 other classes. No row of this table read a test class. The rows chose their checkpoints by
6 pseudo-unseen classes, which `dataset.pseudo_unseen` drew at the time. Today it draws at least 10, so new rows come
from other trainings.
"""

CHOSEN_TEXT = """
The table decided the following, in the order of the effect:

1. The losses beside the published ones ({losses} together, of which distillation {distillation}).
2. The readout of pooled features instead of the retrieval token ({readout}).
3. Negative pairs of another class drawn at random instead of the hardest of the batch ({batch}, and {batch_rn} of `rn`)
   or of the same class ({hard}). A negative of the same class could be the sketch's own photo at the time.

By `fused`, the intervals of 1 and 2 exclude 0, and those of 3 do not. Attention variant, layout, width, depth, dropout
and the other weights made no measurable difference with one seed, the published layout and attention included. So
`folder+zse_sbir` keeps its settings."""

CROSSATNET_TEXT = """
## What the parts of CrossATNet are worth

An ablation on the same classes and budget: each row turns one part off by its weight, or uses other class vectors or
another graph. Every row starts from the backbone of `global` above (seed 0), which was tuned on the seen classes. Codes
are fitted to the embeddings after the training; without codes the row `crossatnet` is the same to the bit. The training
of the row `global` found no step that was better than its start on the classes that choose. So the row is that start,
with every seed.
"""

PARTS_TEXT = """
Classification by learned prototypes matters most ({classification} less without it). Triplets add {triplet}, with an
interval that hardly excludes 0. **Attention, graph and reconstruction do not help here**: removing any of them made no
measurable difference. Nor did other class vectors, random ones included, a spanning tree, or distillation. The parts
stay because they define the method; `attention=0` and `reconstruction=0` make it cheaper.
"""

RATES_TEXT = """
## How fast the backbone learns

`train.backbone_lr` is the learning rate of the backbone as a share of the rate of the layers on it, which is 5e-4, and
1e-3 for `zse`. The rows use the same classes and ImageNet's weights. The last
column is the share. `folder+crossatnet` and `folder+global` have 0.3. `folder+zse_sbir` has 0.5: with one seed, 0.15
made no measurable difference.
"""

RECIPES_TEXT = """
## Which backbone, at which size

`folder+global` on the same classes, after about 4 CPU minutes: the steps of a row are those that fit. The pictures of
the data are 128 px; at 192 and 224 px they are enlarged, so a network sees no more detail but compares finer maps. One
seed.
"""

RECIPES_READ = """
The size is worth more than the backbone: from 128 to 192 px a network gains {size_low} to {size_high}, though it makes
half the steps. 224 px gains nothing over 192 px that one seed could show, and an encoding costs a third more. At 192 px
EfficientNet-Lite2 is {over_mobilenet} above MobileNetV2, which the interval does not tell from 0. So `folder+*` and
`everything` have EfficientNet-Lite2 at 192 px; its weights also come as a Python package. The tables above are of
MobileNetV2 at 128 px, and were made before; those below are of EfficientNet-Lite2 at 192 px.
"""

LATE_TEXT = """
## Late interaction

EfficientNet-Lite2 at 192 px on the same classes, as long as the final table. `late` compares the places of a sketch and
a photo ([scoring.md](scoring.md)): of `late_interaction` by themselves, of `zse_sbir` as a student of `rn`. A place of
64 numbers costs 2.65 MFLOP a pair here, one of 96 3.98, and `rn` 127, as `zse run --dry-run` counts.
"""

LATE_READ = """
`late` alone ranks worse than `ret`, and adds to it: `fused` of `late_interaction` is {fused_over_ret} above its own
`ret`, and {late_over_global} above `global`. In `zse_sbir`, `fused-late` (`ret` and `late`) is {fused_late_over_fused}
above `fused` (`ret` and `rn`), at 1/32 of its FLOP. With ViT-B/16 at 224 px (`zse_sbir-sketchy-25`) and places of 64
numbers it is 1/457: 4.9 of 2,245 MFLOP.

The head of the places starts as the principal axes of the pretrained tokens, those of sketches and of photos each
around their mean. After 52 steps of two workers and one seed, `late` had 0.321 and `fused` 0.452 (commit 6b4af51); with
a random start 0.247 and 0.409 (commit fe46402).
"""

PHOTOS_TEXT = """
## Without drawings

`folder+global` as above: a share of the training items has drawings that are made from photos
(`shard.pseudo_sketches`). The queries are real drawings, and so are those of the pseudo-unseen classes, which choose
the checkpoint.
"""

PHOTOS_READ = """
Photos alone give {photos_share} of the result with drawings, and {photos_over_frozen} more than the frozen backbone.
The frozen backbone's features are ImageNet's. After 56 steps of two workers and one seed, photos alone gave 0.72 of the
result with drawings, 0.297 of 0.413 (commit 6b4af51).
"""

STYLES_TEXT = """
## Other ways to draw

`folder+late_interaction` with augmented strokes or pseudo-sketches, by `fused`, after 160 steps. The drawings of
Sketchy are of the 20 classes above; they were drawn by looking at a photo. The drawings of QuickDraw took twenty
seconds, from memory. They are of five classes that this training has not seen and every final row has seen.
"""

STYLES_READ = """
No way gains on Sketchy: the settings of `folder+late_interaction`, here without the cost of a distance, stay as they
are. Both ways together lose {both_styles}; what augmented strokes alone lose, {strokes_styles}, is hardly told from 0.
The five classes of QuickDraw are too few to tell any difference from 0. One seed.
"""

PAIRS_TEXT = """
## Finding the very photo

`late_interaction` on the 20 classes above, after 160 steps. A sketch searches for its photo among those of its class,
the drawn photos of the 20 classes, and all drawn photos of the data. `plain` trains half of its sketches with the photo
they were drawn from, the others with any photo of the class (`shard.own_photo`), and its negatives are of other
classes. Two ways to find more photos were tried:

- `pairs` trains every sketch with its own photo. `methods.late_interaction.pairs` asks that this photo scores above a
  negative, and half of the negatives are of the same class (`shard.hard_negatives`).
- `distance` takes 1.6 times the squared distance of two places from their cosine, in training and in search
  (`late_distance`; the side of a picture is 1). The 1.6 was chosen on pseudo-unseen classes
  ([scoring.md](scoring.md#the-cost-of-a-distance)).
"""

PAIRS_READ = """
Pairs do not help: what they find more by photo is not told from 0, and they find less by class. Places that tell the
classes apart already find the photo as often. The cost of a distance helps: by photo, among all drawn photos, it finds
{distance_all} more, and by class {distance_class}. `folder+late_interaction` has it. One seed.
"""

LONGER_TEXT = """
## Longer trainings

`late_interaction` after 160 steps, the row `plain` above, and after 460, on the same classes. Nearly three times the
steps gain nothing here. No longer training was measured.
"""

FINAL_TEXT = """
## Final table

The unseen classes of two published splits, EfficientNet-Lite2 at 192 px, trained on nine tenths of the seen photos for
500 steps of `global`, 460 of `late_interaction` and `crossatnet`, 360 of `zse_sbir`: 24 to 53 CPU minutes on two such
cores, by the steps and minutes of the tables above. `folder+*` trains for 15. `near` is `late_interaction` where a
match costs its distance, as in `folder+late_interaction`; in `late` it costs nothing. A row ran in one process with 16
items a step; `folder+*` has two workers of 8, whose batch norms see half as many pictures. `zse` also trains `late`,
which `folder+zse_sbir` leaves out. There are {queries_25} and {queries_21} sketches, and as many photos. A shortlist
(`rerank-100`) has no mAP_all. These classes were read once for each row, and nothing was chosen by them. The former
table, of MobileNetV2 at 128 px, is in commit 6b4af51: `global` had 0.354 and 0.346.
"""

CODES_TEXT = """
## Codes

The same checkpoints, with floats and with codes: `ret` is the cosine of the embeddings of 512 numbers, 1,024 bytes a
photo in an index. `hash-64` is 64 learned bits on both sides, `asym-64` learned bits of the photos with the sketch's
projection before its signs, `itq-64` 64 bits of ITQ; each has 8 bytes a photo.
"""

GENERALISED_TEXT = """
## Generalised

mAP_all with two galleries: the unseen photos alone, and the unseen photos with the photos of seen classes that were
held back from training (a tenth).
"""

FINE_TEXT = """
## Fine-grained, unseen classes

A sketch searches for its own photo in three galleries: the 25 photos of its class, the drawn photos of all unseen
classes, and all 578 drawn photos of the data, most of them of classes that were trained on. Intervals are resampled by
photo.
"""

CROSS_TEXT = """
## Across data sets

The checkpoints of `sketchy-25` on QuickDraw sketches and Caltech-101 photos, of the classes that the checkpoints have
not seen under any name.
"""

DIFFUSION_TEXT = """
## Diffusion

The same checkpoints, and that of the row `plain` above. The 500 best photos of a mode are ranked again by how they
resemble each other ([scoring.md](scoring.md#diffusion)). The order then depends on the other photos of the gallery, so
these numbers do not compare with published ones, whose methods score each photo alone. No label is read. The constants
were chosen on pseudo-unseen classes, before the unseen classes were read. `acc_1 of the own photo` is among the drawn
photos of all unseen classes. Of QuickDraw, `sketchy-selection.late` has the five classes of
[other ways to draw](#other-ways-to-draw).
"""

SEEN_TEXT = """
## Classes that were trained on: NOT zero-shot

Held-back sketches of the classes that were trained on search the held-back photos of these classes
(`evaluation.seen_classes`).
"""

FAITHFUL_TEXT = """
## Do explanations point at what the score depends on?

Photo patches of matching pairs (a sketch of an unseen class with its own photo) are replaced by the picture's mean
colour, and the pair is scored again ([explaining.md](explaining.md)): by `rn`, whose scores are logits, or by `late`,
whose scores are at most 1. The order "matched" first replaces the patches that the correspondences point at. The
controls replace random patches: of the whole picture (`uniform`), or first of the half with the most attention
(`attended`). The values are paired differences of scores with 95 % bootstrap intervals over classes. A higher drop, a
lower deletion AUC and a higher insertion AUC speak for the explanation.
"""


def numbers(tables: Tables) -> dict[str, str]:
    """Name in braces -> number; "-" if its row was not run."""
    chosen, parts = tables["selection"], tables["crossatnet"]
    return {
        "losses": lost(chosen, "zse-published-losses", "zse", "fused"),
        "distillation": lost(chosen, "zse-no-distillation", "zse", "fused"),
        "readout": lost(chosen, "zse-token-readout", "zse", "fused"),
        "batch": lost(chosen, "zse-batch-negatives", "zse", "fused"),
        "batch_rn": lost(chosen, "zse-batch-negatives", "zse", "rn"),
        "hard": lost(chosen, "zse-hard-negatives", "zse", "fused"),
        "classification": lost(parts, "crossatnet-no-classification", "crossatnet", "ret"),
        "triplet": lost(parts, "crossatnet-no-triplet", "crossatnet", "ret"),
        "size_low": f"{min(gains):.3f}" if (gains := by_size(tables["recipes"])) else "-",
        "size_high": f"{max(gains):.3f}" if gains else "-",
        "over_mobilenet": difference(tables["recipes"], "lite2-192", "mobilenetv2-192", "ret"),
        "fused_over_ret": across_tables(tables, ("late", "late-96", "fused"), ("late", "late-96", "ret")),
        "fused_late_over_fused": across_tables(
            tables, ("late", "zse-late", "fused-late"), ("late", "zse-late", "fused")
        ),
        "late_over_global": across_tables(tables, ("late", "late-96", "fused"), ("late", "global", "ret")),
        "both_styles": lost(tables["styles"], "both", "plain", "fused"),
        "strokes_styles": lost(tables["styles"], "strokes", "plain", "fused"),
        "distance_all": difference(tables["pairs"], "distance", "plain", "fg-all:late", "acc_1"),
        "distance_class": difference(tables["pairs"], "distance", "plain", "fused"),
        "photos_over_frozen": difference(tables["photos"], "alone", "frozen", "ret"),
        "photos_share": share(tables["photos"].get("alone"), tables["late"].get("global")),
        "queries_25": queries(tables["final"], "sketchy-25.global"),
        "queries_21": queries(tables["final"], "sketchy-21.global"),
    }


def by_size(table: Mapping[str, Found]) -> list[float]:
    """What each backbone gains from 128 to 192 px."""
    found = (minus(table, f"{name}-192", f"{name}-128", "ret") for name in ("mobilenetv2", "lite0", "lite2"))
    return [d.value for d in found if d is not None]


def across_tables(tables: Tables, ours: tuple[str, str, str], theirs: tuple[str, str, str]) -> str:
    """The mAP_all of (table, row, mode) minus that of another."""
    a, b = (
        tables[table][row].column(f"{mode}/mAP_all") if row in tables[table] else None
        for table, row, mode in (ours, theirs)
    )
    return "-" if a is None or b is None else f"{(d := a.minus(b)).value:.3f} {bounds(d)}"


def share(one: Found | None, other: Found | None) -> str:
    """The mAP_all of a row as a share of another's."""
    if one is None or other is None or not (one.records and other.records):
        return "-"
    return f"{mean(one, 'ret') / mean(other, 'ret'):.2f}"


def difference(table: Mapping[str, Found], name: str, reference: str, mode: str, metric: str = "mAP_all") -> str:
    d = minus(table, name, reference, mode, metric)
    return "-" if d is None else f"{d.value:.3f} {bounds(d)}"


def lost(table: Mapping[str, Found], name: str, reference: str, mode: str) -> str:
    """The reference's mAP_all minus the row's."""
    d = minus(table, name, reference, mode)
    return "-" if d is None else f"{-d.value:.3f}"


def minus(
    table: Mapping[str, Found], name: str, reference: str, mode: str, metric: str = "mAP_all"
) -> Difference | None:
    ours, theirs = (table[row].column(f"{mode}/{metric}") if row in table else None for row in (name, reference))
    return None if ours is None or theirs is None else ours.minus(theirs)


def queries(table: Mapping[str, Found], name: str) -> str:
    column = table[name].column("ret/mAP_all") if name in table else None
    return "-" if column is None else f"{len(column.values):,}"


def quotes(tables: Tables) -> dict[str, list[str]]:
    """Page -> words in its sentences that have numbers of the rows, with single spaces for line breaks."""
    slow = minus(tables["rates"], "zse-slow-backbone", "zse", "fused")
    assert slow is not None
    floats, codes = mean(tables["rates"]["crossatnet"], "ret"), mean(tables["rates"]["crossatnet"], "hash-64")
    final = tables["final"].values()
    coded = [one for one in final if one.row.experiment == "folder+crossatnet" and one.records]
    symmetric, asymmetric = ([mean(one, mode) / mean(one, "ret") for one in coded] for mode in ("hash-64", "asym-64"))
    late = tables["diffusion"]["sketchy-25.late"]
    spread = [mean(late, *of) for of in ((f"fused-{DIFFUSED}",), (f"fused-{DIFFUSED}", "cross"), ("fused", "cross"))]
    own = [
        tables["final"][f"sketchy-{s}.{row}"].column("fg-all:late/acc_1") for row in ("near", "late") for s in (25, 21)
    ]
    first = [np.nan if column is None else column.mean for column in own]
    over_itq = [mean(one, "hash-64") - mean(one, "itq-64") for one in coded]
    return {
        "README.md": [
            "{queries_25} and {queries_21} queries".format(**numbers(tables)),
            f"{slow.value:.3f} more there (one seed, {bounds(slow)})",
            f"in {first[0]:.2f} of the cases (checkpoint of the 25 classes) and {first[1]:.2f} (21)",
            f"without the cost in {first[2]:.2f} and {first[3]:.2f}",
            f"has {spread[0]:.3f} on the 25 classes**, and {spread[1]:.3f} where `fused` has {spread[2]:.3f} from",
        ],
        "docs/crossatnet.md": [
            f"64 bits keep {100 * codes / floats:.0f} % of the {floats:.3f}",
            f"and {100 * min(symmetric):.0f} to {100 * max(symmetric):.0f} % in the",
            f"costs nothing more to store: {100 * min(asymmetric):.0f} to {100 * max(asymmetric):.0f} %.",
            f"`hash-64` is {min(over_itq):.3f} to {max(over_itq):.3f} above ITQ",
        ],
    }


def mean(one: Found, mode: str, part: str = "test") -> float:
    column = one.column(f"{mode}/mAP_all", part)
    return np.nan if column is None else column.mean
