"""Prove that a checkpoint computes here what it computed where it was made: its encodings of two built-in pictures.

A checkpoint keeps weights. The code that runs them is of torch, timm and Pillow, and another version of these can give
other numbers for the same weights without an error: another default of a layer, another way of resizing. Pictures that
were encoded before would then be compared with pictures that are encoded now. Our design.

Left out: JPEG's decoder, whose versions differ by a grey level, and the network on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import PIL
import timm
import torch
from PIL import Image

from zse_model.errors import ZseError
from zse_model.methods.base import RetrievalMethod
from zse_model.precision import full_precision
from zse_model.transforms import TransformConfig, prepare_photo, prepare_sketch

VALUES = 16
"""Numbers that are kept of each encoding."""
ROUNDING = 1e-3
"""The largest relative difference that is allowed. Another number of threads, and convolutions without oneDNN, changed
the encodings of three EfficientNet-Lite2 by 3e-6 at most; an eps of batch norms that is 1 % larger by 8e-4 to 4e-3."""
LARGER, LARGEST = 7, 2048
"""The pictures have this many times the side that a network reads, and no longer side: reading one resizes it in both
of Pillow's steps."""


def proof_of(method: RetrievalMethod, transforms: TransformConfig) -> dict[str, Any]:
    """JSON to keep beside the weights: {"encodings": name -> VALUES numbers, "versions": package -> version}.

    method: on the CPU; in training mode it stays in it.
    """
    encodings = {name: [float(f"{x:.6g}") for x in values] for name, values in _encoded(method, transforms).items()}
    return {"encodings": encodings, "versions": _versions()}


def check_proof(proof: Any, method: RetrievalMethod, transforms: TransformConfig) -> None:
    """Raise ZseError for a method, on the CPU, whose encodings are not those of `proof`, and for a proof that is none.
    A later version may encode more."""
    kept, made = _read(proof)
    here = _encoded(method, transforms)
    for name, before in kept.items():
        off = float(np.linalg.norm(here[name] - before) / (np.linalg.norm(before) or 1)) if name in here else 1.0
        if not off <= ROUNDING:
            raise ZseError(
                "the network computes something else here than where it was made, so pictures that were encoded before "
                f"do not fit those that are encoded now. {name} of a built-in picture differs by {off:.2%}; rounding "
                f"may be {ROUNDING:.2%}. {_advice(made)}"
            )


def _advice(made: Mapping[str, str]) -> str:
    here = _versions()
    others = [
        f"{package} {made.get(package)}, not {number}"
        for package, number in here.items()
        if made.get(package) != number
    ]
    if others:
        return (
            f"It was made with {'; '.join(others)}. Install those versions, or delete the checkpoint and train it again"
        )
    same = ", ".join(f"{package} {number}" for package, number in here.items())
    return f"It was made with {same}, which are here, too: use the version of zse that it was made with"


def _versions() -> dict[str, str]:
    # +cpu and +cu126 are builds of one version.
    return {"torch": torch.__version__.partition("+")[0], "timm": timm.__version__, "Pillow": PIL.__version__}


def _read(proof: Any) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The encodings and the versions of a proof."""
    try:
        kept = {name: np.array(values, dtype=np.float64) for name, values in proof["encodings"].items()}
        made = dict(proof["versions"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ZseError("its proof is damaged. Copy the checkpoint again, or delete it and train it again") from error
    if not kept or any(values.shape != (VALUES,) for values in kept.values()):
        raise ZseError(f"its proof is damaged: it has not {VALUES} numbers of each encoding. Copy the checkpoint again")
    return kept, made


@torch.no_grad()
def _encoded(method: RetrievalMethod, transforms: TransformConfig) -> dict[str, np.ndarray]:
    """MODALITY/NAME of every encoding of numbers -> float64 [VALUES]: dot products of all of its numbers with cosines
    of several frequencies, because some numbers may be 0 in any case."""
    side = min(LARGER * transforms.size, LARGEST)
    drawing = torch.from_numpy(prepare_sketch(_drawing(side), transforms))[None, None]
    photo = torch.from_numpy(prepare_photo(_photo(side), transforms)).permute(2, 0, 1)[None]
    trains, found = method.training, {}
    method.eval()
    try:
        with full_precision(method.device):
            encodings = {"sketch": method.encode(drawing, "sketch"), "photo": method.encode(photo, "photo")}
    finally:
        method.train(trains)
    for modality, encoding in encodings.items():
        for name, value in encoding.items():
            if value.is_floating_point():
                numbers = value.flatten().double().numpy()
                waves = np.cos(np.outer(np.arange(1, VALUES + 1), np.arange(numbers.size)))
                found[f"{modality}/{name}"] = waves @ numbers
    return found


def _photo(side: int) -> bytes:
    """A PNG with edges in every direction: three waves, one a channel."""
    y, x = np.arange(side * 2 // 3)[:, None] * 90 // side, np.arange(side)[None] * 90 // side
    waves = (x * y // 8, x * x // 16 + y * 5, (x - 45) ** 2 // 8 + (y - 30) ** 2 // 8)
    return _png(np.stack([(wave % 256).astype(np.uint8) for wave in waves], axis=-1))


def _drawing(side: int) -> bytes:
    """A PNG of a black ring with a grey bar through it on white paper."""
    x = np.arange(side)[None] - side // 2
    y = x.T
    radius, thick = x * x + y * y, max(1, side // 40)
    paper = np.full((side, side), 255, dtype=np.uint8)
    paper[abs(x - 2 * y) < thick] = 90
    paper[abs(radius - (side * 9 // 20) ** 2) < side * thick // 2] = 0
    return _png(paper)


def _png(pixels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
