"""Augmentation: off is exactly off, the same state gives the same picture, and a sketch keeps its subject."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from zse_model.augment import INK_KEPT, AugmentConfig, augment_photo, augment_sketch
from zse_model.pseudo_sketch import pseudo_sketch

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


def test_a_wobble_moves_strokes_by_no_more_than_its_share_and_keeps_them():
    given = sketch()
    for seed in range(10):
        out = augment_sketch(given, AugmentConfig(wobble=0.05), rng(seed), flip=False)
        far = np.asarray(Image.fromarray(given).filter(ImageFilter.MinFilter(11)))  # 5 px; 0.05 of 64 is 3.2
        assert ((out < 200) <= (far < 255)).all()
        assert 0.6 * ink(given) < ink(out) < 1.5 * ink(given)
    assert (out != given).any()


def test_pressure_is_another_one_at_each_place():
    """Of a long line some parts are wider and some thinner than before."""
    line = np.full((64, 64), 255, np.uint8)
    line[31:33] = 0
    thicker = thinner = 0
    for seed in range(10):
        out = augment_sketch(line, AugmentConfig(pressure=1.0), rng(seed), flip=False).astype(int)
        width = (255 - out).sum(0) / 255
        thicker, thinner = thicker + int((width > 2.3).any()), thinner + int((width < 1.9).any())
        assert ((width >= 0.9) & (width <= 4.01)).all()
    assert thicker >= 8 and thinner >= 8


def test_gaps_interrupt_strokes_and_leave_enough():
    given = sketch()
    outs = [augment_sketch(given, AugmentConfig(gaps=1.0), rng(seed), flip=False) for seed in range(20)]
    assert all((out >= given).all() and ink(out) >= INK_KEPT * ink(given) for out in outs)
    assert np.mean([ink(out) < 0.97 * ink(given) for out in outs]) > 0.7


def test_strokes_that_are_near_run_together_and_a_single_one_keeps_about_its_width():
    pair = np.full((128, 128), 255, np.uint8)
    pair[20:108, 60:62] = pair[20:108, 64:66] = 0  # 2 px apart
    pair[20:108, 20:22] = 0
    filled = 0
    for seed in range(10):
        out = augment_sketch(pair, AugmentConfig(merge=0.03), rng(seed), flip=False).astype(int)
        filled += int((out[40:90, 62:64] < 60).all())
        assert (255 - out[40:90, 10:32]).sum() / 255 / 50 < 2.5 and (out[:, 42:48] == 255).all()
    assert 2 <= filled <= 5, "of distances up to 3.8 px"
    short = np.full((128, 128), 255, np.uint8)
    short[60:62, 50:60] = 0
    for seed in range(5):
        out = augment_sketch(short, AugmentConfig(merge=0.03), rng(seed), flip=False)
        assert ink(out) < 1.3 * ink(short), "a short stroke alone is no blot"
    assert (augment_sketch(pair, AugmentConfig(merge=1e-9), rng(3), flip=False) == pair).all()


@pytest.mark.parametrize("side", [64, 128])
def test_a_pseudo_sketch_is_the_outline_of_what_the_photo_shows(side):
    shown = np.full((side, side, 3), 200, np.uint8)
    y, x = np.mgrid[0:side, 0:side] / side - 0.5
    disc = x**2 + y**2 < 0.3**2
    shown[disc] = (30, 60, 40)
    shown[: side // 40] = 0  # a frame, which nobody would draw
    outline = np.abs(np.hypot(x, y) - 0.3) < 0.05
    for seed in range(5):
        drawn = pseudo_sketch(shown, rng(seed))
        assert drawn.shape == (side, side) and drawn.dtype == np.uint8
        assert (drawn[~outline] == 255).all() and drawn.min() < 128
        around = np.arctan2(y, x)[drawn < 128]
        assert len(np.unique(np.floor(around * 8 / np.pi))) >= 16, "all around"
    assert (pseudo_sketch(np.full((side, side, 3), 9, np.uint8), rng()) == 255).all()


def test_a_pseudo_sketch_has_the_longest_lines_and_no_more_than_a_drawing():
    """Of many rectangles the large ones in the middle are drawn, and the specks are not."""
    shown = np.full((256, 256, 3), 220, np.uint8)
    for i in range(6):
        shown[20 + 36 * i : 44 + 36 * i, 80:176] = 30  # 36 lines of about 240 px together, more than any drawing has
    shown[30:230:20, 16:20] = 30  # specks
    for seed in range(8):
        drawn = pseudo_sketch(shown, rng(seed)) < 128
        assert not drawn[:, 12:26].any()
        assert 3 <= sum(drawn[14 + 36 * i : 50 + 36 * i, 74:182].sum() > 100 for i in range(6)) <= 6
    lengths = [(pseudo_sketch(shown, rng(seed)) < 128).sum() / 256 for seed in range(8)]
    assert max(lengths) < 8 * 2 * 2.6 + 4 and min(lengths) > 2
