"""Measure the drift that `zse reevaluate` reports for unseen classes of a real data set, unchanged and distorted.

DATA=folder CHECKPOINT=folder python -m benchmarks drift     # the data of `make results`, a checkpoint of sketchy-25
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from benchmarks.results.make import DATA
from pipelines.judge.reevaluate import how_to_evaluate, reevaluate
from zse_model.checkpoint import load_checkpoint

PICTURES = 8  # of a class and modality
Spoil = Callable[[Image.Image], Image.Image]


def as_it_is(picture: Image.Image) -> Image.Image:
    return picture


def noise(picture: Image.Image) -> Image.Image:
    shape = (picture.height, picture.width, 3)
    return Image.fromarray(np.random.default_rng(crc32(picture.tobytes())).integers(0, 256, shape, dtype=np.uint8))


WAYS: dict[str, tuple[Spoil, Spoil]] = {
    "as it is": (as_it_is, as_it_is),
    "thick lines, blurred photos": (
        lambda sketch: sketch.filter(ImageFilter.MinFilter(5)),
        lambda photo: photo.filter(ImageFilter.GaussianBlur(4)),
    ),
    "turned sketches, grey photos": (
        lambda sketch: sketch.rotate(90),
        lambda photo: ImageOps.grayscale(photo).convert("RGB"),
    ),
    "photos of noise": (as_it_is, noise),
}


def main() -> None:
    checkpoint, source = os.environ.get("CHECKPOINT", ""), Path(DATA) / "sketchy125_128"
    if not checkpoint or not source.exists():
        sys.exit(f"Set CHECKPOINT to a checkpoint of sketchy-25 (now {checkpoint!r}), and DATA so that {source} exists")
    with tempfile.TemporaryDirectory() as folder:
        for name, ways in WAYS.items():
            for modality, spoil in zip(("sketch", "photo"), ways, strict=True):
                for category in load_checkpoint(checkpoint).split.unseen:
                    out = Path(folder, "catalog", name, modality, category)
                    out.mkdir(parents=True)
                    for file in sorted((source / modality / category).iterdir())[:PICTURES]:
                        picture = Image.open(file).convert("L" if modality == "sketch" else "RGB")
                        spoil(picture).save(out / f"{file.stem}.png")
        config = how_to_evaluate(["evaluation.modes=[ret]"])
        summary, _, _ = reevaluate(f"{folder}/catalog", [checkpoint], f"{folder}/workspace", config)
        for line in summary.lines:
            drift = ", ".join(f"{name} {value:.2f}" for name, value in line.drift.items())
            print(f"{line.dataset:30s} mAP_all {line.values['ret'][0]:.3f}  {drift}{line.no_drift}")


if __name__ == "__main__":
    main()
