"""Sketches and photos as the public ZSE-SBIR code prepares them, within 2 grey levels (golden data)."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zse_model.published_pictures import published_photo, published_sketch
from zse_model.transforms import BadPicture, TransformConfig, prepare_photo, prepare_sketch

SHARED = Path(__file__).parents[2] / "../shared"
PUBLISHED = TransformConfig(size=224, recipe="published")


def golden(name: str) -> dict[str, np.ndarray]:
    if not (SHARED / "golden").exists():
        pytest.skip("the golden data of the public code is not here")
    with np.load(SHARED / "golden" / name) as arrays:
        return {key: arrays[key] for key in arrays}


def difference(ours: Image.Image, theirs: np.ndarray) -> int:
    return int(np.abs(np.asarray(ours).transpose(2, 0, 1).astype(int) - theirs).max())


def test_drawn_pictures():
    arrays = golden("preprocess_synthetic.npz")
    names = [key.removesuffix("_in") for key in arrays if key.endswith("_in")]
    assert len(names) == 14
    for name in names:
        prepare = published_sketch if name.startswith("sketch") else published_photo
        assert difference(prepare(Image.fromarray(arrays[f"{name}_in"]), 224), arrays[f"{name}_out"]) <= 2, name


def test_real_pictures():
    arrays = golden("preprocess_reference.npz")
    for files, pictures, prepare in (
        ("sketch_files", "sketches_u8", published_sketch),
        ("photo_files", "photos_u8", published_photo),
    ):
        for file, theirs in zip(arrays[files], arrays[pictures], strict=True):
            picture = Image.open(SHARED / "data/sketchy125_128" / str(file))
            assert difference(prepare(picture, 224), theirs) <= 2, file


def as_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_recipe_is_chosen_by_the_transforms():
    drawing = np.full((80, 120, 3), 255, dtype=np.uint8)
    drawing[20:60, 30:34] = 0
    sketch = prepare_sketch(as_png(drawing), PUBLISHED)
    assert (sketch == np.asarray(published_sketch(Image.fromarray(drawing), 224).convert("L"))).all()
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    photo = prepare_photo(as_png(noise), PUBLISHED)
    assert (photo == np.asarray(published_photo(Image.fromarray(noise), 224))).all()
    transparent = np.dstack([np.zeros((80, 120, 3), np.uint8), 255 - drawing[..., 0]])  # black ink on nothing
    assert (prepare_sketch(as_png(transparent), PUBLISHED) == sketch).all()
    with pytest.raises(BadPicture, match="blank: no pixel is as dark"):
        prepare_sketch(as_png(np.full((80, 80, 3), 200, dtype=np.uint8)), PUBLISHED)
