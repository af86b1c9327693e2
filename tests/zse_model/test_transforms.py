"""Every odd picture has a stated outcome: the same drawing as the plain one, or a BadPicture that says why."""

import io
import json
import re
import struct
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFile, ImageOps

from zse_model import transforms
from zse_model.transforms import (
    ENDINGS,
    FORMATS,
    BadPicture,
    TransformConfig,
    prepare_photo,
    prepare_sketch,
)

CONFIG = TransformConfig(size=64)
REAL = Path(__file__).parents[2] / "../shared/data/sketchy125_128"


def as_bytes(picture: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def drawing(side: int = 200, ink: int = 0, paper: int = 255, width: int = 4) -> Image.Image:
    """Something like a flag: it differs from its mirror images and quarter turns."""
    picture = Image.new("L", (side, side), paper)
    draw = ImageDraw.Draw(picture)
    draw.line([(60, 40), (60, 160)], fill=ink, width=width)
    draw.polygon([(60, 40), (130, 60), (60, 90)], outline=ink, width=width)
    return picture


def strokes_on(ground: tuple[int, ...], stroke: tuple[int, ...]) -> Image.Image:
    mask = ImageOps.invert(drawing())
    picture = Image.new("RGBA", mask.size, ground)
    picture.paste(stroke, mask=mask)
    return picture


def sixteen_bit(form: str) -> bytes:
    values = np.asarray(drawing(), dtype=np.uint16) * 257
    return as_bytes(Image.fromarray(values), form)


def thirty_two_bit() -> bytes:
    return as_bytes(Image.fromarray(np.asarray(drawing(), dtype=np.int32) * 257), "TIFF")


def exif_turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation]
    return as_bytes(drawing().transpose(stored), "JPEG", quality=95, exif=exif.tobytes())


def png(values: np.ndarray, bits: int, colour: int, transparent: bytes | None = None) -> bytes:
    """Rows of samples as a PNG of that depth and colour type, which Pillow does not write with tRNS."""
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        rows = [
            np.packbits(np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, -bits:]).tobytes() for row in values
        ]
    width = values.shape[1] // {0: 1, 2: 3, 4: 2}[colour]
    header = struct.pack(">IIBBBBB", width, values.shape[0], bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b"")]
    if transparent is not None:
        chunks.insert(1, (b"tRNS", transparent))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + tag + part + struct.pack(">I", zlib.crc32(tag + part)) for tag, part in chunks
    )


def grey(white: int, ink: int = 0) -> np.ndarray:
    """The drawing with that value as white, uint16 [200, 200]."""
    return np.round(np.asarray(drawing(ink=ink)) / 255 * white).astype(np.uint16)


def tiff(values: np.ndarray, tags: dict[int, int] | None = None) -> bytes:
    return as_bytes(Image.fromarray(values), "TIFF", tiffinfo=tags or {})


def deep_colour_tiff(values: np.ndarray, order: str = "<") -> bytes:
    """uint16 [h, w] as a TIFF of three samples of 16 bits, which Pillow does not write."""
    height, width = values.shape
    pixels = np.repeat(values[..., None], 3, axis=2).astype(f"{order}u2").tobytes()
    tags = {256: width, 257: height, 259: 1, 262: 2, 273: 200, 277: 3, 278: height, 279: len(pixels)}
    entries = [(tag, 4, 1, struct.pack(f"{order}I", value)) for tag, value in tags.items()]
    entries.append((258, 3, 3, struct.pack(f"{order}I", 180)))
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(entries))
    for tag, kind, count, value in sorted(entries):
        head += struct.pack(f"{order}HHI", tag, kind, count) + value
    head += bytes(4)
    return head.ljust(180, b"\0") + struct.pack(f"{order}3H", 16, 16, 16).ljust(20, b"\0") + pixels


WHITE_IS_CLEAR = struct.pack(">H", 65535)
SAME_DRAWING = {
    "16 bit png, white is transparent": lambda: png(grey(65535, ink=60), 16, 0, WHITE_IS_CLEAR),
    "16 bit png, black paper is transparent": lambda: png(65535 - grey(65535), 16, 0, b"\0\0"),
    "16 bit colour png, one value is transparent": lambda: png(
        np.repeat(grey(65535, ink=60), 3, axis=1), 16, 2, WHITE_IS_CLEAR * 3
    ),
    "4 bit png, the ink's paper is transparent": lambda: png(grey(15) // 15 * 14 + 1, 4, 0, struct.pack(">H", 1)),
    "16 bit grey png with alpha": lambda: png(
        np.stack([grey(65535), np.full((200, 200), 65535)], axis=2).reshape(200, 400), 16, 4
    ),
    **{
        f"{bits} bits in a 16 bit tiff": lambda white=2**bits - 1: tiff(grey(white, ink=60)) for bits in (8, 10, 12, 14)
    },
    "big-endian 16 bit tiff": lambda: as_bytes(Image.fromarray(grey(4095).astype(">u2")), "TIFF"),
    "12 bits in a 16 bit colour tiff": lambda: deep_colour_tiff(grey(4095, ink=60)),
    "12 bits in a big-endian 16 bit colour tiff": lambda: deep_colour_tiff(grey(4095), ">"),
    "16 bit colour tiff": lambda: deep_colour_tiff(grey(65535)),
    "jpeg": lambda: as_bytes(drawing(), "JPEG"),
    "webp": lambda: as_bytes(drawing().convert("RGB"), "WEBP"),
    "one bit": lambda: as_bytes(drawing().convert("1")),
    "palette": lambda: as_bytes(drawing().convert("P")),
    "cmyk": lambda: as_bytes(drawing().convert("RGB").convert("CMYK"), "JPEG", quality=95),
    "16 bit png": lambda: sixteen_bit("PNG"),
    "16 bit tiff": lambda: sixteen_bit("TIFF"),
    "16 bit pgm": lambda: sixteen_bit("PPM"),
    "32 bit tiff": thirty_two_bit,
    "float tiff": lambda: as_bytes(Image.fromarray(np.asarray(drawing(), dtype=np.float32) / 255), "TIFF"),
    "black on transparency": lambda: as_bytes(strokes_on((0, 0, 0, 0), (0, 0, 0, 255))),
    "white on transparency": lambda: as_bytes(strokes_on((255, 255, 255, 0), (255, 255, 255, 255))),
    "palette with transparency": lambda: as_bytes(strokes_on((0, 0, 0, 0), (0, 0, 0, 255)).quantize(8)),
    "white on black": lambda: as_bytes(ImageOps.invert(drawing())),
    "blue on yellowish": lambda: as_bytes(strokes_on((250, 245, 200, 255), (0, 0, 160, 255)).convert("RGB")),
    "light on off-white": lambda: as_bytes(drawing(ink=200, paper=240)),
    "exif 3": lambda: exif_turned(3),
    "exif 6": lambda: exif_turned(6),
    "exif 8": lambda: exif_turned(8),
    "animated gif": lambda: as_bytes(
        drawing(), "GIF", save_all=True, append_images=[ImageOps.mirror(drawing()), drawing(ink=99)]
    ),
    "padded and moved": lambda: as_bytes(ImageOps.expand(drawing(), (300, 10, 0, 200), fill=255)),
    "one speck far away": lambda: _with_speck(),
}


def _with_speck() -> bytes:
    picture = drawing()
    picture.putpixel((5, 195), 250)  # an artefact, lighter than any ink
    return as_bytes(picture)


@pytest.mark.parametrize("case", SAME_DRAWING)
def test_the_same_drawing_from_every_kind_of_file(case):
    expected = prepare_sketch(as_bytes(drawing()), CONFIG)
    got = prepare_sketch(SAME_DRAWING[case](), CONFIG)
    assert got.shape == (64, 64) and got.dtype == np.uint8 and got.flags.writeable
    assert got.max() == 255 and got.min() == 0
    assert np.abs(got.astype(int) - expected).mean() < 7
    assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.94


def test_a_sketch_is_cropped_to_its_ink_and_centred_with_the_margin():
    picture = Image.new("L", (400, 300), 255)
    ImageDraw.Draw(picture).rectangle([300, 20, 379, 59], fill=0)  # 80 x 40
    ink = np.argwhere(prepare_sketch(as_bytes(picture), TransformConfig(size=100, sketch_margin=0.125)) < 128)
    assert ink.min(0).tolist() == [30, 10] and ink.max(0).tolist() == [69, 89]


@pytest.mark.parametrize("grey", [140, 200, 235])
def test_hairlines_lighter_than_middle_grey_survive(grey):
    picture = Image.new("L", (800, 800), 255)
    ImageDraw.Draw(picture).ellipse([50, 100, 750, 700], outline=grey)
    assert (prepare_sketch(as_bytes(picture), TransformConfig(size=128)) < 128).sum() > 100


def test_a_light_hairline_beside_black_strokes_is_inside_the_crop():
    picture = Image.new("L", (400, 400), 255)
    draw = ImageDraw.Draw(picture)
    draw.rectangle([150, 150, 250, 250], outline=0, width=5)
    draw.line([(20, 20), (380, 20)], fill=200, width=2)
    pixels = prepare_sketch(as_bytes(picture, "JPEG"), TransformConfig(size=128, sketch_margin=0))
    assert ((pixels < 225).mean(axis=1) > 0.9).any()


def test_jpeg_noise_and_paper_texture_are_no_ink():
    black = Image.new("L", (300, 300), 255)
    ImageDraw.Draw(black).rectangle([100, 100, 199, 199], fill=0)
    pixels = prepare_sketch(as_bytes(black, "JPEG", quality=50), TransformConfig(size=120, sketch_margin=0.1))
    assert np.argwhere(pixels < 128).min() >= 8, "ringing widened the box"
    noise = np.random.default_rng(0).normal(235, 4, (200, 200)).clip(0, 255).astype(np.uint8)
    with pytest.raises(BadPicture, match="blank: no ink"):
        prepare_sketch(as_bytes(Image.fromarray(noise)), CONFIG)


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("L", (50, 50), 255),
        Image.new("L", (50, 50), 0),
        Image.new("RGBA", (50, 50), (0, 0, 0, 0)),
        Image.new("RGB", (50, 50), (180, 180, 180)),
    ],
    ids=["white", "black", "transparent", "grey"],
)
def test_blank_sketches_are_refused_and_plain_photos_are_not(picture):
    with pytest.raises(BadPicture, match="blank: no ink"):
        prepare_sketch(as_bytes(picture), CONFIG)
    assert prepare_photo(as_bytes(picture), CONFIG).std() == 0


def test_thin_and_tiny_pictures_are_fine():
    line = Image.new("L", (1, 4000), 255)
    line.paste(0, (0, 1000, 1, 3000))
    assert (prepare_sketch(as_bytes(line), CONFIG) < 128).any()
    assert prepare_photo(as_bytes(line), CONFIG).shape == (64, 64, 3)
    dots = Image.fromarray(np.array([[255, 0], [255, 255]], dtype=np.uint8))
    assert (prepare_sketch(as_bytes(dots), CONFIG) == 0).any()


def scene(width: int = 300, height: int = 200) -> Image.Image:
    """Four coloured quarters."""
    small = np.array([[[200, 30, 30], [30, 200, 30]], [[30, 30, 200], [220, 220, 40]]], dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST)


@pytest.mark.parametrize("case", ["png", "jpeg", "large jpeg", "palette", "cmyk", "transparent", "exif 6"])
def test_photos_fill_the_square_from_every_kind_of_file(case):
    rgba = Image.new("RGBA", (600, 400), (9, 9, 9, 0))
    rgba.paste(scene(600, 400), (0, 0))
    turned = Image.Exif()
    turned[0x0112] = 6
    data = {
        "png": as_bytes(scene()),
        "jpeg": as_bytes(scene(), "JPEG"),
        "large jpeg": as_bytes(scene(3000, 2000), "JPEG"),
        "palette": as_bytes(scene().quantize(16)),
        "cmyk": as_bytes(scene().convert("CMYK"), "JPEG", quality=95),
        "transparent": as_bytes(rgba),
        "exif 6": as_bytes(scene().transpose(Image.Transpose.ROTATE_90), "JPEG", exif=turned.tobytes()),
    }[case]
    pixels = prepare_photo(data, CONFIG)
    assert pixels.shape == (64, 64, 3) and pixels.dtype == np.uint8 and pixels.flags.writeable
    expected = np.asarray(scene(64, 64))
    quarters = np.ix_([16, 48], [16, 48])
    assert np.abs(pixels[quarters].astype(int) - expected[quarters]).max() < 20


@pytest.mark.parametrize(("bits", "colour", "clear", "other"), [(16, 2, 0x2033, 0x90AA), (4, 0, 1, 9)])
def test_the_transparent_value_of_a_png_of_any_depth_becomes_white(bits: int, colour: int, clear: int, other: int):
    values = np.full((32, 32), clear)
    values[8:24, 8:24] = other
    values = values.repeat(3, axis=1) if colour == 2 else values
    data = png(values, bits, colour, struct.pack(">H", clear) * (3 if colour == 2 else 1))
    pixels = prepare_photo(data, TransformConfig(size=32))
    assert pixels[2, 2].tolist() == [255] * 3 and pixels[16, 16].tolist() == [other * 255 // (2**bits - 1)] * 3


def test_a_transparent_photo_lies_on_white_and_a_deep_one_is_scaled():
    assert (prepare_photo(as_bytes(Image.new("RGBA", (9, 9), (0, 0, 0, 0))), CONFIG) == 255).all()
    ramp = Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16))
    assert abs(prepare_photo(as_bytes(ramp), CONFIG).mean() - 127.5) < 2


@pytest.mark.parametrize(
    ("data", "white"),
    [
        (tiff(np.full((64, 64), 4095, np.uint16)), 255),
        (tiff(np.full((64, 64), 4095, np.uint16), {281: 65535}), 15),  # MaxSampleValue: the picture is dark
        (tiff(np.full((64, 64), 4095, np.uint16), {281: 4095}), 255),
        (tiff(np.full((64, 64), 65535, np.uint16), {262: 0}), 0),  # 0 is white
        (png(np.full((64, 64), 4095), 16, 0), 15),  # PNG has one range
        (b"P5 64 64 65535 " + bytes([0, 200]) * 4096, 1),  # and so has PPM
        (b"P5 64 64 4095 " + bytes([15, 255]) * 4096, 255),
        (deep_colour_tiff(np.full((64, 64), 4095)), 255),
        (deep_colour_tiff(np.full((64, 64), 20000)), 78),
    ],
)
def test_what_is_white_in_a_deep_photo(data, white):
    assert np.abs(prepare_photo(data, CONFIG).astype(int) - white).max() <= 1


def test_the_endings_are_those_of_the_formats_that_are_decoded():
    registered = {ending for ending, form in Image.registered_extensions().items() if form in (*FORMATS, "MPO")}
    assert set(ENDINGS) == registered and not registered & {".eps", ".pdf", ".wmf"}


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    idat = b"IDAT" + zlib.compress(b"\0")
    parts = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, idat)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


BAD = {
    "zero bytes": (b"", "empty: zero bytes"),
    "text": (b"<html>404</html>", "not a picture in a known format"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not a picture"),
    "truncated jpeg": (as_bytes(scene(), "JPEG")[:1500], "truncated"),
    "truncated png": (as_bytes(scene().resize((300, 200)).rotate(20))[:700], "truncated"),
    "truncated gif": (as_bytes(drawing(), "GIF")[:60], "truncated|damaged"),
    "header only": (as_bytes(drawing())[:20], "not a picture|truncated|damaged"),
    "damaged png": (png_header(30, 30), "truncated|damaged"),
    "large": (png_header(9000, 9000), re.escape("9000x9000 px is above the limit of 64,000,000 pixels")),
    "bomb": (png_header(60_000, 60_000), "above the limit"),
    "zero sides": (png_header(0, 10), "not a picture|truncated|damaged"),
}


@pytest.mark.parametrize("prepare", [prepare_sketch, prepare_photo])
@pytest.mark.parametrize("case", BAD)
def test_unusable_bytes_are_refused_with_the_reason(case, prepare):
    data, reason = BAD[case]
    with pytest.raises(BadPicture, match=reason):
        prepare(data, CONFIG)


def test_no_damage_raises_anything_else():
    rng = np.random.default_rng(0)
    forms = [as_bytes(drawing(), f) for f in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM", "WEBP")]
    for data in forms:
        for _ in range(60):
            broken = bytearray(data[: rng.integers(1, len(data) + 1)])
            broken[int(rng.integers(len(broken)))] = int(rng.integers(256))
            for prepare in (prepare_sketch, prepare_photo):
                try:
                    assert prepare(bytes(broken), CONFIG).dtype == np.uint8
                except BadPicture as error:
                    assert str(error)


def test_pillows_global_settings_are_left_alone():
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    assert Image.MAX_IMAGE_PIXELS is not None and Image.MAX_IMAGE_PIXELS > transforms.MAX_PIXELS


def test_the_config_round_trips_and_refuses_nonsense():
    config = TransformConfig(size=224, sketch_margin=0.1)
    assert TransformConfig(**json.loads(json.dumps(asdict(config)))) == config
    with pytest.raises(ValueError, match="size is 0 pixels, allowed are 16..1024"):
        TransformConfig(size=0)
    with pytest.raises(ValueError, match="sketch_margin is -0.1, allowed"):
        TransformConfig(sketch_margin=-0.1)


def test_real_pictures_are_all_usable():
    if not REAL.exists():
        pytest.skip("no ../shared/data/sketchy125_128: real pictures are not part of the repository")
    sketches, photos = (sorted((REAL / kind).glob("*/*"))[::40] for kind in ("sketch", "photo"))
    for file in sketches:
        pixels = prepare_sketch(file.read_bytes(), CONFIG)
        rows, columns = np.argwhere(pixels < 128).T
        assert max(np.ptp(rows), np.ptp(columns)) >= 64 * 0.8, file
    for file in photos:
        expected = np.asarray(Image.open(file).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC))
        assert (prepare_photo(file.read_bytes(), CONFIG) == expected).all(), file
