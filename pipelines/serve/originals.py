"""The photos themselves: sent in parts as they are read from their store, and few at once.

A photo may have a hundred megabytes. So none is held in memory as a whole, and a client that stops reading loses its
place after a while.
"""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import Callable, Iterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from pipelines.datasets.archives import opened
from pipelines.runtime.errors import StorageError
from pipelines.serve.problems import ServiceError
from pipelines.store import storage
from pipelines.workspace.ids import as_path
from pipelines.workspace.photo_index import PhotoIndex

PART = 2**20  # bytes that are read at once, and that each photo under way takes in memory
STALLED = 30.0  # s that a client may take for a part


class Originals:
    """The photos of an index."""

    def __init__(self, index: str, most: int, refused: Callable[[], object]) -> None:
        """most: photos that are sent at once. refused: called for each photo beyond them."""
        self._index, self._most, self.refused = index, most, refused
        self._under_way = 0

    def answer(self, id: str, request: Request) -> Response:
        """The file of a photo of the index, or 304 if the client has it. Raises ServiceError for a photo that was
        removed from its folder."""
        url = storage.join(opened(PhotoIndex(self._index).required().url).folder, as_path(id))
        try:
            info = storage.file_info(url)
        except StorageError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            info = None
        if info is None:
            raise ServiceError(404, "The photo was removed after it was indexed")
        tag = f'"{storage.digest([url, info.size, info.version], 32)}"'
        headers = {"ETag": tag, "Cache-Control": "private, max-age=300"}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return _Sent(self, url, headers | {"Content-Length": str(info.size)}, _kind(id))


class _Sent(StreamingResponse):
    """A file, sent in parts. Raises ServiceError before its start if too many are sent."""

    def __init__(self, of: Originals, url: str, headers: dict[str, str], kind: str) -> None:
        super().__init__(_parts(url), headers=headers, media_type=kind)
        self._of = of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            async with asyncio.timeout(STALLED):
                await send(message)

        if self._of._under_way >= self._of._most:
            self._of.refused()
            raise ServiceError(503, "Too many photos are sent. Try again in a second", headers={"Retry-After": "1"})
        self._of._under_way += 1
        try:
            await super().__call__(scope, receive, sent)
        except TimeoutError:
            return  # the server closes the connection, and the kernel ends it
        finally:
            self._of._under_way -= 1


def _parts(url: str) -> Iterator[bytes]:
    file = storage.RangeFile(url)
    while part := file.read(PART):
        yield part


def _kind(id: str) -> str:
    """The content type. An SVG could have scripts, and would run them as a page of this service."""
    kind = mimetypes.guess_type(id)[0] or ""
    return kind if kind.startswith("image/") and "svg" not in kind else "application/octet-stream"
