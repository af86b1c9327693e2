"""Any timm model as an encoder: pixels in, a pooled feature and a grid of tokens out.

Two families are told apart by what timm reports, not by name:

- vision transformers: the tokens are the patch tokens after the final norm; prefix and register tokens are dropped,
  the class token (where there is one) is kept beside them;
- convolutional networks: the tokens are the stride-16 map joined with the upsampled stride-32 map.

Pixel normalisation lives here, so that pictures travel as uint8 and a checkpoint cannot be fed with the wrong mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from timm.models import checkpoint, group_parameters
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from zse_model.errors import ZseError
from zse_model.precision import full_precision


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which timm model, and where its weights come from."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str = "mobilenetv2_100"
    weights: str | None = None
    """None = random, "hub" = what timm names for this model, otherwise a .safetensors or .pth file."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Passed to `timm.create_model`, for example {"pad_type": "same"}."""
    frozen: int = 0
    """Leading layer groups, in timm's order (stem, stage 1, ...), that keep their pretrained weights and statistics.
    The first, large maps cost most of a small network's training: with mobilenetv2_100 at 128 px, 4 frozen groups halve
    the CPU time of an image."""
    norm_eps: float | None = None
    """Of every layer norm; None = timm's. The published ZSE-SBIR has 1e-5, timm's vision transformers 1e-6."""
    mean: tuple[float, float, float] | None = None
    """Of the pixels in 0..1; None = what timm names for this model."""
    std: tuple[float, float, float] | None = None


class Features(NamedTuple):
    """What a backbone gives for a batch of b pictures."""

    pooled: Tensor | None
    """[b, pooled_dim], None unless asked for."""
    tokens: Tensor | None
    """[b, n, token_dim], row-major over the grid; None unless asked for."""
    cls: Tensor | None
    """[b, token_dim], the class token of a transformer that has one."""
    positions: Tensor | None = None
    """int64 [b, n], the grid cell of each token, rising; None where all are there."""


class Backbone(nn.Module):
    """A timm model reduced to what a method asks for, so that no parameter is left without a gradient.

    `pooled` and `tokens` say what is wanted. `classifier=True` keeps the model's own classifier (with its pretrained
    weights) as `self.classifier`, [b, pooled_dim] -> [b, classes]. `keep_rates`, one per block of a vision transformer,
    selects tokens (`select_tokens`).
    """

    def __init__(
        self,
        config: BackboneConfig,
        *,
        size: int,
        pooled: bool = False,
        tokens: bool = False,
        classifier: bool = False,
        keep_rates: Sequence[float] = (),
        load_weights: bool = True,
    ) -> None:
        super().__init__()
        if not timm.is_model(config.name):
            near = timm.list_models(f"*{config.name.split('_')[0]}*")[:8]
            raise ZseError(f"Unknown backbone {config.name!r}. timm models with a similar name: {near}")
        self.name, self.wants_pooled, self.wants_tokens = config.name, pooled or classifier, tokens
        cfg = timm.get_pretrained_cfg(config.name)
        arguments: dict[str, Any] = dict(config.args)
        if is_transformer(config.name):
            arguments["img_size"] = size
        if config.weights is not None and load_weights:
            arguments["pretrained"] = True
            if config.weights != "hub":
                arguments["pretrained_cfg_overlay"] = {"file": config.weights}
        if not classifier:
            arguments["num_classes"] = 0
        self._grid = (0, 0)
        self.model: Any = timm.create_model(config.name, **arguments).to(memory_format=torch.channels_last)
        if config.norm_eps is not None:
            for norm in (m for m in self.model.modules() if isinstance(m, nn.LayerNorm)):
                norm.eps = config.norm_eps
        self.classifier: nn.Module | None = None
        if classifier:
            self.classifier = self.model.get_classifier()
            if not isinstance(self.classifier, nn.Linear):
                raise ZseError(f"Backbone {config.name!r} has no linear classifier to distil from")
            self.model.reset_classifier(0)
        self._freeze(config.frozen, config.weights)
        self.is_transformer = hasattr(self.model, "num_prefix_tokens")
        self.keep_rates = tuple(keep_rates)
        self._check_selection(config.name)
        if self.is_transformer and not self.wants_pooled and getattr(self.model, "attn_pool", None) is not None:
            self.model.attn_pool = None  # it comes after the tokens and would have no gradient
        if tokens and not self.is_transformer:
            self._stages = _stages(config.name, self.model)
            if not self.wants_pooled:  # what comes after the maps would have no gradient
                self.model.prune_intermediate_layers(self._stages, prune_norm=True, prune_head=True)
        mean = config.mean or getattr(cfg, "mean", None) or (0.5, 0.5, 0.5)
        std = config.std or getattr(cfg, "std", None) or (0.5, 0.5, 0.5)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("scale", 1 / (torch.tensor(std).view(1, 3, 1, 1) * 255), persistent=False)
        self.pooled_dim, self.token_dim, self.grid, self.tokens = self._measure(size)

    def _check_selection(self, name: str) -> None:
        if not self.keep_rates:
            return
        if not isinstance(self.model, VisionTransformer) or self.model.cls_token is None:
            raise ZseError(
                f"keep_rates need a plain vision transformer with a class token, {name!r} is none; leave them out"
            )
        if len(self.keep_rates) > len(self.model.blocks) or not all(0 < rate <= 1 for rate in self.keep_rates):
            raise ZseError(
                f"keep_rates must be at most {len(self.model.blocks)} numbers in (0, 1], one per block of {name!r}, "
                f"got {self.keep_rates}"
            )

    def _freeze(self, groups: int, weights: str | None) -> None:
        if not groups:
            return
        if weights is None:
            raise ZseError(
                f"backbone.frozen: {groups} would keep random weights; set backbone.weights (hub or file), or frozen: 0"
            )
        by_group = group_parameters(self.model, self.model.group_matcher(coarse=True), reverse=True)
        order = sorted(set(by_group.values()))
        if not 0 < groups < len(order):
            raise ZseError(f"backbone.frozen must be 0..{len(order) - 1} for this backbone, got {groups}")
        for name, parameter in self.model.named_parameters():
            if by_group[name] in order[:groups]:
                parameter.requires_grad_(False)

    def checkpoint_activations(self) -> None:
        """Keep activations between blocks only and compute the others again in the backward pass.

        Raises ValueError where timm cannot, and for batch norms that learn: what is computed again would count twice
        in their statistics.
        """
        advice = "Set train.activation_checkpointing to false, or take a backbone with layer norms"
        if any(not _frozen(norm) for norm in _batch_norms(self.model)):
            raise ZseError(f"Backbone {self.name!r} has batch norms, which would count every picture twice. {advice}")
        try:
            self.model.set_grad_checkpointing()
        except (AssertionError, AttributeError) as error:  # timm's ways to say no
            raise ZseError(f"timm cannot checkpoint the activations of backbone {self.name!r}. {advice}") from error

    def train(self, mode: bool = True) -> Backbone:
        """As usual, but a frozen batch norm keeps its statistics too."""
        super().train(mode)
        for norm in filter(_frozen, _batch_norms(self.model)):
            norm.eval()
        return self

    def _measure(self, size: int) -> tuple[int, int, tuple[int, int], int]:
        training = self.training
        self.eval()
        with torch.no_grad():
            features = self(torch.zeros(1, 3, size, size, dtype=torch.uint8))
        self.train(training)
        pooled_dim = 0 if features.pooled is None else features.pooled.shape[1]
        if features.tokens is None:
            return pooled_dim, 0, (0, 0), 0
        return pooled_dim, features.tokens.shape[2], self._grid, features.tokens.shape[1]

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [b, 1 or 3, h, w] -> float32 [b, 3, h, w], channels last; floating input is taken as normalised."""
        if images.dtype != torch.uint8:
            return images
        mean, scale = self.get_buffer("mean"), self.get_buffer("scale")
        images = (images.expand(-1, 3, -1, -1).float() - mean) * scale
        return images.contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor, tokenizer: nn.Module | None = None) -> Features:
        """uint8 [b, 1 or 3, size, size] -> `Features`.

        A tokenizer [b, 3, s, s] -> [b, n, token_dim] is averaged with the patch embedding of a vision transformer.
        """
        x = self.normalise(images)
        if tokenizer is not None or self.keep_rates:
            return self._selecting(x, tokenizer)
        if self.is_transformer:
            return self._transformer(self.model.forward_features(x))
        if not self.wants_tokens:
            return Features(self.model(x), None, None)
        if not self.wants_pooled:
            maps = self.model.forward_intermediates(x, indices=self._stages, intermediates_only=True)
            return Features(None, self._join(maps), None)
        final, maps = self.model.forward_intermediates(x, indices=self._stages)
        return Features(self.model.forward_head(final, pre_logits=True), self._join(maps), None)

    def _selecting(self, x: Tensor, tokenizer: nn.Module | None) -> Features:
        """timm's forward_features of a vision transformer, with a tokenizer and with token selection."""
        m = self.model
        patches = m.patch_embed(x)  # [b, n, d], or [b, h, w, d] where timm keeps the grid open
        if tokenizer is not None:
            patches = (patches + tokenizer(x).view_as(patches)) / 2
        x, prefix = m.norm_pre(m._pos_embed(patches)), m.num_prefix_tokens
        positions = torch.arange(x.shape[1] - prefix, device=x.device).expand(len(x), -1)
        run = checkpoint if m.grad_checkpointing else _call
        for i, block in enumerate(m.blocks):
            if i < len(self.keep_rates) and self.keep_rates[i] < 1:
                x, positions = run(select_tokens, block, x, positions, prefix, self.keep_rates[i])
            else:
                x = run(block, x)
        features = self._transformer(m.norm(x))
        return features._replace(positions=positions) if self.keep_rates else features

    def _transformer(self, x: Tensor) -> Features:
        """[b, prefix + n, d] after the final norm."""
        prefix = self.model.num_prefix_tokens
        self._grid = self.model.patch_embed.grid_size
        cls = x[:, 0] if getattr(self.model, "cls_token", None) is not None else None
        pooled = self.model.forward_head(x, pre_logits=True) if self.wants_pooled else None
        return Features(pooled, x[:, prefix:] if self.wants_tokens else None, cls)

    def _join(self, maps: list[Tensor]) -> Tensor:
        """Maps at stride 16 [b, c, h, w] and 32 [b, e, h/2, w/2] -> tokens [b, h*w, c + e]."""
        fine, coarse = maps
        self._grid = (fine.shape[2], fine.shape[3])
        coarse = F.interpolate(coarse, size=self._grid, mode="bilinear", align_corners=False)
        return torch.cat([fine, coarse], dim=1).flatten(2).transpose(1, 2)


def select_tokens(block: Any, x: Tensor, positions: Tensor, prefix: int, rate: float) -> tuple[Tensor, Tensor]:
    """A pre-norm block that keeps the ceil(rate * n) patches which the class token attends to most.

    x [b, prefix + n, d], positions int64 [b, n] -> the same with fewer patches, in spatial order. Selection comes after
    the attention's residual and before the feed-forward (zse_sbir section 1C, after EViT), by the mean over heads.
    """
    normed = block.norm1(x)
    x = x + block.drop_path1(block.ls1(block.attn(normed)))
    weights = class_attention(block.attn, normed).mean(1)[:, prefix:]
    kept = weights.topk(math.ceil(rate * weights.shape[1]), dim=1).indices.sort(dim=1).values
    patches = x[:, prefix:].gather(1, kept[..., None].expand(-1, -1, x.shape[2]))
    x = torch.cat([x[:, :prefix], patches], dim=1)
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))), positions.gather(1, kept)


def class_attention(attention: Any, normed: Tensor) -> Tensor:
    """Whom the class token attends to: normed [b, prefix + n, d] -> float32 [b, heads, prefix + n], rows sum to 1.

    Of timm's plain attention, whose own forward pass does not hand its weights out. In float32 also under autocast:
    the weights rank patches.
    """
    d = normed.shape[2]
    weight, bias = attention.qkv.weight, attention.qkv.bias
    with full_precision(normed.device):
        normed = normed.to(weight.dtype)
        q = F.linear(normed[:, :1], weight[:d], None if bias is None else bias[:d])
        k = F.linear(normed, weight[d : 2 * d], None if bias is None else bias[d : 2 * d])
        q, k = (part.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for part in (q, k))
        q, k = attention.q_norm(q), attention.k_norm(k)
        return (q.float() * attention.scale @ k.float().transpose(2, 3)).softmax(3).squeeze(2)


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _batch_norms(model: nn.Module) -> Iterator[nn.Module]:
    return (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))


def _frozen(norm: Any) -> bool:
    """Whether a batch norm keeps its weights, and with them its statistics."""
    return norm.weight is not None and not norm.weight.requires_grad


def is_transformer(name: str) -> bool:
    """Whether a timm model is built for one picture size, as those with position embeddings are."""
    cfg = timm.get_pretrained_cfg(name)
    return bool(cfg is not None and cfg.fixed_input_size)


def _stages(name: str, model: Any) -> list[int]:
    """Indices of the last stride-16 and the last stride-32 map of a convolutional network."""
    if not hasattr(model, "forward_intermediates"):
        raise ZseError(f"Backbone {name!r} gives no feature maps, so it has no tokens")
    at = {info["reduction"]: index for index, info in enumerate(model.feature_info)}
    if 16 not in at or 32 not in at:
        raise ZseError(f"Backbone {name!r} has maps at strides {sorted(at)}; tokens need strides 16 and 32")
    return [at[16], at[32]]
