"""Pictures for benchmarks: real ones if they are beside the repository, else drawn ones."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

from PIL import Image

REAL = Path(__file__).parents[2] / "shared" / "data" / "sketchy125_128"


def originals(scratch: Path) -> Path:
    """A folder with sketch/<class>/* and photo/<class>/*: 6,250 real pictures, or 6,240 drawn ones."""
    if REAL.exists():
        return REAL
    print(f"{REAL} does not exist: using drawn pictures")
    return drawn(scratch / "drawn", 3120)


def drawn(root: Path, each: int) -> Path:
    """A folder with sketch/<class>/*.png and photo/<class>/*.jpg: about `each` drawn pictures of either kind, the same
    on every machine."""
    from zse_model.synthetic import CATEGORIES, draw_photo, draw_sketch

    for category in CATEGORIES:
        for modality in ("sketch", "photo"):
            (root / modality / category).mkdir(parents=True, exist_ok=True)
        for i in range(each // len(CATEGORIES)):
            Image.fromarray(draw_sketch(category, i)).save(root / "sketch" / category / f"{i}.png")
            Image.fromarray(draw_photo(category, i)).save(root / "photo" / category / f"{i}.jpg", quality=90)
    return root


def repeated(source: Path, target: Path, pictures: int) -> Path:
    """A folder with `pictures` files: copies of the source's files under other names."""
    files = [p for p in sorted(source.rglob("*")) if p.is_file() and p.parts[-3] in ("sketch", "photo")]
    for i in range(pictures):
        file = files[i % len(files)]
        to = target / file.parts[-3] / file.parts[-2] / f"{i // len(files)}-{file.name}"
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, to)
    return target


def as_bytes(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
