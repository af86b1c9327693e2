"""CrossATNet's own: masks, what is read of class vectors, codes at the end of a training."""

from __future__ import annotations

import itertools
from typing import Any, TypeVar

import pytest
import torch

from tests.zse_model.test_methods import CLASSES, CNN, SIZE, batch, pictures
from zse_model.checkpoint import Checkpoint, seen_keys, start_from
from zse_model.explanation.base import UnexplainableError
from zse_model.explanation.masks import MaskExplanation
from zse_model.explanation.pair import explain_pair, mode_of_explanation
from zse_model.methods import CrossATNetConfig, create_method
from zse_model.methods.codes import Coding
from zse_model.methods.crossatnet import CrossATNet
from zse_model.split import ZeroShotSplit
from zse_model.transforms import BadPicture, TransformConfig

SPLIT = ZeroShotSplit(name="s", citation="c", seen=("a", "b"), unseen=("c",))


def network(**changes: Any) -> CrossATNet:
    torch.manual_seed(0)
    config = CrossATNetConfig(**{"dim": 32, "vector_dim": 8, "neighbours": 1, "bits": 32, **changes})
    method = create_method("crossatnet", config, CNN, size=SIZE, classes=CLASSES).eval()
    assert isinstance(method, CrossATNet)
    return method


T = TypeVar("T", bound=Coding)


def with_codes(method: T) -> T:
    """As after a training."""
    for name, head in method.codes.items():
        x = torch.randn(80, head.mean.shape[1], generator=torch.manual_seed(0))
        head.fit_itq(x) if name.startswith("itq") else head.fit(x[:40], x[40:], torch.arange(80) % CLASSES)
    return method


def test_prototypes_follow_the_vectors_and_nothing_else_is_read() -> None:
    method = network()
    assert method.graph is not None
    vectors = torch.randn(CLASSES, 8)
    before = method.graph()
    method.set_class_vectors(vectors)
    assert not torch.allclose(before, method.graph())
    doubled = method.graph()
    method.set_class_vectors(2 * vectors)
    torch.testing.assert_close(method.graph(), doubled)
    with pytest.raises(ValueError, match=r"must be \[4, 8\], one a training class, got \[5, 8\]"):
        method.set_class_vectors(torch.randn(5, 8))


def test_a_second_stage_has_a_graph_and_codes_of_its_own() -> None:
    first = with_codes(network())
    start = Checkpoint("crossatnet", first, TransformConfig(size=SIZE), SPLIT, seen_keys([]), {})
    second = network(bits=128, vector_dim=5, edges="mst")
    vectors = torch.randn(CLASSES, 5, generator=torch.manual_seed(7))
    second.set_class_vectors(vectors)
    assert second.graph is not None and first.graph is not None
    placed = second.graph.adjacency.clone()
    assert start_from(second, start) == ["graph.inner.weight"], "of another length of class vectors"
    torch.testing.assert_close(second.graph.vectors, torch.nn.functional.normalize(vectors, dim=1))
    assert torch.equal(second.graph.adjacency, placed) and second.modes == ("ret",)
    assert torch.equal(second.global_proj.weight, first.global_proj.weight)
    assert torch.equal(second.graph.outer.weight, first.graph.outer.weight)
    third = network()
    third.set_class_vectors(torch.randn(CLASSES, 8, generator=torch.manual_seed(8)))
    vectors = third.graph.vectors.clone()  # type: ignore[union-attr]
    assert start_from(third, start) == [] and third.modes == ("ret",)
    assert torch.equal(third.graph.vectors, vectors)  # type: ignore[union-attr]


@torch.no_grad()
def test_a_photo_is_encoded_without_a_sketch_and_a_sketch_guides_its_mask() -> None:
    method = network()
    sketch, photo = (method.features(pictures(3, c), m).tokens for c, m in ((1, "sketch"), (3, "photo")))
    assert sketch is not None and photo is not None
    own, guided = method.mask(photo), method.guided_mask(sketch, photo)
    assert own is not None and guided is not None
    for mask in (own, guided):
        assert mask.shape == photo.shape[:2] and (mask > 0).all() and (mask < 1).all()
    moved = method.guided_mask(sketch.roll(1, 0), photo)
    assert moved is not None and not torch.allclose(moved, guided), "another sketch, another mask"
    shuffled = method.guided_mask(sketch.flip(1), photo)
    torch.testing.assert_close(shuffled, guided)
    assert network(attention=0).mask(photo) is None


@torch.no_grad()
def test_a_mask_moves_weight_between_places_and_does_not_add_any() -> None:
    method, features = network(), network().features(pictures(3, 3), "photo")
    assert features.tokens is not None
    flat = torch.full(features.tokens.shape[:2], 0.7)
    plain = method.embed(features, None)
    torch.testing.assert_close(method.embed(features, flat), plain)
    first = torch.zeros_like(flat)
    first[:, 0] = 1
    assert not torch.allclose(method.embed(features, first), plain, atol=1e-4)


def explain(method: CrossATNet, sketch: torch.Tensor, photo: torch.Tensor, mode: str | None = None) -> MaskExplanation:
    found = explain_pair(method, sketch, photo, mode)
    assert isinstance(found, MaskExplanation)
    return found


def test_an_explanation_shows_the_masks_that_the_network_reads_with() -> None:
    method = with_codes(network())
    assert isinstance(method.own_mask, torch.nn.Sequential)
    torch.nn.init.normal_(method.own_mask[2].weight)
    sketch, photo = pictures(1, 1)[0], pictures(1, 3)[0]
    found = explain(method, sketch, photo, "rerank-5")
    assert found.mode == "ret" and found.scores.keys() == {"ret", "hash-32", "itq-32", "asym-32"}
    assert found.own.shape == found.guided.shape == method.backbone.grid
    # Half the picture gone: its own mask is another one, and the guided one too.
    blank = photo.clone()
    blank[:, :, SIZE // 2 :] = 0
    other = explain(method, sketch, blank)
    assert not torch.allclose(other.own, found.own) and not torch.allclose(other.guided, found.guided)
    again = explain(method, pictures(1, 1, 7)[0], photo)
    assert torch.equal(again.own, found.own) and not torch.allclose(again.guided, found.guided)
    assert again.guided_score != found.guided_score != found.score
    with pytest.raises(BadPicture, match="no ink"):
        explain(method, torch.full_like(sketch, 255), photo)
    assert mode_of_explanation(method) == "ret" and mode_of_explanation(network(attention=0)) is None
    with pytest.raises(UnexplainableError, match="'crossatnet' cannot be explained.*: crossatnet with attention"):
        explain_pair(network(attention=0), sketch, photo)


def test_a_training_ends_with_the_baseline_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zse_model.methods.codes.CODE_PICTURES", 64)
    method = network()
    assert method.modes == ("ret",) and method.rerank is None
    read = iter(itertools.repeat(batch(4), 5))
    method.conclude(read)
    assert len(list(read)) == 1, "64 pictures are four batches of 4 items with 4 pictures each"
    assert method.modes == ("ret", "hash-32", "itq-32", "asym-32")
    again = create_method("crossatnet", method.config, CNN, size=SIZE, classes=CLASSES)
    again.load_state_dict(method.state_dict())
    assert again.modes == method.modes
    encoded = method.encode(pictures(3, 3), "photo")
    assert {name: tuple(value.shape) for name, value in encoded.items()} == {
        "embedding": (3, 32),
        "hash-32": (3, 4),
        "itq-32": (3, 4),
    }


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="one of triplet, classification and graph must be above 0"):
        network(triplet=0, classification=0, graph=0)
    with pytest.raises(ValueError, match=r"bits must be 0 \(no codes\), 32, 64, 128 or 256, got 48"):
        network(bits=48)
    with pytest.raises(ValueError, match="neighbours: 3 of 4 classes; allowed are 1 to 2"):
        network(neighbours=3)


@torch.no_grad()
def test_targets_stay_even_where_nothing_was_measured() -> None:
    config = CrossATNetConfig(dim=16, vector_dim=8, neighbours=1, distillation=1.0, dropped_units=(0,))
    method = create_method("crossatnet", config, CNN, size=SIZE, classes=CLASSES).eval()
    method.measure_start(iter([]), lambda x: x)
    assert all(loss.isfinite().all() for loss in method(batch(4)).values())
