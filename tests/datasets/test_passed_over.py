"""What a listing leaves out is counted and named, and names of any bytes are printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from pipelines.cli.app import app
from pipelines.datasets.tree import is_picture, unreadable
from pipelines.ingest.stage import ingest, plan_ingest
from pipelines.runtime.redaction import printable, shown
from pipelines.search import search as job
from pipelines.workspace.ids import as_path
from pipelines.workspace.photo_index import PhotoIndex
from tests.conftest import tiny_folder
from tests.zse_model.test_transforms import as_bytes, drawing, scene
from zse_model.backbones import BackboneConfig
from zse_model.checkpoint import Checkpoint, save_checkpoint
from zse_model.methods import METHODS, create_method
from zse_model.split import ZeroShotSplit
from zse_model.transforms import ENDINGS, TransformConfig

PNG, JPEG = as_bytes(drawing()), as_bytes(scene(), "JPEG")
READ = {
    **{"1.JPG": JPEG, "2.jpe": JPEG, "3.jfif": JPEG, "4.apng": PNG, "5.PPM": as_bytes(scene(), "PPM")},
    **{"6.avif": as_bytes(scene(), "AVIF"), "7.pgm": as_bytes(scene().convert("L"), "PPM"), "8.mpo": JPEG},
    "9.pbm": as_bytes(drawing().convert("1"), "PPM"),
}
OTHERS = ("1.heic", "2.heic", "3.jp2", "picture", "notes.txt", "Thumbs.db", ".hidden", "a. long text after a point")
SAID = (
    "2 .heic (ant/1.heic), 2 without ending (ant/a. long text after a point), 1 .jp2 (ant/3.jp2), "
    "1 .txt (ant/notes.txt)"
)
PASSED = "Passed over 3 files: 2 without ending (ant/a. long text after a point), 1 .txt (ant/notes.txt)"
SKIPPED = "Skipped 3 of 13 files:\n  ant/1.heic: HEIC is not read"
NAMES = (os.fsdecode(b"\xe9t\xe9.png"), "two\nlines.png", "\x1b[2Jred.png", "\u202egnp.png", "漢字😀.png")
SPELLED = ("\\udce9t\\udce9.png", "two\\nlines.png", "\\x1b[2Jred.png", "\\u202egnp.png", "漢字😀.png")


def put(root: Path, path: str, data: bytes = b"x") -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Untrained."""
    folder = tmp_path_factory.mktemp("checkpoint")
    method = create_method("global", METHODS["global"].Config(), BackboneConfig(name="test_resnet"), size=32, classes=2)
    split = ZeroShotSplit(name="s", citation="c", seen=("a", "b"), unseen=("c",))
    made = Checkpoint(
        name="global",
        method=method.eval(),
        transforms=TransformConfig(size=32),
        split=split,
        seen_pictures=torch.zeros(0, dtype=torch.int64),
        training={"run": "x"},
    )
    save_checkpoint(made, folder)
    return str(folder)


def searched(checkpoint: str, tmp_path: Path, gallery: Path, *options: str) -> tuple[int, str, str]:
    put(tmp_path, "drawing.png", PNG)
    places = ["--sketch", str(tmp_path / "drawing.png"), "--gallery", str(gallery), "-c", checkpoint]
    outputs = ["-w", str(tmp_path / "w"), "-o", str(tmp_path / "sheet.png")]
    found = CliRunner().invoke(app, ["search", *places, *outputs, *options])
    return found.exit_code, found.stdout, found.stderr + str(found.exception or "")


def test_every_ending_that_is_decoded_is_read_and_others_are_counted(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "set"
    for name, data in READ.items():
        put(source, f"photo/ant/{name}", data)
    for name in OTHERS:
        put(source, f"photo/ant/{name}")
    put(source, "photo/loose.jpg", JPEG)
    put(source, "sketch/ant/1.png", PNG)
    parts = plan_ingest(tiny_folder(str(source), ["ant"]), str(tmp_path / "w")).parts
    assert sum(len(records) for records in parts.values()) == len(READ) + 1
    said = " ".join(capsys.readouterr().err.split())
    assert "Passed over 7 files: " in said and "1 in no class folder (photo/loose.jpg)" in said
    assert "2 .heic (photo/ant/1.heic)" in said and "2 without ending" in said and "Thumbs" not in said

    told = CliRunner().invoke(app, ["datasets", "doctor", str(source)])
    assert "1 sketches and 9 photos" in told.stdout and ", 0 cannot be used" in told.stdout
    assert "Passed over 7 files: " in told.stderr

    code, found, said = searched(checkpoint, tmp_path, source / "photo")
    assert code == 0 and len(found.splitlines()) == len(READ) + 1 and PASSED in said and SKIPPED in said
    embedded = CliRunner().invoke(
        app, ["embed", "--gallery", str(source / "photo"), "-c", checkpoint, "-w", str(tmp_path / "w")]
    )
    assert embedded.exit_code == 0 and PASSED in embedded.stderr and "Skipped" not in embedded.stderr, "named once"


def test_a_folder_of_other_files_says_what_they_are(checkpoint: str, tmp_path: Path) -> None:
    for name in OTHERS:
        put(tmp_path, f"photo/ant/{name}")
    put(tmp_path, "sketch/ant/1.png", PNG)
    told = CliRunner().invoke(app, ["datasets", "doctor", str(tmp_path)])
    assert told.exit_code == 1 and "found 6 files: 2 .heic (photo/ant/1.heic)" in str(told.exception)
    code, _, said = searched(checkpoint, tmp_path, tmp_path / "photo")
    assert code == 1 and "holds no pictures" in said and f"there are 6 files: {SAID}" in said


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("Owl", "owl"), "name the same class: 'Owl', 'owl'. Merge them"),
        (("-", "owl"), "names without letter, number or symbol: '-'. Rename them"),
    ],
)
def test_the_doctor_names_classes_that_no_split_can_hold(names: tuple[str, str], said: str, tmp_path: Path) -> None:
    for modality in ("sketch", "photo"):
        for name in names:
            put(tmp_path, f"{modality}/{name}/1.png", PNG)
    told = CliRunner().invoke(app, ["datasets", "doctor", str(tmp_path)])
    assert said in told.stdout and "cannot be used with these class names" in told.output


def test_the_doctor_and_ingest_agree_on_names_that_are_no_text(tmp_path: Path) -> None:
    put(tmp_path, "sketch/owl/1.png", PNG)
    put(tmp_path, "photo/owl/1.png", PNG)
    put(tmp_path, os.fsdecode(b"photo/owl/\xe9.png"), PNG)
    told = CliRunner().invoke(app, ["datasets", "doctor", str(tmp_path)])
    assert "3 of 3 pictures read, 1 cannot be used" in told.stdout and "its name is not UTF-8" in told.stdout


@pytest.mark.parametrize("name", ["x.rar", "x.tar.zst", "x.webarchive", "x.jpg", "ant.ndjson"])
@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_a_file_as_a_source_or_gallery_is_refused_as_one(
    name: str, place: str, checkpoint: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    put(tmp_path, name, JPEG)
    url = str(tmp_path / name)
    if place == "bucket":
        from pipelines.store import storage

        url = f"{request.getfixturevalue('s3')}/{tmp_path.name}/{name}"
        storage.write_bytes(url, JPEG)
    expected = f"{url} is a file. Give a folder, or an archive of pictures: .zip .7z .tar "
    assert expected in str(CliRunner().invoke(app, ["datasets", "doctor", url]).exception)
    assert expected in searched(checkpoint, tmp_path, Path(url) if place == "disk" else url)[2]  # type: ignore[arg-type]


def test_a_gallery_may_be_an_archive(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSE_SCRATCH", str(tmp_path / "scratch"))
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("ant/1.jpg", JPEG)
        archive.writestr("ant/notes.txt", "x")
    code, found, said = searched(checkpoint, tmp_path, tmp_path / "photos.zip")
    assert code == 0 and found.split()[-1] == "ant/1.jpg" and "1 .txt (ant/notes.txt)" in said


def test_the_sheet_keeps_its_captions_where_a_photo_cannot_be_read_any_more(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = tmp_path / "photos"
    for i in range(4):
        put(gallery, f"{i}.png", as_bytes(Image.new("RGB", (40, 40), (60 * i, 0, 0))))
    rows: list[job.Row] = []
    draw = job.draw_sheet
    monkeypatch.setattr(job, "draw_sheet", lambda given: rows.extend(given) or draw(given))
    code, found, _ = searched(checkpoint, tmp_path, gallery)
    order = [line.split()[-1] for line in found.splitlines()]
    assert code == 0 and len(order) == 4
    for name, data in ((order[0], b"damaged"), (order[2], None)):
        (gallery / name).unlink() if data is None else (gallery / name).write_bytes(data)
    made = str(next((tmp_path / "w/indexes").iterdir()))
    monkeypatch.setattr("pipelines.search.search.gallery_index", lambda *_: made)
    rows.clear()
    assert searched(checkpoint, tmp_path, gallery)[:2] == (0, found)
    (row,) = rows
    assert [caption.split()[-1] for caption in row.captions] == order
    for name, pixels in zip(order, row.photos, strict=True):
        gone = name in (order[0], order[2])
        assert (pixels == 200).all() if gone else abs(int(pixels[0, 0, 0]) - 60 * int(name[0])) <= 1


# Names of any bytes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "spelled"), [*zip(NAMES, SPELLED, strict=True)])
def test_one_spelling_for_names_that_are_no_line_of_text(name: str, spelled: str) -> None:
    assert printable(name) == spelled and printable(spelled) == spelled
    assert shown(f"a\tb\n{name}".replace("\n", "")) is not None
    shown(name).encode()


def test_names_of_any_bytes_go_through_doctor_and_search(checkpoint: str, tmp_path: Path) -> None:
    """In a process whose terminal knows ASCII alone."""
    for name in NAMES:
        put(tmp_path, f"set/photo/ant/{name}", JPEG)
        put(tmp_path, f"set/sketch/ant/{name}", b"broken")
        put(tmp_path, f"set/photo/ant/{name}.heic")
    put(tmp_path, "drawing.png", PNG)
    commands = [
        ["datasets", "doctor", str(tmp_path / "set")],
        ["search", "--sketch", "drawing.png", "--gallery", "set/photo", "-c", checkpoint, "-w", "w", "-o", "sheet.png"],
    ]
    code = "\n".join(
        [
            "import json, sys, pipelines.cli.app",
            "for words in json.loads(sys.argv[1]):",
            "    sys.argv = ['zse', *words]",
            "    try: pipelines.cli.app.main()",
            "    except SystemExit as ended: assert not ended.code",
        ]
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)],
        cwd=tmp_path,
        env={**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict"},
        capture_output=True,
        check=False,
    )
    assert ran.returncode == 0 and b"\x1b[2J" not in ran.stdout + ran.stderr, ran.stderr
    said, lines = (
        ran.stdout.decode("ascii"),
        [line for line in ran.stdout.decode("ascii").splitlines() if " ant/" in line],
    )
    spelled = {name.encode("ascii", "backslashreplace").decode() for name in SPELLED}
    assert {line.split("ant/")[1] for line in lines} == spelled
    assert "6 cannot be used" in said and "HEIC is not read" in ran.stderr.decode()
    (made,) = PhotoIndex(str(next((tmp_path / "w/indexes").iterdir()))).generations()
    known = [id for batch in made.photos().scan(["id"]) for id in batch["id"].to_pylist()]
    assert {as_path(id).split("/")[1] for id in known} == set(NAMES), "in the index a name is itself"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_names_of_any_bytes_go_through_ingest(tmp_path: Path) -> None:
    for name in NAMES:
        put(tmp_path, f"set/photo/ant/{name}", JPEG)
        put(tmp_path, f"set/sketch/ant/{name}", PNG)
    put(tmp_path, "set/sketch/ant/\x1bbroken\n.png", b"broken")
    config = tiny_folder(str(tmp_path / "set"), ["ant"], ingest={"max_bad_fraction": 0.9})
    images = ingest(config, str(tmp_path / "w"))
    assert images.pictures == 8
    assert {row["uri"].split("/", 1)[1] for row in images.skipped} == {
        f"ant/{SPELLED[0]}",
        "ant/\\x1bbroken\\n.png",
    }


def test_pictures_that_are_not_read_are_known_by_their_endings() -> None:
    for path, reason in (
        ("a/IMG 1.HEIC", "HEIC is not read: convert it to JPEG"),
        ("x.heif", "HEIC is not read: convert it to JPEG"),
        ("s3://b/кот.Jxl", "JPEG XL is not read: convert it to JPEG or PNG"),
        ("a.b.jp2", "JPEG 2000 is not read: convert it to JPEG or PNG"),
        ("a.PSD", "a Photoshop file is not read: export it as JPEG or PNG"),
        ("a.svgz", "SVG is not read as a photo: export it as PNG"),
        ("caf\udce9.CR2", "a raw photo is not read: export it as JPEG"),
        ("a.pdf", "PDF is not read: export its pages as JPEG or PNG"),
    ):
        assert unreadable(path) == reason
    for other in ("a.png", "a.JPG", "notes.txt", "heic", "a.heic/b", "._a.heic", "__MACOSX/a.heic", ".heic", "", "a."):
        assert unreadable(other) is None
    for ending in ENDINGS:
        assert is_picture(f"a{ending.upper()}") and is_picture(f"b/A{ending}") and unreadable(f"a{ending}") is None
