"""Measure `zse index`: a large catalogue in which little changed, and the rate at which photos are encoded.

    python -m benchmarks index                        200,000 photos, of which 3 change; 5,000 photos encoded
    ZSE_ROWS=2000 ZSE_PHOTOS=1200 python -m benchmarks index

The encodings of the large catalogue are generated. The rate is that of the last four fifths of the photos, beside a
plain loop on the same cores: read, decode, thumbnail, encode, one batch after the other. The start is printed apart.
Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from pipelines.encode import index as indexing
from pipelines.encode.index import index
from pipelines.encode.photos import stored_forms
from pipelines.store import storage
from pipelines.store.table import Table
from pipelines.workspace.photo_index import PHOTOS, PhotoIndex, photos_schema
from pipelines.workspace.tensors import to_tensor
from zse_model.backbones import BackboneConfig
from zse_model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from zse_model.methods import GlobalConfig, create_method
from zse_model.retrieval import encode
from zse_model.split import ZeroShotSplit
from zse_model.synthetic import draw_photo
from zse_model.transforms import TransformConfig, pixels_of, square_and_thumbnail

ROWS, PHOTOS_ENCODED = int(os.environ.get("ZSE_ROWS", "200000")), int(os.environ.get("ZSE_PHOTOS", "5000"))
SIZE, BATCH, DRAWN = 128, 64, 200
BACKBONE = "mobilenetv2_100"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = made_checkpoint(Path(folder) / "checkpoint")
        print(f"{BACKBONE}, {SIZE} px, {torch.get_num_threads()} threads")
        follow(Path(folder), checkpoint)
        rate(Path(folder), checkpoint)


def made_checkpoint(folder: Path) -> str:
    torch.manual_seed(0)
    method = create_method("global", GlobalConfig(dim=256), BackboneConfig(name=BACKBONE), size=SIZE, classes=4).eval()
    split = ZeroShotSplit(name="generated", citation="none", seen=("ant", "bee", "cat", "dog"), unseen=("emu",))
    empty = torch.zeros(0, dtype=torch.int64)
    save_checkpoint(Checkpoint("global", method, TransformConfig(size=SIZE), split, empty, {}), folder)
    return str(folder)


def photographs(folder: Path, count: int) -> list[str]:
    """Files of `DRAWN` different photos of 500 x 375 pixels, as often as needed: a link takes no space."""
    drawn = folder / "drawn"
    drawn.mkdir(parents=True)
    for i in range(min(count, DRAWN)):
        large = Image.fromarray(draw_photo("fish", i, size=375)).resize((500, 375))
        large.save(drawn / f"{i}.jpg", quality=90)
    names = []
    for i in range(count):
        name = f"{i // 1000:04d}/{i:08d}.jpg"
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(drawn / f"{i % DRAWN}.jpg", path)
        names.append(name)
    return names


def follow(folder: Path, checkpoint_url: str) -> None:
    """A large catalogue: one photo is added, one changed, one deleted."""
    world, url = folder / "large", str(folder / "large.index")
    names = photographs(world, ROWS)
    source = str(world / "photos")
    generated(source, url, checkpoint_url, names)
    unchanged = timed(lambda: index(source, url, checkpoint_url, called="generated"))
    new = world / "photos" / "new.jpg"
    new.write_bytes((world / "drawn" / "1.jpg").read_bytes() + b"\0")
    changed = world / "photos" / names[5]
    changed.unlink()
    changed.write_bytes((world / "drawn" / "2.jpg").read_bytes() + b"\0")
    (world / "photos" / names[7]).unlink()
    with counted() as encoded:
        seconds, done = timed(lambda: index(source, url, checkpoint_url, called="generated"))
    print(
        f"{ROWS:,} photos: {unchanged[0]:.1f} s without a change; {seconds:.1f} s for {done.new} new, {done.changed} "
        f"changed, {done.deleted} deleted: {sum(encoded)} encoded"
    )


def generated(source: str, url: str, checkpoint_url: str, names: list[str]) -> None:
    """An index whose rows were never encoded: ids and versions are those of the catalogue."""
    checkpoint = load_checkpoint(Path(checkpoint_url))
    forms = stored_forms(checkpoint, tokens=False)
    about = {"method": checkpoint.name, "registered": None, "checkpoint_hash": checkpoint.digest}
    about |= {"transforms": asdict(checkpoint.transforms), "encodings": {n: asdict(f) for n, f in forms.items()}}
    place = PhotoIndex(url).place(checkpoint.name, checkpoint.digest)
    table = Table.create(place, PHOTOS, photos_schema(forms, about))
    versions = {file.path: f"{file.version}:{file.size}" for file in storage.list_files(source)}
    chance = np.random.default_rng(0)
    for first in range(0, len(names), indexing.STEP):
        some = names[first : first + indexing.STEP]
        columns: dict[str, Any] = {
            "id": some,
            "version": [versions[name] for name in some],
            "sha256": [hashlib.sha256(name.encode()).digest() for name in some],
            "width": [500] * len(some),
            "height": [375] * len(some),
            "thumbnail": [chance.bytes(2048) for _ in some],
            "look": [chance.bytes(192) for _ in some],
            "indexed_at": [0] * len(some),
        }
        for name, form in forms.items():
            columns[name] = form.column(chance.standard_normal((len(some), *form.shape), dtype=np.float32))
        table.upsert(pa.table(columns, schema=table.schema))


def rate(folder: Path, checkpoint_url: str) -> None:
    """Photos a second of `zse index` and of a plain loop, without the first fifth."""
    names = photographs(folder / "small", PHOTOS_ENCODED)
    source, first = str(folder / "small" / "photos"), PHOTOS_ENCODED // 5
    loop = plain(source, names[: first * 2], checkpoint_url, first)
    began, ticks = time.perf_counter(), []
    parts = indexing.run_parts

    def ticking(*args: Any, **options: Any) -> Iterator[dict[str, Any]]:
        for part in parts(*args, **options):
            ticks.append((time.perf_counter(), part["rows"]))
            yield part

    indexing.run_parts = ticking  # type: ignore[assignment]
    try:
        index(source, str(folder / "small.index"), checkpoint_url, called="generated")
    finally:
        indexing.run_parts = parts
    ended = time.perf_counter()
    done = np.cumsum([rows for _, rows in ticks])
    at = int(np.searchsorted(done, first))
    ours = (done[-1] - done[at]) / (ended - ticks[at][0])
    print(
        f"{PHOTOS_ENCODED:,} photos: the last {done[-1] - done[at]:,} at {ours:.1f} a second, a plain loop "
        f"{loop:.1f}: {ours / loop:.2f} of it; {ticks[0][0] - began:.1f} s to the first part"
    )


def plain(source: str, names: list[str], checkpoint_url: str, skipped: int) -> float:
    """Photos a second of a loop without anything else."""
    checkpoint = load_checkpoint(Path(checkpoint_url))
    began, at = 0.0, 0
    for i in range(0, len(names), BATCH):
        if i >= skipped and not began:
            began, at = time.perf_counter(), i
        pixels = []
        for name in names[i : i + BATCH]:
            square, _ = square_and_thumbnail(Path(source, name).read_bytes(), checkpoint.transforms)
            pixels.append(pixels_of(square))
        encode(checkpoint, to_tensor(pixels), "photo", batch_size=BATCH)
    return (len(names) - at) / (time.perf_counter() - began)


@contextmanager
def counted() -> Iterator[list[int]]:
    """The number of photos of each call of the encoder in this process."""
    from pipelines.encode import photos

    counts: list[int] = []
    kept = photos.encode
    photos.encode = lambda given, some, *rest, **options: (  # type: ignore[assignment]
        counts.append(len(some)) or kept(given, some, *rest, **options)
    )
    try:
        yield counts
    finally:
        photos.encode = kept


def timed(work: Any) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result
