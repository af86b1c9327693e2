"""Pictures in shards are standard files with the same pixels and without metadata of the original."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipelines.workspace.pictures import decode_pixels, encode_photo, encode_sketch
from zse_model.transforms import TransformConfig, photo_square, prepare_photo, prepare_sketch


def as_bytes(picture: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture
def sketch_file() -> bytes:
    picture = Image.new("L", (90, 70), 255)
    ImageDraw.Draw(picture).polygon([(10, 12), (70, 20), (30, 60)], outline=0, width=3)
    return as_bytes(picture, "PNG")


@pytest.fixture
def photo_file() -> bytes:
    y, x = np.mgrid[0:64, 0:64].astype(np.uint8)
    picture = Image.fromarray(np.stack([4 * x, 4 * y, 255 - 2 * x], axis=-1))
    return as_bytes(picture, "JPEG", quality=95, comment="shot at home")


def test_encoded_pictures_decode_to_the_same_pixels(sketch_file, photo_file):
    config = TransformConfig(size=64)
    sketch, photo = prepare_sketch(sketch_file, config), prepare_photo(photo_file, config)
    with Image.open(io.BytesIO(encode_sketch(sketch))) as png, Image.open(io.BytesIO(encode_photo(photo))) as jpeg:
        png.verify()  # the check sums too
        assert (png.format, png.mode, jpeg.format, jpeg.mode) == ("PNG", "L", "JPEG", "RGB")
    assert (decode_pixels(encode_sketch(sketch)) == sketch).all()
    decoded = decode_pixels(encode_photo(photo))
    assert decoded.shape == photo.shape and decoded.flags.writeable
    assert np.abs(decoded.astype(int) - photo).mean() < 3


def test_a_photo_is_encoded_alike_as_array_and_as_picture_and_its_comment_stays_behind(photo_file):
    config = TransformConfig(size=64)  # its own size: nothing is resized, the picture is the opened file itself
    encoded = encode_photo(photo_square(photo_file, config))
    assert encoded == encode_photo(prepare_photo(photo_file, config))
    assert b"shot at home" in photo_file and b"shot at home" not in encoded


def test_a_prepared_picture_prepared_again_hardly_changes(sketch_file):
    config = TransformConfig(size=64)
    once = prepare_sketch(sketch_file, config)
    assert np.abs(prepare_sketch(encode_sketch(once), config).astype(int) - once).mean() < 8
