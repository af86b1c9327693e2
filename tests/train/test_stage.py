"""Training on a real Ray: the same as in one process, through a killed worker, and on S3."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import timm
import torch
from safetensors.torch import save_file

from pipelines.config.experiment import ExperimentConfig
from pipelines.config.load import validate
from pipelines.ingest.stage import ingest
from pipelines.run import run
from pipelines.store import storage
from pipelines.train.job import _method_identity, make_job
from pipelines.train.shard import shard
from pipelines.train.stage import train
from pipelines.workspace.members import training_members
from pipelines.workspace.pairs import Pairs
from pipelines.workspace.training import Training
from tests.conftest import TINY, tiny, tiny_folder
from tests.helpers.pictures import write
from zse_model.checkpoint import load_checkpoint
from zse_model.evaluation.leaks import LeakError
from zse_model.methods import CrossATNetConfig, LateInteractionConfig, ZseSbirConfig

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(autouse=True)
def quick_failure_detection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")


def trained(config: Any, workspace: str, method: str = "global") -> Training:
    images = ingest(config, workspace)
    done = train(config, method, workspace, images, shard(config, workspace, images))
    assert not storage.exists(storage.join(done.url, "state")), "the state of a finished training is removed"
    return done


def test_one_ray_worker_equals_one_plain_process(tmp_path: Path) -> None:
    """To the bit. Only here are Ray Train's wrapping, reports and item order held against a plain process."""
    plain = trained(tiny(), str(tmp_path / "plain"))
    ray = trained(tiny(cluster={"workers": 1}), str(tmp_path / "ray"))
    assert ray.last_weights_sha256 == plain.last_weights_sha256
    assert plain.manifest["proof"]["encodings"].keys() == {"sketch/embedding", "photo/embedding"}
    kept, timms = load_checkpoint(Path(plain.url)).method.backbone_config, timm.get_pretrained_cfg("test_resnet")
    assert (kept.mean, kept.std) == (timms.mean, timms.std), "not None: what timm names may change"


def test_settings_that_change_the_weights_change_the_name(tmp_path: Path) -> None:
    config, workspace = tiny(), str(tmp_path)
    images = ingest(config, workspace)
    pairs = shard(config, workspace, images)

    def name(**settings: Any) -> str:
        return make_job(tiny(train=settings), "global", workspace, images, pairs).name

    assert name(activation_checkpointing=True) == name(), "the weights are the same"
    assert len({name(), name(gather=True), name(accumulate=2), name(compile=True)}) == 4


def of_names(tmp_path: Path) -> ExperimentConfig:
    """Pictures whose instance is unknown, so that their names decide what is held back."""
    write(tmp_path / "set", range(6))
    return tiny_folder(
        str(tmp_path / "set"), ["cat"], dataset={"held_back": 0.3}, shard={"layout": "memory"}, cluster={"workers": 0}
    )


def rename(tmp_path: Path) -> None:
    for file in (tmp_path / "set").rglob("*.png"):
        file.rename(file.with_name(f"img_{file.name}"))


def test_pictures_under_other_names_give_other_pair_shards_and_another_training(tmp_path: Path) -> None:
    """They have the same fingerprint, but others of them are held back: a training that was found would be tested on
    what it was trained on, and would not say so."""
    config, workspace = of_names(tmp_path), str(tmp_path / "w")
    made = []
    for _ in range(2):
        images = ingest(config, workspace)
        pairs = shard(config, workspace, images)
        jobs = [make_job(config, "global", workspace, images, pairs, untrained=un).key for un in (False, True)]
        trained_on = {*training_members(images.members(), pairs.split).sha256}
        made.append((images.fingerprint, trained_on, pairs.key, *jobs))
        rename(tmp_path)
    (fingerprint, *before), (same, *after) = made
    assert fingerprint == same and all(a != b for a, b in zip(before, after, strict=True))


def test_parts_of_a_union_that_change_their_names_give_another_training(tmp_path: Path) -> None:
    """`shard.weights` reads the names. The pictures are the same."""
    for name, instances in (("one", range(3)), ("two", range(3, 6))):
        write(tmp_path / name, instances)
    keys = []
    for x, y in (("one", "two"), ("two", "one")):
        parts = {part: {"adapter": "folder", "source": str(tmp_path / of)} for part, of in (("x", x), ("y", y))}
        dataset = {"adapter": "union", "name": "u", "split": ["cat"], "pseudo_unseen": 0, "parts": parts}
        config = validate(TINY | {"dataset": dataset, "shard": {"layout": "memory", "weights": {"x": 9, "y": 1}}})
        images = ingest(config, str(tmp_path))
        pairs = shard(config, str(tmp_path), images)
        keys.append((images.fingerprint, pairs.key, make_job(config, "global", str(tmp_path), images, pairs).key))
    assert keys[0][0] == keys[1][0] and keys[0][1] != keys[1][1] and keys[0][2] != keys[1][2]


def test_pair_shards_of_earlier_code_are_kept_for_their_own_pictures(tmp_path: Path) -> None:
    """Their key covers the fingerprint alone, and so does the key of their trainings."""
    config, workspace = of_names(tmp_path), str(tmp_path / "w")
    images = ingest(config, workspace)
    now = shard(config, workspace, images)
    depends = {"schema": 1, "fingerprint": images.fingerprint, "transforms": images.transforms}
    key = storage.digest(depends | {"split": now.split_hash, "shard": now.settings})
    about = {name: value for name, value in now.about.items() if name not in ("schema_version", "pictures_hash")}
    earlier = Pairs.write(Pairs.place(workspace, "pictures", key), **about | {"images": f"/moved/{images.name}"})
    storage.remove_folder(now.url)
    assert shard(config, workspace, images) == earlier, "its workspace may have moved"
    names = [make_job(config, "global", workspace, images, pairs).name for pairs in (earlier, now)]
    assert len({*names}) == 2

    for file in (tmp_path / "set").rglob("*.png"):
        os.utime(file, (0, 0))
    again = ingest(config, workspace)
    assert again.url != images.url and shard(config, workspace, again) == earlier, "the same pictures, listed anew"
    assert make_job(config, "global", workspace, again, earlier).name == names[0]

    rename(tmp_path)
    other = ingest(config, workspace)
    assert other.fingerprint == images.fingerprint and shard(config, workspace, other).url != earlier.url
    storage.remove_folder(images.url)
    assert shard(config, workspace, again).url == now.url, "nothing says what the earlier ones were made of"


@pytest.mark.cluster
@pytest.mark.timeout(600)  # two trainings: a minute alone, five beside the nodes of other tests
def test_a_killed_worker_costs_steps_but_changes_nothing(tmp_path: Path) -> None:
    config = tiny(train={"steps": 40, "checks": 8}, cluster={"workers": 2})
    whole = trained(config, str(tmp_path / "whole"))
    killed: list[int] = []

    def kill_one() -> None:
        state = tmp_path / "killed" / "checkpoints"
        while not killed:
            time.sleep(0.05)
            if len(list(state.glob("*/state/**/state.json"))) < 1:
                continue
            time.sleep(0.5)  # some steps past a checkpoint
            workers = []
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):  # it may have ended meanwhile
                    workers += [process] if "RayTrainWorker" in " ".join(process.cmdline()) else []
            if workers:
                os.kill(workers[-1].pid, signal.SIGKILL)
                killed.append(workers[-1].pid)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    again = trained(config, str(tmp_path / "killed"))
    assert killed, "the training ended before a worker could be killed"
    assert again.last_weights_sha256 == whole.last_weights_sha256
    assert again.digest == whole.digest


def test_nothing_of_an_unseen_class_vector_reaches_a_training(tmp_path: Path) -> None:
    """A file that lacks the unseen and pseudo-unseen names gives the same checkpoint, under the same name, as one that
    has anything for them; another vector of a training class gives another."""
    file = tmp_path / "vectors.npz"
    settings = {"dim": 16, "bits": 32, "neighbours": 1, "class_vectors": str(file)}
    config = tiny(methods={"crossatnet": settings}, train={"steps": 2, "checks": 1})
    config = replace(config, methods={"crossatnet": config.methods["crossatnet"]})
    pairs = shard(config, str(tmp_path), ingest(config, str(tmp_path)))
    training = pairs.classes
    vectors = {name: np.random.default_rng(i).normal(size=8) for i, name in enumerate(training)}
    others = {name: np.full(8, np.nan) for name in TINY["dataset"]["categories"]}
    moved = vectors | {training[0]: vectors[training[0]] + 1}
    made = []
    for content in (vectors, others | vectors, others | moved):
        np.savez(file, names=list(content), vectors=np.stack(list(content.values())))
        made.append(trained(config, str(tmp_path), "crossatnet"))
        shutil.rmtree(tmp_path / "checkpoints")
    assert made[0].digest == made[1].digest != made[2].digest
    assert made[0].name == made[1].name != made[2].name


def test_a_second_stage_selects_tokens_with_a_new_head(tmp_path: Path) -> None:
    """The authors' warm-up: all tokens first, then fewer, so a smaller relation network. Both keep the licence of the
    weights that the first began with."""
    workspace, weights = str(tmp_path), tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), weights)
    Path(f"{weights}.json").write_text('{"licence": "cc-by-4.0"}')

    def stage(
        *, backbone: str = "test_vit", weights: Path | None = None, keep_rates: tuple[float, ...] = (), **changes: Any
    ) -> ExperimentConfig:
        config = tiny(backbone={"name": backbone, "weights": weights and str(weights)}, **changes)
        return replace(config, methods={"zse_sbir": ZseSbirConfig(heads=2, ffn=16, keep_rates=keep_rates)})

    first = stage(weights=weights)
    start = run(first, workspace, until="train").checkpoints["zse_sbir"].url
    second = stage(keep_rates=(0.5,), start=start)
    images = ingest(second, workspace)
    job = make_job(second, "zse_sbir", workspace, images, shard(second, workspace, images))
    before, after = load_checkpoint(start).method.state_dict(), job.create_method().state_dict()
    assert after["relation.perceptron.0.weight"].shape[1] == before["relation.perceptron.0.weight"].shape[1] / 4
    same = [n for n in after if not n.startswith(("relation.", "fusion"))]
    assert same and all(torch.equal(after[n], before[n]) for n in same)
    out = run(second, workspace)
    checkpoint = load_checkpoint(out.checkpoints["zse_sbir"].url)
    assert checkpoint.training["licence"] == load_checkpoint(start).training["licence"] == "cc-by-4.0"
    assert "positions" in checkpoint.method.encode(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "photo")
    assert {row["mode"] for row in out.rows() if row["method"] == "zse_sbir"} == {"ret", "rn", "fused"}

    other = stage(start=start, dataset={"split_seed": 1})
    with pytest.raises(LeakError, match="trained on the pseudo-unseen classes"):
        run(other, workspace, until="train")
    with pytest.raises(ValueError, match="beyond their heads the networks differ"):
        run(stage(backbone="test_vit2", start=start), workspace, until="train")


def test_a_training_starts_from_the_backbone_of_another_method(tmp_path: Path) -> None:
    """The second is distilled from the classifier that the first began with and trained."""
    workspace, weights = str(tmp_path), tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    first = tiny(
        train={"steps": 2, "checks": 1}, backbone={"weights": str(weights)}, methods={"global": {"distillation": 1.0}}
    )
    start = run(first, workspace, until="train").checkpoints["global"].url

    def stage(backbone: str = "test_resnet", **changes: Any) -> ExperimentConfig:
        config = tiny(train={"steps": 1, "checks": 1}, start=start, backbone={"name": backbone}, **changes)
        method = CrossATNetConfig(dim=16, bits=32, neighbours=1, share_backbone=False, distillation=1)
        return replace(config, methods={"crossatnet": method})

    config = stage()
    images = ingest(config, workspace)
    job = make_job(config, "crossatnet", workspace, images, shard(config, workspace, images))
    tuned, mine = load_checkpoint(start).method.state_dict(), job.create_method().state_dict()
    for side in ("", "sketch_"):
        names = [n for n in mine if n.startswith(f"{side}backbone.")]
        assert f"{side}backbone.classifier.weight" in names and all(
            torch.equal(mine[n], tuned[n.removeprefix(side)]) for n in names
        )
    run(config, workspace, until="train")
    with pytest.raises(LeakError, match="trained on the pseudo-unseen classes"):
        run(stage(dataset={"split_seed": 1}), workspace, until="train")
    with pytest.raises(ValueError, match="the backbones differ in"):
        run(stage(backbone="test_vit"), workspace, until="train")


def test_the_whole_path_on_s3(s3: str, tmp_path: Path) -> None:
    """Pictures, shards, states, checkpoints, encodings and reports in a bucket; nothing left on this machine's disk.
    Only here does every stage run on a bucket."""
    from tests.helpers.pictures import picture
    from zse_model.synthetic import draw_photo, draw_sketch

    categories = ["fish", "teapot", "church", "car", "rabbit"]
    for category in categories:
        for i in range(3):
            storage.write_bytes(f"{s3}/in/sketch/{category}/{i}.png", picture(draw_sketch(category, i, size=48)))
            storage.write_bytes(f"{s3}/in/photo/{category}/{i}.png", picture(draw_photo(category, i, size=48)))
    shorter = {"train": {"steps": 2, "checks": 1}, "shard": {"items": 16, "part_size": 16}}
    config = tiny_folder(f"{s3}/in", ["fish", "car"], cluster={"workers": 1}, **shorter)
    out = run(config, f"{s3}/out")
    assert {row["metric"] for row in out.rows()} >= {"mAP_all", "P_1"}
    kinds = {file.path.split("/")[0] for file in storage.list_files(f"{s3}/out")}
    assert kinds == {"images", "pairs", "checkpoints", "encodings", "reports"}


def test_late_interaction_without_a_cost_of_distance_keeps_the_key_of_older_code() -> None:
    for config in (LateInteractionConfig, ZseSbirConfig):
        kept = _method_identity(config(dropped_units=()))
        assert kept == _method_identity(config(dropped_units=(), late_distance=0.0)) and "late_distance" not in kept
        assert _method_identity(config(dropped_units=(), late_distance=1.6)) == {**kept, "late_distance": 1.6}
