"""Explain a pair of pictures by any method that declares how."""

from __future__ import annotations

import torch
from torch import Tensor

from zse_model.errors import ZseError
from zse_model.explanation.base import Explainer, Explanation, UnexplainableError
from zse_model.methods import METHODS, RetrievalMethod
from zse_model.transforms import BadPicture


def explainer(method: RetrievalMethod) -> Explainer:
    """How a method is explained. Raises UnexplainableError for a method that cannot be."""
    if method.EXPLAINER is not None and method.EXPLAINER.ready(method):
        return method.EXPLAINER
    names = {known: name for name, known in METHODS.items()}
    can = [f"{n} {m.EXPLAINER.condition}".rstrip() for n, m in METHODS.items() if m.EXPLAINER is not None]
    raise UnexplainableError(
        f"Method {names.get(type(method), type(method).__name__)!r} cannot be explained. Methods "
        f"that can be: {', '.join(can)}"
    )


def mode_of_explanation(method: RetrievalMethod) -> str | None:
    """The mode whose score an explanation is about; None if the method has no such mode or cannot be explained."""
    declared = method.EXPLAINER
    return declared.mode if declared and declared.ready(method) and method.has(declared.mode) else None


def explained_mode(method: RetrievalMethod) -> str:
    """The mode that is explained if none is given. Raises UnexplainableError for a method that cannot be explained."""
    explainer(method)
    return mode_of_explanation(method) or method.modes[0]


@torch.no_grad()
def explain_pair(method: RetrievalMethod, sketch: Tensor, photo: Tensor, mode: str | None = None) -> Explanation:
    """Explain what a method sees in a sketch and a photo: `PatchExplanation` of zse_sbir, `MaskExplanation` of
    crossatnet, `MatchExplanation` of late_interaction.

    method: in eval mode. sketch: uint8 [1 or 3, s, s], 255 paper; photo: uint8 [3, s, s]; s as the method was built
    for, both as `prepare_sketch` and `prepare_photo` make them. mode: None = `explained_mode`; of `rerank-K` the mode
    that ranks is explained.

    Raises UnexplainableError for a method that cannot be explained, BadPicture for an empty canvas, ZseError for
    another shape, an unknown mode or a method in training mode.
    """
    found = explainer(method)
    if method.training:
        raise ZseError("The method is in training mode, where dropout makes scores random: call method.eval() first")
    mode = method.ranked_by(mode or explained_mode(method))
    _check(sketch, "sketch", (1, 3), method.size)
    _check(photo, "photo", (3,), method.size)
    if sketch.min() == sketch.max():
        raise BadPicture("blank: no ink")
    return found.explain(method, sketch, photo, mode)


def _check(picture: Tensor, what: str, channels: tuple[int, ...], size: int) -> None:
    fits = picture.dim() == 3 and picture.shape[0] in channels and picture.shape[1:] == (size, size)
    if picture.dtype != torch.uint8 or not fits:
        allowed = " or ".join(map(str, channels))
        raise ZseError(
            f"The {what} must be uint8 [{allowed}, {size}, {size}], got {picture.dtype} {list(picture.shape)}"
        )
