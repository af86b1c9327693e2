"""Explain a pair of pictures by any method that declares how."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from zse_model.errors import ZseError
from zse_model.explanation.base import Explainer, Explanation, UnexplainableError
from zse_model.methods import METHODS, RetrievalMethod
from zse_model.transforms import BadPicture


def explainer(method: RetrievalMethod, mode: str | None = None) -> Explainer:
    """How the score of a mode is explained: by the explainer of the mode, or of a mode that it combines, else by the
    method's first. Raises UnexplainableError for a method that cannot be explained."""
    ready = [one for one in method.EXPLAINERS if one.ready(method)]
    if not ready:
        names = {known: name for name, known in METHODS.items()}
        can = [f"{n} {one.condition}".rstrip() for n, m in METHODS.items() for one in m.EXPLAINERS[:1]]
        raise UnexplainableError(
            f"Method {names.get(type(method), type(method).__name__)!r} cannot be explained. Methods "
            f"that can be: {', '.join(can)}"
        )
    parts = () if mode is None else (mode, *(method.mode(mode).combined or ()))
    return next((one for one in ready if one.mode in parts), ready[0])


def mode_of_explanation(method: RetrievalMethod, among: Collection[str] | None = None) -> str | None:
    """The first mode that an explanation is about, of `among` or of all; None if there is none or the method cannot be
    explained."""
    about = (one.mode for one in method.EXPLAINERS if one.ready(method))
    return next((mode for mode in about if method.has(mode) and (among is None or mode in among)), None)


def explained_mode(method: RetrievalMethod) -> str:
    """The mode that is explained if none is given. Raises UnexplainableError for a method that cannot be explained."""
    explainer(method)
    return mode_of_explanation(method) or method.modes[0]


@torch.no_grad()
def explain_pair(method: RetrievalMethod, sketch: Tensor, photo: Tensor, mode: str | None = None) -> Explanation:
    """Explain what a method sees in a sketch and a photo: `PatchExplanation` of zse_sbir, `MaskExplanation` of
    crossatnet, `MatchExplanation` of late_interaction and of the modes `late` and `fused-late` of zse_sbir.

    method: in eval mode. sketch: uint8 [1 or 3, s, s], 255 paper; photo: uint8 [3, s, s]; s as the method was built
    for, both as `prepare_sketch` and `prepare_photo` make them. mode: None = `explained_mode`; of `rerank-K` the mode
    that ranks is explained.

    Raises UnexplainableError for a method that cannot be explained, BadPicture for an empty canvas, ZseError for
    another shape, an unknown mode or a method in training mode.
    """
    explainer(method)  # raises for a method that cannot be explained
    if method.training:
        raise ZseError("The method is in training mode, where dropout makes scores random: call method.eval() first")
    mode = method.ranked_by(mode or explained_mode(method))
    _check(sketch, "sketch", (1, 3), method.size)
    _check(photo, "photo", (3,), method.size)
    if sketch.min() == sketch.max():
        raise BadPicture("blank: no ink")
    return explainer(method, mode).explain(method, sketch, photo, mode)


def _check(picture: Tensor, what: str, channels: tuple[int, ...], size: int) -> None:
    fits = picture.dim() == 3 and picture.shape[0] in channels and picture.shape[1:] == (size, size)
    if picture.dtype != torch.uint8 or not fits:
        allowed = " or ".join(map(str, channels))
        raise ZseError(
            f"The {what} must be uint8 [{allowed}, {size}, {size}], got {picture.dtype} {list(picture.shape)}"
        )
