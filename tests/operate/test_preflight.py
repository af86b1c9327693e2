"""What ends a run is said before a picture is read: of the listing, the networks, the services; and, once the hashes
are known, before anything is trained."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import yaml
from safetensors.torch import save_file

from pipelines.config.experiment import ExperimentConfig
from pipelines.datasets.base import ImageRecord, listed_members
from pipelines.datasets.registry import create_dataset
from pipelines.datasets.splits import MissingClassesError, load_split
from pipelines.operate.preflight import check, check_searched, check_test, refuse_repeats, searched_split
from pipelines.run import evaluate_checkpoint, run
from pipelines.runtime.failures import to_fix
from pipelines.store import storage
from pipelines.train.networks import check_networks, refuse_random_teacher, weights_at_hand, weights_hash
from pipelines.workspace.members import Members
from tests.conftest import TINY, merged, tiny, tiny_folder
from tests.encode.test_index import CODES
from tests.helpers.command import invoked
from tests.helpers.pictures import build
from zse_model.backbones import BackboneConfig
from zse_model.checkpoint import SEEN, Checkpoint, load_checkpoint, save_checkpoint, seen_keys
from zse_model.errors import ZseError
from zse_model.evaluation.leaks import LeakError
from zse_model.methods import CrossATNetConfig, GlobalConfig, create_method
from zse_model.split import ZeroShotSplit
from zse_model.transforms import Modality, TransformConfig

CLASSES = ("fish", "car", "giraffe", "teapot")


def world(root: Path, classes: tuple[str, ...] = CLASSES) -> str:
    return build(root, [f"{m}/{c}/{i}.png" for c in classes for m in ("sketch", "photo") for i in range(3)])


def listed(modality: Modality, classes: Sequence[str]) -> Members:
    """One picture of each class."""
    return listed_members(
        [ImageRecord.of([f"{modality}/{c}/0.png", modality, c, None, "", 1, "", ""]) for c in classes]
    )


def look(config: ExperimentConfig, workspace: Path | str, until: str = "evaluate", *, fresh: bool = True) -> None:
    check(config, str(workspace), create_dataset(config.dataset).records(), until, fresh=fresh)


def test_an_experiment_that_can_run_passes_and_nothing_is_written(tmp_path: Path) -> None:
    config = tiny_folder(world(tmp_path / "in"), ["fish"], tracking={"enabled": True})
    look(config, tmp_path / "w")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_random_numbers_are_no_teacher(tmp_path: Path) -> None:
    """Of a checkpoint that an earlier version distilled so, the stages are found as before."""
    config = tiny_folder(world(tmp_path / "in"), ["fish"], methods={"global": {"distillation": 0.5}})
    assert config.backbone.weights is None
    with pytest.raises(ZseError, match="methods.global.distillation is 0.5, but backbone.weights is null"):
        look(config, tmp_path / "w")
    look(config, tmp_path / "w", fresh=False)


@pytest.mark.parametrize("method", ["global", "crossatnet"])
def test_a_start_is_a_teacher_where_it_was_distilled(method: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"distillation": 1.0, "dropped_units": ()}
    made = {
        "global": GlobalConfig(**settings),
        "crossatnet": CrossATNetConfig(dim=16, neighbours=1, **settings),
    }[method]
    for config, distilled in ((made, True), (replace(made, distillation=0.0), False)):
        network = create_method(method, config, BackboneConfig(name="test_resnet"), size=32, classes=3)
        split = ZeroShotSplit(name="s", citation="", seen=CLASSES[1:], unseen=CLASSES[:1])
        start = str(tmp_path / str(distilled))
        save_checkpoint(Checkpoint(method, network, TransformConfig(size=32), split, seen_keys([]), {}), Path(start))
        asked = tiny_folder(world(tmp_path / "in"), ["fish"], methods={"global": {"distillation": 0.5}}, start=start)
        with nullcontext() if distilled else pytest.raises(ZseError, match="is 0.5, but .* null, and start was not"):
            look(asked, tmp_path / "w")
            refuse_random_teacher(asked, "global")
    look(asked, tmp_path / "w", fresh=False)


def test_an_unseen_class_without_photos_is_named_and_one_without_pictures_is_suggested(tmp_path: Path) -> None:
    source = world(tmp_path / "in")
    shutil.rmtree(tmp_path / "in" / "photo" / "teapot")
    with pytest.raises(ZseError, match="1 of 2 unseen classes have sketches but no photos.*: teapot. Add photos"):
        look(tiny_folder(source, ["fish", "teapot"]), tmp_path / "w", "ingest")
    with pytest.raises(MissingClassesError, match="girafe"):
        look(tiny_folder(source, ["girafe"]), tmp_path / "w", "ingest")
    shutil.rmtree(tmp_path / "in" / "sketch" / "giraffe")
    with pytest.raises(ZseError, match="No unseen class has a sketch to search with: giraffe"):
        look(tiny_folder(source, ["giraffe"]), tmp_path / "w", "ingest")


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    file = tmp_path / "file"
    file.write_text("")
    changes: dict[str, Any] = {"backbone": {"frozen": 1}, "tracking": {"enabled": True, "uri": nobody}}
    config = tiny_folder(world(tmp_path / "in"), ["fish"], **changes)
    with pytest.raises(ZseError) as caught:
        look(config, file / "w")
    first, *lines = str(caught.value).splitlines()
    assert first == "3 things must be fixed before this can run:" and len(lines) == 3
    workspace, networks, tracking = lines
    assert f"{file} is a file" in workspace and "backbone.frozen=1 would freeze random weights" in networks
    assert f"MLflow at {nobody} does not answer" in tracking and "tracking.enabled=false" in tracking
    assert to_fix(caught.value) == str(caught.value), "a line for each on the command line, too"
    look(config, tmp_path / "w", "shard")  # which needs neither
    with pytest.raises(ZseError, match="backbone.frozen=1"):  # a run that goes on delivers later
        look(config, tmp_path / "w", fresh=False)


def test_a_split_that_is_a_folder_hides_nothing_else(tmp_path: Path) -> None:
    source = world(tmp_path / "in")
    config = tiny_folder(source, ["fish"], dataset={"split": str(tmp_path)}, backbone={"frozen": 1})
    with pytest.raises(ZseError) as caught:
        look(config, tmp_path / "w")
    _, split, networks = str(caught.value).splitlines()
    assert split == f"- dataset.split {str(tmp_path)!r} is a folder. Give a file with one unseen class a line"
    assert networks.startswith("- backbone.frozen=1")


def test_what_the_system_refuses_hides_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/vectors.txt")

    monkeypatch.setattr("pipelines.operate.preflight.class_vectors_of", refused)
    config = tiny_folder(world(tmp_path / "in"), ["fish"], backbone={"frozen": 1})
    with pytest.raises(ZseError, match=r"2 things .*\n- backbone.frozen=1.*\n- /vectors.txt may not be read"):
        look(config, tmp_path / "w")


@pytest.mark.parametrize("neighbours", [15, 100])
def test_neighbours_are_not_judged_by_a_number_of_classes_that_the_data_does_not_have(neighbours: int) -> None:
    check_networks(tiny(methods={"crossatnet": {"dim": 16, "neighbours": neighbours}}))


def test_class_vectors_and_a_start_are_looked_at(tmp_path: Path) -> None:
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("car 1 2\ngiraffe 3 4\n")
    methods = {"crossatnet": {"dim": 16, "bits": 0, "class_vectors": str(vectors)}}
    source = world(tmp_path / "in")
    raw = merged(TINY, {"dataset": {}})
    raw["dataset"] = {"adapter": "folder", "name": "d", "source": source, "split": ["fish"], "pseudo_unseen": 0}
    experiment = tmp_path / "e.yaml"
    experiment.write_text(yaml.safe_dump(raw | {"methods": methods}))
    with pytest.raises(ZseError, match="no vector of 1 of 3 classes: 'teapot'"):
        invoked("run", "--dry-run", "-e", str(experiment), "-w", str(tmp_path / "w"))
    gone = f"start={tmp_path}/gone"
    experiment.write_text(yaml.safe_dump(raw))
    with pytest.raises(ZseError, match="gone"):
        invoked("run", "--dry-run", "-e", str(experiment), "-w", str(tmp_path / "w"), "--set", gone)


def test_a_start_that_has_seen_an_unseen_class_is_refused(tmp_path: Path) -> None:
    source = world(tmp_path / "in", ("fish", *load_checkpoint(Path(CODES)).split.seen))
    changes: dict[str, Any] = {"start": CODES, "dataset": {"pseudo_unseen": 0}}
    look(tiny_folder(source, ["fish"], **changes), tmp_path / "w")
    with pytest.raises(LeakError, match="chosen on 1 unseen classes .*: car"):
        look(tiny_folder(source, ["car"], **changes), tmp_path / "w")


def test_a_folder_needs_the_permission_to_write_and_to_enter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an existing parent, where the workspace does not exist yet. The user root may do everything."""
    config = tiny_folder(world(tmp_path / "in"), ["fish"])
    for allowed, says in ((os.W_OK | os.X_OK, None), (os.W_OK, "cannot be written"), (os.X_OK, "cannot be written")):
        monkeypatch.setattr("os.access", lambda path, mode, allowed=allowed: path == tmp_path and mode & ~allowed == 0)
        if says is None:
            look(config, tmp_path / "a" / "b", "ingest")
        else:
            with pytest.raises(ZseError, match=f"{tmp_path} {says} by this user"):
                look(config, tmp_path / "a" / "b", "ingest")


@pytest.mark.parametrize(("count", "ends"), [(10, "class 9. Add"), (11, "class 9 and 1 more. Add")])
def test_of_many_classes_the_first_ten_are_named(count: int, ends: str) -> None:
    names = [f"class {i}" for i in range(count)]
    split = ZeroShotSplit(name="s", citation="", seen=("x",), unseen=tuple(names))
    with pytest.raises(ZseError, match=f"{count} of {count} unseen classes have sketches but no photos .*{ends}"):
        check_searched(listed("sketch", names), split, tiny())


@pytest.mark.parametrize(("until", "refused"), [("ingest", False), ("shard", True), ("train", True)])
def test_what_cannot_be_paired_ends_a_run_that_would_pair_it(until: str, refused: bool, tmp_path: Path) -> None:
    source = world(tmp_path / "in")
    for name in CLASSES[1:]:
        shutil.rmtree(tmp_path / "in" / "sketch" / name)
    with pytest.raises(ZseError, match="sketch") if refused else nullcontext():
        look(tiny_folder(source, ["fish"]), tmp_path / "w", until)


def test_the_searched_classes_are_the_unseen_or_the_pseudo_unseen_ones() -> None:
    categories = [f"class {i}" for i in range(12)]
    for classes in ("unseen", "pseudo_unseen"):
        config = tiny_folder("x", ["class 3"], dataset={"pseudo_unseen": 0.25}, evaluation={"classes": classes})
        split = load_split(config.dataset, categories)
        expected = ("class 3",) if classes == "unseen" else split.pseudo_unseen
        assert searched_split(config, categories).unseen == expected and len(split.pseudo_unseen) > 1


def test_a_test_with_other_transforms_than_the_checkpoints_is_refused(tmp_path: Path) -> None:
    source = world(tmp_path / "in", ("comet", "harp", "igloo"))
    config = tiny_folder(source, ["comet", "harp"])
    records = create_dataset(config.dataset).records()
    same = replace(config, transforms=load_checkpoint(Path(CODES)).transforms)
    check_test(same, str(tmp_path / "w"), records, CODES)
    other = replace(same, transforms=replace(same.transforms, size=48))
    with pytest.raises(ZseError, match="transforms.size"):
        check_test(other, str(tmp_path / "w"), records, CODES)


def test_a_picture_with_the_content_of_a_training_picture_is_refused_with_both_names() -> None:
    """Before training, once the hashes are known: as what is tested, and as what chooses the checkpoint."""
    config = tiny_folder("x", ["fish"], dataset={"pseudo_unseen": 0.34})
    seen = [c for c in CLASSES if c != "fish"]
    counts = {c: {"sketch": 1, "photo": 1} for c in CLASSES}
    chosen = load_split(config.dataset, counts).pseudo_unseen
    assert len(chosen) == 1
    trained = next(c for c in seen if c not in chosen)

    def images(same: str | None) -> Any:
        hashes = np.array(["0" if c in (trained, same) else c for c in CLASSES], dtype=object)
        members = replace(listed("photo", CLASSES), sha256=hashes)
        return SimpleNamespace(counts=counts, source="pictures", members=lambda: members)

    refuse_repeats(config, images(None))
    for same, what in (("fish", "tested"), (chosen[0], "chosen by")):
        with pytest.raises(LeakError, match=f"trained on and {what}: photo/{trained}/0.png = photo/{same}/0.png"):
            refuse_repeats(config, images(same))


def paired(instances: int = 20) -> Members:
    """A sketch and a photo of each instance of two classes, each picture of its own content."""
    rows = [(m, c, f"{c}/{i}") for c in ("car", "fish") for m in ("photo", "sketch") for i in range(instances)]
    modality, category, instance = (np.array(column, dtype=object) for column in zip(*rows, strict=True))
    id = np.array([f"{m}/{i}.png" for m, _, i in rows], dtype=object)
    sha256 = np.array([f"{i:064x}" for i in range(1, len(rows) + 1)], dtype=object)
    sha256 = np.array([sha[::-1] for sha in sha256], dtype=object)  # a `picture_key` is of the first digits
    return Members(id, modality, category, instance, sha256, np.zeros(len(rows), np.int64), np.arange(len(rows)))


@pytest.mark.parametrize("hard_negatives", [1.0, 0.5])
def test_a_held_back_pair_that_chooses_the_checkpoint_is_not_trained_on(hard_negatives: float) -> None:
    """The pairs choose in a fine-grained training. Any other one takes its last weights."""
    config = tiny_folder("x", ["fish"], dataset={"held_back": 0.3}, shard={"hard_negatives": hard_negatives})
    members = paired()
    counts = {c: {"sketch": 20, "photo": 20} for c in ("car", "fish")}
    split = load_split(config.dataset, counts)
    car = (members.modality == "photo") & (members.category == "car")
    held = np.array([split.is_held_back(instance) for instance in members.instance])
    inside, outside = np.flatnonzero(car & ~held)[0], np.flatnonzero(car & held)[0]
    sha256 = members.sha256.copy()
    sha256[outside] = sha256[inside]
    images: Any = SimpleNamespace(counts=counts, source="pictures", members=lambda: members)
    refuse_repeats(config, images)
    members = replace(members, sha256=sha256)
    both = (
        f"1 pictures .* chosen by: {members.id[inside]} = {members.id[outside]}. Remove .* or give both one instance$"
    )
    with pytest.raises(LeakError, match=both) if hard_negatives == 1 else nullcontext():
        refuse_repeats(config, images)


@pytest.mark.parametrize("what", ["tested", "chosen by"])
def test_a_picture_that_the_start_has_seen_is_neither_tested_nor_chosen_by(what: str, tmp_path: Path) -> None:
    members = paired()
    counts = {c: {"sketch": 20, "photo": 20} for c in ("car", "fish")}
    images: Any = SimpleNamespace(counts=counts, source="pictures", members=lambda: members)
    changes: dict[str, Any] = {"dataset": {"held_back": 0.3}, "shard": {"hard_negatives": 1}, "start": str(tmp_path)}
    config = tiny_folder("x", ["fish"], **changes)
    split = load_split(config.dataset, counts)
    held = np.array([split.is_held_back(instance) for instance in members.instance])
    asked = members.category == "fish" if what == "tested" else (members.category == "car") & held
    seen = np.flatnonzero(~asked & ~held & (members.category == "car"))
    save_file({"pictures": seen_keys(members.sha256[seen])}, tmp_path / SEEN)
    refuse_repeats(config, images)
    one = np.flatnonzero(asked)[0]
    save_file({"pictures": seen_keys(members.sha256[[*seen, one]])}, tmp_path / SEEN)
    with pytest.raises(LeakError, match=f"on and {what}: a picture of start = {members.id[one]}. .* or start from a"):
        refuse_repeats(config, images)


@pytest.mark.parametrize(("count", "ends"), [(10, "photo/9.png"), (11, r"photo/9.png \.\.\.")])
def test_of_many_repeated_pictures_the_first_ten_are_named(count: int, ends: str) -> None:
    records = [
        ImageRecord.of([f"photo/{i}{more}.png", "photo", category, None, "", 1, "", ""])
        for category, more in (("car", "a"), ("fish", ""))
        for i in range(count)
    ]
    members = listed_members(records)
    content = np.array(
        [id.rpartition("/")[2].removesuffix(".png").removesuffix("a") for id in members.id], dtype=object
    )
    members = replace(members, sha256=content)
    counts = {c: {"sketch": 1, "photo": count} for c in ("car", "fish")}
    images: Any = SimpleNamespace(counts=counts, source="pictures", members=lambda: members)
    with pytest.raises(LeakError, match=f"^{count} pictures with the same content .*= {ends}. Remove one of each"):
        refuse_repeats(tiny_folder("x", ["fish"], dataset={"held_back": 0}), images)


def test_a_store_that_cannot_be_written_is_refused(tmp_path: Path, s3: str) -> None:
    config = tiny_folder(world(tmp_path / "in"), ["fish"])
    look(config, f"{s3}/w", "ingest")
    assert not storage.exists(f"{s3}/w"), "the probe is removed"
    with pytest.raises(ZseError, match="--workspace s3://nobodys-bucket/w"):
        look(config, "s3://nobodys-bucket/w", "ingest")


@pytest.mark.ray
@pytest.mark.parametrize("other", ["fish", "teapot"])
def test_a_picture_on_both_sides_is_refused_before_training_with_both_names(
    tmp_path: Path, ray_cluster: None, other: str
) -> None:
    """A copy of a training picture among the unseen classes, or among those that the checkpoint is chosen by."""
    source = world(tmp_path / "in")
    config = tiny_folder(source, ["fish"], dataset={"pseudo_unseen": 0.34})
    assert {"teapot"} == set(look_split(config).pseudo_unseen)
    shutil.copy(tmp_path / "in/photo/giraffe/0.png", tmp_path / f"in/photo/{other}/copy.png")
    both = f"trained on and {'tested' if other == 'fish' else 'chosen by'}.*giraffe/0.png = photo/{other}/copy.png"
    with pytest.raises(LeakError, match=both):
        run(config, str(tmp_path / "w"))
    assert not (tmp_path / "w" / "pairs").exists() and not (tmp_path / "w" / "checkpoints").exists()


def look_split(config: ExperimentConfig) -> Any:
    return load_split(config.dataset, {record.category for record in create_dataset(config.dataset).records()})


@pytest.mark.ray
def test_a_checkpoint_that_may_not_be_tested_is_refused_before_the_ingest(tmp_path: Path, ray_cluster: None) -> None:
    trained = run(tiny(), str(tmp_path / "w"), until="train").checkpoints["global"].url
    taken = tiny(dataset={"split": ["airplane", "car"]})
    for config, why in ((taken, "was trained or chosen on"), (tiny(transforms={"size": 48}), "transforms.size=32")):
        with pytest.raises(ZseError, match=why):
            evaluate_checkpoint(config, str(tmp_path / "other"), trained)
    assert not (tmp_path / "other").exists()


def test_weights_that_change_under_a_training_are_refused(tmp_path: Path) -> None:
    """A worker reads the file again after the training was named by its hash."""
    file = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), file)
    backbone = BackboneConfig(name="test_resnet", weights=str(file))
    named = weights_hash(backbone)
    with weights_at_hand(backbone, named) as same:
        assert same.weights == str(file)
    save_file(timm.create_model("test_resnet").state_dict(), file)
    other = weights_hash(backbone)
    with pytest.raises(ZseError, match=f"{file} was {named} when this training was named and is {other} now"):
        with weights_at_hand(backbone, named):
            pass
