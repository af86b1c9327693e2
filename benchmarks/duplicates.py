"""Measure distances of photos to their re-encoded copies, and to other photos of their class: they bound the limit of
`pipelines.workspace.looks`. Uses the real data sets beside the repository, else drawn photos."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.world import REAL, as_bytes, originals
from pipelines.workspace.looks import CELL, FINE, NEAR, SHARE, SIDE, details, look
from pipelines.workspace.looks import apart as details_apart

PHOTOS = 300
AGAIN: dict[str, Callable[[Image.Image], bytes]] = {
    "quality 75": lambda p: as_bytes(p, "JPEG", quality=75),
    "quality 50": lambda p: as_bytes(p, "JPEG", quality=50),
    "half the size": lambda p: as_bytes(p.resize((p.width // 2, p.height // 2)), "JPEG", quality=75),
    "twice the size": lambda p: as_bytes(p.resize((p.width * 2, p.height * 2)), "JPEG", quality=85),
    "256 px square": lambda p: as_bytes(p.resize((256, 256)), "JPEG", quality=85),
}


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for source in dict.fromkeys((originals(Path(scratch)), REAL.parent / "quickdraw_x_caltech101")):
            if source.exists():
                measure(source / "photo")


def measure(photos: Path) -> None:
    print(f"{photos.parent.name}, grey levels of {SIDE}x{SIDE} thumbnails, limit {NEAR}")
    files = sorted(p for p in photos.rglob("*") if p.is_file())
    for name, store in AGAIN.items():
        far, fine = [], []
        for file in files[:: max(1, len(files) // PHOTOS)]:
            picture = Image.open(file).convert("RGB")
            again = Image.open(io.BytesIO(store(picture)))
            far.append(apart(picture, again))
            cell, square, variance = details_apart(details(picture), details(again))
            fine.append((cell, square / max(variance, 1)))
        cells, shares = zip(*fine, strict=True)
        print(
            f"  {name:15s} median {np.median(far):5.2f}  99 % {np.percentile(far, 99):5.2f}  most {max(far):5.2f}; of "
            f"{FINE}x{FINE} cells: most of a cell {max(cells):.1f} (limit {CELL}), of the variance {max(shares):.3f} "
            f"(limit {SHARE})"
        )
    nearest = []
    for folder in sorted(p for p in photos.iterdir() if p.is_dir()):
        inside = sorted(p for p in folder.rglob("*") if p.is_file())
        pictures = [(p.name, Image.open(p).convert("RGB").copy()) for p in inside]
        nearest += [(apart(a, b), name, other) for (name, a), (other, b) in combinations(pictures, 2)]
    for distance, a, b in sorted(nearest)[:8]:
        print(f"  {distance:5.2f} apart: {a} and {b}")


def apart(a: Image.Image, b: Image.Image) -> float:
    one, other = (np.frombuffer(look(picture), np.uint8).astype(float) for picture in (a, b))
    return float(((one - other) ** 2).mean() ** 0.5)


if __name__ == "__main__":
    main()
