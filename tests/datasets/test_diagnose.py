"""`zse datasets`: what a source holds is recognised and compared, what is missing is named, subsets come out again."""

from __future__ import annotations

import gzip
import io
import json
import shlex
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.config.load import load_experiment
from pipelines.datasets.adapters.folder import FolderConfig
from pipelines.datasets.built_in import built_in, split_names
from pipelines.datasets.diagnose import Diagnosis, describe, diagnose, next_command, report
from pipelines.datasets.published import Known, known_dataset, known_datasets
from pipelines.datasets.registry import DATASETS
from pipelines.datasets.subset import read_members, subset_names, write_subset
from pipelines.datasets.tree import LayoutError
from pipelines.runtime.errors import ConfigError
from tests.datasets.test_adapters import SKETCHY, adapter_of
from tests.helpers.pictures import build


def examined(source: Path | str, *more: str) -> tuple[Diagnosis, str]:
    found = diagnose([str(source), *more])
    return found, "\n".join(report(found))


def of_classes(name: str, sketch: str, photo: str, per_class: int = 1) -> list[str]:
    """Paths for every class of a split, one photo and some sketches each."""
    raw = built_in(name)
    classes = [*raw["seen"], *raw["unseen"]]
    return [f"{sketch}/{c}/{i}.png" for c in classes for i in range(per_class)] + [
        f"{photo}/{c}/1.jpg" for c in classes
    ]


def test_what_is_known_is_there() -> None:
    adapters = {adapter_of(kind) for kind in DATASETS}
    for known in known_datasets().values():
        assert known.adapter in adapters and set(known.splits) <= set(split_names())
        assert describe(known)[0] == known.title and all("from" in part for part in known.parts)
    assert known_dataset("sketchy").versions[0].counts["all"] == {"sketch": 75471, "photo": 12500}
    with pytest.raises(
        ConfigError, match="Unknown data set 'sketchi'. Did you mean sketchy\\? Known: sketchy, tuberlin"
    ):
        known_dataset("sketchi")


def test_sketchy_beside_its_published_counts(tmp_path: Path) -> None:
    found, text = examined(build(tmp_path, SKETCHY))
    assert (found.config.adapter, found.paired, found.total("photo")) == ("sketchy", 3, 3)  # type: ignore[attr-defined]
    assert "3 sketch pictures, published 75,471; 3 photo pictures, published 12,500" in text
    assert "sketchy-21: not possible, 21 unseen classes are missing: bat, cabin, cow" in text
    assert "123 of sketchy are missing" in text and "From      sketches and photos: sketchy.eye.gatech.edu" in text
    assert "6 of 6 pictures read, 0 cannot be used" in text
    assert f"dataset.source={tmp_path} --set dataset.name=sketchy --set dataset.split=random-1" in next_command(found)


@pytest.mark.parametrize(("classes", "unseen"), [(3, 1), (4, 2), (8, 2), (25, 5)])
def test_the_next_command_draws_at_least_two_unseen_classes_and_has_weights(classes: int, unseen: int) -> None:
    """With one unseen class every ranking is perfect; without weights the frozen parts of the backbone are refused."""
    counts = {f"thing {i}": {"sketch": 2, "photo": 2} for i in range(classes)}
    found = Diagnosis(FolderConfig(name="mine", split="all", source="pictures"), counts, 0, None, 0, [])
    words = shlex.split(next_command(found))
    assert f"dataset.split=random-{unseen}" in words
    backbone = load_experiment("folder+global", [word for word in words if "=" in word]).backbone
    assert backbone.frozen and backbone.weights == "hub" and not backbone.args and backbone.mean is None


def test_counts_that_are_the_published_ones_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = of_classes("sketchy-25", "sketch", "photo")
    small = known_dataset("sketchy")
    version = type(small.versions[0])(name="of this test", counts={"all": {"sketch": 125, "photo": 125}})
    known = Known(**{**vars(small), "versions": (version,), "each": {"photo": 1}})
    monkeypatch.setattr("pipelines.datasets.diagnose.known_datasets", lambda: {"sketchy": known})
    found, text = examined(build(tmp_path, files))
    assert found.config.adapter == "folder" and found.known is known, "by its classes"  # type: ignore[attr-defined]
    assert "Counts    as published of this test" in text and "Classes" not in text
    assert (
        "sketchy-21: 21 sketches x 21 photos of 21 unseen classes, 104 seen classes, published 12,694 x 12,553" in text
    )
    build(tmp_path, ["photo/bat/2.jpg"])
    assert "1 do not have the usual 1 photo pictures: bat 2" in examined(tmp_path)[1]


@pytest.mark.parametrize(("name", "split"), [("tuberlin", "tuberlin-30"), ("quickdraw", "quickdraw-30")])
def test_two_data_sets_with_the_same_folders_differ_in_their_classes(name: str, split: str, tmp_path: Path) -> None:
    found, text = examined(build(tmp_path, of_classes(split, "sketches", "images")))
    assert found.known == known_dataset(name)
    assert f"Split     {split}: 30 sketches x 30 photos of 30 unseen classes" in text
    assert f"--set dataset.split={split}" in next_command(found)


@pytest.mark.parametrize(("sketch", "photo"), [("sketches", "images"), ("sketch", "photo")])
def test_two_classes_that_many_data_sets_have_are_none_of_them(sketch: str, photo: str, tmp_path: Path) -> None:
    paths = of_classes("quickdraw-30", sketch, photo)
    few = [path for path in paths if path.split("/")[1] in ("cat", "camel", "cow", "dog")]
    found, text = examined(build(tmp_path, few))
    assert few and found.known is None and "QuickDraw" not in text and "dataset.name=mine" in next_command(found)


def test_shoes_domains_svg_and_strokes(tmp_path: Path) -> None:
    parts = {"trainA/1_1.png", "trainB/1.png", "testA/2_1.png", "testB/2.png"}
    found, text = examined(build(tmp_path / "q", [f"ShoeV2/{p}" for p in parts]))
    assert found.known == known_dataset("qmul") and "Split     shoe-v2: 1 sketches x 1 photos" in text
    assert "1 sketch pictures of shoe test, published 666" in text
    assert "chair-v2: not possible, 1 unseen classes are missing: chair test" in text
    found, _ = examined(build(tmp_path / "d", ["sketch/dog/1.jpg", "real/dog/1.jpg"]))
    assert found.config.adapter == "domains"  # type: ignore[attr-defined]
    source = Path(build(tmp_path / "s", ["ImageResized/ant/1.jpg"]))
    (source / "svg" / "ant").mkdir(parents=True)
    (source / "svg" / "ant" / "1.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><path d="M1 1h9"/></svg>')
    found, _ = examined(source)
    assert "--set dataset.adapter=tuberlin" in next_command(found) and "--set dataset.svg=true" in next_command(found)
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / "ant.ndjson").write_text(json.dumps({"key_id": "1", "drawing": [[[0, 9], [0, 9]]]}) + "\n")
    found, text = examined(tmp_path / "n")
    assert "there is no photo: training and search need both. Give dataset.photos" in text


def test_what_is_nearest_is_named_where_nothing_fits(tmp_path: Path) -> None:
    source = build(tmp_path, ["png/ant/1.png", "photographs/ant/1.jpg"])
    with pytest.raises(LayoutError, match=r"has none of the layouts .*Found png.*Expected ImageResized_ready"):
        diagnose([source])


def test_pictures_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    source = build(tmp_path, ["sketch/ant/1.png", "photo/ant/1.jpg"])
    (tmp_path / "photo" / "ant" / "2.jpg").write_bytes(b"<html>")
    found, text = examined(source)
    assert [name for name, _ in found.bad] == ["photo/ant/2.jpg"] and "3 of 3 pictures read, 1 cannot be used" in text
    assert diagnose([source], read=0).tried == 0


def test_a_subset_comes_out_again_from_ones_own_copy(tmp_path: Path) -> None:
    source = build(tmp_path / "Sketchy", SKETCHY)
    members = tmp_path / "some.tsv.gz"
    rows = ["sketch\tpig\tn02395406_3933-2.png", "photo\tPig\tn02395406_3933.jpg", "photo\tpig\text_12.jpg"]
    members.write_bytes(gzip.compress("\n".join(["modality\tclass\tfile", *rows]).encode()))
    out = tmp_path / "my subset"
    assert write_subset(str(members), [source], str(out)) == 3
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()) == [
        "pairs.tsv",
        "photo/pig/ext_12.jpg",
        "photo/pig/n02395406_3933.jpg",
        "sketch/pig/n02395406_3933-2.png",
    ]
    original = tmp_path / "Sketchy" / SKETCHY[0]
    assert (out / "sketch/pig/n02395406_3933-2.png").read_bytes() == original.read_bytes()
    assert (out / "pairs.tsv").read_text().splitlines()[1:] == ["pig\tn02395406_3933-2.png\tn02395406_3933.jpg"]
    found, _ = examined(out)
    assert found.paired == 1

    small = tmp_path / "small"
    write_subset(str(members), [source], str(small), size=24)
    sizes = {Image.open(p).size for p in small.rglob("*.??g")}
    assert sizes == {(24, 24)}
    before = {p: p.read_bytes() for p in small.rglob("*.*g")}
    write_subset(str(members), [source], str(small), size=24)
    assert {p: p.read_bytes() for p in small.rglob("*.*g")} == before

    members.write_bytes(gzip.compress("\n".join(["modality\tclass\tfile", *rows, "photo\tpig\tgone.jpg"]).encode()))
    with pytest.raises(ValueError, match=r"lacks 1 of the 4 pictures of .*photo pig/gone.jpg.*complete copy"):
        write_subset(str(members), [source], str(tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()
    for text, message in (
        ("class\tfile\na\tb\n", "row 1 must name the columns modality, class, file"),
        ("modality\tclass\tfile\n" + 2 * "photo\ta\tb\n", "rows 2 and 3 list the same picture"),
    ):
        members.write_bytes(gzip.compress(text.encode()))
        with pytest.raises(ValueError, match=message):
            read_members(str(members))
    with pytest.raises(ValueError, match=r"Give a shipped list \['sketchy125_128'\]"):
        read_members("sketchy125")


def test_the_shipped_list_is_25_and_25_of_each_class() -> None:
    assert subset_names() == ["sketchy125_128"]
    members = read_members("sketchy125_128")
    raw = built_in("sketchy-25")
    for category in (*raw["seen"], *raw["unseen"]):
        name = category.replace("_", " ").replace("-", " ").replace("(", "").replace(")", "")
        assert sum(m[:2] == ("photo", name) for m in members) == 25, name
        assert sum(m[:2] == ("sketch", name) for m in members) == 25, name


def test_the_verbs_end_with_what_to_run_next(tmp_path: Path) -> None:
    source = build(tmp_path / "data", ["sketch/a b/1.png", "photo/a b/1.jpg", "sketch/c/1.png", "photo/c/1.jpg"])
    runner = CliRunner()
    for words, expected in (
        (["list"], "zse datasets show NAME"),
        (["show", "qmul"], "zse datasets doctor FOLDER"),
        (["doctor", source], "--set dataset.adapter=folder"),
    ):
        done = runner.invoke(app.app, ["datasets", *words])
        assert done.exit_code == 0, done.output
        assert "Next: " in done.stderr and expected in done.stderr
    assert io.StringIO(done.stdout).readline().startswith("Layout    folder")
