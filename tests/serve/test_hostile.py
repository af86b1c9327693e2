"""Requests that no client of good will sends: each has its stated answer, and no answer tells of the machine."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.pictures import png
from tests.search.test_searcher import TOKENS
from tests.serve.client import asked, form, raw, searched
from tests.serve.conftest import Running

LINE = [[0, 1], [0, 1]]
ROOT = re.escape(str(Path(__file__).parents[2])).encode()
MACHINE = re.compile(rb"Traceback|File \"|\.py\b|site-packages|/(srv|home|tmp|usr)|\.cargo|\.lance\b|Exception|" + ROOT)
"""What an answer never has: code, paths, and the place of the index."""


def huge_png(side: int) -> bytes:
    """A PNG of a few kB that says it is of side x side pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(9000))) + chunk(b"IEND", b"")
    )


def bodies() -> Iterator[tuple[Any, int, str | None]]:
    """A body of a search in JSON, the status of its answer, and the field that the answer names."""
    for text in (b"", b"{", b"nul", b"\xff\xfe", b'{"strokes": [[[0,1],[0,1]]]', b"{'strokes': 1}", b"<xml/>", b"\0"):
        yield text, 400, None
    for value in ([], 1, "x", None, True, [[]], [LINE]):
        yield value, 422, None
    for depth in (1000, 100_000):
        yield b'{"strokes":' + b"[" * depth + b"]" * depth + b"}", 400, None
    for strokes in (
        *("x", 1, {}, True, [1], ["x"], [[1, 2]], [[["a"], ["b"]]], [[[None], [1]]], [[[[0]], [[1]]]]),
        *([], [[]], [[[]]], [[[], []]], [[[1], [1]]], [[[0, 1], [0]]], [[[0, 1]]], [[[0, 1], [0, 1], [0, 1], [0, 1]]]),
        *([[[0, 0], [0, 0]]], [[[5] * 9, [5] * 9]], [LINE, [[0, 1], [0]]]),
        [[[0, 1] * 50_001, [0, 1] * 50_001]],
    ):
        yield {"strokes": strokes}, 422, "strokes"
    for number in ("NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400):
        yield f'{{"strokes": [[[0, {number}], [0, 1]]]}}'.encode(), 422, "strokes"
    good = {"strokes": [LINE]}
    for field, values in {
        "top": [0, -1, 201, 10**30, 1.5, "many", None, [], True and "yes"],
        "page": [0, -1, 10_001, 2**63, "last", 501],
        "mode": ["nope", "RET", "hash-64", "rerank-0", "../ret", "x" * 101, 3, ["ret"]],
        "rerank": [0, -5, 10_001, "all"],
        "rerank_mode": ["late", "nope", 7],
        "group": ["perhaps", 7, []],
        "where": [
            *("nope = 1", "price <", "; DROP TABLE photos", "(" * 1999),
            *("id = (SELECT id FROM photos)", "price < 'x'", "read_csv('/etc/passwd') = 1", "pg_sleep(9) = 1", "\0", 7),
            *("price ~ '('", "regexp_like(id, '(')", "CAST(id AS INT) > 3", "`nope` = 1", "x" * 2001, "price / 0 = 1"),
            *("id = '", "COPY photos TO '/tmp/x'", "price", "SELECT 1", "/* */", "NOT", "((((((", "\u202e = 1", "😀"),
        ],
    }.items():
        for value in values:
            yield good | {field: value}, 422, field
    for like in ("", "nope", "../../etc/passwd", "/etc/passwd", "x' OR '1'='1", "\0", "a" * 4097, "%2e%2e/x", 3, ["a"]):
        yield {"like": like}, 422, "like"
    yield good | {"like": "apple/0.png"}, 422, "strokes"
    for field in ("__class__", "index", "model", "checkpoint", "path", "url", "drawing", "originals", "id"):
        yield good | {field: "s3://other/bucket"}, 422, field


BODIES = list(bodies())


@pytest.mark.parametrize(("body", "status", "field"), BODIES, ids=lambda value: ascii(value)[:60])
def test_a_wrong_search_is_told_what_is_wrong(service: Running, body: Any, status: int, field: str | None) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode("utf-8", "surrogatepass")
    answer = asked(f"{service.url}v1/search", data)
    assert (answer.status, answer.json.get("field")) == (status, field), answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["detail"] and len(answer.body) < 5000
    unasked = answer.body.replace(json.dumps(body.get(field)).encode() if isinstance(body, dict) else b"", b"")
    assert not MACHINE.search(unasked.replace(b"read_csv('/etc/passwd')", b"").replace(b"COPY photos TO '/tmp/x'", b""))
    assert TOKENS.encode() not in answer.body and str(service.index).encode() not in answer.body


PNG = png("sketch", 1)


@pytest.mark.parametrize(
    ("parts", "status", "field"),
    [
        ([("drawing", b"")], 422, "drawing"),
        ([("drawing", b"no picture")], 422, "drawing"),
        ([("drawing", PNG[: len(PNG) // 2])], 422, "drawing"),
        ([("drawing", b"\x89PNG\r\n\x1a\n" + b"\0" * 99)], 422, "drawing"),
        ([("drawing", b"%PDF-1.7")], 422, "drawing"),
        ([("drawing", b"\0\0\0\x18ftypheic" + b"\0" * 99)], 422, "drawing"),
        ([("drawing", b"GIF89a" + b"\xff" * 99)], 422, "drawing"),
        ([("drawing", b"<svg xmlns='http://www.w3.org/2000/svg'><path d='M0")], 422, "drawing"),
        ([("drawing", b"<svg xmlns='http://www.w3.org/2000/svg'/>")], 422, "drawing"),
        ([("drawing", b"<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><svg>&a;</svg>")], 422, "drawing"),
        ([("drawing", huge_png(9000))], 413, "drawing"),
        ([("drawing", huge_png(2**31 - 1))], 413, "drawing"),
        ([("drawing", "text, no file")], 422, "drawing"),
        ([("strokes", "[[[0,1],[0,1]]]")], 422, "strokes"),
        ([("drawing", PNG), ("top", "many")], 422, "top"),
        ([("drawing", PNG), ("top", "3"), ("top", "4")], 422, "top"),
        ([("drawing", PNG), ("colour", "red")], 422, "colour"),
        ([("drawing", PNG), ("like", "apple/0.png")], 422, "strokes"),
        ([("top", PNG)], 422, "top"),
        ([("drawing", PNG), ("drawing", PNG)], 400, None),
        ([("drawing", PNG), *(("top", "1") for _ in range(30))], 400, None),
        ([("drawing", PNG), ("where", "x" * 5000)], 400, None),
        ([], 422, "strokes"),
    ],
    ids=lambda value: ascii(value)[:50],
)
def test_a_wrong_form_is_told_what_is_wrong(service: Running, parts: Any, status: int, field: str | None) -> None:
    answer = asked(f"{service.url}v1/search", *form(*parts))
    assert (answer.status, answer.json.get("field")) == (status, field), answer.body
    assert not MACHINE.search(answer.body.replace(b"/etc/passwd", b"")), answer.body


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("text/plain", 415),
        ("", 415),
        ("application/xml", 415),
        ("multipart/form-data", 400),
        ("application/json;x=y", 200),
    ],
)
def test_another_kind_of_body_is_told_so(service: Running, kind: str, status: int) -> None:
    answer = asked(f"{service.url}v1/search", json.dumps({"strokes": [LINE]}).encode(), kind)
    assert answer.status == status, answer.body
    assert not MACHINE.search(answer.body)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(
            (f"v1/{what}/{id}", 404)
            for what in ("photos", "thumbnails")
            for id in ("nope", "../../etc/passwd", "%00", "a'b")
        ),
        *((f"v1/{what}/{'x' * 5000}", 404) for what in ("photos", "thumbnails")),
        *(
            (path, 404)
            for path in ("nothing", "v1", "v1/search/x", ".env", "page/nope.js", "page/..%2fapp.py", "swagger/x")
        ),
        *(
            (path, 404)
            for path in ("page/../app.py", "page/%2e%2e/app.py", "page//etc/passwd", "%2e%2e/%2e%2e/etc/passwd")
        ),
        ("v1/search", 405),
        ("v1/photos", 422),
        ("v1/photos?" + "&".join(f"id={i}" for i in range(101)), 422),
        ("v1/photos?id=%ff%fe", 200),
        ("v1/photos?ID=3", 422),
    ],
)
def test_a_wrong_address_is_told_so(service: Running, path: str, status: int) -> None:
    answered, came = raw(service.url, f"GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answered == status, came[:300]
    assert not MACHINE.search(came)


BIG = 10_000_001


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"", 0),
        (b"\0\0\0\0", 400),
        (b"GET / HTTP/x.y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"FOO /v1/search HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
        (b"GET http://169.254.169.254/latest HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"GET /" + b"a" * 3_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 3_000_000 + b"\r\n\r\n", 400),
        (b"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
        (f"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Length: {BIG}\r\n\r\n".encode(), 413),
        (f"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Length: {10**18}\r\n\r\n".encode(), 413),
        (f"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Length: {10**30}\r\n\r\n".encode(), 400),
        (
            b"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            + b"Transfer-Encoding: chunked\r\n\r\n"
            + b"".join(b"%x\r\n%s\r\n" % (2**20, bytes(2**20)) for _ in range(11)),
            413,
        ),
        (b"GET /v1/about HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: close\r\n\r\n", 200),
    ],
    ids=lambda value: ascii(value)[:50],
)
def test_bytes_that_are_no_request(service: Running, request_: bytes, status: int) -> None:
    answered, came = raw(service.url, request_)
    assert answered == status, came[:300]
    assert not MACHINE.search(came)


@pytest.mark.parametrize("where", ["price < 1; DELETE FROM photos", "1 = 1 --'", "price < 1; DROP TABLE photos"])
def test_a_filter_changes_nothing(service: Running, where: str) -> None:
    before = asked(f"{service.url}v1/about").json
    searched(service.url, where=where)
    assert asked(f"{service.url}v1/about").json == before and searched(service.url).json["index"] == before["index"]


def test_a_defect_is_answered_without_a_word_of_it(
    service: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def defect(*arguments: Any) -> Any:
        raise RuntimeError("secret of /srv/zse/file.py")

    monkeypatch.setattr("pipelines.search.searcher.Searcher.ask", defect)
    answer = searched(service.url)
    assert answer.status == 500 and not MACHINE.search(answer.body) and b"secret" not in answer.body
    incident = answer.json["detail"].rpartition(" ")[2]
    said = capsys.readouterr().err
    assert incident in said and "secret of /srv/zse/file.py" in said and "Traceback" in said, "the log has it"
