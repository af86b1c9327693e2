"""Encode pictures with any timm model: a pooled feature and a grid of tokens.

The model's attributes, not its name, tell the two families apart:

- vision transformers: the tokens are the patch tokens after the final norm. The class token is returned beside them,
  other prefix tokens (register tokens) are dropped;
- convolutional networks: the tokens are the stride-16 map concatenated with the upsampled stride-32 map.

The backbone normalises pixels itself: pictures are passed as uint8, and a checkpoint always uses its own mean.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

import timm
import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from timm.models import checkpoint, group_parameters
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from zse_model.errors import ZseError
from zse_model.precision import full_precision
from zse_model.transforms import Modality
from zse_model.tuning import LoraConfig, Tune, choose_trained, sketch_blocks_of, with_last_blocks
from zse_model.weights import pretrained

IMAGENET_UNITS = 1000


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """The timm model and the source of its weights.

    Raises ZseError for a mean, std or norm_eps outside its range.
    """

    __pydantic_config__ = {"extra": "forbid"}

    name: str = "mobilenetv2_100"
    weights: str | None = None
    """None = random, "hub" = the weights that timm names for this model, "installed" = those of an installed Python
    package, otherwise a .safetensors or .pth file."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Passed to `timm.create_model`, for example {"pad_type": "same"}."""
    frozen: int = 0
    """Leading layer groups, in timm's order (stem, stage 1, ...), that keep their pretrained weights and statistics.
    The first, large maps cost most of a small network's training: with mobilenetv2_100 at 128 px, 4 frozen groups halve
    the CPU time of an image."""
    tune: Tune = "full"
    """What a training changes of the pretrained weights: full = all but the frozen groups, norms = the weights of
    norms, lora = low-rank additions to linear layers (`lora`), frozen = nothing. With distillation the pretrained
    classifier is trained in every case, as the other heads are."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    modality_blocks: int = 0
    """Last blocks of a vision transformer that sketches and photos have one set of weights each for."""
    norm_eps: float | None = None
    """eps of every layer norm, 0 or more; None = timm's. The published ZSE-SBIR has 1e-5, timm's vision transformers
    1e-6."""
    mean: tuple[float, float, float] | None = None
    """Per channel, of pixels in 0..1; None = the mean that timm names for this model."""
    std: tuple[float, float, float] | None = None
    """Per channel, above 0; None = the std that timm names for this model."""

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.mean or ())):
            raise ZseError(f"backbone.mean must be finite numbers, got {self.mean}")
        if not all(0 < value < math.inf for value in self.std or ()):
            raise ZseError(f"backbone.std must be finite numbers above 0, got {self.std}")
        if isinstance(self.lora, Mapping):  # of a checkpoint's JSON
            object.__setattr__(self, "lora", LoraConfig(**{**self.lora, "layers": tuple(self.lora["layers"])}))
        if self.tune not in get_args(Tune):
            raise ZseError(f"backbone.tune must be one of {', '.join(get_args(Tune))}, got {self.tune!r}")
        if self.tune != "full" and self.frozen:
            raise ZseError(f"backbone.frozen is for tune: full, and tune is {self.tune}. Set frozen to 0")
        if self.tune != "full" and self.weights is None:
            raise ZseError(
                f"backbone.tune={self.tune} would keep random weights. Set backbone.weights (hub, installed or a "
                "file), or tune=full"
            )
        if self.modality_blocks < 0:
            raise ZseError(f"backbone.modality_blocks must be 0 or more, got {self.modality_blocks}")
        if self.norm_eps is not None and not 0 <= self.norm_eps < math.inf:
            raise ZseError(f"backbone.norm_eps must be 0 or more, and finite, got {self.norm_eps}")


class Features(NamedTuple):
    """The output of a backbone for b pictures. Floats have the dtype that the model computes in."""

    pooled: Tensor | None
    """[b, pooled_dim]; None if the backbone was built without `pooled`."""
    tokens: Tensor | None
    """[b, n, token_dim], row-major over the grid; None if the backbone was built without `tokens`."""
    cls: Tensor | None
    """[b, token_dim], the class token; None for a model without one."""
    positions: Tensor | None = None
    """int64 [b, n], the grid cell of each token, rising; None if no token was dropped."""


class Backbone(nn.Module):
    """A timm model reduced to the outputs that a method uses, so that every trained parameter has a gradient.

    `pooled` and `tokens` select the outputs. `classifier=True` keeps the model's own classifier (with its pretrained
    weights) as `self.classifier`, [b, pooled_dim] -> [b, classes]. `keep_rates`, one per block of a vision transformer,
    selects tokens (`select_tokens`). `size` is the side of the pictures in pixels. `load_weights=False` builds the
    network of a checkpoint, whose weights are loaded later.

    Raises ZseError for an unknown model or argument, weights that do not fit, and outputs that the model does not have.
    """

    normalisation: dict[str, Any]
    """`mean` and `std` as fields of BackboneConfig: those of the configuration, else those that timm names."""
    _of_sketches: tuple[Any, ...] = ()
    """The model with the sketches' own last blocks, if there are any."""

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
        self.name, self.wants_pooled, self.wants_tokens = config.name, pooled or classifier, tokens
        cfg = _known(config)
        if load_weights:  # the network of a checkpoint has been built before
            _refuse_args(config.args)
        self._grid = (0, 0)
        self.model: Any = _build(config, size, classifier=classifier, load_weights=load_weights)
        self._layout = torch.contiguous_format if _writes_outside(self.model) else torch.channels_last
        self.model.to(memory_format=self._layout)
        if config.norm_eps is not None:
            for norm in (m for m in self.model.modules() if isinstance(m, nn.LayerNorm)):
                norm.eps = config.norm_eps
        self.classifier: nn.Linear | None = None
        if classifier:
            self.classifier = self._own_classifier(new=load_weights)
            self.model.reset_classifier(0)
        self._freeze(config.frozen, config.weights)
        self.sketch_blocks = sketch_blocks_of(self.model, config.modality_blocks, config.name)
        # A checkpoint has the weights that a training ended with, in a network without LoRA. On the meta device a
        # network is built for its costs, those of a training among them.
        self.has_lora = config.tune == "lora" and (load_weights or next(self.model.parameters()).is_meta)
        tuned = nn.ModuleList([self.model, self.sketch_blocks])
        choose_trained(tuned, config.tune, config.lora if self.has_lora else None, config.name)
        # The definition of "transformer": timm says how many prefix tokens stand before the patches.
        self.is_transformer = hasattr(self.model, "num_prefix_tokens")
        self.has_class_token = getattr(self.model, "cls_token", None) is not None
        # Whether the forward pass can be run in parts, as a tokenizer and token selection need it.
        self.runs_in_parts = isinstance(self.model, VisionTransformer)
        self.keep_rates = tuple(keep_rates)
        self._check_selection(config.name)
        if self.is_transformer and not self.wants_pooled and getattr(self.model, "attn_pool", None) is not None:
            self.model.attn_pool = None  # it reads the tokens and would have no gradient
        if tokens and not self.is_transformer:
            self._stages = _stages(config.name, self.model)
            if not self.wants_pooled:  # layers after the maps would have no gradient
                self.model.prune_intermediate_layers(self._stages, prune_norm=True, prune_head=True)
        # In a tuple, which hides it from torch: its weights are those of `model` and `sketch_blocks`.
        self._of_sketches = (with_last_blocks(self.model, self.sketch_blocks),) if len(self.sketch_blocks) else ()
        mean = tuple(config.mean or getattr(cfg, "mean", None) or (0.5, 0.5, 0.5))
        std = tuple(config.std or getattr(cfg, "std", None) or (0.5, 0.5, 0.5))
        self.normalisation = {"mean": mean, "std": std}
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("scale", 1 / (torch.tensor(std).view(1, 3, 1, 1) * 255), persistent=False)
        try:
            self._measure(size, new=load_weights)
        except ZseError:
            raise
        except Exception as error:
            raise ZseError(_cannot(config, size, error)) from error

    def _own_classifier(self, *, new: bool) -> nn.Linear:
        """The classifier to distil from. A new training needs one of the ImageNet-1k units."""
        own = self.model.get_classifier()
        if not isinstance(own, nn.Linear):
            raise ZseError(f"Backbone {self.name!r} has no linear classifier to distil from. Set distillation to 0")
        if new and own.out_features != IMAGENET_UNITS:
            raise ZseError(
                f"Backbone {self.name!r} has no ImageNet-1k classifier to distil from: it has {own.out_features} "
                f"units, and {IMAGENET_UNITS} are needed to leave out those of unseen classes. Set distillation to 0, "
                "or use another backbone"
            )
        return own

    def _check_selection(self, name: str) -> None:
        if not self.keep_rates:
            return
        m = self.model
        plain = self.runs_in_parts and self.has_class_token
        if not plain or not all(type(block) is Block and type(block.attn) is Attention for block in m.blocks):
            raise ZseError(
                f"keep_rates need a plain vision transformer with a class token, and {name!r} is none. Leave them out"
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
                f"backbone.frozen={groups} would freeze random weights. Set backbone.weights (hub, installed "
                "or a file), or frozen=0"
            )
        by_group = group_parameters(self.model, self.model.group_matcher(coarse=True), reverse=True)
        order = sorted(set(by_group.values()))
        if not 0 < groups < len(order):
            raise ZseError(f"backbone.frozen must be 0..{len(order) - 1} for this backbone, got {groups}")
        for name, parameter in self.model.named_parameters():
            if by_group[name] in order[:groups]:
                parameter.requires_grad_(False)

    def checkpoint_activations(self) -> None:
        """Activation checkpointing: keep activations between blocks only, recompute the others in the backward pass.

        Raises ZseError for a model that timm cannot checkpoint, and for batch norms that are trained: their statistics
        would count the recomputed activations twice.
        """
        advice = "Set train.activation_checkpointing to false, or take a backbone with layer norms"
        if any(not _frozen(norm) for norm in _batch_norms(self.model)):
            raise ZseError(
                f"Backbone {self.name!r} has batch norms, whose statistics would count every picture twice. {advice}"
            )
        try:
            for model in (self.model, *self._of_sketches):
                model.set_grad_checkpointing()
        except (AssertionError, AttributeError) as error:  # timm raises either
            raise ZseError(f"timm cannot checkpoint the activations of backbone {self.name!r}. {advice}") from error

    def train(self, mode: bool = True) -> Backbone:
        """`nn.Module.train`, except that a frozen batch norm also keeps its statistics."""
        super().train(mode)
        for view in self._of_sketches:
            view.training = mode
        for norm in filter(_frozen, _batch_norms(self.model)):
            norm.eval()
        return self

    def model_of(self, modality: Modality) -> Any:
        """The timm model that reads a modality: with `modality_blocks` that of sketches has its own last blocks."""
        return self._of_sketches[0] if self._of_sketches and modality == "sketch" else self.model

    def _measure(self, size: int, *, new: bool) -> None:
        """Run one picture to measure the shapes of the outputs and the parameters and pixels that they depend on.

        Other parameters are frozen: they would have no gradient, at which DDP fails, and weight decay would shrink
        them. Raises ZseError for a new training whose network does not read the picture's borders.
        """
        training = self.training
        self.eval()
        with torch.enable_grad(), _rests(self.model) as cut:
            picture = torch.arange(3 * size * size).sin().view(1, 3, size, size).requires_grad_()
            # A sketch and a photo, where they are read by different weights.
            features = self(picture.expand(2, -1, -1, -1), sketches=1) if self._of_sketches else self(picture)
            outputs = [x for x in (features.pooled, features.tokens) if x is not None]
            if new and cut and not picture.is_meta:
                self._refuse_unseen_borders(picture, outputs, cut[0])
        self.train(training)
        self.pooled_dim = 0 if features.pooled is None else _checked(features.pooled, 2).shape[1]
        self.token_dim, self.grid, self.tokens = 0, (0, 0), 0
        if features.tokens is not None:
            self.token_dim, self.tokens = _checked(features.tokens, 3).shape[2], features.tokens.shape[1]
            self.grid = self._grid
        used = _leaves(outputs)
        for parameter in (*self.model.parameters(), *self.sketch_blocks.parameters()):
            if parameter not in used:
                parameter.requires_grad_(False)

    def _refuse_unseen_borders(self, picture: Tensor, outputs: Sequence[Tensor], cut: Any) -> None:
        """cut: the first layer that drops the last rows or columns of its input. Other layers may read them."""
        size, patch = picture.shape[3], getattr(getattr(self.model, "patch_embed", None), "patch_size", None)
        # Weighted, because the sum of a layer norm's outputs is constant.
        weights = [torch.arange(x.numel()).cos().view_as(x) for x in outputs]
        (slope,) = torch.autograd.grad(outputs, picture, weights)
        seen = slope[0].abs().sum(0) > 0
        last = min(int(seen.any(dim).nonzero().max()) for dim in (0, 1)) + 1
        if last < size:
            stride = max(cut.stride) if isinstance(cut.stride, tuple) else cut.stride
            step = patch[0] if patch else 32 if 32 % stride == 0 else stride
            fits = [n for n in (size // step * step, (size // step + 1) * step) if n]
            raise ZseError(
                f"transforms.size: backbone {self.name!r} would not see the last {size - last} px of two sides of a "
                f"{size} px picture, whose size must be a multiple of {step}. Use {' or '.join(map(str, fits))}"
            )

    @property
    def units(self) -> int:
        """Outputs of the classifier; 0 without one."""
        return 0 if self.classifier is None else self.classifier.out_features

    def classify(self, pooled: Tensor) -> Tensor:
        """Logits of the model's own classifier, [b, pooled_dim] -> [b, units]. Needs `classifier=True`."""
        assert self.classifier is not None
        return self.classifier(pooled)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [b, 1 or 3, h, w] -> float32 [b, 3, h, w], in the memory layout of the model. Floating-point
        input is returned unchanged."""
        if images.dtype != torch.uint8:
            return images
        mean, scale = self.get_buffer("mean"), self.get_buffer("scale")
        images = (images.expand(-1, 3, -1, -1).float() - mean) * scale
        return images.contiguous(memory_format=self._layout)

    def forward(self, images: Tensor, tokenizer: nn.Module | None = None, *, sketches: int = 0) -> Features:
        """uint8 [b, 1 or 3, size, size] -> `Features`.

        tokenizer: [b, 3, size, size] -> [b, n, token_dim]; its output is averaged with the patch embedding of a vision
        transformer. sketches: how many of the pictures, from the first on, are sketches, for `modality_blocks`.
        """
        x = self.normalise(images)
        if not self._of_sketches or sketches in (0, len(x)):
            return self._features(x, tokenizer, "sketch" if sketches else "photo")
        drawn = self._features(x[:sketches], tokenizer, "sketch")
        shown = self._features(x[sketches:], tokenizer, "photo")
        return Features(
            *(None if a is None or b is None else torch.cat([a, b]) for a, b in zip(drawn, shown, strict=True))
        )

    def _features(self, x: Tensor, tokenizer: nn.Module | None, modality: Modality) -> Features:
        """Of normalised pictures, all of one modality where the modalities have their own blocks."""
        model = self.model_of(modality)
        if tokenizer is not None or self.keep_rates:
            return self._selecting(model, x, tokenizer)
        if self.is_transformer:
            return self._transformer(model.forward_features(x))
        if not self.wants_tokens:
            return Features(self.model(x), None, None)
        if not self.wants_pooled:
            maps = self.model.forward_intermediates(x, indices=self._stages, intermediates_only=True)
            return Features(None, self._join(maps), None)
        final, maps = self.model.forward_intermediates(x, indices=self._stages)
        return Features(self.model.forward_head(final, pre_logits=True), self._join(maps), None)

    def _selecting(self, m: Any, x: Tensor, tokenizer: nn.Module | None) -> Features:
        """timm's forward_features of a vision transformer, with a tokenizer and with token selection."""
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
        cls = x[:, 0] if self.has_class_token else None
        pooled = self.model.forward_head(x, pre_logits=True) if self.wants_pooled else None
        return Features(pooled, x[:, prefix:] if self.wants_tokens else None, cls)

    def _join(self, maps: list[Tensor]) -> Tensor:
        """Maps at stride 16 [b, c, h, w] and 32 [b, e, h/2, w/2] -> tokens [b, h*w, c + e]."""
        fine, coarse = maps
        self._grid = (fine.shape[2], fine.shape[3])
        coarse = F.interpolate(coarse, size=self._grid, mode="bilinear", align_corners=False)
        return torch.cat([fine, coarse], dim=1).flatten(2).transpose(1, 2)


def sketches_in(images: Tensor, modality: Modality) -> int:
    """How many of pictures of one modality are sketches: all or none."""
    return len(images) if modality == "sketch" else 0


def select_tokens(block: Any, x: Tensor, positions: Tensor, prefix: int, rate: float) -> tuple[Tensor, Tensor]:
    """Run a pre-norm block that keeps the ceil(rate * n) patches with the largest attention from the class token.

    x [b, prefix + n, d], positions int64 [b, n] -> the same with fewer patches, in spatial order. The attention is
    averaged over heads. Patches are dropped after the attention's residual and before the feed-forward.
    Source: token selection of ZSE-SBIR (Lin et al., CVPR 2023), after EViT (Liang et al., ICLR 2022).
    """
    normed = block.norm1(x)
    x = x + block.drop_path1(block.ls1(block.attn(normed)))
    weights = class_attention(block.attn, normed).mean(1)[:, prefix:]
    kept = weights.topk(math.ceil(rate * weights.shape[1]), dim=1).indices.sort(dim=1).values
    patches = x[:, prefix:].gather(1, kept[..., None].expand(-1, -1, x.shape[2]))
    x = torch.cat([x[:, :prefix], patches], dim=1)
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))), positions.gather(1, kept)


def class_attention(attention: Any, normed: Tensor) -> Tensor:
    """Attention weights of the class token: normed [b, prefix + n, d] -> float32 [b, heads, prefix + n], rows sum to 1.

    For timm's plain attention, whose forward pass does not return its weights. Computed in float32 also under autocast,
    because the weights rank patches.
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


def _known(config: BackboneConfig) -> Any:
    """timm's configuration of a model. Raises ZseError for an unknown name or tag, and arguments that load weights."""
    name = config.name
    if not timm.is_model(name):
        plain = name.rpartition("/")[2].rpartition(":")[2].partition(".")[0].lower()  # of hf-hub:timm/NAME.TAG
        near = difflib.get_close_matches(plain, timm.list_models(), 1, cutoff=0.75)
        similar = timm.list_models(f"*{plain.split('_')[0]}*")[:8] or timm.list_models("vit_*")[:8]
        raise ZseError(
            f"Unknown backbone {name!r}.{f' Did you mean {near[0]}?' if near else ''} timm has, among others: {similar}"
        )
    if loading := [a for a in config.args if a.startswith(("pretrained", "checkpoint"))]:
        raise ZseError(f"backbone.args: {loading} load weights, which backbone.weights does. Leave them out")
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        raise ZseError(f"Unknown weights in backbone {name!r}. timm has {tags}") from error


OWN_ARGS = {"img_size": "transforms.size sets it", "num_classes": "the method sets it"}


def _refuse_args(args: Mapping[str, Any]) -> None:
    """Raise ZseError for arguments that timm would accept and ignore, or that would fail later, in a training."""
    for name, value in args.items():
        if name in OWN_ARGS:
            raise ZseError(f"backbone.args.{name}: {OWN_ARGS[name]}. Leave it out")
        if isinstance(value, float) and not math.isfinite(value):
            raise ZseError(f"backbone.args.{name} must be a finite number, got {value}")
        if name.endswith("_rate") and isinstance(value, int | float) and not 0 <= value < 1:
            raise ZseError(f"backbone.args.{name} must be 0 or more and below 1, got {value}")


def _build(config: BackboneConfig, size: int, *, classifier: bool, load_weights: bool) -> nn.Module:
    """The timm model of a configuration, with its weights if it names any and `load_weights`."""
    arguments: dict[str, Any] = dict(config.args)
    if has_fixed_size(config.name):
        arguments["img_size"] = size
    if not classifier:
        arguments["num_classes"] = 0
    try:
        if config.weights is None or not load_weights:
            return timm.create_model(config.name, **arguments)
        return pretrained(config.name, config.weights, arguments, classifier=classifier)
    except ZseError:
        raise
    except Exception as error:
        raise ZseError(_cannot(config, size, error)) from error


def _cannot(config: BackboneConfig, size: int, error: Exception) -> str:
    """The error of a backbone that cannot be used, in one line: timm fails differently for each architecture."""
    cfg = timm.get_pretrained_cfg(config.name)
    said = " ".join(str(error).split())[:160]
    if unknown := [name for name in config.args if "unexpected keyword" in said and f"'{name}'" in said]:
        made = f"It has no argument {', '.join(unknown)}; try backbone.args={{}}, or"
    else:
        size_of = cfg and cfg.input_size[-1]
        made = f"timm made it for {size_of} px; try transforms.size={size_of}, or" if size_of else "Take"
    arguments = f" with backbone.args {dict(config.args)}" if config.args else ""
    return (
        f"Backbone {config.name!r} cannot be used on pictures of {size} px{arguments} ({type(error).__name__}: "
        f"{said}). {made} another backbone"
    )


def _checked(x: Tensor, dims: int) -> Tensor:
    if x.ndim != dims:
        raise TypeError(f"its features have shape {tuple(x.shape)}, {dims} dimensions were expected")
    return x


def _leaves(outputs: Sequence[Tensor]) -> set[Tensor]:
    """The parameters that tensors depend on, read off the graph of their gradients."""
    found: set[Tensor] = set()
    seen: set[Any] = set()
    nodes: list[Any] = [x.grad_fn for x in outputs]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(node.variable)
        nodes += [parent for parent, _ in node.next_functions]
    return found


@contextmanager
def _rests(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Collect the layers that drop the last rows or columns of a map: their stride does not divide its size."""
    found: list[nn.Module] = []

    def look(layer: Any, inputs: tuple[Any, ...]) -> None:
        step = layer.stride if isinstance(layer.stride, tuple) else (layer.stride, layer.stride)
        if any(length % by for length, by in zip(inputs[0].shape[-2:], step, strict=True)):
            found.append(layer)

    layers = (m for m in model.modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d))
    hooks = [m.register_forward_pre_hook(look) for m in layers if m.kernel_size == m.stride]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _writes_outside(model: nn.Module) -> bool:
    """Whether channels_last is unsafe on a CPU. torch 2.14.1 writes outside its memory in the backward pass of a
    strided 1x1 convolution with fewer than 16 input channels, the floats of an AVX-512 register."""
    return any(
        isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and max(m.stride) > 1 and m.in_channels // m.groups < 16
        for m in model.modules()
    )


def has_fixed_size(name: str) -> bool:
    """Whether a timm model is built for one picture size, as models with position embeddings are."""
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
