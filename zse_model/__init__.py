"""Zero-shot sketch-based image retrieval: pictures and tensors in, tensors out.

`load_checkpoint`, `encode`, `search`, `evaluate_scores` and `explain` are enough for most uses; docs/library.md has an
example. `dir(zse_model)` lists the public names. The package needs torch, torchvision, timm, safetensors and Pillow; no
cluster, no tracking, no storage.

A name is imported at its first use: a process that only prepares pictures does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zse_model.backbones import BackboneConfig
    from zse_model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from zse_model.evaluation import Evaluation, Ranking, Task, evaluate_scores, rank
    from zse_model.explanation.base import Explanation
    from zse_model.fit import LocalContext, TrainConfig
    from zse_model.methods import METHODS, Encoding, RetrievalMethod, TrainBatch, create_method
    from zse_model.retrieval import encode, explain, search
    from zse_model.split import ZeroShotSplit
    from zse_model.transforms import BadPicture, TransformConfig, prepare_photo, prepare_sketch

_HOME = {
    "backbones": ("BackboneConfig",),
    "checkpoint": ("Checkpoint", "load_checkpoint", "save_checkpoint"),
    "evaluation": ("Evaluation", "Ranking", "Task", "evaluate_scores", "rank"),
    "explanation.base": ("Explanation",),
    "fit": ("LocalContext", "TrainConfig"),
    "methods": ("METHODS", "Encoding", "RetrievalMethod", "TrainBatch", "create_method"),
    "retrieval": ("encode", "explain", "search"),
    "split": ("ZeroShotSplit",),
    "transforms": ("BadPicture", "TransformConfig", "prepare_photo", "prepare_sketch"),
}

__all__ = [
    "METHODS",
    "BackboneConfig",
    "BadPicture",
    "Checkpoint",
    "Encoding",
    "Evaluation",
    "Explanation",
    "LocalContext",
    "Ranking",
    "RetrievalMethod",
    "Task",
    "TrainBatch",
    "TrainConfig",
    "TransformConfig",
    "ZeroShotSplit",
    "create_method",
    "encode",
    "evaluate_scores",
    "explain",
    "load_checkpoint",
    "prepare_photo",
    "prepare_sketch",
    "rank",
    "save_checkpoint",
    "search",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
