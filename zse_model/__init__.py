"""Zero-shot sketch-based image retrieval: tensors in, tensors out.

Load a checkpoint, encode, score, evaluate, or train on your own batches. Needs torch, torchvision, timm, safetensors,
Pillow; no cluster, no tracking, no storage.

Names are imported when they are first used: a process that only prepares pictures never pays for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zse_model.backbones import BackboneConfig
    from zse_model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from zse_model.evaluation import Evaluation, Ranking, Task, evaluate_scores, rank
    from zse_model.fit import LocalContext, TrainConfig
    from zse_model.methods import METHODS, Encoding, RetrievalMethod, TrainBatch, create_method
    from zse_model.split import ZeroShotSplit
    from zse_model.transforms import BadPicture, TransformConfig, prepare_photo, prepare_sketch

_HOME = {
    "backbones": ("BackboneConfig",),
    "checkpoint": ("Checkpoint", "load_checkpoint", "save_checkpoint"),
    "evaluation": ("Evaluation", "Ranking", "Task", "evaluate_scores", "rank"),
    "fit": ("LocalContext", "TrainConfig"),
    "methods": ("METHODS", "Encoding", "RetrievalMethod", "TrainBatch", "create_method"),
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
    "LocalContext",
    "Ranking",
    "RetrievalMethod",
    "Task",
    "TrainBatch",
    "TrainConfig",
    "TransformConfig",
    "ZeroShotSplit",
    "create_method",
    "evaluate_scores",
    "load_checkpoint",
    "prepare_photo",
    "prepare_sketch",
    "rank",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
