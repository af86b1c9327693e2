"""Name a training and build its network. `train` makes a Job; its workers and `publish` read it.

The name ends in a hash of everything that the weights depend on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from pipelines.config.experiment import ExperimentConfig, to_dict
from pipelines.config.weights import UNKNOWN, licence_of
from pipelines.store import storage
from pipelines.train.class_vectors import class_vectors_of
from pipelines.train.networks import weights_at_hand, weights_hash
from pipelines.workspace.images import Images
from pipelines.workspace.pairs import Pairs
from pipelines.workspace.training import Training
from zse_model.backbones import BackboneConfig
from zse_model.checkpoint import (
    INFO,
    load_checkpoint,
    start_from,
)
from zse_model.fit import (
    TrainConfig,
)
from zse_model.methods import CrossATNetConfig, RetrievalMethod, ZseSbirConfig, create_method
from zse_model.split import ZeroShotSplit, imagenet_units_naming


@dataclasses.dataclass(frozen=True)
class Job:
    """One training, picklable: everything that a worker needs."""

    name: str
    method: str
    config: ExperimentConfig
    images: Images
    pairs: Pairs
    folder: str
    key: str
    class_vectors: Tensor | None = None
    """float32 [classes, v] in the order of the labels; None if the method's configuration names no file of vectors."""
    weights: str | None = None
    """`weights_hash` of the backbone's weights. Each worker checks the file that it reads against this hash."""
    licence: str | None = None
    """Of the pretrained weights and of the start's, separated by "; "; None where all began with random numbers."""

    def create_method(self, *, load_weights: bool = True) -> RetrievalMethod:
        """The network before its first step, equal in every process.

        load_weights: False leaves out pretrained weights and `start`, for a network that `publish` fills.
        """
        config = self.config.methods[self.method]
        if getattr(config, "distillation", 0) and not config.dropped_units:
            config = dataclasses.replace(config, dropped_units=units_to_drop(self.pairs.split, self.images.counts))
        if self.class_vectors is not None:
            config = dataclasses.replace(config, vector_dim=self.class_vectors.shape[1])
        torch.manual_seed(self.config.train.seed)
        backbone, start = self.config.backbone, self.config.start if load_weights else None
        with ExitStack() as stack:
            if load_weights:
                backbone = stack.enter_context(weights_at_hand(backbone, self.weights))
            method = create_method(
                self.method,
                config,
                backbone,
                size=self.config.transforms.size,
                classes=len(self.pairs.classes),
                load_weights=load_weights,
            )
            if self.class_vectors is not None:
                method.set_class_vectors(self.class_vectors)
            if start is not None:  # after the pretrained weights: the start may lack the classifier to distil from
                start_from(method, load_checkpoint(stack.enter_context(storage.local_copy(start))))
        # A checkpoint names the mean and std: another timm may have others for this model, and scores would change.
        method.backbone_config = dataclasses.replace(self.config.backbone, **method.backbone.normalisation)
        return method


def units_to_drop(split: ZeroShotSplit, categories: Iterable[str]) -> tuple[int, ...]:
    """Units of an ImageNet classifier that distillation must not use: those that name an unseen or pseudo-unseen class,
    or a category of the data that is not a training class."""
    others = {*categories, *split.unseen, *split.pseudo_unseen} - set(split.training)
    return tuple(imagenet_units_naming(sorted(others)))


def make_job(
    config: ExperimentConfig, method: str, workspace: str, images: Images, pairs: Pairs, *, untrained: bool = False
) -> Job:
    """The job of a training. Its key is the digest of everything that the weights depend on.

    untrained: the network before training, which depends on neither pair shards nor the training's settings.
    Raises ZseError for weights, a start or class vectors that cannot be read.
    """
    weights = weights_hash(config.backbone)
    depends: dict[str, Any] = {
        "method": [method, _method_identity(config.methods[method])],
        "backbone": {**_backbone_identity(config.backbone), "weights": weights},
        "transforms": to_dict(config.transforms),
        "split": pairs.split_hash,
        "fingerprint": pairs.fingerprint,
        "seed": config.train.seed,
    }
    if pairs.pictures_hash is not None:  # trainings on pair shards of earlier code keep their names
        depends["pictures"] = pairs.pictures_hash
    if not untrained:
        depends |= {
            "pairs": pairs.settings,
            "train": _train_identity(config.train),
            "workers": config.cluster.workers,
            "cpus": config.cluster.cpus_per_worker,
        }
    if config.start is not None:
        depends["start"] = Training.open(config.start).digest
    vectors = class_vectors_of(config.methods[method], pairs.classes)
    if vectors is not None:  # the values, not the URL: vectors of other classes in the file must not change the name
        depends["class_vectors"] = storage.sha256(vectors.numpy().tobytes())
        depends["method"][1].pop("class_vectors")
    key = storage.digest(depends)
    folder = Training.place(workspace, f"{config.name}-{method}{'-untrained' if untrained else ''}", key)
    name = folder.rsplit("/", 1)[1]
    return Job(name, method, config, images, pairs, folder, key, vectors, weights, _licence(config))


def _licence(config: ExperimentConfig) -> str | None:
    licences = (licence_of(config.backbone) or "").split("; ")
    if config.start is not None:
        start = storage.read_json(storage.join(config.start, INFO))
        unsaid = UNKNOWN if start["backbone"]["weights"] or "imported_from" in start["training"] else ""
        licences += (start["training"].get("licence") or unsaid).split("; ")
    return "; ".join(dict.fromkeys(filter(None, licences))) or None


def _method_identity(method: Any) -> dict[str, Any]:
    """The part of a method's configuration in the key. Undecided `dropped_units` are () there, as in older keys."""
    settings = _without_newer(to_dict(method), {"late_distance": 0.0})
    if not isinstance(method, CrossATNetConfig):
        settings = _without_newer(settings, {"bits": 0})
    if isinstance(method, ZseSbirConfig):
        newer = {"late": 0.0, "late_distillation": 0.0, "late_temperature": 0.05, "place_dim": 64}
        settings = _without_newer(settings, newer)
    return (
        {**settings, "dropped_units": settings.get("dropped_units") or ()} if "dropped_units" in settings else settings
    )


def _backbone_identity(backbone: BackboneConfig) -> dict[str, Any]:
    """The part of the backbone's configuration in the key."""
    settings = to_dict(backbone)
    if backbone.tune != "lora":
        del settings["lora"]
    return _without_newer(settings, {"tune": "full", "modality_blocks": 0})


def _train_identity(train: TrainConfig) -> dict[str, Any]:
    """The part of the training's settings in the key. Settings that leave the weights equal are left out."""
    settings = to_dict(train)
    del settings["activation_checkpointing"]
    return _without_newer(settings, {"accumulate": 1, "gather": False, "compile": False})


def _without_newer(settings: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Newer settings count only if they differ from the fixed value that older trainings had (`before`), so that those
    keep their names."""
    return {name: value for name, value in settings.items() if value != before.get(name, ...)}
