"""Take the screenshots of the README from the demo: `make screenshots`, after `make demo`.

docs/pictures/page.png          a drawing of a class that nothing was trained on, and what is found
docs/pictures/explained.png     why the first picture of that class was found
docs/pictures/phone.png         the page on a phone
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from pipelines.datasets import emoji
from pipelines.datasets.emoji import CREDIT
from pipelines.demo import EXPERIMENT, METHOD, MODE
from pipelines.serve.service import Settings
from pipelines.store import storage
from tests.serve.browser import DEVICES, draw_by_mouse, launched, ready
from tests.serve.conftest import running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DRAWING = "scissors", 1
SIDE = 256  # of a drawing's numbers
SHOWN = Path(__file__).parents[1] / "docs" / "pictures"


def main(workspace: str, out: Path = SHOWN) -> None:
    index = os.path.join(workspace, "emoji", "index")
    checkpoints = sorted(Path(workspace, "checkpoints").glob(f"{EXPERIMENT}-{METHOD}-????????"))
    if not os.path.isdir(index) or not checkpoints:
        sys.exit(f"{workspace} has no demo. Run: make demo WORKSPACE={workspace}")
    settings = Settings(index=index, model=storage.absolute(str(checkpoints[-1])), mode=MODE, credit=CREDIT)
    out.mkdir(parents=True, exist_ok=True)
    with running(settings) as service, launched() as browser:
        page = opened(browser, service.url, "desktop")
        page.screenshot(path=out / "page.png")
        explain(page)
        page.screenshot(path=out / "explained.png")
        opened(browser, service.url, "phone").screenshot(path=out / "phone.png")
    for picture in out.glob("*.png"):
        Image.open(picture).convert("RGB").quantize(256).save(picture, optimize=True)
    print(f"Result: {out}\nNext: look at them, and commit")


def opened(browser: Browser, url: str, device: str) -> Page:
    """The page with a drawing of an unseen class, when all its pictures are there."""
    page = browser.new_context(**DEVICES[device]).new_page()
    page.goto(url)
    ready(page)
    category, number = DRAWING
    for xs, ys in emoji.drawings()[category][number]:
        draw_by_mouse(page, shares(xs, ys))
    page.wait_for_timeout(3000)
    page.wait_for_load_state("networkidle")
    return page


def shares(xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
    """Points of a stroke as shares of the paper's side, with a margin."""
    return [(0.1 + 0.8 * x / SIDE, 0.1 + 0.8 * y / SIDE) for x, y in zip(xs, ys, strict=True)]


def explain(page: Page) -> None:
    """Open the first picture of the drawn class, and its explanation."""
    page.locator("#grid button", has_text=DRAWING[0]).first.click()
    page.locator("#explain").click()
    page.locator("#explanation img").first.wait_for()
    page.locator("#explanation").scroll_into_view_if_needed()
    page.wait_for_timeout(500)


if __name__ == "__main__":
    main(*sys.argv[1:2])
