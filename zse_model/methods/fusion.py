"""`fused`: the weighted sum of two modes of a method, with weights chosen on pseudo-unseen classes (our design)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zse_model.methods.base import RetrievalMethod
from zse_model.modes import Mode
from zse_model.scoring import weighted

FUSION_STEPS = 21  # shares of the second mode that are tried, 0 to 1


def fused(first: str, second: str, *, needs: str, explanation: str, places: bool = False, name: str = "fused") -> Mode:
    """A mode of a `Fusing` method that combines two of its modes. needs: what its training must have, for the error of
    a checkpoint without weights."""
    return Mode(
        name=name,
        score=f"Weighted sum of {first} and {second}; the weights were chosen on pseudo-unseen classes.",
        explanation=explanation,
        pair_network=True,
        places=places,
        ready=lambda method: method.calibrated(name),
        lacking=f"This checkpoint has no weights for mode {name}. A training with pseudo-unseen classes chooses them "
        f"at its end ({needs}).",
        combined=(first, second),
        combine=lambda method, *scores: method.fuse(name, *scores),
    )


def buffer_of(mode: str) -> str:
    """The buffer with the weights of a mode that `fused` declares, float32 [2]: of `fused` it is "fusion"."""
    return mode.replace("fused", "fusion").replace("-", "_")


class Fusing(RetrievalMethod):
    """A method that declares modes by `fused`. It registers the `buffer_of` each that it may have, of zeros."""

    def calibrated(self, mode: str) -> bool:
        """Whether a mode has its weights; a network on the meta device has no values, so it has none."""
        weights = getattr(self, buffer_of(mode), None)
        return weights is not None and not weights.is_meta and bool(weights.any())

    def fuse(self, mode: str, first: Tensor, second: Tensor) -> Tensor:
        """Scores of the two modes, float32 [q, g] -> those of the mode; -inf where one of them has not ranked."""
        return weighted(first, second, getattr(self, buffer_of(mode)).to(first.device))

    def calibrate(self, scores: Callable[[str], Tensor], value: Callable[[Tensor], float]) -> None:
        """Choose the weights of each mode whose two modes this network has: shares of each score in units of its
        standard deviation."""
        declared = {mode.name: mode for mode in self.MODES}
        for mode in self.MODES:
            if mode.combined and all(declared[part].ready(self) for part in mode.combined):
                self._calibrate(mode, scores, value)

    def _calibrate(self, mode: Mode, scores: Callable[[str], Tensor], value: Callable[[Tensor], float]) -> None:
        first, second = (scores(part) for part in mode.combined or ())
        # A single score has no deviation.
        spreads = torch.stack([s.std() if s.numel() > 1 else s.new_ones(()) for s in (first, second)]).clamp(min=1e-6)
        candidates = [torch.tensor([1 - w, w]) / spreads for w in torch.linspace(0, 1, FUSION_STEPS).tolist()]
        best = max(candidates, key=lambda c: value(weighted(first, second, c)))
        getattr(self, buffer_of(mode.name)).copy_(best)
