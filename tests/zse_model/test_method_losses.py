"""Every named loss of every method, item by item, against loops in float64 over the method's own features.

Backbones are asked as ever, and what they find is replaced by a table: a row of random numbers for each picture, which
carries its row in a pixel. So the features are known, differ as much as those of real pictures, and are cheap.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.helpers import oracles
from tests.helpers.oracles import (
    cosine,
    cross_entropy,
    distance,
    divergence,
    doubles,
    hinge,
    infonce,
    linear,
    nearest,
    sigmoid,
    unit,
)
from zse_model.backbones import Backbone, BackboneConfig, Features
from zse_model.hashing import CodeHead
from zse_model.late import late_scores
from zse_model.layers import CosineClassifier, OverlappingTokenizer, RelationHead, SelfAttentionBlock, TokenNorm
from zse_model.methods import CrossATNetConfig, GlobalConfig, TrainBatch, ZseSbirConfig
from zse_model.methods.crossatnet import CrossATNet
from zse_model.methods.distillation import Distillation
from zse_model.methods.global_embedding import GlobalEmbedding
from zse_model.methods.zse_sbir import ZseSbir, hardest_negatives

SIZE, CLASSES, ITEMS = 32, 5, 5
BACKBONE = BackboneConfig(name="test_resnet")
ROLES = ("sketch", "sketch2", "photo", "negative")
LABELS = [0, 1, 2, 0, 3]
NEGATIVE_LABELS = [2, 3, 4, 1, 3]
"""Class 4 is a negative's alone, the last item's negative is another instance of its own class."""


class Table(nn.Module):
    """Features by the number that a picture carries in its first pixel; what a backbone found is dropped."""

    def __init__(self, backbone: Backbone, seed: int) -> None:
        super().__init__()
        generator = torch.manual_seed(seed)
        self.pooled = nn.Parameter(torch.randn(256, backbone.pooled_dim, generator=generator))
        self.tokens = nn.Parameter(torch.randn(256, backbone.tokens, backbone.token_dim, generator=generator))

    def forward(self, _backbone: nn.Module, asked: tuple[Any, ...], _found: Features) -> Features:
        rows = asked[0][:, 0, 0, 0].long()
        return Features(self.pooled[rows], self.tokens[rows], None)


def known(method: Any) -> Any:
    """The method in eval mode, with tables for backbones and with weights at which no part of a loss is negligible."""
    backbones = [module for module in method.modules() if isinstance(module, Backbone)]
    inside = {id(p) for backbone in backbones for p in backbone.model.parameters()}
    generator = torch.manual_seed(1)
    with torch.no_grad():
        for parameter in method.parameters():
            if id(parameter) not in inside:
                parameter.normal_(0, 0.4, generator=generator)
        for module in method.modules():
            if isinstance(module, Distillation):
                module.targets.copy_((2 * torch.randn(module.targets.shape, generator=generator)).softmax(1))
    for seed, backbone in enumerate(backbones):
        table = Table(backbone, seed)
        backbone.register_forward_hook(table)
        object.__setattr__(backbone, "table", table)  # no parameter of the method
    return method.eval()


def numbered(role: str, items: int = ITEMS) -> Tensor:
    """Pictures that carry their row of a table: uint8 [items, 1 or 3, SIZE, SIZE]."""
    pictures = torch.full((items, 1 if "sketch" in role else 3, SIZE, SIZE), 7, dtype=torch.uint8)
    pictures[:, :, 0, 0] = torch.arange(items)[:, None] + ROLES.index(role) * items
    return pictures


def batch(labels: list[int] = LABELS, negatives: list[int] = NEGATIVE_LABELS) -> TrainBatch:
    pictures = {role: numbered(role, len(labels)) for role in ROLES}
    return TrainBatch(**pictures, label=torch.tensor(labels), negative_label=torch.tensor(negatives))


def features(backbone: Any, role: str, items: int = ITEMS) -> list[tuple[Any, Any]]:
    """(pooled [p], tokens [n, w]) of each picture of a role, float64."""
    rows = range(ROLES.index(role) * items, (ROLES.index(role) + 1) * items)
    return [(doubles(backbone.table.pooled[i]), doubles(backbone.table.tokens[i])) for i in rows]


def labels_of(role: str) -> list[int]:
    return NEGATIVE_LABELS if role == "negative" else LABELS


def check(found: dict[str, Tensor], expected: dict[str, list[float]]) -> None:
    """The same names, the same value for each item, and no two items alike."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(doubles(found[name]), values, rtol=2e-4, atol=2e-5, err_msg=name)
        assert np.ptp(values) > 1e-3, f"{name} would be right in any order of the items"


def classified(x: dict[str, list[Any]], prototypes: Any, scale: float, weight: float) -> list[float]:
    """The mean of an item's pictures; x: embeddings by role, whose name begins with one of ROLES."""
    losses = [
        [cross_entropy([scale * cosine(e, p) for p in prototypes], label) for e, label in zip(x[role], of, strict=True)]
        for role, of in ((role, labels_of(role.split(",")[0])) for role in x)
    ]
    return [weight * sum(column) / len(x) for column in zip(*losses, strict=True)]


def contrasted(x: dict[str, list[Any]], temperature: float, weight: float) -> list[float]:
    """Either sketch asks all photos, the photo asks all sketches, the negative asks nothing."""
    photos, of_photos = x["photo"] + x["negative"], LABELS + NEGATIVE_LABELS
    sketches, of_sketches = x["sketch"] + x["sketch2"], LABELS + LABELS
    out = []
    for i, label in enumerate(LABELS):
        first, second = (infonce(x[role][i], photos, label, of_photos, temperature) for role in ("sketch", "sketch2"))
        photo = infonce(x["photo"][i], sketches, label, of_sketches, temperature)
        out.append(weight * ((first + second) / 2 + photo) / 2)
    return out


def distilled(method: Any, pooled: dict[str, list[Any]], dropped: set[int], weight: float) -> list[float]:
    """KL of the class's soft labels from the kept units of the classifier, the mean of an item's pictures."""
    out = []
    for i in range(ITEMS):
        total = 0.0
        for role in ROLES:
            own = getattr(method, "sketch_backbone", None) if "sketch" in role else None
            logits = linear((own or method.backbone).classifier, pooled[role][i])
            kept = np.array([logits[u] for u in range(len(logits)) if u not in dropped])
            total += divergence(kept, doubles(method.distillation.targets[labels_of(role)[i]]))
        out.append(weight * total / 4)
    return out


# global


def global_embedding(**changes: Any) -> GlobalEmbedding:
    config = {
        "dim": 6,
        "classification": 0.7,
        "contrast": 1.3,
        "distillation": 0.4,
        "temperature": 0.3,
        "scale": 5.0,
        "dropped_units": (0, 3, 9),
    }
    torch.manual_seed(0)
    return known(GlobalEmbedding(GlobalConfig(**(config | changes)), BACKBONE, size=SIZE, classes=CLASSES))


@pytest.mark.parametrize("readout", ["pooled", "head"])
def test_losses_of_global(readout: Any) -> None:
    method = global_embedding(readout=readout)
    pooled = {role: [p for p, _ in features(method.backbone, role)] for role in ROLES}
    x = {role: [unit(linear(method.head, p)) for p in pooled[role]] for role in ROLES}
    expected = {
        "classification": classified(x, doubles(method.classifier.prototypes), 5.0, 0.7),
        "contrast": contrasted(x, 0.3, 1.3),
        "distillation": distilled(method, pooled, {0, 3, 9}, 0.4),
    }
    check(method(batch()), expected)
    for role in ROLES:
        read = x[role] if readout == "head" else [unit(p) for p in pooled[role]]
        encoded = method.encode(numbered(role), "sketch" if "sketch" in role else "photo")
        np.testing.assert_allclose(doubles(encoded["embedding"]), read, atol=1e-5)


def test_the_contrast_is_with_what_all_workers_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second worker with the same pictures doubles the candidates, and the right ones are as near as before."""
    method = global_embedding()
    alone = method(batch())["contrast"]
    monkeypatch.setattr("zse_model.methods.global_embedding.gathered", lambda x: torch.cat([x, x]))
    torch.testing.assert_close(method(batch())["contrast"], alone + 1.3 * math.log(2))


# crossatnet


def crossatnet(**changes: Any) -> CrossATNet:
    config = {
        "dim": 6,
        "attention_dim": 4,
        "vector_dim": 3,
        "neighbours": 1,
        "triplet": 0.9,
        "margin": 0.8,
        "attention": 1.7,
        "graph": 0.6,
        "classification": 1.2,
        "reconstruction": 0.5,
        "distillation": 0.3,
        "scale": 5.0,
        "dropped_units": (1, 4),
    }
    torch.manual_seed(0)
    return known(CrossATNet(CrossATNetConfig(**(config | changes)), BACKBONE, size=SIZE, classes=CLASSES))


def embedded(method: CrossATNet, picture: tuple[Any, Any], mask: Any = None) -> Any:
    """What the pooled feature and the places say, each place as often as 1 + its mask."""
    pooled, tokens = picture
    weights = np.ones(len(tokens)) if mask is None else 1 + mask
    seen = sum(w * token for w, token in zip(weights, tokens, strict=True)) / weights.sum()
    return unit(linear(method.global_proj, pooled) + linear(method.local_proj, seen))


def own_mask(method: CrossATNet, photo: tuple[Any, Any]) -> Any:
    hidden, out = (layer for layer in method.own_mask if isinstance(layer, nn.Linear))  # type: ignore[union-attr]
    return np.array([sigmoid(linear(out, np.maximum(linear(hidden, t), 0))[0]) for t in photo[1]])


def guided_mask(method: CrossATNet, sketch: tuple[Any, Any], photo: tuple[Any, Any]) -> Any:
    """Per place of the photo the logarithm of the mean over the sketch's places of exp of the scaled affinity."""
    assert method.query_proj is not None and method.key_proj is not None
    guides = [linear(method.key_proj, t) for t in sketch[1]]
    asked = [linear(method.query_proj, t) for t in photo[1]]
    width = math.sqrt(len(guides[0]))
    return np.array([sigmoid(math.log(sum(math.exp(a @ g / width) for g in guides) / len(guides))) for a in asked])


def two_triplets(
    x: dict[str, list[Any]], seen: dict[str, list[Any]], sketches: list[Any], margin: float, weight: float
) -> list[float]:
    """From the sketch to the photos as it sees them, and from the photo to the other sketch and the nearest wrong one
    of `sketches`, whose labels are those of the items over and over."""
    out = []
    for i, label in enumerate(LABELS):
        wrong = nearest(x["photo"][i], sketches, label, LABELS * (len(sketches) // ITEMS))
        assert wrong is not None
        forth = hinge(x["sketch"][i], seen["photo"][i], seen["negative"][i], margin)
        back = hinge(x["photo"][i], x["sketch2"][i], sketches[wrong], margin)
        out.append(weight * (forth + back) / 2)
    return out


def followed(masks: dict[str, list[tuple[Any, Any]]], weight: float) -> list[float]:
    """How far a photo's own mask is from the guided one, squared, over places and both photos of an item."""
    return [
        weight * sum(float(((own - guided) ** 2).mean()) for own, guided in (of[i] for of in masks.values())) / 2
        for i in range(ITEMS)
    ]


def reconstructed(method: CrossATNet, x: dict[str, list[Any]], pictures: Any, weight: float) -> list[float]:
    """A sketch says what the backbone found in its photo, the photo what it found in that sketch."""
    assert method.to_photo is not None and method.to_sketch is not None
    out = []
    for i in range(ITEMS):
        photo = cosine(linear(method.to_photo, x["sketch"][i]), pictures["photo"][i][0])
        sketch = cosine(linear(method.to_sketch, x["photo"][i]), pictures["sketch"][i][0])
        out.append(weight * ((1 - photo) + (1 - sketch)) / 2)
    return out


@pytest.mark.parametrize("attention", [1.7, 0])
@pytest.mark.parametrize("share_backbone", [True, False])
def test_losses_of_crossatnet(share_backbone: bool, attention: float) -> None:
    method = crossatnet(share_backbone=share_backbone, attention=attention)
    of_sketches = method.backbone if method.sketch_backbone is None else method.sketch_backbone
    pictures = {role: features(of_sketches if "sketch" in role else method.backbone, role) for role in ROLES}
    x = {role: [embedded(method, picture) for picture in pictures[role]] for role in ROLES[:2]}
    seen: dict[str, list[Any]] = {}
    masks: dict[str, list[tuple[Any, Any]]] = {}
    for role in ROLES[2:]:
        if not attention:
            x[role] = seen[role] = [embedded(method, picture) for picture in pictures[role]]
            continue
        # It is the item's first sketch that asks, both of the photo and of the negative.
        pairs = list(zip(pictures["sketch"], pictures[role], strict=True))
        masks[role] = [(own_mask(method, photo), guided_mask(method, sketch, photo)) for sketch, photo in pairs]
        for to, which in ((x, 0), (seen, 1)):
            to[role] = [embedded(method, p, m[which]) for p, m in zip(pictures[role], masks[role], strict=True)]
    everything = x | {f"{role}, guided": seen[role] for role in seen} if attention else x
    graph = doubles(method.graph())  # type: ignore[misc]
    expected = {
        "triplet": two_triplets(x, seen, x["sketch"] + x["sketch2"], 0.8, 0.9),
        **({"attention": followed(masks, attention)} if attention else {}),
        "classification": classified(everything, doubles(method.classifier.prototypes), 5.0, 1.2),  # type: ignore[arg-type]
        "graph": classified(everything, graph, 5.0, 0.6),
        "reconstruction": reconstructed(method, x, pictures, 0.5),
        "distillation": distilled(method, {r: [p for p, _ in pictures[r]] for r in ROLES}, {1, 4}, 0.3),
    }
    check(method(batch()), expected)
    for role in ROLES:  # what is retrieved: a photo with its own mask, a sketch with none
        encoded = method.encode(numbered(role), "sketch" if "sketch" in role else "photo")
        np.testing.assert_allclose(doubles(encoded["embedding"]), x[role], atol=1e-5)


def test_the_nearest_wrong_sketch_is_one_of_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second worker has the opposite of each sketch, with the same label."""
    method = crossatnet(attention=0)
    x = {role: [embedded(method, picture) for picture in features(method.backbone, role)] for role in ROLES}
    sketches = x["sketch"] + x["sketch2"]
    monkeypatch.setattr(
        "zse_model.methods.crossatnet.gathered", lambda x: torch.cat([x, -x if x.is_floating_point() else x])
    )
    expected = two_triplets(x, x, sketches + [-sketch for sketch in sketches], 0.8, 0.9)
    assert not np.allclose(expected, two_triplets(x, x, sketches, 0.8, 0.9))
    np.testing.assert_allclose(doubles(method(batch())["triplet"]), expected, atol=1e-5)


def test_a_batch_of_one_class_pushes_no_photo_from_a_sketch() -> None:
    """The nearest wrong sketch is none: only the sketch's own triplet is left, whose negative the item brings."""
    method = crossatnet(attention=0)
    found = method(batch([1, 1, 1], [2, 2, 0]))["triplet"]
    sketches, photos, negatives = (features(method.backbone, role, 3) for role in ("sketch", "photo", "negative"))
    x = [[embedded(method, picture) for picture in role] for role in (sketches, photos, negatives)]
    expected = [0.9 * hinge(x[0][i], x[1][i], x[2][i], 0.8) / 2 for i in range(3)]
    assert max(expected) > 0
    np.testing.assert_allclose(doubles(found), expected, atol=1e-5)


def test_a_reconstruction_moves_no_target() -> None:
    """Embeddings that are constant leave the targets as the only way to the features, and there is none."""
    method = crossatnet(attention=0)
    with torch.no_grad():
        method.global_proj.weight.zero_(), method.local_proj.weight.zero_()
    table = method.backbone.table  # type: ignore[attr-defined]
    method(batch())["reconstruction"].sum().backward()
    assert method.to_photo is not None and method.to_photo.weight.grad is not None
    assert table.pooled.grad is None or not table.pooled.grad.any()


def test_the_guided_mask_is_a_target_that_attention_does_not_move() -> None:
    method = crossatnet()
    assert method.query_proj is not None and method.key_proj is not None and method.own_mask is not None
    method(batch())["attention"].sum().backward()
    assert method.query_proj.weight.grad is None and method.key_proj.weight.grad is None
    assert all(p.grad is not None and p.grad.any() for p in method.own_mask.parameters())


def test_codes_are_fitted_to_each_modality_as_it_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """And to no more batches than needed: two of 20 pictures are 40."""
    monkeypatch.setattr("zse_model.methods.codes.CODE_PICTURES", 40)
    method, second = crossatnet(bits=32), ([4, 3, 1, 1, 0], [0, 0, 4, 2, 1])
    method.conclude(iter([batch(), batch(*second)]))
    sketches = [embedded(method, picture) for role in ROLES[:2] for picture in features(method.backbone, role)] * 2
    photos = [embedded(method, p, own_mask(method, p)) for r in ROLES[2:] for p in features(method.backbone, r)] * 2
    hashed, baseline = method.codes["hash-32"], method.codes["itq-32"]
    np.testing.assert_allclose(hashed.mean, [np.mean(sketches, axis=0), np.mean(photos, axis=0)], atol=1e-6)
    np.testing.assert_allclose(baseline.mean, [np.mean(sketches + photos, axis=0)] * 2, atol=1e-6)
    labels = torch.tensor([*LABELS, *LABELS, *second[0], *second[0], *LABELS, *NEGATIVE_LABELS, *second[0], *second[1]])
    expected = CodeHead(6, 32)
    expected.fit(*(torch.tensor(np.stack(side)).float() for side in (sketches, photos)), labels)
    # Up to the rotation, which comes of signs.
    directions, known_directions = (head.projection @ head.projection.T for head in (hashed, expected))
    torch.testing.assert_close(directions, known_directions, atol=1e-4, rtol=1e-3)


# zse_sbir


def zse_sbir(**changes: Any) -> ZseSbir:
    config = {
        "dim": 8,
        "heads": 2,
        "ffn": 12,
        "depth": 1,
        "triplet": 1.6,
        "margin": 0.9,
        "relation": 3.5,
        "classification": 0.7,
        "contrast": 1.3,
        "distillation": 0.4,
        "temperature": 0.3,
        "scale": 5.0,
        "dropped_units": (2, 7),
    }
    torch.manual_seed(0)
    return known(ZseSbir(ZseSbirConfig(**(config | changes)), BACKBONE, size=SIZE, classes=CLASSES))


@torch.no_grad()
def tokens_of(method: ZseSbir, role: str) -> list[Tensor]:
    """[1, 1 + n, dim] of each picture alone."""
    modality: Any = "sketch" if "sketch" in role else "photo"
    pictures = numbered(role)
    return [method.encode(pictures[i : i + 1], modality)["tokens"] for i in range(ITEMS)]


def related(method: ZseSbir, sketch: Tensor, photo: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The logit of a pair, and both retrieval tokens after cross-attention."""
    ours, theirs = method.cross_attend(sketch, photo)
    assert method.relation is not None
    return method.relation(ours[:, 1:], theirs[:, 1:]), ours[:, 0], theirs[:, 0]


@torch.no_grad()
@pytest.mark.parametrize("negatives", ["item", "batch"])
def test_losses_of_zse_sbir(negatives: Any) -> None:
    method = zse_sbir(negatives=negatives)
    tokens = {role: tokens_of(method, role) for role in ROLES}
    x = {role: [unit(doubles(t[0, 0])) for t in tokens[role]] for role in ROLES}
    wrong = tokens["negative"]
    if negatives == "batch":
        photos, of_photos = x["photo"] + x["negative"], LABELS + NEGATIVE_LABELS
        chosen = [nearest(x["sketch2"][i], photos, LABELS[i], of_photos) for i in range(ITEMS)]
        wrong = [(tokens["photo"] + tokens["negative"])[j] for j in chosen if j is not None]
        assert len(wrong) == ITEMS and chosen != list(range(ITEMS, 2 * ITEMS))
    triplets, relations = [], []
    for i in range(ITEMS):
        right_logit, sketch, photo = related(method, tokens["sketch"][i], tokens["photo"][i])
        wrong_logit, _, negative = related(method, tokens["sketch2"][i], wrong[i])
        triplets.append(1.6 * hinge(*(doubles(t[0]) for t in (sketch, photo, negative)), 0.9))
        right, other = (float(sigmoid(doubles(logit[0]))) for logit in (right_logit, wrong_logit))
        relations.append(3.5 * ((right - 0.99) ** 2 + (other - 0.01) ** 2) / 2)
    pooled = {role: [p for p, _ in features(method.backbone, role)] for role in ROLES}
    expected = {
        "triplet": triplets,
        "relation": relations,
        "classification": classified(x, doubles(method.classifier.prototypes), 5.0, 0.7),
        "contrast": contrasted(x, 0.3, 1.3),
        "distillation": distilled(method, pooled, {2, 7}, 0.4),
    }
    check(method(batch()), expected)


@pytest.mark.parametrize("distance", [0.0, 1.5])
@torch.no_grad()
def test_late_learns_of_rn_how_all_photos_of_the_batch_rank_for_a_sketch(distance: float) -> None:
    """The divergence of what the matches say from what the relation network says, without its dropout."""
    method = zse_sbir(late=0.8, late_distillation=0.6, late_temperature=0.2, place_dim=5, late_distance=distance)
    tokens = {role: tokens_of(method, role) for role in ROLES}
    places = {
        role: doubles(method.encode(numbered(role), "sketch" if "sketch" in role else "photo")["places"])
        for role in ROLES
    }
    photos = [*places["photo"], *places["negative"]]
    side = math.isqrt(len(photos[0]))
    at = [((i // side + 0.5) / side, (i % side + 0.5) / side) for i in range(side * side)]
    costs = np.array([[distance * math.dist(here, there) ** 2 for there in at] for here in at])
    expected = []
    for i in range(ITEMS):
        logits = [
            float(related(method, tokens["sketch"][i], other)[0][0]) for other in tokens["photo"] + tokens["negative"]
        ]
        weights = np.linalg.norm(places["sketch"][i], axis=1, keepdims=True)
        scores = np.array([(places["sketch"][i] @ photo.T - weights * costs).max(1).sum() for photo in photos])
        expected.append(0.6 * divergence(scores / 0.2, np.exp(oracles.log_softmax(np.array(logits)))))
    method.train()  # dropout in both directions and in the relation network
    found = method(batch())
    np.testing.assert_allclose(doubles(found["late_distillation"]), expected, rtol=2e-3, atol=2e-5)
    assert np.ptp(expected) > 1e-3


def test_late_is_trained_by_classes_as_in_late_interaction_and_rn_learns_nothing_of_it() -> None:
    method = zse_sbir(late=0.8, late_distillation=0.6, late_temperature=0.2, place_dim=5)
    found = method(batch())
    (found["late"] + found["late_distillation"]).mean().backward()
    taught = [n for n, p in method.named_parameters() if p.grad is not None]
    assert taught == ["local.sketch_bias", "local.photo_bias", "local.project.weight", "local.salience.weight"]
    scores = late_scores(
        torch.cat([method.encode(numbered(role), "sketch")["places"] for role in ("sketch", "sketch2")]),
        torch.cat([method.encode(numbered(role), "photo")["places"] for role in ("photo", "negative")]),
    )
    by_hand = doubles(scores)
    labels, of_photos = LABELS + LABELS, LABELS + NEGATIVE_LABELS
    for i, label in enumerate(LABELS):
        asked = [from_row(by_hand[i + k * ITEMS], label, of_photos) for k in (0, 1)]
        expected = 0.8 * (sum(asked) / 2 + from_row(by_hand[:, i], label, labels)) / 2
        assert float(found["late"][i].detach()) == pytest.approx(expected, rel=1e-4)


def from_row(scores: Any, label: int, labels: list[int]) -> float:
    """InfoNCE of one anchor from its scores, at the temperature 0.2."""
    log_p = oracles.log_softmax(np.array(scores) / 0.2)
    return float(-np.mean([p for p, of in zip(log_p, labels, strict=True) if of == label]))


def attended(layer: Any, own: Any, other: Any, sources: str) -> Any:
    """Cross-attention of one picture, head by head and row by row; sources: whose queries, keys and values, o or x."""
    d, heads = own.shape[1], layer.heads
    width = d // heads
    q, k, v = (linear(m, own if s == "o" else other) for m, s in zip((layer.q, layer.k, layer.v), sources, strict=True))
    rows = []
    for i in range(len(own)):
        parts = []
        for h in range(heads):
            columns = slice(h * width, (h + 1) * width)
            weights = np.exp(oracles.log_softmax(k[:, columns] @ q[i, columns] / math.sqrt(width)))
            parts.append(weights @ v[:, columns])
        x = normed(layer.norm1, own[i] + linear(layer.out, np.concatenate(parts)))
        y = linear(layer.ffn[2], np.maximum(linear(layer.ffn[0], x), 0))
        rows.append(normed(layer.norm2, x + y))
    return np.stack(rows)


def normed(norm: nn.LayerNorm, x: Any) -> Any:
    return doubles(norm.weight) * (x - x.mean()) / math.sqrt(x.var() + norm.eps) + doubles(norm.bias)


@torch.no_grad()
@pytest.mark.parametrize(("wiring", "sources"), [("standard", "oxx"), ("figure", "xoo")])
def test_a_pair_is_related_by_what_each_picture_asks_of_the_other(wiring: Any, sources: str) -> None:
    method = zse_sbir(cross_attention=wiring)
    sketch, photo = tokens_of(method, "sketch")[0], tokens_of(method, "photo")[1]
    s, p = doubles(sketch[0]), doubles(photo[0])
    ours, theirs = attended(method.sketch_attends, s, p, sources), attended(method.photo_attends, p, s, sources)
    kernel = np.array([cosine(a, b) for a in ours[1:] for b in theirs[1:]])
    first, second, third = (layer for layer in method.relation.perceptron if isinstance(layer, nn.Linear))
    out = linear(third, np.maximum(linear(second, np.maximum(linear(first, kernel), 0)), 0))
    logit, sketch_ret, photo_ret = related(method, sketch, photo)
    np.testing.assert_allclose(doubles(logit), out, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(doubles(sketch_ret[0]), ours[0], atol=1e-5)
    np.testing.assert_allclose(doubles(photo_ret[0]), theirs[0], atol=1e-5)


@torch.no_grad()
def test_a_block_is_self_attention_and_a_perceptron_on_normed_tokens() -> None:
    torch.manual_seed(0)
    block, x = SelfAttentionBlock(4, 2, 6, dropout=0.5).eval(), torch.randn(1, 3, 4)
    for parameter in block.parameters():
        parameter.normal_(0, 0.5)
    own = doubles(x[0])
    q, k, v = (np.stack([linear(block.qkv, normed(block.norm1, t)) for t in own])[:, i : i + 4] for i in (0, 4, 8))
    after = []
    for i in range(3):
        heads = (slice(0, 2), slice(2, 4))
        weights = [np.exp(oracles.log_softmax(k[:, h] @ q[i, h] / math.sqrt(2))) for h in heads]
        mixed = np.concatenate([w @ v[:, h] for w, h in zip(weights, heads, strict=True)])
        h = own[i] + linear(block.out, mixed)
        hidden = torch.nn.functional.gelu(torch.tensor(linear(block.mlp[0], normed(block.norm2, h))))
        after.append(h + linear(block.mlp[3], hidden.numpy()))
    np.testing.assert_allclose(doubles(block(x)[0]), after, atol=1e-5)


@torch.no_grad()
def test_the_norm_of_published_weights_divides_by_the_unbiased_deviation() -> None:
    norm = TokenNorm(3, eps=0.5)
    norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0])), norm.bias.copy_(torch.tensor([5.0, 0.0, -5.0]))
    found = norm(torch.tensor([[1.0, 3.0, 5.0]]))  # mean 3, deviation 2
    torch.testing.assert_close(found, torch.tensor([[5 - 2 / 2.5, 0.0, -5 + 3 * 2 / 2.5]]))


@torch.no_grad()
def test_the_published_layout_reads_tokens_as_maps_without_transposing_them() -> None:
    tokens = torch.randn(2, 16, 4, generator=torch.manual_seed(0))
    head = RelationHead(4, (4, 4), 0.0, pool=True, pooled_dim=5, layout="released")
    assert head.convolution is not None
    expected = head.convolution(tokens.reshape(2, 4, 4, 4)).flatten(2).mT
    torch.testing.assert_close(head.anchors(tokens), torch.nn.functional.normalize(expected, dim=2))


@torch.no_grad()
def test_the_tokenizer_has_the_widths_and_strides_of_the_paper_and_no_bias() -> None:
    """A picture of zeros has tokens of zeros."""
    tokenizer = OverlappingTokenizer(24)
    layers = [layer for layer in tokenizer.convolutions if isinstance(layer, nn.Conv2d)]
    assert [(layer.out_channels, layer.kernel_size[0], layer.stride[0]) for layer in layers] == [
        (64, 7, 2),
        (128, 3, 2),
        (256, 3, 2),
        (24, 3, 2),
    ]
    found = tokenizer(torch.zeros(1, 3, 48, 64))
    assert found.shape == (1, 3 * 4, 24) and not found.any()


def test_new_prototypes_are_about_as_long_as_embeddings() -> None:
    """A step of Adam then turns a prototype by about the learning rate, for any width."""
    for dim in (16, 512):
        lengths = CosineClassifier(50, dim, 1.0).prototypes.detach().norm(dim=1)
        assert 0.8 < lengths.mean() < 1.2


def test_new_attention_on_maps_begins_near_the_identity() -> None:
    """Branches are a tenth as large as PyTorch draws them, 1 / sqrt(inputs) at most."""
    method = ZseSbir(ZseSbirConfig(dim=16, heads=2, ffn=64, depth=1), BACKBONE, size=SIZE, classes=CLASSES)
    small = [method.blocks[0].out, method.blocks[0].mlp[3]]
    for layer in (method.sketch_attends, method.photo_attends):
        assert layer is not None
        small += [layer.out, layer.ffn[2]]
        assert layer.q.weight.abs().max() > 0.1 * 16**-0.5, "what asks is as drawn"
    for linear_layer in small:
        assert 0 < linear_layer.weight.abs().max() <= 0.1 * linear_layer.in_features**-0.5


@torch.no_grad()
def test_the_retrieval_token_starts_from_the_pooled_feature_and_goes_through_the_blocks() -> None:
    method = zse_sbir()
    (pooled, tokens), found = features(method.backbone, "photo")[2], tokens_of(method, "photo")[2]
    assert method.ret is not None and method.pooled_proj is not None and method.positions is not None
    first = doubles(method.ret[0, 0]) + linear(method.pooled_proj, pooled)
    x = np.stack([first, *(linear(method.project, t) for t in tokens)]) + doubles(method.positions[0])  # type: ignore[arg-type]
    torch.testing.assert_close(
        found[0], method.norm(method.blocks(torch.tensor(x)[None].float()))[0], atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
@pytest.mark.parametrize("readout", ["token", "pooled"])
def test_zse_sbir_is_retrieved_by_what_it_reads_out(readout: Any) -> None:
    method = zse_sbir(readout=readout)
    encoded = method.encode(numbered("photo"), "photo")
    read = (
        [p for p, _ in features(method.backbone, "photo")] if readout == "pooled" else doubles(encoded["tokens"][:, 0])
    )
    np.testing.assert_allclose(doubles(encoded["embedding"]), [unit(x) for x in read], atol=1e-5)


def test_an_item_without_another_class_in_the_batch_keeps_its_own_negative() -> None:
    x = torch.nn.functional.normalize(torch.randn(9, 3, generator=torch.manual_seed(0)), dim=1)
    found = hardest_negatives(x[:3], x[3:], torch.tensor([1, 1, 2]), torch.tensor([1] * 6))
    photos = list(doubles(x[3:]))
    assert found.tolist() == [3, 4, nearest(doubles(x[2]), photos, 2, [1] * 6)]
    assert distance(photos[int(found[2])], doubles(x[2])) == min(distance(p, doubles(x[2])) for p in photos)


# distillation


def measured(method: Any, batches: list[TrainBatch], total: Any) -> Any:
    method.measure_start(iter(batches), total)
    return doubles(method.distillation.targets)


@pytest.mark.parametrize("build", [global_embedding, lambda: crossatnet(share_backbone=False), zse_sbir])
def test_soft_labels_are_the_mean_of_a_class_over_photos_of_all_workers(build: Any) -> None:
    """Over the kept units alone; a class that no photo shows has the mean of all photos."""
    batches = [batch([0, 1, 0], [1, 2, 0]), batch([2, 2, 1, 0], [0, 1, 1, 1])]
    method = build()
    (dropped,) = {method.config.dropped_units}
    sums, counts, everything = np.zeros((CLASSES, 1)), np.zeros(CLASSES), []
    for one in batches:
        for pictures, labels in ((one.photo, one.label), (one.negative, one.negative_label)):
            for picture, label in zip(pictures, labels.tolist(), strict=True):
                logits = linear(
                    method.backbone.classifier, doubles(method.backbone.table.pooled[int(picture[0, 0, 0])])
                )
                p = np.exp(oracles.log_softmax(np.delete(logits, dropped)))
                sums = sums + np.eye(CLASSES)[label][:, None] * p
                counts[label] += 1
                everything.append(p)
    expected = [sums[c] / counts[c] if counts[c] else np.mean(everything, axis=0) for c in range(CLASSES)]
    assert counts.tolist() == [5, 6, 3, 0, 0]
    np.testing.assert_allclose(measured(method, batches, lambda x: x), expected, atol=1e-6)

    others: list[Tensor] = []
    measured(build(), batches[1:], lambda x: (others.append(x.clone()), x)[1])
    np.testing.assert_allclose(measured(build(), batches[:1], lambda x: x + others.pop(0)), expected, atol=1e-6)


def test_a_target_that_is_the_prediction_costs_nothing_whatever_the_dropped_units_say() -> None:
    soft = Distillation(2, 4, (1,))
    soft.targets.copy_(torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]))
    logits = torch.tensor([[0.2, 9.0, 0.3, 0.5], [0.6, 1e-3, 0.3, 0.1]]).log()
    torch.testing.assert_close(soft(logits, torch.tensor([0, 1])), torch.zeros(2), atol=1e-6, rtol=0)
    by_hand = sum(t * math.log(t / p) for t, p in zip((0.6, 0.3, 0.1), (0.2, 0.3, 0.5), strict=True))
    torch.testing.assert_close(soft(logits[:1], torch.tensor([1])), torch.tensor([by_hand]))


def test_dropped_units_are_units_of_the_classifier() -> None:
    for dropped in ((4,), (-1,)):
        with pytest.raises(ValueError, match=r"Dropped units must lie in 0\.\.3"):
            Distillation(2, 4, dropped)
    kept = Distillation(2, 4, (0, 3))
    assert kept.allowed.tolist() == [1, 2]
    assert kept.targets.tolist() == [[0.5, 0.5]] * 2, "even, until photos are measured"
    with pytest.raises(ValueError, match="distillation needs dropped_units"):
        Distillation(2, 4, None)


@pytest.mark.parametrize(("pool", "widths"), [(False, [1296, 216, 36, 1]), (True, [81, 27, 9, 1])])
def test_the_layers_of_a_relation_fall_by_the_root_of_its_anchors(pool: bool, widths: list[int]) -> None:
    """n^2 cosines of n anchors, then n^1.5, n and one number: each layer is narrower by the same factor."""
    head = RelationHead(8, (6, 6), 0.0, pool, 8)
    layers = [layer for layer in head.perceptron if isinstance(layer, nn.Linear)]
    assert [layers[0].in_features, *(layer.out_features for layer in layers)] == widths
