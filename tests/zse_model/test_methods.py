"""What every method has to keep to, over the registry and its variants; and the layers they are made of."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.zse_model.test_scoring import tiles
from zse_model.backbones import Backbone, BackboneConfig
from zse_model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, seen_keys
from zse_model.code_index import CodeIndex
from zse_model.evaluation.search import rank
from zse_model.methods import (
    METHODS,
    CrossATNetConfig,
    GlobalConfig,
    LateInteractionConfig,
    RetrievalMethod,
    TrainBatch,
    ZseSbirConfig,
    create_method,
    known_modes,
)
from zse_model.methods.global_embedding import GlobalEmbedding
from zse_model.methods.zse_sbir import hardest_negatives
from zse_model.modes import RET, Mode
from zse_model.split import ZeroShotSplit
from zse_model.transforms import TransformConfig

SIZE, CLASSES = 64, 4
VIT = BackboneConfig(name="test_vit")
CNN = BackboneConfig(name="test_resnet", args={"zero_init_last": False})  # a branch of zeros has no gradient at first


def family(name: str) -> BackboneConfig:
    """A family of transformers as timm builds it, made small."""
    return BackboneConfig(name=name, args={"depth": 2, "embed_dim": 48, "num_heads": 3})


VARIANTS: dict[str, tuple[str, Any, BackboneConfig]] = {
    "global": ("global", GlobalConfig(dim=16), CNN),
    "global, head": ("global", GlobalConfig(dim=16, readout="head", distillation=1.0, dropped_units=()), CNN),
    "global, distillation alone": (
        "global",
        GlobalConfig(classification=0, contrast=0, distillation=1.0, dropped_units=(0, 5)),
        CNN,
    ),
    "global, transformer": ("global", GlobalConfig(dim=16), VIT),
    "crossatnet": ("crossatnet", CrossATNetConfig(dim=32, vector_dim=8, neighbours=1), CNN),
    "crossatnet, distillation, two backbones": (
        "crossatnet",
        CrossATNetConfig(
            dim=16, share_backbone=False, distillation=1, dropped_units=(), edges="mst", vector_dim=8, bits=32
        ),
        CNN,
    ),
    "crossatnet, triplet alone": (
        "crossatnet",
        CrossATNetConfig(dim=16, attention=0, graph=0, classification=0, reconstruction=0, margin=1.0),
        CNN,
    ),
    "crossatnet, graph and attention": (
        "crossatnet",
        CrossATNetConfig(dim=16, triplet=0, classification=0, reconstruction=0, vector_dim=8, neighbours=1),
        CNN,
    ),
    "crossatnet, transformer": ("crossatnet", CrossATNetConfig(dim=16, vector_dim=8, neighbours=1), VIT),
    "zse_sbir": ("zse_sbir", ZseSbirConfig(dim=32, heads=4, ffn=32), CNN),
    "zse_sbir, all losses": (
        "zse_sbir",
        ZseSbirConfig(dim=32, heads=4, ffn=32, classification=1, contrast=1, distillation=1, dropped_units=()),
        CNN,
    ),
    "zse_sbir, pooled readout": ("zse_sbir", ZseSbirConfig(dim=32, heads=4, ffn=32, readout="pooled", bits=32), CNN),
    "zse_sbir, transformer": ("zse_sbir", ZseSbirConfig(tokenizer="sketch", heads=4, ffn=32), VIT),
    "zse_sbir, both, released": (
        "zse_sbir",
        ZseSbirConfig(tokenizer="both", heads=4, ffn=32, cross_attention="released"),
        VIT,
    ),
    "zse_sbir, selection": ("zse_sbir", ZseSbirConfig(keep_rates=(0.5, 1, 0.7), heads=4, ffn=32), VIT),
    "zse_sbir, CLIP": (
        "zse_sbir",
        ZseSbirConfig(tokenizer="both", heads=4, ffn=32),
        family("vit_base_patch16_clip_224"),
    ),
    "zse_sbir, DINOv3": ("zse_sbir", ZseSbirConfig(heads=4, ffn=32), family("vit_small_patch16_dinov3")),
    "zse_sbir, no class token": (
        "zse_sbir",
        ZseSbirConfig(dim=32, heads=4, ffn=32, depth=1),
        family("vit_base_patch16_siglip_224"),
    ),
    "zse_sbir, batch negatives": ("zse_sbir", ZseSbirConfig(dim=32, heads=4, ffn=32, negatives="batch"), CNN),
    "zse_sbir, late": ("zse_sbir", ZseSbirConfig(dim=32, heads=4, ffn=32, place_dim=16, late_distillation=1), CNN),
    "zse_sbir, late, transformer": (
        "zse_sbir",
        ZseSbirConfig(tokenizer="sketch", heads=4, ffn=32, place_dim=16, late=1, bits=64),
        VIT,
    ),
    "zse_sbir, figure": ("zse_sbir", ZseSbirConfig(heads=4, ffn=32, cross_attention="figure"), VIT),
}

VARIANTS |= {
    "late_interaction": ("late_interaction", LateInteractionConfig(dim=16, place_dim=16, bits=32), CNN),
    "late_interaction, pairs": ("late_interaction", LateInteractionConfig(dim=16, place_dim=16, pairs=1), CNN),
    "late_interaction, transformer": ("late_interaction", LateInteractionConfig(dim=16, place_dim=16), VIT),
}
VARIANTS |= {name: (name, method.Config(), CNN) for name, method in METHODS.items() if name not in VARIANTS}


@pytest.fixture(params=sorted(VARIANTS))
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RetrievalMethod:
    """As a training leaves it, though its weights are random: with what is measured when one ends."""
    torch.manual_seed(0)
    name, config, backbone = VARIANTS[request.param]
    method = create_method(name, config, backbone, size=SIZE, classes=CLASSES).eval()
    monkeypatch.setattr("zse_model.methods.codes.CODE_PICTURES", 32)
    method.conclude(itertools.repeat(batch(4)))
    with torch.no_grad():
        queries, gallery = method.encode(pictures(3, 1), "sketch"), method.encode(pictures(9, 3), "photo")
        spread = lambda scores: -float((scores - scores.mean()).abs().sum())  # noqa: E731
        method.calibrate(lambda mode: method.score(queries, gallery, mode), spread)
    return method


def pictures(n: int, channels: int, seed: int = 0, size: int = SIZE) -> torch.Tensor:
    return torch.randint(0, 256, (n, channels, size, size), generator=torch.manual_seed(seed), dtype=torch.uint8)


def batch(b: int = 4, size: int = SIZE) -> TrainBatch:
    return TrainBatch(
        sketch=pictures(b, 1, 1, size),
        photo=pictures(b, 3, 2, size),
        sketch2=pictures(b, 1, 3, size),
        negative=pictures(b, 3, 4, size),
        label=torch.arange(b) % CLASSES,
        negative_label=(torch.arange(b) + 1) % CLASSES,
    )


def test_every_method_of_the_registry_is_covered() -> None:
    assert {name for name, _, _ in VARIANTS.values()} == set(METHODS)


def test_every_declared_mode_is_covered(method: RetrievalMethod) -> None:
    asked = (*method.modes, "rerank-4") if method.rerank else method.modes
    lacking = {"late", "fused-late"} if getattr(method, "local", None) is None else set()
    lacking |= set() if method.bits else {"hash-N", "itq-N", "asym-N"}
    lacking |= {"rerank-K"} if type(method) is GlobalEmbedding and not method.bits else set()
    assert [method.mode(one) for one in asked] == [mode for mode in method.MODES if mode.name not in lacking]
    assert {mode: method.ranked_by(mode) for mode in method.modes} == dict(zip(method.modes, method.modes, strict=True))
    if method.rerank:
        assert method.ranked_by("rerank-4") == method.rerank[1]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_declaration_says_all_that_others_read(name: str) -> None:
    modes = METHODS[name].MODES
    names = [mode.name for mode in modes]
    assert names[0] == "ret" and len(set(names)) == len(names)
    for mode in modes:
        assert mode.score.endswith(".") and ". " not in mode.score, "one sentence"
        assert mode.explanation or mode.shortlist or name != "zse_sbir", "its page says what the score is"
        assert set(mode.combined or mode.shortlist or ()) <= set(names)
        assert mode.name.endswith("-N") == bool(mode.bits) and mode.name.endswith("-K") == bool(mode.shortlist)
    assert known_modes()["ret"] == sorted(METHODS) and set(names) <= set(known_modes())


def test_a_mode_is_known_by_its_name_and_number() -> None:
    codes, rerank = (Mode(name=name, score="", bits=bits) for name, bits in (("hash-N", (32, 64)), ("rerank-K", ())))
    assert [codes.number(asked) for asked in ("hash-64", "hash-48", "hash-", "hash-064", "hash-N", "itq-64")] == [
        *(64,),
        *[None] * 5,
    ]
    assert rerank.number("rerank-100") == 100 and rerank.number("rerank-0") is None
    assert RET.number("ret") == 0 and RET.number("ret-1") is None and codes.called(32) == "hash-32"


@torch.no_grad()
def test_encoding_and_score_do_not_depend_on_the_other_pictures(method: RetrievalMethod) -> None:
    queries, gallery = method.encode(pictures(3, 1), "sketch"), method.encode(pictures(20, 3), "photo")
    assert torch.allclose(queries["embedding"].norm(dim=1), torch.ones(3), atol=1e-5)
    alone = method.encode(pictures(20, 3)[7:8], "photo")
    for mode in method.modes:
        scores = method.score(queries, gallery, mode)
        assert scores.shape == (3, 20) and scores.dtype == torch.float32
        one = method.score({k: v[1:2] for k, v in queries.items()}, alone, mode)
        torch.testing.assert_close(one[0, 0], scores[1, 7], atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="Unknown retrieval mode 'nearest'"):
        method.score(queries, gallery, "nearest")


@torch.no_grad()
def test_a_streamed_search_ranks_as_the_whole_score_matrix(method: RetrievalMethod) -> None:
    queries, gallery = method.encode(pictures(3, 1), "sketch"), method.encode(pictures(9, 3), "photo")
    for mode in method.modes:
        scores = method.score(queries, gallery, mode)
        found = method.search(queries, lambda: tiles(gallery, 4), mode, 4)
        torch.testing.assert_close(found.scores, rank(scores, 4).scores, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(scores.gather(1, found.indices), found.scores, atol=1e-5, rtol=1e-4)
    if method.rerank is not None:
        first, scores = (method.score(queries, gallery, mode) for mode in method.rerank)
        found = method.search(queries, lambda: tiles(gallery, 4), "rerank-4", 4)
        listed = first.gather(1, found.indices).sort(descending=True).values  # photos may tie within rounding
        torch.testing.assert_close(listed, rank(first, 4).scores, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(scores.gather(1, found.indices), found.scores, atol=1e-5, rtol=1e-4)
        with pytest.raises(ValueError, match="rerank-4 ranks 4 photos, not 5: ask for fewer, or for rerank-5"):
            method.search(queries, lambda: tiles(gallery, 4), "rerank-4", 5)


@torch.no_grad()
def test_an_empty_tile_is_passed_over_and_only_an_empty_gallery_is_refused(method: RetrievalMethod) -> None:
    queries, gallery = method.encode(pictures(3, 1), "sketch"), method.encode(pictures(9, 3), "photo")
    nothing, nobody = ({name: value[:0] for name, value in side.items()} for side in (gallery, queries))
    whole = tiles(gallery, 4)
    gaps = [nothing, whole[0], nothing, nothing, *whole[1:], nothing]
    for mode in (*method.modes, *(["rerank-4"] if method.rerank else [])):
        expected = method.search(queries, lambda: whole, mode, 4)
        found = method.search(queries, lambda: gaps, mode, 4)
        assert torch.equal(found.indices, expected.indices) and torch.equal(found.scores, expected.scores), mode
        assert method.search(nobody, lambda: gaps, mode, 4).indices.shape == (0, 4), mode
        for empty in ([], [nothing], [nothing, nothing]):
            with pytest.raises(ValueError, match="The gallery is empty"):
                method.search(queries, lambda empty=empty: empty, mode, 4)


@torch.no_grad()
def test_codes_are_indexed_once_a_gallery(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = CrossATNetConfig(dim=16, vector_dim=8, neighbours=1, bits=32)
    method = create_method("crossatnet", config, CNN, size=SIZE, classes=CLASSES).eval()
    monkeypatch.setattr("zse_model.methods.codes.CODE_PICTURES", 32)
    method.conclude(itertools.repeat(batch(4)))
    queries, gallery = method.encode(pictures(3, 1), "sketch"), method.encode(pictures(9, 3), "photo")
    added: list[int] = []
    monkeypatch.setattr(
        CodeIndex, "add", lambda self, codes, real=CodeIndex.add: added.append(len(codes)) or real(self, codes)
    )
    indices: dict[str, CodeIndex] = {}
    for mode, built in (("hash-32", 9), ("hash-32", 9), ("asym-32", 9), ("rerank-4", 9), ("itq-32", 18)):
        once = method.search(queries, lambda: tiles(gallery, 4), mode, 4, indices)
        assert sum(added) == built, mode
        again = method.search(queries, lambda: tiles(gallery, 4), mode, 4, indices)
        assert sum(added) == built and torch.equal(once.indices, again.indices), mode
    assert set(indices) == {"hash-32", "itq-32"}


def test_losses_are_per_item_and_reach_every_parameter(method: RetrievalMethod) -> None:
    losses = method.train()(batch(4))
    assert all(loss.shape == (4,) and loss.dtype == torch.float32 for loss in losses.values()), losses
    torch.stack([loss.mean() for loss in losses.values()]).sum().backward()
    dead = [n for n, p in method.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not dead


def test_overfits_one_batch_to_a_loss_near_zero(method: RetrievalMethod) -> None:
    """Within 2 % of its start above what no network can go below: where a class has two pictures among those of the
    other side, InfoNCE gives each of them a half. Of labels 0 and 1 with negatives of 1 and 2, that is so for one
    sketch of two and for both photos."""
    data, optimizer = batch(2), torch.optim.AdamW(method.parameters(), lr=3e-3)
    method.measure_start(iter([data]), lambda x: x)
    method.train()
    for module in method.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    above: list[float] = []
    while len(above) < 100 and (not above or above[-1] > 0.02 * above[0]):
        losses = method(data)
        loss = torch.stack([x.mean() for x in losses.values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        above.append(loss.item() - 0.75 * math.log(2) * len({"contrast", "late"} & losses.keys()))
    assert 0 <= above[-1] <= 0.02 * above[0], above[::10]


def test_a_saved_checkpoint_is_the_same_checkpoint(method: RetrievalMethod, tmp_path: Path) -> None:
    split = ZeroShotSplit(name="s", citation="c", seen=("a", "b"), unseen=("c",))
    name = next(n for n, m in METHODS.items() if type(method) is m)
    saved = Checkpoint(name, method, TransformConfig(size=SIZE), split, seen_keys(["ff" * 32, "0a" * 32]), {"steps": 3})
    save_checkpoint(saved, tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert loaded.digest == saved.digest and loaded.split == split and loaded.transforms == saved.transforms
    assert loaded.method.config == method.config
    with torch.no_grad():
        for key, value in method.encode(pictures(2, 1), "sketch").items():
            assert torch.equal(loaded.method.encode(pictures(2, 1), "sketch")[key], value)
    (tmp_path / "checkpoint.json").write_text(
        (tmp_path / "checkpoint.json").read_text().replace('"classes": 4', '"classes": 5')
    )
    if method.classifier is not None or method.distillation is not None:
        with pytest.raises((ValueError, RuntimeError), match=r"prototypes|targets|adjacency"):
            load_checkpoint(tmp_path)


def test_configurations_that_make_no_sense_are_refused() -> None:
    def create(name: str, config: Any, backbone: BackboneConfig = CNN) -> RetrievalMethod:
        return create_method(name, config, backbone, size=SIZE, classes=CLASSES)

    with pytest.raises(ValueError, match="Unknown method 'best'. Known methods: "):
        create("best", GlobalConfig())
    with pytest.raises(ValueError, match="Unknown backbone 'foo'. timm has, among others: "):
        create("global", GlobalConfig(), BackboneConfig(name="foo"))
    for typed in ("mobilnetv2_100", "MobileNetV2_100", "mobilnetv2_100.ra_in1k"):
        with pytest.raises(ValueError, match=f"Unknown backbone '{typed}'. Did you mean mobilenetv2_100?"):
            create("global", GlobalConfig(), BackboneConfig(name=typed))
    with pytest.raises(ValueError, match="would freeze random weights"):
        create("global", GlobalConfig(), BackboneConfig(name="test_resnet", frozen=1))
    with pytest.raises(ValueError, match="needs a vision transformer"):
        create("zse_sbir", ZseSbirConfig(tokenizer="sketch"))
    with pytest.raises(ValueError, match="readout: pooled is for convolutional backbones"):
        create("zse_sbir", ZseSbirConfig(readout="pooled"), VIT)
    with pytest.raises(ValueError, match="at least 49 are needed"):
        create("zse_sbir", ZseSbirConfig(dim=32, pool=True))
    with pytest.raises(ValueError, match="no class token"):
        create("zse_sbir", ZseSbirConfig(dim=32, depth=0))
    with pytest.raises(ValueError, match="readout 'head' needs"):
        create("global", GlobalConfig(readout="head", classification=0, contrast=0, distillation=1))
    with pytest.raises(ValueError, match="plain vision transformer with a class token, and 'test_resnet' is none"):
        create("zse_sbir", ZseSbirConfig(dim=32, keep_rates=(0.5,)))
    with pytest.raises(ValueError, match=r"numbers in \(0, 1\], one per block"):
        create("zse_sbir", ZseSbirConfig(keep_rates=(1, 0)), VIT)
    with pytest.raises(ValueError, match="selection leaves 8; pool: false"):
        create("zse_sbir", ZseSbirConfig(keep_rates=(0.5,), pool=True), VIT)
    with pytest.raises(ValueError, match="has stride 16, the patches of 'vit_tiny_patch16_224' are"):
        patches = BackboneConfig(name="vit_tiny_patch16_224", args={"patch_size": 8, "depth": 1})
        create("zse_sbir", ZseSbirConfig(tokenizer="both"), patches)
    with pytest.raises(ValueError, match="not divisible by 8 heads"):
        create("zse_sbir", ZseSbirConfig(dim=36, depth=0), VIT)
    with pytest.raises(ValueError, match=r"ZseSbirConfig: cross_attention must be one of released, .*, got 'best'"):
        create("zse_sbir", ZseSbirConfig(cross_attention="best"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="GlobalConfig: readout must be one of pooled, head, got 'token'"):
        create("global", GlobalConfig(readout="token"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="layout: released needs an even grid, as the published 14x14 is; got 15x15"):
        released = ZseSbirConfig(pool=True, layout="released", heads=4)
        create_method("zse_sbir", released, VIT, size=240, classes=CLASSES)
    for field in ("temperature", "scale", "dim", "heads", "ffn"):
        with pytest.raises(ValueError, match=f"ZseSbirConfig: {field} must be above 0, got 0"):
            create("zse_sbir", ZseSbirConfig(**{field: 0}))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ZseSbirConfig: dropout must be below 1, got 1"):
        create("zse_sbir", ZseSbirConfig(dropout=1))
    for weight in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="CrossATNetConfig: triplet must be 0 or more, and finite, got"):
            create("crossatnet", CrossATNetConfig(triplet=weight))


@pytest.mark.parametrize(
    ("name", "size", "prefix"),
    [("vit_small_patch14_dinov2", 70, 1), ("vit_small_patch14_reg4_dinov2", 70, 5), ("vit_large_patch16_224", 64, 1)],
)
@torch.no_grad()
def test_patch_tokens_of_a_transformer_leave_out_class_and_register_tokens(name: str, size: int, prefix: int) -> None:
    backbone = Backbone(family(name), size=size, tokens=True).eval()
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    found = backbone(images)
    whole = backbone.model.forward_features(backbone.normalise(images))
    assert backbone.model.num_prefix_tokens == prefix and whole.shape[1] == prefix + backbone.tokens
    assert backbone.tokens == backbone.grid[0] * backbone.grid[1]
    assert torch.equal(found.tokens, whole[:, prefix:]) and torch.equal(found.cls, whole[:, 0])


@torch.no_grad()
def test_selection_keeps_what_the_class_token_attends_to() -> None:
    """In the last block nothing comes after it that mixes tokens: those that are kept equal those of no selection."""
    torch.manual_seed(0)
    full = Backbone(VIT, size=SIZE, tokens=True).eval()
    depth = len(full.model.blocks)
    selecting = Backbone(VIT, size=SIZE, tokens=True, keep_rates=(*[1.0] * (depth - 1), 0.4)).eval()
    selecting.load_state_dict(full.state_dict())
    inputs: list[torch.Tensor] = []
    full.model.blocks[-1].attn.register_forward_pre_hook(lambda _m, args: inputs.append(args[0]))
    images = pictures(3, 3)
    everything, kept = full(images), selecting(images)
    assert kept.positions.shape == (3, math.ceil(0.4 * 16))
    rows = kept.positions[..., None].expand(-1, -1, everything.tokens.shape[2])
    torch.testing.assert_close(kept.tokens, everything.tokens.gather(1, rows), atol=1e-5, rtol=1e-5)
    attention = full.model.blocks[-1].attn
    q, k, _ = attention.qkv(inputs[0]).unflatten(2, (3, attention.num_heads, -1)).unbind(2)
    weights = torch.einsum("bhe,bnhe->bhn", q[:, 0], k) * q.shape[-1] ** -0.5
    best = weights.softmax(-1).mean(1)[:, 1:].argsort(descending=True)[:, :7]
    assert torch.equal(best.sort().values, kept.positions)


@torch.no_grad()
def test_selected_positions_lead_back_to_the_grid() -> None:
    """With blocks that leave tokens as they are, each token still has the embedding of the cell it is said to be of."""
    backbone = Backbone(VIT, size=SIZE, tokens=True, keep_rates=(0.8, 0.7, 1, 0.6)).eval()
    for block in backbone.model.blocks:
        for layer in (block.attn.proj, block.mlp.fc2):
            torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
    embedded: list[torch.Tensor] = []
    backbone.model.norm_pre.register_forward_hook(lambda _m, _i, out: embedded.append(out))
    found = backbone(pictures(2, 3))
    expected = backbone.model.norm(embedded[0])[:, 1:]
    rows = found.positions[..., None].expand(-1, -1, expected.shape[2])
    torch.testing.assert_close(found.tokens, expected.gather(1, rows))
    assert found.positions.shape[1] == 6  # 16 -> 13 -> 10 -> 6
    assert (found.positions.diff(dim=1) > 0).all()


def test_a_backbone_takes_pixels_and_normalises_them_as_configured() -> None:
    backbone = Backbone(replace(CNN, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)), size=SIZE, pooled=True)
    grey = torch.full((1, 1, SIZE, SIZE), 255, dtype=torch.uint8)
    torch.testing.assert_close(backbone.normalise(grey), torch.full((1, 3, SIZE, SIZE), 2.0))


def test_the_hardest_negative_is_the_nearest_photo_of_another_class() -> None:
    sketches = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    photos = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.0, 1.0]])
    labels, of_photo = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2, 3, 1, 0])
    assert hardest_negatives(sketches, photos, labels, of_photo).tolist() == [2, 5, 0]
    assert hardest_negatives(sketches, photos, labels[:1].expand(3), torch.zeros(6, dtype=torch.long)).tolist() == [
        3,
        4,
        5,
    ]
