"""What a request asks for: its JSON or its form, checked, with a drawing that no text of a client becomes a path of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from pipelines.search.cleaning import Clean
from pipelines.search.query import MAX_POINTS, PreparedQuery, Query, Strokes, prepare_query
from pipelines.search.searcher import MOST, Asked
from pipelines.serve.problems import ServiceError
from pipelines.store.table import LONGEST
from zse_model.transforms import TransformConfig

ARRIVING = 10.0  # s for a body
TOP = 200  # photos of a page
PAIRS = 5_000  # photos that a network of pairs compares with a drawing: some 10 s on two cores
JSON_BYTES = 32 * MAX_POINTS  # of strokes with as many points as are drawn, and more digits than matter
SCANS = 100  # of a progressive JPEG, each of which is decoded: usual files have ten, a hostile one thousands
ERRORS = 20  # of a request, each of which is a dictionary
LONGEST_ID = 4096  # characters: the longest path of most file systems


_JSON: TypeAdapter[Any] = TypeAdapter(Any)
_NUMBERS: Any = {"type": "array", "items": {"type": "number"}}
_STROKES: Any = {"type": "array", "items": {"type": "array", "items": _NUMBERS}}


class Drawn(BaseModel):
    """What every request with a drawing may have."""

    model_config = ConfigDict(extra="forbid")

    strokes: list[Any] | None = Field(  # `prepared` checks each, and stops at the first that is wrong
        None,
        description="The drawing: [[[x, ...], [y, ...]], ...], y downwards, any scale.",
        json_schema_extra={"anyOf": [_STROKES, {"type": "null"}]},
    )
    mode: str | None = Field(None, max_length=100, description="A retrieval mode of the model; its first by default.")
    clean: Clean = Field(
        "auto",
        description="Of a picture of a drawing: auto cleans a photo or scan of paper, and refuses a photo of something "
        "else; always cleans every picture; never takes it as it is.",
    )


class SearchRequest(Drawn):
    """A search by a drawing, or for photos like an indexed one."""

    like: str | None = Field(None, max_length=LONGEST_ID, description="Instead of a drawing: the id of a photo.")
    top: int = Field(20, ge=1, le=TOP, description="Photos a page.")
    page: int = Field(1, ge=1, le=MOST, description="From 1.")
    where: str | None = Field(None, max_length=LONGEST, description="A filter over metadata, such as price < 100.")
    rerank: int | None = Field(None, ge=1, le=MOST, description="Rank the best so many again by rerank_mode.")
    rerank_mode: str | None = Field(None, max_length=100, description="With rerank: the mode that ranks, such as late.")
    group: bool = Field(True, description="Show a photo once that stands under several names.")

    def asked(self) -> Asked:
        return Asked(
            top=self.top,
            page=self.page,
            where=self.where or None,
            mode=self.mode or None,
            rerank=self.rerank,
            rerank_mode=self.rerank_mode or None,
            pairs=PAIRS,
            group=self.group,
        )


class ExplainRequest(Drawn):
    """An explanation of a drawing and a photo."""

    id: str = Field(max_length=LONGEST_ID, description="The photo.")


Body = TypeVar("Body", bound=Drawn)


@dataclass
class Drawing:
    """A drawing of a request, and how a model sees it."""

    query: bytes | Strokes
    name: str
    """The field of the request that it came in."""
    clean: Clean
    _prepared: dict[TransformConfig, PreparedQuery] = field(default_factory=dict)

    def seen(self, transforms: TransformConfig) -> np.ndarray:
        """uint8 [s, s]. Raises as `pipelines.search.query.prepare_query`."""
        return self.prepared(transforms).drawing

    def prepared(self, transforms: TransformConfig) -> PreparedQuery:
        """The drawing and what was done to its picture, made once."""
        if transforms not in self._prepared:
            query: Query = self.query
            self._prepared[transforms] = prepare_query(query, transforms, "The drawing", self.clean)
        return self._prepared[transforms]


async def read(request: Request, kind: type[Body], seconds: float) -> tuple[Body, Drawing | None]:
    """The body of a request and its drawing. Raises ServiceError: 400, 408, 413, 415 or 422, which names the field."""
    try:
        async with asyncio.timeout(min(seconds, ARRIVING)):
            return await _read(request, kind)
    except TimeoutError as error:
        raise ServiceError(408, f"The body did not arrive within {min(seconds, ARRIVING):g} s") from error


async def _read(request: Request, kind: type[Body]) -> tuple[Body, Drawing | None]:
    type_, _, _ = request.headers.get("content-type", "").partition(";")
    type_ = type_.strip().lower()
    if type_ == "application/json":
        body = await request.body()
        if len(body) > JSON_BYTES:
            raise ServiceError(413, f"The JSON is above the limit of {JSON_BYTES:,} bytes. Leave out points")
        asked = await asyncio.to_thread(_checked, kind, lambda: kind.model_validate(_object(body)))
        return asked, None if asked.strokes is None else Drawing(asked.strokes, "strokes", asked.clean)
    if type_ != "multipart/form-data":
        raise ServiceError(415, "Send application/json with strokes, or multipart/form-data with a file `drawing`")
    try:
        async with request.form(max_files=1, max_fields=20, max_part_size=LONGEST_ID) as form:
            return await _of_form(form, kind)
    except HTTPException as error:
        raise ServiceError(400, f"The form cannot be read: {error.detail}") from error


async def _of_form(form: FormData, kind: type[Body]) -> tuple[Body, Drawing | None]:
    texts: dict[str, str] = {}
    content: bytes | None = None
    for name, value in form.multi_items():
        if name in texts or (name == "drawing" and content is not None):
            raise ServiceError(422, f"{name!r} is given twice", field=name)
        if name == "strokes":
            raise ServiceError(422, "Send strokes as application/json", field="strokes")
        if isinstance(value, UploadFile) != (name == "drawing"):
            raise ServiceError(422, "`drawing` is a file, and the only one", field=name)
        if isinstance(value, UploadFile):
            content = await value.read()
            if content.startswith(b"\xff\xd8") and content.count(b"\xff\xda") > SCANS:
                raise ServiceError(422, f"A JPEG of more than {SCANS} scans takes long to decode", field="drawing")
        elif value:
            texts[name] = value
    asked = _checked(kind, lambda: kind.model_validate(texts))
    return asked, None if content is None else Drawing(content, "drawing", asked.clean)


def _object(body: bytes) -> Any:
    try:
        return _JSON.validate_json(body)
    except ValidationError as error:
        raise ServiceError(400, f"The body is no JSON: {error.errors(include_url=False)[0]['msg']}") from error


def _checked(kind: type[Body], validate: Callable[[], Body]) -> Body:
    try:
        return validate()
    except ValidationError as error:
        if error.error_count() > ERRORS:
            raise ServiceError(422, "The request has many fields that do not exist or are wrong") from error
        first: Mapping[str, Any] = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = [str(part) for part in first["loc"]]
        if first["type"] == "extra_forbidden":
            known = ", ".join(kind.model_fields)
            raise ServiceError(422, f"There is no field {place[0]!r}. Fields: {known}", field=place[0]) from error
        detail = f"{'.'.join(place)}: {first['msg']}" if place else first["msg"]
        raise ServiceError(422, detail, field=place[0] if place else None) from error
