"""What every request passes first: checks of its host, token and size; and the headers that every answer carries."""

from __future__ import annotations

import hmac
import os
import re
import time
from collections.abc import Callable, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.serve.problems import ServiceError, as_service_error
from zse_model.errors import ZseError

TOKEN = "ZSE_TOKEN"
SHORTEST = 16  # characters of a token: it can be guessed from anywhere
PROBES = ("/healthz", "/readyz")
"""Answered under any host name: Kubernetes asks by the address of the pod."""
OPEN = ("/", "/docs", "/openapi.json", *PROBES)
FILES = ("/page/", "/swagger/")
"""Answered without a token: probes have none, and the page asks its user for it. Nothing of the index is in them."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # an upgrade must not mix old and new files of the page
}


def token_of_environment() -> str | None:
    """The token that requests must carry; None = none. Raises ZseError for one that is too short or no ASCII."""
    token = os.environ.get(TOKEN)
    token = token if token is None else token.strip()  # a secret that was made of a file ends with a new line
    if token is not None and (len(token) < SHORTEST or not token.isascii()):
        raise ZseError(
            f"{TOKEN} must have at least {SHORTEST} ASCII characters, such as those of: openssl rand -hex 24"
        )
    return token


class Guard:
    """ASGI middleware. A refused request never reaches the app; an error of the app becomes an answer."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        hosts: Sequence[str],
        origins: Sequence[str],
        body_bytes: int,
        buffered_bytes: int,
        took: Callable[[str, int, float], object],
        refused: Callable[[], object],
    ) -> None:
        """hosts: names that a request may be sent to; () = all. A page of another site whose name leads to this machine
        (DNS rebinding) is refused by it. origins: other sites whose pages may send a POST. body_bytes: of a body;
        buffered_bytes: of the bodies of all requests that are under way. took: called with the route, the status and
        the seconds of each answer. refused: called when the bodies of others leave no room."""
        self._app, self._token, self._hosts, self._origins = app, token, hosts, origins
        self._took, self._refused = took, refused
        self._body_bytes, self._buffered_bytes = body_bytes, buffered_bytes
        self._buffered = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return  # no WebSocket is served
        began, status, read = time.monotonic(), 0, 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        async def received() -> Message:
            nonlocal read
            message = await receive()
            came = len(message.get("body", b""))
            read += came
            self._buffered += came
            if read > self._body_bytes:
                raise self._too_large()
            if self._buffered > self._buffered_bytes:
                self._refused()
                detail = "Too many bodies arrive at once. Try again in a second"
                raise ServiceError(503, detail, headers={"Retry-After": "1", "Connection": "close"})
            return message

        try:
            self._check(scope)
            await self._app(scope, received, sent)
        except Exception as error:
            answer = as_service_error(error)
            if status:  # a part of the answer is sent: it can only be cut off
                raise
            await answer.response()(scope, receive, sent)
        finally:
            self._buffered -= read
            self._took(getattr(scope.get("route"), "path", "other"), status, time.monotonic() - began)

    def _check(self, scope: Scope) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        if self._hosts and path not in PROBES and _name(headers.get("host", "")) not in self._hosts:
            raise ServiceError(
                421, "This service does not answer to this host name. zse serve --allow-host NAME adds one"
            )
        # A browser sends a form of any site without asking first. Its work keeps others waiting, read or not.
        foreign = scope["method"] == "POST" and headers.get("sec-fetch-site") == "cross-site"
        if foreign and headers.get("origin") not in self._origins:
            raise ServiceError(
                403, "Pages of this site may not use the service. zse serve --allow-origin https://SITE lets them"
            )
        if self._token is not None and not (path in OPEN or path.startswith(FILES)):
            kind, _, given = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token.encode()):
                raise ServiceError(401, "A bearer token is needed", headers={"WWW-Authenticate": "Bearer"})
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._body_bytes:
            raise self._too_large()

    def _too_large(self) -> ServiceError:
        detail = f"The body is above the limit of {self._body_bytes:,} bytes. Scale the picture down"
        return ServiceError(413, detail, headers={"Connection": "close"})


def _name(host: str) -> str:
    """The name of `name`, `name:port` or `[::1]:port`, in lower case."""
    return re.sub(r":\d*$", "", host).lower() if not host.endswith("]") else host.lower()
