"""`zse search --sketches`: every sketch of a folder is answered, by one process and by Ray alike."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks.papers import photographed
from pipelines.runtime.errors import StorageError
from pipelines.search import batch
from pipelines.search.batch import SearchSketches, search_folder
from pipelines.search.query import prepared
from pipelines.search.search import search_index
from pipelines.search.searcher import Searcher
from tests.encode.test_index import CODES, catalogue, put, updated
from tests.helpers.pictures import picture, png
from tests.search.test_cleaning import drawing
from zse_model.errors import ZseError
from zse_model.synthetic import draw_sketch

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><path d="M1 1L8 8L8 1" fill="none" stroke="#000"/></svg>'


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batch")
    updated(catalogue(folder / "photos", 8), folder / "index")
    for i in range(5):
        put(folder / "sketches" / "a" / f"{i}.png", png("sketch", i))
    put(folder / "sketches" / "line.svg", SVG)
    put(folder / "sketches" / "blank.png", b"no picture")
    put(folder / "sketches" / "notes.txt", b"no sketch")
    return folder


def answered(world: Path, out: Path, **asked: Any) -> list[dict[str, object]]:
    done = search_folder(str(world / "sketches"), str(world / "index"), CODES, str(out), **asked)
    assert done == (7, 1)
    return pq.read_table(out).to_pylist()


def test_a_folder_of_sketches_is_answered_as_each_alone(world: Path, tmp_path: Path) -> None:
    rows = answered(world, tmp_path / "out.parquet", top=3, mode="asym-32")
    searcher = Searcher.open(str(world / "index"), CODES)
    names = ["a/0.png", "a/1.png", "a/2.png", "a/3.png", "a/4.png", "blank.png", "line.svg"]
    assert [
        name for i, name in enumerate(row["sketch"] for row in rows) if i == 0 or rows[i - 1]["sketch"] != name
    ] == names
    for name in names:
        mine = [row for row in rows if row["sketch"] == name]
        if name == "blank.png":
            assert len(mine) == 1 and mine[0]["id"] is None and "blank.png: not a picture" in str(mine[0]["error"])
            continue
        found = searcher.search(str(world / "sketches" / name), top=3, mode="asym-32")
        assert [(row["rank"], row["id"], row["score"]) for row in mine] == [
            (i, one.id, pytest.approx(one.score)) for i, one in enumerate(found, 1)
        ]


def test_sketches_whose_names_look_alike_have_an_answer_each(world: Path, tmp_path: Path) -> None:
    names = ["a\nb.png", "a\\nb.png", "a/b\t.png"]
    for i, name in enumerate(names):
        put(tmp_path / "sketches" / name, picture(draw_sketch("cat", i, size=48), "PNG"))
    done = search_folder(str(tmp_path / "sketches"), str(world / "index"), CODES, str(tmp_path / "o.parquet"), top=1)
    assert done == (3, 0)
    assert sorted(pq.read_table(tmp_path / "o.parquet")["sketch"].to_pylist()) == sorted(names)


def test_what_cannot_be_searched_ends_before_a_file_is_written(world: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="holds no sketches"):
        search_folder(str(tmp_path / "empty"), str(world / "index"), CODES, str(tmp_path / "o.parquet"))
    with pytest.raises(ZseError, match="Unknown retrieval mode"):
        answered(world, tmp_path / "o.parquet", mode="nosuch")
    assert not (tmp_path / "o.parquet").exists()


def test_an_index_that_changes_during_the_search_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    updated(catalogue(tmp_path / "photos", 4), tmp_path / "index")
    for i in range(3):
        put(tmp_path / "sketches" / f"{i}.png", png("sketch", i))
    monkeypatch.setattr(batch, "PART", 2)
    answer = SearchSketches.__call__

    def changed_before(self: SearchSketches, task: dict[str, Any]) -> dict[str, Any]:
        done = answer(self, task)
        updated(catalogue(tmp_path / "photos", 5), tmp_path / "index")
        assert self.searcher.follow()
        return done

    monkeypatch.setattr(SearchSketches, "__call__", changed_before)
    search_folder(str(tmp_path / "sketches"), str(tmp_path / "index"), CODES, str(tmp_path / "out.parquet"))
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(r"changed during the search, which read version \d+ of \S+ for 2 sketches, version", said)


def test_photos_of_drawings_and_strokes_are_answered_and_others_named(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "sketches" / "house.jpg", photographed(drawing(), "tuning", "house 1", 400))
    put(tmp_path / "sketches" / "noise.png", png("photo", 0))
    put(tmp_path / "sketches" / "strokes.json", b'{"drawing": [[[0, 9, 9], [0, 0, 9]]]}')
    put(tmp_path / "sketches" / "wrong.json", b"[[1, 2]]")

    def found(**asked: Any) -> dict[str, str | None]:
        search_folder(
            str(tmp_path / "sketches"), str(world / "index"), CODES, str(tmp_path / "o.parquet"), top=1, **asked
        )
        return {row["sketch"]: row["error"] for row in pq.read_table(tmp_path / "o.parquet").to_pylist()}

    errors = found()
    assert errors["house.jpg"] is None and errors["strokes.json"] is None
    assert "stroke 0 must be" in str(errors["wrong.json"])
    assert "1 sketches are pictures of drawings" in " ".join(capsys.readouterr().err.split())
    assert found(clean="never")["house.jpg"] is None
    assert "pictures of drawings" not in capsys.readouterr().err
    with pytest.raises(ZseError, match="clean is 'no'"):
        found(clean="no")


def test_one_sketch_is_cleaned_shown_and_told(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sketch = tmp_path / "house.jpg"
    put(sketch, photographed(drawing(), "tuning", "house 1", 400))
    searcher = Searcher.open(str(world / "index"), CODES)
    shown = tmp_path / "new" / "drawing.png"
    found = search_index(str(sketch), searcher, tmp_path / "found.png", drawing=shown)
    assert "flattened the paper" in " ".join(capsys.readouterr().err.split())
    transforms = searcher.checkpoint.transforms
    np.testing.assert_array_equal(np.asarray(Image.open(shown)), prepared(sketch, transforms))
    assert [one.score for one in searcher.search(sketch)] == [one.score for one in found]
    as_it_is = search_index(str(sketch), searcher, tmp_path / "found.png", clean="never")
    assert [one.score for one in as_it_is] == [one.score for one in searcher.search(sketch, clean="never")]
    assert [one.score for one in as_it_is] != [one.score for one in found]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_workers_give_the_same_answers(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = answered(world, tmp_path / "alone.parquet", top=4, where="width > 1")
    monkeypatch.setattr(batch, "ALONE", 1)
    monkeypatch.setattr(batch, "PART", 2)
    workers = answered(world, tmp_path / "workers.parquet", top=4, where="width > 1")
    for row, other in zip(workers, alone, strict=True):  # batches of other sizes round otherwise
        assert row == other | {"score": other["score"] and pytest.approx(other["score"], abs=1e-5)}
