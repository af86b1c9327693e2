"""Prove that a checkpoint computes here what it computed where it was made: its encoding of one built-in picture.

A checkpoint keeps weights. The code that runs them is of torch, timm and Pillow, and another version of these can give
other numbers for the same weights without an error: another eps of a norm, another way of resizing. Pictures that were
encoded before would then be compared with pictures that are encoded now. Our design.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zse_model.errors import ZseError
from zse_model.methods.base import RetrievalMethod
from zse_model.precision import full_precision
from zse_model.transforms import TransformConfig, prepare_photo

VALUES = 16
"""Numbers that are kept of each encoding. Whatever changes a backbone changes all of its numbers."""
ROUNDING = 1e-3
"""The largest relative difference that is allowed. Another number of threads, and convolutions without oneDNN, changed
the encodings of three EfficientNet-Lite2 by 3e-6 at most; an eps of batch norms that is 1 % larger by 3e-3 or more."""
PACKAGES = ("torch", "timm", "pillow")


def proof_of(method: RetrievalMethod, transforms: TransformConfig) -> dict[str, Any]:
    """JSON to keep beside the weights: {"encoding": name -> VALUES numbers or fewer, "versions": package -> version}.

    A method in training mode stays in it.
    """
    encoding = {name: [float(f"{x:.6g}") for x in values.tolist()] for name, values in _encoded(method, transforms)}
    return {"encoding": encoding, "versions": _versions()}


def check_proof(proof: Mapping[str, Any], method: RetrievalMethod, transforms: TransformConfig) -> None:
    """Raise ZseError, which names the versions, where the method's encoding is not the one of `proof`."""
    for name, values in _encoded(method, transforms):
        before = torch.tensor(proof["encoding"].get(name, values.tolist()))  # a later version may encode more
        off = float((values - before).norm() / before.norm().clamp(min=1e-6))
        if not off <= ROUNDING:
            raise ZseError(
                "the network computes something else here than where it was made. Pictures that were encoded before "
                f"do not fit those that are encoded now: `{name}` of a built-in picture differs by {off:.1%}, and "
                f"{ROUNDING:.1%} is allowed for rounding. {_advice(proof['versions'])}"
            )


def _advice(made: Mapping[str, str]) -> str:
    others = [
        f"{package} {made[package]}, not {here}" for package, here in _versions().items() if made[package] != here
    ]
    if not others:
        return f"{', '.join(PACKAGES)} are those that it was made with: use the zse that it was made with"
    return f"It was made with {'; '.join(others)}. Install what it was made with, or train it again"


def _versions() -> dict[str, str]:
    return {package: version(package) for package in PACKAGES}


@torch.no_grad()
def _encoded(method: RetrievalMethod, transforms: TransformConfig) -> list[tuple[str, Tensor]]:
    """(name, float32 [VALUES or fewer]) of every encoding of numbers."""
    pixels = torch.from_numpy(prepare_photo(_picture(), transforms)).permute(2, 0, 1)[None]
    trains = method.training
    with full_precision(method.device):
        encoding = method.eval().encode(pixels.to(method.device), "photo")
    method.train(trains)
    return [
        (name, value.flatten()[:VALUES].float().cpu()) for name, value in encoding.items() if value.is_floating_point()
    ]


def _picture() -> bytes:
    """A PNG of 90x60 px with edges in every direction: three waves, one a channel. It is not square, so that preparing
    it resizes it."""
    y, x = np.mgrid[:60, :90]
    waves = np.stack([x * y // 8, x * x // 16 + y * 5, (x - 45) ** 2 // 8 + (y - 30) ** 2 // 8], axis=-1)
    file = BytesIO()
    Image.fromarray((waves % 256).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
