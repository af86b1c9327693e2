"""Zero-shot sketch-based image retrieval: tensors in, tensors out.

Load a checkpoint, encode, score, evaluate, or train on your own batches. Needs torch, torchvision, timm, safetensors and
Pillow; no cluster, no tracking, no storage.
"""

from zse_model.backbones import BackboneConfig
from zse_model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from zse_model.evaluation import Evaluation, Ranking, Task, evaluate_scores, rank
from zse_model.fit import LocalContext, TrainConfig, fit
from zse_model.methods import METHODS, Encoding, RetrievalMethod, TrainBatch, create_method
from zse_model.split import ZeroShotSplit
from zse_model.transforms import BadPicture, TransformConfig, prepare_photo, prepare_sketch

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
    "fit",
    "load_checkpoint",
    "prepare_photo",
    "prepare_sketch",
    "rank",
    "save_checkpoint",
]
