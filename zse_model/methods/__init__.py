"""The methods, one file each. A new method is its file, a line here, and an experiment that names it."""

from __future__ import annotations

from typing import Any

from zse_model.backbones import BackboneConfig
from zse_model.errors import ZseError
from zse_model.methods.base import Encoding, Modality, RetrievalMethod, TrainBatch
from zse_model.methods.crossatnet import CrossATNet, CrossATNetConfig
from zse_model.methods.global_embedding import GlobalConfig, GlobalEmbedding
from zse_model.methods.late_interaction import LateInteraction, LateInteractionConfig
from zse_model.methods.zse_sbir import ZseSbir, ZseSbirConfig
from zse_model.modes import undiffused

METHODS: dict[str, type[RetrievalMethod]] = {
    "global": GlobalEmbedding,
    "crossatnet": CrossATNet,
    "zse_sbir": ZseSbir,
    "late_interaction": LateInteraction,
}


def known_modes() -> dict[str, list[str]]:
    """The name of each declared retrieval mode -> the methods that declare it, sorted."""
    names = dict.fromkeys(mode.name for method in METHODS.values() for mode in method.MODES)
    return {
        name: sorted(method for method, kind in METHODS.items() if name in [mode.name for mode in kind.MODES])
        for name in names
    }


def is_known_mode(asked: str) -> bool:
    """Whether a method declares the mode `asked`, such as `hash-64`, or the one of `hash-64-diffused-500`."""
    base, depth = undiffused(asked)
    declared = [mode for method in METHODS.values() for mode in method.MODES if mode.number(base) is not None]
    return any(not (depth and mode.shortlist) for mode in declared)


def create_method(
    name: str, config: Any, backbone: BackboneConfig, *, size: int, classes: int, load_weights: bool = True
) -> RetrievalMethod:
    """Build a method for pictures of `size` px and `classes` training classes.

    `load_weights=False` does not load the backbone's pretrained weights, for a checkpoint that has all weights.
    Raises ZseError for an unknown name, and for a configuration of another method or that the backbone does not allow.
    """
    if name not in METHODS:
        raise ZseError(f"Unknown method {name!r}. Known methods: {sorted(METHODS)}")
    method = METHODS[name]
    if not isinstance(config, method.Config):
        raise ZseError(f"Method {name!r} is configured by {method.Config.__name__}, got {type(config).__name__}")
    return method(config, backbone, size=size, classes=classes, load_weights=load_weights)


__all__ = [
    "METHODS",
    "CrossATNet",
    "CrossATNetConfig",
    "Encoding",
    "GlobalConfig",
    "GlobalEmbedding",
    "LateInteraction",
    "LateInteractionConfig",
    "Modality",
    "RetrievalMethod",
    "TrainBatch",
    "ZseSbir",
    "ZseSbirConfig",
    "create_method",
    "is_known_mode",
    "known_modes",
]
