"""A client of the service: the standard library's, and raw bytes for what no client sends."""

from __future__ import annotations

import json
import re
import socket
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

STROKES = [[[0, 50, 100], [0, 80, 20]], [[10, 90], [90, 90]]]
BOUNDARY = "------zse"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def asked(url: str, body: bytes | None = None, kind: str = "application/json", **headers: str) -> Answer:
    """GET, or POST of a body."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, body, headers | ({"content-type": kind} if body is not None else {}))
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, {k.lower(): v for k, v in error.headers.items()}, error.read())


def searched(url: str, **body: Any) -> Answer:
    return asked(f"{url}v1/search", json.dumps({"strokes": STROKES} | body if "like" not in body else body).encode())


def form(*parts: tuple[str, bytes | str]) -> tuple[bytes, str]:
    """The body of a form and its content type. bytes = a file."""
    lines = []
    for name, value in parts:
        file = '; filename="../../etc/passwd"\r\nContent-Type: image/png' if isinstance(value, bytes) else ""
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        lines.append(head.encode() + (value if isinstance(value, bytes) else value.encode()) + b"\r\n")
    return b"".join(lines) + f"--{BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={BOUNDARY}"


def raw(url: str, request: bytes) -> tuple[int, bytes]:
    """The status and all that comes back for bytes as they are; 0 if nothing comes back before they end."""
    host, _, port = urllib.parse.urlsplit(url).netloc.partition(":")
    came = b""
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        with suppress(ConnectionError):  # the service need not read all of it
            connection.sendall(request)
        if not request:
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while not _whole(came) and (part := connection.recv(65536)):
                came += part
    return (int(came.split()[1]) if came.startswith(b"HTTP/") else 0), came


def _whole(came: bytes) -> bool:
    head, ended, body = came.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return bool(ended and length and len(body) >= int(length[1]))
