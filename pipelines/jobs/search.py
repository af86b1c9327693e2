"""search: one sketch against a folder of photos, with a checkpoint. No experiment, no cluster, no tracking.

    <workspace>/encodings/search-<hash>/embedding-00000.safetensors tokens-00000.safetensors ... manifest.json

The gallery's encodings are kept, named by the checkpoint and the listing, so the second sketch is answered at once.
They are written and read in parts: a gallery may be larger than memory, and an interrupted encoding goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from pipelines import shards, storage
from pipelines.catalog.tree import is_picture
from pipelines.loaders import to_tensor
from pipelines.progress import Meter, say
from pipelines.sheets import Row, draw_sheet
from zse_model.checkpoint import Checkpoint, load_checkpoint
from zse_model.methods import Encoding, RetrievalMethod
from zse_model.transforms import BadPicture, prepare_photo, prepare_sketch

BATCH, PART = 64, 256  # photos encoded at once, and kept in one file


@dataclass(frozen=True)
class Match:
    path: str
    """Below the gallery."""
    score: float


def search(
    sketch: str,
    gallery: str,
    checkpoint_url: str,
    workspace: str,
    *,
    top: int,
    mode: str | None,
    picture: Path,
    rerank_by: str | None = None,
    depth: int = 100,
) -> list[Match]:
    """The best photos, best first; draws them to `picture`. Raises BadPicture for an unusable sketch.

    rerank_by: another checkpoint, which ranks the first `depth` anew. Raises ValueError for a `top` beyond them.
    """
    if rerank_by is not None and top > depth:
        raise ValueError(
            f"--top {top} asks for more photos than --depth {depth} ranks anew. Give --depth {top} or more"
        )
    with storage.local_copy(checkpoint_url) as copy:
        checkpoint = load_checkpoint(copy)
    data = storage.read_bytes(sketch)
    drawn = prepare_sketch(data, checkpoint.transforms)
    found = find(drawn, gallery, checkpoint, workspace, top=depth if rerank_by else top, mode=mode)
    if rerank_by is not None:
        with storage.local_copy(rerank_by) as copy:
            found = ranked_anew(data, gallery, found, load_checkpoint(copy))[:top]
    photos = [
        prepare_photo(data, checkpoint.transforms)
        for data in storage.read_many(gallery, [match.path for match in found])
        if isinstance(data, bytes)
    ]
    captions = [f"{m.score:.3f} {m.path.rsplit('/', 1)[-1]}" for m in found]
    rows = [
        Row(
            drawn if i == 0 else np.full_like(drawn, 255),
            "query" if i == 0 else "",
            photos[i : i + 10],
            captions[i : i + 10],
            None,
        )
        for i in range(0, len(photos), 10)
    ]
    picture.write_bytes(draw_sheet(rows))
    return found


def find(
    drawn: np.ndarray, gallery: str, checkpoint: Checkpoint, workspace: str, *, top: int, mode: str | None
) -> list[Match]:
    """The best photos below a folder for a prepared sketch, best first."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    method = checkpoint.method.to(device)
    mode = mode or method.modes[0]
    method.check_mode(mode)
    folder, paths = encode_gallery(gallery, checkpoint, workspace)
    finds_and_ranks = [mode] if mode in method.modes else method.rerank or ()
    names = {name for part in finds_and_ranks for name in method.scorer(part).reads}
    with torch.inference_mode():
        query = method.encode(to_tensor([drawn]).to(device), "sketch")
        ranking = method.search(query, partial(read_gallery, folder, sorted(names)), mode, min(top, len(paths)))
    return [Match(paths[int(i)], float(s)) for i, s in zip(ranking.indices[0], ranking.scores[0], strict=True)]


def ranked_anew(sketch: bytes, gallery: str, found: list[Match], checkpoint: Checkpoint) -> list[Match]:
    """Photos that another checkpoint found, in the order of this one: by its pair network, if it has one."""
    method = checkpoint.method.to("cuda" if torch.cuda.is_available() else "cpu")
    drawn = prepare_sketch(sketch, checkpoint.transforms)
    photos = []
    for match, data in zip(found, storage.read_many(gallery, [match.path for match in found]), strict=True):
        if isinstance(data, Exception):
            raise storage.StorageError(f"{match.path} was found, and is gone from {gallery}") from data
        photos.append(prepare_photo(data, checkpoint.transforms))
    encoded = [_encode(method, photos[i : i + BATCH]) for i in range(0, len(photos), BATCH)]
    with torch.inference_mode():
        query = method.encode(to_tensor([drawn]).to(method.device), "sketch")
        ranking = method.search(query, lambda: encoded, method.pair_mode or method.modes[0], len(found))
    return [Match(found[int(i)].path, float(s)) for i, s in zip(ranking.indices[0], ranking.scores[0], strict=True)]


def read_gallery(folder: str, names: Sequence[str]) -> Iterator[Encoding]:
    """What is named of a gallery's encodings, a part at a time."""
    for part in shards.read_manifest(folder, "zse search")["parts"]:
        files = {name: storage.join(folder, f"{name}-{part}.safetensors") for name in names}
        yield {name: load(storage.read_bytes(file))[name] for name, file in files.items()}


def encode_gallery(gallery: str, checkpoint: Checkpoint, workspace: str) -> tuple[str, list[str]]:
    """The folder with the encodings of the photos below `gallery`, and the photos' paths in that order."""
    files = sorted((f for f in storage.list_files(gallery) if is_picture(f.path)), key=lambda f: f.path)
    if not files:
        raise storage.StorageError(f"{gallery} holds no pictures")
    key = storage.digest([checkpoint.digest, storage.absolute(gallery), [asdict(f) for f in files]], 16)
    folder = storage.join(workspace, "encodings", f"search-{key}")
    if shards.has_manifest(folder):
        return folder, shards.read_manifest(folder, "zse search")["paths"]
    there = storage.names(folder)
    notes: list[dict[str, Any]] = []
    with Meter("Encode the gallery", len(files), "photos") as meter:
        for i in range(0, len(files), PART):
            url = storage.join(folder, f"part-{i // PART:05d}.json")
            if url.rsplit("/", 1)[1] not in there:
                chunk = [f.path for f in files[i : i + PART]]
                storage.write_json(url, _encode_part(checkpoint, gallery, chunk, folder, f"{i // PART:05d}"))
            notes.append(storage.read_json(url))
            meter.update(min(i + PART, len(files)))
    skipped = [line for note in notes for line in note["skipped"]]
    if skipped:
        say(f"Skipped {len(skipped)} of {len(files)} files:\n  " + "\n  ".join(skipped[:5]))
    paths = [path for note in notes for path in note["paths"]]
    if not paths:
        raise storage.StorageError(f"None of the {len(files)} files in {gallery} is a usable photo")
    full = [note for note in notes if note["paths"]]
    parts = [note["part"] for note in full]
    shards.write_manifest(folder, {"parts": parts, "names": full[0]["names"], "paths": paths, "skipped": skipped})
    return folder, paths


def _encode_part(checkpoint: Checkpoint, gallery: str, paths: list[str], folder: str, part: str) -> dict[str, Any]:
    """Encode some photos and write them, each encoding in a file of its own: most searches read one of them."""
    pictures, kept, skipped = [], [], []
    for path, data in zip(paths, storage.read_many(gallery, paths), strict=True):
        try:
            if isinstance(data, Exception):
                raise data
            pictures.append(prepare_photo(data, checkpoint.transforms))
            kept.append(path)
        except (BadPicture, FileNotFoundError) as error:
            skipped.append(f"{path}: {error}")
    encoded = [_encode(checkpoint.method, pictures[i : i + BATCH]) for i in range(0, len(pictures), BATCH)]
    names = sorted(encoded[0]) if encoded else []
    for name in names:
        values = torch.cat([batch[name] for batch in encoded]).contiguous()
        storage.write_bytes(storage.join(folder, f"{name}-{part}.safetensors"), save({name: values}))
    return {"part": part, "names": names, "paths": kept, "skipped": skipped}


@torch.inference_mode()
def _encode(method: RetrievalMethod, photos: list[np.ndarray]) -> Encoding:
    encoded = method.encode(to_tensor(photos).to(method.device), "photo")
    return {name: value.cpu() for name, value in encoded.items()}
