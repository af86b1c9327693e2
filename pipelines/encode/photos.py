"""Photos of a catalogue become rows of an index: read, check, encode. A worker of `zse index` runs it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipelines.datasets.archives import opened
from pipelines.encode.device import usable_device
from pipelines.runtime.redaction import printable
from pipelines.store import storage
from pipelines.workspace.ids import as_id
from pipelines.workspace.looks import look
from pipelines.workspace.photo_index import OWN, UNIT, EncodingForm, forms_of
from pipelines.workspace.tensors import to_tensor
from zse_model.checkpoint import Checkpoint, load_checkpoint
from zse_model.retrieval import encode
from zse_model.transforms import BadPicture, pixels_of, square_and_thumbnail

BATCH = 64  # photos that the network encodes at once
READ = ("id", "sha256", "width", "height", "thumbnail", "look")  # the columns that come from a photo's file


class EncodePhotos:
    """An actor that holds the network. Each call reads and encodes some photos."""

    def __init__(self, checkpoint: str, source: str, forms: str, known: str = "") -> None:
        """source: as the user gave it; each machine unpacks an archive. forms: of the encodings to keep, as JSON.
        known: the sha256 of photos that are encoded already, as hex digits one after the other."""
        with storage.local_copy(checkpoint) as copy:
            self.checkpoint = load_checkpoint(copy, usable_device())
        self.source, self.forms = opened(source).folder, forms_of(json.loads(forms))
        self.known = {bytes.fromhex(known[i : i + 64]) for i in range(0, len(known), 64)}

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        """task: `paths`, as JSON. Returns `encoded` and `moved`, tables as Arrow's IPC; the photos of `moved` are
        known and have no encodings. `skipped`: (id, reason) of those that are no usable pictures, as JSON. `locked`:
        of those that may not be read now. `missing`: paths without a file: deleted since the listing, or not on this
        machine. `rows`: number of paths."""
        paths = json.loads(task["paths"])
        rows, pixels, moved, skipped, locked, missing = [], [], [], [], [], []
        for path, data in zip(paths, storage.read_many(self.source, paths), strict=True):
            try:
                if isinstance(data, Exception):
                    raise data
                row, square = _row(path, data, self.checkpoint)
            except BadPicture as error:
                # Where memory was short, the picture may be good: it is tried again, too.
                bad = locked if isinstance(error.__cause__, MemoryError) else skipped
                bad.append((as_id(path), printable(str(error))))
            except FileNotFoundError:
                missing.append(path)
            except PermissionError as error:
                locked.append((as_id(path), f"cannot be read: {error.strerror}"))
            else:
                if row["sha256"] in self.known:
                    moved.append(row)
                else:
                    rows.append(row)
                    pixels.append(square)
        table = _table(rows)
        values = encode(self.checkpoint, to_tensor(pixels), "photo", batch_size=BATCH) if rows else {}
        for name, form in self.forms.items():
            column = _numbers(values[name]) if rows else np.empty((0, *form.shape))
            table = table.append_column(name, form.column(column))
        return {
            "encoded": as_bytes(table),
            "moved": as_bytes(_table(moved)),
            "skipped": json.dumps(skipped),
            "locked": json.dumps(locked),
            "missing": json.dumps(missing),
            "rows": len(paths),
        }


def stored_forms(checkpoint: Checkpoint, *, tokens: bool) -> dict[str, EncodingForm]:
    """The encodings that an index keeps. tokens: also those of patches, which only modes read that compare them."""
    method, size = checkpoint.method, checkpoint.transforms.size
    with torch.inference_mode():
        values = method.encode(torch.zeros(1, 3, size, size, dtype=torch.uint8, device=method.device), "photo")
    cheap = [mode for mode in method.modes if not method.mode(mode).pair_network]
    wanted = {name for mode in cheap for name in method.scorer(mode).reads("photo")}
    return {name: form_of(name, value) for name, value in sorted(values.items()) if tokens or name in wanted}


def form_of(name: str, values: torch.Tensor) -> EncodingForm:
    """How an index keeps an encoding of photos, [n, ...]. Places are many: int8 halves an index (docs/searching.md has
    what it loses)."""
    whole = str(values.dtype).removeprefix("torch.")
    dtype = UNIT if name == "places" else "float16" if values.is_floating_point() else whole
    return EncodingForm(dtype, tuple(values.shape[1:]))


def _row(path: str, data: bytes, checkpoint: Checkpoint) -> tuple[dict[str, Any], np.ndarray]:
    """The columns READ of a photo, and its pixels for the network, uint8 [s, s, 3]. Raises BadPicture."""
    square, small = square_and_thumbnail(data, checkpoint.transforms)
    row = {
        "id": as_id(path),
        "sha256": hashlib.sha256(data).digest(),
        "width": small.width,
        "height": small.height,
        "thumbnail": small.data,
        "look": look(square),
    }
    return row, pixels_of(square)


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    schema = pa.schema([field for field in OWN if field.name in READ])
    return pa.Table.from_pylist(list(rows), schema=schema)


def _numbers(values: torch.Tensor) -> np.ndarray:
    return (values.float() if values.is_floating_point() else values).numpy()


def as_bytes(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_stream(buffer, table.schema) as stream:
        stream.write_table(table)
    return buffer.getvalue().to_pybytes()


def from_bytes(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()
