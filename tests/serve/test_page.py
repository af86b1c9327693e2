"""The page in a real Chromium: hands that draw, pictures, filters, answers that are late or refused, hostile names."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

from benchmarks.papers import photographed
from pipelines.serve.service import Settings
from tests.encode.test_index import put, rows, updated
from tests.helpers.pictures import picture
from tests.search.test_searcher import TOKENS
from tests.serve.browser import (
    Opens,
    draw_by_finger,
    draw_by_mouse,
    draw_by_pen,
    ink,
    is_wider_than_window,
    launched,
    on_paper,
    opening,
    ready,
    strokes,
    until,
)
from tests.serve.client import asked
from tests.serve.conftest import Running, running
from zse_model.synthetic import CATEGORIES, draw_photo, draw_sketch

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

pytestmark = pytest.mark.cluster

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><path d="M1 1L8 8" stroke="#000"/></svg>'
EVIL = "<img src=x onerror=window.hacked=1>"
GIVE_FILE = """([kind, name, type, bytes]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], name, {type}));
    const event = kind === "paste" ? new ClipboardEvent(kind, {clipboardData: data, bubbles: true, cancelable: true})
        : new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true});
    document.body.dispatchEvent(event);
}"""
KEEP_SENT_FILE = """const set = FormData.prototype.set;
FormData.prototype.set = function (name, value, ...rest) {
    if (name === "drawing") window.sent = value;
    return set.call(this, name, value, ...rest);
};"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def opens(browser: Browser, service: Any) -> Iterator[Opens]:
    with opening(browser, service.url) as open_:
        yield open_


SIZE_OF_SENT = "createImageBitmap(sent).then(({width, height}) => [width, height])"


def png(size: tuple[int, int] = (60, 40), mode: str = "1", kind: str = "PNG", **options: Any) -> bytes:
    """A cross, black on white."""
    picture = Image.new(mode, size, "white")
    picture.paste("black", (size[0] // 2, 0, size[0] // 2 + max(1, size[0] // 20), size[1]))
    picture.paste("black", (0, size[1] // 2, size[0], size[1] // 2 + max(1, size[1] // 20)))
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(id: str, score: float = 0.5, **fields: Any) -> dict[str, Any]:
    return {"id": id, "score": score, "thumbnail": "v1/thumbnails/any", "metadata": {}, "repeats": []} | fields


def answer(photos: list[dict[str, Any]], page: int = 1, more: bool = False) -> dict[str, Any]:
    return {"photos": photos, "page": page, "more": more, "index": {"generation": "g", "version": 1}, "model": {}}


def answered_by(page: Page, *answers: dict[str, Any]) -> None:
    """Searches get the answers in turn, and each thumbnail is one picture."""
    left = list(answers)
    page.route("**/v1/search", lambda route: route.fulfill(json=left.pop(0) if len(left) > 1 else left[0]))
    page.route("**/v1/thumbnails/**", lambda route: route.fulfill(body=png(), content_type="image/png"))


def names(page: Page) -> list[str]:
    return page.locator(".tile bdi:first-child").all_inner_texts()


def found(page: Page) -> None:
    page.locator(".tile").first.wait_for()


def heard(page: Page, text: str) -> None:
    """Waits until a screen reader is told the text."""
    page.get_by_role("status").filter(has_text=re.compile(f"^{text}$")).wait_for(state="attached")


@pytest.mark.parametrize(
    ("device", "draw"), [("desktop", draw_by_mouse), ("phone", draw_by_finger), ("desktop", draw_by_pen)]
)
def test_a_line_drawn_by_any_hand_is_sent_as_it_was_drawn(opens: Opens, device: str, draw: Any) -> None:
    page, watch = opens(device)
    draw(ready(page))
    found(page)
    (line,) = strokes(page)
    ends = [line["points"][0], line["points"][-1]]
    assert [value for x, y, _ in ends for value in (x, y)] == pytest.approx([200, 300, 800, 700], abs=4)
    sent = watch.bodies[-1]["strokes"]
    assert sent == [[[x for x, _, _ in line["points"]], [y for _, y, _ in line["points"]]]]
    pressures = [pressure for _, _, pressure in line["points"]]
    assert line["pressed"] is (draw is draw_by_pen)
    assert (pressures[-1] - pressures[0] > 0.3) is (draw is draw_by_pen)
    assert ink(page) == pytest.approx([0.2, 0.3, 0.8, 0.7], abs=0.05)
    page.get_by_role("status").filter(has_text=re.compile(r"^\d+ photos found$")).wait_for()
    assert not is_wider_than_window(page)


def test_keys_draw_undo_clear_and_walk_through_the_photos(opens: Opens) -> None:
    page, _ = opens()
    keys = ready(page).keyboard
    page.locator("#canvas").focus()
    for key in ("Space", "ArrowRight", "Shift+ArrowDown", "Escape", "ArrowUp", "Enter", "Shift+ArrowLeft", "Enter"):
        keys.press(key)
    lines = [[point[:2] for point in line["points"]] for line in strokes(page)]
    assert lines == [[[500, 500], [510, 500], [510, 550]], [[510, 540], [460, 540]]]
    counts = []
    for key in ("Control+z", "Control+Shift+Z", "Control+z", "Control+y", "Delete", "Control+z"):
        keys.press(key)
        counts.append(len(strokes(page)))
    assert counts == [1, 2, 1, 2, 0, 2]
    found(page)
    page.locator("#count").focus()
    for key in ("Tab", "ArrowRight", "ArrowDown", "Home", "End", "Enter"):
        keys.press(key)
    last = page.locator("#dialog-name").inner_text()
    keys.press("Escape")
    page.locator("#dialog").wait_for(state="hidden")
    assert last == page.evaluate("document.activeElement.querySelector('img').alt") == names(page)[-1]


def test_lines_and_tools_outlive_a_reload(opens: Opens) -> None:
    page, watch = opens()
    ready(page)
    for y in (0.2, 0.5, 0.8):
        draw_by_mouse(page, [(0.1, y), (0.9, y)])
    page.get_by_label("Eraser").click()
    draw_by_mouse(page, [(0.5, 0.4), (0.5, 0.6)])
    assert [round(line["points"][0][1], -1) for line in strokes(page)] == [200, 800]
    page.get_by_label("Undo").click()
    heard(page, "Undone")
    page.get_by_label("Width of the pen").press("End")
    with page.expect_response("**/v1/search") as response:
        page.reload()
    assert response.value.ok and len(watch.bodies[-1]["strokes"]) == 3
    assert page.get_by_label("Width of the pen").input_value() == "40"
    page.get_by_label("Redo").click()
    assert len(strokes(page)) == 2
    page.get_by_label("Clear").click()
    heard(page, "Cleared")
    page.locator("#empty").wait_for()
    assert strokes(page) == [] and page.locator(".tile").count() == 0
    page.wait_for_timeout(1100)  # the number of photos would be read now
    heard(page, "The paper is empty")


def test_undo_is_the_same_key_on_layouts_of_other_letters(opens: Opens) -> None:
    page, _ = opens()
    for y in (0.2, 0.8):
        draw_by_mouse(ready(page), [(0.1, y), (0.9, y)])
    counts = []
    for key, code, shift in (("я", "KeyZ", False), ("Я", "KeyZ", True), ("z", "KeyY", False), ("н", "KeyY", False)):
        given = {"key": key, "code": code, "shiftKey": shift, "ctrlKey": True, "bubbles": True}
        page.evaluate("(given) => document.body.dispatchEvent(new KeyboardEvent('keydown', given))", given)
        counts.append(len(strokes(page)))
    assert counts == [1, 2, 1, 2], "Cyrillic, Cyrillic again, German, Cyrillic"


def test_a_line_that_the_system_cancels_stays_and_a_palm_does_not(opens: Opens) -> None:
    page, _ = opens("phone")
    ready(page)
    draw_by_finger(page, [(0.3 + 0.01 * i, 0.3) for i in range(4)], end="touchCancel")
    page.wait_for_timeout(100)
    assert strokes(page) == []
    draw_by_finger(page, [(0.1 + 0.02 * i, 0.5 + 0.3 * (i % 2)) for i in range(40)], end="touchCancel")
    found(page)
    assert len(strokes(page)) == 1
    page.get_by_label("Undo").click()
    assert strokes(page) == []


def test_zoom_rotation_and_resize_change_neither_the_drawing_nor_the_query(opens: Opens) -> None:
    page, watch = opens("phone")
    draw_by_finger(ready(page))
    found(page)
    before = ink(page)
    client = page.context.new_cdp_session(page)
    client.send("Emulation.setPageScaleFactor", {"pageScaleFactor": 1.5})
    page.set_viewport_size({"width": 740, "height": 360})
    until(page, "canvas.width === Math.round(canvas.clientWidth * devicePixelRatio)")
    page.wait_for_timeout(100)  # a frame
    assert ink(page) == pytest.approx(before, abs=0.02)
    with page.expect_response("**/v1/search"):
        page.get_by_role("button", name="Search").press("Enter")
    assert watch.bodies[-1]["strokes"] == watch.bodies[0]["strokes"]
    client.send("Emulation.setPageScaleFactor", {"pageScaleFactor": 1})
    page.evaluate("scrollTo(0, 0)")
    draw_by_finger(page, [(0.1, 0.9), (0.9, 0.9)])
    assert strokes(page)[-1]["points"][-1][:2] == pytest.approx([900, 900], abs=8)


def test_an_empty_paper_asks_nothing(opens: Opens) -> None:
    page, watch = opens()
    ready(page).get_by_role("button", name="Search").click()
    assert "Draw something first" in page.locator("#message").inner_text()
    draw_by_mouse(page, [(0.5, 0.5), (0.5, 0.5)])  # a speck
    page.wait_for_timeout(500)
    assert watch.searches == []


def test_a_browser_that_adds_noise_to_its_canvas_finds_the_same_ten_first(opens: Opens) -> None:
    noise = """const {getImageData, putImageData} = CanvasRenderingContext2D.prototype;
    function noisy(context, ...box) {
        const pixels = getImageData.call(context, ...box);
        for (let i = 0; i < pixels.data.length; i++) pixels.data[i] ^= Math.floor(256 * Math.random());
        return pixels;
    }
    CanvasRenderingContext2D.prototype.getImageData = function (...box) { return noisy(this, ...box); };
    for (const name of ["toDataURL", "toBlob"]) {
        const really = HTMLCanvasElement.prototype[name];
        HTMLCanvasElement.prototype[name] = function (...given) {
            putImageData.call(this.getContext("2d"), noisy(this.getContext("2d"), 0, 0, this.width, this.height), 0, 0);
            return really.apply(this, given);
        };
    }"""
    page, _ = opens()
    draw_by_mouse(ready(page))
    found(page)
    drawing = json.dumps(page.evaluate("sessionStorage.getItem('zse.drawing')"))
    again = f"sessionStorage.setItem('zse.drawing', {drawing}); {noise}"
    guarded, watch = opens(prepare=lambda page: page.add_init_script(again))
    found(ready(guarded))
    assert len(names(page)[:10]) == 10 and names(guarded)[:10] == names(page)[:10]
    assert watch.bodies[-1]["strokes"]


def test_photos_appear_while_a_long_line_is_drawn(opens: Opens) -> None:
    def few_points(route: Route) -> None:
        about = route.fetch().json()
        route.fulfill(json=about | {"limits": about["limits"] | {"points": 50}})

    page, watch = opens(prepare=lambda page: page.route("**/v1/about", few_points))
    ready(page)
    positions = on_paper(page, [(0.1 + 0.8 * (i % 2), 0.1 + i / 100) for i in range(80)])
    page.mouse.move(*positions[0])
    page.mouse.down()
    began = time.monotonic()
    for position in positions:
        page.mouse.move(*position, steps=3)
        page.wait_for_timeout(20)
    most = (time.monotonic() - began) / 0.7 + 1
    assert page.locator(".tile").count() and 1 <= len(watch.searches) <= most
    with page.expect_response("**/v1/search"):
        page.mouse.up()
    sizes = [sum(len(x) for x, _ in body["strokes"]) for body in watch.bodies]
    assert max(sizes) <= 50 and len(strokes(page)[0]["points"]) > 150


@pytest.mark.parametrize("how", ["file", "paste", "drop"])
def test_a_picture_is_the_query_until_the_drawing_comes_back(opens: Opens, how: str) -> None:
    page, watch = opens()
    draw_by_mouse(ready(page))
    found(page)
    with page.expect_response("**/v1/search") as response:
        if how == "file":
            page.set_input_files("#file", {"name": "cross.png", "mimeType": "image/png", "buffer": png()})
        else:
            page.evaluate(GIVE_FILE, [how, "cross.png", "image/png", list(png())])
    assert response.value.ok and "multipart/form-data" in watch.searches[-1].headers["content-type"]
    assert page.locator("#instead-text").inner_text() == "cross.png" and page.get_by_label("Undo").is_disabled()
    until(page, "document.getElementById('instead-picture').naturalWidth === 60")
    with page.expect_response("**/v1/search"):
        page.get_by_role("button", name="Back to drawing").click()
    assert watch.bodies[-1]["strokes"] and page.get_by_label("Undo").is_enabled()


def test_a_large_picture_is_shrunk_an_svg_is_sent_as_it_is_and_a_text_is_refused(opens: Opens) -> None:
    page, watch = opens(prepare=lambda page: page.add_init_script(KEEP_SENT_FILE))
    ready(page)
    page.set_input_files("#file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    page.locator("#message").filter(has_text="a.txt is no picture that can be read").wait_for()
    page.set_input_files("#file", {"name": "cut.png", "mimeType": "image/png", "buffer": png()[:50]})
    page.locator("#message").filter(has_text="cut.png is no picture that can be read").wait_for()
    assert watch.searches == []
    with page.expect_response("**/v1/search") as response:
        page.set_input_files("#file", {"name": "a.svg", "mimeType": "image/svg+xml", "buffer": SVG.encode()})
    assert response.value.ok and page.evaluate("sent.text()") == SVG
    with page.expect_response("**/v1/search") as response:
        page.set_input_files("#file", {"name": "big.png", "mimeType": "image/png", "buffer": png((9000, 7000))})
    assert response.value.ok
    assert page.evaluate(SIZE_OF_SENT) == [2048, 1593]
    clear = np.zeros((1500, 3000, 4), np.uint8)
    clear[700:800, 300:2700, 3] = 255  # a black line on nothing
    with page.expect_response("**/v1/search") as response:
        buffer = picture(clear)
        page.set_input_files("#file", {"name": "clear.png", "mimeType": "image/png", "buffer": buffer})
    assert response.value.ok and page.evaluate("sent.type") == "image/png"
    turned = Image.Exif()
    turned[0x0112] = 6  # a camera on its side: the stored rows are columns
    with page.expect_response("**/v1/search") as response:
        big = png((4000, 1000), "RGB", "JPEG", exif=turned)
        page.set_input_files("#file", {"name": "turned.jpg", "mimeType": "image/jpeg", "buffer": big})
    assert response.value.ok and page.evaluate(SIZE_OF_SENT) == [512, 2048]
    assert page.evaluate("sent.type") == "image/jpeg", "a photo as PNG is several times larger"


def test_a_photographed_drawing_is_shown_as_it_was_cleaned(opens: Opens) -> None:
    page, watch = opens(prepare=lambda page: page.add_init_script(KEEP_SENT_FILE))
    ready(page)
    taken = photographed(np.asarray(draw_sketch("fish", 1, size=256)), "tuning", "fish 1", 600)
    with page.expect_response("**/v1/search") as response:
        page.set_input_files("#file", {"name": "taken.jpg", "mimeType": "image/jpeg", "buffer": taken})
    assert response.value.json()["cleaned"]
    page.locator("#instead-text").filter(has_text=re.compile(r"taken\.jpg: flattened the paper")).wait_for()
    assert (page.locator("#instead-picture").get_attribute("src") or "").startswith("data:image/png")
    with page.expect_response("**/v1/search") as response:
        page.get_by_role("button", name="Use it as it is").click()
    assert "cleaned" not in response.value.json()
    assert (page.locator("#instead-picture").get_attribute("src") or "").startswith("blob:")
    with page.expect_response("**/v1/search") as response:
        page.get_by_role("button", name="Clean it").click()
    assert response.value.json()["cleaned"]
    scene = Image.fromarray(draw_photo("apple", 0)).resize((512, 512))
    with page.expect_response("**/v1/search") as response:
        page.set_input_files(
            "#file", {"name": "apple.png", "mimeType": "image/png", "buffer": picture(np.asarray(scene))}
        )
    assert response.value.status == 422
    page.locator("#message").filter(has_text="a photo, not a drawing").wait_for()
    with page.expect_response("**/v1/search") as response:
        page.get_by_role("button", name="Use it as it is").click()
    assert response.value.ok


def test_filters_ask_for_what_they_show(opens: Opens) -> None:
    page, _ = opens()
    draw_by_mouse(ready(page))
    page.get_by_text("Filters", exact=True).click()

    def metadata() -> list[dict[str, Any]]:
        return [found["metadata"] for found in response.value.json()["photos"]]

    category = page.get_by_label("category", exact=True)
    with page.expect_response(lambda response: "category" in (response.request.post_data or "")) as response:
        category.select_option(index=1)
    shown = category.locator("option:checked").inner_text()
    assert {row["category"] for row in metadata()} == {shown}
    category.select_option("")
    with page.expect_response(lambda response: "price" in (response.request.post_data or "")) as response:
        page.get_by_label("price, at most").fill("20.5")
        page.get_by_label("new", exact=True).select_option("Yes")
    assert metadata() and all(row["price"] <= 20.5 and row["new"] for row in metadata())
    page.get_by_role("button", name="Clear the filters").click()
    day = page.get_by_label("day, to").get_attribute("min") or ""
    with page.expect_response(lambda response: "day" in (response.request.post_data or "")) as response:
        page.get_by_label("day, to").fill(day)
    assert {row["day"] for row in metadata()} == {day}
    problem = {"status": 422, "title": "Unprocessable", "field": "where", "detail": "The filter cannot be used"}
    page.route("**/v1/search", lambda route: route.fulfill(status=422, json=problem))
    page.get_by_label("price, at least").fill("1")
    page.locator("#filter-message").filter(has_text="The filter cannot be used.").wait_for()


def test_a_photo_is_explained_and_leads_to_others_like_it(opens: Opens) -> None:
    page, watch = opens()
    draw_by_mouse(ready(page))
    page.locator(".tile").nth(1).click()
    dialog = page.get_by_role("dialog")
    assert {"id", "score", "category", "price", "new", "day"} <= set(dialog.locator("th").all_inner_texts())
    dialog.get_by_role("button", name="Explain").click()
    dialog.locator("figure").first.wait_for(timeout=60_000)
    assert dialog.locator("figcaption").first.inner_text()
    assert dialog.locator("figure img").first.evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 9
    id = dialog.locator("td").first.inner_text()
    with page.expect_response("**/v1/search") as response:
        dialog.get_by_role("button", name="More like this").click()
    assert response.value.ok and watch.bodies[-1]["like"] == id
    assert page.locator("#instead-text").inner_text() == f"Photos like {id.split('/')[-1]}"
    page.locator(".tile").first.click()
    assert dialog.get_by_role("button", name="Explain").is_hidden()
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")


def test_an_older_answer_never_replaces_a_newer_one(opens: Opens) -> None:
    held: list[Route] = []

    def answers(route: Route) -> None:
        if held:
            route.fulfill(json=answer([photo("newer.jpg")]))
        else:
            held.append(route)

    def prepare(page: Page) -> None:
        answered_by(page, {})
        page.route("**/v1/search", answers)

    page, watch = opens(prepare=prepare)
    with page.expect_request("**/v1/search"):
        draw_by_mouse(ready(page))
    draw_by_mouse(page, [(0.1, 0.1), (0.9, 0.1)])
    found(page)
    held[0].fulfill(json=answer([photo("older.jpg")]))
    page.wait_for_timeout(200)
    assert names(page) == ["newer.jpg"] and len(watch.searches) == 2


def test_more_and_explain_while_a_newer_search_runs(opens: Opens) -> None:
    """More leaves the newer search alone. The explanation is of the search that found the photo."""
    held: list[Route] = []

    def prepare(page: Page) -> None:
        answered_by(page, answer([photo("older.jpg")], more=True))
        explained = {"mode": "ret", "scores": {}, "notes": [], "detail": "It is like it.", "pictures": []}
        page.route("**/v1/explain", lambda route: route.fulfill(json=explained))

    page, watch = opens(prepare=prepare)
    draw_by_mouse(ready(page))
    found(page)
    page.route("**/v1/search", lambda route: held.append(route))
    with page.expect_request("**/v1/search"):
        draw_by_mouse(page, [(0.1, 0.1), (0.9, 0.1)])
    page.get_by_role("button", name="More", exact=True).click()
    page.locator(".tile").click()
    page.route("**/v1/search", lambda route: route.fulfill(json=answer([photo("newer.jpg")])))
    for route in held:
        route.fulfill(json=answer([photo("newer.jpg")]))
    until(page, "document.querySelector('.tile').title === 'newer.jpg'")
    assert {body["page"] for body in watch.bodies} == {1} and len(watch.bodies[-1]["strokes"]) == 2
    with page.expect_request("**/v1/explain") as request:
        page.get_by_role("button", name="Explain").click()
    body = request.value.post_data_json
    assert body["id"] == "older.jpg" and len(body["strokes"]) == 1
    page.locator("#explanation").filter(has_text="It is like it.").wait_for()


def test_a_late_picture_is_never_shown_in_place_of_another(opens: Opens) -> None:
    held: list[Route] = []

    def thumbnails(route: Route) -> None:
        if held and route.request.url.endswith("/a"):
            held.append(route)
        else:
            route.fulfill(body=png((30 if route.request.url.endswith("/a") else 40, 20)), content_type="image/png")

    def prepare(page: Page) -> None:
        page.add_init_script("sessionStorage.setItem('zse.token', '\"a-token\"')")
        two = [photo(f"{name}.jpg", thumbnail=f"v1/thumbnails/{name}") for name in "ab"]
        page.route("**/v1/search", lambda route: route.fulfill(json=answer([] if '"like"' in sent(route) else two)))
        page.route("**/v1/thumbnails/**", thumbnails)

    def sent(route: Route) -> str:
        return (route.request.post_data_buffer or b"").decode(errors="replace")

    def shows(id: str, width: int) -> None:
        shown = f"document.getElementById('{id}').naturalWidth"
        until(page, f"{shown} === {width}")
        held.pop().fulfill(body=png((30, 20)), content_type="image/png")
        page.wait_for_timeout(200)
        assert page.evaluate(shown) == width

    page, _ = opens(prepare=prepare)
    draw_by_mouse(ready(page))
    until(page, "[...document.querySelectorAll('.tile img')].filter((image) => image.naturalWidth).length === 2")
    held.append(None)  # pictures of a are late from now on
    tiles = page.locator(".tile")
    tiles.nth(0).click()
    page.keyboard.press("Escape")
    tiles.nth(1).click()
    shows("dialog-picture", 40)
    page.keyboard.press("Escape")
    tiles.nth(0).click()
    with page.expect_request("**/v1/thumbnails/a"):
        page.get_by_role("button", name="More like this").click()
    page.locator("#message").filter(has_text="The index holds no other photo.").wait_for()
    page.set_input_files("#file", {"name": "mine.png", "mimeType": "image/png", "buffer": png((50, 20))})
    shows("instead-picture", 50)


def test_a_search_without_an_answer_is_asked_again_and_the_photos_are_called_earlier(opens: Opens) -> None:
    wait = "1"
    offline = True

    def away(route: Route) -> None:
        nonlocal offline
        if offline:
            route.abort("internetdisconnected")
            offline = False
        else:
            route.fulfill(status=502, headers={"Retry-After": wait}, json={"status": 502, "detail": "It is away"})

    page, watch = opens(prepare=lambda page: answered_by(page, answer([photo("any.jpg")], more=True)))
    heading, message = page.locator("#count"), page.locator("#message")
    earlier, now = re.compile("^Photos of an earlier search$"), re.compile("^1 photo found")
    draw_by_mouse(ready(page))
    heading.filter(has_text=now).wait_for()
    page.route("**/v1/search", away)
    page.get_by_role("button", name="Search").click()
    message.filter(has_text="The service cannot be reached. Check the connection. The page asks again in 2").wait_for()
    assert earlier.search(heading.inner_text())
    message.filter(has_text="It is away. The page asks again in 1 second.").wait_for()
    before = len(watch.searches)
    message.filter(has_text=re.compile(r"^It is away\.$")).wait_for()
    assert len(watch.searches) - before <= 4, "six tries in all"
    assert earlier.search(heading.inner_text())
    page.unroute("**/v1/search", away)
    page.get_by_role("button", name="More", exact=True).click()
    heading.filter(has_text=now).wait_for()
    assert message.inner_text() == "" and {body["page"] for body in watch.bodies} == {1}
    wait = "60"
    page.route("**/v1/search", away)
    page.get_by_role("button", name="Search").click()
    heading.filter(has_text=earlier).wait_for()
    page.unroute("**/v1/search", away)
    page.evaluate("dispatchEvent(new Event('online'))")
    heading.filter(has_text=now).wait_for()
    assert watch.faults.pop().endswith("net::ERR_INTERNET_DISCONNECTED")


def test_a_busy_service_is_asked_again(opens: Opens) -> None:
    refused = set()

    def first_refused(route: Route) -> None:
        if route.request.url in refused:
            route.continue_()
            return
        refused.add(route.request.url)
        detail = "The index is being loaded" if "about" in route.request.url else "Too many searches wait"
        route.fulfill(status=503, headers={"Retry-After": "1"}, json={"status": 503, "detail": detail})

    page, _ = opens(prepare=lambda page: page.route(re.compile("/v1/(about|search)"), first_refused))
    page.locator("#message").filter(has_text="The index is being loaded. The page asks again in 1 second.").wait_for()
    draw_by_mouse(ready(page))
    page.locator("#message").filter(has_text="Too many searches wait. The page asks again").wait_for()
    found(page)
    assert page.locator("#message").inner_text() == ""


def test_a_token_is_asked_for_and_goes_with_every_request(opens: Opens) -> None:
    def guarded(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer right":
            route.continue_()
        else:
            route.fulfill(status=401, json={"status": 401, "detail": "A token is needed"})

    page, _ = opens(prepare=lambda page: page.route("**/v1/**", guarded))
    page.set_input_files("#file", {"name": "early.png", "mimeType": "image/png", "buffer": png()})
    for token in ("wrong", "right"):
        page.get_by_label("This service asks for a token.").fill(token)
        page.keyboard.press("Enter")
        page.locator("#message").filter(has_text="refused" if token == "wrong" else re.compile("^$")).wait_for(
            state="attached"
        )
    found(page)
    assert page.locator("#instead-text").inner_text() == "early.png", "it was given before the token"
    page.get_by_role("button", name="Back to drawing").click()
    draw_by_mouse(page)
    until(page, "document.querySelector('.tile img')?.naturalWidth > 9")
    assert str(page.locator(".tile img").first.get_attribute("src")).startswith("blob:")
    assert page.evaluate("localStorage.length") == 0 and page.context.cookies() == []


def test_five_thousand_photos_are_a_bounded_page(opens: Opens) -> None:
    pages = [answer([photo(f"{500 * i + j}.jpg") for j in range(500)], page=i + 1, more=i < 9) for i in range(10)]
    page, _ = opens(prepare=lambda page: answered_by(page, *pages))
    draw_by_mouse(ready(page))
    more = page.get_by_role("button", name="More", exact=True)
    for i in range(1, 10):
        more.click()
        page.locator("#count").filter(has_text=f"{500 * (i + 1):,} photos").wait_for()
    more.wait_for(state="hidden")
    for at in (0, 0.5, 1):
        page.evaluate(f"scrollTo(0, {at} * document.scrollingElement.scrollHeight)")
        until(
            page,
            "[...document.querySelectorAll('.tile')].some((tile) => {"
            "const {top, bottom} = tile.getBoundingClientRect(); return top < innerHeight && bottom > 0; })",
        )
        assert page.locator("*").count() < 1500
    page.locator(".tile").last.press("End")
    assert page.evaluate("document.activeElement.querySelector('img').alt") == "4999.jpg"


def test_names_are_text_whatever_they_are(opens: Opens) -> None:
    longest, arabic = "x" * 3000 + ".jpg", "صور/قطة.jpg"
    photos = [
        photo(EVIL, repeats=[EVIL, EVIL], metadata={EVIL: EVIL, "zero_shot": True}),
        photo(longest, metadata={"text": longest}),
        photo(arabic),
    ]
    page, _ = opens("phone", lambda page: answered_by(page, answer(photos)))
    draw_by_finger(ready(page))
    found(page)
    assert names(page) == [EVIL, longest, "قطة.jpg"]
    first = page.locator(".tile").first
    assert f"also as {EVIL} and 1 more" in first.inner_text()
    assert page.get_by_text("never trained on").count() == 1
    for i in range(3):
        page.locator(".tile").nth(i).click()
        assert page.locator("#dialog td").first.inner_text() == photos[i]["id"]
        assert page.evaluate(
            "const {scrollWidth, clientWidth} = document.getElementById('dialog');scrollWidth <= clientWidth"
        )
        page.keyboard.press("Escape")
    assert page.evaluate("window.hacked") is None and not is_wider_than_window(page)


def test_names_in_every_script_show_their_own_thumbnails(browser: Browser, odd: tuple[Running, dict[str, int]]) -> None:
    service, seeds = odd
    stored = {row["id"]: row["thumbnail"] for row in rows(service.index, TOKENS)}
    with opening(browser, service.url) as open_:
        page, _ = open_()
        draw_by_mouse(ready(page))
        found(page)
        until(page, "[...document.querySelectorAll('.tile img')].every((image) => image.naturalWidth > 9)")
        tiles = page.locator(".tile").evaluate_all("(all) => all.map((one) => [one.title, one.firstChild.currentSrc])")
        assert {id for id, _ in tiles} == set(seeds)
        for id, address in tiles:
            assert asked(address).body == stored[id], id


@pytest.mark.parametrize("token", [None, "correct-horse-battery"])
def test_the_photo_itself_is_opened_where_allowed(
    browser: Browser, opens: Opens, catalogue: Settings, token: str | None
) -> None:
    page, _ = opens()
    draw_by_mouse(ready(page))
    page.locator(".tile").first.click()
    assert page.get_by_role("link", name="Open the photo").is_hidden(), "not allowed"
    page.context.close()
    with running(replace(catalogue, originals=True), token) as service, opening(browser, service.url) as open_:
        given = f"sessionStorage.setItem('zse.token', JSON.stringify({json.dumps(token)}))" if token else ""
        page, _ = open_(prepare=lambda page: page.add_init_script(given))
        draw_by_mouse(ready(page))
        page.locator(".tile").first.click()
        id = page.locator("#dialog td").first.inner_text()
        link = page.get_by_role("link", name="Open the photo")
        page.get_by_role("button", name="Explain").focus()
        page.keyboard.press("Tab")
        assert link.evaluate("(link) => link === document.activeElement")
        with page.expect_popup() as opened:
            page.keyboard.press("Enter")
        width = "document.images[0]?.naturalWidth"
        opened.value.wait_for_load_state()
        assert opened.value.evaluate(width) == Image.open(service.photos / id).width
        assert opened.value.evaluate("opener") is None
        if token is None:
            return
        page.keyboard.press("Escape")
        page.locator(".tile").nth(1).click()  # the browser keeps the first
        other = service.photos / page.locator("#dialog td").first.inner_text()
        other.rename(service.photos / "moved")
        try:
            link.press("Enter")
            page.locator("#explanation").filter(has_text="was removed after it was indexed").wait_for()
        finally:
            (service.photos / "moved").rename(other)


@pytest.mark.parametrize("how", ["changed", "made anew"])
def test_pages_of_two_versions_are_never_mixed(browser: Browser, tmp_path: Path, how: str) -> None:
    """The index changes between page 1 and page 2. Made anew, it has the same name and number as before."""
    source, url = tmp_path / "photos", tmp_path / "index"
    for i in range(120):
        put(source / f"{i:03d}.png", picture(draw_photo(CATEGORIES[i % 40], i, size=48)))
    (tmp_path / "about.csv").write_text("path,kind\n" + "".join(f"{i:03d}.png,{'ab'[i % 2]}\n" for i in range(120)))
    options = {"metadata": str(tmp_path / "about.csv")}
    updated(source, url, TOKENS, **options)
    with running(Settings(index=str(url), model=TOKENS)) as service, opening(browser, service.url) as open_:
        page, watch = open_()
        draw_by_mouse(ready(page))
        page.locator("#count").filter(has_text="48 photos found, and there are more").wait_for()
        old = names(page)
        page.get_by_text("Filters", exact=True).click()
        # The drawing's own search may be answered late. More does nothing while a search runs.
        with page.expect_response(lambda response: "kind" in (response.request.post_data or "")):
            page.get_by_label("kind", exact=True).select_option("a")
        page.locator("#answer[aria-busy=false]").wait_for()
        assert page.locator("#count").inner_text().startswith("48 photos found")
        before, made = service.service.searcher.version, service.service.searcher.made
        if how == "made anew":
            shutil.rmtree(url)
        (source / old[0]).unlink()
        for i in (7, 8):  # of either kind
            put(source / f"{i:03d}.png", picture(draw_photo(CATEGORIES[50], 500 + i, size=48)))
        updated(source, url, TOKENS, **options)
        service.service.searcher.follow()  # or its own thread was first
        assert service.service.searcher.made != made
        assert (service.service.searcher.version == before) is (how == "made anew")
        asked_before = len(watch.searches)
        page.get_by_role("button", name="More", exact=True).click()
        message = page.locator("#message[aria-live=polite]")
        message.filter(has_text="The photos of this service have changed. The search began again.").wait_for()
        sent = watch.bodies[asked_before:]
        assert [one.get("page") for one in sent] == [2, 1] and {one["where"] for one in sent} == {"`kind` = 'a'"}
        now = asked(f"{service.url}v1/search", json.dumps(sent[1]).encode()).json["photos"]
        assert page.locator("#count").inner_text().startswith("48 photos found")
        shown = page.locator(".tile").evaluate_all("(all) => all.map((one) => one.title)")
        assert shown == [one["id"] for one in now][: len(shown)] and old[0] not in shown
        assert page.get_by_label("kind", exact=True).locator("option:checked").inner_text() == "a", "it is still chosen"
        page.get_by_role("button", name="More", exact=True).click()
        page.locator("#count").filter(has_text=re.compile("^(59|60) photos found$")).wait_for()
        assert message.inner_text() == "", "one version: the page follows"


def test_the_page_works_below_a_prefix(opens: Opens) -> None:
    def without_prefix(route: Route) -> None:
        route.continue_(url=route.request.url.replace("/any/prefix/", "/"))

    page, _ = opens(prepare=lambda page: page.route("**/any/prefix/**", without_prefix), below="any/prefix/")
    draw_by_mouse(ready(page))
    found(page)
    until(page, "document.querySelector('.tile img').naturalWidth > 9")


@pytest.mark.parametrize("device", ["desktop", "phone", "dark"])
def test_axe_finds_no_serious_fault(opens: Opens, device: str) -> None:
    axe = Axe()

    def faults() -> list[str]:
        violations = axe.run(page).response["violations"]
        return [
            json.dumps([one["id"], [node["html"] for node in one["nodes"]]])
            for one in violations
            if one["impact"] in ("serious", "critical")
        ]

    page, _ = opens(device)
    assert faults() == []
    draw_by_mouse(ready(page))
    found(page)
    heard(page, r"\d+ photos found")  # no search runs: a slow one fades the photos
    for summary in page.locator("summary:visible").all():
        summary.click()
    assert faults() == []
    if device == "phone":
        sizes = page.locator("button:visible, select:visible, summary:visible, input:visible").evaluate_all(
            "(all) => all.map((one) => one.getBoundingClientRect().height)"
        )
        assert min(sizes) >= 44
    page.locator(".tile").first.click()
    page.get_by_role("button", name="Explain").click()
    page.locator("figure").first.wait_for(timeout=60_000)
    assert faults() == []


def test_nothing_similar_is_said_and_the_nearest_photos_are_shown_on_request(opens: Opens, service: Running) -> None:
    searcher = service.service.searcher
    assert searcher is not None
    method = searcher.checkpoint.method
    row = method.confidence[method.MODES.index(method.mode("ret"))]
    try:
        row.copy_(torch.tensor([1.0, 20.0, 9.0]))  # no photo stands out by 9
        page, _ = opens()
        draw_by_mouse(ready(page))
        heading = page.get_by_role("heading", name="Nothing similar found")
        heading.wait_for()
        tiles = page.locator("#grid button")
        assert tiles.count() == 0 or not tiles.first.is_visible()
        page.get_by_role("button", name="Show the nearest photos").click()
        tiles.first.wait_for()
        assert not re.search(r"\d+ %", tiles.first.inner_text())
        row.copy_(torch.tensor([1.0, 20.0, -9.0]))
        page.get_by_role("button", name="Clear", exact=True).click()
        draw_by_mouse(page)
        page.get_by_role("heading", name=re.compile("photos found")).wait_for()
        assert tiles.first.is_visible() and not page.get_by_role("button", name="Show the nearest").is_visible()
        assert re.search(r"\d+ %", tiles.first.inner_text())
    finally:
        row.zero_()
