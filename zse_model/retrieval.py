"""Use a checkpoint on pictures: encode, search, explain. docs/library.md has an example.

A picture is the bytes of a file, a path, a PIL image, an array uint8 [h, w], [h, w, 3] or [h, w, 4], or what the
network sees already: a tensor uint8 [1 or 3, s, s] as `prepare_sketch` and `prepare_photo` make it. Left out: galleries
that are larger than memory (`RetrievalMethod.search` reads tiles, `zse embed` keeps encodings).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zse_model.checkpoint import Checkpoint
from zse_model.errors import ZseError
from zse_model.evaluation.search import Ranking
from zse_model.explanation.base import Explanation
from zse_model.explanation.pair import explain_pair, explained_mode
from zse_model.methods.base import RetrievalMethod
from zse_model.scoring import Encoding, count
from zse_model.transforms import BadPicture, Modality, file_of, prepare_photo, prepare_sketch

Picture: TypeAlias = bytes | str | Path | Image.Image | np.ndarray | Tensor
Pictures: TypeAlias = Iterable[Picture] | Tensor
"""Any number of pictures in an order; a tensor is uint8 [n, 1 or 3, s, s]."""

PREPARE = {"sketch": prepare_sketch, "photo": prepare_photo}


@torch.no_grad()
def encode(checkpoint: Checkpoint, pictures: Pictures, modality: Modality, *, batch_size: int = 64) -> Encoding:
    """Encode pictures of one modality: name -> tensor [n, ...] on the CPU, in the order of the pictures.

    Raises BadPicture for an unusable picture, and names it; ZseError for no pictures, one picture outside a list, an
    unknown modality, prepared pictures of another shape, a batch_size below 1, or a method in training mode.
    """
    method = _in_eval_mode(checkpoint)
    if modality not in PREPARE:
        raise ZseError(f"Unknown modality {modality!r}. Modalities: sketch, photo")
    if batch_size < 1:
        raise ZseError(f"batch_size must be 1 or more, got {batch_size}")
    given = _listed(pictures, modality)
    encoded = []
    for i in range(0, len(given), batch_size):
        batch = given[i : i + batch_size]
        if not isinstance(batch, Tensor):
            batch = _stacked([_prepared(checkpoint, one, modality, i + j) for j, one in enumerate(batch)])
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

    sketches, photos: pictures, or their encodings by this checkpoint (`encode`). mode: None = the method's first mode.
    Raises ZseError for an unknown mode, k < 1, more than K photos by rerank-K, or encodings that the mode cannot read;
    BadPicture as `encode`.
    """
    method = _in_eval_mode(checkpoint)
    mode = mode or method.modes[0]
    method.mode(mode)  # raises before anything is encoded
    if not isinstance(k, int) or k < 1:
        raise ZseError(f"k, the number of photos of a sketch, must be a whole number of at least 1, got {k!r}")
    queries, gallery = _readable(checkpoint, sketches, "sketch", mode), _readable(checkpoint, photos, "photo", mode)
    return method.search(queries, lambda: [gallery], mode, min(k, count(gallery)))


def explain(checkpoint: Checkpoint, sketch: Picture, photo: Picture, mode: str | None = None) -> Explanation:
    """Explain the score of a pair: `PatchExplanation` of zse_sbir, `MaskExplanation` of crossatnet, `MatchExplanation`
    of late_interaction.

    mode: None = the mode that the explanation is about. Raises the errors of `explain_pair`, and BadPicture for an
    unusable picture.
    """
    method = _in_eval_mode(checkpoint)
    method.mode(mode or explained_mode(method))  # raises before a picture is read
    drawn, shown = _prepared(checkpoint, sketch, "sketch"), _prepared(checkpoint, photo, "photo")
    return explain_pair(method, drawn, shown.expand(3, -1, -1) if len(shown) == 1 else shown, mode)


def _in_eval_mode(checkpoint: Checkpoint) -> RetrievalMethod:
    if checkpoint.method.training:
        raise ZseError("The method is in training mode, where dropout makes it random: call method.eval() first")
    return checkpoint.method


def _listed(pictures: Pictures, modality: Modality) -> list[Picture] | Tensor:
    """A list of pictures, or a tensor as it is. Raises ZseError for one picture, for none, and for pictures without
    order."""
    if isinstance(pictures, np.ndarray):
        raise ZseError("Give a list of pictures, got an array: [array] for one picture, list(array) for several")
    single = isinstance(pictures, str | bytes | Path | Image.Image)
    if single or isinstance(pictures, Mapping | Set) or not isinstance(pictures, Iterable):
        raise ZseError(f"Give a list of pictures, got one {type(pictures).__name__}. Put it into a list")
    given = pictures if isinstance(pictures, Tensor) else list(pictures)
    if len(given) == 0:
        raise ZseError(f"There are no pictures to encode: the list of {modality} pictures is empty")
    return given


def _prepared(checkpoint: Checkpoint, picture: Picture, modality: Modality, position: int = 0) -> Tensor:
    """A picture as the network sees it: uint8 [1 or 3, s, s]. Raises BadPicture and ZseError that name it."""
    name = str(picture) if isinstance(picture, str | Path) else f"{modality} {position}"
    if isinstance(picture, Tensor):
        try:
            _check(picture[None], checkpoint.method.size)
        except ZseError as error:
            raise ZseError(f"{name}: {error}") from error
        return picture
    try:
        pixels = torch.from_numpy(PREPARE[modality](picture_file(picture), checkpoint.transforms))
    except BadPicture as error:
        raise BadPicture(f"{name}: {error}. Give another picture") from error
    except ZseError as error:
        raise ZseError(f"{name}: {error}") from error
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _stacked(pictures: list[Tensor]) -> Tensor:
    """Pictures uint8 [1 or 3, s, s] -> [n, 1 or 3, s, s], 3 where any has 3."""
    channels = max(len(picture) for picture in pictures)
    return torch.stack([picture.expand(channels, -1, -1) for picture in pictures])


def picture_file(picture: Picture) -> bytes:
    """The bytes of a picture file. Raises BadPicture for a picture that cannot be read, ZseError for another type."""
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(checked_pixels(picture))
    try:
        if isinstance(picture, str | Path):
            return Path(picture).read_bytes()
        if isinstance(picture, Image.Image):
            return file_of(picture)
    except OSError as error:
        raise BadPicture(f"cannot be read ({error.strerror or error})") from error
    except Exception as error:  # Pillow raises nearly every built-in exception on damaged data
        raise BadPicture(f"cannot be read ({type(error).__name__}: {error})") from error
    raise ZseError(f"A picture is bytes, a path, a PIL image, an array or a tensor; got {type(picture).__name__}")


def _readable(checkpoint: Checkpoint, given: Pictures | Encoding, side: Modality, mode: str) -> Encoding:
    """The encoding of pictures, or the one that is given. Raises ZseError for one that the mode cannot read."""
    method = checkpoint.method
    encoding = cast("Encoding", given) if isinstance(given, dict) else encode(checkpoint, given, side)
    wanted = method.reads(mode, side)
    if missing := [name for name in wanted if name not in encoding]:
        raise ZseError(f"The {side} encodings have no {', '.join(missing)}, which mode {mode} reads. Encode them again")
    if len({len(encoding[name]) for name in wanted}) > 1:
        raise ZseError(f"The {side} encodings {', '.join(wanted)} are of different numbers of pictures")
    return encoding


def checked_pixels(array: np.ndarray) -> np.ndarray:
    """A picture given as an array. Raises ZseError unless it is uint8 [h, w], [h, w, 3] or [h, w, 4]."""
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not shaped or not array.size:
        found = f"{array.dtype} {list(array.shape)}"
        raise ZseError(f"A picture given as an array must be uint8 [h, w], [h, w, 3] or [h, w, 4], got {found}")
    return array


def _check(batch: Tensor, size: int) -> None:
    fits = batch.ndim == 4 and batch.shape[1] in (1, 3) and batch.shape[2:] == (size, size)
    if batch.dtype != torch.uint8 or not fits:
        found = f"{batch.dtype} {list(batch.shape)}"
        raise ZseError(f"Prepared pictures must be uint8 [n, 1 or 3, {size}, {size}], got {found}")
