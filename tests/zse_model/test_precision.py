"""Under autocast the network rounds; losses, mined negatives, cosines and scores do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from pipelines.encode.device import assigned_device
from tests.helpers.batches import CLASSES, Pictures
from zse_model.backbones import BackboneConfig, class_attention
from zse_model.fit import LocalContext, TrainConfig, fit
from zse_model.graph import GraphEncoder, class_graph
from zse_model.hashing import CodeHead
from zse_model.late import late_scores, pair_scores, products
from zse_model.layers import RelationHead, TokenNorm
from zse_model.losses import (
    cosine_logits,
    cross_modal_infonce,
    nearest_other,
    normalised,
    soft_label_divergence,
    triplet,
)
from zse_model.methods import (
    CrossATNetConfig,
    GlobalConfig,
    LateInteractionConfig,
    ZseSbirConfig,
    create_method,
)
from zse_model.methods.zse_sbir import hardest_negatives
from zse_model.precision import allow_tf32, full_precision
from zse_model.scoring import DotProduct, score_all

EVERY_LOSS = {
    "global": GlobalConfig(dim=8, distillation=1.0, dropped_units=(0,)),
    "zse_sbir": ZseSbirConfig(
        heads=2,
        ffn=16,
        negatives="batch",
        classification=1.0,
        contrast=1.0,
        distillation=1.0,
        late=1.0,
        place_dim=8,
        dropped_units=(0,),
        dropout=0.0,
    ),
    "late_interaction": LateInteractionConfig(dim=8, place_dim=8, pairs=1.0, distillation=1.0, dropped_units=(0,)),
    "crossatnet": CrossATNetConfig(
        dim=16, attention_dim=8, vector_dim=8, neighbours=1, bits=32, distillation=1.0, dropped_units=(0,)
    ),
}


def autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def network(name: str, backbone: str = "test_resnet") -> Any:
    torch.manual_seed(0)
    return create_method(name, EVERY_LOSS[name], BackboneConfig(name=backbone), size=32, classes=CLASSES)


def collapsed(n: int, d: int = 64, spread: float = 1e-3, seed: int = 0) -> Tensor:
    """Embeddings [n, d] as a network has them before its training: nearly the same for every picture."""
    g = torch.Generator().manual_seed(seed)
    return normalised(torch.randn(d, generator=g) + spread * torch.randn(n, d, generator=g))


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("name", sorted(EVERY_LOSS))
def test_every_loss_is_float32_under_autocast(name: str, backbone: str) -> None:
    m, batch = network(name, backbone), Pictures(4, size=32).batch(0, 0, 1)
    exact = m(batch)
    with autocast():
        rounded = m(batch)
    assert rounded.keys() == exact.keys() and len(rounded) >= 3
    assert {value.dtype for value in (rounded | exact).values()} == {torch.float32}
    for loss in exact:
        assert torch.allclose(rounded[loss], exact[loss], rtol=0.2, atol=0.2), loss


def functions() -> dict[str, Any]:
    x, y, labels = collapsed(24), collapsed(24, seed=1), torch.arange(24) % 4
    p = torch.rand(24, 64).softmax(1)
    graph = GraphEncoder(6, 8, 4)
    graph.place(torch.randn(6, 8), "knn", 2)
    head, norm = RelationHead(64, (2, 2), 0.0, False, 8), TokenNorm(64)
    tokens = x.view(6, 4, 64), y.view(6, 4, 64)
    code = CodeHead(64, 32)
    code.projection.normal_()
    vit = network("global", "test_vit").backbone.model
    normed = torch.randn(2, 5, vit.embed_dim)
    scorer = DotProduct(torch.device("cpu"))
    return {
        "contrast": lambda: cross_modal_infonce(x, y, labels, labels, 0.07),
        "triplet": lambda: triplet(x, y, x.flip(0)),
        "mined": lambda: nearest_other(x, y, labels, labels),
        "mined of a batch": lambda: hardest_negatives(x[:12], y, labels[:12], labels),
        "soft labels": lambda: soft_label_divergence(30 * x, p),
        "normalised": lambda: normalised(x),
        "cosine logits": lambda: cosine_logits(x, y, 16.0),
        "graph": lambda: graph(),
        "edges": lambda: class_graph(collapsed(6), "knn", 2),
        "tree": lambda: class_graph(collapsed(6), "mst", 0),
        "kernel": lambda: head.kernel(*tokens),
        "late": lambda: late_scores(*tokens),
        "pairs": lambda: pair_scores(*tokens),
        "products": lambda: products(tokens[0][0], tokens[1]),
        "norm": lambda: norm(tokens[0]),
        "class attention": lambda: class_attention(vit.blocks[0].attn, normed),
        "codes": lambda: code.project(x, "photo"),
        "cosine": lambda: score_all(scorer, {"embedding": x}, {"embedding": y}),
    }


@pytest.mark.parametrize("name", sorted(functions()))
def test_the_same_inputs_give_the_same_values(name: str) -> None:
    torch.manual_seed(0)
    function = functions()[name]
    exact = function()
    with autocast():
        same = function()
    assert same.dtype == exact.dtype and torch.allclose(same, exact, rtol=0, atol=1e-6)


def test_negatives_of_a_collapsed_start_are_those_of_float32() -> None:
    sketches, photos, labels = collapsed(128), collapsed(256, seed=0), torch.arange(256) % 32
    exact = (sketches @ photos.T).masked_fill(labels[:128, None] == labels, -torch.inf).argmax(1)
    with autocast():
        assert torch.equal(hardest_negatives(sketches, photos, labels[:128], labels), exact)
        rounded = (sketches @ photos.T).masked_fill(labels[:128, None] == labels, -torch.inf).argmax(1)
    assert (rounded != exact).float().mean() > 0.9, "what a product under autocast takes for the nearest"


def test_pairs_are_scored_alike_under_autocast() -> None:
    m = network("zse_sbir").eval()
    batch = Pictures(4, size=32).batch(0, 0, 1)
    with torch.no_grad():
        queries, gallery = m.encode(batch.sketch, "sketch"), m.encode(batch.photo, "photo")
        for mode in ("ret", "rn"):
            exact = m.score(queries, gallery, mode)
            with autocast():
                assert torch.equal(m.score(queries, gallery, mode), exact), mode


def test_it_is_compiled_and_knows_devices_without_autocast() -> None:
    @torch.compile(backend="eager", fullgraph=True)
    def f(x: Tensor) -> tuple[Tensor, Tensor]:
        with autocast():
            product = x @ x.T
            return product, cosine_logits(product, x, 16.0)

    assert [value.dtype for value in f(torch.randn(4, 4))] == [torch.bfloat16, torch.float32]
    with full_precision(torch.device("meta")):
        assert (torch.ones(2, 2, device="meta") @ torch.ones(2, 2, device="meta")).shape == (2, 2)


@pytest.mark.parametrize(("precision", "rounded"), [("fp32", False), ("tf32", True), ("bf16", False)])
def test_float32_is_float32_on_a_gpu_unless_a_training_asks_for_tf32(precision: Any, rounded: bool) -> None:
    """torch's own default is TF32 for convolutions alone."""
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    try:
        config = TrainConfig(steps=2, checks=2, batch_size=4, precision=precision)
        method, seen = network("global"), []
        method.register_forward_pre_hook(lambda *_: seen.append([flag.allow_tf32 for flag in flags]))

        def validate(_: Any) -> dict[str, float]:
            checked.append([flag.allow_tf32 for flag in flags])
            return {"selection/mAP_all": 0.5}

        checked: list[list[bool]] = []
        allow_tf32(False)
        fit(method, Pictures(4, size=32), LocalContext(), config, validate=validate, prepare_steps=1)
        assert seen == [[rounded, rounded]] * 2 and checked == [[False, False]] * 3
        allow_tf32(True)
        assert assigned_device().type in ("cpu", "cuda")
        assert [flag.allow_tf32 for flag in flags] == [False, False], "a search or an evaluation"
    finally:
        for flag, value in zip(flags, before, strict=True):
            flag.allow_tf32 = value


@pytest.mark.parametrize("name", sorted(EVERY_LOSS))
def test_a_training_step_is_compiled_as_one_graph(name: str) -> None:
    found = torch._dynamo.explain(network(name).train())(Pictures(4, size=32).batch(0, 0, 1))
    assert (found.graph_count, found.graph_break_count) == (1, 0), [str(r.reason) for r in found.break_reasons]


@pytest.mark.parametrize("name", sorted(EVERY_LOSS))
def test_a_training_step_computes_on_the_device_of_its_batch(name: str) -> None:
    """With GPU tensors without numbers: a tensor that is made on the CPU in between would be an error."""
    method, batch = network(name).train(), Pictures(4, size=32).batch(0, 0, 1)
    with FakeTensorMode():

        def on_gpu(x: Tensor) -> Tensor:
            return torch.empty(x.shape, dtype=x.dtype, device="cuda")

        state = {key: on_gpu(x) for key, x in (*method.named_parameters(), *method.named_buffers())}
        shown = type(batch)(**{key: on_gpu(x) for key, x in vars(batch).items()})
        losses = torch.func.functional_call(method, state, (shown,))
    assert {(x.device.type, x.dtype) for x in losses.values()} == {("cuda", torch.float32)} and len(losses) >= 3
