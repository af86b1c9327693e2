"""`fused`: the weighted sum of two modes of a method, with weights chosen on pseudo-unseen classes (our design)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zse_model.methods.base import RetrievalMethod
from zse_model.modes import Mode
from zse_model.scoring import weighted

FUSION_STEPS = 21  # shares of the second mode that are tried, 0 to 1


def fused(first: str, second: str, *, needs: str, explanation: str, places: bool = False) -> Mode:
    """The mode `fused` of a `Fusing` method. needs: what its training must have, for the error of a checkpoint without
    weights."""
    return Mode(
        name="fused",
        score=f"Weighted sum of {first} and {second}; the weights were chosen on pseudo-unseen classes.",
        explanation=explanation,
        pair_network=True,
        places=places,
        ready=lambda method: method.calibrated,
        lacking="This checkpoint has no weights for mode fused. A training with pseudo-unseen classes chooses them at "
        f"its end ({needs}).",
        combined=(first, second),
        combine=lambda method, *scores: method.fuse(*scores),
    )


class Fusing(RetrievalMethod):
    """A method that declares the mode `fused`."""

    fusion: Tensor
    """[2], the weight of each in `fused`; 0 until calibrated."""

    @property
    def combined(self) -> tuple[str, str]:
        """The modes that `fused` combines."""
        return next(mode.combined for mode in self.MODES if mode.combined)

    @property
    def fusible(self) -> bool:
        """Whether this network has both modes."""
        return True

    @property
    def calibrated(self) -> bool:
        """Whether `fused` has its weights; a network on the meta device has no values, so it is not."""
        return self.fusible and not self.fusion.is_meta and bool(self.fusion.any())

    def fuse(self, first: Tensor, second: Tensor) -> Tensor:
        """Scores of the two modes, float32 [q, g] -> those of `fused`; -inf where a mode has not ranked."""
        return weighted(first, second, self.fusion.to(first.device))

    def calibrate(self, scores: Callable[[str], Tensor], value: Callable[[Tensor], float]) -> None:
        """Choose the weights of `fused`: shares of each score in units of its standard deviation."""
        if not self.fusible:
            return
        first, second = (scores(mode) for mode in self.combined)
        # A single score has no deviation.
        spreads = torch.stack([s.std() if s.numel() > 1 else s.new_ones(()) for s in (first, second)]).clamp(min=1e-6)
        candidates = [torch.tensor([1 - w, w]) / spreads for w in torch.linspace(0, 1, FUSION_STEPS).tolist()]
        self.fusion.copy_(max(candidates, key=lambda c: value(weighted(first, second, c))))
