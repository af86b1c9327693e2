"""The losses of a method that have a weight decide which of its parts are built; a weight of 0 builds nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.zse_model.test_methods import CLASSES, CNN, SIZE, VIT, batch
from zse_model.backbones import BackboneConfig
from zse_model.errors import ZseError
from zse_model.methods import METHODS, CrossATNetConfig, GlobalConfig, ZseSbir, ZseSbirConfig, create_method

COMBINATIONS: dict[str, tuple[str, BackboneConfig, str, dict[str, Any]]] = {
    "global": ("global", CNN, "classification contrast distillation", {"dim": 8}),
    "global, head": ("global", CNN, "classification contrast distillation", {"dim": 8, "readout": "head"}),
    "zse_sbir": (
        "zse_sbir",
        CNN,
        "triplet relation classification late late_distillation",
        {"dim": 16, "heads": 2, "ffn": 16, "depth": 1, "place_dim": 8},
    ),
    "zse_sbir, without places": (
        "zse_sbir",
        CNN,
        "triplet relation classification contrast distillation",
        {"dim": 16, "heads": 2, "ffn": 16, "depth": 1},
    ),
    "zse_sbir, transformer": (
        "zse_sbir",
        VIT,
        "triplet relation classification contrast",
        {"dim": 16, "heads": 2, "ffn": 16, "depth": 1},
    ),
    "crossatnet": (
        "crossatnet",
        CNN,
        "triplet attention graph classification reconstruction distillation",
        {"dim": 8, "attention_dim": 8, "vector_dim": 8, "neighbours": 1, "bits": 0},
    ),
    "late_interaction": (
        "late_interaction",
        CNN,
        "late pairs classification contrast distillation",
        {"dim": 8, "place_dim": 8},
    ),
}
"""Method, backbone, the weights of its losses, other settings."""


@pytest.mark.parametrize("case", COMBINATIONS)
def test_any_choice_of_losses_is_refused_or_reaches_every_parameter(case: str) -> None:
    """Of every 0/1 combination. No parameter of the method is frozen; of the backbone those that no feature reads."""
    name, backbone, losses, settings = COMBINATIONS[case]
    names, size, refused = losses.split(), 32, []
    data = batch(2, size)
    for weights in itertools.product((0.0, 0.5), repeat=len(names)):
        chosen = dict(zip(names, weights, strict=True))
        try:
            config = METHODS[name].Config(**chosen, **settings, dropped_units=())
            method = create_method(name, config, backbone, size=size, classes=CLASSES).train()
        except ZseError:
            refused.append(weights)
            continue
        found = method(data)
        assert found.keys() <= {loss for loss, weight in chosen.items() if weight}
        torch.stack([loss.mean() for loss in found.values()]).sum().backward()
        dead = [n for n, p in method.named_parameters() if p.grad is None and (p.requires_grad or "model." not in n)]
        assert not dead, (chosen, dead[:3])
    assert [weights for weights in refused if all(weights)] == [] and (0.0,) * len(names) in refused
    # late_interaction refuses 8 without late and pairs, and 3 without a loss of `global`; zse_sbir with places 8 with
    # late_distillation and without relation, and 2 without a loss that trains the tokens
    most = {"late_interaction": 11, "zse_sbir": 10}.get(case, 2 ** (len(names) - 2))
    assert len(refused) <= most


def test_without_losses_of_pairs_no_pair_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ZseSbirConfig(relation=0, triplet=0, contrast=1, dim=16, heads=2, ffn=16)
    method = create_method("zse_sbir", config, CNN, size=SIZE, classes=CLASSES)
    assert isinstance(method, ZseSbir) and method.sketch_attends is None and method.photo_attends is None
    monkeypatch.setattr(method, "cross_attend", None)
    assert method(batch(2, SIZE)).keys() == {"contrast"}


def test_without_a_relation_loss_no_mode_reads_the_relation_network() -> None:
    config = ZseSbirConfig(relation=0, dim=16, heads=2, ffn=16)
    method = create_method("zse_sbir", config, CNN, size=SIZE, classes=CLASSES)
    assert method.modes == ("ret",) and method.rerank is None
    assert isinstance(method, ZseSbir) and method.relation is None and method.sketch_attends is not None
    with pytest.raises(ZseError, match="Unknown retrieval mode 'rn'"):
        method.scorer("rn")
    with pytest.raises(ZseError, match="one of triplet, relation, classification and contrast must be above 0"):
        create_method("zse_sbir", replace(config, triplet=0, distillation=1), CNN, size=SIZE, classes=CLASSES)


@pytest.mark.parametrize("config", [GlobalConfig, CrossATNetConfig, ZseSbirConfig])
def test_distillation_is_refused_where_nobody_decided_which_units_are_dropped(config: Callable[..., Any]) -> None:
    name = {GlobalConfig: "global", CrossATNetConfig: "crossatnet", ZseSbirConfig: "zse_sbir"}[config]  # type: ignore[index]
    with pytest.raises(ZseError, match="distillation needs dropped_units"):
        create_method(
            name,
            config(distillation=1, **({"neighbours": 1} if name == "crossatnet" else {})),
            CNN,
            size=SIZE,
            classes=CLASSES,
        )
