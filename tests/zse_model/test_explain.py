"""Explanations are of what the network does: its own score, its own attention, its own tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zse_model.backbones import BackboneConfig
from zse_model.explanation.base import Explainer, Explanation, UnexplainableError, scored
from zse_model.explanation.pair import explain_pair, explained_mode, mode_of_explanation
from zse_model.explanation.patches import PatchExplanation, patch_of_pixels, salient_patches
from zse_model.methods import GlobalConfig, RetrievalMethod, ZseSbir, ZseSbirConfig, create_method
from zse_model.modes import RET
from zse_model.synthetic import draw_photo, draw_sketch
from zse_model.transforms import BadPicture

SIZE, GRID = 64, (4, 4)
SKETCH = torch.tensor(draw_sketch("car", 0, size=SIZE))[None]
PHOTO = torch.tensor(draw_photo("car", 0, size=SIZE)).permute(2, 0, 1)
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "maps": ("test_resnet", {"dim": 32}),
    "transformer": ("test_vit", {"tokenizer": "sketch", "cross_attention": "released"}),
    "transformer, own blocks": ("test_vit", {"depth": 1}),
}


def explain(method: RetrievalMethod, sketch: Tensor, photo: Tensor, mode: str | None = None) -> PatchExplanation:
    found = explain_pair(method, sketch, photo, mode)
    assert isinstance(found, PatchExplanation)
    return found


def create(variant: str) -> ZseSbir:
    torch.manual_seed(0)
    backbone, options = VARIANTS[variant]
    config = ZseSbirConfig(heads=4, ffn=32, **options)
    method = create_method("zse_sbir", config, BackboneConfig(name=backbone), size=SIZE, classes=3)
    assert isinstance(method, ZseSbir)
    return method.eval()


@pytest.fixture(params=sorted(VARIANTS))
def method(request: pytest.FixtureRequest) -> ZseSbir:
    return create(request.param)


@torch.no_grad()
def test_the_score_is_the_score_of_retrieval(method: ZseSbir) -> None:
    query, found = method.encode(SKETCH[None], "sketch"), method.encode(PHOTO[None], "photo")
    for mode in method.modes:
        explained = explain(method, SKETCH, PHOTO, mode)
        assert explained.mode == mode and explained.score == explained.scores[mode]
        assert set(explained.scores) == set(method.modes)
        for name, score in explained.scores.items():
            assert abs(score - float(method.score(query, found, name))) < 1e-5


def test_without_cross_attention_there_is_nothing_to_explain() -> None:
    config = ZseSbirConfig(heads=4, ffn=32, dim=32, triplet=0, relation=0, contrast=1)
    method = create_method("zse_sbir", config, BackboneConfig(name="test_resnet"), size=SIZE, classes=3).eval()
    with pytest.raises(UnexplainableError, match="'zse_sbir' cannot be explained.*with triplet or relation"):
        explain(method, SKETCH, PHOTO)


@torch.no_grad()
def test_a_correspondence_is_the_cosine_of_two_tokens_after_cross_attention(method: ZseSbir) -> None:
    sketch, photo = method.encode(SKETCH[None], "sketch")["tokens"], method.encode(PHOTO[None], "photo")["tokens"]
    ours, theirs = method.sketch_attends(sketch, photo)[0], method.photo_attends(photo, sketch)[0]
    found = explain(method, SKETCH, PHOTO)
    assert found.grid == GRID and found.correspondence.shape == (16, 16)
    for i in (0, 6, 15):
        for j in (0, 9):
            cosine = torch.cosine_similarity(ours[1 + i], theirs[1 + j], dim=0)  # token 0 is [Ret]
            assert abs(float(found.similarity(*divmod(i, 4))[divmod(j, 4)] - cosine)) < 1e-5


@pytest.mark.parametrize("picture", ["sketch", "photo"])
def test_attention_is_what_the_last_self_attention_layer_computed(method: ZseSbir, picture: str) -> None:
    kept: list[Tensor] = []
    heads = 4
    if len(method.blocks):
        # Fused, so softmax by hand of what its projection gave.
        def softmax(module: nn.Module, inputs: tuple[Tensor], qkv: Tensor) -> None:
            q, k, _ = qkv[0].chunk(3, dim=-1)
            e = q.shape[-1] // heads
            logits = [q[0, h * e : h * e + e] @ k[:, h * e : h * e + e].T / e**0.5 for h in range(heads)]
            kept.append(torch.stack(logits).exp() / torch.stack(logits).exp().sum(dim=1, keepdim=True))

        method.blocks[-1].qkv.register_forward_hook(softmax)
    else:
        # Unfused, timm's own attention goes through its dropout.
        attention = method.backbone.model.blocks[-1].attn
        attention.fused_attn, heads = False, attention.num_heads
        attention.attn_drop.register_forward_hook(lambda module, inputs, weights: kept.append(weights[0, :, 0]))
    images = SKETCH[None] if picture == "sketch" else PHOTO[None]
    with torch.no_grad():
        method.encode(images, picture)
    found = explain(method, SKETCH, PHOTO)
    maps = found.sketch_attention if picture == "sketch" else found.photo_attention
    assert maps is not None and maps.shape == (heads, *GRID) and not found.no_attention
    torch.testing.assert_close(maps.flatten(1), kept[0][:, 1:], atol=1e-5, rtol=1e-4)
    assert (maps >= 0).all() and (maps.sum(dim=(1, 2)) <= 1 + 1e-5).all()


def test_attention_that_is_more_than_queries_and_keys_is_refused_not_drawn() -> None:
    torch.manual_seed(0)
    backbone = BackboneConfig(name="vit_small_patch16_rope_224", args={"depth": 2, "embed_dim": 32, "num_heads": 2})
    method = create_method("zse_sbir", ZseSbirConfig(heads=4, ffn=32), backbone, size=SIZE, classes=3).eval()
    found = explain(method, SKETCH, PHOTO)
    assert found.sketch_attention is None and "rotary" in found.no_attention
    assert salient_patches(found, SKETCH), "by ink, then"

    method = create("transformer")
    attention, bias = method.backbone.model.blocks[-1].attn, torch.linspace(-1, 1, 17 * 17).view(1, 1, 17, 17)
    plain = attention.forward
    attention.forward = lambda x, **_: plain(x, attn_mask=bias)
    found = explain(method, SKETCH, PHOTO)
    assert found.photo_attention is None and "relative positions" in found.no_attention


class Fixed(nn.Module):
    """Cross-attention that answers the same tokens to everything."""

    def __init__(self, patches: Tensor) -> None:
        super().__init__()
        self.tokens = torch.cat([torch.zeros(1, patches.shape[1]), patches])[None]

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        return self.tokens


def test_the_synthesis_moves_patches_to_where_their_like_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    method = create("maps")
    monkeypatch.setattr(method, "score", lambda *_: torch.zeros(1, 1))
    method.sketch_attends = Fixed(torch.eye(16))
    method.photo_attends = Fixed(torch.eye(16))
    assert torch.equal(explain(method, PHOTO, PHOTO).synthesis, PHOTO), "a picture by itself is itself"

    order = torch.randperm(16, generator=torch.manual_seed(1))
    method.sketch_attends = Fixed(torch.eye(16)[order])
    found = explain(method, SKETCH, PHOTO).synthesis
    for i, source in enumerate(order.tolist()):
        (y, x), (v, u) = divmod(i, 4), divmod(source, 4)
        piece = PHOTO[:, 16 * v : 16 * v + 16, 16 * u : 16 * u + 16]
        assert torch.equal(found[:, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16], piece), i


def test_a_size_that_is_no_multiple_of_the_grid_is_cut_without_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = patch_of_pixels(100, (7, 7))
    sizes = torch.bincount(cells[0])
    assert set(sizes.tolist()) == {14, 15} and cells[-1, -1] == 48
    backbone, config = BackboneConfig(name="test_resnet"), ZseSbirConfig(dim=32, heads=4, ffn=32)
    method = create_method("zse_sbir", config, backbone, size=100, classes=3).eval()
    monkeypatch.setattr(method, "score", lambda *_: torch.zeros(1, 1))
    method.sketch_attends = method.photo_attends = Fixed(torch.eye(49))
    photo = torch.randint(0, 256, (3, 100, 100), dtype=torch.uint8, generator=torch.manual_seed(0))
    assert torch.equal(explain(method, photo, photo).synthesis, photo)


class Selection(nn.Module):
    """Keeps the retrieval token and some patches."""

    def __init__(self, kept: list[int]) -> None:
        super().__init__()
        self.rows = torch.tensor([0, *(1 + i for i in kept)])

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.rows]


def test_selected_tokens_are_put_back_on_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    method, kept = create("maps"), [1, 2, 5, 6, 10, 15]
    monkeypatch.setattr(type(method), "MODES", (RET,))  # the relation head of this method reads all 16
    method.blocks.insert(1, Selection(kept))
    encode = method.encode
    monkeypatch.setattr(method, "encode", lambda *args: encode(*args) | {"positions": torch.tensor([kept])})
    found = explain(method, SKETCH, PHOTO)
    dropped = [i for i in range(16) if i not in kept]
    correspondence, attention = found.correspondence, found.sketch_attention
    assert attention is not None
    assert correspondence[kept][:, kept].isfinite().all() and attention.flatten(1)[:, kept].isfinite().all()
    assert correspondence[dropped].isnan().all() and correspondence[:, dropped].isnan().all()
    assert attention.flatten(1)[:, dropped].isnan().all()
    assert (found.synthesis[:, :16, :16] == 255).all(), "patch 0 was dropped"
    assert set(salient_patches(found, SKETCH)) <= {divmod(i, 4) for i in kept}
    with torch.no_grad():
        sketch, photo = encode(SKETCH[None], "sketch")["tokens"], encode(PHOTO[None], "photo")["tokens"]
        ours, theirs = method.sketch_attends(sketch, photo)[0, 1:], method.photo_attends(photo, sketch)[0, 1:]
    cosine = torch.cosine_similarity(ours[3], theirs[4], dim=0)
    assert abs(float(correspondence[kept[3], kept[4]] - cosine)) < 1e-5
    with pytest.raises(ValueError, match="dropped the sketch's patch 0,0"):
        found.similarity(0, 0)


def test_token_selection_of_a_transformer_is_seen_as_it_was_made() -> None:
    backbone = BackboneConfig(name="test_vit")
    config = ZseSbirConfig(heads=4, ffn=32, keep_rates=(0.6,))
    method = create_method("zse_sbir", config, backbone, size=SIZE, classes=3).eval()
    found = explain(method, SKETCH, PHOTO, "rn")
    with torch.no_grad():
        query, photo = method.encode(SKETCH[None], "sketch"), method.encode(PHOTO[None], "photo")
    assert abs(found.score - float(method.score(query, photo, "rn"))) < 1e-5
    for seen, encoding, axis in ((found.sketch_attention, query, 1), (found.photo_attention, photo, 0)):
        assert seen is not None and len(encoding["positions"][0]) == 10
        for values in (found.correspondence.nan_to_num(-1).amax(axis) > -1, ~seen[0].flatten().isnan()):
            assert values.nonzero().flatten().tolist() == encoding["positions"][0].tolist()

    config = ZseSbirConfig(heads=4, ffn=32, keep_rates=(1,) * 5 + (0.6,))
    last = create_method("zse_sbir", config, backbone, size=SIZE, classes=3).eval()
    found = explain(last, SKETCH, PHOTO)
    assert found.sketch_attention is None and "drops patches" in found.no_attention


def test_salient_patches_have_ink_and_are_no_neighbours() -> None:
    sketch = torch.full((1, SIZE, SIZE), 255, dtype=torch.uint8)
    sketch[:, :32, :32] = 0  # four patches, all neighbours of each other
    sketch[:, 50:60, 50:60] = 0
    chosen = salient_patches(explain(create("maps"), sketch, PHOTO), sketch)
    assert len(chosen) == 2 and (3, 3) in chosen and all(max(patch) < 2 for patch in chosen if patch != (3, 3))


def test_a_method_declares_its_explanation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else knows a method: not the report, which asks for the mode, and not `explain_pair`."""
    method = create_method("global", GlobalConfig(dim=16), BackboneConfig(name="test_resnet"), size=SIZE, classes=3)

    def whole(network: RetrievalMethod, sketch: Tensor, photo: Tensor, mode: str) -> Explanation:
        query, found = network.encode(sketch[None], "sketch"), network.encode(photo[None], "photo")
        return Explanation(**scored(network, query, found, mode))

    assert mode_of_explanation(method) is None
    monkeypatch.setattr(type(method), "EXPLAINERS", (Explainer(mode="ret", explain=whole),))
    assert mode_of_explanation(method) == "ret"
    found = explain_pair(method.eval(), SKETCH, PHOTO)
    assert found.mode == "ret" and found.score == found.scores["ret"]
    monkeypatch.setattr(type(method), "EXPLAINERS", (Explainer(mode="ret", explain=whole, ready=lambda _: False),))
    with pytest.raises(UnexplainableError):
        explain_pair(method, SKETCH, PHOTO)


def test_the_report_explains_a_score_that_the_network_has() -> None:
    """Without the relation network the mode of the explanation is missing, and the first mode is explained."""
    config = ZseSbirConfig(heads=4, ffn=32, dim=32, relation=0)
    method = create_method("zse_sbir", config, BackboneConfig(name="test_resnet"), size=SIZE, classes=3)
    assert mode_of_explanation(method) is None and explained_mode(method) == "ret"
    assert mode_of_explanation(create("maps")) == explained_mode(create("maps")) == "rn"


def test_what_cannot_be_explained_says_why() -> None:
    method = create("maps")
    plain = create_method("global", GlobalConfig(dim=16), BackboneConfig(name="test_resnet"), size=SIZE, classes=3)
    with pytest.raises(UnexplainableError, match="'global' cannot be explained.*crossatnet with attention, zse_sbir"):
        explain(plain.eval(), SKETCH, PHOTO)
    with pytest.raises(BadPicture, match="blank"):
        explain(method, torch.full_like(SKETCH, 255), PHOTO)
    with pytest.raises(ValueError, match=r"photo must be uint8 \[3, 64, 64\], got torch.uint8 \[1, 64, 64\]"):
        explain(method, SKETCH, SKETCH)
    with pytest.raises(ValueError, match="Unknown retrieval mode"):
        explain(method, SKETCH, PHOTO, "nearest")
    with pytest.raises(ValueError, match="the grid is 4x4, rows are 0..3"):
        explain(method, SKETCH, PHOTO).similarity(4, 0)
    with pytest.raises(ValueError, match="training mode"):
        explain(method.train(), SKETCH, PHOTO)
