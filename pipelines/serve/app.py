"""The service as one ASGI app: routes, and how errors are answered. Uvicorn runs it, or Ray Serve."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import fastapi_offline
from fastapi import FastAPI, Query
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request

from pipelines.search.searcher import Photo
from pipelines.serve.asked import Drawing, ExplainRequest, SearchRequest, read
from pipelines.serve.columns import plain, plain_row
from pipelines.serve.guard import Guard
from pipelines.serve.originals import Originals
from pipelines.serve.problems import ServiceError, as_service_error
from pipelines.serve.service import Service, Settings, urls

VERSION = version("zse-retrieval")
PAGE = Path(__file__).parent / "page"
SWAGGER = Path(fastapi_offline.__file__).parent / "static"
"""Swagger UI, which FastAPI itself loads from another site."""
IDS = 100  # of one request


def create_app(settings: Settings, token: str | None, failed: Callable[[], object] | None = None) -> FastAPI:
    """The app of a service.

    token: that every request must carry but those for the page's files, the documentation and the probes. failed: None
    = the app starts when the index is open, and raises if it cannot be opened. Else the app starts at once, and calls
    `failed` if the index cannot be opened; `app.state.service.failed` says why.
    """
    service = Service(settings)

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        with service.running(failed):
            yield

    app = FastAPI(
        title="zse",
        version=VERSION,
        description="Find photos by a drawing.",
        lifespan=running,
        docs_url=None,
        redirect_slashes=False,  # a redirect would name the host that the client has named
        redoc_url=None,
    )
    app.state.service = service
    _add_search(app, service)
    _add_photos(app, service)
    _add_probes(app, service)
    _add_pages(app)
    app.add_middleware(
        Guard,
        token=token,
        hosts=settings.hosts,
        origins=settings.origins,
        body_bytes=settings.body_bytes,
        buffered_bytes=settings.buffered_bytes,
        took=service.metrics.took,
        refused=service.metrics.refused.inc,
    )
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After"],
        )
    app.add_exception_handler(HTTPException, _as_problem)
    app.add_exception_handler(RequestValidationError, _as_problem)
    return app


def _add_search(app: FastAPI, service: Service) -> None:
    @app.post("/v1/search", openapi_extra=_either(SearchRequest))
    async def search(request: Request) -> JSONResponse:
        """Photos like a drawing, or like an indexed photo, best first."""
        began = time.monotonic()
        asked, drawing = await read(request, SearchRequest, service.settings.seconds)
        if (drawing is None) == (asked.like is None):
            raise ServiceError(
                422, "Give either a drawing (strokes or a picture) or like, the id of a photo", field="strokes"
            )
        async with _gone(request) as gone:
            if drawing is None:
                found = await service.done(gone, service.like, asked, None)
            else:
                item, key = (drawing, asked), service.key(asked)
                found = await _about_drawing(drawing, service.done(gone, service.drawn, item, drawing, key))
        return JSONResponse(found | {"milliseconds": round(1000 * (time.monotonic() - began))})

    @app.post("/v1/explain", openapi_extra=_either(ExplainRequest))
    async def explain(request: Request) -> JSONResponse:
        """Why a photo is like a drawing: pictures, and how to read them. The photo is its thumbnail."""
        asked, drawing = await read(request, ExplainRequest, service.settings.seconds)
        if drawing is None:
            raise ServiceError(422, "Give a drawing: strokes or a picture", field="strokes")
        item = drawing, asked.id, asked.mode or None
        async with _gone(request) as gone:
            return JSONResponse(await _about_drawing(drawing, service.done(gone, service.explained, item, drawing)))


async def _about_drawing(drawing: Drawing, answer: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """The answer. An error that names no field is about the drawing."""
    try:
        return await answer
    except Exception as error:
        raise as_service_error(error, drawing.name) from error


def _add_photos(app: FastAPI, service: Service) -> None:
    @app.get("/v1/about")
    async def about() -> JSONResponse:
        """The model, the index, its columns and the limits."""
        return JSONResponse(await service.about() | {"version": VERSION})

    @app.get("/v1/photos")
    def photos(id: Annotated[list[str], Query(max_length=IDS)]) -> JSONResponse:
        """Photos by their ids, `?id=a&id=b`: those that the index has, and the ids that it has not."""
        found = service.photos(id)
        missing = [one for one in dict.fromkeys(id) if one not in found]
        return JSONResponse({"photos": [_photo(found[one], service.settings) for one in found], "missing": missing})

    @app.get("/v1/photos/{id:path}")
    def photo(id: str) -> JSONResponse:
        """A photo by its id."""
        return JSONResponse(_photo(service.photo(id), service.settings))

    @app.get("/v1/thumbnails/{id:path}", response_class=Response)
    def thumbnail(id: str, request: Request) -> Response:
        """The thumbnail of a photo: a JPEG, upright, at most 256 pixels long."""
        answer = _cached(service.thumbnail(id), "image/jpeg", request)
        if service.settings.origins:  # their pages show it in an <img>
            answer.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        return answer

    if service.settings.originals:
        originals = Originals(service.settings.index, service.settings.originals_at_once, service.metrics.refused.inc)

        @app.get("/v1/originals/{id:path}", response_class=Response)
        def original(id: str, request: Request) -> Response:
            """The file of a photo."""
            service.photo(id)
            return originals.answer(id, request)


def _add_probes(app: FastAPI, service: Service) -> None:
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", response_class=PlainTextResponse)
    async def alive() -> str:
        """Whether the process answers."""
        return "ok\n"

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", response_class=PlainTextResponse)
    async def ready() -> str:
        """Whether the index is loaded."""
        _ = service.searcher
        return "ok\n"

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Metrics of this process for Prometheus."""
        return Response(service.metrics.text(), media_type=service.metrics.CONTENT_TYPE)


def _add_pages(app: FastAPI) -> None:
    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(PAGE / "docs.html")

    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    app.mount("/swagger", StaticFiles(directory=SWAGGER), name="swagger")

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            schema["security"] = [{}, {"token": []}]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi


def _either(kind: type[SearchRequest] | type[ExplainRequest]) -> dict[str, Any]:
    """The request of a route in OpenAPI: JSON, or a form with a picture."""
    schema = kind.model_json_schema()
    texts = {name: about for name, about in schema["properties"].items() if name != "strokes"}
    picture = {"type": "string", "format": "binary", "description": "A picture: PNG, JPEG, WebP, GIF, SVG, ..."}
    form = {"type": "object", "properties": {"drawing": picture} | texts}
    content = {"application/json": {"schema": schema}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}


def _photo(of: Photo, settings: Settings) -> dict[str, Any]:
    about = {name: plain(getattr(of, name)) for name in ("id", "width", "height", "indexed_at")}
    return about | {"metadata": plain_row(of.metadata)} | urls(of.id, of.thumbnail, settings.originals)


def _cached(content: bytes, kind: str, request: Request) -> Response:
    """The content, or 304 if the client has it."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, max-age=300"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=kind, headers=headers)


@asynccontextmanager
async def _gone(request: Request) -> AsyncIterator[asyncio.Future[Any]]:
    """A future that is done when the client has closed the connection."""

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task = asyncio.ensure_future(disconnected())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _as_problem(request: Request, error: Exception) -> Response:
    """The answer to an error of the framework: no such route, or a wrong query."""
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        return ServiceError(422, first["msg"], field=str(first["loc"][-1])).response()
    assert isinstance(error, HTTPException)
    return ServiceError(error.status_code, error.detail, headers=error.headers).response()
