"""What the docs list is what the code declares."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scaling, sizes
from pipelines.store.urls import ARCHIVES
from tests.encode.test_index import catalogue, updated
from tests.helpers.kept import SAMPLES
from tests.helpers.pictures import png
from zse_model.methods import METHODS
from zse_model.transforms import ENDINGS

DOCS = Path(__file__).parents[1] / "docs"


def table(document: str, first: str) -> list[str]:
    """The rows of the table whose first column is called so."""
    lines = iter((DOCS / document).read_text().splitlines())
    next(line for line in lines if line.startswith(f"| {first} |"))
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(line)
    return rows[1:]


def test_the_endings_of_pictures_and_archives_are_those_that_are_read() -> None:
    text = " ".join((DOCS / "datasets.md").read_text().replace("`", " ").replace(")", " ").split())
    assert [ending for ending in (*ENDINGS, *ARCHIVES) if f" {ending} " not in f" {text} "] == []


@pytest.mark.parametrize("page", [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.name)
def test_no_page_waits_for_a_number(page: Path) -> None:
    assert not re.search(r"\b(TODO|TBD|FIXME|XXX)\b", page.read_text())


def test_the_retrieval_modes_are_those_that_methods_declare() -> None:
    methods: dict[str, list[str]] = {}
    for name, method in METHODS.items():
        for mode in method.MODES:
            methods.setdefault(f"`{mode.name}` | {mode.score} | {mode.cost} |", []).append(f"`{name}`")
    declared = [f"| {'all' if len(of) == len(METHODS) else ', '.join(of)} | {mode}" for mode, of in methods.items()]
    assert table("scoring.md", "method") == declared


@pytest.mark.parametrize(
    ("document", "checkpoint"), [("library.md", "kept-maps-crossatnet"), ("explaining.md", "kept-tokens-zse_sbir")]
)
def test_the_code_of_a_page_runs(document: str, checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder,) = (SAMPLES / "workspace" / "checkpoints").glob(f"{checkpoint}-*")
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / document).read_text(), re.DOTALL)
    assert '"workspace/checkpoints/..."' in code
    known: dict[str, Any] = {}
    exec(code.replace("workspace/checkpoints/...", str(folder)), known)
    if document == "library.md":
        assert known["best"].indices.shape == (36, 5) and "chance: " in capsys.readouterr().out
        assert known["result"].answered == 36
    else:
        assert known["found"].mode == "rn"


def test_the_searcher_of_the_docs_searches(tmp_path: Path) -> None:
    (folder,) = (SAMPLES / "workspace" / "checkpoints").glob("kept-maps-crossatnet-*")
    catalogue(tmp_path / "photos", 24)
    described = "path,price\n" + "".join(f"{'ab'[i % 2]}/{i}.png,{90 + i}\n" for i in range(24))
    (tmp_path / "prices.csv").write_text(described)
    updated(tmp_path / "photos", tmp_path / "index", str(folder), metadata=str(tmp_path / "prices.csv"))
    (tmp_path / "cat.png").write_bytes(png("sketch", 1))
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "searching.md").read_text(), re.DOTALL)
    places = {
        "s3://bucket/photos.index": tmp_path / "index",
        "models:/zse@champion": folder,
        "cat.png": tmp_path / "cat.png",
    }
    for said, place in places.items():
        assert said in code
        code = code.replace(said, str(place))
    known: dict[str, Any] = {}
    exec(code, known)
    assert len(known["found"]) == 10 and all(one.metadata["price"] < 100 for one in known["found"])


def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder,) = (SAMPLES / "workspace" / "checkpoints").glob("kept-maps-crossatnet-*")
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS.parent / "README.md").read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 15 and '"workspace/checkpoints/..."' in code
    monkeypatch.chdir(tmp_path)
    catalogue(tmp_path / "photos", 12)
    Path("cat.png").write_bytes(png("sketch", 1))
    exec(code.replace("workspace/checkpoints/...", str(folder)), {})
    *found, like = capsys.readouterr().out.splitlines()[-6:]
    assert len({line.split()[1] for line in found}) == 5 and like.count(".png") == 11
    assert Path("best.jpg").read_bytes().startswith(b"\xff\xd8")


def test_the_table_of_sizes_is_that_of_the_constants() -> None:
    lines = (DOCS.parent / "README.md").read_text().splitlines()
    expected = sizes.table(sizes.kept())
    start = lines.index(expected[0])
    assert lines[start : start + len(expected)] == expected, "run python -m benchmarks sizes --measure"


@pytest.mark.parametrize("page", scaling.pages(), ids=lambda page: page.name)
def test_the_computed_parts_of_a_page_are_those_of_the_constants(page: Path) -> None:
    text = page.read_text()
    assert scaling.with_parts(text, scaling.pages()[page]) == text, "run make scaling"
