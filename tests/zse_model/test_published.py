"""The released configuration gives what the public ZSE-SBIR code gives, layer by layer (golden data, all synthetic)."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from tests.golden import recipe_state, reference
from zse_model.layers import CrossAttention, RelationHead, TokenNorm
from zse_model.methods.base import TrainBatch
from zse_model.methods.zse_sbir import ZseSbir, ZseSbirConfig
from zse_model.published import RELEASED, RELEASED_BACKBONE, RELEASED_SIZE, our_name, read_published, translate


@pytest.fixture(scope="module")
def golden():
    return reference()


@pytest.fixture(scope="module")
def public_state():
    return recipe_state()


@pytest.fixture(scope="module")
def model(public_state):
    model = ZseSbir(RELEASED, RELEASED_BACKBONE, size=RELEASED_SIZE, classes=1, load_weights=False)
    translation = translate(public_state, model.state_dict())
    assert len(translation.dropped) == 16 and not translation.initialised
    model.load_state_dict({**model.state_dict(), **translation.state})
    return model.eval()


@pytest.fixture(scope="module")
def encoded(model, golden):
    """Four sketches, then four photos: tokens [8, 197, 768], the blocks' outputs [12, 8, 197, 768], and the tokens
    [8, 197, 768] before the first block."""
    blocks, embedded, hooks = [], [], []
    for block in model.backbone.model.blocks:
        hooks.append(block.register_forward_hook(lambda _m, _i, out: blocks.append(out)))
    hooks.append(model.backbone.model.norm_pre.register_forward_hook(lambda _m, _i, out: embedded.append(out)))
    with torch.inference_mode():
        sketches = model.features(torch.from_numpy(golden["sketches_u8"]), "sketch").tokens
        photos = model.features(torch.from_numpy(golden["photos_u8"]), "photo").tokens
    for hook in hooks:
        hook.remove()
    of_sketches, of_photos = torch.stack(blocks).chunk(2)
    return torch.cat([sketches, photos]), torch.cat([of_sketches, of_photos], dim=1), torch.cat(embedded)


@pytest.fixture(scope="module")
def tokens(encoded):
    return encoded[0]


def close(ours: Tensor, golden: np.ndarray, atol: float, rtol: float = 0.0) -> None:
    np.testing.assert_allclose(ours.detach().double().numpy(), golden, atol=atol, rtol=rtol)


def same_tokens(ours: Tensor, golden: dict, key: str) -> None:
    close(ours[:, 0], golden[f"{key}_ret"], 5e-5)
    close(ours[:, golden["sub_tokens"]][..., golden["sub_channels"]], golden[f"{key}_sub"], 5e-5)
    close(ours.norm(dim=-1), golden[f"{key}_token_l2"], 5e-4)
    close(ours.mean(dim=1), golden[f"{key}_channel_mean"], 5e-5)


def test_the_encoder(model, golden, encoded):
    tokens, blocks, embedded = encoded
    pictures = torch.from_numpy(np.concatenate([golden["sketches_u8"], golden["photos_u8"]]))
    with torch.inference_mode():
        stem = model.backbone.normalise(pictures[[0, 3, 4, 7]])
        patches, overlapping = model.backbone.model.patch_embed(stem), model.tokenizer(stem)
    for ours, key in ((patches, "stem_patch_conv_sub"), (overlapping, "stem_overlap_conv_sub")):
        close(ours.transpose(1, 2).unflatten(2, (14, 14))[:, 0::48], golden[key], 5e-5)
    same_tokens(embedded, golden, "embed")
    close(blocks[:, :, 0], golden["block_ret"], 5e-5)
    close(blocks.norm(dim=-1), golden["block_token_l2"], 5e-4)
    same_tokens(tokens, golden, "sa")


def test_pairs(model, golden, tokens):
    sketches, photos = tokens[:4], tokens[4:]
    with torch.inference_mode():
        own = torch.cat(model.cross_attend(sketches, photos))
        same_tokens(own, golden, "ca")
        joined = model.relation.convolution(own[:, 1:].reshape(8, 768, 14, 14))
        close(joined[:, ::8], golden["conv_sub"], 5e-5)
        close(model.relation.kernel(own[:4, 1:], own[4:, 1:]), golden["kernels_4_pairs"], 5e-6)
        ours, theirs = model.cross_attend(sketches.repeat_interleave(4, 0), photos.repeat(4, 1, 1))
        logits, sketch_ret, photo_ret = model.relation(ours[:, 1:], theirs[:, 1:]), ours[:, 0], theirs[:, 0]
        encodings = [
            {"tokens": side, "embedding": torch.nn.functional.normalize(side[:, 0])} for side in (sketches, photos)
        ]
        scores = model.score(*encodings, "rn")
        cosine = model.score(*encodings, "ret")
    close(logits.view(4, 4), golden["logits"], 5e-5)
    close(scores, golden["logits"], 5e-5)
    close(scores.sigmoid(), golden["scores"], 1e-5)
    close(sketch_ret, golden["pairs_ca_ret_sketch"], 5e-5)
    close(photo_ret, golden["pairs_ca_ret_photo"], 5e-5)
    close((2 - 2 * cosine.double()).sqrt(), golden["ret_distance"], 1e-4)  # the published distance adds 1e-6


@pytest.fixture
def batch(golden):
    s, p = torch.from_numpy(golden["sketches_u8"]), torch.from_numpy(golden["photos_u8"])
    label = torch.tensor([0, 1])
    return TrainBatch(sketch=s[:2], photo=p[:2], sketch2=s[2:], negative=p[2:], label=label, negative_label=1 - label)


def test_losses_and_gradients(model, golden, batch):
    """The norms of all 210 gradients, and values of 17. It takes 10 s, because no small network has golden values.
    What an optimizer makes of them is tested in test_optimisation.py."""
    losses = {name: value.mean() for name, value in model.losses(batch).items()}
    assert losses["triplet"].item() == pytest.approx(float(golden["loss_triplet_x2"]), rel=1e-5)
    assert losses["relation"].item() == pytest.approx(float(golden["loss_relation_x4"]), rel=1e-5)
    torch.stack(list(losses.values())).sum().backward()
    check_gradients({name: p.grad for name, p in model.named_parameters()}, golden)
    model.zero_grad()


def check_gradients(gradients: dict[str, Tensor], golden: dict) -> None:
    for public, norm in zip(golden["grad_names"], golden["grad_norms"], strict=True):
        ours = our_name(str(public))
        if ours is None:
            assert norm == 0  # the dead copy
        else:
            assert gradients[ours].double().norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-6), public
    named = zip(golden["grad_named"], golden["grad_named_index"], golden["grad_named_values"], strict=True)
    for public, index, values in named:
        gradient = gradients[our_name(str(public))].flatten()
        tolerance = 3e-4 * gradient.abs().max().item() + 1e-9
        close(gradient[index], values, tolerance)


def test_the_published_norm(golden, public_state):
    norm = TokenNorm(768)
    name = "ca.encoder.layer1.0.sublayer.0.norm."
    norm.load_state_dict({"weight": public_state[name + "a"], "bias": public_state[name + "b"]})
    close(norm(torch.from_numpy(golden["micro_ca_layernorm_in"])), golden["micro_ca_layernorm_out"], 1e-5)


def test_the_kernel_of_an_empty_token_is_zero(golden):
    head = RelationHead(16, (7, 7), 0.0, False, 0)
    p, q = torch.from_numpy(golden["micro_cos_p"]), torch.from_numpy(golden["micro_cos_q"])
    close(head.kernel(p, q), golden["micro_cos_out"], 1e-6)


def test_weights_that_do_not_fit_are_named(public_state):
    wanted = {our_name(key): value for key, value in public_state.items() if our_name(key)}
    broken = dict(public_state)
    broken["neck.weight"] = broken.pop("conv2d.bias")
    with pytest.raises(ValueError, match=r"unexpected \['neck.weight'\], missing \['relation.convolution.bias'\]"):
        translate(broken, wanted)
    with pytest.raises(ValueError, match="relation.convolution.bias"):
        translate(public_state | {"conv2d.bias": torch.zeros(3)}, wanted)


def test_a_file_of_the_backbone_alone_leaves_the_rest_as_it_was(public_state):
    wanted = {our_name(key): value for key, value in public_state.items() if our_name(key)}
    alone = {
        k.removeprefix("sa.model."): v for k, v in public_state.items() if k.startswith("sa.") and ".scale." not in k
    }
    found = translate(alone | {"mlp_head.weight": torch.zeros(1000, 768)}, wanted)
    assert found.dropped == ["mlp_head.weight"] and set(found.state) | set(found.initialised) == set(wanted)
    assert {name.split(".")[0] for name in found.initialised} == {
        "tokenizer",
        "sketch_attends",
        "photo_attends",
        "relation",
    }
    del alone["transformer.encoder_norm.bias"]
    with pytest.raises(ValueError, match=r"missing \['backbone.model.norm.bias'\]"):
        translate(alone, wanted)


def test_timms_names_are_those_of_a_backbone_alone(public_state):
    wanted = {our_name(key): value for key, value in public_state.items() if our_name(key)}
    with torch.device("meta"):  # names and shapes are all that is looked at
        base, small, large = (
            timm.create_model(f"vit_{s}_patch16_224").state_dict() for s in ("base", "small", "large")
        )
    found = translate(base, wanted)
    assert found.dropped == ["head.bias", "head.weight"] and all(
        found.state[f"backbone.model.{k}"] is v for k, v in base.items() if k not in found.dropped
    )
    assert set(found.state) | set(found.initialised) == set(wanted)
    with pytest.raises(ValueError, match=r"\(384,\) for \(768,\).* more.*What can be read"):
        translate(small, wanted)
    with pytest.raises(ValueError, match=r"unexpected \['blocks.12.attn.proj.bias', .* more"):
        translate(large, wanted)


def test_a_released_file_is_read_and_code_in_one_is_not(tmp_path):
    file = tmp_path / "best_checkpoint.pth"
    content = {"model": {"conv2d.bias": torch.ones(2)}, "epoch": 3, "map_all": np.float64(0.7), "p": np.float32(0.5)}
    torch.save(content, file)
    read = read_published(file)
    assert read["epoch"] == 3 and read["map_all"] == 0.7 and (read["model"]["conv2d.bias"] == 1).all()
    torch.save(content, file, _use_new_zipfile_serialization=False)
    file.write_bytes(file.read_bytes().replace(b"numpy._core", b"numpy.core"))  # the name that numpy 1 wrote
    assert read_published(file)["map_all"] == 0.7
    torch.save({"model": Path("/")}, file)
    with pytest.raises(ValueError, match=r"best_checkpoint.pth .*it would run pathlib") as refused:
        read_published(file)
    assert "weights_only" not in str(refused.value), "no advice to run it"


def test_the_released_layout_needs_its_convolution():
    with pytest.raises(ValueError, match="pool"):
        ZseSbirConfig(layout="released", pool=False)
    assert CrossAttention(8, 2, 8, 0.0, "released").sources == ("own", "other", "own")
