"""The sentences of docs/results.md, and every number in a sentence, here or on another page, that the rows give."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.results.columns import Found, bounds
from zse_model.evaluation.metrics import PairedDifference

Tables = Mapping[str, Mapping[str, Found]]

INTRODUCTION = """# Results

Made by `make results`; every row is one file of `benchmarks/results/rows/` with its command.
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

CHOSEN_TEXT = """
What the table decided, in the order of what it is worth: the losses beside the published ones ({losses} together,
of which distillation {distillation}), the readout of pooled features instead of the retrieval token ({readout}),
negative pairs of another class drawn at random instead of the hardest of the batch ({batch}, and {batch_rn} of `rn`)
or of the same class ({hard}). Their intervals, but for the last two, are apart from 0. Attention variant, layout,
width, depth, dropout and the other weights make differences that one seed cannot tell from none, the published layout
and attention included. So `folder+zse_sbir` stays as it is shipped, and the final table runs it so.
"""

CROSSATNET_TEXT = """
## What the parts of CrossATNet are worth

The same classes and budget, every row started from the backbone of `global` above (seed 0), which was tuned on the
seen classes. Each part off by its weight, other class vectors, another graph. Codes are fitted to the embeddings when a
training has ended: without them the row `crossatnet` is the same to the bit. `global`, trained on, found no step that
was better than its start on the classes that choose, so it is that start, whatever the seed.
"""

PARTS_TEXT = """
Classification by learned prototypes carries the model ({classification} less without it), triplets add {triplet},
hardly apart from 0. **Attention, graph and reconstruction do not help here**: without any of them the difference cannot
be told from none, and neither can it with other class vectors, random ones included, with a spanning tree, or with
distillation. They stay as they are because they are what the method is; `attention=0` and `reconstruction=0` make it
cheaper.
"""

RATES_TEXT = """
## How fast the backbone learns

The same classes, as long as in the final table and from ImageNet's weights: `train.backbone_lr`, the backbone's rate as
a share of that of the layers on it, which is 5e-4, and 1e-3 for `zse`. `folder+crossatnet` and `folder+global`
have 0.3, `folder+zse_sbir` has 0.5: one seed does not tell 0.15 from it.
"""

FINAL_TEXT = """
## Final table

The unseen classes of two published splits, a budget of 15 CPU minutes a run on nine tenths of the seen photos:
{queries_25} and {queries_21} sketches, as many photos. A shortlist has no mAP_all.
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


def numbers(tables: Tables) -> dict[str, str]:
    """What stands between the braces of a sentence; "-" for a number of a row that was not run."""
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
        "queries_25": queries(tables["final"], "sketchy-25.global"),
        "queries_21": queries(tables["final"], "sketchy-21.global"),
    }


def lost(table: Mapping[str, Found], name: str, reference: str, mode: str) -> str:
    """How much mAP_all the row has less than the reference."""
    d = minus(table, name, reference, mode)
    return "-" if d is None else f"{-d.value:.3f}"


def minus(table: Mapping[str, Found], name: str, reference: str, mode: str) -> PairedDifference | None:
    ours, theirs = (table[row].column(f"{mode}/mAP_all") if row in table else None for row in (name, reference))
    return None if ours is None or theirs is None else ours.minus(theirs)


def queries(table: Mapping[str, Found], name: str) -> str:
    column = table[name].column("ret/mAP_all") if name in table else None
    return "-" if column is None else f"{len(column.values):,}"


def quotes(tables: Tables) -> dict[str, list[str]]:
    """By page, what it says of rows in its own sentences; lines may break anywhere."""
    slow = minus(tables["rates"], "zse-slow-backbone", "zse", "fused")
    assert slow is not None
    floats, codes = mean(tables["rates"]["crossatnet"], "ret"), mean(tables["rates"]["crossatnet"], "hash-64")
    coded = [one for one in tables["final"].values() if one.row.experiment == "folder+crossatnet"]
    symmetric, asymmetric = ([mean(one, mode) / mean(one, "ret") for one in coded] for mode in ("hash-64", "asym-64"))
    over_itq = [mean(one, "hash-64") - mean(one, "itq-64") for one in coded]
    return {
        "README.md": [
            "{queries_25} and {queries_21} queries".format(**numbers(tables)),
            f"{slow.value:.3f} more there (one seed, {bounds(slow)})",
        ],
        "docs/crossatnet.md": [
            f"64 bits keep {100 * codes / floats:.0f} % of the {floats:.3f}",
            f"and {100 * min(symmetric):.0f} to {100 * max(symmetric):.0f} % in the",
            f"costs nothing more to store: {100 * min(asymmetric):.0f} to {100 * max(asymmetric):.0f} %.",
            f"`hash-64` is {min(over_itq):.3f} to {max(over_itq):.3f} above ITQ",
        ],
    }


def mean(one: Found, mode: str) -> float:
    column = one.column(f"{mode}/mAP_all")
    return np.nan if column is None else column.mean
