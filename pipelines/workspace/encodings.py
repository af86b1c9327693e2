"""Read encodings of the pictures of a test, and of a folder of photos as earlier versions wrote them for searches.

    <workspace>/encodings/<checkpoint>-<key>/part-00000-of-00007.parquet ... manifest.json
    <workspace>/encodings/search-<key>/part-00000.json embedding-00000.safetensors tokens-00000.safetensors ...

Vectors are read all at once. Tokens are large, and are read by part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors.torch import load
from torch import Tensor

from pipelines.runtime.errors import StorageError
from pipelines.store import storage
from pipelines.workspace.images import Images
from pipelines.workspace.kept import Kept
from pipelines.workspace.members import Members
from pipelines.workspace.parts import open_part, part_extra, read_parts
from zse_model.methods import Encoding

COLUMNS = ("id", "modality", "category", "instance", "sha256")


@dataclass(frozen=True)
class Encoded:
    """Encoded pictures of one modality, in stored order."""

    members: Members
    """`part` and `row` refer to the image shards."""
    values: Encoding
    """Embedding and codes, [n, d] each; no tokens."""


class Encodings(Kept):
    """Encodings of the sketches and photos of a test."""

    KIND, MADE_BY = "encodings", "zse embed"

    @property
    def checkpoint(self) -> str:
        """The URL of the training."""
        return self.manifest["checkpoint"]

    @property
    def checkpoint_hash(self) -> str:
        return self.manifest["checkpoint_hash"]

    @property
    def images(self) -> str:
        """The URL of the image shards."""
        return self.manifest["images"]

    def parts(self, modality: str) -> Mapping[str, int]:
        """Name of each part with pictures of a modality -> their number."""
        return {shard["name"]: shard[modality] for shard in self.manifest["shards"] if shard[modality]}

    def ids(self, modality: str) -> list[str]:
        """Ids of the pictures of a modality, in stored order."""
        tables = read_parts(self.url, list(self.parts(modality)), ["id", "modality"])
        return [id for table in tables for id in table.filter(pc.field("modality") == modality)["id"].to_pylist()]

    def values(self, part: str, modality: str, names: Sequence[str] | None = None) -> Encoding:
        """Encodings of the pictures of a modality in one part, in stored order: [n, ...] each. names: None = all."""
        file = open_part(storage.join(self.url, part))
        stored = part_extra(file.schema_arrow)["shapes"]
        shapes = {name: stored[name] for name in names or stored}
        table = file.read(columns=["modality", *shapes]).filter(pc.field("modality") == modality)
        return {name: _tensor(table[name], shape) for name, shape in shapes.items()}

    def read(self, modality: str, images: Images) -> Encoded:
        """The encoded pictures of a modality and their vectors. Raises StorageError if there are none."""
        index = {name: i for i, name in enumerate(images.parts)}
        tables, shapes = [], {}
        for name in self.parts(modality):
            file = open_part(storage.join(self.url, name))
            stored = part_extra(file.schema_arrow)["shapes"]
            shapes = {name: shape for name, shape in stored.items() if len(shape) == 1}
            columns = [*COLUMNS, "images", "row", *shapes]
            tables.append(file.read(columns=columns).filter(pc.field("modality") == modality))
        if not tables:
            raise StorageError(
                f"{self.url} has no {modality} of the unseen classes. Choose a dataset.split whose unseen classes have "
                "sketches and photos"
            )
        table = pa.concat_tables(tables)
        columns = {c: np.asarray(table[c].to_pylist(), dtype=object) for c in COLUMNS}
        part = np.array([index[name] for name in table["images"].to_pylist()])
        members = Members(**columns, part=part, row=table["row"].to_numpy())
        return Encoded(members, {name: _tensor(table[name], shape) for name, shape in shapes.items()})

    @property
    def of_test(self) -> bool:
        """Whether these are encodings of a test, with sketches."""
        return True

    def photo_parts(self) -> Sequence[str]:
        return list(self.parts("photo"))

    def photo_ids(self) -> Sequence[str]:
        """Ids of the photos in the order of the parts."""
        return self.ids("photo")

    def photo_values(self, part: str, names: Sequence[str]) -> Encoding:
        return self.values(part, "photo", names)


class GalleryEncodings(Encodings):
    """Encodings of the photos of a folder. Each encoding has its own file, since most searches read only one."""

    @property
    def of_test(self) -> bool:
        return False

    def photo_parts(self) -> Sequence[str]:
        return self.manifest["parts"]

    def photo_ids(self) -> Sequence[str]:
        """Paths of the photos below the folder."""
        return self.manifest["paths"]

    def photo_values(self, part: str, names: Sequence[str]) -> Encoding:
        files = {name: storage.join(self.url, _file(name, part)) for name in names}
        return {name: load(storage.read_bytes(file))[name] for name, file in files.items()}


def open_photos(url: str) -> Encodings:
    """Open the encodings of a test or of a gallery to search their photos. Raises StorageError for an incomplete
    folder."""
    found = Encodings.open(url)
    return GalleryEncodings(found.url, found.manifest) if "paths" in found.manifest else found


def _file(name: str, part: str) -> str:
    return f"{name}-{part}.safetensors"


def _tensor(column: pa.ChunkedArray, shape: list[int]) -> Tensor:
    flat = column.combine_chunks().flatten().to_numpy()
    return torch.from_numpy(np.array(flat)).view(-1, *shape)
