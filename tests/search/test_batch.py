"""`zse search --sketches`: every sketch of a folder is answered, by one process and by Ray alike."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.runtime.errors import StorageError
from pipelines.search import batch
from pipelines.search.batch import SearchSketches, search_folder
from pipelines.search.searcher import Searcher
from tests.encode.test_index import CODES, catalogue, put, updated
from tests.helpers.pictures import png
from zse_model.errors import ZseError

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


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_workers_give_the_same_answers(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = answered(world, tmp_path / "alone.parquet", top=4, where="width > 1")
    monkeypatch.setattr(batch, "ALONE", 1)
    monkeypatch.setattr(batch, "PART", 2)
    workers = answered(world, tmp_path / "workers.parquet", top=4, where="width > 1")
    for row, other in zip(workers, alone, strict=True):  # batches of other sizes round otherwise
        assert row == other | {"score": other["score"] and pytest.approx(other["score"], abs=1e-5)}
