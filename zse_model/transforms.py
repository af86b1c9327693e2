"""Decode, check and resize pictures: from the bytes of a file to the pixels that networks read.

A sketch becomes a grey square, 255 paper and 0 ink, cropped to its ink. A photo becomes an RGB square.
Left out: normalisation to floats (`zse_model.backbones`) and augmentation (`zse_model.augment`).
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Concatenate, Literal, ParamSpec, TypeAlias, TypeVar

import numpy as np
from PIL import Image, ImageChops, UnidentifiedImageError

from zse_model.errors import ZseError
from zse_model.published_sketch import published_sketch

Modality: TypeAlias = Literal["sketch", "photo"]

# Common formats, not all that Pillow reads: some of those start other programs (EPS runs Ghostscript), and a query may
# come from anybody.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF")

# Every ending that Pillow registers for these formats, and .mpo: a JPEG file with several pictures, the first is read.
ENDINGS = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".gif", ".bmp", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".avif", ".avifs"),
)

# About 190 MB decoded to RGB. Below Pillow's own warning level, so that its global setting stays unchanged.
MAX_PIXELS = 64_000_000

# Ink differs from the paper by at least this much in grey levels; anything less is paper texture or JPEG noise.
MIN_CONTRAST = 16

# Ink also differs by this share of the contrast between the paper and the darkest ink. JPEG ringing beside black
# strokes stays below it (it is about 10 % at quality 75), a light grey hairline beside black strokes above it.
INK_SHARE = 1 / 8

THUMBNAIL = 256  # pixels of a thumbnail's long side
THUMBNAIL_QUALITY = 80

_ORIENTATION_TAG = 0x0112  # EXIF
_BITS_TAG, _PHOTOMETRIC_TAG = 258, 262  # TIFF: BitsPerSample, PhotometricInterpretation
_MAX_TAGS = (281, 341)  # TIFF: MaxSampleValue, SMaxSampleValue

# Candidates for white in files that do not state it: the largest value of 8, 10, 12, 14 or 16 bits. In floats also 1.
_USUAL_WHITES = (255, 1023, 4095, 16383, 65535)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)


class BadPicture(ZseError):  # noqa: N818 - it is raised for a picture, and read as one
    """These bytes are not a usable picture. The message gives the reason, for a report of skipped rows."""


@dataclass(frozen=True, kw_only=True)
class TransformConfig:
    """How pictures become the input of a network. Saved with its checkpoint: `dataclasses.asdict` gives plain JSON.

    size: side of the square in pixels, 16..1024.
    sketch_margin: paper around the ink on each side, as a share of the long side of the ink's box, 0..1.
    recipe: `zse` is this project's. `published` is that of the public ZSE-SBIR code, except that coloured strokes
        become grey.

    Raises ZseError for a value outside its range.
    """

    __pydantic_config__ = {"extra": "forbid"}

    size: int = 128
    sketch_margin: float = 0.05
    recipe: Literal["zse", "published"] = "zse"

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 1024:
            raise ZseError(f"size is {self.size} pixels, allowed are 16..1024")
        if not 0 <= self.sketch_margin <= 1:
            raise ZseError(f"sketch_margin is {self.sketch_margin}, allowed are shares 0..1")
        if self.recipe not in ("zse", "published"):
            raise ZseError(f"recipe is {self.recipe!r}, allowed are zse and published")


T = TypeVar("T")
P = ParamSpec("P")


def _refusing(prepare: Callable[Concatenate[bytes, P], T]) -> Callable[Concatenate[bytes, P], T]:
    """Turn every error of the function into `BadPicture`."""

    @functools.wraps(prepare)
    def refusing(data: bytes, *options: P.args, **named: P.kwargs) -> T:
        try:
            return prepare(data, *options, **named)
        except BadPicture:
            raise
        except UnidentifiedImageError as error:
            raise BadPicture(f"not a picture in a known format ({', '.join(FORMATS)})") from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise BadPicture(f"above the limit of {MAX_PIXELS:,} pixels: {error}") from error
        except Exception as error:  # Pillow's decoders raise nearly every built-in exception on damaged data
            reason = "truncated" if isinstance(error, EOFError) or "truncated" in str(error).lower() else "damaged"
            raise BadPicture(f"{reason}: {type(error).__name__}: {error}") from error

    return refusing


@_refusing
def prepare_sketch(data: bytes, config: TransformConfig) -> np.ndarray:
    """A drawing as uint8 [size, size], 255 paper and 0 ink: upright, dark on light, its ink centred with a margin.

    After resizing, paper of any shade becomes 255 and the darkest ink 0: a hairline that resizing turned light grey is
    black again. Raises `BadPicture` and nothing else.
    """
    picture = _open(data)
    if config.recipe == "published":
        return _published_sketch(picture, config.size)
    # Decode JPEG directly to grey; scale a very large one in the DCT, down to 8 pixels for each pixel of the result
    picture.draft("L", (8 * config.size, 8 * config.size))
    picture.load()
    orientation = _orientation(picture)
    grey = _drawing(picture)
    histogram = grey.histogram()
    if _is_light_on_dark(grey, histogram):
        grey = ImageChops.invert(grey)
        histogram.reverse()

    paper, limit = _paper_and_ink_limit(histogram)
    left, top, right, bottom = _box(grey, limit)
    scale = config.size / (max(right - left, bottom - top) * (1 + 2 * config.sketch_margin))
    inner = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    ink = grey.resize(inner, Image.Resampling.BILINEAR, box=(left, top, right, bottom), reducing_gap=3.0)
    pixels = pixels_of(_upright(ink, orientation), _stretch(ink.getextrema()[0], paper))  # type: ignore[arg-type]

    height, width = pixels.shape
    y, x = (config.size - height) // 2, (config.size - width) // 2
    square = np.full((config.size, config.size), 255, dtype=np.uint8)
    square[y : y + height, x : x + width] = pixels
    return square


@_refusing
def grey_drawing(data: bytes, side: int) -> tuple[Image.Image, bool]:
    """A drawing in grey as its file has it, upright and at most `side` px long, and whether it has transparent pixels,
    which are white here. Raises `BadPicture` and nothing else.
    """
    picture = _open(data)
    picture.draft("L", (side, side))
    picture.load()
    orientation = _orientation(picture)
    transparent = picture.has_transparency_data and picture.convert("RGBA").getchannel("A").getextrema()[0] != 255
    grey = _drawing(picture)
    grey.thumbnail((side, side), Image.Resampling.BOX, reducing_gap=2.0)
    return _upright(grey, orientation), transparent


def prepare_photo(data: bytes, config: TransformConfig) -> np.ndarray:
    """A photo as uint8 RGB [size, size, 3]: upright, the whole picture, its aspect ratio ignored (as ZSE-SBIR does).

    Transparent pixels become white, the ground of sketches and of product pictures, from which cut-outs come. Raises
    `BadPicture` and nothing else.
    """
    return pixels_of(photo_square(data, config))


@_refusing
def photo_square(data: bytes, config: TransformConfig) -> Image.Image:
    """The picture of `prepare_photo`, for callers that encode it again. Raises `BadPicture` and nothing else."""
    picture, orientation = _decoded(_open(data), config)
    return _square(picture, orientation, config)


@dataclass(frozen=True)
class Thumbnail:
    """A small JPEG of a photo, upright and with its aspect ratio; transparent pixels are white."""

    data: bytes
    width: int
    """Of the photo, upright, in pixels; so is the height."""
    height: int


@_refusing
def square_and_thumbnail(data: bytes, config: TransformConfig) -> tuple[Image.Image, Thumbnail]:
    """`photo_square`, and a thumbnail of at most `THUMBNAIL` pixels a side. Raises `BadPicture` and nothing else.

    The photo is decoded once, unless a square of less than 128 pixels needs fewer pixels than a thumbnail.
    """
    file = _open(data)
    width, height = file.size
    picture, orientation = _decoded(file, config)
    wide = replace(config, size=max(config.size, THUMBNAIL // 2))
    small = picture.copy() if wide == config else _decoded(_open(data), wide)[0]
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC, reducing_gap=3.0)
    buffer = io.BytesIO()
    _upright(_on_white(small) if small.mode == "RGBA" else small, orientation).save(
        buffer, "JPEG", quality=THUMBNAIL_QUALITY, comment=b""
    )
    if orientation in _SIDEWAYS:
        width, height = height, width
    return _square(picture, orientation, config), Thumbnail(buffer.getvalue(), width, height)


def _decoded(picture: Image.Image, config: TransformConfig) -> tuple[Image.Image, int]:
    """A photo in RGB or RGBA, as its file holds it, and its EXIF orientation."""
    if min(picture.size) > 2 * config.size and config.recipe != "published":
        picture.draft("RGB", (2 * config.size, 2 * config.size))  # a JPEG: no more pixels than the resize needs
    picture.load()
    orientation = _orientation(picture)
    return _eight_bit(picture, "RGBA" if picture.has_transparency_data else "RGB"), orientation


def _square(picture: Image.Image, orientation: int, config: TransformConfig) -> Image.Image:
    size = (config.size, config.size)
    if picture.size != size:
        gap = None if config.recipe == "published" else 3.0
        picture = picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=gap)
    if picture.mode == "RGBA":
        picture = _on_white(picture)
    return _upright(picture, orientation)  # after the resize, which is cheaper and equal for a square


def pixels_of(picture: Image.Image, levels: bytes | None = None) -> np.ndarray:
    """A writable uint8 [h, w] or [h, w, 3]. `levels`: lookup table of 256 values, applied to each value.

    Small pictures take two thirds of the time of `np.array(picture)`.
    """
    data = picture.tobytes()
    pixels = np.frombuffer(bytearray(data.translate(levels) if levels else data), dtype=np.uint8)
    return pixels.reshape(picture.height, picture.width, *([3] if picture.mode == "RGB" else []))


def _open(data: bytes) -> Image.Image:
    """Read and check the header of a picture, without decoding it."""
    if not data:
        raise BadPicture("empty: zero bytes")
    picture = Image.open(io.BytesIO(data), formats=FORMATS)
    if picture.format == "PNG" and data[12:16] == b"IHDR":
        _transparent_value_in_eight_bits(picture, bit_depth=data[24])
    deep_colour = picture.format == "TIFF" and picture.mode in ("RGB", "RGBA") and _tag(picture, _BITS_TAG) == 16
    if picture.width * picture.height > MAX_PIXELS:
        raise BadPicture(f"{picture.width}x{picture.height} px is above the limit of {MAX_PIXELS:,} pixels")
    return _deep_colour(picture, data) if deep_colour else picture


def _transparent_value_in_eight_bits(picture: Image.Image, bit_depth: int) -> None:
    """Scale tRNS to 8 bits. The file states it at its own depth; Pillow compares it with 8-bit pixels, except I;16."""
    value = picture.info.get("transparency")
    if picture.mode == "RGB" and isinstance(value, tuple) and bit_depth == 16:
        picture.info["transparency"] = tuple(v >> 8 for v in value)
    elif picture.mode == "L" and isinstance(value, int) and bit_depth < 8:
        picture.info["transparency"] = value * 255 // (2**bit_depth - 1)


def _deep_colour(high: Image.Image, data: bytes) -> Image.Image:
    """Decode a colour TIFF of 16 bits a sample. Pillow keeps the high byte only, which loses data of 12 bits. The
    other byte order gives the low byte."""
    if np.asarray(high)[..., :3].max(initial=0) > _USUAL_WHITES[-2] >> 8:
        return high
    low = Image.open(io.BytesIO(data), formats=("TIFF",))
    swapped = str.maketrans("LNB", "BBL")
    for i, tile in enumerate(low.tile):  # type: ignore[attr-defined]
        raw, *rest = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        mode, _, order = str(raw).partition(";")
        raw = f"{mode};{order.translate(swapped)}"
        low.tile[i] = tile._replace(args=(raw, *rest) if isinstance(tile.args, tuple) else raw)  # type: ignore[attr-defined]
    values = np.asarray(high).astype(np.uint16) << 8 | np.asarray(low)
    levels = _scaled(high, values[..., :3])
    if high.mode == "RGBA":  # opacity has its own range: 65535 beside colours of 12 bits
        alpha = values[..., 3:]
        covers = (alpha * (255 / _white(high, float(alpha.max(initial=0))))).round().clip(0, 255)
        levels = np.concatenate([levels, covers.astype(np.uint8)], axis=2)
    return Image.fromarray(levels, high.mode)


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation; 1 (upright) if it is missing or cannot be read."""
    try:
        return picture.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        return 1


def _upright(picture: Image.Image, orientation: int) -> Image.Image:
    return picture.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else picture


def file_of(picture: Image.Image) -> bytes:
    """The bytes of a PNG file with the 8-bit pixels, the transparency and the orientation of an open picture."""
    exif = Image.Exif()
    exif[_ORIENTATION_TAG] = _orientation(picture)
    if picture.mode == "La":  # Pillow converts it to LA only
        picture = picture.convert("LA")
    buffer = io.BytesIO()
    _eight_bit(picture, "RGBA" if picture.has_transparency_data else "RGB").save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def _drawing(picture: Image.Image) -> Image.Image:
    """The drawing in grey. Transparent pixels become white."""
    if not picture.has_transparency_data:
        return _eight_bit(picture, "L")
    rgba = _eight_bit(picture, "RGBA")
    grey = _on_white(rgba).convert("L")
    if np.ptp(np.asarray(grey)) < MIN_CONTRAST:  # white strokes on transparency: the opacity is the drawing
        return ImageChops.invert(rgba.getchannel("A"))
    return grey


def _eight_bit(picture: Image.Image, mode: str) -> Image.Image:
    """Convert any mode to `mode`. Deeper modes are scaled to 0..255; Pillow's `convert` would clip them."""
    if picture.mode == mode:
        return picture
    if not picture.mode.startswith(("I", "F")):
        return picture.convert(mode)
    values = np.asarray(picture)
    grey = Image.fromarray(_scaled(picture, values))
    if mode == "RGBA" and isinstance(transparent := picture.info.get("transparency"), int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey.convert(mode)


def _scaled(picture: Image.Image, values: np.ndarray) -> np.ndarray:
    """uint8 [h, w] of one deep channel, 255 white."""
    if values.dtype == np.uint16 and (white := _white(picture, int(values.max(initial=0)))) == 65535:
        levels = (values >> 8).astype(np.uint8)
    else:
        numbers = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
        white = _white(picture, float(numbers.max(initial=0)))
        levels = (numbers.clip(0, white) * (255 / white)).round().astype(np.uint8)
    return 255 - levels if _tag(picture, _PHOTOMETRIC_TAG) == 0 else levels  # of TIFF: 0 is white


def _white(picture: Image.Image, brightest: float) -> float:
    """The value of white in a deep picture.

    PNG and PPM of 16 bits use the whole range; TIFF with 9 to 15 bits a sample uses the range of these bits. Other
    pictures do not state it: white is then the end of the smallest usual range that holds the brightest value, or the
    largest value that a TIFF file gives. A picture darker than a quarter of its range, without a stated largest value,
    therefore becomes brighter.
    """
    if picture.mode != "F" and picture.format in ("PNG", "PPM"):
        return 65535
    if picture.mode != "F" and (bits := _tag(picture, _BITS_TAG)) and 8 < bits < 16:
        return 2**bits - 1
    brightest = max(brightest, *(_tag(picture, tag) or 0 for tag in _MAX_TAGS))
    usual = (1.0, *_USUAL_WHITES) if picture.mode in ("I", "F") else _USUAL_WHITES
    return next((white for white in usual if brightest <= white), brightest)


def _tag(picture: Image.Image, tag: int) -> Any:
    """The first value of a tag of a TIFF file; None where there is none."""
    value: Any = getattr(picture, "tag_v2", {}).get(tag)
    return value[0] if isinstance(value, tuple) else value


def _on_white(rgba: Image.Image) -> Image.Image:
    ground = Image.new("RGB", rgba.size, "white")
    ground.paste(rgba, mask=rgba.getchannel("A"))
    return ground


def _published_sketch(picture: Image.Image, size: int) -> np.ndarray:
    picture.load()
    transparent = picture.has_transparency_data
    flat = _on_white(_eight_bit(picture, "RGBA")) if transparent else _eight_bit(picture, "RGB")
    try:
        square = published_sketch(_upright(flat, _orientation(picture)), size)
    except ValueError as error:
        raise BadPicture(f"blank: {error}") from error
    return pixels_of(square.convert("L"))


def _is_light_on_dark(grey: Image.Image, histogram: list[int]) -> bool:
    """Whether the border is nearer to the darkest than to the lightest grey, and darker than the whole picture.

    Measured on about 16 x 16 cells, so that ink at the edge or the thin black frame of a scan does not decide.
    """
    cells = grey.reduce((max(1, grey.width // 16), max(1, grey.height // 16)))
    levels, columns = cells.tobytes(), cells.width
    border = levels[:columns] + levels[-columns:] + levels[::columns] + levels[columns - 1 :: columns]
    mean = sum(border) / len(border)
    if mean >= sum(levels) / len(levels):
        return False
    darkest, lightest = _darkest(histogram), 255 - _darkest(histogram[::-1])
    return mean < (darkest + lightest) / 2


def _paper_and_ink_limit(histogram: list[int]) -> tuple[int, float]:
    """The grey level of the paper, and the level below which a pixel is ink, of a drawing that is dark on light.

    Raises `BadPicture` if nothing stands out from the paper.
    """
    darkest, lightest = _darkest(histogram), 255 - _darkest(histogram[::-1])
    middle = (darkest + lightest) // 2
    paper = middle + max(range(256 - middle), key=histogram[middle:].__getitem__)
    noise = max(MIN_CONTRAST, lightest - paper)  # texture is as deep below the paper's level as above it
    if paper - darkest < noise:
        raise BadPicture("blank: no ink")
    return paper, paper - max(noise - 1, (paper - darkest) * INK_SHARE)


def _darkest(histogram: list[int]) -> int:
    """The darkest level, without specks: at most 64 pixels, and at most 1 in 2,000, are darker."""
    remaining = min(sum(histogram) // 2000, 64)
    for level, count in enumerate(histogram):
        remaining -= count
        if remaining < 0:
            return level
    return 255


def _box(grey: Image.Image, limit: float) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (exclusive) of the pixels below the limit, of which there must be one.

    Computed by Pillow, whose subtraction clips at 0: numpy takes three times as long on small drawings.
    """
    box = ImageChops.subtract(Image.new("L", grey.size, math.ceil(limit)), grey).getbbox()
    assert box is not None, "paper and ink differ, so that there is ink"
    return box


@functools.lru_cache(maxsize=1024)
def _stretch(darkest: int, paper: int) -> bytes:
    """256 levels that map the darkest to 0, and the paper and lighter levels to 255."""
    levels = (np.arange(256) - darkest) * (255 / max(1, paper - darkest))
    return levels.round().clip(0, 255).astype(np.uint8).tobytes()
