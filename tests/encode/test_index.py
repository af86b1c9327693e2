"""`zse index`: an index holds what its catalogue holds, encodes what is new, and survives what happens to both."""

from __future__ import annotations

import io
import os
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.encode import index as indexing
from pipelines.encode import photos as encoding
from pipelines.encode.index import Indexed, index
from pipelines.encode.index_upkeep import compact_index, index_status, purge_photos
from pipelines.runtime.errors import StorageError
from pipelines.store import storage
from pipelines.store.lease import HeldError
from pipelines.store.table import ROW, Table
from pipelines.workspace.ids import as_path
from pipelines.workspace.photo_index import OtherCheckpointError, PhotoIndex
from tests.helpers.faulty_store import FaultyStore
from tests.helpers.kept import SAMPLES
from tests.helpers.pictures import picture
from zse_model.checkpoint import load_checkpoint
from zse_model.errors import ZseError
from zse_model.retrieval import encode
from zse_model.synthetic import draw_photo

KEPT = SAMPLES / "workspace" / "checkpoints"
CODES, OTHER = str(KEPT / "kept-maps-crossatnet-d2dab78c"), str(KEPT / "kept-maps-zse_sbir-6d415b18")
TIMES = ("indexed_at",)


def photo(seed: int, kind: str = "PNG", **options: Any) -> bytes:
    return picture(draw_photo("fish", seed, size=48), kind, **options)


def catalogue(folder: Path, count: int = 6) -> Path:
    for i in range(count):
        put(folder / f"{'ab'[i % 2]}" / f"{i}.png", photo(i))
    return folder


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def updated(source: str | Path | None, url: str | Path, checkpoint: str = CODES, **options: Any) -> Indexed:
    return index(None if source is None else str(source), str(url), checkpoint, called=checkpoint, **options)


def photos(url: str | Path, checkpoint: str = CODES) -> Table:
    return PhotoIndex(str(url)).generation(load_checkpoint(Path(checkpoint)).digest, checkpoint).photos()


def rows(url: str | Path, checkpoint: str = CODES) -> list[dict[str, Any]]:
    """All rows in stored order, without times."""
    table = photos(url, checkpoint)
    wanted = [name for name in table.schema.names if name not in TIMES]
    return [row for batch in table.scan(wanted) for row in batch.drop_columns([ROW]).to_pylist()]


def ids(url: str | Path) -> list[str]:
    return [row["id"] for row in rows(url)]


def skipped(url: str | Path) -> dict[str, str]:
    (one,) = PhotoIndex(str(url)).generations()
    return {row["id"]: row["reason"] for batch in one.skipped().scan(["id", "reason"]) for row in batch.to_pylist()}


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of photos of each call of the encoder."""
    counts: list[int] = []

    def counting(checkpoint: Any, pictures: Any, *rest: Any, **options: Any) -> Any:
        counts.append(len(pictures))
        return encode(checkpoint, pictures, *rest, **options)

    monkeypatch.setattr(encoding, "encode", counting)
    return counts


def test_an_index_holds_the_encodings_of_its_photos(tmp_path: Path) -> None:
    source = catalogue(tmp_path / "photos")
    done = updated(source, tmp_path / "index")
    assert (done.photos, done.new, done.encoded, done.skipped) == (6, 6, 6, 0)
    found = rows(tmp_path / "index")
    assert [row["id"] for row in found] == sorted(str(p.relative_to(source)) for p in source.rglob("*.png"))
    checkpoint = load_checkpoint(Path(CODES))
    files = [(source / row["id"]).read_bytes() for row in found]
    whole = encode(checkpoint, files, "photo")
    assert set(whole) <= set(found[0])
    for name, values in whole.items():
        expected = values.half() if values.is_floating_point() else values
        assert np.array_equal(np.array([row[name] for row in found], expected.numpy().dtype), expected.numpy())
    for row in found:
        small = Image.open(io.BytesIO(row["thumbnail"]))
        assert small.format == "JPEG" and small.size == (row["width"], row["height"]) == (48, 48)


def test_what_has_not_changed_is_not_encoded_again(tmp_path: Path, encoded: list[int]) -> None:
    source, url = catalogue(tmp_path / "photos"), tmp_path / "index"
    updated(source, url)
    assert sum(encoded) == 6
    encoded.clear()
    version = photos(url).version
    assert updated(None, url).text() == "6 photos are indexed; nothing has changed"
    assert encoded == [] and photos(url).version == version, "a run without work commits nothing"
    put(source / "c" / "new.png", photo(20))
    put(source / "a" / "0.png", photo(21))
    (source / "b" / "1.png").unlink()
    os.rename(source / "a" / "2.png", source / "moved.png")
    done = updated(None, url)
    assert sum(encoded) == 2
    assert (done.photos, done.new, done.changed, done.moved, done.deleted) == (6, 2, 1, 1, 2)
    expected = tmp_path / "expected"
    updated(source, expected)
    assert sorted(rows(url), key=lambda row: row["id"]) == rows(expected), "as if indexed at once"


def test_a_deleted_photo_may_come_back_as_another(tmp_path: Path, encoded: list[int]) -> None:
    source, url = catalogue(tmp_path / "photos"), tmp_path / "index"
    updated(source, url)
    for again in (source / "a" / "0.png").read_bytes(), photo(40):
        (source / "a" / "0.png").unlink()
        assert updated(None, url).deleted == 1 and "a/0.png" not in ids(url)
        encoded.clear()
        put(source / "a" / "0.png", again)
        assert updated(None, url).new == 1 and sum(encoded) == 1
        expected = tmp_path / f"expected{len(again)}"
        updated(source, expected)
        assert sorted(rows(url), key=lambda row: row["id"]) == rows(expected)


def test_an_index_of_a_thousand_adds_one(tmp_path: Path, encoded: list[int]) -> None:
    source, url = catalogue(tmp_path / "photos", 300), tmp_path / "index"
    updated(source, url)
    encoded.clear()
    put(source / "one.png", photo(999))
    assert updated(None, url).new == 1 and encoded == [1]


NAMES = [
    "gru\u0308n.jpg",
    "100%.jpg",
    "#1?.jpg",
    "it's.jpg",
    "собаки/1.jpg",
    "кошки/1.jpg",
    "猫/[a]*.jpg",
    "a b/ c.JPG",
    'q"q.jpg',
]


def test_names_in_every_script_have_their_own_thumbnail(tmp_path: Path) -> None:
    for seed, name in enumerate(NAMES):
        put(tmp_path / "photos" / name, photo(seed, "JPEG"))
    raw = os.fsencode(tmp_path / "photos") + b"/\xff\xfe.jpg"
    Path(os.fsdecode(raw)).write_bytes(photo(len(NAMES), "JPEG"))
    assert updated(tmp_path / "photos", tmp_path / "index").skipped == 0
    found = {row["id"]: row for row in rows(tmp_path / "index")}
    every = [*NAMES, r"\udcff\udcfe.jpg"]
    assert set(found) == set(every) and as_path(every[-1]) == os.fsdecode(b"\xff\xfe.jpg")
    for seed, name in enumerate(every):
        small = np.asarray(Image.open(io.BytesIO(found[name]["thumbnail"])), dtype=float)
        assert np.abs(small - draw_photo("fish", seed, size=48)).mean() < 12, name
    assert updated(None, tmp_path / "index").text().endswith("nothing has changed")


def test_formats_are_found_or_named_as_skipped(tmp_path: Path) -> None:
    source, url = tmp_path / "photos", tmp_path / "index"
    for name, kind in (("a.avif", "AVIF"), ("c.ppm", "PPM"), ("d.jfif", "JPEG"), ("e.WEBP", "WEBP"), ("f.JPG", "JPEG")):
        put(source / name, photo(1, kind))
    put(source / "b.heic", b"\0\0\0\x18ftypheic")
    put(source / "notes.txt", b"no picture")
    cut = photo(3, "JPEG")
    put(source / "cut.jpg", cut[: len(cut) * 6 // 10])
    put(source / "empty.png", b"")
    updated(source, url)
    assert set(ids(url)) == {"a.avif", "c.ppm", "d.jfif", "e.WEBP", "f.JPG"}
    said = skipped(url)
    assert set(said) == {"b.heic", "cut.jpg", "empty.png"}
    assert "truncated" in said["cut.jpg"] and "HEIC" in said["b.heic"] and "empty" in said["empty.png"]


def test_a_skipped_file_is_not_read_again_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, url = catalogue(tmp_path / "photos", 2), tmp_path / "index"
    put(source / "bad.png", b"no picture")
    assert updated(source, url).skipped == 1
    read: list[str] = []
    monkeypatch.setattr(storage, "read_many", lambda url, paths: pytest.fail(f"read {paths}"))
    assert updated(None, url).skipped == 1 and not read
    monkeypatch.undo()
    put(source / "bad.png", photo(9))
    put(source / "a" / "0.png", b"damaged now")
    done = updated(None, url)
    assert (done.photos, done.new, done.skipped) == (2, 1, 1)
    assert set(ids(url)) == {"bad.png", "b/1.png"} and set(skipped(url)) == {"a/0.png"}, "no old version stays"
    (source / "a" / "0.png").unlink()
    assert updated(None, url).skipped == 0


@pytest.mark.parametrize("orientation", [0, 6])
def test_thumbnails_are_upright(tmp_path: Path, orientation: int) -> None:
    drawn = draw_photo("fish", 3, size=48)[:24]
    exif = Image.Exif()
    exif[0x0112] = orientation
    put(tmp_path / "photos" / "1.jpg", picture(drawn, "JPEG", exif=exif, quality=95))
    updated(tmp_path / "photos", tmp_path / "index")
    (row,) = rows(tmp_path / "index")
    small = np.asarray(Image.open(io.BytesIO(row["thumbnail"])), dtype=float)
    expected = np.rot90(drawn, -1) if orientation == 6 else drawn
    assert (row["height"], row["width"]) == expected.shape[:2] == small.shape[:2]
    assert np.abs(small - expected).mean() < 12


def test_large_and_transparent_photos_become_small_thumbnails(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    put(source / "large.jpg", picture(np.full((900, 1600, 3), 90, np.uint8), "JPEG"))
    put(source / "clear.png", picture(np.zeros((40, 20, 4), np.uint8)))
    updated(source, tmp_path / "index")
    clear, large = rows(tmp_path / "index")
    assert Image.open(io.BytesIO(large["thumbnail"])).size == (256, 144)
    assert (large["width"], large["height"]) == (1600, 900)
    assert np.asarray(Image.open(io.BytesIO(clear["thumbnail"]))).min() == 255, "a transparent ground is white"


def test_metadata_are_joined_by_path_and_follow_their_file(tmp_path: Path, encoded: list[int]) -> None:
    source, url, file = catalogue(tmp_path / "photos", 3), tmp_path / "index", tmp_path / "about.csv"
    file.write_text("path,price,brand\na/0.png,10,Acme\nb/1.png,20,\nnosuch.png,1,x\n")
    updated(source, url, metadata=str(file))
    own = {row["id"]: (row["price"], row["brand"]) for row in rows(url)}
    assert own == {"a/0.png": (10, "Acme"), "b/1.png": (20, ""), "a/2.png": (None, None)}
    assert photos(url).count("price < 15") == 1
    encoded.clear()
    file.write_text("path,price,stock\na/0.png,11,true\nb/1.png,20,false\na/2.png,5,true\n")
    done = updated(None, url)
    assert (done.described, done.encoded, encoded) == (3, 0, []), "the file of the run before is read"
    own = {row["id"]: (row["price"], row["stock"]) for row in rows(url)}
    assert own == {"a/0.png": (11, True), "b/1.png": (20, False), "a/2.png": (5, True)}
    assert "brand" not in rows(url)[0]
    version = photos(url).version
    assert updated(None, url).described == 0 and photos(url).version == version


METADATA = {
    "without a path": ("about.csv", b"name,price\nx,1\n", "no column names the photos.*name, price"),
    "path twice": ("about.csv", b"path,price\na/0.png,1\na/0.png,2\n", "a/0.png twice"),
    "own name": ("about.csv", b"path,sha256\na/0.png,1\n", "'sha256' has a name that the index uses"),
    "other kind": ("about.txt", b"path\n", "ending .csv"),
    "damaged": ("about.parquet", b"PAR1", "cannot be read"),
    "ragged": ("about.csv", b"path,price\na,1,2\n", "cannot be read"),
    "path beside id": ("about.csv", b"path,id\na/0.png,1\n", "'id' has a name that the index uses"),
    "name twice": ("about.csv", b"path,price,price\na/0.png,1,2\n", "two columns are called 'price'"),
    "Lance's name": ("about.csv", b"path,_rowid\na/0.png,1\n", "'_rowid' has a name that the index uses"),
    "dot": ("about.csv", b"path,a.b\na/0.png,1\n", "'a.b' is empty or has one of"),
    "Latin-1": ("about.csv", b"path,brand\na/0.png,caf\xe9\n", "'brand' is not UTF-8 text"),
}


@pytest.mark.parametrize("given", METADATA)
def test_metadata_that_cannot_be_joined_end_the_run_before_any_work(tmp_path: Path, given: str) -> None:
    name, data, said = METADATA[given]
    put(tmp_path / name, data)
    with pytest.raises(ZseError, match=said):
        updated(catalogue(tmp_path / "photos", 1), tmp_path / "index", metadata=str(tmp_path / name))
    with pytest.raises(StorageError, match="not an index"):
        rows(tmp_path / "index")


def test_a_photo_that_is_gone_is_deleted_although_its_metadata_changed(tmp_path: Path) -> None:
    source, url, file = catalogue(tmp_path / "photos", 3), tmp_path / "index", tmp_path / "about.csv"
    file.write_text("path,price\na/0.png,10\nb/1.png,20\n")
    updated(source, url, metadata=str(file))
    (source / "a" / "0.png").unlink()
    file.write_text("path,price\nb/1.png,21\n")
    done = updated(None, url)
    assert (done.deleted, done.described) == (1, 1)
    assert {row["id"]: row["price"] for row in rows(url)} == {"a/2.png": None, "b/1.png": 21}


def test_numbers_that_are_none_change_nothing(tmp_path: Path) -> None:
    source, url, file = catalogue(tmp_path / "photos", 2), tmp_path / "index", tmp_path / "about.parquet"
    pq.write_table(pa.table({"path": ["a/0.png", "b/1.png"], "price": pa.array([1.5, float("nan")])}), file)
    updated(source, url, metadata=str(file))
    assert updated(None, url).described == 0 and photos(url).count("price IS NULL") == 1


def test_a_column_may_change_its_type_and_be_empty_for_a_night(tmp_path: Path) -> None:
    source, url, file = catalogue(tmp_path / "photos", 2), tmp_path / "index", tmp_path / "about.csv"
    for text, own in (
        ("path,price\na/0.png,7\nb/1.png,8\n", {"a/0.png": 7, "b/1.png": 8}),
        ("path,price\na/0.png,9.99\nb/1.png,8\n", {"a/0.png": 9.99, "b/1.png": 8}),
        ("path,price\na/0.png,\nb/1.png,\n", {"a/0.png": None, "b/1.png": None}),
        ("path,price\na/0.png,much\nb/1.png,8\n", {"a/0.png": "much", "b/1.png": "8"}),
    ):
        file.write_text(text)
        updated(source, url, metadata=str(file))
        assert {row["id"]: row["price"] for row in rows(url)} == own
        assert photos(url).count("price IS NULL") == sum(value is None for value in own.values())


def test_metadata_of_another_type_are_there_while_photos_are_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that follows the index filters by them, and the run may be killed."""
    source, url, file = catalogue(tmp_path / "photos", 2), tmp_path / "index", tmp_path / "about.csv"
    file.write_text("path,price\na/0.png,7\nb/1.png,8\n")
    updated(source, url, metadata=str(file))
    file.write_text("path,price\na/0.png,9.99\nb/1.png,8\nc/9.png,1\n")
    put(source / "c" / "9.png", photo(9))

    def killed(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(encoding, "encode", killed)
        updated(None, url)
    assert photos(url).count("price < 100") == 2
    done = updated(None, url)
    assert (done.new, done.described) == (1, 0) and photos(url).count("price < 100") == 3
    file.write_text("path,price\na/0.png,9\nb/1.png,8\nc/9.png,1\n")
    updated(None, url)
    assert pa.types.is_floating(photos(url).schema.field("price").type), "whole numbers are no other type"


def test_codes_keep_their_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, url, file = catalogue(tmp_path / "photos", 2), tmp_path / "index", tmp_path / "about.csv"
    file.write_text(
        "path,sku,ean,price,share\na/0.png,00123,12345678901234567891,10,0.5\nb/1.png,4,12345678901234567892,0,-0.25\n"
    )
    updated(source, url, metadata=str(file))
    first, second = rows(url)
    assert (first["sku"], first["ean"], second["ean"]) == ("00123", "12345678901234567891", "12345678901234567892")
    assert (first["price"], first["share"], second["share"]) == (10, 0.5, -0.25)
    assert photos(url).count("sku = '00123' AND ean = '12345678901234567891'") == 1
    assert "sku, ean is kept as text" in capsys.readouterr().err


def test_quotation_marks_swallow_no_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, url = catalogue(tmp_path / "photos", 3), tmp_path / "index"
    lines = ["path,price,title", 'a/0.png,5,"Hello" World', "b/1.png,7,plain", 'a/2.png,8,"Bye']
    tabs, commas = tmp_path / "about.tsv", tmp_path / "about.csv"
    tabs.write_text("\n".join(lines).replace(",", "\t") + "\n")
    updated(source, url, metadata=str(tabs))
    assert [(row["price"], row["title"]) for row in rows(url)] == [(5, '"Hello" World'), (8, '"Bye'), (7, "plain")]
    capsys.readouterr()
    commas.write_text('path,price,title\na/0.png,5,"Hello\nb/1.png,7,plain\na/2.png,8,Bye"\n')
    updated(source, tmp_path / "other", metadata=str(commas))
    assert "the title that begins with 'Hello' holds a whole line of the file" in capsys.readouterr().err
    commas.write_text('path,title\na/0.png,"of two\nlines, and more"\n')
    updated(source, tmp_path / "third", metadata=str(commas))
    assert "whole line" not in capsys.readouterr().err
    tabs.write_text('"path"\t"title"\na/0.png\t"of two\nlines, ""and"" more"\n')
    updated(source, tmp_path / "fourth", metadata=str(tabs))
    assert rows(tmp_path / "fourth")[0]["title"] == 'of two\nlines, "and" more', "as R and Excel write it"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_metadata_name_a_photo_whose_accents_are_stored_otherwise(tmp_path: Path, form: Any) -> None:
    source, url, file = tmp_path / "photos", tmp_path / "index", tmp_path / "about.csv"
    name = unicodedata.normalize(form, "café.png")
    put(source / name, photo(0))
    put(source / "b.png", photo(1))
    other = unicodedata.normalize("NFD" if form == "NFC" else "NFC", "café.png")
    file.write_text(f"path,price\n{other},3\nb.png,4\n")
    updated(source, url, metadata=str(file))
    assert {row["id"]: row["price"] for row in rows(url)} == {name: 3, "b.png": 4}


def test_columns_as_pandas_writes_them(tmp_path: Path) -> None:
    source, url, file = catalogue(tmp_path / "photos", 2), tmp_path / "index", tmp_path / "about.parquet"
    day = datetime(2026, 1, 31, 12, tzinfo=UTC)
    columns = {
        "path": pa.array(["a/0.png", "b/1.png"], pa.large_string()),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "cost": pa.array([Decimal("1.25"), None], pa.decimal128(9, 2)),
        "half": pa.array(np.array([1.5, 2.5], np.float16)),
        "day": pa.array([day, None], pa.timestamp("ns", "UTC")),
        "view": pa.array(["p", "q"], pa.string_view()),
        "sold": pa.array([True, None]),
    }
    pq.write_table(pa.table(columns), file)
    updated(source, url, metadata=str(file))
    row = rows(url)[0]
    assert [row[name] for name in columns if name != "path"] == ["x", 1.25, 1.5, day, "p", True]
    assert photos(url).count("day > TIMESTAMP '2026-01-01 00:00:00' AND kind = 'x'") == 1
    assert updated(None, url).described == 0


def test_metadata_that_name_no_photo_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, file, url = catalogue(tmp_path / "photos", 2), tmp_path / "about.csv", tmp_path / "index"
    file.write_text("path,price\na/0.png,10\nb/9.png,20\n")
    updated(source, url, metadata=str(file))
    assert "1 of 2 rows" in capsys.readouterr().err
    file.write_text("path,price\nphotos/a/0.png,10\n")
    wrong = r"None of the 1 rows of .*about.csv names a photo of .*such as a/0.png; its first is photos/a/0.png"
    with pytest.raises(ZseError, match=wrong):
        updated(source, url, metadata=str(file))
    assert rows(url)[0]["price"] == 10, "the metadata of before stay"
    with pytest.raises(ZseError, match=wrong):
        updated(source, tmp_path / "new", metadata=str(file))
    assert not (tmp_path / "new" / "generations").exists(), "a refused run leaves nothing that another is bound by"


def test_the_index_of_another_checkpoint_is_refused_and_named(tmp_path: Path) -> None:
    url = tmp_path / "index"
    updated(catalogue(tmp_path / "photos", 2), url)
    digests = [load_checkpoint(Path(one)).digest[:12] for one in (CODES, OTHER)]
    with pytest.raises(OtherCheckpointError, match=f"checkpoint {digests[1]}.*generations of: {digests[0]}"):
        photos(url, OTHER)
    updated(None, url, OTHER)
    assert len(photos(url)) == len(photos(url, OTHER)) == 2, "a generation each"


def test_another_source_and_a_catalogue_that_has_gone_are_refused(tmp_path: Path) -> None:
    source, url = catalogue(tmp_path / "photos", 6), tmp_path / "index"
    with pytest.raises(ZseError, match="is not an index yet. Give the photos"):
        updated(None, url)
    updated(source, url)
    with pytest.raises(ZseError, match=f"is the index of {source}, not of {tmp_path}/other"):
        updated(tmp_path / "other", url)
    for one in source.rglob("*.png"):
        one.unlink()
    with pytest.raises(StorageError, match="holds no pictures"):
        updated(None, url)
    assert len(ids(url)) == 6


def test_most_photos_are_deleted_only_when_that_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "MANY", 2)
    source, url = catalogue(tmp_path / "photos", 6), tmp_path / "index"
    updated(source, url)
    for i in range(4):
        (source / "ab"[i % 2] / f"{i}.png").unlink()
    with pytest.raises(ZseError, match="4 of the 6 photos .* run the same command with --delete-many"):
        updated(None, url)
    assert len(ids(url)) == 6
    assert updated(None, url, delete_many=True).deleted == 4 and len(ids(url)) == 2


def test_purged_photos_are_gone_from_every_byte_of_the_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also what stood there before a change, and what an earlier run deleted, among too many rows to be compacted."""
    source, url, file = catalogue(tmp_path / "photos", 64), tmp_path / "index", tmp_path / "about.csv"
    file.write_text("path,price\na/4.png,1\n")
    updated(source, url, metadata=str(file))
    updated(None, url, OTHER)
    compact_index(str(url))
    gone, replaced = (next(row for row in rows(url) if row["id"] == f"a/{i}.png") for i in (2, 4))
    (source / "a" / "2.png").unlink()
    put(source / "a" / "4.png", photo(900))
    for checkpoint in (CODES, OTHER):
        updated(None, url, checkpoint)
    file.write_text("path,price\na/4.png,2\n")
    updated(None, url)
    victim = next(row for row in rows(url) if row["id"] == "a/4.png")
    marks = [mark for row in (gone, replaced, victim) for mark in (row["sha256"], row["thumbnail"][-60:])]
    marks += [np.array(row["embedding"], np.float16).tobytes() for row in (gone, replaced, victim)]
    assert all(held(url, mark) for mark in marks), "the search of the bytes finds what is there"
    before = [row["id"] for row in rows(url)]
    assert purge_photos(str(url), ["a/4.png", "a/2.png"]) == 1
    said = capsys.readouterr().err
    assert "has no photo a/2.png now" in said and "Still in" in said and "a/4.png" in said
    assert not any(held(url, mark) for mark in marks)
    assert [row["id"] for row in rows(url)] == [id for id in before if id != "a/4.png"], "in their order"
    assert len(rows(url, OTHER)) == 62 and updated(None, url).new == 1


def held(folder: Path, data: bytes) -> bool:
    return any(data in file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_compaction_and_status_keep_rows_and_order(tmp_path: Path) -> None:
    source, url = catalogue(tmp_path / "photos", 4), tmp_path / "index"
    put(source / "bad.png", b"no picture")
    updated(source, url)
    for i in range(3):
        put(source / f"later{i}.png", photo(30 + i))
        updated(None, url)
    before = rows(url)
    compact_index(str(url))
    assert rows(url) == before
    said = "\n".join(index_status(str(url)))
    assert f"follows {source}" in said and "7 photos, 1 skipped files" in said and "skipped bad.png" in said
    assert "not complete" not in said
    with pytest.raises(StorageError, match="is not an index"):
        list(index_status(str(tmp_path)))


def test_an_index_says_the_licence_that_its_encodings_come_with(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(Path(CODES))
    checkpoint.training["licence"] = "dinov3-license"
    index(str(catalogue(tmp_path / "photos", 2)), str(tmp_path / "index"), CODES, called=CODES, checkpoint=checkpoint)
    said = "\n".join(index_status(str(tmp_path / "index")))
    assert "the licence of the model's pretrained weights is dinov3-license" in said


class Killed(BaseException):
    """No handler catches it, as none catches SIGKILL."""


def test_a_run_that_ends_before_any_commit_continues_to_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and their order are those of an undisturbed run. test_killed_index.py kills real processes."""
    monkeypatch.setattr(indexing, "PART", 2)
    monkeypatch.setattr(indexing, "STEP", 4)
    for module in (indexing, encoding):
        monkeypatch.setattr(module, "load_checkpoint", cache(load_checkpoint))
    source, about = catalogue(tmp_path / "photos", 9), tmp_path / "about.csv"
    put(source / "bad.png", b"no picture")
    about.write_text("path,price\na/0.png,10\nb/5.png,20\n")
    updated(source, tmp_path / "at once", metadata=str(about))
    expected = rows(tmp_path / "at once")
    commits, at = 0, 0

    def ending(method: Callable[..., None]) -> Callable[..., None]:
        def commit(*args: Any) -> None:
            nonlocal commits
            commits += 1
            if commits == at:
                raise Killed
            method(*args)

        return commit

    kept = {name: getattr(Table, name) for name in ("upsert", "update", "delete", "compact_if_scattered")}
    for name, method in kept.items():
        monkeypatch.setattr(Table, name, ending(method))
    ended = 0
    while ended == at:
        at, commits, url = at + 1, 0, tmp_path / f"index {at}"
        with suppress(Killed):
            updated(source, url, metadata=str(about))
            continue
        ended += 1
        with pytest.raises((StorageError, OtherCheckpointError)):
            rows(url)  # incomplete: nobody reads it
        updated(source, url, metadata=str(about))
        assert rows(url) == expected and set(skipped(url)) == {"bad.png"}
    assert ended >= 8, "it was ended before each commit"


def test_an_index_in_a_bucket_lists_pages_and_reads_only_what_is_new(
    tmp_path: Path, s3: str, store: FaultyStore
) -> None:
    source, url = f"{s3}/catalogue-{os.getpid()}", f"{s3}/index-{os.getpid()}"
    for i in range(5):
        storage.write_bytes(f"{source}/{i}.png", photo(i))
    assert updated(source, url).new == 5
    expected = tmp_path / "expected"
    for i in range(5):
        put(tmp_path / "photos" / f"{i}.png", photo(i))
    updated(tmp_path / "photos", expected)
    drop = ("version",)
    assert [without(row, drop) for row in rows(url)] == [without(row, drop) for row in rows(expected)]
    storage.write_bytes(f"{source}/5.png", photo(5))
    store.clear()
    assert updated(None, url).new == 1
    folder = source.removeprefix("s3://")
    read = [one for one in store.asked if one.startswith(f"GET /{folder}/")]
    assert [one.partition("?")[0] for one in read] == [f"GET /{folder}/5.png"], "no unchanged photo is read"


def without(row: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def test_photos_that_became_unreadable_are_deleted_only_when_that_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk truncates files, and a cloud's placeholders are empty."""
    monkeypatch.setattr(indexing, "MANY", 2)
    source, url = catalogue(tmp_path / "photos", 6), tmp_path / "index"
    updated(source, url)
    for i in range(4):
        put(source / "ab"[i % 2] / f"{i}.png", b"")
    for _ in range(2):
        with pytest.raises(ZseError, match="4 of the 6 photos .* cannot be read any more.*--delete-many"):
            updated(None, url)
        assert len(ids(url)) == 6 and skipped(url) == {}
    put(source / "a" / "0.png", photo(0))
    put(source / "b" / "1.png", photo(1))
    done = updated(None, url)
    assert (done.deleted, done.skipped, len(ids(url))) == (2, 2, 4)


def test_a_link_that_leads_nowhere_is_named_and_its_photo_is_gone(tmp_path: Path) -> None:
    source, url = catalogue(tmp_path / "photos", 3), tmp_path / "index"
    put(tmp_path / "elsewhere.png", photo(9))
    (source / "link.png").symlink_to(tmp_path / "elsewhere.png")
    assert updated(source, url).photos == 4
    (tmp_path / "elsewhere.png").unlink()
    done = updated(None, url)
    assert (done.photos, done.deleted) == (3, 1) and skipped(url) == {"link.png": "a link that leads nowhere"}
    assert updated(None, url).text() == "3 photos are indexed: 1 skipped"
    put(tmp_path / "elsewhere.png", photo(10))
    assert updated(None, url).photos == 4 and skipped(url) == {}


def test_a_writer_that_was_suspended_writes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has taken its lease meanwhile."""
    source, url = catalogue(tmp_path / "photos", 3), tmp_path / "index"
    updated(source, url)
    put(source / "c" / "9.png", photo(9))

    def suspended(*given: Any, **options: Any) -> Any:
        storage.write_json(str(url / "lease" / "7.json"), {"host": "other", "pid": 1, "since": 0.0})
        return encode(*given, **options)

    monkeypatch.setattr(encoding, "encode", suspended)
    with pytest.raises(HeldError, match="The index .* is being made by process 1 on other"):
        updated(None, url)
    assert len(ids(url)) == 3

    def ended_since(*given: Any, **options: Any) -> Any:
        for file in (url / "lease").iterdir():
            file.unlink()
        return encode(*given, **options)

    monkeypatch.setattr(encoding, "encode", ended_since)
    (url / "lease" / "7.json").unlink()
    with pytest.raises(HeldError, match="was made by another process while this one was suspended"):
        updated(None, url)
    assert len(ids(url)) == 3
    (source / "c" / "9.png").unlink()
    (source / "a" / "0.png").unlink()
    planned = indexing._planned

    def taken(*given: Any) -> Any:
        storage.write_json(str(url / "lease" / "9.json"), {"host": "other", "pid": 1, "since": 0.0})
        return planned(*given)

    monkeypatch.setattr(indexing, "_planned", taken)
    with pytest.raises(HeldError, match="by process 1 on other"):
        updated(None, url)
    assert len(ids(url)) == 3, "a deletion is a commit, too"


def test_the_index_is_not_the_folder_of_the_photos(tmp_path: Path) -> None:
    source = catalogue(tmp_path / "photos", 2)
    with pytest.raises(ZseError, match="The index and the photos are one folder"):
        updated(source, source)


def test_what_workers_cannot_see_is_no_deleted_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, url = catalogue(tmp_path / "photos", 3), tmp_path / "index"
    read = storage.read_many
    gone = FileNotFoundError()
    monkeypatch.setattr(storage, "read_many", lambda url, paths: [gone, *read(url, paths[1:])])
    with pytest.raises(StorageError, match="1 photos are in .*a/0.png, but not on the machines of the workers"):
        updated(source, url)
    with pytest.raises(OtherCheckpointError):
        rows(url)
    monkeypatch.undo()
    assert updated(None, url).new == 1


def test_a_photo_that_may_not_be_read_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, url = catalogue(tmp_path / "photos", 3), tmp_path / "index"
    read, refused = storage.read_many, PermissionError(13, "Permission denied")
    monkeypatch.setattr(storage, "read_many", lambda url, paths: [refused, *read(url, paths[1:])])
    updated(source, url)
    assert skipped(url) == {"a/0.png": "cannot be read: Permission denied"} and len(ids(url)) == 2
    monkeypatch.undo()
    assert updated(None, url).photos == 3 and skipped(url) == {}, "a permission changes neither size nor time"
    put(source / "a" / "0.png", photo(30))
    monkeypatch.setattr(storage, "read_many", lambda url, paths: [refused, *read(url, paths[1:])])
    file = tmp_path / "about.csv"
    file.write_text("path,price\na/0.png,7\n")
    done = updated(None, url, metadata=str(file))
    assert done.deleted == 0 and len(ids(url)) == 3, "the photo of before stays"
    assert {row["id"]: row["price"] for row in rows(url)}["a/0.png"] == 7, "and has its metadata"
    (one,) = PhotoIndex(str(url)).generations()
    versions = one.skipped().version, photos(url).version
    updated(None, url)
    assert (one.skipped().reopened().version, photos(url).version) == versions, "nothing new is written"


def test_a_photo_for_which_memory_was_short_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, url = catalogue(tmp_path / "photos", 1), tmp_path / "index"

    def short(*_: Any, **__: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as context:
        context.setattr("zse_model.transforms.Image.open", short)
        assert updated(source, url).photos == 0 and "MemoryError" in skipped(url)["a/0.png"]
    assert updated(None, url).photos == 1 and skipped(url) == {}


def test_the_same_bytes_in_another_version_are_not_encoded_again(tmp_path: Path, encoded: list[int]) -> None:
    source, url = catalogue(tmp_path / "photos", 4), tmp_path / "index"
    updated(source, url)
    before = [without(row, ("version",)) for row in rows(url)]
    encoded.clear()
    for path in source.rglob("*.png"):
        os.utime(path, (1, 1))
    done = updated(None, url)
    assert (done.changed, done.moved, encoded) == (4, 4, [])
    assert [without(row, ("version",)) for row in rows(url)] == before


def test_photos_that_change_names_keep_their_encodings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[int]
) -> None:
    """The first commit replaces rows whose encodings the second one needs."""
    monkeypatch.setattr(indexing, "PART", 1)
    monkeypatch.setattr(indexing, "STEP", 1)
    source, url = tmp_path / "photos", tmp_path / "index"
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        put(source / f"{name}.png", photo(seed))
    updated(source, url)
    encoded.clear()
    for name, seed in (("a", 2), ("b", 3), ("c", 1)):
        put(source / f"{name}.png", photo(seed))
        os.utime(source / f"{name}.png", (1, 1))
    done = updated(None, url)
    assert (done.changed, done.moved, encoded) == (3, 3, [])
    updated(source, tmp_path / "expected")
    assert rows(url) == rows(tmp_path / "expected")


def test_an_index_inside_its_catalogue_is_not_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = catalogue(tmp_path / "photos", 2)
    url = source / "my.index"
    updated(source, url)
    assert updated(None, url).photos == 2 and "Passed over" not in capsys.readouterr().err


def test_many_photos_are_purged_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.store.table.NAMED", 7)
    source, url = tmp_path / "photos", tmp_path / "index"
    names = [f"{'long name ' * 10}{i}.png" for i in range(40)]
    for i, name in enumerate(names):
        put(source / name, photo(i % 3))
    updated(source, url)
    assert purge_photos(str(url), names) == 40 and ids(url) == []


def test_a_table_whose_making_was_killed_is_made(tmp_path: Path) -> None:
    source, url = catalogue(tmp_path / "photos", 2), tmp_path / "index"
    place = PhotoIndex(str(url)).place("crossatnet", load_checkpoint(Path(CODES)).digest)
    for name in ("photos", "skipped"):
        (Path(place) / f"{name}.lance" / "data").mkdir(parents=True)
    assert updated(source, url).new == 2


def test_a_filter_has_a_limit(tmp_path: Path) -> None:
    """A filter of a megabyte ends the process of LanceDB 0.40."""
    updated(catalogue(tmp_path / "photos", 1), tmp_path / "index")
    for bad in (" AND ".join(["width < 1000"] * 1000), "id = 'a\0'"):
        with pytest.raises(ZseError, match="at most 2000 characters"):
            photos(tmp_path / "index").count(bad)


@pytest.mark.parametrize(
    "rest",
    [
        *("; width < 1", "-- AND width < 1", "/* AND width < 1", "width < 1", ", width < 1", "LIMIT 1", "ORDER BY id"),
        *("HAVING width < 1", "GROUP BY id", ") LIMIT (1", "\n-- AND width < 1"),
    ],
)
def test_no_part_of_a_filter_is_left_out(tmp_path: Path, rest: str) -> None:
    updated(catalogue(tmp_path / "photos", 1), tmp_path / "index")
    table = photos(tmp_path / "index")
    with pytest.raises(ZseError, match="The filter 'width < 1000"):
        table.count(f"width < 1000 {rest}")
    with pytest.raises(ZseError, match="The filter 'width < 1000"):
        list(table.scan(["id"], f"width < 1000 {rest}"))
    assert table.count("id != 'it''s; -- /* )' AND (width > - -1 OR id = 'x') /* so */") == 1


@pytest.mark.parametrize("given", ["source", "metadata"])
def test_a_password_is_refused_before_it_is_kept(given: str, tmp_path: Path) -> None:
    urls = {"source": str(catalogue(tmp_path / "photos")), given: "https://me:hunter2@example.org/photos"}
    with pytest.raises(ZseError, match=f"{given} is a URL with a password. Give credentials") as refused:
        updated(urls["source"], tmp_path / "index", metadata=urls.get("metadata"))
    assert "hunter2" not in str(refused.value) and not (tmp_path / "index").exists()


def test_without_lancedb_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lancedb", None)
    with pytest.raises(ZseError, match=r"pip install 'zse-retrieval\[index\]'"):
        updated(catalogue(tmp_path / "photos", 1), tmp_path / "index")
