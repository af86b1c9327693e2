"""A real HTTP server in front of an S3 server, which passes all on but for the faults that it is told to make."""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, cast
from urllib.parse import unquote

Kind = Literal["slow down", "expired", "denied", "conflict", "taken", "reset", "truncated", "late", "never"]
ERRORS = {
    "slow down": (503, "SlowDown", "Please reduce your request rate."),
    "expired": (403, "ExpiredToken", "The provided token has expired."),
    "denied": (403, "AccessDenied", "Access Denied"),
    "conflict": (409, "ConditionalRequestConflict", "A conflicting conditional operation is under way."),
    "taken": (412, "PreconditionFailed", "At least one of the conditions did not hold."),  # without S3's Condition
}
LATE = 1.0  # seconds
_OWN = {"connection", "keep-alive", "transfer-encoding", "server", "date"}  # headers that are of one connection


@dataclass
class Fault:
    kind: Kind
    on: re.Pattern[str]
    """Of `METHOD /bucket/key?query`, unquoted."""
    times: float
    """Answers that it still spoils."""


class FaultyStore(ThreadingHTTPServer):
    """Listens on a port of its own, in threads of this process; `port` is the S3 server's, on this machine."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = port
        self.faults: list[Fault] = []
        self.asked: list[str] = []
        """Every request since `clear`, as the faults see it."""
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fail(self, kind: Kind, on: str, times: float = float("inf")) -> None:
        """Spoil the next so many answers to requests that match the regular expression."""
        self.faults.append(Fault(kind, re.compile(on), times))

    def clear(self) -> None:
        self.faults, self.asked = [], []

    def fault(self, request: str) -> Kind | None:
        with self._lock:
            self.asked.append(request)
            for fault in self.faults:
                if fault.times > 0 and fault.on.search(request):
                    fault.times -= 1
                    return fault.kind
        return None

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def store(self) -> FaultyStore:
        return cast(FaultyStore, self.server)

    def answer(self) -> None:
        body = self._body()
        kind = self.store.fault(f"{self.command} {unquote(self.path)}")
        if kind in ERRORS:
            status, code, message = ERRORS[kind]
            self._send(status, {}, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode())
        elif kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._hang_up()
        elif kind == "never":
            time.sleep(3600)
        else:
            time.sleep(LATE if kind == "late" else 0)
            self._pass_on(body, cut=kind == "truncated")

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return body

    def _pass_on(self, body: bytes, *, cut: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.store.behind, timeout=60)
        try:
            passed = {name: value for name, value in self.headers.items() if name.lower() not in _OWN | {"expect"}}
            connection.request(self.command, self.path, body, passed)
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        headers = {name: value for name, value in response.getheaders() if name.lower() not in _OWN}
        if cut:
            self._send(response.status, headers, data, keep=len(data) // 2)
            self._hang_up()
        else:
            self._send(response.status, headers, data)

    def _send(self, status: int, headers: dict[str, str], data: bytes, keep: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:keep])
            self.wfile.flush()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Tests print nothing."""
