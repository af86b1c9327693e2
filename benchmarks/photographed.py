"""Measure what photographed and scanned drawings find, beside the clean drawings that they were made from.

    python -m benchmarks photographed --checkpoint workspace/checkpoints/...                     pseudo-unseen classes
    python -m benchmarks photographed --checkpoint ... --family reported --out sheet.png         unseen classes

Strengths and cleaning were chosen by the family `tuning` on classes that were held out of training. The family
`reported` (other papers, pens, desks and seeds) reads the unseen classes.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from benchmarks.papers import FAMILIES, photographed
from benchmarks.results.tables import line
from benchmarks.world import originals
from pipelines.search.cleaning import Clean, cleaned
from zse_model import Task, encode, evaluate_scores, load_checkpoint
from zse_model.checkpoint import Checkpoint
from zse_model.scoring import Encoding
from zse_model.transforms import BadPicture, prepare_sketch


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks photographed", description=str(__doc__).split("\n\n")[0]
    )
    parser.add_argument("--checkpoint", required=True, help="folder of a checkpoint of the data's split")
    parser.add_argument("--family", choices=list(FAMILIES), default="tuning")
    parser.add_argument("--modes", default="ret", help="separated by commas")
    parser.add_argument("--each", type=int, default=25, help="sketches a class")
    parser.add_argument("--out", help="a PNG file with some photos beside what the network reads of them")
    options = parser.parse_args(arguments)
    checkpoint = load_checkpoint(Path(options.checkpoint))
    split = checkpoint.split
    classes = list(split.pseudo_unseen if options.family == "tuning" else split.unseen)
    with tempfile.TemporaryDirectory() as scratch:
        folder = originals(Path(scratch))
        photos, of = files(folder / "photo", classes, None)
        sketches, labels = files(folder / "sketch", classes, options.each)
        gallery = encode(checkpoint, photos, "photo")
    names = [f"{path.parent.name}/{path.name}" for path in sketches]
    clean = [path.read_bytes() for path in sketches]
    taken = [photographed(pixels(path), options.family, name) for path, name in zip(sketches, names, strict=True)]
    rows: dict[str, tuple[list[bytes], Clean]] = {
        "clean": (clean, "never"),
        "clean, with cleaning": (clean, "auto"),
        "photographed": (taken, "never"),
        "photographed, with cleaning": (taken, "auto"),
    }
    print(f"{options.family}: {len(sketches)} sketches, {len(photos)} photos of {len(classes)} classes")
    cleaning(taken, [path.read_bytes() for path in photos])
    if options.out:
        sheet(taken[:: max(1, len(taken) // 30)], checkpoint).save(options.out)
    print(line("mode", "sketches", "mAP_all", "of the clean"))
    task = by_class(labels, of)
    queries = {row: encode_all(checkpoint, *given) for row, given in rows.items()}
    for mode in options.modes.split(","):
        whole = None
        for row, encoded in queries.items():
            result = evaluate_scores([checkpoint.method.score(encoded, gallery, mode)], task)
            found = float(result.values("plain", "mAP_all").nanmean())
            whole = whole or found
            print(line(mode, row, f"{found:.3f}", f"{found / whole:.2f}"), flush=True)


def by_class(labels: Tensor, of: Tensor) -> Task:
    """mAP_all of sketches, whose right photos are those of their class: labels int64 [q], of the photos int64 [g]."""
    return Task(
        setting="class",
        query_labels=labels,
        gallery_labels=of,
        query_groups=labels,
        metrics=("mAP_all",),
        protocols=("plain",),
    )


def files(folder: Path, classes: Sequence[str], each: int | None) -> tuple[list[Path], Tensor]:
    """The first files of each class, and their labels, int64 [n]."""
    found = [(path, i) for i, name in enumerate(classes) for path in sorted((folder / name).iterdir())[:each]]
    return [path for path, _ in found], torch.tensor([label for _, label in found])


def pixels(path: Path) -> np.ndarray:
    """A drawing of the data, uint8 [h, w]."""
    return np.asarray(Image.open(path).convert("L"))


def cleaning(taken: Sequence[bytes], photos: Sequence[bytes]) -> None:
    """Print the time of cleaning, and which share of photos is told to be no drawing."""
    begun, refused = time.process_time(), sum(map(is_refused, taken))
    each = (time.process_time() - begun) / len(taken)
    told = sum(map(is_refused, photos)) / len(photos)
    print(f"cleaning takes {each * 1e3:.0f} ms of one core a picture; {refused} of {len(taken)} photographed drawings")
    print(f"are told to be none, and {told:.0%} of the photos of the gallery")


def is_refused(data: bytes) -> bool:
    try:
        cleaned(data)
    except BadPicture:
        return True
    return False


def sheet(taken: Sequence[bytes], checkpoint: Checkpoint) -> Image.Image:
    """Pairs of a photo and what the network reads of it, five in a row."""
    side = 192
    page = Image.new("RGB", (10 * side, -(-len(taken) // 5) * side), "grey")
    for i, data in enumerate(taken):
        photo = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        photo.thumbnail((side, side))
        at = 2 * side * (i % 5), side * (i // 5)
        page.paste(photo, at)
        page.paste(Image.fromarray(drawing(data, "auto", checkpoint)).resize((side, side)), (at[0] + side, at[1]))
    return page


def drawing(data: bytes, clean: Clean, checkpoint: Checkpoint) -> np.ndarray:
    """What the network sees of a picture, uint8 [s, s]; an empty page for one that is refused."""
    try:
        return prepare_sketch(cleaned(data, clean).file, checkpoint.transforms)
    except BadPicture:
        return np.full((checkpoint.transforms.size, checkpoint.transforms.size), 255, dtype=np.uint8)


def encode_all(checkpoint: Checkpoint, given: Sequence[bytes], clean: Clean) -> Encoding:
    """Encodings of the drawings of pictures."""
    return encode(checkpoint, [torch.from_numpy(drawing(data, clean, checkpoint))[None] for data in given], "sketch")
