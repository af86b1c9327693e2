"""The data sets as people have them: tiny imitations of every layout, listed and read; archives; what is wrong."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import pickle
import re
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import py7zr
import pytest
import yaml
from PIL import Image

from pipelines.config.load import load_experiment, validate
from pipelines.datasets import archives
from pipelines.datasets.adapters.folder import FolderConfig
from pipelines.datasets.archives import ArchiveError
from pipelines.datasets.base import ImageRecord
from pipelines.datasets.registry import DATASETS, create_dataset
from pipelines.datasets.splits import load_split
from pipelines.datasets.union import UnionConfig
from pipelines.ingest.stage import ingest
from pipelines.runtime.errors import StorageError
from pipelines.store import storage
from tests.conftest import SHARED, TINY
from tests.helpers.pictures import build, png
from zse_model.errors import ZseError
from zse_model.transforms import BadPicture, TransformConfig, prepare_sketch

ODD = "50% #1? été"  # a name that is no URL


def adapter_of(kind: Any) -> str:
    return kind.adapter


def config(adapter: str, source: Any, **fields: Any) -> Any:
    kind: Any = next(kind for kind in DATASETS if adapter_of(kind) == adapter)
    return kind(**({"name": "x", "split": ("a",), "source": source} | fields))


def listed(adapter: str, source: Any, **fields: Any) -> list[ImageRecord]:
    """The records, after what holds for all: sorted, unique, read by a pickled copy, a missing file its own error."""
    made = create_dataset(config(adapter, source, **fields))
    records = made.records()
    ids = [record.id for record in records]
    assert ids == sorted(set(ids))
    assert all(record.id.startswith(f"{record.modality}/{record.category}/") for record in records)
    copy = pickle.loads(pickle.dumps(made))
    data = copy.read(records[::-1])
    for record, content in zip(records[::-1], data, strict=True):
        assert isinstance(content, bytes) and Image.open(io.BytesIO(content)).size
        assert len(content) == record.size or record.path.endswith(".svg"), (
            "its own bytes, which differ from all others"
        )
    missing = replace(records[0], path=records[0].path + "x")
    assert isinstance(made.read([missing])[0], FileNotFoundError)
    return records


def instances(records: Iterable[ImageRecord]) -> dict[str, str | None]:
    return {record.id: record.instance for record in records}


# Layouts ------------------------------------------------------------------------------------------------------------

SKETCHY = (
    "256x256/sketch/tx_000000000000/pig/n02395406_3933-2.png",
    "256x256/sketch/tx_000000000000/pig/n02395406_3933-10.png",
    "256x256/sketch/tx_000100000000/pig/n02395406_3933-2.png",
    "256x256/photo/tx_000000000000/pig/n02395406_3933.jpg",
    "256x256/photo/tx_000000000000/hot-air_balloon/n02782093_1.jpg",
    "256x256/sketch/tx_000000000000/hot-air_balloon/n02782093_1-1.png",
    "EXTEND_image_sketchy_ready/pig/ext_12.jpg",
    "EXTEND_image_sketchy_ready/pig/n02395406_3933.jpg",  # the original again
)


def test_sketchy_pairs_its_sketches_and_knows_its_extension(tmp_path: Path) -> None:
    source = build(tmp_path, [f"Sketchy/{file}" for file in SKETCHY])
    found = instances(listed("sketchy", source))
    pig, balloon = "pig/n02395406_3933", "hot-air_balloon/n02782093_1"
    assert found == {
        "photo/hot-air_balloon/n02782093_1.jpg": balloon,
        "photo/pig/extended/ext_12.jpg": "pig/ext_12",
        "photo/pig/n02395406_3933.jpg": pig,
        "sketch/hot-air_balloon/n02782093_1-1.png": balloon,
        "sketch/pig/n02395406_3933-10.png": pig,
        "sketch/pig/n02395406_3933-2.png": pig,
    }
    with_copies = instances(listed("sketchy", source, copies=True))
    assert with_copies == found | {"photo/pig/extended/n02395406_3933.jpg": pig}
    build(tmp_path, [f"Sketchy/{SKETCHY[3]}".replace("pig/n02395406_3933", "camel/n02437136_5405")])
    build(tmp_path, ["Sketchy/EXTEND_image_sketchy_ready/camel/c.jpg"])  # the one copy under another name
    assert set(instances(listed("sketchy", source))) == {*found, "photo/camel/n02437136_5405.jpg"}
    assert not any("extended" in i for i in instances(listed("sketchy", source, extended=False)))
    (other,) = (r for r in listed("sketchy", source, sketches="tx_000100000000") if r.modality == "sketch")
    assert other.path == "Sketchy/256x256/sketch/tx_000100000000/pig/n02395406_3933-2.png"
    with pytest.raises(ValueError, match=r"dataset.sketches is 'tx_1', not a rendering. Allowed: \['tx_000000000000'"):
        config("sketchy", source, sketches="tx_1")


def test_sketchy_without_its_extension(tmp_path: Path) -> None:
    source = build(tmp_path, [file.removeprefix("256x256/") for file in SKETCHY if "EXTEND" not in file])
    assert len(listed("sketchy", source)) == 5
    with pytest.raises(StorageError, match="Expected EXTEND_image_sketchy_ready or .* or extended_photo"):
        listed("sketchy", source, extended=True)


@pytest.mark.parametrize(
    ("sketches", "photos"),
    [("png_ready", "ImageResized_ready"), ("png", "imageresized"), ("sketches_png/png", "Image-Resized")],
)
def test_tuberlin_under_its_names(sketches: str, photos: str, tmp_path: Path) -> None:
    files = [f"{sketches}/mouse (animal)/1.png", f"{photos}/mouse (animal)/n1.JPEG", f"{sketches}/ufo/2.png"]
    records = listed("tuberlin", build(tmp_path, [*files, f"{photos}/ufo/a.jpg"]))
    assert Counter(r.category for r in records) == {"mouse (animal)": 2, "ufo": 2}
    assert {r.instance for r in records} == {None}


def test_a_folder_has_sketches_as_svg_and_strokes(tmp_path: Path) -> None:
    line = b'<svg xmlns="http://www.w3.org/2000/svg"><path d="M1 1L8 8L8 1" fill="none" stroke="#000"/></svg>'
    files = {
        "sketch/ant/1.svg": line,
        "sketch/ant/2.svgz": gzip.compress(line),
        "sketch/ant/3.json": b'{"word": "ant", "drawing": [[[0, 9, 9], [0, 0, 9]]]}',
        "sketch/ant/4.json": b"[[[0, 9], [0]]]",
        "sketch/ant/5.json": b"{}",
        "photo/ant/1.jpg": png("photo", 0),
        "photo/ant/2.svg": line,
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    made = create_dataset(config("folder", str(tmp_path)))
    records = made.records()
    assert [r.path for r in records] == [name for name in sorted(files) if name != "photo/ant/2.svg"]
    photo, *drawn, wrong, none = made.read(records)
    assert photo == files["photo/ant/1.jpg"]
    for data in drawn:
        assert isinstance(data, bytes) and prepare_sketch(data, TransformConfig(size=64)).min() == 0
    assert isinstance(wrong, BadPicture) and isinstance(none, BadPicture) and "without strokes" in str(none)


def test_tuberlin_svg_is_drawn(tmp_path: Path) -> None:
    source = build(tmp_path, ["png/ufo/9.png", "ImageResized/ufo/a.jpg"])
    svg = tmp_path / "svg" / "ufo"
    svg.mkdir(parents=True)
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 800"><g>'
    line = '<path d="M 200 100 L 200 700" fill="none" stroke="black" stroke-width="16"/></g></svg>'
    (svg / "1.svg").write_text(head + line)
    records = listed("tuberlin", source, svg=True, svg_size=64)
    sketch = next(r for r in records if r.modality == "sketch")
    assert sketch.id == "sketch/ufo/1.svg" and sketch.version.endswith("64 px")
    made = create_dataset(config("tuberlin", source, svg=True, svg_size=64))
    (data,) = made.read([sketch])
    assert isinstance(data, bytes)
    ink = np.asarray(Image.open(io.BytesIO(data)).convert("L")) < 128
    assert ink.shape == (64, 64) and set(np.flatnonzero(ink.any(0))) == {15, 16}, "a quarter from the left"
    (svg / "1.svg").write_bytes(b"<html>\xff")
    (bad,) = made.read([sketch])
    assert isinstance(bad, BadPicture) and "not an SVG drawing" in str(bad)


def test_links_to_folders_are_folders(tmp_path: Path) -> None:
    build(tmp_path / "elsewhere", ["s/cat/1.png", "p/cat/1.png"])
    (tmp_path / "data").mkdir()
    for name, target in (("sketch", "s"), ("photo", "p")):
        (tmp_path / "data" / name).symlink_to(tmp_path / "elsewhere" / target)
    assert [r.id for r in listed("folder", str(tmp_path / "data"))] == ["photo/cat/1.png", "sketch/cat/1.png"]


def test_an_object_may_have_an_empty_part_in_its_name(s3: str) -> None:
    for key in ("odd/sketch/cat/1.png", "odd/photo/cat//9.png"):
        storage.write_bytes(f"{s3}/{key}", png("sketch", len(key)))
    assert [r.path for r in listed("folder", f"{s3}/odd")] == ["photo/cat//9.png", "sketch/cat/1.png"]


def test_pairs_are_found_whatever_the_spelling_of_their_class(tmp_path: Path) -> None:
    source = build(tmp_path, ["sketch/hot air balloon/1.png", "photo/hot-air_balloon/2.png"])
    (tmp_path / "pairs.tsv").write_text("class\tsketch\tphoto\nHot-Air Balloon\t1.png\t2.png\n")
    assert set(instances(listed("folder", source)).values()) == {"hot air balloon/2.png"}


def test_quickdraw_extended_and_spellings(tmp_path: Path) -> None:
    """What the sketches call `sea turtle` and the photos `sea_turtle` is one class."""
    files = ["QuickDraw_sketches_final/sea turtle/5.png", "QuickDraw_images_final/sea_turtle/image_01.jpg"]
    records = listed("quickdraw_extended", build(tmp_path, files))
    assert [r.category for r in records] == ["sea turtle", "sea turtle"]
    assert records[0].path == files[1]


@pytest.mark.parametrize("names", [("Owl", "owl"), ("caf\u00e9", "cafe\u0301")])
def test_two_spellings_of_a_class_on_both_sides_are_named(names: tuple[str, str], tmp_path: Path) -> None:
    """Also where the files have the same names, and in a union of two such data sets."""
    source = build(tmp_path, [f"{m}/{c}/1.png" for m in ("sketch", "photo") for c in names])
    parts = {part: {"adapter": "folder", "source": source} for part in "ab"}
    for found in (config("folder", source), UnionConfig(name="u", split=("x",), parts=parts)):
        categories = {record.category for record in create_dataset(found).records()}
        assert categories == {*names}
        with pytest.raises(ZseError, match="Several class folders name the same class: '.*', '.*'. Merge them"):
            load_split(found, categories)


def test_two_photos_that_become_one_are_both_named(tmp_path: Path) -> None:
    source = build(tmp_path, ["sketch/owl/1.png", "photo/Owl/1.png", "photo/owl/1.png"])
    with pytest.raises(ZseError, match=r"more than once: 'photo/owl/1.png'.*photo/[oO]wl/1.png = photo/[oO]wl/1.png"):
        create_dataset(config("folder", source)).records()


@pytest.mark.parametrize("photo", ["photo", "real"])
def test_domains_of_pacs_and_domainnet(photo: str, tmp_path: Path) -> None:
    files = [f"kfold/{d}/dog/pic_001.jpg" for d in ("sketch", photo, "cartoon", "art_painting")]
    source = build(tmp_path, files)
    assert {r.path for r in listed("domains", source)} == {files[0], files[1]}
    chosen = listed("domains", source, sketch="cartoon", photos=(photo, "art_painting"))
    assert [r.id for r in chosen] == sorted(
        [f"photo/dog/{photo}/pic_001.jpg", "photo/dog/art_painting/pic_001.jpg", "sketch/dog/pic_001.jpg"]
    )


def test_qmul_keeps_its_test_part_apart(tmp_path: Path) -> None:
    shoe = ["trainA/11_1.png", "trainA/11_2.png", "trainB/11.png", "testA/22_1.png", "testB/22.png", "test_noise/3.png"]
    source = build(tmp_path, [f"ShoeV2/{f}" for f in shoe])
    shoes, both = ("shoe test",), ("shoe test", "chair test")
    assert instances(listed("qmul", source, split=shoes)) == {
        "photo/shoe test/22.png": "shoe test/22",
        "photo/shoe/11.png": "shoe/11",
        "sketch/shoe test/22_1.png": "shoe test/22",
        "sketch/shoe/11_1.png": "shoe/11",
        "sketch/shoe/11_2.png": "shoe/11",
    }
    assert len(listed("qmul", f"{source}/ShoeV2", split=shoes)) == 5
    build(tmp_path, ["ChairV2/ChairV2_sketch/7_1.png", "ChairV2/ChairV2_sketch/8_1.png"])
    build(tmp_path, ["ChairV2/ChairV2_photo/7.png", "ChairV2/ChairV2_photo/8.png"])
    for part, number in (("train", 7), ("test", 8)):
        (tmp_path / "ChairV2" / f"sketch_{part}.txt").write_text(f"{number}_1.svg\n")
        (tmp_path / "ChairV2" / f"photo_{part}.txt").write_text(f"{number}.png\n")
    (tmp_path / "ChairV2" / "photo_test.txt").write_text("8.png 9.png\n")
    with pytest.raises(ValueError, match=r"names 1 files that ChairV2_photo does not have: '9'"):
        listed("qmul", source, split=both)
    (tmp_path / "ChairV2" / "photo_test.txt").write_text("8.png 7.png\n")
    with pytest.raises(ValueError, match=r"names 1 files of the training list: '7'"):
        listed("qmul", source, split=both)
    (tmp_path / "ChairV2" / "photo_test.txt").write_text("8.png\n")
    with pytest.raises(ValueError, match=r"lacks \['chair test'\], which would be trained on"):
        listed("qmul", source, split=shoes)
    assert Counter(r.category for r in listed("qmul", source, split=both)) == {
        "shoe": 3,
        "shoe test": 2,
        "chair": 2,
        "chair test": 2,
    }
    every = Counter(r.category for r in listed("qmul", source, split="shoe-v2"))
    split = load_split(config("qmul", source, split="shoe-v2", pseudo_unseen=0.1), every)
    assert (split.training, split.unseen) == (("shoe",), ("shoe test",)), "and neither part of the chairs"
    with pytest.raises(ValueError, match=r"one of \('shoe-v2', 'chair-v2'\), or a list of the test parts"):
        config("qmul", source, split="sketchy-25")
    hat = build(tmp_path / "other", ["trainA/1_1.png", "trainB/1.png"])
    with pytest.raises(ValueError, match="Set dataset.category"):
        listed("qmul", hat)
    assert {r.category for r in listed("qmul", hat, category="hat")} == {"hat"}


def test_a_wrong_layout_says_what_was_expected_and_what_is_there(tmp_path: Path) -> None:
    source = build(tmp_path, ["cats/a/1.png", "dogs/a/1.png"])
    for adapter, expected in (
        ("folder", "Expected sketch .*<class>/<picture>"),
        ("sketchy", "Expected 256x256/sketch/tx_000000000000 or"),
        ("tuberlin", "Expected png_ready or png or sketches"),
        ("qmul", "Expected trainA, trainB"),
        ("domains", "Expected sketch "),
    ):
        with pytest.raises(StorageError, match=rf"{expected}(.|\n)*'cats', 'dogs'"):
            listed(adapter, source)
    with pytest.raises(StorageError, match="has no drawings. Expected <class>.ndjson"):
        listed("quickdraw_strokes", source)
    twice = build(tmp_path / "two", ["a/sketch/c/1.png", "b/sketch/c/1.png"])
    with pytest.raises(StorageError, match=r"sketch was found more than once: \[.*a/sketch.*b/sketch"):
        listed("folder", twice)


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_names_that_systems_and_people_leave(where: str, tmp_path: Path, s3: str) -> None:
    good = [f"sketch/{ODD}/{ODD}.png", f"photo/{ODD}/deeper/[a]*.JPG"]
    litter = [
        *(f"sketch/{ODD}/{name}" for name in (".hidden.png", "Thumbs.db", ".DS_Store", "desktop.ini", "notes.txt")),
        *(f"sketch/{ODD}/{folder}/1.png" for folder in (".ipynb_checkpoints", "@eaDir")),
        "sketch/loose.png",
        "__MACOSX/sketch/a/._1.png",
    ]
    source = build(tmp_path, [*good, *litter])
    (tmp_path / "sketch" / "empty class").mkdir()
    if where == "s3":
        for file in (path for path in tmp_path.rglob("*") if path.is_file()):
            storage.write_bytes(f"{s3}/odd names/{file.relative_to(tmp_path).as_posix()}", file.read_bytes())
        source = f"{s3}/odd names"
    assert {r.path for r in listed("folder", source)} == set(good)


def test_the_examples_of_the_documentation_are_valid() -> None:
    text = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()
    examples = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    adapters = {validate(TINY | example).dataset.adapter for example in examples}
    assert adapters == {adapter_of(kind) for kind in DATASETS} - {"folder", "synthetic", "emoji"}
    assert load_experiment("folder+global", ["dataset.adapter=sketchy"]).dataset.adapter == "sketchy"


# Lists --------------------------------------------------------------------------------------------------------------


def test_lists_say_exactly_what_belongs(tmp_path: Path) -> None:
    source = build(tmp_path / "data", SKETCHY)
    build(tmp_path / "data", ["256x256/photo/tx_000000000000/pig/not listed.jpg"])
    lists = tmp_path / "zeroshot1"
    lists.mkdir()
    photo = "256x256/photo/tx_000000000000_ready/pig/n02395406_3933.jpg 0\n"  # the folder is called otherwise on disk
    copy = "EXTEND_image_sketchy_ready/pig/n02395406_3933.jpg 0\n"
    (lists / "photos.txt").write_text(photo + copy)
    (lists / "sketches.txt").write_text("256x256/sketch/tx_000000000000_ready/pig/n02395406_3933-2.png 0\n")
    (tmp_path / "data/EXTEND_image_sketchy_ready/pig").rename(tmp_path / "data/EXTEND_image_sketchy_ready/Pig")
    (lists / "classes.txt").write_text("pig 0\nhot air balloon 1\n")
    named = {"classes": "classes.txt", "sketches": "sketches.txt", "photos": "photos.txt"}
    raw = TINY | {"dataset": {"adapter": "sketchy", "name": "s", "source": source, "split": ["pig"]}}
    raw["dataset"]["lists"] = [{key: str(lists / file) for key, file in named.items()}]
    dataset = create_dataset(validate(raw).dataset)
    assert [r.id for r in dataset.records()] == [
        "photo/pig/extended/n02395406_3933.jpg",
        "photo/pig/n02395406_3933.jpg",
        "sketch/pig/n02395406_3933-2.png",
    ]
    for lines, message in (
        (photo + "\n256x256/photo/tx_000000000000/pig/gone.jpg 0\n", r"names 1 files .*row 3: '256x256.*pig/gone.jpg'"),
        (photo + "\n256x256/photo/tx_000000000000/pig/a b.jpg 7\n", "row 3 has the class id 7, which .*classes"),
        (photo + photo, "dataset.lists has 1 pictures more than once: 'photo/pig/n02395406_3933.jpg'"),
        ("pig.jpg\n", "row 1 must be `<path or class name> <class id>`"),
        ("\n", "is empty"),
    ):
        (lists / "photos.txt").write_text(lines)
        with pytest.raises(ValueError, match=message):
            dataset.records()


# Strokes ------------------------------------------------------------------------------------------------------------


def line(key: int, drawing: Any, recognized: bool = True, **more: Any) -> str:
    return json.dumps({"word": "w", "key_id": str(key), "recognized": recognized, "drawing": drawing, **more}) + "\n"


CORNER = [[[10, 10, 200], [10, 200, 200]]]  # down, then right: an L
RAW = [[[1.5e3, 1.5e3, 3.4e3], [-70.25, 1829.75, 1829.75], [0, 40, 99]]]  # the same shape elsewhere


def strokes_folder(root: Path) -> str:
    root.mkdir(exist_ok=True)
    (root / "sea turtle.ndjson").write_text(line(3, CORNER) + "\n" + line(1, RAW, False) + line(2, RAW) + line(4, []))
    (root / "full_simplified_cat.ndjson").write_text(line(7, CORNER) + line(8, CORNER)[:40])
    return str(root)


def pixels(data: bytes | Exception) -> np.ndarray:
    assert isinstance(data, bytes)
    return np.asarray(Image.open(io.BytesIO(data)))


def test_strokes_are_listed_by_line_and_drawn(tmp_path: Path) -> None:
    source = strokes_folder(tmp_path / "strokes")
    dataset = create_dataset(config("quickdraw_strokes", source, size=64, line_width=4))
    records = dataset.records()
    ids = ["cat/7", "cat/8", "sea turtle/2", "sea turtle/3", "sea turtle/4"]
    assert [r.id for r in records] == [f"sketch/{i}" for i in ids]
    cat, cut, raw, simple, empty = dataset.read(records)
    assert isinstance(cut, BadPicture) and isinstance(empty, BadPicture) and "no points" in str(empty)
    drawn = pixels(raw)
    assert drawn.shape == (64, 64) and np.array_equal(pixels(simple), pixels(cat))
    assert np.abs(drawn.astype(int) - pixels(simple)).max() <= 64, "the same, but for a quarter of a pixel"
    ink = drawn < 128
    assert ink[6:58, 4:8].all() and ink[56:60, 6:58].all(), "4 px wide, the corner at the lower left, 4 px of paper"
    assert ink[:, 12:].sum() < 4 * 49 and not ink[:4].any() and not ink[:, 60:].any()
    prepare_sketch(raw if isinstance(raw, bytes) else b"", TransformConfig(size=32))

    every = create_dataset(config("quickdraw_strokes", source, recognized_only=False)).records()
    assert len(every) == len(records) + 1 and {r.version for r in every}.isdisjoint(r.version for r in records)
    assert len(create_dataset(config("quickdraw_strokes", source, limit=1)).records()) == 2


@pytest.mark.parametrize("value", ["false", '"false"', '"False"', "0", '"0"', "true", '"true"', "1"])
def test_whether_a_drawing_was_recognised_may_be_text(value: str, tmp_path: Path) -> None:
    (tmp_path / "cat.ndjson").write_text(line(1, CORNER) + line(2, CORNER).replace("true", value))
    kept = value.strip('"') in ("true", "1")
    for only, count in ((True, 1 + kept), (False, 2)):
        made = config("quickdraw_strokes", str(tmp_path), recognized_only=only)
        assert len(create_dataset(made).records()) == count


def test_strokes_with_photos_from_elsewhere(tmp_path: Path) -> None:
    source, photos = strokes_folder(tmp_path / "s"), build(tmp_path / "p", ["sea_turtle/1.jpg", "cat/1.jpg"])
    dataset = create_dataset(config("quickdraw_strokes", source, photos=photos, limit=1))
    records = dataset.records()
    assert Counter(r.category for r in records) == {"sea turtle": 2, "cat": 2}
    assert all(isinstance(data, bytes) for data in dataset.read(records))


@pytest.mark.parametrize("where", ["memory", "s3"])
def test_reading_a_few_drawings_fetches_their_lines_alone(
    where: str, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = {"memory": "memory://strokes", "s3": f"{s3}/strokes"}[where]
    for file in Path(strokes_folder(tmp_path / "s")).iterdir():
        storage.write_bytes(storage.join(root, file.name), file.read_bytes())
    dataset = create_dataset(config("quickdraw_strokes", root, size=32))
    records = dataset.records()
    fs, _ = storage.filesystem(root)
    name = "_cat_file" if fs.async_impl else "cat_file"
    whole: Callable[..., Any] = getattr(type(fs), name)
    asked = []

    def counted(self: Any, path: str, start: int | None = None, end: int | None = None, **more: Any) -> Any:
        asked.append((start, end))
        return whole(self, path, start=start, end=end, **more)

    monkeypatch.setattr(type(fs), name, counted)
    here = create_dataset(config("quickdraw_strokes", str(tmp_path / "s"), size=32))
    expected, got = here.read(here.records()), dataset.read(records)
    assert [d if isinstance(d, bytes) else type(d) for d in got] == [
        d if isinstance(d, bytes) else type(d) for d in expected
    ]
    assert [end - start for start, end in asked] == [r.size for r in records]


def test_real_quick_draw_files() -> None:
    source = SHARED / "data" / "quickdraw_strokes" / "ndjson"
    if not source.is_dir():
        pytest.skip(f"needs real Quick, Draw! files in {source}; what the tests above drew has their format")
    dataset = create_dataset(config("quickdraw_strokes", str(source), limit=2))
    records = dataset.records()
    assert len({r.category for r in records}) == 344 and "sea turtle" in {r.category for r in records}
    for data in dataset.read(records[::43]):
        ink = pixels(data) < 128
        rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
        assert max(np.ptp(rows), np.ptp(columns)) in (222, 223, 224), "the longer side fills 256 px but for 1/16 a side"
        assert 0.005 < ink.mean() < 0.2


# Archives -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZSE_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


def pack(folder: Path, archive: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as out:
            for path, name in zip(files, names, strict=True):
                out.write(path, name)
    elif archive.suffix == ".7z":
        with py7zr.SevenZipFile(archive, "w") as out:
            for path, name in zip(files, names, strict=True):
                out.write(path, name)
    else:
        with tarfile.open(archive, f"w:{archive.suffix[1:].replace('tgz', 'gz').replace('tar', '')}") as out:
            for path, name in zip(files, names, strict=True):
                out.add(path, name)
    return str(archive)


@pytest.mark.parametrize("ending", [".zip", ".7z", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"])
def test_an_archive_is_unpacked_once_and_found_again(
    ending: str, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "data", [f"Sketchy/{f}" for f in SKETCHY])
    folder = listed("sketchy", str(tmp_path / "data"))
    archive = pack(tmp_path / "data", tmp_path / f"my Sketchy{ending}")
    records = listed("sketchy", archive)
    assert [(r.id, r.path, r.instance) for r in records] == [(r.id, r.path, r.instance) for r in folder]
    assert [p.name for p in scratch.iterdir() if p.is_dir()] == [f"my_Sketchy-{records[0].version}"]
    monkeypatch.setattr(archives, "_publish", lambda *_: pytest.fail("unpacked twice"))
    assert listed("sketchy", archive) == records


def test_of_several_that_need_an_archive_one_unpacks_it(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "data", ["sketch/a/1.png"])
    archive = pack(tmp_path / "data", tmp_path / "a.zip")
    publish, calls = archives._publish, []

    def slow(url: str, folder: Path, size: int) -> None:
        calls.append(folder)
        (Path(f"{folder}.partial") / "content" / "of a process that died").mkdir(parents=True)
        time.sleep(0.1)
        publish(url, folder, size)

    monkeypatch.setattr(archives, "_publish", slow)
    with ThreadPoolExecutor(4) as pool:
        folders = {o.folder for o in pool.map(archives.opened, [archive] * 4)}
    assert len(calls) == 1 and folders == {str(calls[0])}
    assert sorted(p.relative_to(calls[0]).as_posix() for p in calls[0].rglob("*")) == [
        "sketch",
        "sketch/a",
        "sketch/a/1.png",
    ]


def test_sketches_and_photos_in_two_archives_on_s3(tmp_path: Path, scratch: Path, s3: str) -> None:
    build(tmp_path / "a", ["png/ufo/1.png"])
    build(tmp_path / "b", ["ImageResized/ufo/1.jpg"])
    for name, folder in (("sketches_png.zip", "a"), ("photos.tgz", "b")):
        storage.write_bytes(f"{s3}/{name}", Path(pack(tmp_path / folder, tmp_path / name)).read_bytes())
    urls = (f"{s3}/sketches_png.zip", f"{s3}/photos.tgz")
    records = listed("tuberlin", urls)
    assert [r.path for r in records] == ["1//ImageResized/ufo/1.jpg", "0//png/ufo/1.png"]
    with pytest.raises(StorageError, match="gone.zip does not exist: no file and no folder"):
        listed("tuberlin", f"{s3}/gone.zip")


@pytest.mark.parametrize("ending", ["tar", "tgz", "tar.xz"])
@pytest.mark.parametrize("damage", ["cut between files", "cut in a header", "a broken header"])
def test_a_damaged_tar_is_refused_and_loses_no_picture(ending: str, damage: str, tmp_path: Path, scratch: Path) -> None:
    build(tmp_path / "data", [f"{m}/a/{i}.png" for m in ("sketch", "photo") for i in range(4)])
    whole = Path(pack(tmp_path / "data", tmp_path / "whole.tar")).read_bytes()
    with tarfile.open(tmp_path / "whole.tar") as archive:
        middle = archive.getmembers()[4].offset
    data = {
        "cut between files": whole[:middle],
        "cut in a header": whole[: middle + 100],
        "a broken header": whole[:middle] + b"x" * 512 + whole[middle + 512 :],
    }[damage]
    squeeze = {"tar": bytes, "tgz": gzip.compress, "tar.xz": lzma.compress}[ending]
    (tmp_path / f"damaged.{ending}").write_bytes(squeeze(data))
    with pytest.raises(ArchiveError, match="truncated or damaged after 4 files.*Fetch it again"):
        listed("folder", str(tmp_path / f"damaged.{ending}"))
    assert not [p for p in scratch.iterdir() if p.is_dir()]


def zip_without_mark(path: Path, *names: bytes) -> str:
    """A ZIP of pictures under these names, as other tools write it: nothing says in which encoding they are."""
    with zipfile.ZipFile(path, "w") as out:
        for i, name in enumerate(names):
            out.writestr(zipfile.ZipInfo(f"{i}".rjust(len(name), "x")), b"x")
    data = path.read_bytes()
    for i, name in enumerate(names):
        data = data.replace(f"{i}".rjust(len(name), "x").encode(), name)
    path.write_bytes(data)
    return str(path)


def test_names_in_a_zip_are_utf8_where_they_are_utf8(
    tmp_path: Path, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def classes(archive: str) -> set[str]:
        return {path.parent.name for path in Path(archives.opened(archive).folder).rglob("*.png")}

    mac = zip_without_mark(tmp_path / "mac.zip", "sketch/猫/1.png".encode(), "photo/Müller/1.png".encode())
    assert classes(mac) == {"猫", "Müller"}
    assert "437" not in capsys.readouterr().err
    dos = zip_without_mark(tmp_path / "dos.zip", *(f"{m}/Müller/1.png".encode("cp437") for m in ("sketch", "photo")))
    assert classes(dos) == {"Müller"}
    assert "2 names in" in (said := capsys.readouterr().err) and said.count("read as code page 437") == 1
    evil = zip_without_mark(tmp_path / "evil.zip", "sketch/猫/../../../é.png".encode())
    with pytest.raises(ArchiveError, match="which leads out of the folder"):
        archives.opened(evil)


def hostile_tar(path: Path, **fields: Any) -> None:
    with tarfile.open(path, "w") as out:
        member = tarfile.TarInfo("sketch/a/ok.png")
        for name, value in fields.items():
            setattr(member, name, value)
        out.addfile(member)


def hostile_zip(path: Path, name: str = "sketch/a/1.png", mode: int = 0o100644) -> None:
    with zipfile.ZipFile(path, "w") as out:
        member = zipfile.ZipInfo(name)
        member.external_attr = mode << 16
        out.writestr(member, b"../../../etc/passwd")


def hostile_7z(path: Path) -> None:
    link = path.with_name("link.png")
    link.symlink_to("/etc/passwd")
    with py7zr.SevenZipFile(path, "w") as out:
        out.write(link, "sketch/a/1.png")


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("x.tar", lambda p: hostile_tar(p, name="../evil.png"), "'../evil.png', which leads out"),
        ("x.tar", lambda p: hostile_tar(p, name="/evil.png"), "'/evil.png', which leads out"),
        ("x.tar", lambda p: hostile_tar(p, type=tarfile.SYMTYPE, linkname="/etc"), "link or a device"),
        ("x.tar", lambda p: hostile_tar(p, type=tarfile.LNKTYPE, linkname="../../x"), "link or a device"),
        ("x.tar", lambda p: hostile_tar(p, type=tarfile.CHRTYPE), "link or a device"),
        ("x.zip", lambda p: hostile_zip(p, "a/../../evil.png"), "which leads out"),
        ("x.zip", lambda p: hostile_zip(p, "a\\..\\..\\evil.png"), "which leads out"),
        ("x.zip", lambda p: hostile_zip(p, "C:/evil.png"), "which leads out"),
        ("x.zip", lambda p: hostile_zip(p, mode=0o120777), "link or a device"),
        ("x.7z", hostile_7z, "link or a device"),
        ("x.zip", lambda p: p.write_bytes(b"<html>404</html>"), "cannot be unpacked: BadZipFile"),
        ("x.tgz", lambda p: p.write_bytes(b"\x1f\x8b\x08\x00"), "cannot be unpacked: "),
        ("x.7z", lambda p: p.write_bytes(b"7z"), "cannot be unpacked: "),
    ],
)
def test_hostile_and_damaged_archives_leave_nothing(
    name: str, make: Callable[[Path], Any], message: str, tmp_path: Path, scratch: Path
) -> None:
    (tmp_path / "in").mkdir()
    make(tmp_path / "in" / name)
    with pytest.raises(ArchiveError, match=message):
        listed("folder", str(tmp_path / "in" / name))
    assert [p for p in scratch.rglob("*") if p.suffix != ".lock"] == []
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("ending", [".zip", ".7z", ".tgz"])
def test_a_bomb_is_stopped_at_the_limit(
    ending: str, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "zeros.png").write_bytes(bytes(3_000_000))
    archive = pack(tmp_path / "data", tmp_path / f"bomb{ending}")
    monkeypatch.setattr(archives, "MAX_BYTES", 2_000_000)
    with pytest.raises(ArchiveError, match="unpacks to more than .* Set ZSE_SCRATCH"):
        listed("folder", archive)
    assert [p for p in scratch.rglob("*") if p.suffix != ".lock"] == []


# Through ingest -----------------------------------------------------------------------------------------------------


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_an_archive_and_a_bucket_of_strokes_go_through_ingest(tmp_path: Path, scratch: Path, s3: str) -> None:
    """Only here do Ray's ingest workers open an archive and read byte ranges of a bucket."""
    build(tmp_path / "data", SKETCHY)
    archive = pack(tmp_path / "data", tmp_path / "sketchy.zip")
    root = f"{s3}/ingested"
    for file in Path(strokes_folder(tmp_path / "s")).iterdir():
        storage.write_bytes(storage.join(root, file.name), file.read_bytes())
    for dataset, counts, skipped in (
        (
            {"adapter": "sketchy", "source": archive},
            {"hot-air_balloon": {"photo": 1, "sketch": 1}, "pig": {"photo": 2, "sketch": 2}},
            0,
        ),
        ({"adapter": "quickdraw_strokes", "source": root}, {"cat": {"sketch": 1}, "sea turtle": {"sketch": 2}}, 2),
    ):
        raw = TINY | {"dataset": {"name": "x", "split": ["a"], **dataset}, "ingest": {"max_bad_fraction": 0.5}}
        images = ingest(validate(raw), str(tmp_path / "w"))
        assert images.counts == counts
        assert len(images.skipped) == skipped and images.source == dataset["source"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("s3://bucket/Shoes 2026/", "shoes-2026"),
        ("/data/Sketchy.tar.gz", "sketchy"),
        ("s3://bucket", "bucket"),
        ("s3://KEY:SECRET@bucket/", "bucket"),
        ("https://host/Shoes.zip?X-Amz-Signature=abc", "shoes"),
        (("/data/first", "/data/second"), "first"),
        ("/data/каталог", "folder"),
        ("/data/.hidden", "hidden"),
    ],
)
def test_a_folder_gives_its_data_set_a_name(source: str | tuple[str, ...], name: str) -> None:
    assert FolderConfig(source=source, split="all").name == name
    assert FolderConfig(source=source, split="all", name="mine").name == "mine"
