"""Search an index of photos with drawings: the class that the command line, a notebook, the registered model and a
service share.

    searcher = Searcher.open("s3://bucket/photos.index", "models:/zse@champion")
    found = searcher.search("cat.png", top=20, where="price < 100")
    found[0].id, found[0].score, found[0].metadata

What a search compares stays in memory once a mode has read it: codes (bits / 8 bytes a photo) or embeddings (2 bytes a
number). Everything else is read by row for the photos that are shown. Our design.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.encode.device import assigned_device
from pipelines.runtime.background import repeated
from pipelines.runtime.errors import StorageError
from pipelines.runtime.progress import say
from pipelines.runtime.redaction import printable
from pipelines.search.query import Query, prepared
from pipelines.store import storage
from pipelines.store.table import ROW, SCANNED
from pipelines.tracking import checkpoint_of
from pipelines.workspace.looks import SIDE, first_of
from pipelines.workspace.photo_index import (
    EncodingForm,
    Generation,
    OtherCheckpointError,
    PhotoIndex,
    about_of,
    own_columns,
)
from pipelines.workspace.tensors import to_tensor
from zse_model import retrieval, scoring
from zse_model.checkpoint import Checkpoint, load_checkpoint
from zse_model.code_index import CodeIndex
from zse_model.errors import ZseError
from zse_model.evaluation.search import Ranking
from zse_model.modes import rerank_depth
from zse_model.scoring import DotProduct, Encoding
from zse_model.vector_index import VectorIndex

TILE = 2**28  # bytes of encodings that are read at once for a network of pairs
MOST = 10_000  # photos of all pages of a query
FOLLOWED = 30.0  # s between looks for a new version of the index or another model


@dataclass(frozen=True)
class Found:
    """A photo that a search found."""

    id: str
    """Its path below the catalogue."""
    score: float
    """Higher is more alike; comparable within the answers of one query and mode only."""
    thumbnail: bytes = field(repr=False)
    """JPEG, upright, at most 256 pixels long."""
    metadata: Mapping[str, Any]
    """The user's own columns."""
    repeats: tuple[str, ...] = ()
    """Ids of photos with the same picture, which stand lower."""


class Snapshot:
    """One generation at one version with its model: what a search reads. It never changes."""

    def __init__(self, generation: Generation, checkpoint: Checkpoint, checkpoint_url: str) -> None:
        self.generation, self.checkpoint, self.checkpoint_url = generation, checkpoint, checkpoint_url
        self.table = generation.photos()
        self.rows = Rows(batch[ROW].to_numpy() for batch in self.table.scan(["version"]))
        self._lock = threading.Lock()
        self._indices: dict[str, CodeIndex | VectorIndex] = {}

    @property
    def loaded(self) -> list[str]:
        """Names of the encodings in memory."""
        with self._lock:
            return list(self._indices)

    @property
    def made(self) -> tuple[str, int]:
        """What tells this snapshot from others: when its generation was begun, and the version of its table."""
        return about_of(self.table.schema)["made"], self.table.version

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def forms(self) -> Mapping[str, EncodingForm]:
        return self.generation.forms

    def index(self, name: str) -> CodeIndex | VectorIndex:
        """The codes or the vectors of all photos in memory, read by the first search that needs them."""
        with self._lock:
            if name not in self._indices:
                form = self.forms[name]
                bits = form.dtype == "uint8"
                index = CodeIndex(form.shape[0] * 8) if bits else VectorIndex(form.shape[0])
                for batch in self.table.scan([name]):
                    index.add(torch.from_numpy(form.values(batch[name]).copy()))
                self._indices[name] = index
            return self._indices[name]

    def matching(self, where: str | None) -> Tensor | None:
        """Positions of the photos that pass a filter, int64 [n] rising; None without a filter. Raises ZseError."""
        if where is None:
            return None
        rows = [batch[ROW].to_numpy() for batch in self.table.scan(["version"], where)]
        return torch.from_numpy(self.rows.positions(np.concatenate(rows) if rows else np.empty(0, np.int64)))

    def encodings(self, positions: Tensor, names: Sequence[str]) -> Encoding:
        """Encodings of photos, float32 or uint8 [n, ...] each."""
        table = self.table.take(self.rows.addresses(positions.numpy()), names)
        return {name: _tensor(self.forms[name], table[name]) for name in names}

    def rows_at_once(self, names: Sequence[str]) -> int:
        """Photos whose named encodings take `TILE` bytes of memory."""
        numbers = sum(math.prod(self.forms[name].shape) for name in names)
        return max(1, TILE // (4 * numbers))

    def tiles(self, names: Sequence[str]) -> Iterator[Encoding]:
        """Yield the named encodings of all photos, read from the store."""
        for batch in self.table.scan(list(names), rows=min(SCANNED, self.rows_at_once(names))):
            yield {name: _tensor(self.forms[name], batch[name]) for name in names}


class Rows:
    """Positions of photos, 0 to n - 1 in stored order, and their addresses. Addresses come in runs, so that only the
    beginning of each run is kept."""

    def __init__(self, addresses: Iterator[np.ndarray]) -> None:
        starts, firsts, count, following = [], [], 0, -1
        for some in addresses:
            some = some.astype(np.int64)
            (breaks,) = np.nonzero(np.diff(some, prepend=following - 1) != 1)
            starts.append(count + breaks)
            firsts.append(some[breaks])
            count, following = count + len(some), int(some[-1]) + 1 if len(some) else following
        self._starts = np.concatenate([*starts, np.empty(0, np.int64)]).astype(np.int64)
        self._firsts = np.concatenate([*firsts, np.empty(0, np.int64)]).astype(np.int64)
        self._count = count

    def __len__(self) -> int:
        return self._count

    def addresses(self, positions: np.ndarray) -> np.ndarray:
        """int64 [n] -> int64 [n]."""
        run = np.searchsorted(self._starts, positions, side="right") - 1
        return self._firsts[run] + positions - self._starts[run]

    def positions(self, addresses: np.ndarray) -> np.ndarray:
        """The inverse of `addresses`, sorted."""
        order = np.argsort(self._firsts, kind="stable")
        run = order[np.searchsorted(self._firsts[order], addresses.astype(np.int64), side="right") - 1]
        return np.sort(self._starts[run] + addresses.astype(np.int64) - self._firsts[run])


class Searcher:
    """Answers queries from an index. `follow` takes up a new version of the index, or another model, between two
    queries. Safe for several threads."""

    def __init__(
        self, index: PhotoIndex, called: str, resolve: Callable[[], str], checkpoint: Checkpoint | None = None
    ) -> None:
        """called: the name of the model. resolve: the folder of its checkpoint now. checkpoint: its content, if that is
        loaded already."""
        self._index, self._called, self._resolve = index, called, resolve
        url = resolve()
        self._following = threading.Lock()
        self._next: tuple[str, Checkpoint] | None = None
        """The model that takes over when its generation is complete, and its URL."""
        self._now = self._reloaded(checkpoint or self._checkpoint(url), url, None)

    @classmethod
    def open(cls, index: str, model: str, *, workspace: str = "workspace", tracking: str | None = None) -> Searcher:
        """Open an index with the model that encoded it.

        model: a checkpoint's folder or URL, or models:/NAME@ALIAS, found by `workspace` and `tracking` as by `zse`.
        Raises StorageError for a folder that is no index, OtherCheckpointError for the index of another checkpoint.
        """
        return cls(PhotoIndex(index), model, lambda: checkpoint_of(model, workspace, tracking))

    @classmethod
    def of(cls, index: str, checkpoint: Checkpoint) -> Searcher:
        """Open an index with a loaded checkpoint. Raises as `open`."""
        return cls(PhotoIndex(index), "this model", lambda: "", checkpoint)

    @property
    def checkpoint(self) -> Checkpoint:
        return self._now.checkpoint

    @property
    def generation(self) -> Generation:
        return self._now.generation

    @property
    def version(self) -> int:
        """Version of the table of photos that answers."""
        return self._now.table.version

    def __len__(self) -> int:
        return len(self._now)

    def search(
        self,
        query: Query | None = None,
        *,
        like: str | None = None,
        top: int = 20,
        page: int = 1,
        where: str | None = None,
        mode: str | None = None,
        rerank: int | None = None,
        group: bool = True,
        name: str | None = None,
    ) -> list[Found]:
        """The photos of one page, best first; equal scores in stored order. Pages neither repeat nor leave out a photo.

        query: a drawing: a picture file's path or bytes, SVG, an array, or strokes. like: the id of an indexed photo
        instead: photos like it, without itself.
        top, page: photos a page, and its number from 1.
        where: a filter in SQL over metadata, such as "price < 100"; it is applied before ranking.
        mode: a retrieval mode of the model; None = its first. rerank: with a mode of codes, rank its best `rerank`
        photos by the model's first mode.
        group: show a photo once that stands under several names or in several sizes.
        name: of the drawing, in errors.
        Raises BadPicture for an unusable drawing, ZseError for an unknown mode, id or filter, and for pages beyond
        `MOST` photos or beyond the photos that are re-ranked.
        """
        asked = (query, like, top, page, where, mode, rerank, group, name)
        try:
            return self._found(self._now, *asked)
        except StorageError:  # the version was purged, or is so old that a compaction deleted it
            if not self.follow():
                raise
            return self._found(self._now, *asked)

    def _found(
        self,
        now: Snapshot,
        query: Query | None,
        like: str | None,
        top: int,
        page: int,
        where: str | None,
        mode: str | None,
        rerank: int | None,
        group: bool,
        name: str | None,
    ) -> list[Found]:
        method = now.checkpoint.method
        mode = mode or method.modes[0]
        method.mode(mode)  # raises for an unknown mode before anything is read
        limit = rerank if rerank is not None else rerank_depth(mode) or MOST
        if top < 1 or page < 1:
            raise ZseError(f"top and page must be 1 or more, got {top} and {page}")
        if top * page > limit:
            raise ZseError(f"{mode} ranks {limit} photos, not {top * page}. Ask for fewer, or have more ranked again")
        if (query is None) == (like is None):
            raise ZseError("Give a drawing, or like=ID of an indexed photo")
        among, skipped = now.matching(where), None
        if query is not None:
            queries = encoded(now.checkpoint, [prepared(query, now.checkpoint.transforms, name)])
        else:
            skipped = _position(now, str(like))
            queries = now.encodings(torch.tensor([skipped]), list(now.forms))
        wanted = top * page
        find = _Ranker(now, queries, mode, rerank, among).first
        groups = _Groups(now, group, skipped)
        depth = wanted + (skipped is not None)
        ranking = find(min(depth, limit))
        while len(groups.of(ranking)) < wanted and ranking.indices.shape[1] == depth and depth < limit:
            depth = min(limit, 2 * depth)
            ranking = find(depth)
        return _shown(now, groups.of(ranking)[wanted - top : wanted])

    def follow(self) -> bool:
        """Take up the latest version of the index, and the model that the name means now, if the index has its complete
        generation; whether anything changed. A failure keeps what serves, and is logged."""
        with self._following:  # one thread at a time: a slower one must not go back
            try:
                return self._changed_model() or self._changed_index()
            except (ZseError, StorageError, OSError) as error:
                say(f"The index cannot be followed: {error}. Version {self.version} answers", logging.WARNING)
                return False

    def _changed_model(self) -> bool:
        url = self._resolve()
        if url == self._now.checkpoint_url:
            return False
        if self._next is None or self._next[0] != url:
            self._next = url, self._checkpoint(url)
        try:
            self._now = self._reloaded(self._next[1], url, self._now)
        except OtherCheckpointError as error:
            say(f"{error}. Until then {self._now.generation.name} answers", logging.WARNING)
            return False
        self._next = None
        return True

    def _changed_index(self) -> bool:
        now = self._now
        table = self._index.generation(now.checkpoint.digest, self._called).photos()
        if (about_of(table.schema)["made"], table.version) == now.made:
            return False
        self._now = self._reloaded(now.checkpoint, now.checkpoint_url, now)
        return True

    @contextmanager
    def following(self, every: float = FOLLOWED) -> Iterator[None]:
        """Within the context, a thread calls `follow` every so many seconds."""
        with repeated(self.follow, every):
            yield

    def _checkpoint(self, url: str) -> Checkpoint:
        with storage.local_copy(url) as copy:
            return load_checkpoint(copy, assigned_device())

    def _reloaded(self, checkpoint: Checkpoint, url: str, before: Snapshot | None) -> Snapshot:
        """The latest snapshot, with everything in memory that `before` had."""
        new = Snapshot(self._index.generation(checkpoint.digest, self._called), checkpoint, url)
        for name in before.loaded if before else ():
            if name in new.forms:
                new.index(name)
        return new


class _Ranker:
    """The ranking of one query's photos by a mode."""

    def __init__(self, now: Snapshot, queries: Encoding, mode: str, rerank: int | None, among: Tensor | None) -> None:
        self.now, self.queries, self.mode, self.rerank, self.among = now, queries, mode, rerank, among
        self.method = now.checkpoint.method

    def first(self, k: int) -> Ranking:
        """The first k, [1, k]; fewer where fewer pass the filter."""
        if not len(self.now) or (self.among is not None and not len(self.among)):
            return Ranking(torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, 0))
        depth = rerank_depth(self.mode)
        if depth is not None and self.method.rerank:
            finds, ranks = self.method.rerank
            return self._ranked_again(self._found(finds, depth), ranks, k)
        if self.rerank is not None:
            return self._ranked_again(self._found(self.mode, self.rerank), self.method.modes[0], k)
        return self._found(self.mode, k)

    def _found(self, mode: str, k: int) -> Ranking:
        """The first k by a mode that scores every photo."""
        scorer = self.method.scorer(mode)
        names = scorer.reads("photo")
        _check_stored(self.now, mode, names)
        if self.method.mode(mode).bits:
            given = self.queries[names[0]] if mode == names[0] else scorer.precompute(self.queries, "sketch")
            return self.now.index(names[0]).search(given.cpu(), k, among=self.among)
        if type(scorer) is DotProduct:
            return self.now.index(names[0]).search(self.queries[names[0]].float().cpu(), k, among=self.among)
        if self.among is not None:
            whole = Ranking(self.among[None], torch.zeros(1, len(self.among)))
            return self._ranked_again(whole, mode, k)
        return scoring.search(scorer, self.queries, self.now.tiles(names), k)

    def _ranked_again(self, found: Ranking, mode: str, k: int) -> Ranking:
        """The first k of a ranking by another mode, whose encodings are read by row."""
        scorer = self.method.scorer(mode)
        names = scorer.reads("photo")
        _check_stored(self.now, mode, names)
        positions = found.indices[0].sort().values  # rising: ties go to the lower row
        tiles = (self.now.encodings(some, names) for some in positions.split(self.now.rows_at_once(names)))
        best = scoring.search(scorer, self.queries, tiles, k)
        return Ranking(positions[best.indices], best.scores)


class _Groups:
    """Photos of a ranking, each with those that repeat it."""

    def __init__(self, now: Snapshot, grouped: bool, skipped: int | None) -> None:
        self.now, self.grouped, self.skipped = now, grouped, skipped

    def of(self, ranking: Ranking) -> list[tuple[float, list[int]]]:
        """(score, positions of the best photo and its repeats), best first. A deeper ranking begins with these
        groups."""
        kept = ranking.indices[0] != (-1 if self.skipped is None else self.skipped)
        positions, scores = ranking.indices[0][kept], ranking.scores[0][kept].tolist()
        if not self.grouped or not len(positions):
            return [(score, [position]) for score, position in zip(scores, positions.tolist(), strict=True)]
        table = self.now.table.take(self.now.rows.addresses(positions.numpy()), ["look"])
        looks = np.frombuffer(b"".join(table["look"].to_pylist()), dtype=np.uint8).reshape(-1, SIDE * SIDE * 3)
        groups: dict[int, tuple[float, list[int]]] = {}
        for i, (position, first) in enumerate(zip(positions.tolist(), first_of(looks), strict=True)):
            if first == i:
                groups[i] = scores[i], [position]
            else:
                groups[first][1].append(position)
        return list(groups.values())


@torch.no_grad()
def encoded(checkpoint: Checkpoint, drawn: Sequence[np.ndarray]) -> Encoding:
    """The encodings of prepared drawings, uint8 [s, s] each."""
    return retrieval.encode(checkpoint, to_tensor(list(drawn)), "sketch")


def _shown(now: Snapshot, groups: Sequence[tuple[float, list[int]]]) -> list[Found]:
    if not groups:
        return []
    own = own_columns(now.table.schema, now.forms)
    first = np.array([positions[0] for _, positions in groups])
    rows = now.table.take(now.rows.addresses(first), ["id", "thumbnail", *own]).to_pylist()
    others = np.array([position for _, positions in groups for position in positions[1:]], dtype=np.int64)
    names = iter(now.table.take(now.rows.addresses(others), ["id"])["id"].to_pylist() if len(others) else [])
    return [
        Found(
            id=row["id"],
            score=score,
            thumbnail=row["thumbnail"],
            metadata={name: row[name] for name in own},
            repeats=tuple(next(names) for _ in positions[1:]),
        )
        for row, (score, positions) in zip(rows, groups, strict=True)
    ]


def _position(now: Snapshot, id: str) -> int:
    """The position of a photo. Raises ZseError for an id that the index does not have."""
    found = now.matching("id = '" + id.replace("'", "''") + "'")
    if found is None or not len(found):
        raise ZseError(f"The index has no photo {printable(id)!r}. An id is the path below the catalogue")
    return int(found[0])


def _check_stored(now: Snapshot, mode: str, names: Sequence[str]) -> None:
    if missing := [name for name in names if name not in now.forms]:
        raise ZseError(
            f"Mode {mode} reads {', '.join(missing)}, which {now.generation.url} was indexed without. Index the photos "
            "with --tokens, or choose another mode"
        )


def _tensor(form: EncodingForm, column: Any) -> Tensor:
    values = torch.from_numpy(form.values(column).copy())
    return values.float() if values.is_floating_point() else values
