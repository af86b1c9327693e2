"""Every page has one policy and one style, and names are plain text on pages and in charts."""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import subprocess
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from pipelines.datasets.published import Setting
from pipelines.drawing import explanations, pages
from pipelines.drawing.charts import confusion
from pipelines.drawing.sheets import Row, draw_sheet
from pipelines.judge import standings
from pipelines.search import explanation_page
from pipelines.tracking.history import Standing

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></style><svg onload=alert(1)>",
    "&lt;b&gt;",
    "a\nb\x1b[31m\0\u202e\udce9",
    "x" * 300,
)


class Read(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.policies: list[str] = []
        self.styles: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        if ("http-equiv", "Content-Security-Policy") in attrs:
            self.policies.append(dict(attrs)["content"] or "")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.lasttag == "style" and self.cdata_elem == "style":
            self.styles.append(data)


def report(name: str) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG")
    metrics = {f"plain/{name.replace('/', '')}/mAP_all": 0.5}
    of = (f"{name}.1", "report", "m", name, name, "c", 1, 1)
    now, before = (Standing(*of, at, name, name, metrics, "r") for at in (1000, 0))
    line = {"method": name, "mode": name, "source": name, "mAP_all": 0.5}
    known = cast(Setting, SimpleNamespace(published=[line], protocol="plain", trained_on=name, queries=1, gallery=1))
    section = standings.Section(name, [now], [before, now], known, {f"{name}.png": buffer.getvalue()})
    return standings.page([section], name)


def explanation(name: str) -> str:
    found = cast(Any, SimpleNamespace(mode=name, about=name, scores={name: 1.0}))
    return explanation_page.page(name, name, [explanations.Explained(name, found, {}, [name], name)])


PAGES = {"standings": report, "explanation": explanation}


def test_every_template_is_tested() -> None:
    templates = resources.files("pipelines.drawing") / "templates"
    names = {file.name for file in templates.iterdir()}
    assert names == {"base.html", "style.css", *(f"{name}.html" for name in PAGES)}


@pytest.mark.parametrize("page", PAGES.values())
def test_a_page_has_the_policy_and_nothing_that_it_forbids(page: Any) -> None:
    text = page("plain")
    read = Read(text)
    digest = base64.b64encode(hashlib.sha256("".join(read.styles).encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert read.policies == [policy] and "@import" not in text and "url(" not in text
    assert not {name for name in read.attributes if name.startswith("on")} | read.attributes & {"style", "srcdoc"}
    assert not read.tags & {"script", "link", "iframe", "object", "embed", "form", "base"}
    assert [link for link in read.links if not link.startswith(("#", "data:image/"))] == []


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'sections' is undefined"):
        pages.page("standings", when="", source="", models=0)


@pytest.mark.cluster
@pytest.mark.skipif(CHROMIUM is None, reason="whether a page fits is seen by a browser only: apt-get install chromium")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("page", PAGES)
def test_a_browser_applies_the_style_and_a_page_fits(tmp_path: Path, page: str, width: int) -> None:
    """A script measures the page in a frame of this width."""
    (tmp_path / "page.html").write_text(PAGES[page]("word " * 40 + "x" * 300), encoding="utf-8")
    frame = f"""<iframe src="page.html" width="{width}" height="900"></iframe><script>
        onload = () => {{
            const page = document.querySelector("iframe").contentDocument, root = page.documentElement
            document.title = `${{root.scrollWidth - root.clientWidth}} ${{getComputedStyle(page.body).maxWidth}}`
        }}</script>"""
    (tmp_path / "frame.html").write_text(frame)
    shown = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        + ["--allow-file-access-from-files", "--window-size=1600,1000", "--virtual-time-budget=5000", "--dump-dom"]
        + [(tmp_path / "frame.html").as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    assert "<title>0 1184px</title>" in shown, shown


@pytest.mark.parametrize("page", PAGES.values())
@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_text_on_a_page(name: str, page: Any) -> None:
    plain, read = Read(page("plain")), Read(page(name))
    assert (read.tags, read.attributes) == (plain.tags, plain.attributes)
    page(name).encode()
    shown = name if name.isprintable() else "a\\nb\\x1b[31m\\x00\\u202e\\udce9"
    assert shown in read.text


@pytest.mark.parametrize("name", [*HOSTILE, "$x^$", "$\\frac{$", "\u732b" * 40])
def test_a_name_is_text_in_a_chart(name: str) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    for png in (confusion(np.eye(2), [name, "b"], 1), draw_sheet([Row(pixels, name, [pixels], [name], None)])):
        with Image.open(io.BytesIO(png)) as picture:
            assert max(picture.size) < 1000
