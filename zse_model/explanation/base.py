"""What every explanation of a pair has, and how a method declares its explanations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from zse_model.errors import ZseError

if TYPE_CHECKING:  # methods import this module
    from zse_model.methods.base import RetrievalMethod
    from zse_model.scoring import Encoding


class UnexplainableError(ZseError):
    """The method has nothing to show of a pair."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Explanation:
    """What an explanation of any method has."""

    mode: str
    """The retrieval mode that is explained."""
    about: str
    """How the tensors relate to this mode's score, as its method declares it."""
    scores: Mapping[str, float]
    """By every mode of the method, as `method.score` gives it."""
    grid: tuple[int, int]
    """Rows and columns of patches or places, the same on both pictures."""

    @property
    def score(self) -> float:
        return self.scores[self.mode]


@dataclass(frozen=True, kw_only=True)
class Explainer:
    """How a method is explained. A method declares it in `EXPLAINERS`; the functions take the method first."""

    mode: str
    """The mode whose score the explanation is about. Without it, a method's first mode is explained."""
    explain: Callable[[Any, Tensor, Tensor, str], Explanation]
    """(method, sketch, photo, mode) -> the explanation of one pair. The method is in eval mode, the pictures and the
    mode are checked: uint8 [1 or 3, s, s] with ink, and uint8 [3, s, s]; gradients are off."""
    ready: Callable[[Any], bool] = lambda method: True
    """Whether a method with this configuration can be explained."""
    patches: bool = False
    """Whether places of the sketch can be followed (`zse explain --patch`)."""
    condition: str = ""
    """What `ready` needs, for errors: "with attention"."""


def scored(method: RetrievalMethod, query: Encoding, photo: Encoding, mode: str) -> dict[str, Any]:
    """The fields of `Explanation` for a pair. query, photo: encodings of one picture each."""
    return {
        "mode": mode,
        "about": method.mode(mode).explanation,
        "scores": {name: float(method.score(query, photo, name)) for name in method.modes},
        "grid": method.backbone.grid,
    }
