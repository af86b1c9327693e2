"""A checkpoint is one folder: safetensors weights, and everything needed to use them and to judge them.

    model.safetensors    the weights, loaded strictly
    checkpoint.json      format version, method and backbone configuration, transforms, split, how it was trained
    seen.safetensors     the first 8 bytes of the sha256 of every training picture: the evidence for leak checks

Nothing in it is unpickled. `checkpoint.json` is written last, so a folder that has it is whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from zse_model.backbones import BackboneConfig
from zse_model.errors import ZseError
from zse_model.methods import METHODS, RetrievalMethod, create_method
from zse_model.split import ZeroShotSplit
from zse_model.transforms import TransformConfig

FORMAT_VERSION = 1
WEIGHTS, INFO, SEEN = "model.safetensors", "checkpoint.json", "seen.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A trained (or an untrained) method with what it was made from."""

    name: str
    """The registered name of the method."""
    method: RetrievalMethod
    transforms: TransformConfig
    split: ZeroShotSplit
    seen_pictures: Tensor
    """int64 [n], sorted: `picture_key` of every training picture."""
    training: Mapping[str, Any]
    """How it came to be: dataset fingerprint, steps, selection metric, run name, ... JSON values."""

    @cached_property
    def digest(self) -> str:
        """sha256 over the weights and the information: the identity of this checkpoint, hex."""
        sha = hashlib.sha256(_canonical(_info(self)).encode())
        for key, value in sorted(self.method.state_dict().items()):
            sha.update(key.encode())
            sha.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return sha.hexdigest()


def picture_key(sha256: str) -> int:
    """The first 8 bytes of a hex sha256 as a signed 64-bit integer, as `seen_pictures` holds them."""
    return int.from_bytes(bytes.fromhex(sha256[:16]), "big", signed=True)


def seen_keys(sha256s: Iterable[str]) -> Tensor:
    """int64 [n], sorted and unique."""
    return torch.tensor(sorted({picture_key(s) for s in sha256s}), dtype=torch.int64)


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Write `folder` (created), the information last."""
    folder.mkdir(parents=True, exist_ok=True)
    state = checkpoint.method.state_dict()
    save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, folder / WEIGHTS)
    save_file({"pictures": checkpoint.seen_pictures}, folder / SEEN)
    (folder / INFO).write_text(json.dumps(_info(checkpoint), indent=1, sort_keys=True))


def load_checkpoint(folder: str | Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Load a folder that `save_checkpoint` wrote; the method is in eval mode.

    Raises ValueError for a folder that is none, another format version, or weights that do not fit, by name.
    """
    folder = Path(folder)
    if not (folder / INFO).exists():
        raise ZseError(f"{folder} is not a checkpoint: it has no {INFO}. `zse train` ends by naming one")
    info = json.loads((folder / INFO).read_text())
    if info.get("format_version") != FORMAT_VERSION:
        raise ZseError(f"{folder} has format version {info.get('format_version')}, this code reads {FORMAT_VERSION}")
    name = info["method"]
    if name not in METHODS:
        raise ZseError(f"{folder} holds the unknown method {name!r}. Known methods: {sorted(METHODS)}")
    transforms = from_dict(TransformConfig, info["transforms"])
    method = create_method(
        name,
        from_dict(METHODS[name].Config, info["config"]),
        from_dict(BackboneConfig, info["backbone"]),
        size=transforms.size,
        classes=info["classes"],
        load_weights=False,
    )
    weights = load_file(folder / WEIGHTS)
    missing, unexpected = method.load_state_dict(weights, strict=False)
    if missing or unexpected:
        raise ZseError(f"{folder / WEIGHTS} does not fit {name}: missing {missing}, unexpected {unexpected}")
    return Checkpoint(
        name=name,
        method=method.to(device).eval(),
        transforms=transforms,
        split=ZeroShotSplit.from_json(json.dumps(info["split"])),
        seen_pictures=read_seen(folder),
        training=info["training"],
    )


def read_seen(folder: Path) -> Tensor:
    """`seen_pictures` of a checkpoint folder, without its network."""
    return load_file(folder / SEEN)["pictures"]


# A second stage may have these anew: after token selection the relation network has another size.
HEADS = ("relation.", "prototypes", "soft_labels.", "fusion", "backbone.classifier.", "graph.", "codes.")
# And these it always has: they are measured when a training ends, or come with its class vectors.
OWN = ("fusion", "codes.", "graph.vectors", "graph.adjacency")


def start_from(method: RetrievalMethod, start: Checkpoint) -> list[str]:
    """Give a new network the weights of a trained one; gives the names of those that stay as they were.

    Heads are taken over where they fit, everything else has to fit; of another method the backbone alone is taken.
    Codes, how scores are fused, and a graph of classes are the new network's own.
    Raises ValueError for names and shapes that do not fit.
    """
    mine, theirs = method.state_dict(), start.method.state_dict()
    if not isinstance(method, METHODS[start.name]):
        return _backbone_from(method, mine, theirs)
    fits = {
        name
        for name, value in theirs.items()
        if name in mine and mine[name].shape == value.shape and not name.startswith(OWN)
    }
    if wrong := sorted(n for n in (mine.keys() | theirs.keys()) - fits if not n.startswith(HEADS)):
        raise ZseError(
            f"start: beyond their heads the networks differ in {wrong[:5]}"
            + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
            + ". Give the experiment the backbone and the sizes of the checkpoint"
        )
    method.load_state_dict({**mine, **{name: theirs[name] for name in fits}})
    return sorted(name for name in mine.keys() - fits if not name.startswith(OWN))


def _backbone_from(method: RetrievalMethod, mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """`start_from` another method. A backbone of the sketches' own starts from the one that there is."""
    wanted = [n for n in mine if n.removeprefix("sketch_").startswith("backbone.model.")]
    source = {n: theirs.get(n, theirs.get(n.removeprefix("sketch_"))) for n in wanted}
    if wrong := sorted(n for n, value in source.items() if value is None or value.shape != mine[n].shape):
        raise ZseError(
            f"start: the backbones differ in {wrong[:5]}"
            + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
            + ". Give the experiment the backbone of the checkpoint"
        )
    method.load_state_dict(mine | {name: value for name, value in source.items() if value is not None})
    return sorted(mine.keys() - source.keys())


def from_dict(config: type, values: Mapping[str, Any]) -> Any:
    """A configuration dataclass from JSON values; lists become tuples, unknown keys raise ValueError."""
    known = {field.name for field in dataclasses.fields(config)}
    if unknown := sorted(set(values) - known):
        raise ZseError(f"{config.__name__} has no fields {unknown}. Known fields: {sorted(known)}")
    return config(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _info(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "method": checkpoint.name,
        "config": dataclasses.asdict(checkpoint.method.config),
        "backbone": {**dataclasses.asdict(checkpoint.method.backbone_config)},
        "classes": checkpoint.method.classes,
        "transforms": dataclasses.asdict(checkpoint.transforms),
        "split": json.loads(checkpoint.split.to_json()),
        "training": dict(checkpoint.training),
    }


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
