"""Read weights of the public ZSE-SBIR code (github.com/buptLinfy/ZSE-SBIR) into this project's network, strictly.

A released checkpoint is `{model, epoch, map_all, precision_100}`, pickled by torch. It is read with `weights_only`:
nothing in it is executed. Its `map_all` was measured on a subset of the test classes and is never a target.
A file of its pretrained backbone alone is read too, with the public names or with timm's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar
from safetensors.torch import load_file
from torch import Tensor

from zse_model.backbones import BackboneConfig
from zse_model.errors import ZseError
from zse_model.methods.zse_sbir import ZseSbir, ZseSbirConfig

RELEASED = ZseSbirConfig(
    tokenizer="both", heads=8, ffn=1024, cross_attention="released", pool=True, pooled_dim=512, layout="released"
)
RELEASED_BACKBONE = BackboneConfig(
    name="vit_base_patch16_224",
    norm_eps=1e-5,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    args={"pos_drop_rate": 0.1, "proj_drop_rate": 0.1},
)
RELEASED_SIZE = 224
READABLE = (
    "What can be read: a checkpoint of the public ZSE-SBIR code, its sam_ViT-B_16.pth, or timm's "
    "vit_base_patch16_224.sam_in1k as .safetensors or .pth"
)

# (public name, ours), tried in this order.
NAMES: tuple[tuple[str, str], ...] = (
    (r"sa\.model\.cls", "backbone.model.cls_token"),
    (r"sa\.model\.pos_embedding", "backbone.model.pos_embed"),
    (r"sa\.model\.embedding\.(weight|bias)", r"backbone.model.patch_embed.proj.\1"),
    (r"sa\.model\.scale\.seq\.([0246])\.weight", r"tokenizer.convolutions.\1.weight"),
    (r"sa\.model\.transformer\.encoder_norm\.(weight|bias)", r"backbone.model.norm.\1"),
    (r"sa\.model\.transformer\.layers\.(\d+)\.0\.layer_norm_input\.(\w+)", r"backbone.model.blocks.\1.norm1.\2"),
    (r"sa\.model\.transformer\.layers\.(\d+)\.0\.layer_norm_out\.(\w+)", r"backbone.model.blocks.\1.norm2.\2"),
    (r"sa\.model\.transformer\.layers\.(\d+)\.0\.attention\.to_qkv\.(\w+)", r"backbone.model.blocks.\1.attn.qkv.\2"),
    (
        r"sa\.model\.transformer\.layers\.(\d+)\.0\.attention\.to_out\.0\.(\w+)",
        r"backbone.model.blocks.\1.attn.proj.\2",
    ),
    (r"sa\.model\.transformer\.layers\.(\d+)\.0\.mlp\.net\.0\.(\w+)", r"backbone.model.blocks.\1.mlp.fc1.\2"),
    (r"sa\.model\.transformer\.layers\.(\d+)\.0\.mlp\.net\.3\.(\w+)", r"backbone.model.blocks.\1.mlp.fc2.\2"),
    *(
        (rf"ca\.encoder\.layer{side}\.0\.{public}\.{leaf}", f"{ours}.{module}.{name}")
        for side, ours in ((1, "sketch_attends"), (2, "photo_attends"))
        for public, module in (
            (r"self_attn\.linears\.0", "q"),
            (r"self_attn\.linears\.1", "k"),
            (r"self_attn\.linears\.2", "v"),
            (r"self_attn\.linears\.3", "out"),
            (r"feed_forward\.w_1", "ffn.0"),
            (r"feed_forward\.w_2", "ffn.2"),
            (r"sublayer\.0\.norm", "norm1"),
            (r"sublayer\.1\.norm", "norm2"),
        )
        for leaf, name in ((r"(?:weight|a)", "weight"), (r"(?:bias|b)", "bias"))
    ),
    (r"rn\.rn\.([036])\.(weight|bias)", r"relation.perceptron.\1.\2"),
    (r"conv2d\.(weight|bias)", r"relation.convolution.\1"),
    # timm's own names, which our backbone uses
    (r"sa\.model\.(cls_token|pos_embed|(?:patch_embed\.proj|blocks|norm)\..+)", r"backbone.model.\1"),
)
# A second copy of the cross-attention layer that the public code never runs, and the ImageNet classifier.
UNUSED = re.compile(r"ca\.encoder\.layers\.\d+\..*|(?:sa\.model\.)?(?:mlp_head|head|fc)\..*")
# Prefixes of parameters that a file of the backbone alone does not hold.
BEYOND_BACKBONE = ("tokenizer.", "sketch_attends.", "photo_attends.", "relation.")
OURS = {"fusion", "confidence"}  # chosen after a training of ours; an imported network has neither


@dataclass(frozen=True)
class Translation:
    """Public weights with this project's names."""

    state: dict[str, Tensor]
    dropped: list[str]
    """Names in the file that the public code never uses for retrieval."""
    initialised: list[str]
    """Our names that a file of the backbone alone does not hold. They keep their initial values."""


def our_name(public: str) -> str | None:
    """This project's name of a parameter of the public code; None for an unknown parameter."""
    for pattern, name in NAMES:
        if match := re.fullmatch(pattern, public):
            return match.expand(name)
    return None


def is_backbone_alone(public: Mapping[str, Tensor]) -> bool:
    """Whether a public state dict is of the backbone, not of the whole model."""
    return not any(key.removeprefix("module.").startswith("sa.") for key in public)


def translate(public: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Translation:
    """Rename a public state dict, of the whole model or of its backbone alone.

    wanted: the state dict of the network to fill. Raises ZseError that names the keys that are unknown, missing or of
    another shape. (The public code loads the keys that match and ignores the others.)
    """
    backbone_alone = is_backbone_alone(public)
    prefix = "sa.model." if backbone_alone else ""
    state = {key.removeprefix("module."): value for key, value in public.items()}  # as DataParallel saves them
    dropped = sorted(key for key in state if UNUSED.fullmatch(key))
    names = {key: our_name(prefix + key) for key in state if key not in dropped}
    unexpected = sorted(key for key, ours in names.items() if ours not in wanted)
    translated = {ours: state[key] for key, ours in names.items() if ours is not None and ours in wanted}
    missing = sorted(set(wanted) - set(translated) - OURS)
    initialised = [name for name in missing if backbone_alone and name.startswith(BEYOND_BACKBONE)]
    missing = [name for name in missing if name not in initialised]
    misshapen = sorted(
        f"{name} {tuple(value.shape)} for {tuple(wanted[name].shape)}"
        for name, value in translated.items()
        if value.shape != wanted[name].shape
    )
    if unexpected or missing or misshapen:
        raise ZseError(
            f"Not the weights of a published ZSE-SBIR: unexpected {_few(unexpected)}, missing {_few(missing)}, "
            f"shapes {_few(misshapen)}. {READABLE}"
        )
    return Translation(translated, dropped, initialised)


def _few(names: list[str]) -> str:
    return f"{names[:5]}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def released_method(content: Mapping[str, Any], classes: int) -> tuple[ZseSbir, Translation]:
    """The published network with the weights of `read_published`, in eval mode, and the names dropped and initialised.

    With a file of the backbone alone the network has no tokenizer: an untrained tokenizer, averaged with the pretrained
    patch embeddings, would change the embeddings of `ret`. Other missing parameters are initialised from a fixed seed.
    Raises ZseError that names the weights that do not fit or are not finite.
    """
    public = content.get("model", content)
    if not isinstance(public, dict) or not any(isinstance(value, Tensor) for value in public.values()):
        keys = _few([str(key) for key in content])
        raise ZseError(f"No weights: tensors by name were expected in it or in its 'model', found {keys}. {READABLE}")
    if other := [str(key) for key, value in public.items() if not (isinstance(key, str) and isinstance(value, Tensor))]:
        raise ZseError(f"Not all weights are tensors with a name: {_few(other)}. {READABLE}")
    config = replace(RELEASED, tokenizer="none") if is_backbone_alone(public) else RELEASED
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        method = ZseSbir(config, RELEASED_BACKBONE, size=RELEASED_SIZE, classes=classes, load_weights=False)
    translation = translate(public, method.state_dict())
    broken = [name for name, value in translation.state.items() if not value.isfinite().all()]
    if broken:
        raise ZseError(f"The weights hold NaN or infinity in {_few(sorted(broken))}. Use another file")
    method.load_state_dict({**method.state_dict(), **translation.state})
    return method.eval(), translation


def read_published(path: Path) -> dict[str, Any]:
    """Read a torch pickle of tensors, plain containers and numpy numbers, or a .safetensors file.

    Nothing in it is executed. Raises ZseError for any other file.
    """
    # Files written with numpy 1, such as the released ones, have the second name.
    allowed: list[Any] = [np.dtype, scalar, (scalar, "numpy.core.multiarray.scalar")]
    allowed += [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")]
    if path.is_dir():
        raise ZseError(f"{path} is a folder. Give the file of weights in it, ending in .pth or .safetensors")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with torch.serialization.safe_globals(allowed):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ZseError(
            f"{path} is not a whole file of plain tensors and numbers ({_reason(error)}). {READABLE}"
        ) from error
    if not isinstance(content, dict):
        raise ZseError(f"{path} holds a {type(content).__name__}, expected a dictionary with the weights. {READABLE}")
    return content


def _reason(error: Exception) -> str:
    """The first sentence of the error, without torch's advice to switch the check off."""
    code = re.search(r"GLOBAL (\S+)", str(error))
    return f"it would run {code[1]}" if code else f"{type(error).__name__}: {str(error).partition('.')[0]}".rstrip(": ")
