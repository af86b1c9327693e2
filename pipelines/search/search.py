"""Search a folder of photos with one sketch and a checkpoint; `zse search` calls `search`. Needs no experiment and no
cluster.

The folder's index is kept (`encode/gallery.py`), so further searches encode the sketch and new photos alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import numpy as np
import torch

from pipelines.drawing.sheets import Row, draw_sheet
from pipelines.encode.device import usable_device
from pipelines.encode.gallery import Gallery, gallery_index, read_photos
from pipelines.runtime.errors import StorageError
from pipelines.runtime.progress import say
from pipelines.runtime.redaction import printable
from pipelines.search.cleaning import Clean
from pipelines.search.query import PreparedQuery, Query, prepare_query, prepared, prepared_photo
from pipelines.search.searcher import Asked, Found, Page, Searcher
from pipelines.store import storage
from pipelines.workspace.pictures import encode_sketch
from pipelines.workspace.tensors import to_tensor
from zse_model import retrieval
from zse_model.checkpoint import Checkpoint, load_checkpoint
from zse_model.errors import ZseError
from zse_model.evaluation.search import Ranking
from zse_model.methods import RetrievalMethod
from zse_model.transforms import BadPicture, prepare_photo


@dataclass(frozen=True)
class Match:
    path: str
    """Relative to the gallery."""
    score: float
    confidence: float | None = None
    """As `Found.confidence`; None for photos that a second checkpoint ranked."""


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
    clean: Clean = "auto",
    drawing: Path | None = None,
) -> list[Match]:
    """The `top` photos, best first. Writes a PNG of the sketch and the photos to `picture`.

    mode: None = the method's first mode. rerank_by: a second checkpoint, which re-ranks the first `depth` photos.
    clean: as in `prepare_query`. drawing: a PNG file to write the drawing to, as the network reads it.
    Raises BadPicture for an unusable sketch, ZseError for an unknown mode, and for a `top` above `depth`.
    """
    if rerank_by is not None and top > depth:
        raise ZseError(f"--top {top} is more than the {depth} photos that are re-ranked. Give --depth {top} or more")
    with storage.local_copy(checkpoint_url) as copy:
        checkpoint = load_checkpoint(copy)
    drawn = told(sketch, prepare_query(sketch, checkpoint.transforms, clean=clean), drawing)
    wanted = depth if rerank_by else top
    found = find(drawn, gallery, checkpoint, checkpoint_url, workspace, top=wanted, mode=mode)
    if rerank_by is not None:
        with storage.local_copy(rerank_by) as copy:
            found = reranked(sketch, gallery, found, load_checkpoint(copy), clean)[:top]
    photos = [_shown(data, checkpoint) for data in read_photos(gallery, [match.path for match in found])]
    draw_matches(picture, drawn, photos, found)
    return found


def draw_matches(picture: Path, drawn: np.ndarray, photos: Sequence[np.ndarray], found: Sequence[Match]) -> None:
    """Write a PNG of a prepared drawing, uint8 [s, s], and the photos that it found, uint8 [s, s, 3] each."""
    captions = [f"{m.score:.3f} {printable(m.path.rsplit('/', 1)[-1])}" for m in found]
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
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(draw_sheet(rows))


def told(sketch: str, query: PreparedQuery, drawing: Path | None = None) -> np.ndarray:
    """The drawing of a query. Says what was cleaned, and writes it to the PNG file `drawing`."""
    if query.cleaned.changed:
        say(f"{printable(sketch)} is a picture of a drawing: {query.cleaned.done}. --clean never takes it as it is")
    if drawing is not None:
        drawing.parent.mkdir(parents=True, exist_ok=True)
        drawing.write_bytes(encode_sketch(query.drawing))
    return query.drawing


def search_index(
    sketch: str,
    searcher: Searcher,
    picture: Path,
    *,
    clean: Clean = "auto",
    drawing: Path | None = None,
    **asked: Unpack[Asked],
) -> list[Found]:
    """One page of an index's photos, as `Searcher.search` finds them. Writes PNG files as `search` does."""
    transforms = searcher.checkpoint.transforms
    drawn = told(sketch, prepare_query(sketch, transforms, clean=clean), drawing)
    (answer,) = searcher.answers([drawn], **asked)
    found = told_similar(answer)
    if found:
        photos = [prepare_photo(one.thumbnail, transforms) for one in found]
        draw_matches(picture, drawn, photos, [Match(one.id, one.score) for one in found])
    return found


def told_similar(answer: Page) -> Page:
    """The answer. Says if nothing similar was found."""
    if answer.similar is False:
        say("Nothing similar was found. The nearest photos:")
    return answer


def _shown(data: bytes | Exception, checkpoint: Checkpoint) -> np.ndarray:
    """uint8 [s, s, 3]: a photo to draw; grey if it was removed or damaged after its encoding."""
    try:
        if isinstance(data, Exception):
            raise data
        return prepare_photo(data, checkpoint.transforms)
    except (BadPicture, FileNotFoundError):
        return np.full((checkpoint.transforms.size, checkpoint.transforms.size, 3), 200, dtype=np.uint8)


def find(
    drawn: np.ndarray,
    gallery: str,
    checkpoint: Checkpoint,
    checkpoint_url: str,
    workspace: str,
    *,
    top: int,
    mode: str | None,
) -> list[Match]:
    """The `top` photos of a gallery for a prepared sketch, best first. Encodes what is new in the gallery.

    checkpoint: the content of `checkpoint_url`.
    """
    method = checkpoint.method.to(usable_device())
    method.mode(mode or method.modes[0])  # raises for an unknown mode before the gallery is encoded
    searcher = Searcher.of(gallery_index(gallery, checkpoint_url, workspace, checkpoint), checkpoint)
    (answer,) = searcher.answers([drawn], top=top, mode=mode, group=False)
    if not answer:
        raise StorageError(f"None of the photos in {gallery} can be used")
    return [Match(one.id, one.score, one.confidence) for one in told_similar(answer)]


@torch.inference_mode()
def ranked(method: RetrievalMethod, drawn: list[np.ndarray], photos: Gallery, mode: str, top: int) -> Ranking:
    """The ranking of each prepared sketch, [q, min(top, photos)]."""
    names = method.reads(mode, "photo")
    queries = method.encode(to_tensor(drawn).to(method.device), "sketch")
    return method.search(queries, lambda: photos.tiles(names), mode, min(top, len(photos.ids)), photos.indices)


def reranked(
    sketch: Query, gallery: str, found: list[Match], checkpoint: Checkpoint, clean: Clean = "auto"
) -> list[Match]:
    """The found photos, re-ranked by a second checkpoint: by its pair network, if it has one.

    Raises StorageError for a photo that was removed meanwhile.
    """
    checkpoint.method.to(usable_device())
    drawn = prepared(sketch, checkpoint.transforms, clean=clean)
    photos = []
    for match, data in zip(found, read_photos(gallery, [match.path for match in found]), strict=True):
        if isinstance(data, Exception):
            raise StorageError(
                f"{printable(match.path)} was removed from {gallery} during the search. Run the same command again"
            ) from data
        photos.append(prepared_photo(data, checkpoint.transforms, match.path))
    mode = checkpoint.method.pair_mode or checkpoint.method.modes[0]
    ranking = retrieval.search(checkpoint, to_tensor([drawn]), to_tensor(photos), mode, len(found))
    return [Match(found[int(i)].path, float(s)) for i, s in zip(ranking.indices[0], ranking.scores[0], strict=True)]
