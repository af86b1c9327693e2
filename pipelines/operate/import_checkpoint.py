"""import-checkpoint: weights of the public ZSE-SBIR code -> a checkpoint for `zse evaluate` and `zse search`.

    <out>/model.safetensors  checkpoint.json  seen.safetensors  manifest.json

The files of a training (`run.json`, `history.json`) are left out.
"""

from __future__ import annotations

import hashlib
import numbers
import tempfile
from pathlib import Path

from pipelines.datasets.splits import trained_split
from pipelines.runtime.progress import say
from pipelines.store import storage
from pipelines.workspace.training import Training
from zse_model.checkpoint import INFO, Checkpoint, save_checkpoint, seen_keys
from zse_model.errors import ZseError
from zse_model.proof import proof_of
from zse_model.published import RELEASED_SIZE, read_published, released_method
from zse_model.transforms import TransformConfig

TRAINED = (
    "Trained elsewhere, on the seen classes of the split. Which pictures is not known, so test classes are checked for "
    "leaks and test pictures are not. A stored map_all was measured on a subset of the test classes: not a result."
)
BACKBONE = (
    "A pretrained backbone alone, trained on no split. Mode ret compares its features; the tokenizer is left out, and "
    "cross-attention and relation network are untrained, so mode rn means nothing."
)


def import_checkpoint(file: str, split: str, out: str) -> str:
    """Write the checkpoint unless it exists, and return its folder.

    file, out: paths or URLs. split: see `trained_split`. Raises ZseError for a file without all of these weights, and
    for an `out` with other content.
    """
    classes, out = trained_split(split), storage.absolute(out)
    with storage.local_copy(file) as copy:
        try:
            content = read_published(copy)
            method, translation = released_method(content, len(classes.training))
        except ZseError as error:  # name the URL of a remote file, not its local copy
            said = str(error).replace(str(copy), file)
            raise ZseError(said if file in said else f"{file}: {said}") from error
        with copy.open("rb") as source:
            sha256 = hashlib.file_digest(source, "sha256").hexdigest()
    note = BACKBONE if translation.initialised else TRAINED
    stored = {key: content.get(key) for key in ("epoch", "map_all", "precision_100")}
    checkpoint = Checkpoint(
        name="zse_sbir",
        method=method,
        transforms=TransformConfig(size=RELEASED_SIZE, recipe="published"),
        split=classes,
        seen_pictures=seen_keys([]),
        training={
            "run": f"published-zse_sbir-{sha256[:8]}",
            "imported_from": copy.name,
            "source_sha256": sha256,
            "dropped": translation.dropped,
            "initialised": translation.initialised,
            **{f"stored_{key}": float(value) for key, value in stored.items() if isinstance(value, numbers.Real)},
            "note": note,
        },
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_checkpoint(checkpoint, folder)
        if _is_there(checkpoint, folder, out):
            say(f"{out} already has this checkpoint")
            return out
        storage.upload_folder(folder, out, last=INFO)
    about = {"name": checkpoint.training["run"], "method": checkpoint.name, "digest": checkpoint.digest}
    Training.write(out, **about, training=checkpoint.training, proof=proof_of(method, checkpoint.transforms))
    say(
        f"{len(translation.state)} tensors imported, {len(translation.dropped)} dropped, "
        f"{len(translation.initialised)} initialised; {INFO} names them\n{note}"
    )
    return out


def _is_there(checkpoint: Checkpoint, folder: Path, out: str) -> bool:
    """Whether `out` is this checkpoint. Raises ZseError for other content, except a part of this checkpoint."""
    if (done := Training.find(out)) is not None and done.digest == checkpoint.digest:
        return True
    there = [file.path for file in storage.list_files(out)] if storage.exists(out) else []
    mine = {file.name: file for file in folder.iterdir()}
    others = [
        name
        for name in sorted(there)
        if not name.startswith(".")  # left by an interrupted write
        and (name not in mine or storage.read_bytes(storage.join(out, name)) != mine[name].read_bytes())
    ]
    if others:
        raise ZseError(f"{out} has other content, such as {others[:3]}. Give --out another folder, or delete this one")
    return False
