"""Measure what `late` finds where the match of two places costs their distance in the picture, by several costs.

    python -m benchmarks distance --checkpoint workspace/checkpoints/...

Sketches of the pseudo-unseen classes of the checkpoint's split search the photos of these classes: by class, and their
own photo among those that have a sketch. The weights of `fused` are the checkpoint's.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.photographed import by_class, files
from benchmarks.results.columns import paired, text
from benchmarks.results.tables import head, line
from benchmarks.world import REAL
from zse_model import encode, evaluate_scores, load_checkpoint

DISTANCES = (0.0, 0.4, 0.8, 1.6, 3.2, 6.4)


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks distance", description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--checkpoint", required=True, help="folder of a checkpoint with `late` and known pairs")
    parser.add_argument("--modes", default="late,fused", help="separated by commas")
    options = parser.parse_args(arguments)
    if not REAL.exists():
        sys.exit(f"{REAL} does not exist: drawn pictures have no known pairs")
    checkpoint = load_checkpoint(Path(options.checkpoint))
    method, classes = checkpoint.method, checkpoint.split.pseudo_unseen
    if not classes or "late" not in method.modes:
        sys.exit(f"{options.checkpoint} has no pseudo-unseen classes or no mode late. Give one with both")
    (drawn, labels), (shown, others) = (files(REAL / kind, classes, None) for kind in ("sketch", "photo"))
    sketches, photos = encode(checkpoint, drawn, "sketch"), encode(checkpoint, shown, "photo")
    names = {f"{path.parent.name}/{path.stem}": i for i, path in enumerate(shown)}
    own = torch.tensor([names[f"{path.parent.name}/{path.stem.rpartition('-')[0]}"] for path in drawn])
    has = own.unique()
    task = by_class(labels, others)
    by_photo = dataclasses.replace(task, setting="photo", query_labels=own, gallery_labels=has, metrics=("acc_1",))
    print(f"{len(drawn)} sketches, {len(shown)} photos, {len(has)} of them drawn, of {len(classes)} classes")
    print(*head("mode", "late_distance", "mAP_all", "minus the first", "acc_1", "minus the first"), sep="\n")
    config = method.config
    for mode in options.modes.split(","):
        first: tuple[Tensor, Tensor] | None = None
        for distance in DISTANCES:
            method.config = dataclasses.replace(config, late_distance=distance)
            scores = method.score(sketches, photos, mode)
            found = (
                evaluate_scores([scores], task).values("plain", "mAP_all"),
                evaluate_scores([scores[:, has]], by_photo).values("plain", "acc_1"),
            )
            first = first or found
            cells = []
            for values, before in zip(found, first, strict=True):
                same = values is before
                cells += [
                    f"{float(values.nanmean()):.3f}",
                    "" if same else text(paired(values, before, labels)),
                ]
            print(line(mode, f"{distance:g}", *cells), flush=True)
