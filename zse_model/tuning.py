"""What of a pretrained backbone a training changes: everything, its norms, low-rank additions (LoRA), or nothing.

LoRA (Hu et al., ICLR 2022) adds `alpha / rank * up @ down` to the weight of a linear layer, of which only `up` and
`down` are trained. It is a parametrization of the weight, not a wrapped layer: some transformers (EVA-02, DINOv3) read
the weight of a layer and never call it. `merged` adds the products to the weights, so that a checkpoint is a network
without LoRA and costs nothing more.

Modality blocks give sketches and photos their own copy of the last blocks of a transformer (CMCA, IJCNN 2025, beside
LoRA).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
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


class ModalityBlock(nn.Module):
    """A block with one set of weights for sketches and one for photos, which start equal."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.photo, self.sketch = block, copy.deepcopy(block)
        self.sketches = 0
        """How many of the next pictures, from the first on, are sketches. `Backbone` sets it before each batch."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[b, n, d] -> [b, n, d]."""
        if self.sketches in (0, len(x)):
            return (self.sketch if self.sketches else self.photo)(x, *args, **kwargs)
        parts = x[: self.sketches], x[self.sketches :]
        return torch.cat(
            [block(part, *args, **kwargs) for block, part in zip((self.sketch, self.photo), parts, strict=True)]
        )


def add_modality_blocks(model: Any, blocks: int, name: str) -> list[ModalityBlock]:
    """Replace the last blocks of a timm transformer. Raises ZseError for a model that is not made of so many."""
    if not blocks:
        return []
    own = getattr(model, "blocks", None)
    if not isinstance(own, nn.Sequential | nn.ModuleList) or not hasattr(model, "num_prefix_tokens"):
        raise ZseError(f"backbone.modality_blocks is for vision transformers, and {name!r} is none. Set it to 0")
    if blocks > len(own):
        raise ZseError(f"backbone.modality_blocks must be 0..{len(own)} for {name!r}, got {blocks}")
    made = [ModalityBlock(block) for block in own[len(own) - blocks :]]
    for i, block in enumerate(made, len(own) - blocks):
        own[i] = block
    return made


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


def with_lora_names(state: Mapping[str, Tensor], own: Sequence[str] | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a network without LoRA under the names that they have in one with it, whose names are `own`."""
    renamed = {name.replace(ORIGINAL, ".weight"): name for name in own if name.endswith(ORIGINAL)}
    return {renamed.get(name, name): value for name, value in state.items()}
