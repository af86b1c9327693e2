"""What `zse embed` wrote of a test's pictures, for those who read it: vectors at once, tokens part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from pipelines.runtime.errors import StorageError
from pipelines.store import storage
from pipelines.workspace import shards
from pipelines.workspace.images import Images
from pipelines.workspace.members import Members
from zse_model.methods import Encoding

COLUMNS = ("id", "modality", "category", "instance", "sha256")


@dataclass(frozen=True)
class Encodings:
    """Encoded pictures of one modality, in stored order."""

    members: Members
    """`part` and `row` are those of the image shards."""
    values: Encoding
    """What is one vector a picture, embedding and codes: tokens are large, and read part by part (`read_values`)."""


def encoded_parts(manifest: dict[str, Any], modality: str) -> list[tuple[str, int]]:
    """Parts of an encodings folder that hold pictures of a modality, and how many."""
    return [(shard["name"], shard[modality]) for shard in manifest["shards"] if shard[modality]]


def read_ids(folder: str, parts: Sequence[str], modality: str) -> list[str]:
    """Of one modality's pictures, in stored order."""
    tables = shards.read_parts(folder, parts, ["id", "modality"])
    return [id for table in tables for id in table.filter(pc.field("modality") == modality)["id"].to_pylist()]


def read_values(folder: str, part: str, modality: str, names: Sequence[str] | None = None) -> Encoding:
    """What was encoded of one modality's pictures in one part, in stored order; None = everything."""
    file = shards.open_part(storage.join(folder, part))
    stored = shards.part_extra(file.schema_arrow)["shapes"]
    shapes = {name: stored[name] for name in names or stored}
    table = file.read(columns=["modality", *shapes]).filter(pc.field("modality") == modality)
    return {name: _tensor(table[name], shape) for name, shape in shapes.items()}


def read_encodings(folder: str, modality: str, images: Images) -> Encodings:
    """Who was encoded of one modality, and their vectors."""
    manifest = shards.read_manifest(folder, "zse embed")
    index = {name: i for i, name in enumerate(images.parts)}
    tables, shapes = [], {}
    for name, _ in encoded_parts(manifest, modality):
        file = shards.open_part(storage.join(folder, name))
        stored = shards.part_extra(file.schema_arrow)["shapes"]
        shapes = {name: shape for name, shape in stored.items() if len(shape) == 1}
        columns = [*COLUMNS, "images", "row", *shapes]
        tables.append(file.read(columns=columns).filter(pc.field("modality") == modality))
    if not tables:
        raise StorageError(f"{folder} holds no {modality} of the unseen classes: there is nothing to search")
    table = pa.concat_tables(tables)
    columns = [np.asarray(table[c].to_pylist(), dtype=object) for c in COLUMNS]
    members = Members(
        id=columns[0],
        modality=columns[1],
        category=columns[2],
        instance=columns[3],
        sha256=columns[4],
        part=np.array([index[name] for name in table["images"].to_pylist()]),
        row=table["row"].to_numpy(),
    )
    return Encodings(members, {name: _tensor(table[name], shape) for name, shape in shapes.items()})


def _tensor(column: pa.ChunkedArray, shape: list[int]) -> Tensor:
    flat = column.combine_chunks().flatten().to_numpy()
    return torch.from_numpy(np.array(flat)).view(-1, *shape)
