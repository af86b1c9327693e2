"""The service over HTTP: its answers are the searcher's, what cannot be answered is named, and nothing else leaks."""

from __future__ import annotations

import base64
import http.client
import io
import json
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from PIL import Image

from pipelines.search.searcher import Searcher
from pipelines.serve.batches import MOST
from pipelines.serve.guard import TOKEN, Guard, token_of_environment
from pipelines.serve.run import LOCAL
from pipelines.serve.run import guarded as guarded_by
from pipelines.serve.service import Settings, thumbnail_url
from pipelines.store.storage import RangeFile
from tests.encode.test_index import put, rows, updated
from tests.helpers.pictures import picture, png
from tests.search.test_searcher import TOKENS
from tests.serve.client import STROKES, Answer, asked, form, searched
from tests.serve.conftest import KINDS, NAMES, Running, running, until_ready
from zse_model.errors import ZseError
from zse_model.synthetic import draw_photo, draw_sketch

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><path d="M1 1L8 8M1 8L8 1" stroke="black"/></svg>'


@pytest.fixture(scope="module")
def searcher(service: Running) -> Searcher:
    return Searcher.open(str(service.index), TOKENS)


def pairs(answer: Answer) -> list[tuple[str, float]]:
    assert answer.status == 200, answer.body
    return [(one["id"], one["score"]) for one in answer.json["photos"]]


def expected(searcher: Searcher, *query: Any, **options: Any) -> list[tuple[str, Any]]:
    return [(one.id, pytest.approx(one.score, abs=1e-5)) for one in searcher.search(*query, **options)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top": 7, "page": 2},
        {"mode": "fused"},
        {"where": "price < 9", "group": False},
        {"mode": "rerank-9", "top": 5},
        {"mode": "ret-diffused-9", "top": 7, "page": 2},
    ],
    ids=str,
)
def test_a_drawing_finds_what_the_searcher_finds(service: Running, searcher: Searcher, options: Any) -> None:
    answer = searched(service.url, **options)
    assert pairs(answer) == expected(searcher, STROKES, **options)
    made, version = searcher.made
    assert answer.json["index"] == {"generation": searcher.generation.name, "made": made, "version": version}
    assert answer.json["model"]["checkpoint"] == searcher.generation.checkpoint_hash[:12]


@pytest.mark.parametrize("drawing", [png("sketch", 3), png("sketch", 3, "WEBP"), SVG], ids=["png", "webp", "svg"])
def test_a_file_finds_what_the_searcher_finds(service: Running, searcher: Searcher, drawing: bytes) -> None:
    body, kind = form(("drawing", drawing), ("top", "5"), ("where", "new"), ("mode", ""))
    answer = asked(f"{service.url}v1/search", body, kind)
    assert pairs(answer) == expected(searcher, drawing, top=5, where="new")


def test_photos_like_a_photo_are_found(service: Running, searcher: Searcher) -> None:
    id = f"{searcher.search(STROKES)[0].id}"
    assert pairs(searched(service.url, like=id, top=4)) == expected(searcher, like=id, top=4)


def test_pages_end_where_no_photo_follows(service: Running) -> None:
    pages = [searched(service.url, top=10, page=page, group=False).json for page in range(1, 6)]
    found = [one["id"] for page in pages for one in page["photos"]]
    assert len(found) == len(set(found)) == 45 and [page["more"] for page in pages] == [True] * 4 + [False]
    last = searched(service.url, mode="rerank-20", top=10, page=2).json
    assert not last["more"], "rerank-20 ranks no third page"
    for top, more in ((8, True), (9, False), (10, False)):
        assert searched(service.url, where="price < 9", top=top, group=False).json["more"] is more
        like = f"{KINDS[0]}/0.png"  # its price is 0: nine others pass
        assert searched(service.url, like=like, where="price < 10", top=top, group=False).json["more"] is more


def test_every_name_leads_to_its_own_thumbnail(service: Running) -> None:
    stored = {row["id"]: row for row in rows(service.index, TOKENS)}
    assert set(NAMES) < set(stored)
    for id, row in stored.items():
        answer = asked(service.url + thumbnail_url(id))
        assert (answer.status, answer.body, answer.headers["content-type"]) == (200, row["thumbnail"], "image/jpeg")
        assert asked(service.url + thumbnail_url(id), if_none_match=answer.headers["etag"]).status == 304
    for odd in ("a/../b", "..", "/x", "a//b", "./a"):
        assert "/" not in thumbnail_url(odd).removeprefix("v1/thumbnails/"), "a client takes dots and slashes away"


def test_of_ten_ids_nine_are_answered_and_one_is_named(service: Running) -> None:
    known = [row["id"] for row in rows(service.index, TOKENS)][-9:]
    query = "&".join(f"id={quote(id)}" for id in [*known, "no/such.png"])
    answer = asked(f"{service.url}v1/photos?{query}").json
    assert sorted(one["id"] for one in answer["photos"]) == sorted(known) and answer["missing"] == ["no/such.png"]
    one = asked(f"{service.url}v1/photos/{quote(known[0])}").json
    assert (one["id"], one["width"]) == (known[0], 200) and set(one["metadata"]) == {"category", "price", "new", "day"}


def test_about_names_what_the_page_offers(service: Running) -> None:
    about = asked(f"{service.url}v1/about").json
    assert about["photos"] == 45 and about["explains"] is True
    assert [mode["name"] for mode in about["modes"]] == ["ret", "rn", "fused", "ret-diffused-500"]
    assert "ranked again by diffusion" in about["modes"][-1]["help"]
    category, price, new, day = about["columns"]
    assert category["values"] == sorted(category["values"]) and len(category["values"]) == 10
    assert (price["low"], price["high"]) == (0, 39) and new == {"name": "new", "type": "boolean"}
    assert (day["type"], day["low"], day["high"]) == ("date", "2026-01-01", "2026-01-28")


def test_an_explanation_has_pictures_and_how_to_read_them(service: Running) -> None:
    id = searched(service.url, mode="rn").json["photos"][0]["id"]
    body = json.dumps({"strokes": STROKES, "id": id, "mode": "rn"}).encode()
    answer = asked(f"{service.url}v1/explain", body).json
    assert (answer["id"], answer["mode"]) == (id, "rn") and answer["score"] == answer["scores"]["rn"]
    again = json.dumps({"strokes": STROKES, "id": id, "mode": "rn-diffused-9"}).encode()
    assert asked(f"{service.url}v1/explain", again).json["mode"] == "rn", "a pair has no place among others"
    for one in answer["pictures"]:
        head, _, data = one["png"].partition(",")
        assert head == "data:image/png;base64" and Image.open(io.BytesIO(base64.b64decode(data))).width > 100
        assert one["title"] and one["text"]
    for wrong, field in (({"id": "x"}, "id"), ({"mode": "nope"}, "mode"), ({"strokes": []}, "strokes")):
        answer = asked(f"{service.url}v1/explain", json.dumps({"strokes": STROKES, "id": id} | wrong).encode())
        assert (answer.status, answer.json["field"]) == (422, field), answer.body


def test_requests_that_come_together_are_encoded_together(
    service: Running, searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawings = [[[[0, 100], [0, 10 * i]], [[0, 100], [50, 5 * i]]] for i in range(12)]
    wanted = [expected(searcher, drawing, top=6) for drawing in drawings]
    together = counted(service, monkeypatch, block := threading.Event())
    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(searched, service.url, strokes=drawing, top=6) for drawing in drawings]
        while service.service._under_way < 12:
            time.sleep(0.01)
        block.set()
        assert [pairs(answer.result()) for answer in answers] == wanted
    assert sum(together) == 12 and len(together) <= 4, together


def counted(service: Running, monkeypatch: pytest.MonkeyPatch, release: threading.Event) -> list[int]:
    """The number of drawings of each call of the model. The first call waits for `release`."""
    counts: list[int] = []
    answers = Searcher.ask

    def asking(self: Searcher, work: Callable[[Any], Any]) -> Any:
        release.wait(30)
        found = answers(self, work)
        counts.append(len(found))
        return found

    monkeypatch.setattr(Searcher, "ask", asking)
    return counts


def test_a_network_of_pairs_is_kept_from_all_photos_of_a_large_index(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One such search would keep all others waiting."""
    monkeypatch.setattr("pipelines.serve.asked.PAIRS", 20)
    monkeypatch.setattr("pipelines.serve.service.PAIRS", 20)
    for wrong in ({"mode": "rn"}, {"mode": "fused"}, {"mode": "rerank-21"}, {"rerank": 21, "rerank_mode": "rn"}):
        answer = searched(service.url, **wrong)
        assert (answer.status, answer.json["field"]) == (422, "mode" if "mode" in wrong else "rerank"), answer.body
        assert "at most 20 photos" in answer.json["detail"]
    for right in ({"mode": "rn", "where": "price < 20"}, {"mode": "rerank-20"}, {"rerank": 20, "rerank_mode": "rn"}):
        assert len(pairs(searched(service.url, **right))) == 20
    assert [mode["name"] for mode in asked(f"{service.url}v1/about").json["modes"]] == [
        "ret",
        "rerank-20",
        "ret-diffused-500",
    ]


@pytest.mark.parametrize(
    ("where", "wrong"),
    [
        ("levenshtein(repeat(id, 1500), repeat(id, 1499)) > 1", "levenshtein"),
        ("length(repeat('a', 100000000)) > 5", "repeat"),
        ("version LIKE '%'", "version"),
        ("sha256 IS NOT NULL", "sha256"),
        ("look IS NULL", "look"),
        ("price < 1; DELETE", "; DELETE"),
        ("price < 1 -- x", "-- x"),
    ],
)
def test_a_filter_names_columns_and_few_functions(service: Running, where: str, wrong: str) -> None:
    """Others take minutes of the model's thread, or gigabytes, or read what is the index's own."""
    answer = searched(service.url, where=where)
    assert (answer.status, answer.json["field"]) == (422, "where") and wrong in answer.json["detail"], answer.body


@pytest.mark.parametrize(
    "where",
    [
        "CAST(`price` AS DOUBLE) >= 3 AND contains(lower(category), 'app')",
        "day >= DATE '2026-01-03' AND day < DATE '2026-02-01' OR new IS NULL",
        "NOT (category IN ('it''s', 'cat') AND price BETWEEN 1 AND 2e1) AND id LIKE '%.png'",
        "width > 10 AND upper(category) <> 'X' AND price / 2 != 3.5",
    ],
)
def test_a_filter_of_columns_is_answered(service: Running, where: str) -> None:
    assert searched(service.url, where=where).status == 200


def test_a_hundred_thousand_wrong_points_take_no_time(service: Running) -> None:
    began = time.monotonic()
    for body in (b'{"strokes": [[[' + b"[]," * 500_000 + b"[]]]]}", b"{" + b'"a": 1,' * 300_000 + b'"b": 2}'):
        assert asked(f"{service.url}v1/search", body).status == 422
    assert time.monotonic() - began < 5


def test_a_jpeg_of_hundreds_of_scans_is_refused(service: Running) -> None:
    data = picture(draw_sketch("fish", 1, size=64), "JPEG", progressive=True)
    assert asked(f"{service.url}v1/search", *form(("drawing", data))).status == 200
    scan = data[data.rindex(b"\xff\xda") : -2]
    answer = asked(f"{service.url}v1/search", *form(("drawing", data[:-2] + 200 * scan + data[-2:])))
    assert (answer.status, answer.json["field"]) == (422, "drawing") and "scans" in answer.json["detail"]


def test_a_search_by_a_network_of_pairs_is_done_alone(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    together = counted(service, monkeypatch, block := threading.Event())
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(searched, service.url, mode="rn", top=3) for _ in range(4)]
        while service.service._under_way < 4:
            time.sleep(0.01)
        block.set()
        assert [answer.result().status for answer in answers] == [200] * 4 and together == [1, 1, 1, 1]


def test_a_photo_that_was_just_found_is_not_looked_up_again(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    found = searched(service.url, top=9).json["photos"]
    monkeypatch.setattr("pipelines.search.searcher.Snapshot.photos", lambda *_: pytest.fail("looked up"))
    assert all(asked(service.url + one["thumbnail"]).status == 200 for one in found)


def test_too_many_requests_are_told_to_come_back(catalogue: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(replace(catalogue, waiting=3)) as service, ThreadPoolExecutor(3) as pool:
        counted(service, monkeypatch, block := threading.Event())
        answers = [pool.submit(searched, service.url) for _ in range(3)]
        while service.service._under_way < 3:
            time.sleep(0.01)
        refused = searched(service.url)
        block.set()
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert [answer.result().status for answer in answers] == [200] * 3
        assert "zse_serve_refused_total 1.0" in asked(f"{service.url}metrics").body.decode()


def test_an_answer_that_takes_too_long_is_given_up(catalogue: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(replace(catalogue, seconds=0.5)) as service:
        counts = counted(service, monkeypatch, block := threading.Event())
        with ThreadPoolExecutor(3) as pool:
            answers = [pool.submit(searched, service.url, top=i + 1) for i in range(3)]
            for answer in answers:
                assert (answer.result().status, answer.result().json["detail"]) == (
                    504,
                    "The answer took more than 0.5 s",
                )
        block.set()
        assert searched(service.url).status == 200
        assert len(counts) <= 2, "what waited beyond its time is left out"


def test_work_of_a_client_that_has_gone_is_left_out(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the page ends the request before the next one."""
    counts = counted(service, monkeypatch, block := threading.Event())
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(searched, service.url, top=1)
        while service.service._under_way < 1:
            time.sleep(0.01)
        time.sleep(0.1)  # the first is with the model: what follows waits
        for i in range(5):
            connection = http.client.HTTPConnection(service.url.split("/")[2])
            body = json.dumps({"strokes": STROKES, "top": 2 + i})
            connection.request("POST", "/v1/search", body, {"content-type": "application/json"})
            while service.service._under_way < 2:
                time.sleep(0.01)
            connection.close()
            while service.service._under_way > 1:
                time.sleep(0.01)
        block.set()
        assert first.result().status == 200 and counts == [1]


def test_a_changed_index_is_taken_up_without_a_failed_request(tmp_path: Path) -> None:
    for i in range(8):
        put(tmp_path / "photos" / f"{i}.png", picture(draw_photo("fish", i, size=64)))
    updated(tmp_path / "photos", tmp_path / "index", TOKENS)
    with running(Settings(index=str(tmp_path / "index"), model=TOKENS)) as service, ThreadPoolExecutor(4) as pool:
        ended = threading.Event()

        def clients() -> list[tuple[int, int, bool]]:
            seen = []
            while not ended.is_set():
                answer = searched(service.url, top=20, group=False)
                found = [one["id"] for one in answer.json.get("photos", [])]
                seen.append((answer.status, answer.json["index"]["version"], "9.png" in found))
            return seen

        asking = [pool.submit(clients) for _ in range(4)]
        put(tmp_path / "photos" / "9.png", picture(draw_photo("fish", 9, size=64)))
        (tmp_path / "photos" / "1.png").unlink()
        before = service.service.searcher.version
        updated(None, tmp_path / "index", TOKENS)
        service.service.searcher.follow()
        assert searched(service.url, top=20).json["index"]["version"] == service.service.searcher.version > before
        time.sleep(0.2)
        ended.set()
        seen = [one for client in asking for one in client.result()]
    assert {status for status, _, _ in seen} == {200}
    versions = {version: {new for _, v, new in seen if v == version} for _, version, _ in seen}
    assert versions == {before: {False}, max(versions): {True}}, "each answer is of one version, whole"


def test_it_is_ready_when_the_index_is_loaded(catalogue: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    load, really = threading.Event(), Searcher.open

    def slow(*arguments: Any, **options: Any) -> Searcher:
        load.wait(30)
        return really(*arguments, **options)

    monkeypatch.setattr(Searcher, "open", slow)
    with running(catalogue, wait=False) as service:
        states = [asked(service.url + path) for path in ("healthz", "readyz", "v1/about", "")]
        answer = searched(service.url)
        load.set()
        assert [state.status for state in states] == [200, 503, 503, 200]
        assert (answer.status, answer.json["detail"], answer.headers["retry-after"]) == (
            503,
            "The index is being loaded",
            "1",
        )
        until_ready(service)
        assert service.service.searcher._now.loaded, "the first search finds the index in memory"


@pytest.mark.parametrize(("mode", "sizes"), [(None, range(1, MOST + 1)), ("rn", [1])])
def test_the_first_search_of_any_batch_finds_the_model_warm(
    catalogue: Settings, monkeypatch: pytest.MonkeyPatch, mode: str | None, sizes: Sequence[int]
) -> None:
    done: list[tuple[int, str]] = []
    really = Searcher.answers

    def answers(self: Searcher, drawn: Sequence[Any], **asked: Any) -> Any:
        done.append((len(drawn), threading.current_thread().name))
        return really(self, drawn, **asked)

    monkeypatch.setattr(Searcher, "answers", answers)
    with running(replace(catalogue, mode=mode)) as service:
        assert done == [(size, "model") for size in sizes], "by the thread whose heap the model uses"
        assert "zse_serve_batch_count 0.0" in asked(f"{service.url}metrics").body.decode()


def test_a_service_answers_by_diffusion_where_it_is_told_to(catalogue: Settings, searcher: Searcher) -> None:
    with running(replace(catalogue, mode="fused-diffused-9")) as service:
        about = asked(f"{service.url}v1/about").json
        assert [mode["name"] for mode in about["modes"]][:2] == ["fused-diffused-9", "ret"]
        assert [column["name"] for column in about["columns"]][1:3] == ["price", "new"]
        assert pairs(searched(service.url)) == expected(searcher, STROKES, mode="fused-diffused-9")
        again = {"rerank": 7, "rerank_mode": "rn-diffused-5", "top": 7}
        assert pairs(searched(service.url, **again)) == expected(searcher, STROKES, mode="fused", **again)
        wrong = searched(service.url, mode="ret-diffused-5", rerank=7)
        assert (wrong.status, wrong.json["field"]) == (422, "mode")


def test_nothing_but_about_waits_for_the_columns(catalogue: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    read, count = threading.Event(), 50  # more than the threads that answer requests

    def slow(now: Any) -> list[Any]:
        read.wait(60)
        return []

    monkeypatch.setattr("pipelines.serve.service.columns", slow)
    with running(catalogue) as service, ThreadPoolExecutor(count + 1) as pool:
        abouts = [pool.submit(asked, f"{service.url}v1/about") for _ in range(count)]
        try:
            while len(service.service._reading_columns._waiters or ()) < count - 1:
                time.sleep(0.01)
            for path in ("healthz", "readyz", "metrics", thumbnail_url(NAMES[0]), "page/page.js"):
                assert pool.submit(asked, service.url + path).result(10).status == 200
            assert pool.submit(searched, service.url).result(10).status == 200
        finally:
            read.set()
        assert {about.result().status for about in abouts} == {200}


def started(service: Running, sent: int, length: int) -> socket.socket:
    """A search that has sent so many bytes of a body of `length`."""
    host, _, port = service.url.split("/")[2].partition(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    body = json.dumps({"strokes": STROKES}).encode().ljust(length)
    head = f"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    connection.sendall(head.encode() + body[:sent])
    return connection


def test_bodies_that_arrive_at_once_have_a_limit(catalogue: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    with running(replace(catalogue, buffered_bytes=50_000)) as service:
        arriving = [started(service, 20_000, 20_001) for _ in range(2)]
        announced = [started(service, 0, 40_000) for _ in range(4)]  # which takes no memory
        guard = guard_of(service)
        while guard._buffered < 40_000:
            time.sleep(0.01)
        large, small = json.dumps({"strokes": STROKES}).encode().ljust(20_000), searched(service.url)
        refused = asked(f"{service.url}v1/search", large)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1") and "bodies" in refused.json["detail"]
        assert small.status == 200, "it fits"
        arriving[0].close()
        arriving[1].sendall(b" ")
        assert arriving[1].recv(65536).startswith(b"HTTP/1.1 200")
        while guard._buffered:
            time.sleep(0.01)
        assert asked(f"{service.url}v1/search", large).status == 200
        assert "zse_serve_refused_total 1.0" in asked(f"{service.url}metrics").body.decode()
        for connection in (arriving[1], *announced):
            connection.close()
    assert "incident" not in capsys.readouterr().err, "a client that goes is no defect"


def guard_of(service: Running) -> Guard:
    layer: Any = service.app.middleware_stack
    while not isinstance(layer, Guard):
        layer = layer.app
    return layer


@pytest.fixture(scope="module")
def guarded(catalogue: Settings) -> Iterator[Running]:
    settings = replace(catalogue, hosts=("127.0.0.1",), origins=("https://shop.example",), originals=True)
    with running(settings, token="correct-horse-battery") as service:
        yield service


@pytest.mark.parametrize(
    "path", ["v1/about", "v1/photos?id=a", "v1/thumbnails/a", "v1/originals/a", "metrics", "nothing"]
)
def test_a_token_is_asked_for(guarded: Running, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic correct-horse-battery"}):
        answer = asked(guarded.url + path, None, **headers)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert asked(guarded.url + path, authorization="Bearer correct-horse-battery").status != 401


@pytest.mark.parametrize(
    "path", ["healthz", "readyz", "docs", "openapi.json", "swagger/swagger-ui.css", "page/docs.js"]
)
def test_files_and_probes_need_no_token(guarded: Running, path: str) -> None:
    assert asked(guarded.url + path).status == 200


def test_only_this_machine_is_served_without_a_token(capsys: pytest.CaptureFixture[str]) -> None:
    """By uvicorn and by Ray alike: both ask `guarded`."""
    given = Settings(index="i", model="m")
    assert guarded_by(given, "127.0.0.1")[0].hosts == guarded_by(given, "::1")[0].hosts == LOCAL
    assert guarded_by(given, "0.0.0.0")[0].hosts == () and "can search" in capsys.readouterr().err
    for wrong in (replace(given, hosts=("example.org:80",)), replace(given, origins=("https://a.org/",))):
        with pytest.raises(ZseError, match="--allow-"):
            guarded_by(wrong, "0.0.0.0")


def test_a_token_of_a_file_has_no_line_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "correct-horse-battery\n")
    assert token_of_environment() == "correct-horse-battery"


def test_a_weak_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "short")
    with pytest.raises(ZseError, match="ZSE_TOKEN must have at least 16"):
        token_of_environment()


def test_another_host_name_is_refused(guarded: Running) -> None:
    """A page of another site, whose name is made to lead to this machine."""
    answer = asked(f"{guarded.url}v1/about", host="evil.example:8000", authorization="Bearer correct-horse-battery")
    assert answer.status == 421
    for probe in ("healthz", "readyz"):
        assert asked(guarded.url + probe, host="10.2.3.4:8000").status == 200, "Kubernetes asks by the pod's address"
    assert asked(f"{guarded.url}healthz", host="127.0.0.1").status == 200


def test_pages_of_other_sites_read_answers_only_where_named(guarded: Running, service: Running) -> None:
    named, other = "https://shop.example", "https://evil.example"
    assert asked(f"{guarded.url}healthz", origin=named).headers["access-control-allow-origin"] == named
    assert "access-control-allow-origin" not in asked(f"{guarded.url}healthz", origin=other).headers
    assert "access-control-allow-origin" not in asked(f"{service.url}healthz", origin=named).headers
    thumbnail, token = thumbnail_url(NAMES[0]), "Bearer correct-horse-battery"
    answer = asked(guarded.url + thumbnail, origin=named, authorization=token)
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin", "an <img> shows it"
    assert answer.headers["access-control-expose-headers"] == "Retry-After"
    kept = asked(guarded.url + thumbnail, authorization=token, if_none_match=answer.headers["etag"])
    assert (kept.status, kept.headers["cross-origin-resource-policy"]) == (304, "cross-origin")
    for url in (f"{service.url}{thumbnail}", f"{guarded.url}healthz"):
        assert asked(url).headers["cross-origin-resource-policy"] == "same-origin"


def test_pages_of_other_sites_search_only_where_named(guarded: Running, service: Running) -> None:
    """A browser sends a form to another site without asking it first."""
    named, other = "https://shop.example", "https://evil.example"
    body, kind = form(("drawing", png("sketch", 1)))

    def status(running: Running, origin: str, site: str) -> int:
        headers = {"origin": origin, "sec_fetch_site": site, "authorization": "Bearer correct-horse-battery"}
        return asked(f"{running.url}v1/search", body, kind, **headers).status

    assert [status(guarded, origin, "cross-site") for origin in (named, other, "null")] == [200, 403, 403]
    assert status(service, named, "cross-site") == 403
    assert status(service, other, "same-origin") == status(service, other, "none") == 200
    assert asked(f"{service.url}healthz", origin=other, sec_fetch_site="cross-site").status == 200


def test_originals_are_given_out_where_allowed(guarded: Running, service: Running) -> None:
    id, token = NAMES[3], "Bearer correct-horse-battery"
    answer = asked(f"{guarded.url}v1/originals/{quote(id)}", authorization=token)
    assert answer.body == (guarded.photos / id).read_bytes() and answer.headers["content-type"] == "image/jpeg"
    kept = answer.headers["etag"]
    assert asked(f"{guarded.url}v1/originals/{quote(id)}", authorization=token, if_none_match=kept).status == 304
    body = json.dumps({"like": id}).encode()
    for one in asked(f"{guarded.url}v1/search", body, authorization=token).json["photos"]:
        assert (
            asked(guarded.url + one["original"], authorization=token).body == (guarded.photos / one["id"]).read_bytes()
        )
    assert "original" not in searched(service.url).json["photos"][0]
    assert "original" not in asked(f"{service.url}v1/photos/{quote(id)}").json
    for path in ("../about.csv", "..%2Fabout.csv", "%2e%2e/about.csv", "/etc/passwd", "a/../../about.csv"):
        assert asked(f"{guarded.url}v1/originals/{path}", authorization=token).status == 404
    assert asked(f"{service.url}v1/originals/{quote(id)}").status == 404


def test_every_original_has_its_name(odd: tuple[Running, dict[str, int]]) -> None:
    service, seeds = odd
    for id, seed in seeds.items():
        one = asked(f"{service.url}v1/photos/{quote(id)}").json
        assert asked(service.url + one["original"]).body == picture(draw_photo("fish", seed, size=48), "JPEG"), id


def reads_none_of(service: Running, id: str) -> socket.socket:
    """A client of an original that never reads. It keeps no connection after an answer, such as a refusal."""
    host, _, port = service.url.split("/")[2].partition(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((host, int(port)))
    connection.sendall(f"GET /v1/originals/{quote(id)} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return connection


def test_originals_are_sent_in_parts_and_few_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = tmp_path / "photos" / "1.png"
    put(large, picture(draw_photo("fish", 1, size=64)))
    updated(tmp_path / "photos", tmp_path / "index", TOKENS)
    put(large, content := random.Random(0).randbytes(30_000_000))
    sizes: list[int] = []
    really = RangeFile.read

    def read(self: RangeFile, size: int | None = -1) -> bytes:
        sizes.append(len(part := really(self, size)))
        return part

    monkeypatch.setattr(RangeFile, "read", read)
    settings = Settings(index=str(tmp_path / "index"), model=TOKENS, originals=True, originals_at_once=2)
    with running(settings) as service:
        url = f"{service.url}v1/originals/1.png"
        answer = asked(url)
        assert answer.body == content and int(answer.headers["content-length"]) == len(content)
        assert max(sizes) <= 2**20 and sum(sizes) == len(content), "never whole in memory"
        sizes.clear()
        waiting = [reads_none_of(service, "1.png") for _ in range(2)]
        while len(sizes) < 2:
            time.sleep(0.01)
        refused = asked(url)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert b"zse_serve_refused_total 1.0" in asked(f"{service.url}metrics").body
        assert searched(service.url).status == 200
        waiting.pop().close()
        assert until_answered(url) == content, "a client that has gone has no place"
        assert sum(sizes) < 2 * len(content), "what nobody reads is not read"
        monkeypatch.setattr("pipelines.serve.originals.STALLED", 0.3)
        waiting.append(reads_none_of(service, "1.png"))
        time.sleep(0.1)
        waiting[0].close()
        waiting.append(reads_none_of(service, "1.png"))
        assert until_answered(url) == content, "a client that does not read loses its place"
        large.unlink()
        assert asked(url).status == 404
        for connection in waiting:
            connection.close()


def test_a_client_that_does_not_read_loses_its_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(large := tmp_path / "photos" / "1.png", picture(draw_photo("fish", 1, size=64)))
    updated(tmp_path / "photos", tmp_path / "index", TOKENS)
    put(large, bytes(30_000_000))
    monkeypatch.setattr("pipelines.serve.originals.STALLED", 0.3)
    monkeypatch.setattr("pipelines.serve.run.UNREAD", 1)
    with running(Settings(index=str(tmp_path / "index"), model=TOKENS, originals=True)) as service:
        held = service.server.server_state.connections
        waiting = reads_none_of(service, "1.png")
        until = time.monotonic() + 30
        while not held and time.monotonic() < until:
            time.sleep(0.01)
        assert held
        while held and time.monotonic() < until:
            time.sleep(0.05)
        assert not held
        waiting.close()


def test_a_connection_that_does_not_complete_a_header_is_closed(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one, and one that has begun after an answer: uvicorn waits for ever for the rest of it."""
    monkeypatch.setattr("pipelines.serve.run.HEADER", 0.5)
    host, port = urlsplit(service.url).hostname, urlsplit(service.url).port
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with ExitStack() as stack:
        fresh, begun, patient = (
            stack.enter_context(socket.create_connection((host, port), timeout=10)) for _ in range(3)
        )
        for connection in (begun, patient):
            connection.sendall(request)
            assert connection.recv(9999).startswith(b"HTTP/1.1 200")
        patient.sendall(request[:9])
        begun.sendall(request[:1])
        patient.sendall(request[9:])
        assert patient.recv(9999).startswith(b"HTTP/1.1 200")
        with suppress(ConnectionError):
            for byte in request[1:9]:  # more bytes do not prolong it
                begun.sendall(bytes([byte]))
                time.sleep(0.2)
        with suppress(ConnectionResetError):
            assert begun.recv(9999) == b""
        assert fresh.recv(9999) == b""
        patient.sendall(request)
        assert patient.recv(9999).startswith(b"HTTP/1.1 200"), "the header of its request was complete"


def test_integers_that_javascript_rounds_are_text(tmp_path: Path) -> None:
    for i in range(2):
        put(tmp_path / "photos" / f"{i}.png", picture(draw_photo("fish", i, size=64)))
    (tmp_path / "about.csv").write_text(f"path,post,seen\n0.png,{2**53 + 1},{2**53}\n1.png,7,-1\n")
    updated(tmp_path / "photos", tmp_path / "index", TOKENS, metadata=str(tmp_path / "about.csv"))
    with running(Settings(index=str(tmp_path / "index"), model=TOKENS)) as service:
        assert asked(f"{service.url}v1/photos/0.png").json["metadata"] == {"post": str(2**53 + 1), "seen": 2**53}
        (found,) = searched(service.url, where=f"post = {2**53 + 1}").json["photos"]
        assert found["metadata"]["post"] == str(2**53 + 1)
        columns = asked(f"{service.url}v1/about").json["columns"]
        assert columns == [{"name": "seen", "type": "number", "low": -1, "high": 2**53}]


def until_answered(url: str) -> bytes:
    for _ in range(200):
        if (answer := asked(url)).status == 200:
            return answer.body
        assert answer.status == 503
        time.sleep(0.05)
    raise TimeoutError(url)


def test_metrics_have_routes_and_no_ids(service: Running) -> None:
    asked(service.url + thumbnail_url(NAMES[0]))
    text = asked(f"{service.url}metrics").body.decode()
    assert 'route="/v1/thumbnails/{id:path}",status="200"' in text and "gr%C3%BCn" not in text and "grün" not in text
    assert "zse_serve_photos 45.0" in text
    there = set(re.findall(r"^zse_serve_\w+", text, re.MULTILINE))
    drawn = set(re.findall(r"zse_serve_\w+", (Path(__file__).parents[2] / "infra/grafana/service.json").read_text()))
    families = set(re.findall(r"^# TYPE (zse_serve_\w+?)(?:_total|_created)? ", text, re.MULTILINE))
    assert drawn <= there and all(any(name.startswith(one) for name in drawn) for one in families)


def test_an_index_that_cannot_be_followed_is_a_metric(tmp_path: Path) -> None:
    put(tmp_path / "photos" / "1.png", picture(draw_photo("fish", 1, size=64)))
    updated(tmp_path / "photos", tmp_path / "index", TOKENS)
    with running(Settings(index=str(tmp_path / "index"), model=TOKENS)) as service:

        def behind() -> list[str]:
            service.service.searcher.follow()
            return re.findall(r'zse_serve_behind{what="(\w+)"} 1.0', asked(f"{service.url}metrics").body.decode())

        assert behind() == []
        (tmp_path / "index").rename(tmp_path / "away")
        assert behind() == ["index"]
        (tmp_path / "away").rename(tmp_path / "index")
        assert behind() == []
