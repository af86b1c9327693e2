"""search: one sketch against a folder of photos, with a checkpoint. No experiment, no cluster, no tracking.

The gallery's encodings are kept in <workspace>/encodings, named by the checkpoint and the listing, so the second sketch
is answered at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, save

from pipelines import storage
from pipelines.catalog.folder import is_picture
from pipelines.loaders import to_tensor
from pipelines.progress import Meter, say
from pipelines.sheets import Row, draw_sheet
from zse_model.checkpoint import Checkpoint, load_checkpoint
from zse_model.evaluation.search import rank
from zse_model.methods import Encoding
from zse_model.transforms import BadPicture, prepare_photo, prepare_sketch

BATCH = 64


@dataclass(frozen=True)
class Match:
    path: str
    """Below the gallery."""
    score: float


def search(
    sketch: str, gallery: str, checkpoint_url: str, workspace: str, *, top: int, mode: str | None, picture: Path
) -> list[Match]:
    """The best photos, best first; draws them to `picture`. Raises BadPicture for an unusable sketch."""
    with storage.local_copy(checkpoint_url) as copy:
        checkpoint = load_checkpoint(copy)
    mode = mode or checkpoint.method.modes[0]
    checkpoint.method.check_mode(mode)
    drawn = prepare_sketch(storage.read_bytes(sketch), checkpoint.transforms)
    paths, encodings = encode_gallery(gallery, checkpoint, workspace)
    with torch.inference_mode():
        query = checkpoint.method.encode(to_tensor([drawn]), "sketch")
        ranking = rank(checkpoint.method.score(query, encodings, mode), min(top, len(paths)))
    found = [Match(paths[int(i)], float(s)) for i, s in zip(ranking.indices[0], ranking.scores[0], strict=True)]
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


def encode_gallery(gallery: str, checkpoint: Checkpoint, workspace: str) -> tuple[list[str], Encoding]:
    """Paths of the photos below a folder, in the order of their content hash, and their encodings."""
    files = sorted((f for f in storage.list_files(gallery) if is_picture(f.path)), key=lambda f: f.path)
    if not files:
        raise storage.StorageError(f"{gallery} holds no pictures")
    key = storage.digest([checkpoint.digest, storage.absolute(gallery), [vars(f) for f in files]], 16)
    cache = storage.join(workspace, "encodings", f"search-{key}.safetensors")
    if storage.exists(cache):
        stored = load(storage.read_bytes(cache))
        return bytes(stored.pop("paths").numpy()).decode().split("\0"), stored
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    method = checkpoint.method.to(device)
    kept: list[tuple[str, str]] = []
    values: dict[str, list[torch.Tensor]] = {}
    skipped: list[str] = []
    with Meter("Encode the gallery", len(files), "photos") as meter:
        for i in range(0, len(files), BATCH):
            chunk = [f.path for f in files[i : i + BATCH]]
            pictures = []
            for path, data in zip(chunk, storage.read_many(gallery, chunk), strict=True):
                try:
                    if isinstance(data, Exception):
                        raise data
                    pictures.append(prepare_photo(data, checkpoint.transforms))
                    kept.append((storage.sha256(data), path))
                except (BadPicture, FileNotFoundError, PermissionError) as error:
                    skipped.append(f"{path}: {error}")
            if pictures:
                with torch.inference_mode():
                    for name, value in method.encode(to_tensor(pictures).to(device), "photo").items():
                        values.setdefault(name, []).append(value.cpu())
            meter.update(min(i + BATCH, len(files)))
    if skipped:
        say(f"Skipped {len(skipped)} of {len(files)} files:\n  " + "\n  ".join(skipped[:5]))
    if not kept:
        raise storage.StorageError(f"None of the {len(files)} files in {gallery} is a usable photo")
    order = sorted(range(len(kept)), key=lambda i: kept[i])
    encodings = {name: torch.cat(parts)[order] for name, parts in values.items()}
    paths = [kept[i][1] for i in order]
    packed = torch.frombuffer(bytearray("\0".join(paths).encode()), dtype=torch.uint8)
    storage.write_bytes(cache, save({**{k: v.contiguous() for k, v in encodings.items()}, "paths": packed}))
    method.to("cpu")
    return paths, encodings
