"""Build the networks of an experiment without data, and hash and fetch their pretrained weights.

The check before a run builds them to report a bad configuration early; `job` uses the weights.
"""

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
from zse_model.checkpoint import CLASSIFIER, WEIGHTS, read_tensors
from zse_model.errors import ZseError
from zse_model.installed_weights import INSTALLED, installed_file
from zse_model.methods import create_method

CLASSES = 16  # training classes of a network that is only checked; more if `neighbours` needs more


def check_networks(config: ExperimentConfig) -> None:
    """Build the network of every method with its pretrained weights. Takes seconds.

    Raises ZseError for weights that are broken, do not fit or cannot be fetched, for a picture size that the backbone
    does not take, and for a configuration that its method refuses.
    """
    with weights_at_hand(config.backbone) as backbone, torch.random.fork_rng(devices=[]):
        for name, method in config.methods.items():
            classes = max(CLASSES, getattr(method, "neighbours", 0) + 2)
            create_method(name, buildable(method), backbone, size=config.transforms.size, classes=classes)


def refuse_random_teacher(config: ExperimentConfig, name: str) -> None:
    """Raise ZseError for a method that would be distilled from random numbers. An earlier version trained such ones:
    their checkpoints are found and evaluated as before."""
    weight = getattr(config.methods[name], "distillation", 0)
    if not weight or config.backbone.weights is not None:
        return
    why, or_start = "", ""
    if config.start is not None:
        with storage.local_copy(config.start) as copy:
            if any(tensor.startswith(CLASSIFIER) for tensor in read_tensors(copy / WEIGHTS)):
                return
        why, or_start = ", and start was not distilled, so that it has no classifier", ", or start from one that was"
    raise ZseError(
        f"methods.{name}.distillation is {weight}, but backbone.weights is null{why}: the classifier to distil from "
        f"would be random. Set methods.{name}.distillation=0 or give backbone.weights{or_start}"
    )


def buildable(method: Any) -> Any:
    """A method's configuration that can be built without data: `dropped_units`, which depends on the split, is () if
    undecided."""
    distils = getattr(method, "distillation", 0) and method.dropped_units is None
    return dataclasses.replace(method, dropped_units=()) if distils else method


def weights_hash(backbone: BackboneConfig) -> str | None:
    """The identity of a backbone's weights in checkpoint names: the first 16 hex digits of the file's sha256, `hub`, or
    None."""
    if backbone.weights in (None, "hub"):
        return backbone.weights
    with storage.local_copy(_file(backbone)) as copy:
        return _hashed(copy)


def _file(backbone: BackboneConfig) -> str:
    """The path or URL of the file of weights."""
    return str(installed_file(backbone.name)) if backbone.weights == INSTALLED else str(backbone.weights)


def _hashed(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


@contextmanager
def weights_at_hand(backbone: BackboneConfig, expected: str | None = None) -> Iterator[BackboneConfig]:
    """The backbone with its weights on this machine.

    expected: a former `weights_hash`. Raises ZseError if the file has another hash now.
    """
    if backbone.weights in (None, "hub"):
        yield backbone
        return
    url = _file(backbone)
    with storage.local_copy(url) as copy:
        if expected is not None and (found := _hashed(copy)) != expected:
            raise ZseError(
                f"backbone.weights: {url} was {expected} when this training was named and is {found} now (sha256). "
                "Restore the file, or run the command again to train with the new file"
            )
        try:
            yield backbone if backbone.weights == INSTALLED else dataclasses.replace(backbone, weights=str(copy))
        except ZseError as error:
            if str(copy) == url or str(copy) not in str(error):
                raise
            raise ZseError(str(error).replace(str(copy), url)) from error
