"""What goes with a file of pretrained weights: arguments of its network, mean and std of its pixels, its licence.

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
from zse_model.weights import timm_licence

HALF = (0.5, 0.5, 0.5)
UNKNOWN = "not known: ask where the weights came from"


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What goes with a file of weights: fields of BackboneConfig, and the licence, as "apache-2.0"."""

    __pydantic_config__ = {"extra": "forbid"}

    args: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    licence: str | None = None


KNOWN = {
    # MobileNetV2 converted from TensorFlow, which pads and normalises otherwise than timm's own weights
    (14_184_176, "4b07c320eccb975cb8579b0367b24e546f850060b6f14e87d355948b5603b256"): Needs(
        args={"pad_type": "same"}, mean=HALF, std=HALF, licence="apache-2.0"
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
    needs = _needs(url, info.size)
    return dataclasses.replace(
        backbone,
        weights=url,
        args=backbone.args or needs.args,
        mean=backbone.mean or needs.mean,
        std=backbone.std or needs.std,
    )


def licence_of(backbone: BackboneConfig) -> str | None:
    """The licence of the pretrained weights, which what is trained from them may have to keep; None for random ones.

    backbone: as `with_weights` returns it. Raises ConfigError for a sidecar that cannot be read.
    """
    if backbone.weights is None:
        return None
    if backbone.weights in ("hub", INSTALLED):
        return timm_licence(backbone.name) or UNKNOWN
    info = storage.file_info(backbone.weights)
    return _needs(backbone.weights, info.size if info else 0).licence or UNKNOWN


def _needs(url: str, size: int) -> Needs:
    return _sidecar(url) or _known(url, size) or Needs()


def _sidecar(url: str) -> Needs | None:
    try:
        raw = storage.read_json(f"{url}.json")
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ConfigError(f"{url}.json is not JSON. It may hold args, mean, std and licence") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{url}.json must be an object with args, mean, std and licence")
    return read_section(Needs, raw, f"{url}.json: ")


def _known(url: str, size: int) -> Needs | None:
    if size not in {known for known, _ in KNOWN}:
        return None
    return KNOWN.get((size, storage.sha256(storage.read_bytes(url))))
