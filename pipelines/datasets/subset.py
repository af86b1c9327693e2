"""Copy a listed subset of a data set from a user's own copy, so that numbers on a subset are of the same pictures.

The list is a TSV with the columns modality, class and file (the file's name, in any folder below the class). The output
has the layout of the `folder` adapter. For a data set with pairs, pairs.tsv is written last. `zse datasets` calls it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib import resources
from pathlib import PurePosixPath
from typing import get_args

from PIL import Image, ImageOps

from pipelines.datasets.adapters.folder import PAIRS
from pipelines.datasets.base import ImageRecord
from pipelines.datasets.diagnose import recognise
from pipelines.datasets.registry import create_dataset
from pipelines.datasets.texts import named, some, table
from pipelines.datasets.tree import meaning
from pipelines.runtime.errors import StorageError
from pipelines.runtime.progress import Meter
from pipelines.store import storage
from zse_model.errors import ZseError
from zse_model.transforms import BadPicture, Modality

COLUMNS = ("modality", "class", "file")
BLOCK = 256  # pictures in memory at once

Key = tuple[str, str, str]  # modality, normalised class, file name


def subset_names() -> list[str]:
    """Names of the shipped lists, sorted."""
    files = resources.files("pipelines.datasets").joinpath("lists", "subsets").iterdir()
    return sorted(f.name.removesuffix(".tsv.gz") for f in files if f.name.endswith(".tsv.gz"))


def write_subset(members: str, sources: Sequence[str], out: str, size: int | None = None) -> int:
    """Write the listed pictures below `out` and return their number. Existing files are overwritten with equal bytes.

    members: a shipped list, or the file or URL of a list. size: the longer side in px; None copies the bytes.
    Raises ZseError for a list that cannot be read or names pictures that the source does not have (before anything is
    written), StorageError for a picture that cannot be read, BadPicture for one that cannot be resized, and the errors
    of `recognise`.
    """
    wanted = read_members(members)
    config, records = recognise(sources)
    there = {_key(r.modality, r.category, r.path): r for r in reversed(records)}
    if missing := [f"{k[0]} {k[1]}/{k[2]}" for k in wanted if k not in there]:
        raise ZseError(
            f"{', '.join(sources)} lacks {len(missing)} of the {len(wanted)} pictures of {members}: {some(missing)}. "
            "Give a complete copy of the data set"
        )
    chosen = [there[key] for key in wanted]
    dataset = create_dataset(config)
    with Meter("Subset", len(chosen), "pictures") as meter:
        for start in range(0, len(chosen), BLOCK):
            block = chosen[start : start + BLOCK]
            for record, data in zip(block, dataset.read(block), strict=True):
                if isinstance(data, Exception):
                    raise StorageError(f"{record.path} cannot be read: {data}") from data
                storage.write_bytes(storage.join(out, _place(record)), resized(record, data, size) if size else data)
            meter.update(start + len(block))
    _write_pairs(out, chosen)
    return len(chosen)


def read_members(members: str) -> list[Key]:
    """The pictures of a list. Raises ZseError for an unknown, empty or malformed list, or a picture listed twice."""
    if members in subset_names():
        shipped = resources.files("pipelines.datasets").joinpath("lists", "subsets", f"{members}.tsv.gz")
        with resources.as_file(shipped) as file:
            return _parse(members, str(file))
    if not storage.exists(members):
        raise ZseError(f"Subset {members!r} is unknown. Give a shipped list {subset_names()} or a file that exists")
    return _parse(members, members)


def _parse(name: str, url: str) -> list[Key]:
    with storage.open_read(url) as file:
        data = file.read()
    keys: dict[Key, int] = {}
    for row, (modality, category, file) in table(name, COLUMNS, data):
        if modality not in get_args(Modality):
            raise ZseError(f"{name} row {row} has the modality {named(modality)}. Allowed: {get_args(Modality)}")
        first = keys.setdefault(_key(modality, category, file), row)
        if first != row:
            raise ZseError(f"{name} rows {first} and {row} list the same picture. Remove one")
    if not keys:
        raise ZseError(f"{name} lists no picture. Expected rows of {', '.join(COLUMNS)} below the header")
    return list(keys)


def _key(modality: str, category: str, path: str) -> Key:
    return modality, meaning(category), PurePosixPath(path).name


def _place(record: ImageRecord) -> str:
    return f"{record.modality}/{record.category}/{PurePosixPath(record.path).name}"


def resized(record: ImageRecord, data: bytes, size: int) -> bytes:
    """The picture in its own format with `size` px as the longer side. Raises BadPicture if it cannot be decoded."""
    try:
        picture = Image.open(io.BytesIO(data))
        kind = picture.format
        picture = ImageOps.contain(picture.convert("L" if record.modality == "sketch" else "RGB"), (size, size))
    except OSError as error:
        raise BadPicture(f"{record.path} is not a picture: {error}") from error
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))
    return buffer.getvalue()


def _write_pairs(out: str, chosen: Sequence[ImageRecord]) -> None:
    photos = {r.instance: r for r in chosen if r.modality == "photo" and r.instance is not None}
    pairs = [(r, photos[r.instance]) for r in chosen if r.modality == "sketch" and r.instance in photos]
    if pairs:
        lines = [f"{s.category}\t{PurePosixPath(s.path).name}\t{PurePosixPath(p.path).name}" for s, p in pairs]
        storage.write_bytes(storage.join(out, PAIRS), ("\n".join(["class\tsketch\tphoto", *lines]) + "\n").encode())
