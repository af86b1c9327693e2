"""What of a pretrained backbone a training changes: everything, its norms, low-rank additions (LoRA), or nothing.

LoRA (Hu et al., ICLR 2022) adds `alpha / rank * up @ down` to the weight of a linear layer, of which only `up` and
`down` are trained. It is a parametrization of the weight, not a wrapped layer: some transformers (EVA-02, DINOv3) read
the weight of a layer and never call it. `merged` adds the products to the weights, so that a checkpoint is a network
without LoRA and costs nothing more.

Modality blocks give sketches their own copy of the last blocks of a transformer (CMCA, IJCNN 2025, beside LoRA).
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from zse_model.errors import ZseError

Tune = Literal["full", "norms", "lora", "frozen"]
ATTENTION = ("qkv", "q_proj", "k_proj", "v_proj", "proj")
ORIGINAL, DOWN, UP, SCALE = (f".parametrizations.weight.{part}" for part in ("original", "0.down", "0.up", "0.scale"))


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which layers LoRA adds to. Raises ZseError for a rank or alpha that is not above 0, and for no layers."""

    __pydantic_config__ = {"extra": "forbid"}

    rank: int = 16
    alpha: float = 16.0
    """The products are scaled by alpha / rank."""
    layers: tuple[str, ...] = ATTENTION
    """Last parts of the names of linear layers; by default the projections of attention in timm's transformers. fc1 and
    fc2 are those of the perceptron."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 < self.alpha < math.inf:
            raise ZseError(f"backbone.lora: rank and alpha must be above 0, got {self.rank} and {self.alpha}")
        if not self.layers:
            raise ZseError("backbone.lora.layers names no layer; the default is " + ", ".join(ATTENTION))


class LowRank(nn.Module):
    """The parametrization of one weight [out, in]. It adds nothing until `up` is trained."""

    scale: Tensor
    """float32 [], alpha / rank: a buffer, so that `merged` needs no configuration."""

    def __init__(self, weight: Tensor, config: LoraConfig) -> None:
        super().__init__()
        rank = min(config.rank, *weight.shape)
        self.down = nn.Parameter(weight.new_empty(rank, weight.shape[1]))
        self.up = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        self.register_buffer("scale", torch.tensor(config.alpha / config.rank, device=weight.device))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.up @ self.down)


def sketch_blocks_of(model: Any, blocks: int, name: str) -> nn.ModuleList:
    """Copies of the last blocks of a timm transformer. Raises ZseError for a model that is not made of so many."""
    if not blocks:
        return nn.ModuleList()
    own = getattr(model, "blocks", None)
    if not isinstance(own, nn.Sequential | nn.ModuleList) or not hasattr(model, "num_prefix_tokens"):
        raise ZseError(f"backbone.modality_blocks is for vision transformers, and {name!r} is none. Set it to 0")
    if blocks > len(own):
        raise ZseError(f"backbone.modality_blocks must be 0..{len(own)} for {name!r}, got {blocks}")
    return nn.ModuleList(copy.deepcopy(block) for block in own[len(own) - blocks :])


def with_last_blocks(model: Any, last: nn.ModuleList) -> Any:
    """A second view of a timm transformer, with other last blocks: it shares all other modules and parameters.

    A view keeps no state of its own, so that calls from several threads and computing activations again in the backward
    pass need nothing else. It is no submodule of the network: the weights would stand twice in its state dict.
    """
    view = copy.copy(model)
    blocks = (
        type(model.blocks)(*model.blocks) if isinstance(model.blocks, nn.Sequential) else nn.ModuleList(model.blocks)
    )
    for i, block in enumerate(last, len(blocks) - len(last)):
        blocks[i] = block
    view._modules = {**model._modules, "blocks": blocks}
    return view


def choose_trained(model: nn.Module, tune: Tune, lora: LoraConfig | None, name: str) -> None:
    """Leave the gradients of what `tune` trains. lora: None = add no LoRA, to a network of merged weights. Raises
    ZseError for a model that has no such layers."""
    if tune == "full":
        return
    model.requires_grad_(False)
    if tune == "norms":
        norms = [module for module in model.modules() if "norm" in type(module).__name__.lower()]
        trained = [p for norm in norms for p in norm.parameters(recurse=False)]
        if not trained:
            raise ZseError(f"backbone.tune: norms has nothing to train: {name!r} has no norms with weights")
        for parameter in trained:
            parameter.requires_grad_(True)
    if tune == "lora" and lora is not None:
        _add_lora(model, lora, name)


def _add_lora(model: nn.Module, config: LoraConfig, name: str) -> None:
    linear = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    chosen = [module for path, module in linear.items() if path.rpartition(".")[2] in config.layers]
    if not chosen:
        known = sorted({path.rpartition(".")[2] for path in linear}) or ["none"]
        raise ZseError(
            f"backbone.tune: lora finds no layers in {name!r}: backbone.lora.layers names "
            f"{', '.join(config.layers)}, its linear layers are named {', '.join(known)}"
        )
    for module in chosen:
        parametrize.register_parametrization(module, "weight", LowRank(module.weight, config))


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's weights without LoRA: its products are added, in float32, to the weights that they belong to."""
    out = {name: value for name, value in state.items() if ".parametrizations.weight." not in name}
    for name in state:
        if name.endswith(ORIGINAL):
            layer = name.removesuffix(ORIGINAL)
            up, down, scale = (state[layer + part] for part in (UP, DOWN, SCALE))
            out[f"{layer}.weight"] = state[name] + scale * (up @ down)
    return out


def is_lora(name: str) -> bool:
    """Whether a weight is an addition of LoRA."""
    return name.endswith((UP, DOWN, SCALE))


BLOCKS = re.compile(r"(.*)model\.blocks\.(\d+)\.(.*)")
SKETCH_BLOCKS = re.compile(r"(.*)sketch_blocks\.(\d+)\.(.*)")


def with_sketch_blocks(state: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Weights with those of the sketches' blocks, which are those of the photos where the network that they come from
    has none. own: names of the network that they go to."""
    out = dict(state)
    copies = [found for name in own if name not in state and (found := SKETCH_BLOCKS.fullmatch(name))]
    for found in copies:
        where, number, rest = found.groups()
        depth = 1 + max(int(m[2]) for name in own if (m := BLOCKS.fullmatch(name)) and m[1] == where)
        blocks = 1 + max(int(m[2]) for name in own if (m := SKETCH_BLOCKS.fullmatch(name)) and m[1] == where)
        source = f"{where}model.blocks.{depth - blocks + int(number)}.{rest}"
        if source in state:
            out[found[0]] = state[source]
    return out


def with_lora_names(state: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Weights of a network without LoRA under the names that they have in one with it, whose names are `own`."""
    renamed = {name.replace(ORIGINAL, ".weight"): name for name in own if name.endswith(ORIGINAL)}
    return {renamed.get(name, name): value for name, value in state.items()}
