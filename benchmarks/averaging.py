"""Measure what averages at test time find: the scores of mirrored, thicker and smaller drawings and of mirrored photos.

    python -m benchmarks averaging --checkpoint workspace/checkpoints/...

Sketches of the pseudo-unseen classes of the checkpoint's split search the photos of these classes. The score of a pair
is the mean over the forms of its sketch and of its photo.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.photographed import by_class, files
from benchmarks.results.columns import paired, text
from benchmarks.results.tables import head, line
from benchmarks.world import originals
from pipelines.workspace.tensors import to_tensor
from zse_model import encode, evaluate_scores, load_checkpoint
from zse_model.transforms import prepare_photo, prepare_sketch


def mirrored(pictures: Tensor) -> Tensor:
    """uint8 [n, c, s, s], as all forms take and give them."""
    return pictures.flip(3)


def thicker(sketches: Tensor) -> Tensor:
    """Strokes that are a pixel wider on all sides."""
    return -F.max_pool2d(-sketches.float(), 3, 1, 1).to(torch.int16).to(torch.uint8)


def smaller(sketches: Tensor) -> Tensor:
    side = sketches.shape[3]
    small = F.interpolate(sketches.float(), size=round(0.85 * side), mode="bilinear", antialias=True)
    before = (side - small.shape[3]) // 2
    after = side - small.shape[3] - before
    return F.pad(small, (before, after, before, after), value=255.0).round().to(torch.uint8)


SKETCHES: dict[str, Callable[[Tensor], Tensor]] = {
    "as it is": lambda sketches: sketches,
    "mirrored": mirrored,
    "thicker": thicker,
    "smaller": smaller,
}
PHOTOS = {"as it is": SKETCHES["as it is"], "mirrored": mirrored}
WAYS = [
    (("as it is",), ("as it is",)),
    (("as it is", "mirrored"), ("as it is",)),
    (("as it is",), ("as it is", "mirrored")),
    (("as it is", "mirrored"), ("as it is", "mirrored")),
    (("as it is", "thicker"), ("as it is",)),
    (("as it is", "smaller"), ("as it is",)),
    (("as it is", "mirrored", "thicker", "smaller"), ("as it is", "mirrored")),
]


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks averaging", description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--checkpoint", required=True, help="folder of a checkpoint with pseudo-unseen classes")
    parser.add_argument("--mode", help="the mode whose scores are averaged; its first by default")
    options = parser.parse_args(arguments)
    checkpoint = load_checkpoint(Path(options.checkpoint))
    classes, mode = checkpoint.split.pseudo_unseen, options.mode or checkpoint.method.modes[0]
    with tempfile.TemporaryDirectory() as scratch:
        data = originals(Path(scratch))
        (drawn, labels), (shown, others) = (files(data / kind, classes, None) for kind in ("sketch", "photo"))
        sketches = to_tensor([prepare_sketch(path.read_bytes(), checkpoint.transforms) for path in drawn])
        photos = to_tensor([prepare_photo(path.read_bytes(), checkpoint.transforms) for path in shown])
    queries = {name: encode(checkpoint, form(sketches), "sketch") for name, form in SKETCHES.items()}
    galleries = {name: encode(checkpoint, form(photos), "photo") for name, form in PHOTOS.items()}
    scores = {(a, b): checkpoint.method.score(queries[a], galleries[b], mode) for a, b in product(queries, galleries)}
    task = by_class(labels, others)
    print(*head("sketches", "photos", f"mAP_all of `{mode}`", "minus the first"), sep="\n")
    first = None
    for forms in WAYS:
        mean = torch.stack([scores[pair] for pair in product(*forms)]).mean(0)
        values = evaluate_scores([mean], task).values("plain", "mAP_all")
        gained = "" if first is None else text(paired(values, first, labels))
        first = values if first is None else first
        print(line(*(", ".join(names) for names in forms), f"{float(values.nanmean()):.3f}", gained), flush=True)
