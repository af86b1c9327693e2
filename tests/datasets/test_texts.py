"""Lists and tables that people give: every row counts, or an error or a message names it."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.datasets.base import ImageRecord
from pipelines.datasets.registry import create_dataset, read_dataset
from pipelines.datasets.splits import MissingClassesError, load_split
from pipelines.datasets.subset import read_members
from pipelines.datasets.texts import LONGEST, named, rows, table
from zse_model.errors import ZseError

SECRET = "hunter2-hunter2"


def build(root: Path, classes: Sequence[str], files: Sequence[str] = ("1.png", "2.png")) -> Path:
    """Empty pictures: a listing reads none."""
    for modality in ("sketch", "photo"):
        for category in classes:
            (root / modality / category).mkdir(parents=True, exist_ok=True)
            for file in files:
                (root / modality / category / file).touch()
    return root


def listed(root: Path, **fields: Any) -> list[ImageRecord]:
    raw = {"name": "d", "adapter": "folder", "source": str(root), "split": "random-1", **fields}
    return create_dataset(read_dataset(raw)).records()


def instances(root: Path, **fields: Any) -> dict[str, str | None]:
    return {r.id: r.instance for r in listed(root, **fields) if r.modality == "sketch"}


def test_pairs_without_a_row_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (build(tmp_path, ["cat"]) / "pairs.tsv").write_text("class\tsketch\tphoto\n")
    assert set(instances(tmp_path).values()) == {None}
    assert "pairs.tsv has a header and no rows" in "".join(capsys.readouterr().err.split("\n"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_rows_end_as_on_any_system_and_hold_what_unicode_calls_a_line_break(end: str, tmp_path: Path) -> None:
    text = end.join(["cat", "", "sea\u2028turtle", "\x0bdog", " "])
    (tmp_path / "a.txt").write_bytes(f"\ufeff{text}".encode())
    assert rows(str(tmp_path / "a.txt")) == [(1, "cat"), (3, "sea\u2028turtle"), (4, "\x0bdog")]


def test_a_quote_is_a_character_unless_a_field_stands_in_quotes(tmp_path: Path) -> None:
    text = 'a\tb\n"x\ty\nx"\t"y"\n"say ""x"""\t"\n'
    assert [row for _, row in table("t", ["b", "a"], text.encode())] == [("y", '"x'), ("y", 'x"'), ('"', 'say "x"')]
    for wrong, message in (
        ("a\tc\n", "t row 1 must name the columns a, b"),
        ("a\tb\tb\n", "t row 1 must name"),
        ("", "t row 1 must name"),
        ("a\tb\nx\ty\n\nhunter2\n", "t row 4 has 1 fields, expected 2"),
        ("a\tb\nx\ty\tz\n", "t row 2 has 3 fields, expected 2"),
    ):
        with pytest.raises(ZseError, match=message) as refused:
            list(table("t", ["a", "b"], wrong.encode()))
        assert "hunter2" not in str(refused.value)


def test_a_name_is_shown_on_one_line_and_not_without_end() -> None:
    assert named("a\nb\x1b[31m\u202e") == r"'a\nb\x1b[31m\u202e'" and len(named("x" * 10_000)) < LONGEST + 9


NOT_UTF8 = f"cat {SECRET}\nKäse 1\n".encode("latin-1")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("pairs.tsv", b"class\tsketch\tphoto\ncat\t1.png\tK\xe4se.png\n", "pairs.tsv row 2 is not UTF-8 text"),
        ("pairs.tsv", "class\tsketch\tphoto\n".encode("utf-16"), "pairs.tsv row 1 is not UTF-8 text"),
        ("pairs.tsv", b"class\tsketch\ncat\t1.png\n", "pairs.tsv row 1 must name the columns class, sketch, photo"),
        ("pairs.tsv", b"class\tsketch\tphoto\ncat\t1.png\n", "pairs.tsv row 2 has 2 fields"),
        (
            "pairs.tsv",
            b"class\tsketch\tphoto\nowl\t1.png\t1.png\n",
            "none of the 1 rows names a sketch of the data",
        ),
        (
            "pairs.tsv",
            b"class\tsketch\tphoto\ncat\t1.png\t1.png\ncat\t1.png\t2.png\n",
            "pairs.tsv row 3 gives the sketch '1.png' a second photo",
        ),
        ("unseen.txt", NOT_UTF8, "unseen.txt row 2 is not UTF-8 text"),
        ("unseen.txt", b"cat\n\nCat\n", "unseen.txt' rows 1 and 3 name the same class, 'Cat'"),
        ("unseen.txt", b"cat\n---\n", "unseen.txt' row 2 is no class name: '---'"),
        ("unseen.txt", b"# none\n\n", "unseen.txt' is empty"),
        ("classes.txt", NOT_UTF8, "classes.txt row 2 is not UTF-8 text"),
        ("classes.txt", f"cat 0\n{SECRET}\n".encode(), "classes.txt row 2 must be `<path or class name> <class id>`"),
        ("classes.txt", "cat 0\ndog ²\n".encode(), "classes.txt row 2 must be `<path"),
        ("classes.txt", b"cat 0\ndog 0\n", "classes.txt row 2 gives the class id 0 a second time"),
        ("classes.txt", b"hot dog 0\nHot-dog 1\n", "classes.txt row 2 gives the class 'Hot-dog' a second id"),
        ("members.tsv", NOT_UTF8, "members.tsv row 2 is not UTF-8 text"),
        ("members.tsv", b"modality\tclass\tfile\nphoto\tcat\n", "members.tsv row 2 has 2 fields, expected 3"),
        ("members.tsv", b"modality\tclass\tfile\nphotos\tcat\t1.png\n", "row 2 has the modality 'photos'. Allowed"),
        ("members.tsv", b"modality\tclass\tfile\n\n", "lists no picture"),
    ],
)
def test_an_error_names_file_and_row_and_quotes_no_content(
    file: str, content: bytes, message: str, tmp_path: Path
) -> None:
    build(tmp_path, ["cat", "dog", "cow"])
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(ZseError) as refused:
        if file == "members.tsv":
            read_members(str(path))
        elif file == "unseen.txt":
            config = read_dataset({"name": "d", "adapter": "folder", "source": str(tmp_path), "split": str(path)})
            load_split(config, ["cat", "dog", "cow"])
        else:
            listed(tmp_path, lists=[{"classes": str(path)}] if file == "classes.txt" else ())
    said = str(refused.value)
    assert message in said and SECRET not in said and "\n" not in said and file in said


def test_rows_of_pairs_that_match_nothing_are_counted_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(tmp_path, ["cat", "hot dog"])
    table = ["Hot_Dog\t1.png\t2.png", 'cat\t"1.png\t1.png', "cat\t2.png\tgone.png", "owl\t1.png\t1.png"]
    (tmp_path / "pairs.tsv").write_text("\n".join(["class\tsketch\tphoto", *table, table[0]]))
    found = instances(tmp_path)
    assert found["sketch/hot dog/1.png"] == "hot dog/2.png" and found["sketch/cat/1.png"] is None
    said = capsys.readouterr().err
    assert "3 rows name a sketch or a photo that does not exist, such as row 3: 'cat/\"1.png'; row 4" in said
    assert "row 5: 'owl/1.png'" in said and "1 rows repeat a sketch, such as row 6" in said


def test_files_of_pairs_and_lists_are_found_in_either_composition(tmp_path: Path) -> None:
    stored, written = (unicodedata.normalize(kind, "Käse") for kind in ("NFD", "NFC"))
    build(tmp_path, [stored, "cat"], [f"{stored}.png"])
    (tmp_path / "pairs.tsv").write_text(f"class\tsketch\tphoto\n{written}\t{written}.png\t{written}.png\n")
    assert instances(tmp_path)[f"sketch/{stored}/{stored}.png"] == f"{stored}/{stored}.png"
    (tmp_path / "classes.txt").write_text(f"{written} 0\n")
    (tmp_path / "photos.txt").write_text(f"photo/{written}/{written}.png 0\n")
    lists = [{"classes": f"{tmp_path}/classes.txt", "photos": f"{tmp_path}/photos.txt"}]
    assert [r.path for r in listed(tmp_path, lists=lists)] == [f"photo/{stored}/{stored}.png"]


def test_a_missing_unseen_class_comes_with_the_nearest_one() -> None:
    config = read_dataset({"name": "d", "adapter": "folder", "source": ".", "split": ["girafe", "bike", "qqqq"]})
    with pytest.raises(MissingClassesError) as refused:
        load_split(config, ["Giraffe", "bicycle", "cow"])
    said = str(refused.value)
    assert "'bike' (did you mean 'bicycle'?), 'girafe' (did you mean 'Giraffe'?), 'qqqq'. It has 3 classes" in said
    assert "\n" not in said
    with pytest.raises(ZseError, match=r"without letter, number or symbol: '---'\. Rename"):
        load_split(config, ["---", "Giraffe"])


@pytest.mark.parametrize("names", [["माला", "मेला", "गाय"], ["C", "C++", "C#", "Java"], ["🐱", "🐶", "🚗"]])
def test_classes_of_any_script_are_classes_of_their_own(names: list[str], tmp_path: Path) -> None:
    build(tmp_path, names)
    config = read_dataset({"name": "d", "adapter": "folder", "source": str(tmp_path), "split": "random-1"})
    records = create_dataset(config).records()
    assert all(record.path.split("/")[1] == record.category for record in records)
    split = load_split(config, {record.category for record in records})
    assert len(split.seen) == len(names) - 1
