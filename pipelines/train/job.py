"""Everything that a training depends on: its network, its name, and the folder that carries the name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from pipelines.config.experiment import ExperimentConfig, to_dict
from pipelines.store import storage
from pipelines.train.class_vectors import class_vectors_of
from pipelines.train.networks import weights_at_hand, weights_hash
from pipelines.workspace.images import Images
from pipelines.workspace.pairs import Pairs
from pipelines.workspace.training import Training
from zse_model.checkpoint import (
    load_checkpoint,
    start_from,
)
from zse_model.fit import (
    TrainConfig,
)
from zse_model.methods import RetrievalMethod, create_method
from zse_model.split import ZeroShotSplit, imagenet_units_naming


@dataclasses.dataclass(frozen=True)
class Job:
    """Everything that a worker needs, picklable."""

    name: str
    method: str
    config: ExperimentConfig
    images: Images
    pairs: Pairs
    folder: str
    key: str
    class_vectors: Tensor | None = None
    """Of the training classes, in the order of their labels, where the method's configuration names a file of them."""
    weights: str | None = None
    """`weights_hash` of the backbone's, which each worker compares what it reads with."""

    def create_method(self, *, load_weights: bool = True) -> RetrievalMethod:
        """The network as training starts from it, the same in every process."""
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
            if start is not None:  # over the pretrained weights: of a classifier to distil the start may have none
                start_from(method, load_checkpoint(stack.enter_context(storage.local_copy(start))))
        method.backbone_config = self.config.backbone
        return method


def units_to_drop(split: ZeroShotSplit, categories: Iterable[str]) -> tuple[int, ...]:
    """Of an ImageNet classifier: those that name a class which training must not know about, such as every category of
    the data that is not trained on, also where the split does not name it."""
    others = {*categories, *split.unseen, *split.pseudo_unseen} - set(split.training)
    return tuple(imagenet_units_naming(sorted(others)))


def make_job(
    config: ExperimentConfig, method: str, workspace: str, images: Images, pairs: Pairs, *, untrained: bool = False
) -> Job:
    weights = weights_hash(config.backbone.weights)
    depends: dict[str, Any] = {
        "method": [method, _method_named(config.methods[method])],
        "backbone": {**to_dict(config.backbone), "weights": weights},
        "transforms": to_dict(config.transforms),
        "split": pairs.split_hash,
        "fingerprint": pairs.fingerprint,
        "seed": config.train.seed,
    }
    if not untrained:
        depends |= {
            "pairs": pairs.settings,
            "train": _named(config.train),
            "workers": config.cluster.workers,
            "cpus": config.cluster.cpus_per_worker,
        }
    if config.start is not None:
        depends["start"] = Training.open(config.start).digest
    vectors = class_vectors_of(config.methods[method], pairs.classes)
    if vectors is not None:  # their values, not their URL: what a file says of other classes changes no name
        depends["class_vectors"] = storage.sha256(vectors.numpy().tobytes())
        depends["method"][1].pop("class_vectors")
    key = storage.digest(depends)
    folder = Training.place(workspace, f"{config.name}-{method}{'-untrained' if untrained else ''}", key)
    return Job(folder.rsplit("/", 1)[1], method, config, images, pairs, folder, key, vectors, weights)


def _method_named(method: Any) -> dict[str, Any]:
    """What of a method's configuration names a checkpoint. Units that are not decided yet were once written as none."""
    settings = to_dict(method)
    return (
        {**settings, "dropped_units": settings.get("dropped_units") or ()} if "dropped_units" in settings else settings
    )


def _named(train: TrainConfig) -> dict[str, Any]:
    """What of the settings names a checkpoint: not what leaves the weights as they are, and settings that came later
    only where they are not what all trainings had before, which so keep their names."""
    before = {"accumulate": 1, "gather": False, "compile": False}
    settings = to_dict(train)
    del settings["activation_checkpointing"]
    return {name: value for name, value in settings.items() if value != before.get(name, ...)}
