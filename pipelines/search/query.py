"""Prepare a query: a picture, an SVG drawing or strokes become the drawing that a network reads.

The command line, the searcher, the registered model and a service use these functions. Text is a path or a URL that is
read: a service gives `prepared` bytes or strokes, never a client's text.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from PIL import Image

from pipelines.datasets.strokes import LINE_WIDTH, SIZE, draw, strokes_of
from pipelines.datasets.svg import is_svg, render_apart
from pipelines.datasets.tree import unreadable
from pipelines.runtime.errors import StorageError
from pipelines.runtime.redaction import printable
from pipelines.search.cleaning import NO_DRAWING, Clean, Cleaned, cleaned
from pipelines.store import storage
from zse_model.errors import ZseError
from zse_model.retrieval import picture_file
from zse_model.transforms import MAX_PIXELS, BadPicture, TransformConfig, prepare_photo, prepare_sketch

Strokes: TypeAlias = Sequence[Sequence[Sequence[float]]]
Query: TypeAlias = str | Path | bytes | np.ndarray | Image.Image | Strokes

# Of strokes. The most takes a core 1.3 s to draw.
MAX_POINTS = 100_000  # seven minutes with a pen that reports 240 points a second
MAX_STROKES = 10_000  # drawings of people have a few hundred
MAX_LENGTH = 5_000  # longer sides of the drawing: a line of less than 100 blackens all of it
SVG_SIDE = 512  # px, as the data set `tuberlin` has it by default; twice the network's size if that is more
LONGEST_NAME = 300  # characters of a query's name in an error; text that is no path may be a whole document

# The first bytes of pictures that are not read -> an ending of such files.
_FOREIGN = {
    rb"%PDF": ".pdf",
    rb"....ftyp(hei[cmsx]|hev[cmsx])": ".heic",
    rb"\xff\x0a|\0\0\0\x0cJXL ": ".jxl",
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51": ".jp2",
    rb"8BPS": ".psd",
    rb"gimp xcf": ".xcf",
    rb"%!PS|\xc5\xd0\xd3\xc6": ".eps",
}

T = TypeVar("T")
C = TypeVar("C")


@dataclass(frozen=True)
class PreparedQuery:
    """A query as networks read it."""

    drawing: np.ndarray
    """uint8 [s, s], 255 paper and 0 ink."""
    cleaned: Cleaned
    """What was done to its picture."""


def prepared(query: Query, transforms: TransformConfig, name: str | None = None, clean: Clean = "auto") -> np.ndarray:
    """The drawing of `prepare_query`: uint8 [s, s], 255 paper and 0 ink."""
    return prepare_query(query, transforms, name, clean).drawing


def prepare_query(
    query: Query, transforms: TransformConfig, name: str | None = None, clean: Clean = "auto"
) -> PreparedQuery:
    """Clean a query (`cleaning.cleaned`), and prepare it as `zse_model.transforms.prepare_sketch` does.

    query: a path or URL; the bytes of a picture file, of an SVG or .svgz document or of strokes as JSON; an array uint8
        [h, w], [h, w, 3] or [h, w, 4]; a PIL image, of which the current frame is taken; or strokes `[[[x, ...],
        [y, ...]], ...]`, y downwards, any finite numbers, scaled to fit. A third list of a stroke, times or pressures,
        is ignored. A single point is a speck, and blank. JSON is the list of strokes, or an object with the list as
        `drawing` or `strokes`, such as a line of Quick, Draw!
    name: of the query in errors. Default: its path, or `the query`.
    clean: `auto` cleans a photo or scan of paper and refuses a photo of something else; `always` cleans every picture;
        `never` cleans none. SVG and strokes are clean.

    Raises BadPicture for a query that is blank, no drawing, or cannot be decoded or drawn, ZseError for another type,
    malformed strokes and more than MAX_POINTS, MAX_STROKES or MAX_LENGTH, StorageError for a file that cannot be read.
    """
    name = _name(query, name)
    data, drawn = _file(query, transforms.size, name)
    done = Cleaned(data, False, "clean: strokes or SVG") if drawn else _named(cleaned, data, clean, name)
    return PreparedQuery(_named(prepare_sketch, done.file, transforms, name), done)


def prepared_photo(data: bytes, transforms: TransformConfig, name: str) -> np.ndarray:
    """The bytes of a photo's file as `zse_model.transforms.prepare_photo` makes them: uint8 [s, s, 3]. Raises
    BadPicture with the photo's name."""
    return _named(prepare_photo, data, transforms, printable(name))


def query_file(query: Query, size: int, name: str | None = None) -> bytes:
    """The bytes of a picture file with the drawing of a query. SVG and strokes are rendered for a network that reads
    `size` px. Raises as `prepared`, except for the faults that cleaning and decoding show."""
    return _file(query, size, _name(query, name))[0]


def _file(query: Query, size: int, name: str) -> tuple[bytes, bool]:
    """As `query_file`; and whether it was drawn here, of SVG or strokes."""
    try:
        if isinstance(query, str | Path):
            query = _read(os.fspath(query), name)
        if isinstance(query, bytes | bytearray | memoryview):
            data = bytes(query)
            if data.lstrip()[:1] in (b"[", b"{"):  # no picture begins so
                return _drawn_file(data, size), True
            return _picture(data, size), is_svg(data)
        if isinstance(query, list | tuple):
            return _drawn(query, size), True
        if isinstance(query, np.ndarray | Image.Image):
            return _file_of_pixels(query), False
    except BadPicture as error:
        raise _bad(name, error) from error
    except StorageError:
        raise
    except ZseError as error:
        raise ZseError(f"{name}: {error}") from error
    raise ZseError(
        f"{name} is of type {type(query).__name__}. Give a path, the bytes of a picture or an SVG, a uint8 array, a "
        "PIL image or strokes [[[x, ...], [y, ...]], ...]"
    )


def _name(query: Query, name: str | None) -> str:
    name = name or (os.fspath(query) if isinstance(query, str | Path) else "") or "the query"
    return printable(name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}...")


def _named(prepare: Callable[[bytes, C], T], data: bytes, config: C, name: str) -> T:
    """`prepare` of a picture's bytes. Raises BadPicture with the picture's name and the next step."""
    try:
        return prepare(data, config)
    except BadPicture as error:
        raise _bad(name, error) from error


def _bad(name: str, error: BadPicture) -> BadPicture:
    reason = str(error).removesuffix(".")
    step = "Give another picture"
    if reason.startswith("blank"):
        step = "Give a drawing whose strokes stand out from its ground"
    elif reason.startswith(NO_DRAWING):
        step = "Give a drawing or a picture of one; clean = always cleans it, clean = never takes it as it is"
    elif "above the limit" in reason:
        step = "Scale it down"
    return BadPicture(f"{name}: {reason}. {step}")


def _read(path: str, name: str) -> bytes:
    if path.lstrip().startswith("<") and "<svg" in path:
        raise ZseError("text is read as a path or URL. Give an SVG document as bytes: text.encode()")
    try:
        return storage.read_bytes(path)
    except ZseError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a zero byte in a path
        reason = "does not exist" if isinstance(error, FileNotFoundError) else _refusal(error)
        raise StorageError(f"{name} {reason}. Give the path or URL of a picture file") from error


def _refusal(error: OSError | ValueError) -> str:
    if isinstance(error, IsADirectoryError):
        return "is a folder"
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def _picture(data: bytes, size: int) -> bytes:
    """The bytes of a picture file; an SVG is rendered. Raises BadPicture for an SVG that cannot be drawn, and for a
    format that is known and not read."""
    if is_svg(data):
        try:
            return render_apart(data, max(SVG_SIDE, 2 * size))
        except ValueError as error:
            raise BadPicture(f"not an SVG that can be drawn: {error}") from error
    for start, ending in _FOREIGN.items():
        if re.match(start, data, re.DOTALL) and (reason := unreadable(f"query{ending}")):
            raise BadPicture(reason)
    return data


def _file_of_pixels(picture: np.ndarray | Image.Image) -> bytes:
    """An array or a PIL image as a picture file. Checked first: to encode more pixels than are decoded takes long."""
    height, width = (*picture.shape, 1)[:2] if isinstance(picture, np.ndarray) else picture.size[::-1]
    if height * width > MAX_PIXELS:
        raise BadPicture(f"{width}x{height} px is above the limit of {MAX_PIXELS:,} pixels")
    return picture_file(picture)


def _drawn(strokes: Sequence[Any], size: int) -> bytes:
    """Strokes as a PNG file, drawn as the data set `quickdraw_strokes` draws them by default."""
    if len(strokes) > MAX_STROKES:
        raise ZseError(f"the drawing has more than {MAX_STROKES:,} strokes. Leave out empty and short ones")
    if sum(_points(stroke, i) for i, stroke in enumerate(strokes)) > MAX_POINTS:
        raise ZseError(f"the strokes have more than {MAX_POINTS:,} points. Leave out points that are close together")
    lines = [np.array([_numbers(axis, i) for axis in stroke[:2]]) for i, stroke in enumerate(strokes)]
    points = np.concatenate([np.empty((2, 0)), *lines], axis=1)
    if not points.size:
        raise BadPicture("blank: no strokes")
    # To numbers of about 1, by a power of two, which keeps every digit; then no step of the drawing overflows.
    _, exponent = math.frexp(abs(points).max())
    lines = [np.ldexp(line, -exponent) for line in lines]
    length = sum(np.hypot(*np.diff(line)).sum() for line in lines)
    if length > MAX_LENGTH * np.ptp(np.ldexp(points, -exponent), axis=1).max():
        raise ZseError(f"the strokes are more than {MAX_LENGTH:,} times as long as the drawing. Draw fewer lines")
    side = max(SIZE, size)
    return draw([line.tolist() for line in lines], side, LINE_WIDTH * side / SIZE)


def _drawn_file(data: bytes, size: int) -> bytes:
    """The strokes of a JSON document as a PNG file. Raises BadPicture for another document."""
    try:
        return _drawn(strokes_of(data), size)
    except ZseError as error:
        raise error if isinstance(error, BadPicture) else BadPicture(str(error)) from error


def _points(stroke: Any, i: int) -> int:
    """The number of points of a stroke `[[x, ...], [y, ...]]`. Raises ZseError for another form."""
    if not (_is_list(stroke) and len(stroke) in (2, 3) and all(map(_is_list, stroke[:2]))):
        raise ZseError(
            f"stroke {i} must be [[x, ...], [y, ...]], or three lists of which the third is ignored. A picture as an "
            "array is a NumPy array uint8"
        )
    if len(stroke[0]) != len(stroke[1]):
        raise ZseError(f"stroke {i} has {len(stroke[0])} x and {len(stroke[1])} y. Give as many of both")
    return len(stroke[0])


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _numbers(axis: Sequence[Any], i: int) -> list[float]:
    """The values of an axis of stroke i. Raises ZseError for one that is not a finite number."""
    for value in axis:
        try:
            if isinstance(value, Real) and math.isfinite(value):
                continue
        except OverflowError:  # an int above the range of floats
            pass
        raise ZseError(f"stroke {i} has a coordinate of type {type(value).__name__} that is not a finite number")
    return [float(value) for value in axis]
