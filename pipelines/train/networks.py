"""The networks of an experiment, built without data: what they refuse is said before a picture is read."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipelines.config.experiment import ExperimentConfig
from pipelines.store import storage
from zse_model.backbones import BackboneConfig
from zse_model.errors import ZseError
from zse_model.methods import create_method

CLASSES = 16  # stands for the number of training classes, which the data alone knows, where nothing asks for more


def check_networks(config: ExperimentConfig) -> None:
    """Build every method as its training will, pretrained weights included: seconds, no data.

    Raises ZseError for weights that are broken, do not fit or cannot be fetched, for a picture size that the backbone
    does not take, and for a configuration that its method refuses.
    """
    with weights_at_hand(config.backbone) as backbone, torch.random.fork_rng(devices=[]):
        for name, method in config.methods.items():
            classes = max(CLASSES, getattr(method, "neighbours", 0) + 2)
            create_method(name, decided(method), backbone, size=config.transforms.size, classes=classes)


def decided(method: Any) -> Any:
    """The configuration of a method that distils, with no units dropped: which ones are, the split decides."""
    distils = getattr(method, "distillation", 0) and method.dropped_units is None
    return dataclasses.replace(method, dropped_units=()) if distils else method


def weights_hash(weights: str | None) -> str | None:
    """What names the weights of a backbone: of a file the first 16 hex digits of its sha256."""
    if weights in (None, "hub"):
        return weights
    with storage.local_copy(str(weights)) as copy:
        return _hashed(copy)


def _hashed(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


@contextmanager
def weights_at_hand(backbone: BackboneConfig, expected: str | None = None) -> Iterator[BackboneConfig]:
    """The same backbone with its weights in a local file.

    expected: `weights_hash` of before. Raises ZseError where the file holds something else by now.
    """
    if backbone.weights in (None, "hub"):
        yield backbone
        return
    url = str(backbone.weights)
    with storage.local_copy(url) as copy:
        if expected is not None and (found := _hashed(copy)) != expected:
            raise ZseError(
                f"backbone.weights: {url} was {expected} when this training was named and is {found} now (sha256). "
                "Leave the file as it is while a training runs, or begin again with the new one"
            )
        try:
            yield dataclasses.replace(backbone, weights=str(copy))
        except ZseError as error:
            if str(copy) == url or str(copy) not in str(error):
                raise
            raise ZseError(str(error).replace(str(copy), url)) from error
