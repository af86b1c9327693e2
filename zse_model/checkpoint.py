"""Save and load checkpoints. A checkpoint is a folder with weights and all that is needed to use and to evaluate them.

    model.safetensors    the weights, loaded strictly
    checkpoint.json      format version, method and backbone configuration, transforms, split, how it was trained
    seen.safetensors     the first 8 bytes of the sha256 of every training picture, for leak checks

Nothing in it is unpickled. `checkpoint.json` is written last: a folder that has it is complete.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zse_model.backbones import BackboneConfig
from zse_model.errors import ZseError
from zse_model.methods import METHODS, RetrievalMethod, create_method
from zse_model.proof import check_proof
from zse_model.split import ZeroShotSplit
from zse_model.transforms import TransformConfig
from zse_model.tuning import ORIGINAL, is_lora, merged, with_lora_names, with_sketch_blocks
from zse_model.weight_names import LATER, OPTIONAL, module_of, original, todays

FORMAT_VERSION = 1
WEIGHTS, INFO, SEEN = "model.safetensors", "checkpoint.json", "seen.safetensors"
# Beside them where a training or an import wrote the folder. It has the hash as `digest`, and what `proof_of` returned
# as `proof`: not in the hash, because rounding differs between machines.
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A method, trained or not, with the data and settings that it was made from."""

    name: str
    """The registered name of the method."""
    method: RetrievalMethod
    transforms: TransformConfig
    split: ZeroShotSplit
    seen_pictures: Tensor
    """int64 [n], sorted: `picture_key` of every training picture."""
    training: Mapping[str, Any]
    """Provenance: dataset fingerprint, steps, selection metric, run name, ... JSON values."""
    _earlier: Mapping[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Digest of this content -> of the files of an earlier version that hold it. `dataclasses.replace` does not copy
    it."""

    @property
    def digest(self) -> str:
        """The identity of this checkpoint: hex sha256 over the weights and the information as they are now, 0.3 s for a
        ViT-B.

        Until they change, a loaded checkpoint has the digest of its files, in which an earlier version may have kept
        weights that are not built today.
        """
        found = _digest(_info(self), merged(self.method.state_dict()))
        return self._earlier.get(found, found)


@dataclass(frozen=True)
class Trained:
    """What a checkpoint was trained on, without its network: all that the leak check reads. The fields are those of
    `Checkpoint`."""

    transforms: TransformConfig
    split: ZeroShotSplit
    seen_pictures: Tensor
    training: Mapping[str, Any]


def read_trained(folder: Path) -> Trained:
    """Read INFO and SEEN of a checkpoint folder, and no weights. Raises ZseError as `load_checkpoint` does for them."""
    return _trained(folder, _read_info(folder))


def _trained(folder: Path, info: Mapping[str, Any]) -> Trained:
    try:
        transforms = from_dict(TransformConfig, info["transforms"])
        split = ZeroShotSplit.from_json(json.dumps(info["split"]))
    except ZseError as error:
        raise ZseError(f"{folder / INFO}: {error}") from error
    return Trained(transforms, split, read_seen(folder), info["training"])


def picture_key(sha256: str) -> int:
    """The first 8 bytes of a hex sha256 as a signed 64-bit integer, as `seen_pictures` holds them."""
    return int.from_bytes(bytes.fromhex(sha256[:16]), "big", signed=True)


def seen_keys(sha256s: Iterable[str]) -> Tensor:
    """int64 [n], sorted and unique."""
    return torch.tensor(sorted({picture_key(s) for s in sha256s}), dtype=torch.int64)


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Write `folder`, created if missing. `checkpoint.json` is removed first and written last."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INFO).unlink(missing_ok=True)
    state = merged(checkpoint.method.state_dict())
    save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, folder / WEIGHTS)
    save_file({"pictures": checkpoint.seen_pictures}, folder / SEEN)
    partial = folder / f"{INFO}.tmp"
    partial.write_text(json.dumps(_info(checkpoint), indent=1, sort_keys=True))
    partial.rename(folder / INFO)


def load_checkpoint(folder: str | Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Load a folder that `save_checkpoint` of this or an earlier version wrote; the method is in eval mode.

    Raises ZseError for a folder that is none, another format version, files that are missing, cut or damaged, weights
    that are not those that the folder's manifest names, and weights that do not fit or are not finite: it names the
    file, and of weights the tensor. Raises it also for a network that computes something else than the manifest's proof
    (`zse_model.proof`).
    """
    folder = Path(folder)
    info = _read_info(folder)
    name = info["method"]
    if name not in METHODS:
        raise ZseError(f"{folder} holds the unknown method {name!r}. Known methods: {sorted(METHODS)}")
    try:
        config, backbone = from_dict(METHODS[name].Config, info["config"]), from_dict(BackboneConfig, info["backbone"])
    except ZseError as error:
        raise ZseError(f"{folder / INFO}: {error}") from error
    weights, trained = read_tensors(folder / WEIGHTS), _trained(folder, info)
    digest, manifest = _digest(info, weights), _read_manifest(folder)
    _refuse_exchanged(folder, manifest, digest)
    method = create_method(
        name, config, backbone, size=trained.transforms.size, classes=info["classes"], load_weights=False
    )
    fill(method, weights, folder / WEIGHTS)
    _refuse_disproved(folder, manifest, method.eval(), trained.transforms)
    checkpoint = Checkpoint(
        name=name,
        method=method.to(device),
        transforms=trained.transforms,
        split=trained.split,
        seen_pictures=trained.seen_pictures,
        training=trained.training,
    )
    if len(weights) != len(method.state_dict()) or _canonical(_info(checkpoint)) != _canonical(info):
        # No argument, so that no copy with other content inherits it.
        object.__setattr__(checkpoint, "_earlier", {checkpoint.digest: digest})
    return checkpoint


FIELDS = {
    "format_version": int,
    "method": str,
    "config": dict,
    "backbone": dict,
    "classes": int,
    "transforms": dict,
    "split": dict,
    "training": dict,
}


def _read_info(folder: Path) -> dict[str, Any]:
    """The fields that `_info` wrote, each checked for its type."""
    file = folder / INFO
    if not file.exists():
        raise ZseError(f"{folder} is not a checkpoint: it has no {INFO}. `zse train` ends by naming one")
    try:
        info = json.loads(file.read_text())
    except ValueError as error:  # neither JSON nor UTF-8
        raise ZseError(f"{file} is damaged: it is not JSON. {AGAIN}") from error
    if not isinstance(info, dict):
        raise ZseError(f"{file} is damaged: it is no JSON object. {AGAIN}")
    if info.get("format_version") != FORMAT_VERSION:
        raise ZseError(f"{folder} has format version {info.get('format_version')}, this code reads {FORMAT_VERSION}")
    if wrong := [name for name, kind in FIELDS.items() if not isinstance(info.get(name), kind)]:
        raise ZseError(f"{file} is damaged: {', '.join(wrong)} is missing or of another type. {AGAIN}")
    return info


AGAIN = "Copy the checkpoint again, or train it again"


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU. Raises ZseError for a file that is missing, cut or none."""
    if not file.is_file():
        raise ZseError(f"{file} is missing: the checkpoint is not whole. {AGAIN}")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ZseError(f"{file} is cut or damaged: it is no whole safetensors file. {AGAIN}") from error


def fill(method: nn.Module, weights: Mapping[str, Tensor], file: Path) -> None:
    """Load weights that were read from `file` into a network. Raises ZseError as `fitting` does."""
    method.load_state_dict(fitting(method, weights, file))


def fitting(method: nn.Module, weights: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Weights that were read from `file`, of this or an earlier version, under the names of a network's state dict.

    Raises ZseError that names the file and its tensor, unless they are all that the network has, of its shapes and
    dtypes, and finite.
    """
    own = method.state_dict()
    weights = {**{name: own[name] for name in LATER & own.keys() - weights.keys()}, **weights}
    names = todays(weights, own, next((name for name, kind in METHODS.items() if type(method) is kind), ""))
    lacking, besides = own.keys() - set(names.values()), [name for name, today in names.items() if today not in own]
    for what, left in (("lacks", lacking), ("also has", besides)):
        if left:
            more = f" and {len(left) - 5} more" if len(left) > 5 else ""
            raise ZseError(f"{file} does not fit its network: it {what} {sorted(left)[:5]}{more}")
    for name, today in names.items():
        value = weights[name]
        if (value.shape, value.dtype) != (own[today].shape, own[today].dtype):
            raise ZseError(
                f"{file} does not fit its network: {name} is {_kind(value)}, the network's is {_kind(own[today])}"
            )
        if not bool(value.isfinite().all()):
            raise ZseError(f"{file} holds NaN or infinity in {name}. {AGAIN}")
    return {today: weights[name] for name, today in names.items()}


def _kind(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def read_seen(folder: Path) -> Tensor:
    """`seen_pictures` of a checkpoint folder, without its network. Raises ZseError for a damaged file."""
    seen = read_tensors(folder / SEEN).get("pictures")
    if seen is None or seen.dtype != torch.int64 or seen.ndim != 1:
        raise ZseError(f"{folder / SEEN} is damaged: it has no `pictures`, int64 [n]. {AGAIN}")
    return seen


CLASSIFIER = "backbone.classifier."
"""How the weights of a backbone's pretrained classifier begin, which only a network that is distilled keeps."""
# Heads may differ between stages: after token selection the relation network has another size.
HEADS = (
    "local.",
    "relation.",
    "classifier.",
    "distillation.",
    "fusion",
    CLASSIFIER,
    "graph.",
    "codes.",
    "confidence",
)
# Never taken over: measured when a training ends, or set from its class vectors.
OWN = ("fusion", "confidence", "codes.", "graph.vectors", "graph.adjacency")


def start_from(method: RetrievalMethod, start: Checkpoint) -> list[str]:
    """Copy the weights of a trained network into a new one. Returns the names of the weights that are not copied.

    Heads are copied where they fit, and a module that a loss weight of 0 leaves out where both networks have it. All
    else must fit. From another method only the backbone is copied, and its classifier where it fits. Codes, the weights
    of mode fused, and the graph of classes are never copied.
    Raises ZseError for names and shapes that do not fit.
    """
    mine = method.state_dict()
    theirs = with_lora_names(with_sketch_blocks(start.method.state_dict(), _plain(mine)), mine)
    if type(method) is not METHODS[start.name]:
        return _backbone_from(method, mine, theirs)
    fits = {
        name
        for name, value in theirs.items()
        if name in mine and mine[name].shape == value.shape and not name.startswith(OWN)
    }
    built = [{module_of(name) for name in state} for state in (mine, theirs)]
    one_sided = {module for module in OPTIONAL.get(start.name, ()) if (module in built[0]) != (module in built[1])}
    new = {name for name in mine if is_lora(name)}
    others = (name for name in (mine.keys() | theirs.keys()) - fits - new if module_of(name) not in one_sided)
    if wrong := sorted(name for name in others if not name.startswith(HEADS)):
        raise ZseError(
            f"start: beyond their heads the networks differ in {wrong[:5]}"
            + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
            + ". Give the experiment the backbone and the sizes of the checkpoint"
        )
    method.load_state_dict({**mine, **{name: theirs[name] for name in fits}})
    return sorted(name for name in mine.keys() - fits - new if not name.startswith(OWN))


def _plain(names: Iterable[str]) -> set[str]:
    return {name.replace(ORIGINAL, ".weight") for name in names if not is_lora(name)}


def _backbone_from(method: RetrievalMethod, mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """`start_from` another method. A backbone of the sketches' own starts from the one that there is."""
    wanted = [n for n in mine if n.removeprefix("sketch_").startswith("backbone.") and not is_lora(n)]
    source = {n: theirs.get(n, theirs.get(n.removeprefix("sketch_"))) for n in wanted}
    fits = {n: value for n, value in source.items() if value is not None and value.shape == mine[n].shape}
    others = source.keys() - fits.keys()
    if wrong := sorted(n for n in others if not n.removeprefix("sketch_").startswith(CLASSIFIER)):
        raise ZseError(
            f"start: the backbones differ in {wrong[:5]}"
            + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
            + ". Give the experiment the backbone of the checkpoint"
        )
    method.load_state_dict(mine | fits)
    return sorted(name for name in mine.keys() - fits.keys() if not is_lora(name))


def from_dict(config: type, values: Mapping[str, Any]) -> Any:
    """A configuration dataclass from JSON values; lists become tuples. Raises ZseError for keys that are unknown or
    missing."""
    known = {field.name for field in dataclasses.fields(config)}
    if unknown := sorted(set(values) - known):
        raise ZseError(f"{config.__name__} has no fields {unknown}. Known fields: {sorted(known)}")
    try:
        return config(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except TypeError as error:  # a field that is missing, or a value that cannot be compared with its bounds
        raise ZseError(f"{config.__name__}: {error}") from error


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


def _digest(info: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    sha = hashlib.sha256(_canonical(info).encode())
    there = {name: value for name, value in state.items() if name not in LATER or bool(value.any())}
    named = [(original(name, info["method"]), value) for name, value in there.items()]
    for name, value in sorted(named, key=itemgetter(0)):
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Empty for a folder without one. Raises ZseError for a damaged one."""
    if not (folder / MANIFEST).exists():
        return {}
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except ValueError:  # neither JSON nor UTF-8
        manifest = None
    if not isinstance(manifest, dict):
        raise ZseError(f"{folder / MANIFEST} is damaged: it is no JSON object. {AGAIN}")
    return manifest


def _refuse_exchanged(folder: Path, manifest: Mapping[str, Any], found: str) -> None:
    """Raise ZseError where a training's manifest names another digest, by which its results are filed."""
    said = manifest.get("digest")
    if said is not None and said != found:
        raise ZseError(
            f"{folder} is not the checkpoint that its {MANIFEST} names: that has the hash {said[:16]}, {WEIGHTS} and "
            f"{INFO} have {found[:16]}. Fetch or train it again"
        )


def _refuse_disproved(
    folder: Path, manifest: Mapping[str, Any], method: RetrievalMethod, transforms: TransformConfig
) -> None:
    """Raise ZseError where the network computes something else than the proof of a manifest; older code wrote none."""
    if "proof" in manifest:
        try:
            check_proof(manifest["proof"], method, transforms)
        except ZseError as error:
            raise ZseError(f"{folder}: {error}") from error


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
