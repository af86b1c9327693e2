"""What users give as a query: the same drawing in every form, or one sentence that names the query and the fault."""

from __future__ import annotations

import gzip
import io
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from pipelines.datasets import strokes as drawn_strokes
from pipelines.datasets import svg
from pipelines.datasets.strokes import LINE_WIDTH, SIZE, draw
from pipelines.runtime.errors import StorageError
from pipelines.search import query as queries
from pipelines.search.query import Query, prepared, query_file
from tests.zse_model.test_transforms import as_bytes, drawing, exif_turned, strokes_on
from zse_model.errors import ZseError
from zse_model.transforms import BadPicture, TransformConfig, prepare_sketch

CONFIG = TransformConfig(size=64)
FLAG = [[[60, 60], [40, 160]], [[60, 130, 60], [40, 60, 90]]]
NUMPY = [np.array(stroke) for stroke in FLAG]
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 200 200">{}</svg>'
LINES = '<path d="M60 40V160M60 40L130 60L60 90Z" fill="none" stroke="{}" stroke-width="4"/>'
BLACK = SVG.format(LINES.format("black"))


def alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether at most 5 % of the ink of each is farther than 2 px from the ink of the other."""
    assert a.shape == b.shape == (64, 64) and a.dtype == b.dtype == np.uint8
    ink = [drawn < 128 for drawn in (a, b)]
    near = [np.asarray(Image.fromarray(drawn).filter(ImageFilter.MinFilter(5))) < 128 for drawn in (a, b)]
    return all((one & ~other).sum() < 0.05 * one.sum() for one, other in zip(ink, near[::-1], strict=True))


def faults(query: Any, name: str | None = None, error: type[ZseError] = BadPicture) -> str:
    with pytest.raises(error) as caught:
        prepared(query, CONFIG, name)
    assert caught.type is error and "\n" not in str(caught.value)
    return str(caught.value)


def test_every_form_of_a_drawing_is_that_drawing(tmp_path: Path) -> None:
    flag = drawing()
    expected = prepare_sketch(as_bytes(flag), CONFIG)
    file = tmp_path / "flag.png"
    file.write_bytes(as_bytes(flag))
    same: list[Query] = [str(file), file, file.as_uri(), as_bytes(flag), np.asarray(flag), flag, flag.convert("RGBA")]
    same += [np.asarray(flag.convert("RGB")), bytearray(as_bytes(flag)), Image.open(file)]  # type: ignore[list-item]
    for query in same:
        np.testing.assert_array_equal(prepared(query, CONFIG), expected)
    assert not alike(expected, expected[:, ::-1]) and not alike(expected, expected.T)
    white = strokes_on((0, 0, 0, 0), (255, 255, 255))
    for query in (white, as_bytes(white), as_bytes(flag, "GIF", save_all=True, append_images=[Image.new("L", (9, 9))])):
        assert alike(prepared(query, CONFIG), expected)
    for orientation in (3, 6, 8):
        assert alike(prepared(exif_turned(orientation), CONFIG), expected)
    assert alike(prepared(FLAG, CONFIG), prepared(BLACK.encode(), CONFIG))
    published = TransformConfig(size=128, recipe="published")
    for query in (flag, FLAG, BLACK.encode()):
        assert (prepared(query, published) < 128).mean() > 0.01
    assert alike(prepared(FLAG, CONFIG), expected)


@pytest.mark.parametrize("size", [16, 64, 256, 300])
def test_strokes_are_drawn_as_those_of_the_data_set(size: int) -> None:
    strokes = [[[-7, 100, 255], [3, 11, 90]], [[17], [200]]]
    config = TransformConfig(size=size)
    side = max(size, SIZE)
    expected = prepare_sketch(draw(strokes, side, LINE_WIDTH * side / SIZE), config)
    np.testing.assert_array_equal(prepared(strokes, config), expected)


@pytest.mark.parametrize(
    ("scale", "shift"),
    [(1.0, -1e4), (1e-9, 0.0), (5e305, 0.0), (5e305, -8e307), (1e-310, 0.0), (1.0, 2.0**40), (-1e300, 1e302)],
)
def test_strokes_of_any_scale_fit(scale: float, shift: float) -> None:
    moved = [[[x * scale + shift for x in axis] for axis in stroke] for stroke in FLAG]
    expected = prepared(FLAG, CONFIG)
    assert alike(prepared(moved, CONFIG), expected if scale > 0 else expected[::-1, ::-1])


def test_what_strokes_are_made_of() -> None:
    expected = prepared(FLAG, CONFIG)
    timed = [[*stroke, [0] * 7] for stroke in FLAG]
    tuples = tuple(tuple(map(tuple, stroke)) for stroke in FLAG)
    for same in (timed, NUMPY, tuples, [*FLAG, [[], []]], [[list(map(np.float32, a)) for a in s] for s in FLAG]):
        np.testing.assert_array_equal(prepared(same, CONFIG), expected)
    flat = prepared([[[0, 1e6], [7, 7]]], CONFIG)
    ink = flat < 128
    assert ink.any(0).mean() > 0.8 and 0 < ink.any(1).sum() < 5, "the aspect ratio is kept"


@pytest.mark.parametrize(
    ("strokes", "why"),
    [
        ([], "the query: blank: no strokes. Give a drawing"),
        ([[[], []], [[], []]], "blank: no strokes"),
        ([[[5], [5]]], "the query: blank: no ink. Give a drawing whose strokes stand out"),
        ([[[5, 5, 5], [7, 7, 7]]], "blank: no ink"),
        ([[[1, 2], [1]]], "stroke 0 has 2 x and 1 y"),
        ([[[1, 2], [1, 2]], [[1, math.nan], [1, 1]]], "stroke 1 has a coordinate of type float that is not a finite"),
        ([[[1, 2], [1, math.inf]]], "of type float"),
        ([[["1", "2"], [1, 2]]], "of type str"),
        ([[[10**400, 2], [1, 2]]], "of type int"),
        ([[[10**5000, 2], [1, 2]]], "of type int"),
        ([[[[1], [2]], [1, 2]]], "of type list"),
        ([[[None], [1]]], "of type NoneType"),
        ([[1, 2], [3, 4]], re.escape("the query: stroke 0 must be [[x, ...], [y, ...]]")),
        ([[[0, 0], [1, 1], [2, 2], [3, 3]]], "stroke 0 must be"),
        (["ab", "cd"], "stroke 0 must be"),
        ([["ab", "cd"]], "stroke 0 must be"),
        ([{"x": [1], "y": [2]}], "stroke 0 must be"),
        ([1, 2, 3], "stroke 0 must be"),
        ([np.zeros((2, 0)), np.float64(3)], "stroke 1 must be"),
        ([[range(9), range(9)]], "stroke 0 must be"),
    ],
)
def test_malformed_strokes_say_where(strokes: Any, why: str) -> None:
    blank = "blank" in why
    assert re.search(why, faults(strokes, error=BadPicture if blank else ZseError))


def test_strokes_have_a_limit_of_points() -> None:
    many = [0.0] * (queries.MAX_POINTS // 2)
    assert "more than 100,000 points" in faults([[many, many], [many, many], [[1], [1]]], error=ZseError)


def test_strokes_have_a_limit_of_work() -> None:
    """Each of these, of a megabyte, took seconds."""
    for empty in ([[], []], [[1], [1]]):
        assert "more than 10,000 strokes" in faults([*FLAG, *[empty] * queries.MAX_STROKES], error=ZseError)
    zigzag = [0, 7e305] * (queries.MAX_LENGTH // 2)
    assert "5,000 times as long as the drawing" in faults([[zigzag, zigzag]], error=ZseError)
    long = [0, 9] * 500
    prepared([[long, [0] * 999 + [9]], *[[[i % 9, 9], [0, 0]] for i in range(900)]], CONFIG)


@pytest.mark.parametrize("width", [0.1, 3.0, 7.5])
def test_pieces_of_a_line_are_the_line(width: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call of Pillow for all of it would keep all other threads waiting."""
    rng, calls, line = np.random.default_rng(0), [], ImageDraw.ImageDraw.line

    def counted(self: Any, xy: Any, *arguments: Any, **options: Any) -> None:
        calls.append(len(xy))
        line(self, xy, *arguments, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "line", counted)
    count = drawn_strokes.PIECE
    strokes = [rng.random((2, n)).tolist() for n in (1, 2, count, count + 1, count + 2, 5 * count)]
    found = draw(strokes, 64, width)
    assert max(calls) == count + 1
    monkeypatch.setattr(drawn_strokes, "PIECE", 10**6)
    assert draw(strokes, 64, width) == found


def test_a_query_of_another_type_is_named() -> None:
    for other in (None, 7, {"drawing": FLAG}, {1, 2}, object()):
        assert f"the query is of type {type(other).__name__}. Give a path" in faults(other, error=ZseError)
    for array in (np.zeros((8, 8)), np.zeros((2, 2, 2), np.uint8), np.zeros(5, np.uint8), np.zeros((0, 4), np.uint8)):
        assert "Sketch 3: A picture given as an array must be uint8" in faults(array, "Sketch 3", error=ZseError)


def empty_closed() -> Image.Image:
    file = io.BytesIO(as_bytes(drawing(), "TIFF"))
    picture = Image.open(file)
    file.close()
    return picture


@pytest.mark.parametrize(
    ("query", "why"),
    [
        (b"", "the query: empty: zero bytes. Give another picture"),
        (Image.new("RGBA", (90, 90)), "the query: blank: no ink. Give a drawing whose strokes stand out"),
        (Image.new("L", (90, 90), 255), "blank: no ink"),
        (np.zeros((90, 90, 4), np.uint8), "blank: no ink"),
        (Image.new("L", (1, 1)), "blank: no ink"),
        (Image.new("L", (0, 0)), "cannot be read"),
        (empty_closed(), "cannot be read"),
        (as_bytes(drawing())[:300], "truncated"),
        (b"%PDF-1.7\n%\xe2\xe3", "PDF is not read: export its pages as JPEG or PNG. Give another"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC is not read: convert it to JPEG. Give another"),
        (b"8BPS\0\x01", "a Photoshop file is not read"),
        (b"<!DOCTYPE html>\n<html><body>no</body></html>", "not an SVG that can be drawn: it is a web page"),
        (b"\n<HTML><br>", "it is a web page"),
        (b"some text", "not a picture in a known format"),
        (gzip.compress(b"some text", mtime=0), "not an SVG that can be drawn: "),
    ],
)
def test_an_unusable_picture_says_why(query: Query, why: str) -> None:
    assert why in faults(query)


def test_pixels_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    thin = drawing().resize((4000, 40))
    assert prepared(thin, CONFIG).shape == (64, 64)
    monkeypatch.setattr("zse_model.transforms.MAX_PIXELS", 159_999)
    assert "4000x40 px is above the limit of 159,999 pixels. Scale it down" in faults(as_bytes(thin))
    monkeypatch.setattr(queries, "MAX_PIXELS", 159_999)
    monkeypatch.setattr(queries, "picture_file", lambda picture: pytest.fail("it is encoded first"))
    for query in (thin, np.asarray(thin)):
        assert "4000x40 px is above the limit of 159,999 pixels. Scale it down" in faults(query)


NAMES = [
    "grün.png",
    "gru\u0308n.png",
    "кот.png",
    "猫 1.png",
    "قط.png",
    "100%.png",
    "#1?.png",
    "a*[b].png",
    "caf\udce9.png",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_any_name_is_read(name: str, tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path / name), "wb") as file:
        file.write(as_bytes(drawing()))
    expected = prepared(drawing(), CONFIG)
    for query in (str(tmp_path / name), tmp_path / name):
        np.testing.assert_array_equal(prepared(query, CONFIG), expected)
    with open(os.fsencode(tmp_path / name), "wb") as file:
        file.write(b"broken")
    said = faults(tmp_path / name)
    assert "not a picture" in said and said.encode(), "in an error, bytes that are no text are escaped"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone.png"
    assert f"{gone} does not exist. Give the path" in faults(str(gone), error=StorageError)
    assert f"{tmp_path} is a folder" in faults(tmp_path, error=StorageError)
    assert "cannot be read: embedded null byte" in faults("a\0b.png", error=StorageError)
    assert len(faults("x" * 10**5, error=StorageError)) < 600
    assert "the query: text is read as a path" in faults(BLACK, "the query", error=ZseError)


def rendered(document: str | bytes) -> np.ndarray:
    return prepared(document.encode() if isinstance(document, str) else document, CONFIG)


def test_svg_in_every_form_is_drawn() -> None:
    expected = prepared(drawing(), CONFIG)
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<!-- made by hand -->\n<!DOCTYPE svg>'
    documents = [
        BLACK,
        f"\ufeff{BLACK}",
        f"\n  {BLACK}",
        head + BLACK,
        BLACK.replace("viewBox", 'width="90000" viewBox'),
    ]
    documents += [
        SVG.format(LINES.format("white")),
        SVG.format('<rect width="200" height="200"/>' + LINES.format("red")),
    ]
    encoded = [BLACK.encode("utf-16"), BLACK.encode("utf-16-le"), gzip.compress(BLACK.encode(), mtime=0)]
    for document in [*documents, *encoded]:
        assert svg.is_svg(document.encode() if isinstance(document, str) else document)
        assert alike(rendered(document), expected)
    wide = BLACK.replace("viewBox", 'width="100000" height="100000" viewBox')
    assert Image.open(io.BytesIO(query_file(wide.encode(), 64))).size == (512, 512)
    thin = SVG.replace("0 0 200 200", "0 0 1 100000").format('<rect width="1" height="50000"/>')
    assert Image.open(io.BytesIO(query_file(thin.encode(), 64))).size == (1, 512)


def test_no_picture_is_taken_for_svg() -> None:
    for form in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF"):
        assert not svg.is_svg(as_bytes(drawing(), form))
    assert not svg.is_svg(b"\0\0\0<ftypavif"), "the length of a box is not markup"


def nested(n: int, inner: str) -> str:
    return SVG.format("<g>" * n + inner + "</g>" * n)


def patterns(deep: int) -> str:
    part = '<pattern id="p{}" width="9" height="9" patternUnits="userSpaceOnUse">{}</pattern>'
    rects = '<rect width="9" height="9" fill="url(#p{0})"/>' * 10
    return SVG.format("".join(part.format(i + 1, rects.format(i)) for i in range(deep)) + rects.format(deep))


def bomb() -> str:
    lines = "".join(f'<!ENTITY {b} "{f"&{a};" * 20}">' for a, b in zip("abcdefg", "bcdefgh", strict=True))
    return f'<!DOCTYPE svg [<!ENTITY a "{"a" * 64}">{lines}]>' + SVG.format("<desc>&h;</desc>")


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (SVG.format('<image width="99" height="99" href="file:///etc/hostname"/>'), "<image> refers to another file"),
        (
            SVG.format('<image width="99" height="99" href="http://127.0.0.1:9/a.png"/>'),
            "refers to another file or URL",
        ),
        (
            '<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/hostname">]>' + SVG.format("<desc>&a;</desc>"),
            "undefined entity",
        ),
        (bomb(), "amplification"),
        (nested(101, "<rect/>"), "nested more than 100 deep"),
        (nested(200_000, "<rect/>"), "nested"),
        (patterns(9), "it takes more than 1 s or 1 GiB to draw"),
        (SVG.format('<text y="99" font-size="90">Cat</text>'), "it has text alone, which needs fonts and is not drawn"),
        (SVG.format(""), "blank: no ink"),
        (SVG.format(f'<path d="{"M0 0" * 10}"/>'), "blank: no ink"),
        (BLACK[:-20], "not an SVG that can be drawn: "),
        ('<svg xmlns="http://www.w3.org/2000/svg" width="0" height="0"><rect/></svg>', "invalid size"),
        ("<feed><entry/></feed>", "not an SVG that can be drawn: "),
        (gzip.compress(bytes(svg.MAX_BYTES + 1), mtime=0), "above the limit of 16 MiB. Scale it down"),
        (gzip.compress(BLACK.encode(), mtime=0)[:40], "not an SVG that can be drawn: "),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_svg_reads_nothing_else_and_ends(document: str | bytes, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svg, "MAX_SECONDS", 1)
    data = document.encode() if isinstance(document, str) else document
    said = faults(data, "cat.svg")
    assert why in said and said.startswith("cat.svg: ")


def test_a_sixteen_bit_drawing_with_its_own_ground() -> None:
    values = np.full((90, 90), 60_000, np.uint16)
    values[20:70, 40:44] = 3_000
    bar = prepared(as_bytes(Image.fromarray(values)), CONFIG)
    expected = Image.new("L", (90, 90), 240)
    ImageDraw.Draw(expected).rectangle((40, 20, 43, 69), fill=10)
    assert alike(bar, prepared(expected, CONFIG))
