"""Run the service by uvicorn, until SIGTERM or Ctrl-C; `zse serve` calls `serve`."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipelines.runtime.progress import say
from pipelines.serve.app import create_app
from pipelines.serve.guard import TOKEN, token_of_environment
from pipelines.serve.service import Settings
from zse_model.errors import ZseError

LOCAL = ("localhost", "127.0.0.1", "[::1]")
CONNECTIONS = 1024
HEADER = 10.0  # s until a header must be complete: of the first request since the connection, else since its begin
KEEP_ALIVE = 75  # s: longer than a proxy keeps an idle connection, which would else send into a closed one
UNREAD = 30  # s that a client may leave what was sent to it unread; then the kernel ends its connection
GRACE = 30  # s that running requests may take after SIGTERM; Kubernetes kills a pod after 30 s unless told otherwise


def serve(settings: Settings, host: str, port: int) -> None:
    """Answer requests until the process is told to end. Requests that run then are finished first.

    settings: `hosts` are names beside those of this machine; a service that only this machine reaches answers to no
    other name. port: 0 = any free one. Raises ZseError for a port that cannot be had, and for an index that cannot be
    opened.
    """
    settings, token = guarded(settings, host)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # CONNECTIONS and files: a shell allows 1,024 of both
    with listening(host, port) as opened:
        address = f"http://{host if ':' not in host else f'[{host}]'}:{opened.getsockname()[1]}"

        def failed() -> None:
            server.should_exit = True

        app = create_app(settings, token, failed)
        server = server_of(app)
        say(f"{address} opens the page when the index is loaded. Ctrl-C ends the service")
        with _ended_in_peace():
            server.run(sockets=[opened])
        if (error := app.state.service.failed) is not None:
            raise error
        say("The service has ended")


def guarded(settings: Settings, host: str) -> tuple[Settings, str | None]:
    """The settings with the host names that are answered to at an address, and the token. Without both, whoever reaches
    the address is told to be able to search.

    Raises ZseError for a name with a port, and for an origin with a path: a request would never match them.
    """
    for name in settings.hosts:
        if not re.fullmatch(r"[^:/\s]+|\[[0-9a-f:]+\]", name):
            raise ZseError(
                f"--allow-host {name}: give a name without scheme, port and path, such as photos.example.org"
            )
    for origin in settings.origins:
        if not re.fullmatch(r"https?://[^/\s]+", origin):
            raise ZseError(f"--allow-origin {origin}: give scheme and host alone, such as https://example.org")
    token = token_of_environment()
    if _is_local(host):
        return replace(settings, hosts=(*LOCAL, *settings.hosts)), token
    if token is None:
        say(f"Whoever reaches {host} can search, and sees thumbnails and metadata. {TOKEN} sets a bearer token")
    return settings, token


class _Impatient(H11Protocol):
    """Uvicorn waits for ever for the first request of a connection, for the rest of a header, and for a client that
    does not read. Above `CONNECTIONS` it refuses all others."""

    _header: asyncio.TimerHandle | None = None
    """Closes the connection, unless the header that is awaited is complete before."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * UNREAD)
        self._header = self.loop.call_later(HEADER, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._header_came()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._header_came()
        elif self._header is None:  # one byte of a header has ended the wait of KEEP_ALIVE
            self._header = self.loop.call_later(HEADER, self.transport.close)

    def _header_came(self) -> None:
        if self._header is not None:
            self._header.cancel()
            self._header = None


def server_of(app: FastAPI) -> uvicorn.Server:
    """Uvicorn as the service needs it. h11, because uvicorn's other parser limits no header."""
    config = uvicorn.Config(
        app,
        http=_Impatient,
        ws="none",
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=GRACE,
        timeout_keep_alive=KEEP_ALIVE,
    )
    return uvicorn.Server(config)


@contextmanager
def _ended_in_peace() -> Iterator[None]:
    """Uvicorn raises the signal that ended it again, when all is answered. Then it is no error."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens: before the index is loaded, a port that is in use is an error."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise ZseError(f"--host {host} is no address of this machine: {error.strerror}") from error
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen(CONNECTIONS)
    except OSError as error:
        listening.close()
        raise ZseError(f"--host {host} --port {port} cannot be had: {error.strerror}. Give another --port") from error
    return listening
