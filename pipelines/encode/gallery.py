"""The photos of a folder as a gallery: their index in the workspace, and encodings that are read as an index.

    <workspace>/indexes/<hash of the folder's URL>

`zse search --gallery` and `zse embed --gallery` keep the index. The output of `zse embed`, and encodings that earlier
versions wrote into <workspace>/encodings/search-*, are galleries for the registered model, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipelines.datasets.archives import opened
from pipelines.encode.index import index
from pipelines.store import storage
from pipelines.workspace.encodings import Encodings, open_photos
from pipelines.workspace.ids import as_path
from zse_model.checkpoint import Checkpoint
from zse_model.code_index import CodeIndex
from zse_model.methods import Encoding

INDEXES = "indexes"  # the folder of the workspace


@dataclass
class Gallery:
    """Complete encodings of photos, with a cache."""

    encodings: Encodings
    ids: Sequence[str]
    """The photos in stored order: paths below their folder, or ids of a data set's pictures."""
    memory: int
    """Bytes of encodings that may still be cached."""
    indices: dict[str, CodeIndex] = field(default_factory=dict)
    """Name of a code -> its index, built by the first search that reads the code."""
    _kept: dict[tuple[str, tuple[str, ...]], Encoding] = field(default_factory=dict)

    def tiles(self, names: Sequence[str]) -> Iterator[Encoding]:
        """Yield the named encodings by part, [photos of the part, ...] each."""
        for part in self.encodings.photo_parts():
            key = part, tuple(names)
            tile = self._kept.get(key) or self.encodings.photo_values(part, names)
            if key not in self._kept and (size := sum(value.nbytes for value in tile.values())) <= self.memory:
                self._kept[key] = tile
                self.memory -= size
            yield tile


def open_gallery(folder: str, memory: int = 0) -> Gallery:
    """Open encodings as a gallery. Raises StorageError for an incomplete folder.

    memory: bytes of encodings to cache for the next search; each search reads the rest.
    """
    encodings = open_photos(folder)
    return Gallery(encodings, encodings.photo_ids(), memory)


def gallery_index(gallery: str, checkpoint_url: str, workspace: str, checkpoint: Checkpoint | None = None) -> str:
    """Bring the index of a folder of photos up to date; returns its URL. Everything that a mode may read is kept.

    checkpoint: the content of the checkpoint, if that is loaded already. Raises StorageError for a folder without
    pictures.
    """
    gallery = storage.absolute(gallery)
    url = storage.join(storage.absolute(workspace), INDEXES, storage.digest(gallery, 16))
    index(gallery, url, checkpoint_url, called=checkpoint_url, tokens=True, delete_many=True, checkpoint=checkpoint)
    return url


def read_photos(gallery: str, ids: Sequence[str]) -> list[bytes | Exception]:
    """The contents of photos below a gallery, a folder or an archive. A failed photo is its exception."""
    return storage.read_many(opened(gallery).folder, [as_path(id) for id in ids])
