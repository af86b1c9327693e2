"""What a training changes of a pretrained backbone, for every family that is shipped or named in the docs."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.zse_model.test_methods import batch, pictures
from zse_model.backbones import Backbone, BackboneConfig
from zse_model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, seen_keys, start_from
from zse_model.errors import ZseError
from zse_model.methods import (
    CrossATNetConfig,
    GlobalConfig,
    LateInteractionConfig,
    RetrievalMethod,
    ZseSbirConfig,
    create_method,
)
from zse_model.split import ZeroShotSplit
from zse_model.transforms import TransformConfig
from zse_model.tuning import LoraConfig, merged

SMALL: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 3}
FAMILIES: dict[str, tuple[str, dict[str, Any], int]] = {
    "DINOv2": ("vit_base_patch14_reg4_dinov2", SMALL, 56),
    "DINOv3": ("vit_base_patch16_dinov3", SMALL, 64),
    "DINOv3, bias": ("vit_base_patch16_dinov3_qkvb", SMALL, 64),
    "CLIP": ("vit_base_patch16_clip_quickgelu_224", SMALL, 64),
    "SigLIP 2": ("vit_base_patch16_siglip_224", SMALL, 64),
    "PE": ("vit_pe_core_base_patch16_224", SMALL, 64),
    "EVA-02": ("eva02_base_patch14_224", SMALL, 56),
}
"""timm's name, arguments that make it small, a picture size."""
SPLIT = ZeroShotSplit(name="s", citation="c", seen=("a", "b", "c", "d"), unseen=("e",))


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Family -> a file of random weights for it: what is not trained must come from somewhere."""
    folder, files = tmp_path_factory.mktemp("weights"), {}

    def of(family: str) -> str:
        if family not in files:
            name, args, size = FAMILIES[family]
            torch.manual_seed(3)
            state = timm.create_model(name, num_classes=0, img_size=size, **args).state_dict()
            for key, value in state.items():  # norms and layer scales as training leaves them
                if value.ndim == 1 and value.is_floating_point():
                    state[key] = value + 0.1 * torch.randn_like(value)
            files[family] = folder / f"{len(files)}.safetensors"
            save_file({k: v.contiguous() for k, v in state.items()}, files[family])
        return str(files[family])

    return of


def config(weights: Any, family: str, **changes: Any) -> BackboneConfig:
    name, args, _ = FAMILIES[family]
    return BackboneConfig(name=name, args=args, weights=weights(family), **changes)


def network(weights: Any, family: str, method: str = "global", **changes: Any) -> RetrievalMethod:
    settings: Any = {
        "global": GlobalConfig(dim=8),
        "late_interaction": LateInteractionConfig(dim=8, place_dim=8),
        "zse_sbir": ZseSbirConfig(dim=16, heads=2, ffn=16, depth=1),
    }[method]
    torch.manual_seed(0)
    backbone = config(weights, family, **changes)
    return create_method(method, settings, backbone, size=FAMILIES[family][2], classes=4)


def step(method: RetrievalMethod, size: int) -> None:
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):  # LoRA's `down` has a gradient once `up` is not 0
        loss = torch.stack([x.mean() for x in method.train()(batch(4, size)).values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        missing = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing, missing
        optimizer.step()
    assert bool(loss.isfinite())


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if name.startswith("backbone.") and not before[name].equal(after[name])}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_a_step_with_lora_and_blocks_for_each_modality(weights: Any, family: str) -> None:
    """Merged, the network says what it said, and only layers that LoRA names have changed."""
    size = FAMILIES[family][2]
    method = network(weights, family, tune="lora", lora=LoraConfig(rank=2), modality_blocks=1)
    before = merged(method.state_dict())
    step(method, size)
    after = merged(method.state_dict())
    assert before.keys() == after.keys()
    found = changed(before, after)
    assert found and all(name.split(".")[-2] in LoraConfig().layers and name.endswith(".weight") for name in found)
    both = {name: name.replace("sketch_blocks.0", "model.blocks.1") for name in found if "sketch_blocks." in name}
    assert both and set(both.values()) <= found and not any(after[a].equal(after[b]) for a, b in both.items())
    trained = sum(p.numel() for p in method.backbone.parameters() if p.requires_grad)
    assert trained < 0.15 * sum(value.numel() for value in after.values())

    plain = create_method(
        "global", GlobalConfig(dim=8), method.backbone_config, size=size, classes=4, load_weights=False
    ).eval()
    plain.load_state_dict(after)
    method.eval()
    for modality, channels in (("sketch", 1), ("photo", 3)):
        asked = pictures(2, channels, size=size)
        theirs, ours = (one.encode(asked, modality)["embedding"] for one in (method, plain))  # type: ignore[arg-type]
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    photo = pictures(2, 3, size=size)
    assert not torch.allclose(plain.encode(photo, "sketch")["embedding"], plain.encode(photo, "photo")["embedding"])


@pytest.mark.parametrize(("tune", "what"), [("norms", "norm"), ("frozen", ""), ("full", ".")])
def test_what_is_not_tuned_stays(weights: Any, tune: Any, what: str) -> None:
    method = network(weights, "DINOv2", tune=tune)
    before = copy.deepcopy(method.state_dict())
    step(method, 56)
    found = changed(before, method.state_dict())
    assert bool(found) == bool(what) and all(what in name for name in found)


@pytest.mark.parametrize("tune", ["frozen", "norms"])
def test_a_classifier_that_is_distilled_learns_beside_a_backbone_that_is_kept(tune: Any, tmp_path: Path) -> None:
    file = tmp_path / "cnn.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), file)
    backbone = BackboneConfig(name="test_resnet", weights=str(file), tune=tune)
    settings = GlobalConfig(dim=8, distillation=1.0, dropped_units=())
    method = create_method("global", settings, backbone, size=64, classes=4)
    before = copy.deepcopy(method.state_dict())
    step(method, 64)
    found = changed(before, method.state_dict())
    assert found >= {"backbone.classifier.weight", "backbone.classifier.bias"}
    assert all("classifier" in name for name in found) == (tune == "frozen")


def test_a_frozen_backbone_keeps_the_statistics_of_its_norms(tmp_path: Path) -> None:
    file = tmp_path / "cnn.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), file)
    backbone = BackboneConfig(name="test_resnet", weights=str(file), tune="frozen")
    method = create_method("global", GlobalConfig(dim=8), backbone, size=64, classes=4)
    before = copy.deepcopy(method.state_dict())
    step(method, 64)
    assert not changed(before, method.state_dict())
    norms = create_method("global", GlobalConfig(dim=8), replace(backbone, tune="norms"), size=64, classes=4)
    step(norms, 64)
    assert any(name.endswith("running_mean") for name in changed(before, norms.state_dict()))


@pytest.mark.parametrize("method", ["zse_sbir", "late_interaction"])
def test_methods_tell_sketches_from_photos(weights: Any, method: str) -> None:
    """What a batch is trained by is what its pictures are encoded by: a sketch in a batch is read as a sketch."""
    found = network(weights, "DINOv2", method, modality_blocks=1).eval()
    step(found, 56)
    found.eval()
    asked: list[int] = []
    for sign, block in ((1, found.backbone.sketch_blocks[-1]), (-1, found.backbone.model.blocks[-1])):
        block.register_forward_pre_hook(lambda _, inputs, sign=sign: asked.append(sign * len(inputs[0])))
    found(batch(3, 56))
    found.encode(pictures(2, 1, size=56), "sketch")
    found.encode(pictures(4, 3, size=56), "photo")
    assert asked == [6, -6, 2, -4]


def test_a_block_reads_each_part_of_a_batch_with_its_own_weights(weights: Any) -> None:
    backbone = Backbone(config(weights, "CLIP", modality_blocks=2), size=64, pooled=True).eval()
    with torch.no_grad():
        for name, parameter in backbone.model.named_parameters():
            if "blocks." in name and parameter.ndim > 1:
                parameter.mul_(0.5)
        mixed = pictures(5, 3, size=64)
        found = backbone(mixed, sketches=2).pooled
        alone = torch.cat([backbone(mixed[:2], sketches=2).pooled, backbone(mixed[2:]).pooled])
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found[:2], backbone(mixed[:2]).pooled, atol=1e-3)


def test_blocks_of_modalities_are_read_alike_by_several_threads(weights: Any) -> None:
    backbone = apart(Backbone(config(weights, "CLIP", modality_blocks=1), size=64, pooled=True).eval())
    drawn, shown = pictures(3, 1, size=64), pictures(2, 3, size=64)
    with torch.no_grad():
        expected = backbone(drawn, sketches=3).pooled, backbone(shown).pooled

        def same(sketches: bool) -> bool:
            found = [backbone(drawn, sketches=3).pooled if sketches else backbone(shown).pooled for _ in range(50)]
            return all(torch.allclose(one, expected[not sketches], atol=1e-5) for one in found)

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(same, [True, False] * 4))


@pytest.mark.parametrize("tokenizer", ["none", "sketch"])
def test_activations_that_are_computed_again_are_of_the_same_blocks(weights: Any, tokenizer: Any) -> None:
    settings = ZseSbirConfig(dim=16, heads=2, ffn=16, depth=1, tokenizer=tokenizer, dropout=0)
    gradients = []
    for again in (False, True):
        torch.manual_seed(0)
        backbone = config(weights, "CLIP", modality_blocks=1)
        method = create_method("zse_sbir", settings, backbone, size=64, classes=4).train()
        apart(method.backbone)
        if again:
            method.checkpoint_activations()
        torch.stack([x.mean() for x in method(batch(2, 64)).values()]).sum().backward()
        gradients.append({name: p.grad for name, p in method.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and any("sketch_blocks" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def apart(backbone: Backbone) -> Backbone:
    """Two sets of weights that differ, as after a training."""
    with torch.no_grad():
        for parameter in backbone.sketch_blocks.parameters():
            parameter.mul_(1.5)
    return backbone


def test_crossatnet_with_two_backbones_needs_no_blocks_of_modalities(weights: Any) -> None:
    settings = CrossATNetConfig(dim=16, share_backbone=False, vector_dim=8, neighbours=1)
    with pytest.raises(ZseError, match="has a backbone for each modality"):
        create_method("crossatnet", settings, config(weights, "CLIP", modality_blocks=1), size=64, classes=4)


def test_a_training_starts_its_blocks_of_modalities_from_a_checkpoint_without(weights: Any, tmp_path: Path) -> None:
    method = network(weights, "CLIP", tune="norms")
    step(method, 64)
    made = Checkpoint("global", method.eval(), TransformConfig(size=64), SPLIT, seen_keys([]), {})
    save_checkpoint(made, tmp_path / "c")
    for target in ("global", "late_interaction"):
        further = network(weights, "CLIP", target, tune="lora", modality_blocks=2).eval()
        assert not any(name.startswith("backbone.") for name in start_from(further, load_checkpoint(tmp_path / "c")))
        for modality, channels in (("sketch", 1), ("photo", 3)):
            asked = pictures(2, channels, size=64)
            theirs, ours = (one.encode(asked, modality)["embedding"] for one in (method, further))  # type: ignore[arg-type]
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_checkpoint_holds_the_merged_network_and_starts_another_tuning(weights: Any, tmp_path: Path) -> None:
    method = network(weights, "DINOv3", tune="lora", lora=LoraConfig(rank=2, alpha=8))
    step(method, 64)
    method.eval()
    made = Checkpoint(
        name="global",
        method=method,
        transforms=TransformConfig(size=64),
        split=SPLIT,
        seen_pictures=seen_keys([]),
        training={},
    )
    save_checkpoint(made, tmp_path / "c")
    loaded = load_checkpoint(tmp_path / "c")
    assert loaded.digest == made.digest and loaded.method.backbone_config == method.backbone_config
    assert not any("parametrizations" in name for name in loaded.method.state_dict())
    asked = pictures(2, 3, size=64)
    expected = method.encode(asked, "photo")["embedding"]
    torch.testing.assert_close(loaded.method.encode(asked, "photo")["embedding"], expected, atol=1e-5, rtol=1e-4)
    further = network(weights, "DINOv3", tune="lora", lora=LoraConfig(rank=3)).eval()
    assert start_from(further, loaded) == []
    torch.testing.assert_close(further.encode(asked, "photo")["embedding"], expected, atol=1e-5, rtol=1e-4)
    other = network(weights, "DINOv3", "late_interaction", tune="lora").eval()
    left = start_from(other, loaded)
    assert not any(name.startswith("backbone.") for name in left)
    torch.testing.assert_close(other.encode(asked, "photo")["embedding"], expected, atol=1e-5, rtol=1e-4)


def test_lora_adds_the_scaled_product_of_its_two_matrices(weights: Any) -> None:
    method = network(weights, "EVA-02", tune="lora", lora=LoraConfig(rank=2, alpha=6, layers=("q_proj",)))
    layer = method.backbone.model.blocks[0].attn.q_proj
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.parametrizations.weight[0].up.normal_()
    low = layer.parametrizations.weight[0]
    torch.testing.assert_close(layer.weight, before + 3 * low.up @ low.down)
    assert isinstance(method.backbone.model.blocks[0].attn.k_proj.weight, torch.nn.Parameter)


def test_what_cannot_be_tuned_is_refused() -> None:
    for changes, why in (
        ({"tune": "lora"}, "backbone.tune=lora would keep random weights"),
        ({"tune": "lora", "frozen": 2, "weights": "hub"}, "frozen is for tune: full, and tune is lora"),
        ({"tune": "half"}, "tune must be one of full, norms, lora, frozen, got 'half'"),
        ({"modality_blocks": -1}, "modality_blocks must be 0 or more"),
    ):
        with pytest.raises(ZseError, match=why):
            BackboneConfig(**changes)  # type: ignore[arg-type]
    for settings, why in (
        ({"rank": 0}, "rank and alpha must be above 0, got 0 and 16.0"),
        ({"alpha": float("nan")}, "rank and alpha must be above 0"),
        ({"layers": ()}, "names no layer"),
    ):
        with pytest.raises(ZseError, match=why):
            LoraConfig(**settings)  # type: ignore[arg-type]


def test_a_model_that_has_no_such_layers_says_what_it_has(weights: Any, tmp_path: Path) -> None:
    file = tmp_path / "cnn.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), file)
    cnn = BackboneConfig(name="test_resnet", weights=str(file))
    for backbone, size, why in (
        (replace(cnn, tune="lora"), 64, "finds no layers in 'test_resnet'.*are named none"),
        (replace(cnn, modality_blocks=1), 64, "is for vision transformers, and 'test_resnet' is none"),
        (config(weights, "CLIP", modality_blocks=3), 64, "must be 0..2 for .*clip.*, got 3"),
        (
            config(weights, "CLIP", tune="lora", lora=LoraConfig(layers=("query",))),
            64,
            "names query, its linear layers are named fc1, fc2, proj, qkv",
        ),
    ):
        with pytest.raises(ZseError, match=why):
            Backbone(backbone, size=size, pooled=True)
