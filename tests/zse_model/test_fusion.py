"""fused takes from each mode what pseudo-unseen classes gain by it."""

import pytest
import torch

from zse_model.backbones import BackboneConfig
from zse_model.methods import LateInteraction, LateInteractionConfig, ZseSbirConfig
from zse_model.methods.fusion import Fusing
from zse_model.methods.zse_sbir import ZseSbir


@pytest.fixture(params=["rn", "late"])
def method(request: pytest.FixtureRequest) -> Fusing:
    backbone = BackboneConfig(name="test_resnet")
    if request.param == "late":
        return LateInteraction(LateInteractionConfig(dim=16), backbone, size=32, classes=2).eval()
    return ZseSbir(ZseSbirConfig(dim=16, heads=2, ffn=16), backbone, size=32, classes=2).eval()


def test_the_weight_is_the_best_of_those_tried(method: Fusing) -> None:
    """Signal in both, noise in both: the best mixture is between, and shares are of standard deviations."""
    generator = torch.manual_seed(0)
    truth = torch.randn(50, 60, generator=generator)
    ret = (truth + torch.randn(50, 60, generator=generator)) * 0.01
    rn = (truth + torch.randn(50, 60, generator=generator)) * 40 + 7

    def correlation(scores: torch.Tensor) -> float:
        return float(torch.corrcoef(torch.stack([scores.flatten(), truth.flatten()]))[0, 1])

    assert method.modes == method.combined
    method.calibrate(lambda mode: dict(zip(method.combined, (ret, rn), strict=True))[mode], correlation)
    assert method.modes == (*method.combined, "fused")
    shares = method.fusion * torch.stack([ret.std(), rn.std()])
    assert abs(float(shares.sum()) - 1) < 1e-5 and 0.4 < float(shares[0]) < 0.6
    assert correlation(method.fuse(ret, rn)) > max(correlation(ret), correlation(rn)) + 0.05


def test_without_it_fused_is_refused_and_says_why(method: Fusing) -> None:
    with pytest.raises(ValueError, match=r"(?s)no weights for mode fused.*pseudo-unseen"):
        method.scorer("fused")


@pytest.mark.parametrize("share", [0, 1])
def test_a_mode_of_no_weight_leaves_what_is_not_ranked_unranked(method: Fusing, share: int) -> None:
    method.fusion.copy_(torch.eye(2)[share])
    ret, rn = torch.randn(3, 4), torch.randn(3, 4).masked_fill(torch.eye(3, 4) > 0, -torch.inf)
    fused = method.fuse(ret, rn)
    assert torch.equal(fused.isneginf(), rn.isneginf()) and not fused.isnan().any()
    assert torch.equal(fused[~rn.isneginf()], (ret, rn)[share][~rn.isneginf()])


def test_a_single_pair_has_no_deviation_and_is_calibrated(method: Fusing) -> None:
    method.calibrate(lambda _: torch.ones(1, 1), lambda scores: float(scores.sum()))
    assert method.fusion.isfinite().all() and method.fusion.any()
