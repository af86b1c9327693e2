"""Encode the photos of a folder once, and open them for many searches. Searches and `zse embed --gallery` call it.

    <workspace>/encodings/search-<hash>/embedding-00000.safetensors tokens-00000.safetensors ... manifest.json

The name has the hash of the checkpoint and of the folder's listing. Encodings are written and read in parts: a gallery
may be larger than memory, and an interrupted encoding continues. The output of `zse embed` is a gallery, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipelines.datasets.archives import opened
from pipelines.datasets.tree import PICTURES, PassedOver, is_picture
from pipelines.encode.device import assigned_device
from pipelines.runtime.errors import StorageError
from pipelines.runtime.progress import Meter, say
from pipelines.runtime.redaction import printable
from pipelines.store import storage
from pipelines.workspace.encodings import Encodings, GalleryEncodings, note_name, open_photos, write_photos
from pipelines.workspace.tensors import to_tensor
from zse_model.checkpoint import Checkpoint, load_checkpoint
from zse_model.code_index import CodeIndex
from zse_model.methods import Encoding
from zse_model.retrieval import encode
from zse_model.transforms import BadPicture, prepare_photo

BATCH, PART = 64, 256  # photos a batch, and photos a file


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
    """Open the output of `zse embed`, with or without --gallery. Raises StorageError for an incomplete folder.

    memory: bytes of encodings to cache for the next search; each search reads the rest.
    """
    encodings = open_photos(folder)
    return Gallery(encodings, encodings.photo_ids(), memory)


def index(gallery: str, checkpoint_url: str, workspace: str) -> str:
    """Encode a gallery with a checkpoint, or find its encodings; returns their folder."""
    with storage.local_copy(checkpoint_url) as copy:
        checkpoint = load_checkpoint(copy, assigned_device())
    return encode_gallery(gallery, checkpoint, storage.absolute(workspace))


def encode_gallery(gallery: str, checkpoint: Checkpoint, workspace: str) -> str:
    """Encode the photos below `gallery`, or find their encodings; returns the folder.

    Raises StorageError for a gallery without usable photos. Other files are skipped and logged.
    """
    files = _photos(gallery)
    listed = [asdict(f) for f in files]
    digest = checkpoint.digest
    key = storage.digest([GalleryEncodings.VERSION, digest, storage.absolute(gallery), listed])
    folder = storage.join(workspace, GalleryEncodings.KIND, f"search-{key[:16]}")
    if GalleryEncodings.find(folder, key) is not None:
        return folder
    there = storage.names(folder)
    notes: list[dict[str, Any]] = []
    with Meter("Encode the gallery", len(files), "photos") as meter:
        for i in range(0, len(files), PART):
            part = f"{i // PART:05d}"
            url = storage.join(folder, note_name(part))
            if note_name(part) not in there:
                chunk = [f.path for f in files[i : i + PART]]
                storage.write_json(url, _encode_part(checkpoint, gallery, chunk, folder, part))
            notes.append(storage.read_json(url))
            meter.update(min(i + PART, len(files)))
    skipped = [line for note in notes for line in note["skipped"]]
    if skipped:
        say(f"Skipped {len(skipped)} of {len(files)} files:\n  " + "\n  ".join(skipped[:5]))
    paths = [path for note in notes for path in note["paths"]]
    if not paths:
        raise StorageError(f"None of the {len(files)} files in {gallery} is a usable photo. Give another gallery")
    full = [note for note in notes if note["paths"]]
    made = {"parts": [note["part"] for note in full], "names": full[0]["names"], "paths": paths, "skipped": skipped}
    GalleryEncodings.write(folder, key, checkpoint_hash=digest, gallery=storage.absolute(gallery), **made)
    return folder


def _photos(gallery: str) -> list[storage.FileInfo]:
    """The photos below a gallery, sorted by path. Raises StorageError if there are none."""
    files, passed = [], PassedOver()
    place = opened(gallery)
    for file in storage.list_files(place.folder):
        if is_picture(file.path):
            files.append(replace(file, version=place.version or file.version))
        else:
            passed.add(file.path)
    if not files:
        there = f"; there are {passed}" if passed.counts else ""
        raise StorageError(f"{gallery} holds no pictures{there}. Give photos with endings {' '.join(PICTURES)}")
    passed.tell(gallery)
    return sorted(files, key=lambda f: f.path)


def read_photos(gallery: str, paths: Sequence[str]) -> list[bytes | Exception]:
    """The contents of photos below a gallery, a folder or an archive. A failed photo is its exception."""
    return storage.read_many(opened(gallery).folder, paths)


def _encode_part(checkpoint: Checkpoint, gallery: str, paths: list[str], folder: str, part: str) -> dict[str, Any]:
    """Encode and write the photos of one part; returns its note: names of the encodings, paths, and skipped files."""
    pictures, kept, skipped = [], [], []
    for path, data in zip(paths, read_photos(gallery, paths), strict=True):
        try:
            if isinstance(data, Exception):
                raise data
            pictures.append(prepare_photo(data, checkpoint.transforms))
            kept.append(path)
        except (BadPicture, FileNotFoundError) as error:
            skipped.append(printable(f"{path}: {error}"))
    encoded = encode(checkpoint, to_tensor(pictures), "photo", batch_size=BATCH) if pictures else {}
    write_photos(folder, part, encoded)
    return {"part": part, "names": sorted(encoded), "paths": kept, "skipped": skipped}
