"""The stages on a real Ray with real Parquet: ingest, shard, read back, evaluate."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pipelines.config.experiment import ExperimentConfig
from pipelines.config.load import validate
from pipelines.datasets.splits import load_split
from pipelines.evaluate.searches import plan_searches
from pipelines.ingest.stage import TooManyBadPicturesError, ingest
from pipelines.judge.results import result_table, result_tables
from pipelines.run import evaluate_checkpoint, experiment_split, run
from pipelines.store import storage
from pipelines.train.items import ItemPlan
from pipelines.train.shard import shard
from pipelines.train.sources import MemorySource, ShardSource
from pipelines.workspace.images import Images
from pipelines.workspace.members import held_back, training_members
from pipelines.workspace.pairs import Pairs
from pipelines.workspace.parts import open_part, read_parts
from tests.conftest import TINY, tiny, tiny_folder
from tests.helpers.pictures import picture
from zse_model.checkpoint import SEEN, load_checkpoint, seen_keys
from zse_model.diffusion import diffused
from zse_model.evaluation import expected_average_precision
from zse_model.evaluation.evaluate import Task, evaluate_scores
from zse_model.evaluation.leaks import LeakError, refuse_leaks
from zse_model.evaluation.search import rank
from zse_model.methods import ZseSbirConfig
from zse_model.split import ZeroShotSplit
from zse_model.synthetic import draw_photo, draw_sketch
from zse_model.transforms import BadPicture

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def rows_of(images: Images) -> dict[str, dict[str, Any]]:
    """Rows by id."""
    tables = read_parts(images.url, list(images.parts), ["id", "sha256", "data"])
    return {row["id"]: row for table in tables for row in table.to_pylist()}


# Ingest -------------------------------------------------------------------------------------------------------------


def folder_of_odd_files(root: Path) -> ExperimentConfig:
    """Three classes of good pictures, and what people's folders hold besides."""
    for category in ("fish", "tea pot", "car"):  # a name with a space
        for i in range(3):
            for modality, pixels in (
                ("sketch", draw_sketch(category.replace(" ", ""), i, size=48)),
                ("photo", draw_photo(category.replace(" ", ""), i, size=48)),
            ):
                path = root / modality / category / f"{i} #1%.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture(pixels))
    sketch = draw_sketch("fish", 7, size=48)
    clear = np.dstack([np.zeros((48, 48, 3), np.uint8), 255 - sketch])
    odd = {
        "sketch/fish/transparent.png": picture(clear),
        "photo/fish/grey.jpg": picture(draw_photo("fish", 8, size=48)[..., 0], "JPEG"),
        "sketch/fish/empty canvas.png": picture(np.full((48, 48), 255, np.uint8)),
        "photo/car/truncated.jpg": picture(draw_photo("car", 9, size=48), "JPEG")[:400],
        "photo/car/zero.png": b"",
        "photo/car/page.jpg": b"<html>404</html>",
    }
    for path, data in odd.items():
        (root / path).write_bytes(data)
    return tiny_folder(str(root), ["car"], ingest={"max_bad_fraction": 0.5})


@pytest.fixture
def odd(tmp_path: Path) -> ExperimentConfig:
    return folder_of_odd_files(tmp_path / "my pictures")


def test_bad_files_are_skipped_counted_and_named(odd: ExperimentConfig, tmp_path: Path) -> None:
    found = ingest(odd, str(tmp_path / "w"))
    assert found.counts == {
        "car": {"photo": 3, "sketch": 3},
        "fish": {"photo": 4, "sketch": 4},
        "tea pot": {"photo": 3, "sketch": 3},
    }
    reasons = {s["uri"]: s["reason"] for s in found.skipped}
    assert set(reasons) == {
        "sketch/fish/empty canvas.png",
        "photo/car/truncated.jpg",
        "photo/car/zero.png",
        "photo/car/page.jpg",
    }
    assert "blank" in reasons["sketch/fish/empty canvas.png"] and all(reasons.values())


def test_too_many_bad_files_fail_with_their_names(odd: ExperimentConfig, tmp_path: Path) -> None:
    strict = replace(odd, ingest=replace(odd.ingest, max_bad_fraction=0.01))
    with pytest.raises(TooManyBadPicturesError, match=r"4 of 24 .*max_bad_fraction allows 1\.0%"):
        ingest(strict, str(tmp_path / "w"))
    # What was read is kept: with the limit raised only the manifest is missing.
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "w").rglob("part-*")}
    assert ingest(odd, str(tmp_path / "w")).pictures == 20
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "w").rglob("part-*")} == kept
    with pytest.raises(TooManyBadPicturesError, match="4 of 24"):  # a finished ingest allows no more than another
        ingest(strict, str(tmp_path / "w"))
    with pytest.raises(BadPicture, match="on_bad is raise"):
        ingest(replace(odd, ingest=replace(odd.ingest, on_bad="raise")), str(tmp_path / "w"))
    with pytest.raises(BadPicture, match=r"(empty canvas|truncated|zero|page)\.\w+: "):
        ingest(replace(odd, ingest=replace(odd.ingest, on_bad="raise")), str(tmp_path / "other"))


def test_the_fingerprint_is_of_the_content_and_an_interrupted_ingest_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    images = ingest(tiny(), str(tmp_path / "one"))
    folder = images.url
    whole = contents(folder)
    other = ingest(tiny(ingest={"part_size": 3}), str(tmp_path / "two"))
    assert other.fingerprint == images.fingerprint and len(contents(other.url)) > len(whole)
    assert ingest(tiny(dataset={"seed": 1}), str(tmp_path / "two")).fingerprint != other.fingerprint

    (Path(folder) / "manifest.json").unlink()
    lost = sorted(Path(folder).glob("part-*"))[1]
    kept = {path.name: path.stat().st_mtime_ns for path in Path(folder).glob("part-*") if path != lost}
    lost.unlink()
    assert ingest(tiny(), str(tmp_path / "one")) == images
    assert contents(folder) == whole
    assert {p.name: p.stat().st_mtime_ns for p in Path(folder).glob("part-*") if p.name in kept} == kept


def test_a_changed_class_is_read_again_and_the_others_are_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What changes behind the listing's back, size and time as before, tells what was read again."""
    config = tiny_folder(str(tmp_path / "pictures"), ["car"], ingest={"max_bad_fraction": 0.5})

    def put(category: str, pixels: np.ndarray, time: int = 0) -> None:
        for modality in ("sketch", "photo"):
            file = tmp_path / "pictures" / modality / category / "1.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture(pixels).ljust(5000, b"\0"))
            os.utime(file, ns=(time, time))

    drawings = [draw_sketch("fish", i, size=48) for i in range(8)]
    for category, pixels in zip(("fish", "car", "duck", "owl"), drawings, strict=False):
        put(category, pixels)
    put("owl", np.full((48, 48), 255, np.uint8))  # blank: a bad sketch, and a photo
    first = ingest(config, str(tmp_path / "w"))
    put("fish", drawings[4])
    put("owl", drawings[5])
    put("car", drawings[6], time=10**9)
    second = ingest(config, str(tmp_path / "w"))
    before, after = rows_of(first), rows_of(second)
    changed = {id for id in after if after[id] != before.get(id)}
    assert changed == {"photo/car/1.png", "sketch/car/1.png", "sketch/owl/1.png"}, "where one was bad, all are read"
    assert f"Copied 5 parts from {first.name}" in capsys.readouterr().err

    # Each folder stands by itself, and one without a manifest is good enough to copy from.
    Path(second.url, "manifest.json").unlink()
    storage.remove_folder(first.url)
    put("duck", drawings[7], time=10**9)
    third = rows_of(ingest(config, str(tmp_path / "w")))
    assert {id for id in third if third[id] != after[id]} == {"photo/duck/1.png", "sketch/duck/1.png"}


# Shard --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> tuple[str, Images, Pairs]:
    workspace = str(tmp_path_factory.mktemp("workspace"))
    images = ingest(tiny(), workspace)
    return workspace, images, shard(tiny(), workspace, images)


def test_pair_shards_hold_the_plan_and_only_training_classes(prepared: tuple[str, Images, Pairs]) -> None:
    workspace, images, pairs = prepared
    split, parts = pairs.split, list(pairs.parts)
    assert set(pairs.classes) == set(split.training) and len(split.pseudo_unseen) == 1
    assert not set(pairs.classes) & (set(split.unseen) | set(split.pseudo_unseen))
    tables = list(read_parts(pairs.url, parts, ["item", "label"]))
    assert [i for t in tables for i in t["item"].to_pylist()] == list(range(48))
    assert open_part(storage.join(pairs.url, parts[0])).metadata.num_row_groups == 4

    whole = contents(pairs.url)
    for name in ("manifest.json", parts[2]):
        Path(pairs.url, name).unlink()
    assert shard(tiny(), workspace, images) == pairs and contents(pairs.url) == whole


@pytest.mark.parametrize("pseudo", [0.0, 0.5])
def test_both_layouts_give_the_same_items(prepared: tuple[str, Images, Pairs], pseudo: float) -> None:
    workspace, images, pairs = prepared
    config = tiny()
    if pseudo:
        config = replace(config, shard=replace(config.shard, pseudo_sketches=pseudo))
        pairs = shard(config, workspace, images)
    with Image.open(Path(pairs.url, Pairs.SHEET)) as sheet:
        assert sheet.height > sheet.width > 4 * 100, "twelve items to look at"
    members = training_members(images.members(), pairs.split)
    memory = MemorySource(ItemPlan(members, config.shard), images.data(members), 48)
    streamed = ShardSource(pairs, 48, seed=0).batch(0, 0, 1)
    direct = memory.batch(0, 0, 1)

    # The order differs (parts and groups are shuffled), the items do not; photos went through JPEG once more.
    def rows(batch: Any) -> list[tuple[int, ...]]:
        return sorted(
            (int(a), int(b), *s.flatten().tolist()[::37])
            for a, b, s in zip(batch.label, batch.negative_label, batch.sketch, strict=True)
        )

    assert rows(streamed) == rows(direct)
    difference = (streamed.photo.float().mean() - direct.photo.float().mean()).abs()
    assert difference < 1


def test_readers_split_a_batch_and_pass_over_every_item_once(prepared: tuple[str, Images, Pairs]) -> None:
    _, _, pairs = prepared
    one, two = ShardSource(pairs, 8, seed=0), ShardSource(pairs, 4, seed=0)
    for step in (0, 3, 5, 6, 11):  # 48 items: step 6 begins the second pass
        halves = [two.batch(step, rank, 2) for rank in (0, 1)]
        assert torch.equal(one.batch(step, 0, 1).photo, torch.cat([half.photo for half in halves]))
    positions = [[int(one._row(e * 48 + i)["item"]) for i in range(48)] for e in (0, 1)]
    assert sorted(positions[0]) == sorted(positions[1]) == list(range(48)) and positions[0] != positions[1]


# Evaluate -----------------------------------------------------------------------------------------------------------

ROW = {"setting", "protocol", "method", "mode", "metric", "value", "ci_low", "ci_high", "queries", "gallery", "classes"}


def test_a_run_reports_every_row_and_a_second_run_does_nothing(prepared: tuple[str, Images, Pairs]) -> None:
    workspace, _, _ = prepared
    config = tiny(
        methods={"zse_sbir": {"dim": 16, "heads": 2, "ffn": 16}},
        evaluation={"references": ["untrained", "raw_pixels"]},
    )
    out = run(config, workspace)
    rows = out.rows()
    assert all(row.keys() >= ROW | {"split_hash", "dataset_fingerprint", "checkpoint_hash"} for row in rows)
    assert {(r["method"], r["mode"]) for r in rows} == {
        ("global", "ret"),
        ("global-untrained", "ret"),
        ("zse_sbir", "ret"),
        ("zse_sbir", "rn"),
        ("zse_sbir", "fused"),
        ("zse_sbir-untrained", "ret"),
        ("zse_sbir-untrained", "rn"),
        ("raw_pixels", "ret"),
    }
    category = [r for r in rows if r["metric"] == "mAP_all" and r["method"] == "zse_sbir"]
    assert {(r["protocol"], r["queries"], r["gallery"], r["classes"]) for r in category} == {
        ("plain", 12, 12, 3),
        ("zse_paper", 12, 12, 3),
    }
    assert {r["metric"] for r in rows if "-fg." in r["setting"]} == {"acc_1", "acc_5", "acc_10"}
    explained = {f"explained-{which}.png" for which in ("best", "typical", "worst")}
    assert explained < {p.name for p in Path(out.reports["zse_sbir"].url, "sheets").iterdir()}
    assert not explained & {p.name for p in Path(out.reports["global"].url, "sheets").iterdir()}
    stamps = {p: p.stat().st_mtime_ns for p in Path(workspace).rglob("*") if p.is_file()}
    assert run(config, workspace).rows() == rows
    assert {p: p.stat().st_mtime_ns for p in Path(workspace).rglob("*") if p.is_file()} == stamps


def test_raw_pixels_hands_the_metric_a_few_rows_at_a_time(
    prepared: tuple[str, Images, Pairs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not the whole matrix, which is 20 GB at QuickDraw's size."""
    from pipelines.evaluate import raw_pixels as stage

    workspace, images, _ = prepared
    held: list[int] = []
    evaluate_searches = stage.evaluate_searches

    def watched(blocks: Any, *arguments: Any) -> Any:
        def rows() -> Any:
            for block in blocks:
                held.append(block.untyped_storage().nbytes() // 4 // block.shape[1])
                yield block

        return evaluate_searches(rows(), *arguments)

    monkeypatch.setattr(stage, "evaluate_searches", watched)
    monkeypatch.setattr(stage, "EMBEDDING_TILE", 5)
    config = replace(tiny(), name="pixels")
    stage.raw_pixels(config, f"{workspace}/pixels", images, experiment_split(config, images))
    assert held == [5, 5, 2]


def test_the_pair_network_scores_on_the_cluster_as_in_one_process(
    prepared: tuple[str, Images, Pairs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every mode, streamed part by part by actors, against the whole matrix of a process; and taken up again. Only here
    do several actors score pairs."""
    from pipelines.evaluate import score as stage
    from pipelines.evaluate.matrices import Matrices

    monkeypatch.setattr("pipelines.encode.embed.ALONE", 0)
    workspace, _, _ = prepared
    config = tiny(methods={"zse_sbir": {"dim": 16, "heads": 2, "ffn": 16}}, ingest={"part_size": 60})
    config = replace(config, name="spread", methods={"zse_sbir": config.methods["zse_sbir"]})
    out = run(config, workspace, until="embed")
    encodings = out.encodings["zse_sbir"]
    sketches, photos = (encodings.read(m, out.images) for m in ("sketch", "photo"))
    checkpoint = load_checkpoint(out.checkpoints["zse_sbir"].url)
    monkeypatch.setattr(stage, "ALONE", 0)
    monkeypatch.setattr(stage, "PHOTOS", 5)
    monkeypatch.setattr(stage, "SKETCHES", 7)
    matrices = Matrices(config, workspace, encodings, checkpoint, sketches, photos)
    assert list(matrices.gallery.sha256) == sorted(matrices.gallery.sha256), "a gallery stands in content order"
    encoded = {}
    for modality in ("sketch", "photo"):
        parts = [encodings.values(part, modality) for part in encodings.parts(modality)]
        encoded[modality] = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    gallery = {name: value[matrices.columns] for name, value in encoded["photo"].items()}
    for mode in ("ret", "rn", "fused", "rerank-4"):
        if mode == "rerank-4":
            monkeypatch.setattr(stage, "ALONE", 10**9)  # actors take 10 s to start; what they do is the same
        among = None
        if mode == "rerank-4":
            ret, rn = (checkpoint.method.score(encoded["sketch"], gallery, m) for m in ("ret", "rn"))
            among = rank(ret, 4).indices
            here = torch.full_like(rn, -torch.inf).scatter(1, among, rn.gather(1, among))
        else:
            here = checkpoint.method.score(encoded["sketch"], gallery, mode)
        there = torch.cat(list(matrices.rows(mode, among)))
        torch.testing.assert_close(there, here, atol=1e-5, rtol=1e-4)
        assert (here.isfinite().sum(1) == (4 if mode == "rerank-4" else 12)).all()
    scores = stage.score(config, workspace, encodings, "rn")
    parts = {p: p.read_bytes() for p in Path(scores.url).glob("sketches-*")}
    assert len(parts) == 6
    Path(scores.url, "manifest.json").unlink()
    sorted(parts)[1].unlink()
    left = sorted(parts)[0].stat().st_mtime_ns
    assert stage.score(config, workspace, encodings, "rn") == scores
    assert {p: p.read_bytes() for p in Path(scores.url).glob("sketches-*")} == parts
    assert sorted(parts)[0].stat().st_mtime_ns == left, "what was there is not made again"


def test_a_sketch_is_searched_among_the_photos_of_its_class(prepared: tuple[str, Images, Pairs]) -> None:
    """With every photo of a class drawn, 4 of them: the own photo is always among the first 5, by chance the first in
    a quarter. Scores that find nothing but the class find it no better."""
    workspace, _, _ = prepared
    config = tiny()
    out = run(config, workspace)
    rows = {r["metric"]: r for r in out.rows() if r["setting"].startswith("synthetic-fg-class") and r["mode"] == "ret"}
    assert rows["acc_5"]["value"] == 1.0 and rows["acc_1"]["queries"] == 12
    encodings = out.encodings["global"]
    sketches, photos = (encodings.read(m, out.images) for m in ("sketch", "photo"))
    scores = sketches.values["embedding"] @ photos.values["embedding"].T
    same = sketches.members.category[:, None] == photos.members.category
    best = scores.masked_fill(~torch.from_numpy(same), -9).argmax(1).numpy()
    assert rows["acc_1"]["value"] == (photos.members.instance[best] == sketches.members.instance).mean()


def test_a_shortlist_has_a_recall_and_no_map(prepared: tuple[str, Images, Pairs]) -> None:
    workspace, _, _ = prepared
    methods = {"zse_sbir": {"dim": 16, "heads": 2, "ffn": 16}}
    evaluation = {"modes": ["ret", "rn", "rerank-5"], "references": ["untrained"]}
    out = run(replace(tiny(methods=methods, evaluation=evaluation), name="short"), workspace)
    rows = {
        (r["setting"].rsplit(".", 1)[0], r["metric"], r["mode"]): r["value"]
        for r in out.rows()
        if r["method"] == "zse_sbir"
    }
    assert {(setting, metric) for setting, metric, mode in rows if mode == "rerank-5"} == {
        ("synthetic", "P_1"),
        ("synthetic", "recall_5"),
    } | {(setting, m) for setting in ("synthetic-fg", "synthetic-fg-class") for m in ("acc_1", "acc_5", "recall_5")}
    assert 0 < rows["synthetic", "recall_5", "rerank-5"] < 1
    # A class has four photos: its own gallery is on the shortlist, whatever the shortlist of all twelve is.
    assert rows["synthetic-fg-class", "recall_5", "rerank-5"] == 1
    assert rows["synthetic-fg-class", "acc_1", "rerank-5"] == rows["synthetic-fg-class", "acc_1", "rn"]


def test_diffusion_ranks_each_gallery_by_its_own_photos(prepared: tuple[str, Images, Pairs]) -> None:
    """The values of a report are those of the scores that are diffused in each gallery alone: among unseen photos, and
    among these with the held-back photos."""
    workspace, _, _ = prepared
    asked = {"modes": ["ret", "ret-diffused-5", "ret-diffused-1"], "distractors": ["held_back"]}
    out = run(replace(tiny(evaluation=asked), name="diffused"), workspace)
    (encodings,) = [one for name, one in out.encodings.items() if name == "global"]
    sketches, photos = (encodings.read(m, out.images) for m in ("sketch", "photo"))
    vectors, unseen = photos.values["embedding"], set(experiment_split(tiny(), out.images).unseen)
    scores = sketches.values["embedding"] @ vectors.T
    classes = sorted({*sketches.members.category, *photos.members.category})
    labels, theirs = (torch.tensor([classes.index(c) for c in m.members.category]) for m in (sketches, photos))
    searched = np.isin(sketches.members.category, list(unseen))
    rows = {(r["setting"].rsplit(".", 1)[0], r["mode"], r["metric"], r["protocol"]): r["value"] for r in out.rows()}
    for setting, gallery in (
        ("synthetic", np.isin(photos.members.category, list(unseen))),
        ("synthetic-generalised", np.ones(len(photos.members), dtype=bool)),
    ):
        task = Task(
            setting="s",
            query_labels=labels[searched],
            gallery_labels=theirs[gallery],
            query_groups=labels[searched],
            metrics=("mAP_all",),
            protocols=("plain",),
        )
        again = diffused(scores[searched][:, gallery], vectors[gallery].__getitem__, 5)
        found = float(evaluate_scores([again], task).values("plain", "mAP_all").mean())
        assert rows[setting, "ret-diffused-5", "mAP_all", "plain"] == pytest.approx(found, abs=1e-9)
        assert found != pytest.approx(rows[setting, "ret", "mAP_all", "plain"], abs=1e-9)
        assert rows[setting, "ret-diffused-1", "mAP_all", "plain"] == rows[setting, "ret", "mAP_all", "plain"]
    told = json.loads(Path(out.reports["global"].url, "confidence.json").read_text())
    assert "ret-diffused-5" not in {row["mode"] for row in told}, "its scores say nothing of a photo alone"


def test_distractors_make_harder_galleries(prepared: tuple[str, Images, Pairs]) -> None:
    """Held-back photos of seen classes beside the unseen ones, and every photo that has a sketch, trained on or not."""
    workspace, _, _ = prepared
    asked = tiny(
        dataset={"held_back": 0.3}, evaluation={"distractors": ["held_back", "drawn"], "references": ["raw_pixels"]}
    )
    out = run(replace(asked, name="crowded"), workspace)
    sizes = {r["setting"].rsplit(".", 1)[0]: r["gallery"] for r in out.rows()}
    split = load_checkpoint(out.checkpoints["global"].url).split
    members = out.images.members()
    photos = members.where(members.modality == "photo")
    back = sum(c in split.seen and split.is_held_back(i) for c, i in zip(photos.category, photos.instance, strict=True))
    assert 0 < back < len(photos) - 12
    assert sizes["synthetic"] == sizes["synthetic-fg"] == 12
    assert sizes["synthetic-generalised"] == 12 + back
    assert sizes["synthetic-fg-all"] == len(photos), "every photo of the drawn pictures has its sketch"
    value = {(r["setting"].rsplit(".", 1)[0], r["method"], r["metric"]): r["value"] for r in out.rows()}
    for method in ("global", "raw_pixels"):
        assert value["synthetic-generalised", method, "mAP_all"] < value["synthetic", method, "mAP_all"]
        assert value["synthetic-fg-all", method, "acc_5"] <= value["synthetic-fg", method, "acc_5"]


def test_held_back_sketches_of_seen_classes_find_their_own_photos(prepared: tuple[str, Images, Pairs]) -> None:
    """Beside the other held-back ones of their class; what is asked of the unseen classes stays as it was."""
    workspace, _, _ = prepared
    methods = {"zse_sbir": {"dim": 16, "heads": 2, "ffn": 16}}
    asked = {"modes": ["ret", "rn", "rerank-2"], "distractors": ["held_back", "drawn"]}
    fewer = replace(tiny(dataset={"held_back": 0.4}, evaluation=asked, methods=methods), name="seen")
    more = replace(fewer, evaluation=replace(fewer.evaluation, seen_classes=True))
    without, out = run(fewer, workspace), run(more, workspace)
    split = load_checkpoint(out.checkpoints["zse_sbir"].url).split
    members = out.images.members()
    back = [c for c, i in zip(members.category, members.instance, strict=True) if split.is_held_back(i)]
    back = [c for c in back if c in split.seen]
    seen = [r for r in out.rows() if "-fg-seen." in r["setting"]]
    trained = [r for r in out.rows() if "-seen." in r["setting"] and r not in seen]
    assert len(back) >= 8, "a sketch and a photo each"
    assert {(r["queries"], r["gallery"]) for r in seen} == {(len(back) // 2, len(back) // 2)}
    assert {r["mode"] for r in seen} == {"ret", "rn", "rerank-2"}
    most = max(back.count(c) for c in back) // 2
    assert most <= 5 and all(r["value"] == 1 for r in seen if r["metric"] == "acc_5" and r["mode"] == "rn")
    assert [r for r in out.rows() if r not in seen + trained] == without.rows()
    of_training = sum(c in split.training for c in back) // 2
    assert split.pseudo_unseen and of_training < len(back) // 2
    assert {(r["queries"], r["gallery"]) for r in trained} == {(of_training, of_training)}
    assert {r["metric"] for r in trained} >= {"mAP_all", "P_1"} and {r["use"] for r in trained} == {"report"}
    unseen_table, *_, trained_table = result_tables(out)
    assert "NOT zero-shot" in str(trained_table.title) and "-seen." not in str(unseen_table.title)
    assert "zse_sbir" in trained_table.columns[0].cells and trained_table.row_count == unseen_table.row_count / 2
    by_class = {r["setting"]: r["gallery"] for r in out.rows() if r["metric"] == "mAP_all" and r["protocol"] == "plain"}
    for setting, gallery in by_class.items():
        if "-seen." in setting:
            continue
        photos = 4  # of each unseen class
        expected = float(expected_average_precision(torch.tensor([photos]), gallery))
        assert f"{setting} (chance mAP_all {expected:.3f})" in str(result_table(out).title)


def test_seen_classes_are_not_searched_where_no_sketch_has_a_photo(prepared: tuple[str, Images, Pairs]) -> None:
    """Held-back sketches of one class and held-back photos of another: an evaluation must not end with an error."""
    _, images, _ = prepared
    config = tiny(dataset={"held_back": 0.4}, evaluation={"seen_classes": True})
    split = load_split(config.dataset, images.counts)
    everyone = images.members()
    back = held_back(everyone, split) & np.isin(everyone.category, list(split.training))
    with_both = [c for c in split.training if len(set(everyone.modality[back & (everyone.category == c)])) == 2][:2]
    assert len(with_both) == 2
    unseen = np.isin(everyone.category, list(split.unseen))

    def planned(sketches_of: str, photos_of: str) -> list[str]:
        sides = (
            everyone.where((everyone.modality == m) & (unseen | (back & (everyone.category == c))))
            for m, c in (("sketch", sketches_of), ("photo", photos_of))
        )
        return [s.task.setting for s in plan_searches(config, split, images.fingerprint, *sides, None)]

    assert any("-seen." in name and "-fg" not in name for name in planned(with_both[0], with_both[0]))
    assert not any("-seen." in name and "-fg" not in name for name in planned(*with_both))


def test_one_class_trains_alone_and_chooses_by_held_back_pairs(tmp_path: Path) -> None:
    for part, products in (("train", range(16)), ("test", range(16, 20))):
        for i in products:
            for file, pixels in (
                (f"{part}A/{i}_1.png", draw_sketch("car", i, size=48)),
                (f"{part}A/{i}_2.png", draw_sketch("car", i, variant=1, size=48)),
                (f"{part}B/{i}.png", draw_photo("car", i, size=48)),
            ):
                path = tmp_path / "ShoeV2" / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture(pixels))
    dataset = {"adapter": "qmul", "name": "shoe-v2", "source": str(tmp_path / "ShoeV2"), "split": ["shoe test"]}
    fine = {"layout": "memory", "own_photo": 1.0, "hard_negatives": 1.0}
    config = validate(TINY | {"dataset": dataset | {"pseudo_unseen": 0, "held_back": 0.3}, "shard": fine})
    config = replace(config, methods={"zse_sbir": ZseSbirConfig(dim=16, depth=1, heads=2, ffn=16)})
    out = run(config, str(tmp_path / "w"))
    checkpoint = load_checkpoint(out.checkpoints["zse_sbir"].url)
    history = out.checkpoints["zse_sbir"].history()
    checks = [event["selection/mAP_all"] for event in history if "selection/mAP_all" in event]
    assert len(checks) == 4 and all(0 < value < 1 for value in checks)
    assert checkpoint.training["selection_mAP_all"] == max(checks) and "fused" in checkpoint.method.modes
    rows = {(r["setting"].split(".")[0], r["mode"], r["metric"]): r for r in out.rows()}
    for mode in ("ret", "rn"):
        found = rows["shoe-v2-fg-class", mode, "acc_5"]
        assert found["value"] == 1.0 and (found["queries"], found["gallery"]) == (8, 4), "four photos of the class"
        assert rows["shoe-v2-fg-class", mode, "acc_1"]["value"] < 1.0
    inside = training_members(out.images.members(), checkpoint.split)
    assert set(inside.category) == {"shoe"} and len(set(inside.instance)) < 16


def test_another_data_set_is_evaluated_by_its_own_split_or_refused(
    prepared: tuple[str, Images, Pairs], tmp_path: Path
) -> None:
    workspace, _, _ = prepared
    checkpoint = run(tiny(), workspace, until="train").checkpoints["global"].url
    other = {"name": "other", "seed": 5, "categories": ["fish", "church", "sofa", "car"], "pseudo_unseen": 0}
    fine = tiny(dataset=other | {"split": ["fish", "sofa"]})
    rows = evaluate_checkpoint(fine, str(tmp_path), checkpoint).rows()
    assert {row["setting"].split(".")[0] for row in rows} == {"other", "other-fg", "other-fg-class"} and rows[0][
        "queries"
    ] == 8
    with pytest.raises(LeakError, match=r"car \(seen\) = car \(unseen\)"):
        evaluate_checkpoint(tiny(dataset=other | {"split": ["fish", "car"]}), str(tmp_path), checkpoint)
    # The same weights, of a training that has seen the pictures of the test: its encodings and its report exist.
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    (folder,) = (tmp_path / Images.KIND).iterdir()
    save_file({"pictures": seen_keys(Images.open(str(folder)).members().sha256)}, copy / SEEN)
    with pytest.raises(LeakError, match="test pictures of other were training pictures"):
        evaluate_checkpoint(fine, str(tmp_path), str(copy))


def test_a_leak_is_refused(prepared: tuple[str, Images, Pairs]) -> None:
    workspace, images, _ = prepared
    out = run(tiny(), workspace, until="train")
    checkpoint = load_checkpoint(out.checkpoints["global"].url)
    refuse_leaks(checkpoint, checkpoint.split, {"00" * 32: "nobody's"})
    taken = checkpoint.split.training[0]
    other = ZeroShotSplit(name="other", citation="c", seen=("fish",), unseen=(taken.upper(), "church"))
    with pytest.raises(LeakError, match=f"1 unseen classes of other: {taken} .seen. = {taken.upper()}"):
        refuse_leaks(checkpoint, other)
    chosen_on = ZeroShotSplit(name="o", citation="c", seen=("fish",), unseen=checkpoint.split.pseudo_unseen)
    with pytest.raises(LeakError, match="trained or chosen on"):
        refuse_leaks(checkpoint, chosen_on)
    inside = training_members(images.members(), checkpoint.split)
    with pytest.raises(LeakError, match="1 of 2 test pictures"):
        refuse_leaks(checkpoint, checkpoint.split, {str(inside.sha256[0]): "photo/a.jpg", "00" * 32: "b.jpg"})
