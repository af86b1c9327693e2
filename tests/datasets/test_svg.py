"""SVG drawings: what is in the file is drawn, nothing else of the machine is."""

from __future__ import annotations

import base64
import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.datasets.adapters.tuberlin import rasterise
from tests.zse_model.test_transforms import as_bytes
from zse_model.transforms import BadPicture

SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:l="http://www.w3.org/1999/xlink" width="64" height="64">{}</svg>'
BLACK = as_bytes(Image.new("L", (64, 64), 0))
AS_DATA = f"data:image/png;base64,{base64.b64encode(BLACK).decode()}"


def ink(svg: bytes) -> float | None:
    """The share of a drawing that is dark; None where it is refused because a part of it is another file."""
    drawn = rasterise(svg, 64)
    if isinstance(drawn, BadPicture) and "refers to another file or URL, which is not read" in str(drawn):
        return None
    assert isinstance(drawn, bytes), drawn
    return float((np.asarray(Image.open(io.BytesIO(drawn)).convert("L")) < 128).mean())


NESTED = base64.b64encode(SVG.format('<image width="64" height="64" href="FILE"/>').encode()).decode()


@pytest.mark.parametrize(
    ("part", "share"),
    [
        ('<image width="64" height="64" href="FILE"/>', None),
        ('<image width="64" height="64" l:href="FILE"/>', None),
        ('<image width="64" height="64" href=" file://FILE"/>', None),
        ('<image width="64" height="64" href="black.png"/>', None),
        ('<g xml:base="file:///"><image width="64" height="64" href="FILE"/></g>', None),
        (f'<image width="64" height="64" href="data:image/svg+xml;base64,{NESTED}"/>', None),
        (f'<image width="64" height="64" href="data:;base64,{NESTED}"/>', None),
        ('<filter id="f"><feImage href="FILE"/></filter><rect width="64" height="64" filter="url(#f)"/>', None),
        ('<style>rect { fill: url(FILE#a) }</style><rect width="64" height="64"/>', 0),
        ('<rect width="64" height="64" style="fill:url(\'FILE\')"/>', 0),
        ('<use href="FILE#a"/>', None),
        ('<rect id="a" width="32" height="32"/><use href="#a" x="32" y="32"/>', 0.5),
        (f'<image width="64" height="64" href="{AS_DATA}"/>', 1),
        (f'<image width="64" height="64" l:href="{AS_DATA}"/>', 1),
        ('<linearGradient id="g"><stop/></linearGradient><rect width="64" height="64" fill="url(#g)"/>', 1),
    ],
)
def test_an_svg_shows_what_is_in_it(
    part: str, share: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "black.png").write_bytes(BLACK)
    monkeypatch.chdir(tmp_path)
    file = str(tmp_path / "black.png")
    part = part.replace(NESTED, base64.b64encode(base64.b64decode(NESTED).replace(b"FILE", file.encode())).decode())
    assert ink(SVG.format(part.replace("FILE", file)).encode()) == share
    entity = f'<!DOCTYPE svg [<!ENTITY f "{file}">]>' + SVG.format(part.replace("FILE", "&f;"))
    assert ink(entity.encode()) == share


def test_entities_of_an_svg_are_bounded_and_those_of_files_refused(tmp_path: Path) -> None:
    (tmp_path / "rect.xml").write_text('<rect width="64" height="64"/>')
    outside = f'<!DOCTYPE svg [<!ENTITY a SYSTEM "{tmp_path}/rect.xml">]>' + SVG.format("&a;")
    assert "undefined entity" in str(rasterise(outside.encode(), 64))
    bomb = "".join(f'<!ENTITY {b} "{f"&{a};" * 20}">' for a, b in itertools.pairwise("abcdefgh"))
    bomb = f'<!DOCTYPE svg [<!ENTITY a "{"a" * 64}">{bomb}]>' + SVG.format("<desc>&h;</desc>")
    assert "amplification" in str(rasterise(bomb.encode(), 64))


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize(
    ("encoding", "name"), [("utf-8", "UTF-8"), ("latin-1", "ISO-8859-1"), ("utf-16", "UTF-16"), ("utf-8", "UTF-16")]
)
def test_an_svg_in_any_encoding(encoding: str, name: str, declared: bool) -> None:
    head = f'<?xml version="1.0" encoding="{name}"?>' if declared else ""
    assert ink((head + SVG.format('<title>été</title><rect width="64" height="32"/>')).encode(encoding)) == 0.5
