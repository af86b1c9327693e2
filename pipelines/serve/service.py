"""What the service does, without HTTP: loads a searcher, follows its index, and answers with JSON values."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np

from pipelines.drawing.explanations import CAPTIONS, explained, png
from pipelines.runtime.progress import say
from pipelines.runtime.redaction import printable
from pipelines.search.query import MAX_POINTS, MAX_STROKES, prepared_photo
from pipelines.search.searcher import FOLLOWS, MOST, Asked, AskedError, Page, Photo, Searcher, Snapshot, asking
from pipelines.serve.asked import PAIRS, TOP, Drawing, SearchRequest
from pipelines.serve.batches import MOST as TOGETHER
from pipelines.serve.batches import Batches
from pipelines.serve.columns import columns, plain_row
from pipelines.serve.filters import check_filter
from pipelines.serve.metrics import Metrics
from pipelines.serve.problems import GONE, ServiceError
from pipelines.workspace.pictures import encode_sketch
from zse_model.explanation.base import UnexplainableError
from zse_model.explanation.pair import explained_mode, explainer
from zse_model.methods import RetrievalMethod
from zse_model.modes import undiffused
from zse_model.transforms import MAX_PIXELS

Item = TypeVar("Item")
Answer = TypeVar("Answer")
KEPT = 2_000  # thumbnails, of some 10 kB: each of a page is asked for after its search
DIFFUSED = 500  # photos that the mode of diffusion ranks again, which takes some 20 ms
SHORTLIST = 100  # photos that a network of pairs ranks again in a large index
DECODERS = 2  # pictures that are decoded at once: one of 64 megapixels takes up to 0.8 GB


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `zse serve` was given."""

    index: str
    model: str
    workspace: str = "workspace"
    tracking: str | None = None
    hosts: tuple[str, ...] = ()
    """Host names that requests may be sent to; () = all."""
    origins: tuple[str, ...] = ()
    """Other sites whose pages may read the answers (CORS)."""
    mode: str | None = None
    """The retrieval mode of requests that name none; None = the model's first."""
    credit: str | None = None
    """Whose photos these are: the page shows it."""
    originals: bool = False
    """Whether the photos themselves can be had."""
    originals_at_once: int = 8
    body_bytes: int = 10_000_000
    buffered_bytes: int = 100_000_000
    """Of the bodies of all requests that are under way."""
    seconds: float = 30.0
    """Of a request."""
    waiting: int = 64
    """Requests that may wait for the model or run."""


class Service:
    """Answers once it has opened the index. Methods raise what `as_service_error` knows."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.failed: Exception | None = None
        """Why the index could not be opened."""
        self._searcher: Searcher | None = None
        self._batches = Batches(self._took)
        # Apart, so that pictures that take long to decode keep no strokes waiting.
        self._decoders = {name: ThreadPoolExecutor(DECODERS, name) for name in ("drawing", "strokes")}
        self._thumbnails: OrderedDict[tuple[Any, str], bytes] = OrderedDict()
        self._columns: tuple[Any, list[dict[str, Any]]] | None = None
        self._reading_columns = asyncio.Lock()  # of the event loop: what waits for it keeps no thread
        self._under_way = 0
        self.metrics.photos.set_function(lambda: len(self._searcher) if self._searcher else 0)
        self.metrics.version.set_function(lambda: self._searcher.version if self._searcher else 0)
        for what in FOLLOWS:
            self.metrics.behind.labels(what).set_function(partial(self._behind, what))

    def _behind(self, what: str) -> bool:
        return self._searcher is not None and what in self._searcher.failing

    # Life -----------------------------------------------------------------------------------------------------------

    @contextmanager
    def running(self, failed: Callable[[], object] | None) -> Iterator[None]:
        """Open the index and follow it, until the context ends. What waits for the model is done first.

        failed: None = raise if the index cannot be opened. Else it is opened in a thread, which calls `failed` if that
        cannot be done; the attribute `failed` says why.
        """
        with ExitStack() as stack:
            for pool in self._decoders.values():
                stack.callback(pool.shutdown, wait=False, cancel_futures=True)
            self._batches.start()
            stack.callback(self._batches.stop, self.settings.seconds)
            ended = threading.Event()
            if failed is None:
                self._searcher = self._opened()
            threading.Thread(target=self._follow, args=(failed, ended), name="index", daemon=True).start()
            stack.callback(ended.set)
            yield

    def _follow(self, failed: Callable[[], object] | None, ended: threading.Event) -> None:
        if failed is not None:
            try:
                self._searcher = self._opened()
            except Exception as error:
                self.failed = error
                failed()
                return
        with self.searcher.following():
            ended.wait()

    def _opened(self) -> Searcher:
        """The searcher, with what its first mode compares in memory. Raises for a mode that every request would be
        refused for.

        The mode answers a batch of each size, by the thread of the model. Torch prepares each size when it first comes,
        and the heap of the thread keeps what the largest took: so the memory has its final size before the first
        request, which waits for nothing.
        """
        given, began = self.settings, time.monotonic()
        searcher = Searcher.open(
            given.index, given.model, workspace=given.workspace, tracking=given.tracking, mode=given.mode
        )
        drawing = _any_drawing(searcher.checkpoint.transforms.size)

        def answered(sizes: Sequence[int]) -> list[int]:
            for size in sizes:
                searcher.answers([drawing] * size, top=1, mode=given.mode, pairs=PAIRS, group=False)
            return list(sizes)

        self._batches.submit(answered, 1).result()
        if not _alone(searcher, given.mode):
            for size in range(2, TOGETHER + 1):
                self._batches.submit(answered, size).result()
        say(f"{len(searcher):,} photos can be searched, after {time.monotonic() - began:.1f} s")
        return searcher

    def _took(self, count: int) -> None:
        """A batch of so many requests is done by the model."""
        if self._searcher is not None:  # before, there are no requests
            self.metrics.together.observe(count)

    @property
    def searcher(self) -> Searcher:
        """Raises ServiceError until the index is open."""
        if self._searcher is None:
            raise ServiceError(503, "The index is being loaded", headers={"Retry-After": "1"})
        return self._searcher

    async def done(
        self,
        gone: asyncio.Future[Any],
        work: Callable[[Sequence[Item]], Sequence[Answer]],
        item: Item,
        drawing: Drawing | None,
        key: Hashable = None,
    ) -> Answer:
        """The answer to an item, from the thread of the model. The drawing is decoded before.

        gone: is done when nobody waits for the answer any more; then, and after the time limit, work that has not
        begun is left out. Raises ServiceError: 503 if too many wait, 504 after the time limit.
        """
        transforms = self.searcher.checkpoint.transforms
        if self._under_way >= self.settings.waiting:
            self.metrics.refused.inc()
            raise ServiceError(503, "Too many requests wait. Try again in a second", headers={"Retry-After": "1"})
        self._under_way += 1
        self.metrics.under_way.set(self._under_way)
        limit = asyncio.timeout(self.settings.seconds)
        try:
            async with limit:
                if drawing is not None:
                    await _unless(gone, self._decoders[drawing.name].submit(drawing.seen, transforms))
                return await _unless(gone, self._batches.submit(work, item, key))
        except TimeoutError as error:
            if not limit.expired():
                raise RuntimeError("a TimeoutError of the work") from error
            raise ServiceError(504, f"The answer took more than {self.settings.seconds:g} s") from error
        finally:
            self._under_way -= 1
            self.metrics.under_way.set(self._under_way)

    # Answers: work of the model's thread, on items that came together -------------------------------------------------

    def key(self, request: SearchRequest) -> Hashable:
        """Searches with equal keys may be done together. One by a network of pairs is done alone: it takes long."""
        alone = request.rerank or _alone(self.searcher, self._asked(request).get("mode"))
        return None if alone else request.model_copy(update={"strokes": None}).model_dump_json()

    def drawn(self, items: Sequence[tuple[Drawing, SearchRequest]]) -> list[dict[str, Any]]:
        """Searches by drawings, all asked for alike."""
        asked = self._asked(items[0][1])

        def work(now: Snapshot) -> list[dict[str, Any]]:
            _check_filter(now, asked)
            seen = [drawing.seen(now.checkpoint.transforms) for drawing, _ in items]
            answers = [self._found(now, found, asked) for found in now.answers(seen, **asked)]
            return [answer | self._cleaned(now, drawing) for answer, (drawing, _) in zip(answers, items, strict=True)]

        return self.searcher.ask(work)

    def like(self, items: Sequence[SearchRequest]) -> list[dict[str, Any]]:
        """A search for photos like an indexed one."""
        (item,) = items
        asked = self._asked(item)

        def work(now: Snapshot) -> dict[str, Any]:
            _check_filter(now, asked)
            return self._found(now, now.like(str(item.like), **asked), asked)

        return [self.searcher.ask(work)]

    def explained(self, items: Sequence[tuple[Drawing, str, str | None]]) -> list[dict[str, Any]]:
        """An explanation of a drawing and the thumbnail of a photo, by a mode."""
        ((drawing, id, mode),) = items
        return [self.searcher.ask(lambda now: self._explained(now, drawing, id, mode))]

    def _cleaned(self, now: Snapshot, drawing: Drawing) -> dict[str, Any]:
        """What was done to the picture of a drawing, if it was cleaned: in words, and the drawing as a PNG."""
        found = drawing.prepared(now.checkpoint.transforms)
        if not found.cleaned.changed:
            return {}
        return {"cleaned": {"done": found.cleaned.done, "png": _data_url(encode_sketch(found.drawing))}}

    def _asked(self, request: SearchRequest) -> Asked:
        asked, own = request.asked(), self.settings.mode
        if asked.get("mode") or own is None:
            return asked
        return asked | Asked(mode=own if request.rerank is None else undiffused(own)[0])

    def _found(self, now: Snapshot, found: Page, asked: Asked) -> dict[str, Any]:
        mode, top, page = (
            asked.get("mode") or now.checkpoint.method.modes[0],
            asked.get("top", 20),
            asked.get("page", 1),
        )
        photos = [
            {
                "id": one.id,
                "score": round(one.score, 6),
                "confidence": None if one.confidence is None else round(one.confidence, 3),
                "metadata": plain_row(one.metadata),
                "repeats": one.repeats,
            }
            | urls(one.id, one.thumbnail, self.settings.originals)
            for one in found
        ]
        for one in found:
            self._thumbnails[now.made, one.id] = one.thumbnail
        while len(self._thumbnails) > KEPT:
            self._thumbnails.popitem(last=False)
        return {
            "photos": photos,
            "similar": found.similar,
            "page": page,
            "top": top,
            "more": found.more,
            "mode": mode,
        } | self._which(now)

    def _explained(self, now: Snapshot, drawing: Drawing, id: str, mode: str | None) -> dict[str, Any]:
        photo = now.photos([id]).get(id)
        if photo is None:
            raise AskedError(f"The index has no photo {printable(id)!r}", "id")
        method, transforms = now.checkpoint.method, now.checkpoint.transforms
        pixels = prepared_photo(photo.thumbnail, transforms, id)
        drawn = drawing.seen(transforms)
        with asking("mode"):
            found = explained(method, drawn, pixels, printable(id), mode or explained_mode(method))
        pictures = [
            {"key": key, "title": CAPTIONS[key][0], "text": CAPTIONS[key][1], "png": _data_url(png(picture))}
            for key, picture in found.pictures.items()
        ]
        explanation = found.explanation
        return {
            "id": id,
            "score": explanation.score,
            "scores": explanation.scores,
            "mode": explanation.mode,
            "pictures": pictures,
            "notes": found.notes,
            "detail": found.detail,
        } | self._which(now)

    # Answers without the model ----------------------------------------------------------------------------------------

    async def about(self) -> dict[str, Any]:
        """What the page needs to know. The first answer of a version of the index reads the user's columns."""
        async with self._reading_columns:
            return await asyncio.to_thread(self.searcher.ask, self._about)

    def _about(self, now: Snapshot) -> dict[str, Any]:
        if self._columns is None or self._columns[0] != now.made:
            self._columns = now.made, columns(now)
        own = self._columns[1]
        limits = {
            "body_bytes": self.settings.body_bytes,
            "pixels": MAX_PIXELS,
            "points": MAX_POINTS,
            "strokes": MAX_STROKES,
            "photos": MOST,
            "top": TOP,
        }
        method = now.checkpoint.method
        default = [] if self.settings.mode is None else [self.settings.mode]
        offered = [*(name for name in default if undiffused(name)[1] and method.has(name)), *_modes(now)]
        first = sorted(dict.fromkeys(offered), key=lambda name: name not in default)
        modes = [{"name": name, "help": _help(method, name)} for name in first]
        return self._which(now) | {
            "photos": len(now),
            "modes": modes,
            "explains": _explains(now),
            "columns": own,
            "credit": self.settings.credit,
            "originals": self.settings.originals,
            "limits": limits,
        }

    def _which(self, now: Snapshot) -> dict[str, Any]:
        """The model and the index of an answer."""
        name = self.settings.model if self.settings.model.startswith("models:/") else now.checkpoint.name
        model = {"name": name, "method": now.checkpoint.name, "checkpoint": now.generation.checkpoint_hash[:12]}
        made, version = now.made
        return {"model": model, "index": {"generation": now.generation.name, "made": made, "version": version}}

    def photos(self, ids: Sequence[str]) -> dict[str, Photo]:
        """Those of the photos that the index has."""
        return self.searcher.ask(lambda now: now.photos(ids))

    def photo(self, id: str) -> Photo:
        """Raises ServiceError for a photo that the index does not have."""
        if (photo := self.photos([id]).get(id)) is None:
            raise ServiceError(404, "The index has no photo of this id")
        return photo

    def thumbnail(self, id: str) -> bytes:
        """Of a photo. Those of the last answers are at hand. Raises ServiceError for a photo that is not there."""
        if (kept := self._thumbnails.get((self.searcher.made, id))) is not None:
            return kept
        return self.photo(id).thumbnail


def _check_filter(now: Snapshot, asked: Asked) -> None:
    if where := asked.get("where"):
        check_filter(where, now.own_columns)


def urls(id: str, thumbnail: bytes, originals: bool) -> dict[str, str]:
    """Where a photo's thumbnail is, and the photo itself where that is allowed; relative to the service. The URL of a
    thumbnail names its content: a browser that keeps it shows no photo that had the id before."""
    found = {"thumbnail": f"{thumbnail_url(id)}?is={hashlib.sha256(thumbnail).hexdigest()[:12]}"}
    return found | ({"original": _url("originals", id)} if originals else {})


def thumbnail_url(id: str) -> str:
    """Relative to the service."""
    return _url("thumbnails", id)


def _url(what: str, id: str) -> str:
    """A client removes the dots of a/../b, so its slashes are escaped."""
    return f"v1/{what}/" + quote(id, safe="" if {"", ".", ".."} & set(id.split("/")) else "/")


async def _unless(gone: asyncio.Future[Any], work: Future[Answer]) -> Answer:
    """The answer of the work. If the client goes first, or this is cancelled, work that has not begun is left out."""
    future = asyncio.wrap_future(work)
    try:
        await asyncio.wait((future, gone), return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            return future.result()
        raise ServiceError(GONE, "The client has gone")
    finally:
        future.cancel()  # does nothing to a future that is done


def _alone(searcher: Searcher, mode: str | None) -> bool:
    """Whether a search by the mode, or by the first one, is done alone: a network of pairs takes long, and so does the
    diffusion of many photos."""
    method = searcher.checkpoint.method
    mode = mode or method.modes[0]
    with asking("mode"):
        return method.mode(mode).pair_network or undiffused(mode)[1] > DIFFUSED


def _any_drawing(size: int) -> np.ndarray:
    drawing = np.full((size, size), 255, np.uint8)
    drawing[size // 4 : size // 2, size // 4] = 0
    return drawing


def _modes(now: Snapshot) -> list[str]:
    """The modes that answer within seconds. A network of pairs ranks a shortlist of a large index."""
    method, every = now.checkpoint.method, len(now) <= PAIRS
    modes = [name for name in method.modes if every or not method.mode(name).pair_network]
    if method.rerank and not every:
        modes.append(f"rerank-{min(SHORTLIST, PAIRS)}")
    fused = [mode for mode in modes if method.mode(mode).combined and not method.runs_network(mode)]
    modes += [f"{mode}-diffused-{DIFFUSED}" for mode in (modes[0], *fused)]
    return [name for name in modes if _stored(now, name)]


def _help(method: RetrievalMethod, mode: str) -> str:
    _, depth = undiffused(mode)
    more = f" Its {depth} best photos are ranked again by diffusion: a photo gains from photos like it."
    return method.mode(mode).score + (more if depth else "")


def _stored(now: Snapshot, mode: str) -> bool:
    """Whether the index keeps what a mode reads."""
    return all(name in now.forms for name in now.checkpoint.method.reads(mode, "photo"))


def _explains(now: Snapshot) -> bool:
    try:
        explainer(now.checkpoint.method)
    except UnexplainableError:
        return False
    return True


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
