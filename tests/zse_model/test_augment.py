"""Augmentation: off is exactly off, the same state gives the same picture, and a sketch keeps its subject."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from zse_model.augment import INK_KEPT, AugmentConfig, augment_photo, augment_sketch

STRONG = AugmentConfig(
    rotate=20, scale=0.2, translate=0.1, thickness=1, erase=1, crop=0.5, colour=0.4, grey=0.3, flip=0.5
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def sketch(side: int = 64) -> np.ndarray:
    picture = Image.new("L", (side, side), 255)
    draw = ImageDraw.Draw(picture)
    draw.ellipse([side // 4, side // 4, 3 * side // 4, side // 2], outline=0, width=2)
    draw.line([side // 4, 3 * side // 4, side // 2, side // 2], fill=0, width=2)
    return np.array(picture)


def photo(side: int = 64) -> np.ndarray:
    small = rng(7).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def ink(pixels: np.ndarray) -> int:
    return int((255 - pixels.astype(int)).sum())


CASES = [(augment_sketch, sketch), (augment_photo, photo)]


@pytest.mark.parametrize(("augment", "make"), CASES)
def test_all_zero_is_the_identity_and_flip_alone_the_mirror_image(augment, make):
    off = AugmentConfig()
    assert (augment(make(), off, rng(), flip=False) == make()).all()
    assert (augment(make(), off, rng(), flip=True) == make()[:, ::-1]).all()


@pytest.mark.parametrize(("augment", "make"), CASES)
def test_the_result_is_a_function_of_picture_config_and_state(augment, make):
    given = make()
    results = [augment(given, STRONG, rng(seed), flip=False) for seed in (1, 1, 2)]
    assert (given == make()).all(), "the input was changed"
    assert (results[0] == results[1]).all() and (results[0] != results[2]).any()
    assert results[0].shape == given.shape and results[0].dtype == np.uint8 and results[0].flags.writeable


@pytest.mark.parametrize("only", ["rotate", "scale", "translate"])
def test_moved_strokes_keep_their_ink_and_nothing_dark_comes_in(only):
    config = AugmentConfig(**{only: {"rotate": 180, "scale": 0.3, "translate": 0.2}[only]})
    for seed in range(20):
        changed = augment_sketch(sketch(), config, rng(seed), flip=False)
        assert (changed[[0, -1]] == 255).all() and (changed[:, [0, -1]] == 255).all()
        share = ink(changed) / ink(sketch())
        assert (0.6**2 < share < 1.4**2) if only == "scale" else abs(share - 1) < 0.03


def test_rotation_and_shift_go_where_they_say():
    dot = np.full((64, 64), 255, dtype=np.uint8)
    dot[30:34, 30:34] = 0
    for seed in range(20):
        turned = augment_sketch(dot, AugmentConfig(rotate=180, scale=0.3), rng(seed), flip=False)
        assert np.abs(np.argwhere(turned < 128).mean(0) - 31.5).max() < 0.8, "the centre moved"
    config = AugmentConfig(translate=0.25)
    centres = [np.argwhere(augment_sketch(dot, config, rng(s), flip=False) < 128).mean(0) for s in range(40)]
    assert np.abs(np.subtract(centres, 31.5)).max() <= 16.5 and np.std(centres) > 4


def test_thickness_goes_both_ways():
    shares = [ink(augment_sketch(sketch(), AugmentConfig(thickness=1), rng(s), flip=False)) for s in range(40)]
    assert max(shares) > 1.4 * ink(sketch()) and INK_KEPT * ink(sketch()) < min(shares) < 0.8 * ink(sketch())


def test_erasing_takes_something_and_leaves_enough():
    config = AugmentConfig(erase=1)
    left = [ink(augment_sketch(sketch(), config, rng(seed), flip=False)) / ink(sketch()) for seed in range(200)]
    assert min(left) >= INK_KEPT and np.mean(np.array(left) < 1) > 0.3
    dot = np.full((64, 64), 255, dtype=np.uint8)
    dot[30:34, 30:34] = 0
    assert all(ink(augment_sketch(dot, config, rng(seed), flip=False)) >= INK_KEPT * ink(dot) for seed in range(200))


def test_a_photo_is_cropped_to_a_window_of_itself():
    ramp = np.zeros((64, 64, 3), dtype=np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(64)[None] * 4, np.arange(64)[:, None] * 4  # red = x, green = y
    for seed in range(30):
        cropped = augment_photo(ramp, AugmentConfig(crop=0.5), rng(seed), flip=False).astype(int)
        width, height = (cropped[-1, -1, :2] - cropped[0, 0, :2] + 4) / 256
        assert 0.46 < width * height <= 1.02 and 0.7 < width / height < 1.4


def test_colours_change_and_may_go():
    grey = augment_photo(photo(), AugmentConfig(grey=1), rng(), flip=False)
    assert (grey == grey[..., :1]).all()
    means = [augment_photo(photo(), AugmentConfig(colour=0.4), rng(s), flip=False).mean() for s in range(30)]
    assert min(means) < 0.85 * photo().mean() and max(means) > 1.1 * photo().mean()


@pytest.mark.parametrize(
    ("field", "value"), [("rotate", 200), ("translate", 0.5), ("crop", 1.0), ("flip", 2), ("erase", -0.1)]
)
def test_values_out_of_range_are_named(field, value):
    with pytest.raises(ValueError, match=rf"augment\.{field} is {value}, allowed are 0"):
        AugmentConfig(**{field: value})
