"""A real Chromium for the tests of the page, and hands that draw: a mouse, a finger, a pen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request, Response

Points = Sequence[tuple[float, float]]

DEVICES: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark", "reduced_motion": "reduce"},
    "phone": {
        "viewport": {"width": 360, "height": 740},
        "device_scale_factor": 3,
        "is_mobile": True,
        "has_touch": True,
    },
}
ZIGZAG = [(0.2, 0.3), (0.4, 0.7), (0.6, 0.3), (0.8, 0.7)]  # in shares of the paper's side
CONSOLE_OF_STATUS = "Failed to load resource: the server responded with a status of"


@contextmanager
def launched() -> Iterator[Browser]:
    """Chromium. Skips a test where there is none. Its event loop runs until it is left."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("only a browser shows what the page does: install Debian's chromium (apt-get install chromium)")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])


class Watch:
    """What a page asked for, and what went wrong on it."""

    def __init__(self, page: Page, url: str) -> None:
        self.origin = urlsplit(url).netloc
        self.searches: list[Request] = []
        self.faults: list[str] = []
        page.on("request", self._request)
        page.on("response", self._response)
        page.on("console", lambda said: self._console(said.type, said.text))
        page.on("pageerror", lambda error: self.faults.append(str(error)))

    @property
    def bodies(self) -> list[Any]:
        """The JSON of each search."""
        return [search.post_data_json for search in self.searches]

    def _request(self, request: Request) -> None:
        where = urlsplit(request.url)
        if where.scheme not in ("blob", "data") and where.netloc != self.origin:
            self.faults.append(f"left the origin: {request.url}")
        if where.path.endswith("/v1/search"):
            self.searches.append(request)

    def _response(self, response: Response) -> None:
        """Answers of the API are each test's own; a file or a thumbnail that is missing is a fault."""
        path = urlsplit(response.url).path
        if (
            response.status >= 400
            and not path.endswith(("/v1/about", "/v1/search", "/v1/explain"))
            and "/v1/originals/" not in path
        ):
            self.faults.append(f"{response.status} {path}")

    def _console(self, kind: str, text: str) -> None:
        if kind == "error" and not text.startswith(CONSOLE_OF_STATUS):
            self.faults.append(text)


Opens = Callable[..., tuple["Page", Watch]]


@contextmanager
def opening(browser: Browser, url: str) -> Iterator[Opens]:
    """Opens the page of a service on a device. prepare: is called with the page before it loads, such as to route
    requests.

    No test may leave an error on the console, a violation of the page's policy, a missing file or a request to another
    origin.
    """
    contexts, watches = [], []

    def open_(
        device: str = "desktop", prepare: Callable[[Page], object] = lambda page: None, below: str = ""
    ) -> tuple[Page, Watch]:
        context = browser.new_context(**DEVICES[device])
        context.set_default_timeout(15_000)
        contexts.append(context)
        page = context.new_page()
        watches.append(Watch(page, url))
        prepare(page)
        page.goto(url.rstrip("/") + "/" + below)
        return page, watches[-1]

    yield open_
    for context in contexts:
        context.close()
    faults = [fault for watch in watches for fault in watch.faults]
    assert not faults, faults


def ready(page: Page) -> Page:
    """Waits until the page knows the service."""
    page.locator("#about").filter(has_text="photo").wait_for()
    return page


def until(page: Page, expression: str) -> None:
    """Waits until an expression is true. `wait_for_function` would evaluate text, which the page's policy forbids."""
    for _ in range(300):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise TimeoutError(expression)


def on_paper(page: Page, points: Points) -> list[tuple[float, float]]:
    """Points in shares of the paper, as positions in the window."""
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    return [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]


def draw_by_mouse(page: Page, points: Points = ZIGZAG) -> None:
    first, *others = on_paper(page, points)
    page.mouse.move(*first)
    page.mouse.down()
    for x, y in others:
        page.mouse.move(x, y, steps=5)
    page.mouse.up()


def draw_by_finger(page: Page, points: Points = ZIGZAG, end: str = "touchEnd") -> None:
    client = page.context.new_cdp_session(page)
    for i, (x, y) in enumerate(on_paper(page, points)):
        kind = "touchMove" if i else "touchStart"
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    client.send("Input.dispatchTouchEvent", {"type": end, "touchPoints": []})


def draw_by_pen(page: Page, points: Points = ZIGZAG) -> None:
    """With a pressure that grows from 0.2 to 0.8."""
    client = page.context.new_cdp_session(page)
    positions = on_paper(page, points)
    for i, (x, y) in enumerate(positions):
        event = {"x": x, "y": y, "button": "left", "buttons": 1, "pointerType": "pen", "clickCount": 1}
        event["force"] = 0.2 + 0.6 * i / (len(positions) - 1)
        client.send("Input.dispatchMouseEvent", event | {"type": "mouseMoved" if i else "mousePressed"})
    x, y = positions[-1]
    client.send(
        "Input.dispatchMouseEvent",
        {"type": "mouseReleased", "x": x, "y": y, "button": "left", "pointerType": "pen", "clickCount": 1},
    )


def strokes(page: Page) -> list[dict[str, Any]]:
    """The drawing as the page keeps it: {points: [[x, y, pressure]], size, pressed}."""
    kept = json.loads(page.evaluate("sessionStorage.getItem('zse.drawing')") or '{"pool": [], "states": [[]], "at": 0}')
    return [kept["pool"][i] for i in kept["states"][kept["at"]]]


def ink(page: Page) -> list[float]:
    """Left, top, right and bottom of the ink that the canvas shows, in shares of its side."""
    return page.evaluate("""() => {
        const side = 100, brush = new OffscreenCanvas(side, side).getContext("2d");
        brush.drawImage(document.getElementById("canvas"), 0, 0, side, side);
        const {data} = brush.getImageData(0, 0, side, side);
        const inked = Array.from({length: side * side}, (_, i) => i).filter((i) => data[4 * i + 3] > 60);
        const xs = inked.map((i) => i % side), ys = inked.map((i) => Math.floor(i / side));
        return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)].map((at) => (at + 0.5) / side);
    }""")


def is_wider_than_window(page: Page) -> bool:
    return page.evaluate("document.scrollingElement.scrollWidth > innerWidth || document.body.scrollWidth > innerWidth")
