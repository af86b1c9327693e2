"""What a backbone keeps while it is trained, and what it computes: pixels, tokens, attention, against loops by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from tests.helpers.batches import CLASSES, SIZE, Pictures
from zse_model.backbones import Backbone, BackboneConfig, class_attention
from zse_model.errors import ZseError
from zse_model.fit import LocalContext, TrainConfig, fit
from zse_model.methods import GlobalConfig, create_method

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of weights by the name of the network, with statistics and biases that are not those of a new one."""
    files = {}
    for name in ("test_resnet", "test_vit"):
        torch.manual_seed(1)
        state = timm.create_model(name).state_dict()
        drawn = {n: torch.randn_like(v) / 4 for n, v in state.items() if n.endswith(("bias", "running_mean"))}
        drawn |= {n: torch.rand_like(v) + 0.5 for n, v in state.items() if n.endswith("running_var")}
        files[name] = str(tmp_path_factory.mktemp("weights") / f"{name}.safetensors")
        save_file(state | drawn, files[name])
    return files


def of(name: str, weights: dict[str, str], frozen: int) -> BackboneConfig:
    return BackboneConfig(name=name, weights=weights[name], frozen=frozen)


def batch_norms(module: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {name: m for name, m in module.named_modules() if isinstance(m, nn.BatchNorm2d)}


# Freezing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "frozen", "kept"),
    [
        ("test_resnet", 0, ()),
        ("test_resnet", 1, ("conv1.", "bn1.")),
        ("test_resnet", 3, ("conv1.", "bn1.", "layer1.", "layer2.")),
        ("test_vit", 1, ("cls_token", "pos_embed", "patch_embed.")),
        ("test_vit", 2, ("cls_token", "pos_embed", "patch_embed.", "blocks.0.")),
    ],
)
def test_the_first_groups_are_frozen_and_all_others_learn(
    name: str, frozen: int, kept: tuple[str, ...], weights: dict[str, str]
) -> None:
    model = Backbone(of(name, weights, frozen), size=SIZE, pooled=True).model
    fixed = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert fixed == {n for n, _ in model.named_parameters() if kept and n.startswith(kept)}
    assert bool(fixed) == bool(frozen)


def test_a_backbone_is_not_frozen_whole(weights: dict[str, str]) -> None:
    with pytest.raises(ZseError, match=r"backbone.frozen must be 0..4 for this backbone, got 5"):
        Backbone(of("test_resnet", weights, 5), size=SIZE, pooled=True)


def test_a_training_moves_no_frozen_weight_and_no_statistics_of_a_frozen_batch_norm(weights: dict[str, str]) -> None:
    method = create_method("global", GlobalConfig(dim=8), of("test_resnet", weights, 2), size=SIZE, classes=CLASSES)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    settings = TrainConfig(steps=2, warmup=0, lr=1e-2, weight_decay=0.5, checks=2, batch_size=2)
    checks = {"validate": lambda _: {"selection/mAP_all": 0.5}}  # in eval mode, between the steps
    fit(method, Pictures(2), LocalContext(device=torch.device("cpu")), settings, prepare_steps=1, **checks)  # type: ignore[arg-type]
    moved = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    frozen = tuple(f"backbone.model.{part}" for part in ("conv1.", "bn1.", "layer1."))
    assert moved == {name for name in before if not name.startswith((*frozen, "confidence"))}
    assert {name.rpartition(".")[2] for name in moved} >= set(STATISTICS), "others learn theirs"


def test_in_training_a_frozen_batch_norm_normalises_by_what_it_keeps(weights: dict[str, str]) -> None:
    backbone = Backbone(of("test_resnet", weights, 1), size=SIZE, pooled=True)
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    norms = batch_norms(backbone.model)
    assert backbone.train() is backbone and backbone.training
    for name in ("bn1", "layer1.0.bn1"):
        norms[name].register_forward_hook(
            lambda _m, x, out, name=name: seen.__setitem__(name, (x[0].clone(), out.clone()))
        )
    backbone(Pictures(5).batch(0, 0, 1).photo)

    def normalised(name: str, mean: np.ndarray, var: np.ndarray) -> np.ndarray:
        x, norm = seen[name][0].detach().double().numpy(), norms[name]
        weight, bias = (value.detach().double().numpy() for value in (norm.weight, norm.bias))
        out = np.empty_like(x)
        for c in range(x.shape[1]):
            out[:, c] = (x[:, c] - mean[c]) / math.sqrt(var[c] + norm.eps) * weight[c] + bias[c]
        return out

    kept = norms["bn1"]
    expected = normalised("bn1", kept.running_mean.double().numpy(), kept.running_var.double().numpy())  # type: ignore[union-attr]
    np.testing.assert_allclose(seen["bn1"][1].detach().numpy(), expected, atol=1e-4)
    x = seen["layer1.0.bn1"][0].detach().double().numpy()
    learns = normalised("layer1.0.bn1", x.mean((0, 2, 3)), x.var((0, 2, 3)))
    np.testing.assert_allclose(seen["layer1.0.bn1"][1].detach().numpy(), learns, atol=1e-4)


def test_switching_between_training_and_evaluation_leaves_frozen_norms_as_they_are(weights: dict[str, str]) -> None:
    backbone = Backbone(of("test_resnet", weights, 2), size=SIZE, pooled=True)
    for training in (True, False, True):
        backbone.train(training)
        modes = {name: norm.training for name, norm in batch_norms(backbone.model).items()}
        frozen = {name for name in modes if name.startswith(("conv1.", "bn1", "layer1."))}
        assert frozen and modes == {name: training and name not in frozen for name in modes}
        assert backbone.training == training


# Pixels and tokens --------------------------------------------------------------------------------------------------


def test_each_channel_is_normalised_by_its_own_mean_and_deviation() -> None:
    config = BackboneConfig(name="test_resnet", mean=(0.1, 0.5, 0.9), std=(0.2, 0.25, 0.5))
    backbone = Backbone(config, size=SIZE, pooled=True)
    colour = torch.tensor([51, 102, 204], dtype=torch.uint8).view(1, 3, 1, 1)
    found = backbone.normalise(colour.expand(2, 3, SIZE, SIZE))
    for channel, value in enumerate((0.5, -0.4, -0.2)):
        torch.testing.assert_close(found[:, channel], torch.full((2, SIZE, SIZE), value))
    sketch = backbone.normalise(colour[:, :1].expand(1, 1, SIZE, SIZE))[0, :, 0, 0]
    torch.testing.assert_close(sketch, torch.tensor([0.5, -1.2, -1.4]))
    given = torch.rand(1, 3, SIZE, SIZE)
    assert backbone.normalise(given) is given, "floating input is taken as normalised"


def test_tokens_are_the_fine_map_beside_the_coarse_one_between_its_places() -> None:
    """Maps of 2 x 4 and 1 x 2; a place of the fine map lies a quarter or three quarters of the way."""
    backbone = Backbone(BackboneConfig(name="test_resnet"), size=SIZE, tokens=True)
    fine = torch.tensor([[[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]]])
    coarse = torch.tensor([[[[10.0, 20.0]], [[-4.0, 4.0]]]])
    rows = [[10, -4], [12.5, -2], [17.5, 2], [20, 4]]
    expected = [[i + 1.0, *rows[i % 4]] for i in range(8)]
    assert backbone._join([fine, coarse]).tolist() == [expected]
    assert backbone._grid == (2, 4)


def test_tokens_of_a_convolutional_network_are_its_maps_of_stride_16_and_32() -> None:
    backbone = Backbone(BackboneConfig(name="test_resnet"), size=96, tokens=True, pooled=True).eval()
    pictures = Pictures(2, size=96).batch(0, 0, 1).photo
    with torch.no_grad():
        found = backbone(pictures)
        x = backbone.model.maxpool(
            backbone.model.act1(backbone.model.bn1(backbone.model.conv1(backbone.normalise(pictures))))
        )
        fine = backbone.model.layer3(backbone.model.layer2(backbone.model.layer1(x)))
        coarse = backbone.model.layer4(fine)
    assert fine.shape[2:] == (6, 6) and coarse.shape[2:] == (3, 3) and backbone.grid == (6, 6)
    torch.testing.assert_close(found.pooled, coarse.mean((2, 3)))
    torch.testing.assert_close(found.tokens[:, 6 * 2 + 5, : fine.shape[1]], fine[:, :, 2, 5])
    # Row 2 of the fine map lies at 0.75 of the coarse one, column 5 at 2.25, beyond the last.
    between = 0.25 * coarse[:, :, 0, 2] + 0.75 * coarse[:, :, 1, 2]
    torch.testing.assert_close(found.tokens[:, 6 * 2 + 5, fine.shape[1] :], between)


def test_the_kept_classifier_gives_the_logits_of_the_whole_network(weights: dict[str, str]) -> None:
    backbone = Backbone(of("test_resnet", weights, 0), size=SIZE, classifier=True).eval()
    whole = timm.create_model("test_resnet", checkpoint_path=weights["test_resnet"]).eval()
    pictures = Pictures(3).batch(0, 0, 1).photo
    with torch.no_grad():
        assert backbone.classifier is not None
        logits = backbone.classifier(backbone(pictures).pooled)
        torch.testing.assert_close(logits, whole(backbone.normalise(pictures)), atol=1e-4, rtol=1e-4)


def test_the_class_token_attends_by_the_softmax_of_scaled_products(weights: dict[str, str]) -> None:
    backbone = Backbone(of("test_vit", weights, 0), size=SIZE, tokens=True).eval()
    attention: Any = backbone.model.blocks[0].attn
    d, heads = attention.qkv.in_features, attention.num_heads
    weight, bias = (p.detach().double().numpy() for p in (attention.qkv.weight, attention.qkv.bias))
    assert heads > 1 and np.abs(bias[: 2 * d]).min() > 0
    x = torch.randn(2, 5, d, generator=torch.Generator().manual_seed(0))
    expected, width = np.zeros((2, heads, 5)), d // heads
    for b, h in np.ndindex(2, heads):
        part = slice(h * width, (h + 1) * width)
        query = (weight[:d] @ x[b, 0].numpy() + bias[:d])[part]
        for n in range(5):
            key = (weight[d : 2 * d] @ x[b, n].numpy() + bias[d : 2 * d])[part]
            expected[b, h, n] = math.exp(query @ key / math.sqrt(width))
        expected[b, h] /= expected[b, h].sum()
    with torch.no_grad():
        np.testing.assert_allclose(class_attention(attention, x).numpy(), expected, rtol=1e-4)
    assert expected.std(2).min() > 1e-3, "not even"


def test_the_configured_epsilon_is_that_of_every_layer_norm() -> None:
    backbone = Backbone(BackboneConfig(name="test_vit", norm_eps=1e-3), size=SIZE, tokens=True)
    epsilons = [m.eps for m in backbone.modules() if isinstance(m, nn.LayerNorm)]
    assert len(epsilons) > 2 and set(epsilons) == {1e-3}
