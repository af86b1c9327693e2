"""What a file of pretrained weights needs beside itself: arguments of its network, mean and std of its pixels.

It stands in a sidecar, `<file>.json`, or the file is known by its hash: an experiment only names the file. What an
experiment does give stays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.runtime.errors import ConfigError
from pipelines.runtime.validate import read_section
from pipelines.store import storage
from zse_model.backbones import BackboneConfig
from zse_model.installed_weights import INSTALLED, installed_file

HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """The fields of BackboneConfig that go with a file of weights."""

    __pydantic_config__ = {"extra": "forbid"}

    args: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


KNOWN = {
    # MobileNetV2 converted from TensorFlow, which pads and normalises otherwise than timm's own weights
    (14_184_176, "4b07c320eccb975cb8579b0367b24e546f850060b6f14e87d355948b5603b256"): Needs(
        args={"pad_type": "same"}, mean=HALF, std=HALF
    ),
}
"""(bytes, sha256) of a file -> what it needs. Only a file of a known size is read to be hashed."""


def with_weights(backbone: BackboneConfig) -> BackboneConfig:
    """The backbone with an absolute path to its weights, and with what the weights need where it gives nothing.

    Raises ConfigError for a file that does not exist and for a sidecar that cannot be read; ZseError for a package that
    is not installed.
    """
    if backbone.weights in (None, "hub"):
        return backbone
    if backbone.weights == INSTALLED:
        installed_file(backbone.name)  # workers on a cluster look for their own
        return backbone
    url = storage.absolute(backbone.weights)
    if not storage.exists(url) or (info := storage.file_info(url)) is None:
        raise ConfigError(
            f"backbone.weights: {backbone.weights!r} is not a file that exists. Allowed: null, hub, installed, or a "
            "file"
        )
    needs = _sidecar(url) or _known(url, info.size) or Needs()
    return dataclasses.replace(
        backbone,
        weights=url,
        args=backbone.args or needs.args,
        mean=backbone.mean or needs.mean,
        std=backbone.std or needs.std,
    )


def _sidecar(url: str) -> Needs | None:
    try:
        raw = storage.read_json(f"{url}.json")
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ConfigError(f"{url}.json is not JSON. It may hold args, mean and std") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{url}.json must be an object with args, mean and std")
    return read_section(Needs, raw, f"{url}.json: ")


def _known(url: str, size: int) -> Needs | None:
    if size not in {known for known, _ in KNOWN}:
        return None
    return KNOWN.get((size, storage.sha256(storage.read_bytes(url))))
