"""Errors of the service as `application/problem+json` (RFC 9457): what is wrong, with which field, what is allowed.

An answer names nothing of the machine: an error that is no mistake of the client has its text in the log alone.
"""

from __future__ import annotations

import logging
import secrets
import traceback
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from pipelines.runtime.errors import StorageError
from pipelines.runtime.progress import say
from pipelines.search.searcher import AskedError
from zse_model.errors import ZseError
from zse_model.transforms import BadPicture

TYPE = "application/problem+json"
GONE = 499  # the client has closed the connection: in metrics only, since nobody reads the answer


class ServiceError(Exception):
    """Ends a request with an answer that is no success."""

    def __init__(
        self, status: int, detail: str, *, field: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """status: of HTTP. detail: a sentence for people. field: of the request, if one is wrong."""
        super().__init__(detail)
        self.status, self.detail, self.field, self.headers = status, detail, field, dict(headers or {})

    def response(self) -> JSONResponse:
        title = "Client Closed Request" if self.status == GONE else HTTPStatus(self.status).phrase
        said: dict[str, Any] = {"type": "about:blank", "title": title, "status": self.status}
        said |= {"detail": self.detail} | ({"field": self.field} if self.field else {})
        return JSONResponse(said, self.status, self.headers, TYPE)


def as_service_error(error: BaseException, field: str | None = None) -> ServiceError:
    """The answer to an error. field: what a picture or a ZseError without a field of its own is about."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, ClientDisconnect):
        return ServiceError(GONE, "The client has gone")
    if isinstance(error, StorageError):
        say(f"The index cannot be read: {error}", logging.ERROR)
        return ServiceError(503, "The index cannot be read just now", headers={"Retry-After": "5"})
    if isinstance(error, AskedError):
        return ServiceError(422, str(error), field=error.field)
    if isinstance(error, BadPicture) and "above the limit" in str(error):
        return ServiceError(413, str(error), field=field)
    if isinstance(error, ZseError):
        return ServiceError(422, str(error), field=field)
    incident = secrets.token_hex(4)
    trace = "".join(traceback.format_exception(error))
    say(f"Request failed, incident {incident}\n{trace}", logging.ERROR)
    return ServiceError(500, f"This is a fault of the service. Its log has the incident {incident}")
