"""Encode and decode the pictures of shards: sketches as grey PNG, photos as JPEG, uint8 arrays in memory."""

from __future__ import annotations

import io
import struct

import numpy as np
from isal import isal_zlib
from PIL import Image

from pipelines.workspace.looks import look
from zse_model.transforms import Modality, TransformConfig, photo_square, pixels_of, prepare_sketch

JPEG_QUALITY = 92


def encode_sketch(array: np.ndarray) -> bytes:
    """uint8 [h, w] → a grey PNG, lossless.

    Pillow tries every PNG row filter. Line drawings compress as well without filters, and are then read a quarter
    faster in training. At 128 pixels this takes 0.06 ms, with zlib 0.14 ms, Pillow 0.35 ms.
    """
    height, width = array.shape
    rows = np.zeros((height, width + 1), dtype=np.uint8)  # each row begins with its filter: 0, none
    rows[:, 1:] = array
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)  # 8 bits, grey
    chunks = ((b"IHDR", header), (b"IDAT", isal_zlib.compress(rows, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + tag + part + struct.pack(">I", isal_zlib.crc32(tag + part))
        for tag, part in chunks
    )


def encode_photo(photo: np.ndarray | Image.Image) -> bytes:
    """uint8 [h, w, 3] or an RGB picture → a JPEG without chroma subsampling, which is visible at 128 pixels."""
    picture = Image.fromarray(photo) if isinstance(photo, np.ndarray) else photo
    buffer = io.BytesIO()
    # Without `comment` Pillow copies the comment of the file that the picture was opened from.
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, comment=b"")
    return buffer.getvalue()


def decode_pixels(data: bytes) -> np.ndarray:
    """The output of `encode_sketch` or `encode_photo` → uint8 [h, w] or [h, w, 3]. Raises Pillow's errors."""
    return pixels_of(Image.open(io.BytesIO(data), formats=("PNG", "JPEG")))


def prepared(modality: Modality, data: bytes, transforms: TransformConfig) -> tuple[bytes, bytes | None]:
    """The bytes of a picture for an image shard, and a photo's thumbnail. Raises BadPicture."""
    if modality == "sketch":
        return encode_sketch(prepare_sketch(data, transforms)), None
    square = photo_square(data, transforms)
    return encode_photo(square), look(square)
