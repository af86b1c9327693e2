"""fused takes from each mode what pseudo-unseen classes gain by it."""

import pytest
import torch

from zse_model.backbones import BackboneConfig
from zse_model.methods import LateInteraction, LateInteractionConfig, ZseSbirConfig
from zse_model.methods.fusion import Fusing
from zse_model.methods.zse_sbir import ZseSbir


@pytest.fixture(params=["rn", "late", "late of zse_sbir"])
def case(request: pytest.FixtureRequest) -> tuple[Fusing, str]:
    """A network and a mode of it that `fused` declares."""
    backbone = BackboneConfig(name="test_resnet")
    if request.param == "late":
        return LateInteraction(LateInteractionConfig(dim=16), backbone, size=32, classes=2).eval(), "fused"
    late = float(request.param != "rn")
    method = ZseSbir(ZseSbirConfig(dim=16, heads=2, ffn=16, late=late), backbone, size=32, classes=2).eval()
    return method, "fused-late" if late else "fused"


def weights(method: Fusing, mode: str) -> torch.Tensor:
    return getattr(method, {"fused": "fusion", "fused-late": "fusion_late"}[mode])


def test_the_weight_is_the_best_of_those_tried(case: tuple[Fusing, str]) -> None:
    """Signal in both, noise in both: the best mixture is between, and shares are of standard deviations."""
    method, mode = case
    generator = torch.manual_seed(0)
    truth = torch.randn(50, 60, generator=generator)
    ret = (truth + torch.randn(50, 60, generator=generator)) * 0.01
    other = (truth + torch.randn(50, 60, generator=generator)) * 40 + 7
    nothing = torch.randn(50, 60, generator=generator)

    def correlation(scores: torch.Tensor) -> float:
        return float(torch.corrcoef(torch.stack([scores.flatten(), truth.flatten()]))[0, 1])

    combined = {m.name: m.combined for m in method.MODES if m.combined}
    second = (combined[mode] or ())[1]
    before = method.modes
    assert not any(name in before for name in combined)
    method.calibrate(lambda asked: {"ret": ret, second: other}.get(asked, nothing), correlation)
    assert set(method.modes) - set(before) == ({"fused", "fused-late"} if mode == "fused-late" else {"fused"})
    shares = weights(method, mode) * torch.stack([ret.std(), other.std()])
    assert abs(float(shares.sum()) - 1) < 1e-5 and 0.4 < float(shares[0]) < 0.6
    assert correlation(method.fuse(mode, ret, other)) > max(correlation(ret), correlation(other)) + 0.05
    if mode == "fused-late":  # each mode has its own weights: rn was nothing but noise
        assert float(weights(method, "fused")[1]) < 0.1 / float(nothing.std())


def test_without_it_the_mode_is_refused_and_says_why(case: tuple[Fusing, str]) -> None:
    method, mode = case
    with pytest.raises(ValueError, match=rf"(?s)no weights for mode {mode}.*pseudo-unseen"):
        method.scorer(mode)


@pytest.mark.parametrize("share", [0, 1])
def test_a_mode_of_no_weight_leaves_what_is_not_ranked_unranked(case: tuple[Fusing, str], share: int) -> None:
    method, mode = case
    weights(method, mode).copy_(torch.eye(2)[share])
    ret, other = torch.randn(3, 4), torch.randn(3, 4).masked_fill(torch.eye(3, 4) > 0, -torch.inf)
    fused = method.fuse(mode, ret, other)
    assert torch.equal(fused.isneginf(), other.isneginf()) and not fused.isnan().any()
    assert torch.equal(fused[~other.isneginf()], (ret, other)[share][~other.isneginf()])


def test_a_single_pair_has_no_deviation_and_is_calibrated(case: tuple[Fusing, str]) -> None:
    method, mode = case
    method.calibrate(lambda _: torch.ones(1, 1), lambda scores: float(scores.sum()))
    assert weights(method, mode).isfinite().all() and weights(method, mode).any()
