"""Search an index of photos with drawings: the class that the command line, a notebook, the registered model and a
service share.

    searcher = Searcher.open("s3://bucket/photos.index", "models:/zse@champion")
    found = searcher.search("cat.png", top=20, where="price < 100")
    found[0].id, found[0].score, found[0].metadata

What a search compares stays in memory once a mode has read it: codes (bits / 8 bytes a photo) or embeddings (2 bytes a
number). Everything else is read by row for the photos that are shown. Our design.
"""

from __future__ import annotations

import io
import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import repeat
from typing import Any, TypedDict, TypeVar, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipelines.encode.device import usable_device
from pipelines.runtime.background import repeated
from pipelines.runtime.errors import StorageError
from pipelines.runtime.progress import say
from pipelines.runtime.redaction import printable
from pipelines.search.cleaning import Clean
from pipelines.search.query import Query, prepared
from pipelines.store import storage
from pipelines.store.table import ROW, SCANNED
from pipelines.tracking import checkpoint_of
from pipelines.workspace.looks import SIDE, details, first_of
from pipelines.workspace.photo_index import (
    EncodingForm,
    Generation,
    PhotoIndex,
    about_of,
    own_columns,
)
from pipelines.workspace.tensors import to_tensor
from zse_model import retrieval, scoring
from zse_model.checkpoint import Checkpoint, load_checkpoint
from zse_model.code_index import CodeIndex
from zse_model.confidence import SAMPLE, median_of
from zse_model.diffusion import diffused_ranking
from zse_model.errors import ZseError
from zse_model.evaluation.search import Ranking
from zse_model.modes import rerank_depth, undiffused
from zse_model.scoring import DotProduct, Encoding
from zse_model.vector_index import VectorIndex

T = TypeVar("T")
TILE = 2**28  # bytes of encodings that are read at once for a network of pairs
MOST = 10_000  # photos of all pages of a query
FOLLOWS = ("model", "index")  # what a searcher takes up newer ones of, in this order
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
    confidence: float | None = None
    """0..1: how likely it shows what is drawn (`zse_model.confidence`), by the mode that compared all photos. None for
    a model or a mode without confidences, for photos like a photo, and where nothing similar was found."""
    repeats: tuple[str, ...] = ()
    """Ids of photos with the same picture, which stand lower."""


class Page(list[Found]):
    """The photos of one page, best first."""

    def __init__(self, found: Sequence[Found] = (), similar: bool | None = None, more: bool = False) -> None:
        super().__init__(found)
        self.more = more
        """Whether another page follows."""
        self.similar = similar
        """False = nothing similar was found: the best photo stands out less than in 9 of 10 searches for something that
        is there. None without confidences, or without photos."""


@dataclass(frozen=True)
class Photo:
    """A photo of an index."""

    id: str
    width: int
    """Pixels, upright."""
    height: int
    indexed_at: datetime
    thumbnail: bytes = field(repr=False)
    """JPEG, upright, at most 256 pixels long."""
    metadata: Mapping[str, Any]
    """The user's own columns."""


class AskedError(ZseError):
    """A search that cannot be answered as it was asked."""

    def __init__(self, message: str, field: str = "") -> None:
        """field: of `Asked`, or `like`. It has a default, because an error that comes from another process is made of
        its message, and then gets its attributes."""
        super().__init__(message)
        self.field = field


class Asked(TypedDict, total=False):
    """What a search is asked for, beside the drawing."""

    top: int
    """Photos a page; 20."""
    page: int
    """From 1."""
    where: str | None
    """A filter in SQL over metadata, such as "price < 100". It is applied before the ranking."""
    mode: str | None
    """A retrieval mode of the model; None = its first."""
    rerank: int | None
    """The best so many photos of `mode`, such as one of codes, are ranked by `rerank_mode`."""
    rerank_mode: str | None
    """With `rerank`: a mode that scores a pair, such as late or fused; None = the model's first."""
    pairs: int | None
    """Photos that a network of pairs, or one of places, may compare with the drawing; None = any number. Above it the
    search is refused: it would take long."""
    group: bool
    """Show a photo once that stands under several names or in several sizes; True."""


class Snapshot:
    """One generation at one version with its model: what a search reads. It never changes."""

    def __init__(self, generation: Generation, checkpoint: Checkpoint, checkpoint_url: str) -> None:
        self.generation, self.checkpoint, self.checkpoint_url = generation, checkpoint, checkpoint_url
        self.table = generation.photos()
        self.rows = Rows(batch[ROW].to_numpy() for batch in self.table.scan(["version"]))
        self._lock = threading.Lock()
        self._indices: dict[str, CodeIndex | VectorIndex] = {}
        self._samples: dict[tuple[str, ...], Encoding] = {}

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

    def answers(self, drawn: Sequence[np.ndarray], **asked: Unpack[Asked]) -> list[Page]:
        """As `Searcher.answers`, of this snapshot."""
        return _Search(self, **asked).drawn(drawn)

    def like(self, id: str, **asked: Unpack[Asked]) -> Page:
        """As `Searcher.search(like=id)`, of this snapshot."""
        return _Search(self, **asked).like(id)

    def photos(self, ids: Sequence[str]) -> dict[str, Photo]:
        """Those of the photos that the index has, by id."""
        known = self.table.addresses(list(dict.fromkeys(ids)))
        own = self.own_columns
        names = ["id", "width", "height", "indexed_at", "thumbnail"]
        rows = self.table.take(np.array(list(known.values()), dtype=np.int64), [*names, *own]).to_pylist()
        return {
            row["id"]: Photo(**{name: row[name] for name in names}, metadata={name: row[name] for name in own})
            for row in rows
        }

    @property
    def own_columns(self) -> list[str]:
        """Names of the user's own columns."""
        return own_columns(self.table.schema, self.forms)

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

    def embeddings(self, positions: Tensor) -> Tensor:
        """Embeddings of photos, float32 [n, d], of memory if they are there."""
        with self._lock:
            index = self._indices.get("embedding")
        if isinstance(index, VectorIndex):
            return index.rows(positions).float()
        return self.encodings(positions, ["embedding"])["embedding"]

    def sample(self, names: Sequence[str]) -> Encoding:
        """Encodings of SAMPLE photos, or of all of fewer, at equal distances; read once."""
        if (key := tuple(names)) not in self._samples:  # read without the lock, which every search needs
            some = torch.linspace(0, len(self) - 1, min(SAMPLE, len(self)), dtype=torch.float64).long()
            self._samples.setdefault(key, self.encodings(some, names))
        return self._samples[key]

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
        self,
        index: PhotoIndex,
        called: str,
        resolve: Callable[[], str],
        checkpoint: Checkpoint | None = None,
        mode: str | None = None,
    ) -> None:
        """called: the name of the model. resolve: the folder of its checkpoint now. checkpoint: its content, if that is
        loaded already. mode: as in `open`."""
        self._index, self._called, self._resolve, self._mode = index, called, resolve, mode
        url = resolve()
        self._following = threading.Lock()
        self._failures: dict[str, type[Exception]] = {}
        """The errors of the last look at the model and at the index."""
        self._next: tuple[str, Checkpoint] | None = None
        """The model that takes over when its generation is complete, and its URL."""
        self._refused: tuple[object, ZseError] | None = None
        """The files of a checkpoint that was refused, and why: reading it again takes seconds of the queries' time."""
        self._now = self._reloaded(checkpoint or self._checkpoint(url), url, None)

    @classmethod
    def open(
        cls,
        index: str,
        model: str,
        *,
        workspace: str = "workspace",
        tracking: str | None = None,
        mode: str | None = None,
    ) -> Searcher:
        """Open an index with the model that encoded it.

        model: a checkpoint's folder or URL, or models:/NAME@ALIAS, found by `workspace` and `tracking` as by `zse`.
        mode: another model takes over only if it and its generation answer by this mode; None = any may.
        Raises StorageError for a folder that is no index, OtherCheckpointError for the index of another checkpoint.
        """
        return cls(PhotoIndex(index), model, lambda: checkpoint_of(model, workspace, tracking), mode=mode)

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

    @property
    def made(self) -> tuple[str, int]:
        """What tells what answers now from anything else: when its generation was begun, and its version."""
        return self._now.made

    @property
    def failing(self) -> frozenset[str]:
        """Those of `FOLLOWS` that the last look could not take up: what serves may be old."""
        return frozenset(self._failures)

    def __len__(self) -> int:
        return len(self._now)

    def search(
        self,
        query: Query | None = None,
        *,
        like: str | None = None,
        name: str | None = None,
        clean: Clean = "auto",
        **asked: Unpack[Asked],
    ) -> Page:
        """The photos of one page, best first; equal scores in stored order. Pages neither repeat nor leave out a photo.

        query: a drawing: a picture file's path or bytes, SVG, an array, or strokes. name: of the drawing, in errors.
        clean: whether a photo or scan of a drawing is cleaned: auto, always or never (`prepare_query`).
        like: the id of an indexed photo instead: photos like it, without itself. asked: see `Asked`.
        Raises BadPicture for an unusable drawing, ZseError for an unknown mode, id or filter, and for pages beyond
        `MOST` photos or beyond the photos that are re-ranked.
        """
        if (query is None) == (like is None):
            raise ZseError("Give a drawing, or like=ID of an indexed photo")
        if query is None:
            return self.ask(lambda now: now.like(str(like), **asked))
        return self.ask(lambda now: now.answers([prepared(query, now.checkpoint.transforms, name, clean)], **asked)[0])

    def answers(self, drawn: Sequence[np.ndarray], **asked: Unpack[Asked]) -> list[Page]:
        """What `search` finds for each prepared drawing, uint8 [s, s]: they are encoded and ranked together."""
        return self.ask(lambda now: now.answers(drawn, **asked))

    def ask(self, work: Callable[[Snapshot], T]) -> T:
        """`work` on what serves now; on the next version if this one was purged, or is so old that it was deleted."""
        now = self._now
        try:
            return work(now)
        except StorageError:
            self.follow()
            if self._now is now:  # another thread may have taken up the next version meanwhile
                raise
            return work(self._now)

    def follow(self) -> bool:
        """Take up the latest version of the index, and the model that the name means now, if the index has its complete
        generation; whether anything changed. A failure keeps what serves, and is logged. The index is followed while
        the model cannot be: a version that was purged answers no more."""
        with self._following:  # one thread at a time: a slower one must not go back
            return self._followed("model", self._changed_model) or self._followed("index", self._changed_index)

    def _followed(self, what: str, changed: Callable[[], bool]) -> bool:
        """Whether it changed. A failure is logged when it first comes, not at each look."""
        try:
            found = changed()
        except (ZseError, OSError) as error:
            if self._failures.get(what) is not type(error):
                serves = f"version {self.version} of {self._now.generation.name}"
                say(f"The {what} cannot be followed: {error}. Until then {serves} answers", logging.WARNING)
            self._failures[what] = type(error)
            return False
        self._failures.pop(what, None)
        return found

    def _changed_model(self) -> bool:
        url = self._resolve()
        if url == self._now.checkpoint_url:
            return False
        if self._next is None or self._next[0] != url:
            self._next = url, self._checkpoint(url)
            self._failures.pop("model", None)  # it was another model's
        self._now = self._reloaded(self._next[1], url, self._now, self._mode)
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
        files = url, frozenset(storage.list_files(url))
        if self._refused and self._refused[0] == files:
            raise self._refused[1].with_traceback(None)  # which would grow with each look
        try:
            with storage.local_copy(url) as copy:
                return load_checkpoint(copy, usable_device())
        except ZseError as error:
            self._refused = files, error
            raise

    def _reloaded(self, checkpoint: Checkpoint, url: str, before: Snapshot | None, mode: str | None = None) -> Snapshot:
        """The latest snapshot, with everything in memory that `before` had. Raises AskedError if it does not answer by
        the mode, before anything is read to memory."""
        new = Snapshot(self._index.generation(checkpoint.digest, self._called), checkpoint, url)
        if mode is not None:
            _Search(new, mode=mode).check_stored()
        for name in before.loaded if before else ():
            if name in new.forms:
                new.index(name)
        return new


class _Search:
    """A search of one snapshot, as it was asked for. Raises ZseError for what cannot be asked."""

    def __init__(
        self,
        now: Snapshot,
        *,
        top: int = 20,
        page: int = 1,
        where: str | None = None,
        mode: str | None = None,
        rerank: int | None = None,
        rerank_mode: str | None = None,
        pairs: int | None = None,
        group: bool = True,
    ) -> None:
        self.now, self.method, self.group = now, now.checkpoint.method, group
        self.rerank, self.pairs = rerank, pairs
        asked = {"mode": mode or self.method.modes[0], "rerank_mode": rerank_mode or self.method.modes[0]}
        for name, each in asked.items():
            with asking(name):
                self.method.mode(each)  # raises for an unknown mode before anything is read
        self.mode, self.diffused = undiffused(asked["mode"])
        self.rerank_mode, again = undiffused(asked["rerank_mode"])
        if rerank is not None:
            if self.diffused:
                message = f"{asked['mode']} ranks by diffusion, which comes last: ask for it by rerank_mode"
                raise AskedError(message, "mode")
            self.diffused = min(again, rerank)
        if rerank_mode is not None and rerank is None:
            message = f"rerank_mode {rerank_mode!r} needs rerank, the number of photos that it ranks again"
            raise AskedError(message, "rerank_mode")
        if rerank is not None:
            with asking("rerank_mode"):
                self.method.scorer(self.rerank_mode)  # raises for a mode that scores no pairs
            if self.method.mode(self.mode).shortlist:
                message = f"Mode {self.mode} ranks a shortlist already. Leave out rerank, or choose another mode"
                raise AskedError(message, "rerank")
        self.start, self.end, self.most = top * (page - 1), top * page, deepest(self.mode, rerank)
        self.wanted = min(self.end + 1, self.most)  # one more shows whether another page follows
        if top < 1 or page < 1:
            raise AskedError(f"top and page must be 1 or more, got {top} and {page}", "top" if top < 1 else "page")
        if self.start >= self.most or top > self.most:
            message = f"{self.mode} ranks {self.most} photos, not {top * page}. Ask for fewer"
            raise AskedError(f"{message}, or have more ranked again", "page")
        with asking("where"):
            self.among = now.matching(where)

    @torch.no_grad()
    def drawn(self, drawings: Sequence[np.ndarray]) -> list[Page]:
        """The page of each prepared drawing."""
        queries = retrieval.encode(self.now.checkpoint, to_tensor(drawings), "sketch")
        ranking, best = self._first(queries, self.wanted)
        sure = self.method.confidence_of(self._finds) is not None and best.shape[1] > 0
        stands = zip(best.split(1), self._median(queries).split(1), strict=True) if sure else repeat(None)
        return [
            self._page(_row(queries, i), _row(ranking, i), None, one)
            for i, one in zip(range(len(drawings)), stands, strict=False)
        ]

    @torch.no_grad()
    def like(self, id: str) -> Page:
        """The page of photos like an indexed one."""
        found = self.now.table.addresses([id])
        if not found:
            message = f"The index has no photo {printable(id)!r}. An id is the path below the catalogue"
            raise AskedError(message, "like")
        (own,) = self.now.rows.positions(np.array(list(found.values()))).tolist()
        queries = self.now.encodings(torch.tensor([own]), list(self.now.forms))
        ranking, _ = self._first(queries, min(self.wanted + 1, self.most))
        return self._page(queries, ranking, own, None)

    def _page(self, query: Encoding, ranking: Ranking, own: int | None, stands: tuple[Tensor, Tensor] | None) -> Page:
        """ranking: [1, wanted], and one more with `own`, the position of a photo that is not shown. A longer ranking is
        made while repeated photos leave too few. stands: the best score of the mode that compared all photos, [1, 1],
        and its median, [1]; None without confidences."""
        depth = min(self.wanted + (own is not None), self.most)
        groups = self._groups(ranking, own)
        while len(groups) < self.wanted and ranking.indices.shape[1] == depth < self.most:
            depth = min(self.most, 2 * depth)
            ranking, _ = self._first(query, depth)
            groups = self._groups(ranking, own)
        shown, more = groups[self.start : self.end], len(groups) > self.end
        confidence = self.method.confidence_of(self._finds)
        if stands is None or confidence is None:
            return Page(self._shown(shown, [None] * len(shown)), more=more)
        best, median = stands
        # One photo is its own median: how far it stands out says nothing.
        similar = bool(confidence.similar(best[:, 0], median)) if len(self.now) > 1 else None
        if similar is False:
            # A confidence supposes that photos of the class are there: among few photos, it is high without them.
            return Page(self._shown(shown, [None] * len(shown)), similar, more)
        confidences = confidence.of(self._found_scores(query, shown), median, self._searched)
        return Page(self._shown(shown, confidences[0].tolist()), similar, more)

    @property
    def _finds(self) -> str:
        """The mode that compares all photos."""
        depth = rerank_depth(self.mode)
        return self.method.rerank[0] if depth is not None and self.method.rerank else self.mode

    @property
    def _ranks_all(self) -> bool:
        """Whether the mode that compares all photos ranks them, too."""
        return self._finds == self.mode and self.rerank is None and not self.diffused

    @property
    def _searched(self) -> int:
        """Photos that are compared: all, or those that pass the filter."""
        return len(self.now) if self.among is None else len(self.among)

    def _median(self, queries: Encoding) -> Tensor:
        """The median score of each query among the photos of the index, [q]: of a sample. A filter leaves it as it is,
        because few photos that pass may all be relevant."""
        scorer = self.method.scorer(self._finds)
        return median_of(scoring.score_all(scorer, queries, self.now.sample(scorer.reads("photo"))))

    def _found_scores(self, query: Encoding, groups: Sequence[tuple[float, list[int]]]) -> Tensor:
        """Scores of groups' first photos by the mode that compared all photos, float32 [1, n]."""
        if self._ranks_all:
            return torch.tensor([[score for score, _ in groups]])
        scorer = self.method.scorer(self._finds)
        positions = torch.tensor([positions[0] for _, positions in groups], dtype=torch.int64)
        return scoring.score_all(scorer, query, self.now.encodings(positions, scorer.reads("photo")))

    def _first(self, queries: Encoding, k: int) -> tuple[Ranking, Tensor]:
        """The first k of each query, [q, k], fewer where fewer pass the filter; and the best score by the mode that
        compared all photos, [q, 1], or [q, 0] without photos. A second mode may rank that photo lower."""
        if not len(self.now) or (self.among is not None and not len(self.among)):
            count = scoring.count(queries)
            return Ranking(torch.zeros(count, 0, dtype=torch.int64), torch.zeros(count, 0)), torch.zeros(count, 0)
        depth = rerank_depth(self.mode) or self.rerank
        ranked = max(k, self.diffused)
        found = self._found(queries, self._finds, depth or ranked)
        best = found.scores[:, :1]
        if depth is not None:
            ranks = self.rerank_mode if self.rerank is not None else self.method.ranked_by(self.mode)
            found = self._ranked_again(queries, found, ranks, ranked)
        return (self._diffused(found, k) if self.diffused else found), best

    def _diffused(self, found: Ranking, k: int) -> Ranking:
        """The first k of each row of a ranking, after diffusion among its best photos, whose embeddings are read."""
        again = (self.now.embeddings(row[: self.diffused]) for row in found.indices)
        return diffused_ranking(found, again, k)

    def _found(self, queries: Encoding, mode: str, k: int) -> Ranking:
        """The first k of each query by a mode that scores every photo."""
        self._allow(mode, self._searched)
        scorer = self.method.scorer(mode)
        names = self._stored(mode, scorer.reads("photo"))
        if self.method.mode(mode).bits:
            given = queries[names[0]] if mode == names[0] else scorer.precompute(queries, "sketch")
            return self.now.index(names[0]).search(given.cpu(), k, among=self.among)
        if type(scorer) is DotProduct:
            return self.now.index(names[0]).search(queries[names[0]].float().cpu(), k, among=self.among)
        if self.among is not None:
            every = self.among.expand(scoring.count(queries), -1)
            return self._ranked_again(queries, Ranking(every, torch.zeros(every.shape)), mode, k)
        return scoring.search(scorer, queries, self.now.tiles(names), k)

    def _ranked_again(self, queries: Encoding, found: Ranking, mode: str, k: int) -> Ranking:
        """The first k of each row of a ranking by another mode, whose encodings are read by row."""
        self._allow(mode, found.indices.shape[1])
        scorer = self.method.scorer(mode)
        names = self._stored(mode, scorer.reads("photo"))
        best = []
        for i, row in enumerate(found.indices):
            positions = row.sort().values  # rising: ties go to the lower row
            tiles = (self.now.encodings(some, names) for some in positions.split(self.now.rows_at_once(names)))
            ranking = scoring.search(scorer, _row(queries, i), tiles, k)
            best.append((positions[ranking.indices], ranking.scores))
        return Ranking(*(torch.cat(each) for each in zip(*best, strict=True)))

    def _allow(self, mode: str, photos: int) -> None:
        """Raises AskedError if a mode that compares pairs would compare too many photos."""
        if self.pairs is not None and photos > self.pairs and self.method.mode(mode).pair_network:
            raise AskedError(
                f"{mode} compares at most {self.pairs:,} photos here, not {photos:,}. Have fewer ranked again, or "
                "filter",
                "mode" if self.rerank is None else "rerank",
            )

    def check_stored(self) -> None:
        """Raises AskedError if the index lacks an encoding that the mode reads."""
        self._stored(self.mode, self.method.reads(self.mode, "photo"))
        if self.diffused:
            self._stored(self.mode, ["embedding"])

    def _stored(self, mode: str, names: Sequence[str]) -> Sequence[str]:
        """The names. Raises ZseError for one that the index does not keep."""
        if missing := [name for name in names if name not in self.now.forms]:
            raise AskedError(
                f"Mode {mode} reads {', '.join(missing)}, which {self.now.generation.name} was indexed without. Index "
                "the photos with --tokens, or choose another mode",
                "mode",
            )
        return names

    def _groups(self, ranking: Ranking, own: int | None) -> list[tuple[float, list[int]]]:
        """(score, positions of a photo and of those that repeat it), best first, of a ranking [1, k]. A longer ranking
        begins with these groups."""
        kept = ranking.indices[0] != (-1 if own is None else own)
        positions, scores = ranking.indices[0][kept], ranking.scores[0][kept].tolist()
        first = range(len(positions))
        if self.group and len(positions):
            addresses = self.now.rows.addresses(positions.numpy())
            table = self.now.table.take(addresses, ["look"])
            looks = np.frombuffer(b"".join(table["look"].to_pylist()), dtype=np.uint8)
            first = first_of(looks.reshape(-1, SIDE * SIDE * 3), lambda near: self._details(addresses[near]))
        groups: dict[int, tuple[float, list[int]]] = {}
        for i, position in enumerate(positions.tolist()):
            groups.setdefault(first[i], (scores[i], []))[1].append(position)
        return list(groups.values())

    def _details(self, addresses: np.ndarray) -> list[np.ndarray]:
        """The `details` of photos, of their thumbnails."""
        thumbnails = self.now.table.take(addresses, ["thumbnail"])["thumbnail"].to_pylist()
        return [details(Image.open(io.BytesIO(data))) for data in thumbnails]

    def _shown(self, groups: Sequence[tuple[float, list[int]]], confidences: Sequence[float | None]) -> list[Found]:
        table, rows = self.now.table, self.now.rows
        own = self.now.own_columns
        first = np.array([positions[0] for _, positions in groups], dtype=np.int64)
        others = np.array([position for _, positions in groups for position in positions[1:]], dtype=np.int64)
        shown = table.take(rows.addresses(first), ["id", "thumbnail", *own]).to_pylist()
        names = iter(table.take(rows.addresses(others), ["id"])["id"].to_pylist())
        return [
            Found(
                id=row["id"],
                score=score,
                thumbnail=row["thumbnail"],
                metadata={name: row[name] for name in own},
                confidence=confidence,
                repeats=tuple(next(names) for _ in positions[1:]),
            )
            for row, (score, positions), confidence in zip(shown, groups, confidences, strict=True)
        ]


def deepest(mode: str, rerank: int | None) -> int:
    """Photos of all pages of a query."""
    return rerank if rerank is not None else rerank_depth(mode) or MOST


@contextmanager
def asking(field: str) -> Iterator[None]:
    """Raise a ZseError as an AskedError that names the field. A store that failed is no mistake of who asks."""
    try:
        yield
    except StorageError:
        raise
    except ZseError as error:
        raise AskedError(str(error), field) from error


def _row(of: Any, i: int) -> Any:
    """Query i of encodings or of a ranking."""
    if isinstance(of, Ranking):
        return Ranking(of.indices[i : i + 1], of.scores[i : i + 1])
    return {name: value[i : i + 1] for name, value in of.items()}


def _tensor(form: EncodingForm, column: Any) -> Tensor:
    values = form.values(column)
    if not values.flags.writeable:  # the memory of the store
        values = values.copy()
    found = torch.from_numpy(values)
    return found.float() if found.is_floating_point() else found
