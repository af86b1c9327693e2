"""Use a checkpoint on pictures: encode, search, explain. docs/library.md has an example.

A picture is the bytes of a file, a path, a PIL image, an array uint8 [h, w], [h, w, 3] or [h, w, 4], or what the
network sees already: a tensor uint8 [1 or 3, s, s] as `prepare_sketch` and `prepare_photo` make it. Left out: galleries
that are larger than memory (`RetrievalMethod.search` reads tiles, `zse embed` keeps encodings).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zse_model.checkpoint import Checkpoint
from zse_model.errors import ZseError
from zse_model.evaluation.search import Ranking
from zse_model.explanation.base import Explanation
from zse_model.explanation.pair import explain_pair
from zse_model.scoring import Encoding, count
from zse_model.transforms import BadPicture, Modality, prepare_photo, prepare_sketch

Picture: TypeAlias = bytes | str | Path | Image.Image | np.ndarray | Tensor
Pictures: TypeAlias = Sequence[Picture] | Tensor
"""Any number of pictures; a tensor is uint8 [n, 1 or 3, s, s]."""

PREPARE = {"sketch": prepare_sketch, "photo": prepare_photo}
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")


@torch.no_grad()
def encode(checkpoint: Checkpoint, pictures: Pictures, modality: Modality, *, batch_size: int = 64) -> Encoding:
    """Encode pictures of one modality: name -> tensor [n, ...] on the CPU, in the order of the pictures.

    Raises BadPicture for an unusable picture, and names it; ZseError for no pictures, one picture outside a list, an
    unknown modality, prepared pictures of another shape, or a method in training mode.
    """
    method = checkpoint.method
    if method.training:
        raise ZseError("The method is in training mode, where encodings are random: call method.eval() first")
    if modality not in PREPARE:
        raise ZseError(f"Unknown modality {modality!r}. Modalities: sketch, photo")
    if isinstance(pictures, str | bytes | Path | Image.Image | np.ndarray):
        raise ZseError(f"Give a list of pictures, got one {type(pictures).__name__}. Put it into a list")
    if len(pictures) == 0:
        raise ZseError(f"There are no pictures to encode: the list of {modality} pictures is empty")
    encoded = []
    for i in range(0, len(pictures), batch_size):
        batch = pictures[i : i + batch_size]
        if not isinstance(batch, Tensor):
            batch = torch.stack([_prepared(checkpoint, one, modality, i + j) for j, one in enumerate(batch)])
        _check(batch, method.size)
        encoded.append({name: value.cpu() for name, value in method.encode(batch.to(method.device), modality).items()})
    return {name: torch.cat([part[name] for part in encoded]) for name in encoded[0]}


@torch.no_grad()
def search(
    checkpoint: Checkpoint,
    sketches: Pictures | Encoding,
    photos: Pictures | Encoding,
    mode: str | None = None,
    k: int = 10,
) -> Ranking:
    """The best k photos of each sketch: Ranking [sketches, min(k, photos)], whose indices count the photos from 0.

    sketches, photos: pictures, or their encodings (`encode`). mode: None = the method's first mode.
    Raises ZseError for an unknown mode, k < 1, or more than K photos by rerank-K; BadPicture as `encode`.
    """
    method = checkpoint.method
    mode = mode or method.modes[0]
    method.mode(mode)  # raises before anything is encoded
    queries = sketches if isinstance(sketches, Mapping) else encode(checkpoint, sketches, "sketch")
    gallery = photos if isinstance(photos, Mapping) else encode(checkpoint, photos, "photo")
    return method.search(queries, lambda: [gallery], mode, min(k, count(gallery)))


def explain(checkpoint: Checkpoint, sketch: Picture, photo: Picture, mode: str | None = None) -> Explanation:
    """Explain the score of a pair: `PatchExplanation` of zse_sbir, `MaskExplanation` of crossatnet.

    mode: None = the mode that the explanation is about. Raises the errors of `explain_pair`.
    """
    drawn, shown = _prepared(checkpoint, sketch, "sketch"), _prepared(checkpoint, photo, "photo")
    return explain_pair(checkpoint.method, drawn, shown, mode)


def _prepared(checkpoint: Checkpoint, picture: Picture, modality: Modality, position: int = 0) -> Tensor:
    """A picture as the network sees it: uint8 [1 or 3, s, s]."""
    if isinstance(picture, Tensor):
        return picture
    name = str(picture) if isinstance(picture, str | Path) else f"{modality} {position}"
    try:
        pixels = torch.from_numpy(PREPARE[modality](_file(picture), checkpoint.transforms))
    except BadPicture as error:
        raise BadPicture(f"{name}: {error}. Give another picture") from error
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _file(picture: Picture) -> bytes:
    """The bytes of a picture file."""
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, str | Path):
        try:
            return Path(picture).read_bytes()
        except OSError as error:
            raise BadPicture(f"cannot be read ({error.strerror})") from error
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(checked_pixels(picture))
    if not isinstance(picture, Image.Image):
        raise ZseError(f"A picture is bytes, a path, a PIL image, an array or a tensor; got {type(picture).__name__}")
    buffer = io.BytesIO()
    kept = picture if picture.mode in PNG_MODES else picture.convert("RGB")
    kept.save(buffer, "PNG", exif=picture.getexif())  # it says which side is up
    return buffer.getvalue()


def checked_pixels(array: np.ndarray) -> np.ndarray:
    """A picture given as an array. Raises ZseError unless it is uint8 [h, w], [h, w, 3] or [h, w, 4]."""
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        found = f"{array.dtype} {list(array.shape)}"
        raise ZseError(f"A picture given as an array must be uint8 [h, w], [h, w, 3] or [h, w, 4], got {found}")
    return array


def _check(batch: Tensor, size: int) -> None:
    fits = batch.ndim == 4 and batch.shape[1] in (1, 3) and batch.shape[2:] == (size, size)
    if batch.dtype != torch.uint8 or not fits:
        found = f"{batch.dtype} {list(batch.shape)}"
        raise ZseError(f"Prepared pictures must be uint8 [n, 1 or 3, {size}, {size}], got {found}")
