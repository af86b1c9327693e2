"""The networks of an experiment, built without data: what they refuse is said before a picture is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pipelines import storage
from pipelines.config import ExperimentConfig
from zse_model.backbones import BackboneConfig
from zse_model.errors import ZseError
from zse_model.methods import create_method

CLASSES = 16  # stands for the number of training classes, which the data alone knows


def check_networks(config: ExperimentConfig) -> None:
    """Build every method as its training will, pretrained weights included: seconds, no data.

    Raises ZseError for weights that are broken, do not fit or cannot be fetched, for a picture size that the backbone
    does not take, and for a configuration that its method refuses.
    """
    with weights_at_hand(config.backbone) as backbone, torch.random.fork_rng(devices=[]):
        for name, method in config.methods.items():
            create_method(name, decided(method), backbone, size=config.transforms.size, classes=CLASSES)


def decided(method: Any) -> Any:
    """The configuration of a method that distils, with no units dropped: which ones are, the split decides."""
    distils = getattr(method, "distillation", 0) and method.dropped_units is None
    return dataclasses.replace(method, dropped_units=()) if distils else method


@contextmanager
def weights_at_hand(backbone: BackboneConfig) -> Iterator[BackboneConfig]:
    """The same backbone with its weights in a local file."""
    if backbone.weights in (None, "hub"):
        yield backbone
        return
    url = str(backbone.weights)
    with storage.local_copy(url) as copy:
        try:
            yield dataclasses.replace(backbone, weights=str(copy))
        except ZseError as error:
            if str(copy) == url or str(copy) not in str(error):
                raise
            raise ZseError(str(error).replace(str(copy), url)) from error
