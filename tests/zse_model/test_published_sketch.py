"""Pictures as the public ZSE-SBIR code prepares them, within 2 grey levels."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zse_model.published_sketch import published_sketch
from zse_model.transforms import BadPicture, TransformConfig, prepare_photo, prepare_sketch

GOLDEN = Path(__file__).parents[1] / "golden" / "preprocess_synthetic.npz"
SHARED = Path(__file__).parents[2] / "../shared"
PUBLISHED = TransformConfig(size=224, recipe="published")


def as_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def difference(ours: np.ndarray | Image.Image, theirs: np.ndarray) -> int:
    return int(np.abs(np.asarray(ours).transpose(2, 0, 1).astype(int) - theirs).max())


def test_drawn_pictures():
    with np.load(GOLDEN) as arrays:
        names = [key.removesuffix("_in") for key in arrays if key.endswith("_in")]
        assert sum(name.startswith("sketch_") for name in names) == 10 and len(names) == 14
        for name in names:
            picture, theirs = arrays[f"{name}_in"], arrays[f"{name}_out"]
            if name.startswith("sketch_"):
                assert difference(published_sketch(Image.fromarray(picture), 224), theirs) <= 2, name
            else:
                assert difference(prepare_photo(as_png(picture), PUBLISHED), theirs) <= 2, name


def test_real_pictures():
    reference = SHARED / "golden/preprocess_reference.npz"
    if not reference.exists():
        pytest.skip("no ../shared/golden: real pictures may not be in the repository; drawn ones are compared above")
    with np.load(reference) as arrays:
        files = {
            key: [SHARED / "data/sketchy125_128" / str(f) for f in arrays[key]]
            for key in ("sketch_files", "photo_files")
        }
        for file, theirs in zip(files["sketch_files"], arrays["sketches_u8"], strict=True):
            assert difference(published_sketch(Image.open(file), 224), theirs) <= 2, file
        for file, theirs in zip(files["photo_files"], arrays["photos_u8"], strict=True):
            assert difference(prepare_photo(file.read_bytes(), PUBLISHED), theirs) <= 2, file


def test_the_recipe_is_chosen_by_the_transforms():
    drawing = np.full((80, 120, 3), 255, dtype=np.uint8)
    drawing[20:60, 30:34] = 0
    sketch = prepare_sketch(as_png(drawing), PUBLISHED)
    assert (sketch == np.asarray(published_sketch(Image.fromarray(drawing), 224).convert("L"))).all()
    transparent = np.dstack([np.zeros((80, 120, 3), np.uint8), 255 - drawing[..., 0]])  # black ink on nothing
    assert (prepare_sketch(as_png(transparent), PUBLISHED) == sketch).all()
    with pytest.raises(BadPicture, match="blank: no pixel is as dark"):
        prepare_sketch(as_png(np.full((80, 80, 3), 200, dtype=np.uint8)), PUBLISHED)
