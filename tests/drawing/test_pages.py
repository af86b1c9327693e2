"""Names that somebody else chose, on pages and in charts."""

from __future__ import annotations

import io
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from pipelines.datasets.published import Setting
from pipelines.drawing import explanations
from pipelines.drawing.charts import confusion
from pipelines.drawing.sheets import Row, draw_sheet
from pipelines.judge import standings_page
from pipelines.tracking.history import Standing

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
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def report(name: str) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG")
    metrics = {f"plain/{name.replace('/', '')}/mAP_all": 0.5}
    of = (f"{name}.1", "report", "m", name, name, "c", 1, 1)
    now, before = (Standing(*of, at, name, name, metrics, "r") for at in (1000, 0))
    line = {"method": name, "mode": name, "source": name, "mAP_all": 0.5}
    known = cast(Setting, SimpleNamespace(published=[line], trained_on=name, queries=1, gallery=1))
    section = standings_page.Section(name, [now], [before, now], known, {f"{name}.png": buffer.getvalue()})
    return standings_page.page([section], name)


def explanation(name: str) -> str:
    found = cast(Any, SimpleNamespace(mode=name, grid=(2, 2), no_attention=name, about=name, scores={name: 1.0}))
    return explanations.page(name, name, [explanations.Explained(name, found, {})])


@pytest.mark.parametrize("page", [report, explanation])
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
