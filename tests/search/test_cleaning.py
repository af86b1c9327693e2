"""Pictures of drawings on paper are cleaned, clean ones are not, and photos are told."""

from __future__ import annotations

import io
import json
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import binary_dilation

from benchmarks.papers import FAMILIES, ORIENTATION, photographed
from benchmarks.world import as_bytes
from pipelines.search.cleaning import NO_DRAWING, Clean, cleaned
from pipelines.search.query import prepare_query, prepared
from zse_model.errors import ZseError
from zse_model.synthetic import draw_photo, draw_sketch
from zse_model.transforms import BadPicture, TransformConfig, prepare_sketch

CONFIG = TransformConfig(size=96)
STROKES = [[[0, 60, 60, 0, 0], [0, 0, 40, 40, 0]], [[0, 30, 60], [0, -30, 0]]]
FLAG = b"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">
    <path d="M1 1V8M1 1H7L5 3L7 5H1" stroke="#000" fill="none"/></svg>"""


def drawing() -> np.ndarray:
    """A house with a sun, uint8 [300, 300], of strokes 6 px wide."""
    y, x = np.mgrid[0:300, 0:300]
    house = (abs(x - 140) <= 80) & (abs(y - 190) <= 60) & ((abs(abs(x - 140) - 77) < 4) | (abs(abs(y - 190) - 57) < 4))
    roof = (abs(y - 40 - abs(x - 140)) < 5) & (y < 130)
    sun = abs(np.hypot(x - 250, y - 50) - 30) < 4
    return np.where(house | roof | sun, 0, 255).astype(np.uint8)


@cache
def photo(name: str, family: str = "tuning", side: int = 600) -> bytes:
    return photographed(drawing(), family, name, side)


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """Share of the ink of both, uint8 [96, 96], within 3 px of ink of the other: a photo is turned by some degrees."""
    a, b = one < 128, other < 128
    wide_a, wide_b = (np.asarray(binary_dilation(x, iterations=3), dtype=bool) for x in (a, b))
    return float(((a & wide_b).sum() + (b & wide_a).sum()) / (a.sum() + b.sum()))


def refusal(data: bytes, clean: Clean = "auto") -> str:
    with pytest.raises(BadPicture) as caught:
        cleaned(data, clean)
    return str(caught.value)


@pytest.mark.parametrize("name", [f"house {i}" for i in range(12)])
def test_a_photographed_drawing_comes_back(name: str) -> None:
    found = cleaned(photo(name))
    assert found.changed and "flattened the paper" in found.done
    expected = prepare_sketch(as_bytes(Image.fromarray(drawing()), "PNG"), CONFIG)
    assert likeness(prepare_sketch(found.file, CONFIG), expected) > 0.7, "turned by at most 7 degrees, and skewed"


def test_the_generator_is_deterministic_and_its_families_differ() -> None:
    assert photographed(drawing(), "tuning", "a", 300) == photographed(drawing(), "tuning", "a", 300)
    assert len({photographed(drawing(), family, "a", 300) for family in FAMILIES}) == len(FAMILIES)
    one, other = FAMILIES.values()
    assert one.seed != other.seed
    for field in ("papers", "pens", "desks"):
        assert not set(getattr(one, field)) & set(getattr(other, field))


def test_a_photo_lies_as_its_exif_says() -> None:
    upright = Image.open(io.BytesIO(photo("house 0"))).convert("L")
    turns = {6: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_180, 8: Image.Transpose.ROTATE_270}
    expected = cleaned(as_bytes(upright, "PNG")).file
    for orientation, turn in turns.items():
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        found = cleaned(as_bytes(upright.transpose(turn), "PNG", exif=exif))
        assert likeness(prepare_sketch(found.file, CONFIG), prepare_sketch(expected, CONFIG)) > 0.97


def clean_pictures() -> dict[str, bytes]:
    dark = Image.fromarray(drawing())
    clear = Image.merge("LA", (Image.new("L", dark.size, 0), Image.fromarray(255 - drawing())))
    crayons = np.stack([np.where(drawing() == 0, level, 240) for level in (200, 30, 90)], axis=2).astype(np.uint8)
    return {
        "black on white": as_bytes(dark, "PNG"),
        "JPEG": as_bytes(dark, "JPEG", quality=70),
        "white on black": as_bytes(Image.fromarray(255 - drawing()), "PNG"),
        "transparent": as_bytes(clear, "PNG"),
        "coloured on grey": as_bytes(Image.fromarray(crayons), "PNG"),
        "filled": as_bytes(
            Image.fromarray(np.where(drawing()[::-1].cumsum(0) % 7 < 3, 0, 255).astype(np.uint8)), "PNG"
        ),
        "synthetic": as_bytes(Image.fromarray(draw_sketch("whale", 0)), "PNG"),
    }


@pytest.mark.parametrize("kind", list(clean_pictures()))
def test_a_clean_picture_stays_as_it_is(kind: str) -> None:
    data = clean_pictures()[kind]
    found = cleaned(data)
    assert found.file is data and not found.changed and found.done.startswith("clean")
    np.testing.assert_array_equal(prepared(data, CONFIG), prepare_sketch(data, CONFIG))


def test_strokes_svg_and_arrays_are_never_cleaned() -> None:
    for query in (STROKES, FLAG, json.dumps(STROKES).encode()):
        found = prepare_query(query, CONFIG, clean="always")
        assert not found.cleaned.changed
        np.testing.assert_array_equal(found.drawing, prepared(query, CONFIG))
    np.testing.assert_array_equal(prepared(drawing(), CONFIG), prepared(drawing(), CONFIG, clean="never"))


def test_strokes_as_json_are_read_wherever_a_picture_is() -> None:
    expected = prepared(STROKES, CONFIG)
    for document in (STROKES, {"drawing": STROKES, "word": "house"}, {"strokes": STROKES}):
        np.testing.assert_array_equal(prepared(json.dumps(document).encode(), CONFIG), expected)
    for wrong, reason in {
        b"[[1": "not JSON",
        b"{}": "without strokes",
        b"[" * 100_000: "not JSON",
        b"[[[0, 1], [0]]]": "2 x and 1 y",
        b"[[[0, NaN], [0, 1]]]": "not a finite number",
        b"[]": "blank",
        b"[" + b" " * 2**23 + b"]": "above the limit",
    }.items():
        with pytest.raises(BadPicture, match=reason):
            prepared(wrong, CONFIG)


def photos() -> dict[str, np.ndarray]:
    chance = np.random.default_rng(0)
    coarse = chance.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    scene = np.asarray(Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC))
    cut_out = np.full((480, 640, 3), 255, dtype=np.uint8)
    cut_out[100:400, 150:500] = scene[100:400, 150:500]
    return {
        "scene": scene,
        "noise": chance.integers(0, 256, (300, 400, 3), dtype=np.uint8),
        "thing on white": cut_out,
        "drawn scene": np.asarray(Image.fromarray(draw_photo("apple", 0)).resize((512, 512))),
    }


@pytest.mark.parametrize("kind", list(photos()))
def test_a_photo_is_told(kind: str) -> None:
    data = as_bytes(Image.fromarray(photos()[kind]), "JPEG", quality=90)
    assert refusal(data).startswith(NO_DRAWING)
    with pytest.raises(BadPicture, match=r"cat\.jpg: a photo, not a drawing.*clean = never takes it as it is"):
        prepared(data, CONFIG, "cat.jpg")
    np.testing.assert_array_equal(prepared(data, CONFIG, clean="never"), prepare_sketch(data, CONFIG))


def test_an_empty_sheet_is_told() -> None:
    empty = photographed(np.full((100, 100), 255, dtype=np.uint8), "tuning", "scan of nothing 3", 600)
    for clean in ("auto", "always"):
        assert refusal(empty, clean).startswith("blank")
    with pytest.raises(BadPicture, match="stand out from its ground"):
        prepared(empty, CONFIG)


def test_cleaning_is_overridden() -> None:
    data = photo("house 1")
    assert cleaned(data, "never").file is data
    assert cleaned(data, "always") == cleaned(data)
    clean = as_bytes(Image.fromarray(np.pad(drawing(), 60, constant_values=255)), "PNG")
    forced = cleaned(clean, "always")
    assert forced.changed
    assert likeness(prepare_sketch(forced.file, CONFIG), prepare_sketch(clean, CONFIG)) > 0.97
    with pytest.raises(ZseError, match="clean is 'maybe'. Give one of auto, always, never"):
        cleaned(data, "maybe")  # pyright: ignore[reportArgumentType]


@settings(max_examples=15, deadline=None)
@given(
    width=st.sampled_from([1, 2, 47, 48, 63, 200, 10_000]),
    height=st.sampled_from([1, 3, 48, 90, 131]),
    clean=st.sampled_from(["auto", "always"]),
    seed=st.integers(0, 3),
)
def test_every_size_is_cleaned_or_told(width: int, height: int, clean: Clean, seed: int) -> None:
    chance = np.random.default_rng(seed)
    pixels = np.full((height, width), 200.0) + chance.normal(0, 4 * seed, (height, width))
    pixels[height // 4 : height // 2, width // 4 : width // 2] -= 60 * (seed > 1)
    try:
        found = cleaned(as_bytes(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), "PNG"), clean)
    except BadPicture as error:
        assert str(error).startswith((NO_DRAWING, "blank"))
    else:
        assert Image.open(io.BytesIO(found.file)).size[0] <= width


def test_undecodable_bytes_are_a_bad_picture() -> None:
    assert "not a picture" in refusal(b"hello")
