"""Pictures, and folders of them as people have them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zse_model.synthetic import CATEGORIES, draw_photo, draw_sketch

CLASSES = ("apple", "key", "cat")


def picture(array: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def png(kind: str, seed: int, format: str = "PNG") -> bytes:
    draw = draw_sketch if kind == "sketch" else draw_photo
    return picture(draw("fish", seed, size=48), format)


def build(root: Path, files: Iterable[str]) -> str:
    """Different pictures at these paths; the kind does not matter to a listing, but the bytes are real."""
    for seed, file in enumerate(files):
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        jpeg = path.suffix.lower() in (".jpg", ".jpeg")
        path.write_bytes(png("photo", seed, "JPEG") if jpeg else png("sketch", seed))
    return str(root)


def write(folder: Path, instances: range = range(4), *, thick: int = 0, classes: tuple[str, ...] = CLASSES) -> None:
    """A data set of drawings: sketches with a pen as many pixels thicker, photos as they are."""
    for category in classes:
        for i in instances:
            sketch = draw_sketch(category, i, size=64)
            for _ in range(thick):
                sketch = np.minimum.reduce([np.roll(sketch, by, axis) for axis in (0, 1) for by in (-1, 0, 1)])
            for modality, drawn in (("sketch", sketch), ("photo", draw_photo(category, i, size=64))):
                path = folder / modality / category / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture(drawn))


def world(folder: Path, seen: list[str], unseen: list[str]) -> str:
    """Drawn pictures under other names: 4 of a seen class, which held-back ones are among, and 2 of an unseen one."""
    for category, count in [*((c, 4) for c in seen), *((c, 2) for c in unseen)]:
        drawn = CATEGORIES[hash_of(category) % len(CATEGORIES)]
        for modality, draw in (("sketch", draw_sketch), ("photo", draw_photo)):
            (folder / modality / category).mkdir(parents=True)
            for i in range(count):
                (folder / modality / category / f"{i}.png").write_bytes(
                    picture(draw(drawn, hash_of(category) + i, size=32))
                )
    return str(folder)


def hash_of(name: str) -> int:
    return sum(map(ord, name))
