"""Measure confidences: how they agree with what is relevant, and what "nothing similar" refuses and catches.

    python -m benchmarks confidence --checkpoint workspace/checkpoints/...

The unseen classes of the checkpoint's split search their photos, these and the photos of all other classes, and these
and crops of the other photos, 20,000 in all. Then each sketch searches small catalogues: the photos of a few unseen
classes. A checkpoint without confidences gets them first, from its pseudo-unseen classes as at the end of a training.
"""

from __future__ import annotations

import argparse
import io
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from benchmarks.photographed import files
from benchmarks.results.tables import line
from benchmarks.world import originals
from pipelines.train.selection import CALIBRATION_QUERIES, DISTRACTORS
from zse_model import Task, encode, evaluate_scores, load_checkpoint
from zse_model.checkpoint import Checkpoint
from zse_model.confidence import Confidence, median_of
from zse_model.scoring import Encoding, count

LARGEST = 20_000  # photos of the largest gallery
QUERIES = 100  # rows of scores at once
FEW = (8, 4, 2)  # classes of a small catalogue


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks confidence", description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--checkpoint", required=True, help="folder of a checkpoint of the data's split")
    parser.add_argument("--mode", default="ret", help="a mode that compares embeddings")
    parser.add_argument("--largest", type=int, default=LARGEST, help="photos of the largest gallery")
    options = parser.parse_args(arguments)
    checkpoint = load_checkpoint(Path(options.checkpoint))
    method, split, mode = checkpoint.method, checkpoint.split, options.mode
    with tempfile.TemporaryDirectory() as scratch:
        folder = originals(Path(scratch))
        if method.confidence_of(mode) is None:
            _fit(checkpoint, folder, mode)
        print(method.confidence_of(mode), flush=True)
        sketches, labels = files(folder / "sketch", split.unseen, None)
        photos, of = files(folder / "photo", split.unseen, None)
        others = files(folder / "photo", split.seen, None)[0][: max(0, options.largest - len(photos))]
        wanted = max(0, options.largest - len(photos) - len(others))
        queries = encode(checkpoint, sketches, "sketch")
        print(line("photos", "mAP_all", "ECE", "refused", "caught", "caught at 10 % refused"))
        gallery: Encoding = {}
        for some in (photos, others, [crop(others[i % len(others)], i) for i in range(wanted)]):
            if some:
                encoded = encode(checkpoint, some, "photo")
                further = {name: encoded[name] for name in method.scorer(mode).reads("photo")}
                gallery = {
                    name: torch.cat([gallery[name], value]) if gallery else value for name, value in further.items()
                }
                _measure(checkpoint, mode, queries, labels, gallery, of)
        own = {name: value[: len(photos)] for name, value in gallery.items()}
        _measure_few(checkpoint.method.score(queries, own, mode), labels, of, method.confidence_of(mode))


def _measure(
    checkpoint: Checkpoint, mode: str, queries: Encoding, labels: Tensor, gallery: Encoding, of: Tensor
) -> None:
    """Print a row and the bins of one gallery, whose first photos have the labels `of`; the others are of no class that
    is asked."""
    method, confidence = checkpoint.method, checkpoint.method.confidence_of(mode)
    assert confidence is not None
    size = count(gallery)
    beside = torch.cat([of, of.new_full((size - len(of),), -1)])
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0))  # ties must not favour a class
    gallery = {name: value[order] for name, value in gallery.items()}
    task = Task(
        setting="unseen",
        query_labels=labels,
        gallery_labels=beside[order],
        query_groups=labels,
        metrics=("mAP_all",),
        protocols=("plain",),
    )
    blocks = ({name: value[i : i + QUERIES] for name, value in queries.items()} for i in range(0, len(labels), QUERIES))
    found = evaluate_scores((method.score(block, gallery, mode) for block in blocks), task)
    checked = found.reliability(confidence)
    present, absent = found.top.scores[:, 0] - found.median, found.other - found.median
    own = float((absent < present.quantile(0.1)).float().mean())
    value = float(found.values("plain", "mAP_all").nanmean())
    told = (f"{x:.3f}" for x in (value, checked.ece, checked.refused, checked.caught, own))
    print(line(f"{size:,}", *told), flush=True)
    for one in checked.bins:
        print("   ", ", ".join(f"{name} {x:.2f}" for name, x in one.items()))


def _measure_few(scores: Tensor, labels: Tensor, of: Tensor, confidence: Confidence | None) -> None:
    """Print how many sketches are told "nothing similar" in catalogues of few classes, with their own class and without
    it."""
    assert confidence is not None
    draw = random.Random(0)
    classes = of.unique().tolist()
    print(line("classes", "refused", "caught"))
    for few in FEW:
        told = {True: 0, False: 0}
        for row, label in zip(scores, labels.tolist(), strict=True):
            others = draw.sample([one for one in classes if one != label], few)
            for there, catalogue in ((True, [label, *others[1:]]), (False, others)):
                found = row[torch.isin(of, torch.tensor(catalogue))][None]
                told[there] += int(not confidence.similar(found.amax(1), median_of(found)))
        print(line(str(few), *(f"{told[there] / len(labels):.3f}" for there in (True, False))), flush=True)


def crop(path: Path, number: int) -> bytes:
    """A part of a photo, 0.45 to 0.85 of its area, half of them mirrored, as PNG."""
    draw = random.Random(number)
    with Image.open(path) as opened:
        photo = opened.convert("RGB")
    share = draw.uniform(0.45, 0.85) ** 0.5
    width, height = int(photo.width * share), int(photo.height * share)
    x, y = draw.randint(0, photo.width - width), draw.randint(0, photo.height - height)
    part = photo.crop((x, y, x + width, y + height))
    if draw.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    buffer = io.BytesIO()
    part.save(buffer, "PNG")
    return buffer.getvalue()


def _fit(checkpoint: Checkpoint, folder: Path, mode: str) -> None:
    """As `Selection.calibrate`, from the files of the data."""
    split = checkpoint.split
    sketches, labels = files(folder / "sketch", split.pseudo_unseen, CALIBRATION_QUERIES)
    photos, of = files(folder / "photo", split.pseudo_unseen, None)
    others, _ = files(folder / "photo", split.training, None)
    some = torch.randperm(len(others), generator=torch.Generator().manual_seed(0))[: DISTRACTORS * len(photos)]
    queries = encode(checkpoint, sketches, "sketch")
    own, beside = (encode(checkpoint, each, "photo") for each in (photos, [others[i] for i in some.tolist()]))
    relevant: Tensor = labels[:, None] == of
    scores = [checkpoint.method.score(queries, each, mode) for each in (own, beside)]
    wider = torch.cat([relevant, torch.zeros_like(scores[1], dtype=torch.bool)], 1)
    checkpoint.method.fit_confidence(mode, [(scores[0], relevant), (torch.cat(scores, 1), wider)])
