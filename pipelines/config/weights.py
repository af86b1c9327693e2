"""What goes with a file of pretrained weights: arguments of its network, mean and std of its pixels, its licence.

It stands in a sidecar, `<file>.json`, or the file is known by its hash: an experiment only names the file. A value of
the experiment comes before that of the sidecar, and that before what is known; an empty one is no value.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pipelines.runtime.errors import ConfigError
from pipelines.runtime.progress import say
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

    def __post_init__(self) -> None:
        BackboneConfig(mean=self.mean, std=self.std)  # raises ZseError for what it refuses

    def before(self, other: Needs) -> Needs:
        """The values of this one, and of the other where this has none."""
        return Needs(
            args={**other.args, **self.args},
            mean=self.mean or other.mean,
            std=self.std or other.std,
            licence=self.licence or other.licence,
        )


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
    given = Needs(args=backbone.args, mean=backbone.mean, std=backbone.std)
    if (found := _needs(url, info.size)) is None and given == Needs():
        _say_once(f"{url} has no sidecar {url}.json: args, mean and std are those of {backbone.name} in timm")
    needs = given.before(found or Needs())
    return dataclasses.replace(backbone, weights=url, args=needs.args, mean=needs.mean, std=needs.std)


def licence_of(backbone: BackboneConfig) -> str | None:
    """The licence of the pretrained weights, which what is trained from them may have to keep; None for random ones.

    backbone: as `with_weights` returns it. Raises ConfigError for a sidecar that cannot be read.
    """
    if backbone.weights is None:
        return None
    if backbone.weights in ("hub", INSTALLED):
        return timm_licence(backbone.name) or UNKNOWN
    info = storage.file_info(backbone.weights)
    needs = _needs(backbone.weights, info.size if info else 0)
    return (needs and needs.licence) or UNKNOWN


def _needs(url: str, size: int) -> Needs | None:
    """What the sidecar says, and what is known where it says nothing; None for a file with neither."""
    said, known = _sidecar(url), _known(url, size)
    return said.before(known) if said and known else said or known


def _sidecar(url: str) -> Needs | None:
    try:
        data = storage.read_bytes(f"{url}.json")
    except FileNotFoundError:
        return None
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{url}.json is not JSON. It may hold args, mean, std and licence") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{url}.json must be an object with args, mean, std and licence")
    try:
        return read_section(Needs, raw, "")
    except ConfigError as error:
        raise ConfigError(f"{url}.json: {error}") from None


def _known(url: str, size: int) -> Needs | None:
    if size not in {known for known, _ in KNOWN}:
        return None
    return KNOWN.get((size, storage.sha256(storage.read_bytes(url))))


@cache
def _say_once(message: str) -> None:
    say(message)
