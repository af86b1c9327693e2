"""Whatever lies in people's folders and buckets: each file has a stated outcome, nothing is lost, nothing hangs."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from pipelines.config.experiment import ExperimentConfig
from pipelines.datasets.base import ImageRecord
from pipelines.datasets.registry import create_dataset
from pipelines.ingest.prepare import packed, write_images
from pipelines.ingest.stage import ingest, plan_ingest
from pipelines.run import run
from pipelines.runtime.errors import StorageError
from pipelines.store import storage
from pipelines.workspace.images import Images
from pipelines.workspace.kept import complete
from pipelines.workspace.parts import batched_parts, open_part, read_parts
from pipelines.workspace.pictures import decode_pixels
from tests.conftest import tiny_folder
from tests.helpers.faulty_store import FaultyStore
from tests.zse_model.test_transforms import BAD, SAME_DRAWING, as_bytes, drawing, scene
from zse_model.transforms import TransformConfig, prepare_photo, prepare_sketch

PNG = as_bytes(drawing())
JPEG = as_bytes(scene(), "JPEG")


def put(root: Path, path: str, data: bytes = PNG) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


# What is listed -----------------------------------------------------------------------------------------------------


def test_links_are_followed_and_loops_of_links_end(tmp_path: Path) -> None:
    photos, elsewhere = tmp_path / "photo", tmp_path / "elsewhere"
    for path in ("photo/cat/1.png", "photo/a/2.png", "photo/b/3.png", "elsewhere/4.png", "elsewhere/dog/5.png"):
        put(tmp_path, path)
    for link, target in {
        "cat/up": photos,  # into itself
        "cat/further up": tmp_path,
        "cat/here": photos / "cat",
        "cat/itself.png": photos / "cat" / "itself.png",
        "cat/nowhere.png": photos / "gone.png",
        "cat/file.png": elsewhere / "4.png",
        "cat/zeros.png": Path("/dev/zero"),  # would be read for ever
        "dog": elsewhere / "dog",
        "a/b": photos / "b",  # into each other
        "b/a": photos / "a",
    }.items():
        (photos / link).symlink_to(target)
    os.mkfifo(photos / "cat" / "pipe.png")  # would be waited for
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(photos / "cat" / "socket.png"))  # such a path may have 107 bytes only
    real = {"cat/1.png", "cat/file.png", "dog/5.png", "a/2.png", "b/3.png", "a/b/3.png", "b/a/2.png"}
    broken = {"cat/itself.png", "cat/nowhere.png"}
    found = list(storage.list_files(str(photos)))
    assert len(found) == len(real | broken) and {file.path for file in found} == real | broken
    assert storage.folders(str(photos)) == ["a", "b", "cat", "dog"]
    assert storage.names(str(photos / "cat")) == {"1.png", "file.png"}
    data = dict(zip(sorted(real | broken), storage.read_many(str(photos), sorted(real | broken)), strict=True))
    assert {path for path, content in data.items() if content == PNG} == real
    assert all(isinstance(data[path], FileNotFoundError) for path in broken)
    before = {file.path: file.version for file in found}
    os.utime(elsewhere / "4.png", (1, 1))
    after = {file.path: file.version for file in storage.list_files(str(photos))}
    assert {path for path in before if before[path] != after[path]} == {"cat/file.png"}, (
        "a link's version is its file's"
    )

    (tmp_path / "set").mkdir()
    for name in ("sketch", "photo"):
        (tmp_path / "set" / name).symlink_to(photos)
    assert len(create_dataset(tiny_folder(str(tmp_path / "set"), ["a"]).dataset).records()) == 2 * len(found)


@pytest.fixture
def as_somebody() -> Iterator[Path]:
    """A folder for a user whom permissions bind: root becomes `nobody` meanwhile."""
    folder = Path(tempfile.mkdtemp())
    if os.geteuid():
        yield folder
    else:
        folder.chmod(0o777)
        os.seteuid(65534)
        yield folder
        os.seteuid(0)
    shutil.rmtree(folder)


PART = "part.parquet"


def write_part(config: ExperimentConfig, records: list[ImageRecord], folder: Path) -> dict[str, Any]:
    """One ingest task, in this process."""
    task = {"parts": packed({PART: [record.values() for record in records]})}
    settings = {"transforms": config.transforms, "ingest": config.ingest}
    return write_images(task, folder=str(folder), dataset=config.dataset, **settings)


def test_what_may_not_be_read_stops_the_job_and_is_read_once_it_may(as_somebody: Path) -> None:
    """Never skipped: a corrected permission changes neither size nor time, so nobody would look again."""
    source = as_somebody / "data"
    config = tiny_folder(str(source), ["cat"])
    put(source, "photo/cat/1.jpg", JPEG)
    file, folder = put(source, "sketch/cat/1.png"), source / "sketch" / "cat"
    records = create_dataset(config.dataset).records()
    file.chmod(0)
    with pytest.raises(PermissionError, match=r"sketch/cat/1.png"):
        write_part(config, records, as_somebody / "w")
    assert not (as_somebody / "w").exists()
    file.chmod(0o600)
    assert write_part(config, records, as_somebody / "w")["skipped"] == "[]"
    folder.chmod(0)
    try:
        with pytest.raises(PermissionError, match="sketch/cat"):
            create_dataset(config.dataset).records()
    finally:
        folder.chmod(0o700)


def test_a_name_that_is_no_text_and_a_link_to_nothing_are_skipped_and_named(tmp_path: Path) -> None:
    """Archives of old systems leave Latin-1 names; no Parquet file could hold them."""
    config = tiny_folder(str(tmp_path), ["cat"])
    put(tmp_path, "photo/cat/1.jpg", JPEG)
    put(tmp_path, "sketch/cat/1.png")
    put(tmp_path, "sketch/cat/two\nlines\t.png")
    (tmp_path / "sketch" / "cat" / "gone.png").symlink_to("nowhere.png")
    put(tmp_path, os.fsdecode(b"sketch/cat/\xe9t\xe9.png"))
    records = create_dataset(config.dataset).records()
    done = write_part(config, records, tmp_path / "w")
    kept = open_part(str(tmp_path / "w" / PART)).read(columns=["id"])["id"].to_pylist()
    assert kept == ["photo/cat/1.jpg", "sketch/cat/1.png", "sketch/cat/two\nlines\t.png"]
    assert {line["uri"]: line["reason"] for line in json.loads(done["skipped"])} == {
        "sketch/cat/gone.png": "FileNotFoundError: cannot be read",
        "sketch/cat/\\udce9t\\udce9.png": "its name is not UTF-8: rename it",
    }


def test_a_key_with_an_empty_part_is_read(s3: str) -> None:
    config = tiny_folder(f"{s3}/slashes", ["cat"])
    keys = ["photo/cat//1.jpg", "sketch/cat/a///1.png"]
    for key in keys:
        storage.write_bytes(f"{s3}/slashes/{key}", key.encode())
    dataset = create_dataset(config.dataset)
    records = dataset.records()
    assert [(r.path, r.category) for r in records] == [(key, "cat") for key in keys]
    assert dataset.read(records) == [key.encode() for key in keys]


# Through ingest -----------------------------------------------------------------------------------------------------

NAMES = (
    "a b.png",
    "50%20#1?x=y&z.png",
    "ünï漢字😀.png",
    "é.png",
    "e\u0301.png",  # the same to the eye
    "n" * 251 + ".png",
    "漢" * 83 + "ab.png",  # 255 bytes, too
    "[1]*.png",
    "-rf.png",
    "back\\slash.png",
    "'\"$(x)`.png",
    "CAPITALS.PNG",
)
TWINS = ("twin.png", "twin.jpg", "twin.jpg.png", "Twin.png")
ODD_CLASSES = ("50% #1? [été]*", "c" * 255, "7")


def hairline(shade: int) -> bytes:
    picture = Image.new("L", (400, 400), 255)
    ImageDraw.Draw(picture).ellipse([20, 20, 380, 380], outline=shade)
    return as_bytes(picture)


def thin() -> Image.Image:
    picture = Image.new("L", (1, 4000), 255)
    picture.paste(0, (0, 1000, 1, 3000))
    return picture


def animated(form: str) -> bytes:
    first = drawing().convert("RGB")
    return as_bytes(first, form, save_all=True, append_images=[ImageOps.mirror(first)], duration=100)


SKETCHES = {
    **{f"{case}.png": make() for case, make in SAME_DRAWING.items()},
    **{name: PNG for name in (*NAMES, *TWINS)},
    "animated.gif": animated("GIF"),
    "animated.webp": animated("WEBP"),
    "a png.jpg": PNG,
    "hairline.png": hairline(200),
    "1x4000.png": as_bytes(thin()),
    "4000x1.png": as_bytes(thin().transpose(Image.Transpose.ROTATE_90)),
}
PHOTOS = {**{name: JPEG for name in (*NAMES, *TWINS)}, "a jpeg.png": JPEG, "1x4000.jpg": as_bytes(thin(), "JPEG")}
NO_INK = {"white.png": 255, "black.png": 0}
CLASSES = {  # class: its sketches, its photos
    "odd": (len(SKETCHES), len(PHOTOS)),
    "bad": (0, len(NO_INK)),
    **{name: (1, 1) for name in ODD_CLASSES},
    "one and one": (1, 1),
    "another one": (1, 1),
    "sketches only": (1, 0),
    "photos only": (0, 1),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that can be wrong, and not wrong, with a file."""
    root = tmp_path_factory.mktemp("all of it")
    for modality, files in (("sketch", SKETCHES), ("photo", PHOTOS)):
        for name, data in files.items():
            put(root, f"{modality}/odd/{name}", data)
        for name, (data, _) in BAD.items():
            put(root, f"{modality}/bad/{name}.png", data)
        for name, shade in NO_INK.items():
            put(root, f"{modality}/bad/{name}", as_bytes(Image.new("L", (40, 40), shade)))
        (root / modality / "empty").mkdir()
        (root / modality / "empty.png").mkdir()
    for i, name in enumerate((*ODD_CLASSES, "one and one", "another one", "sketches only", "photos only")):
        if name != "photos only":  # other bytes each: an unseen class may not hold a training picture
            put(root, f"sketch/{name}/1.png", as_bytes(drawing(side=210 + i)))
        if name != "sketches only":
            put(root, f"photo/{name}/1.jpg", as_bytes(scene(310 + i), "JPEG"))
    return root


def config_of(source: str) -> ExperimentConfig:
    return tiny_folder(
        source,
        ["one and one", "7"],
        dataset={"held_back": 0},
        ingest={"part_size": 20, "max_bad_fraction": 0.3},
        shard={"items": 12, "part_size": 12},
        methods=METHODS,
        train={"steps": 2, "checks": 1},
    )


METHODS = {"global": {"dim": 16, "readout": "head"}, "zse_sbir": {"dim": 16, "heads": 2, "ffn": 16}}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def images(source: Path, workspace: str, ray_cluster: None) -> Images:
    return ingest(config_of(str(source)), workspace)


def parts(folder: str) -> dict[str, bytes]:
    return {name: storage.read_bytes(storage.join(folder, name)) for name in storage.names(folder) if "part-" in name}


@pytest.mark.ray
def test_every_file_has_its_outcome(images: Images) -> None:
    found = images.manifest
    counts = {c: {k: n for k, n in (("sketch", s), ("photo", p)) if n} for c, (s, p) in CLASSES.items()}
    assert found["counts"] == counts
    skipped = {line["uri"]: line["reason"] for line in found["skipped"]}
    reasons = {
        f"{modality}/bad/{name}.png": reason for name, (_, reason) in BAD.items() for modality in ("sketch", "photo")
    }
    reasons |= {f"sketch/bad/{name}": "blank: no ink" for name in NO_INK}
    assert set(skipped) == set(reasons)
    for uri, reason in reasons.items():
        assert re.match(reason, skipped[uri]), uri
    assert found["listed"] == found["pictures"] + len(skipped)

    plain = {
        "sketch": prepare_sketch(PNG, TransformConfig(size=32)),
        "photo": prepare_photo(JPEG, TransformConfig(size=32)),
    }
    rows = [
        row
        for part in read_parts(images.url, sorted(images.parts), ["id", "modality", "data"])
        for row in part.to_pylist()
    ]
    assert {row["id"] for row in rows} >= {f"photo/odd/{name}" for name in PHOTOS}
    for row in rows:
        pixels = decode_pixels(row["data"])
        if not any(name in row["id"] for name in ("hairline", "1x4000", "4000x1", "bad/")):
            assert np.abs(pixels.astype(int) - plain[row["modality"]]).mean() < 8, row["id"]
        elif row["modality"] == "sketch":
            assert (pixels < 64).any(), row["id"]


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_a_store_with_faults_gives_the_same_bytes_and_loses_nothing(
    images: Images, source: Path, s3: str, store: FaultyStore
) -> None:
    """First faults for good, then such as pass; against the folder's parts, which nobody disturbed."""
    url, workspace = f"{s3}/hostile/all of it", f"{s3}/hostile/workspace"
    for file in (path for path in source.rglob("*") if path.is_file()):
        storage.write_bytes(f"{url}/{file.relative_to(source).as_posix()}", file.read_bytes())
    config, expected = config_of(url), parts(images.url)

    plan = plan_ingest(config, workspace)
    folder, planned = plan.folder, plan.parts
    tasks = batched_parts([len(records) for records in planned.values()], config.ingest.part_size)
    assert len(tasks) > 4, "more than this Ray has CPUs: some are written before the last begins"
    hit, uris = list(planned)[-1], [record.path for record in list(planned.values())[-1]]
    store.fail("truncated", f"/{re.escape(uris[-1])}$")
    with pytest.raises(StorageError, match=f"^{url}/{re.escape(uris[-1])} cannot be used: ClientPayloadError"):
        ingest(config, workspace)
    kept = parts(folder)
    assert 0 < len(kept) < len(expected) and set(kept.values()) <= set(expected.values())
    assert not complete(folder)

    store.clear()
    for kind, times, uri in zip(("expired", "truncated", "reset", "late"), (1, 2, 2, 1), uris, strict=False):
        store.fail(kind, f"GET /zse/hostile/all of it/{re.escape(uri)}$", times)
    store.fail("slow down", "GET .*list-type", times=2)
    store.fail("slow down", f"PUT .*{hit}", times=1)
    store.fail("reset", f"PUT .*{hit}", times=1)
    store.fail("truncated", f"GET .*{hit}", times=1)
    there = ingest(config, workspace)
    assert there.url == folder
    assert not any(fault.times for fault in store.faults)
    assert not any(request.startswith("PUT") and name in request for request in store.asked for name in kept)
    assert sorted(parts(folder).values()) == sorted(expected.values())
    assert there.source == url and list(there.parts)[-1] == hit
    names = {"source": url, "key": there.key, "shards": there.manifest["shards"]}
    assert {**images.manifest, **names} == there.manifest, "but for the names: ETags are not times"


@pytest.mark.ray
def test_classes_of_one_picture_are_trained_and_tested_and_empty_ones_left_out(
    images: Images, source: Path, workspace: str
) -> None:
    out = run(config_of(str(source)), workspace)
    assert out.images == images
    assert out.pairs is not None
    assert out.pairs.left_out == ["bad", "photos only", "sketches only"]
    assert out.pairs.classes == sorted(["odd", "another one", "50% #1? [été]*", "c" * 255])
    values = {(r["method"], r["metric"], r["queries"], r["gallery"]): r["value"] for r in out.rows()}
    for method in METHODS:
        (value,) = (v for (m, metric, q, g), v in values.items() if (m, metric, q, g) == (method, "mAP_all", 2, 2))
        assert 0.5 <= value <= 1
