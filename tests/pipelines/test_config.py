"""Configuration: what is shipped loads, what is wrong is named with its path."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.catalog import FolderConfig, SyntheticConfig, load_split, split_names
from pipelines.config import ConfigError, experiment_names, load_experiment
from tests.conftest import tiny
from zse_model.split import ZeroShotSplit


@pytest.mark.parametrize("name", experiment_names())
def test_every_shipped_experiment_loads(name: str) -> None:
    assert load_experiment(name).name == name


def test_overrides_reach_any_field_and_are_checked() -> None:
    config = load_experiment(
        "folder+global", ["dataset.source=/data/my pictures", "train.steps=7", "methods.global.dim=64"]
    )
    assert isinstance(config.dataset, FolderConfig) and config.dataset.source == "/data/my pictures"
    assert config.train.steps == 7 and config.train.minutes is None  # one budget replaces the other
    assert config.methods["global"].dim == 64


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr=fast", r"train\.lr: .*number.*'fast'"),
        ("train.learning_rate=1", r"train\.learning_rate"),
        ("methods.global.dimm=3", r"methods\.global\.dimm"),
        ("methods.best.dim=3", r"unknown \['best'\]\. Known methods"),
        ("train.steps=-1", "^train.steps must be above 0, got -1$"),
        ("cluster.min_workers=5", r"^cluster.min_workers must be 1 to cluster.workers \(2\), got 5$"),
        ("backbone.weights=nowhere.safetensors", "'nowhere.safetensors' does not exist"),
        ("dataset.name=My Data", "may hold only lower case"),
        ("evaluation.protocols=[best]", r"\['best'\] are unknown"),
        ("train.lr", "takes a.b=c"),
        ("name.x=1", "'name' is a value"),
    ],
)
def test_what_is_wrong_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_experiment("folder+global", [override])


def test_unknown_experiments_list_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="quickstart"):
        load_experiment("quickstrt")


def test_a_split_comes_from_a_name_a_list_or_a_file(tmp_path: Path) -> None:
    listed = load_split(tiny().dataset, ["fish", "teapot", "church", "car", "rabbit"])
    assert set(listed.unseen) == {"fish", "teapot", "church"} and set(listed.seen) == {"car", "rabbit"}
    file = tmp_path / "unseen classes.txt"
    file.write_text("# held out\nfish\n\nteapot\n")
    config = SyntheticConfig(name="x", split=str(file), pseudo_unseen=0)
    assert set(load_split(config, ["fish", "teapot", "church"]).unseen) == {"fish", "teapot"}
    with pytest.raises(ValueError, match=r"no pictures of 1 of the 2 unseen classes .*teapot"):
        load_split(config, ["fish", "church", "car"])
    with pytest.raises(ValueError, match="neither a built-in split .*sketchy-25"):
        load_split(SyntheticConfig(name="x", split="sketchy-26"), ["fish"])
    with pytest.raises(ValueError, match="hot air balloon.*Merge them|hot-air_balloon.*Merge them"):
        load_split(config, ["fish", "teapot", "hot-air_balloon", "hot air balloon"])
    assert "sketchy-25" in split_names()


def test_a_split_is_drawn_by_its_seed_and_never_across_an_alias() -> None:
    classes = ["fish", "teapot", "car", "car_(sedan)", "church", "umbrella", "rabbit", "tiger"]

    def drawn(seed: int, of: list[str], count: int = 3) -> ZeroShotSplit:
        return load_split(SyntheticConfig(name="x", split=f"random-{count}", split_seed=seed, pseudo_unseen=0.2), of)

    split = drawn(1, classes)
    assert split.name == "x-random-3-1" and len(split.unseen) == 3 and len(split.pseudo_unseen) == 1
    assert drawn(1, classes[::-1]) == split and set(drawn(2, classes).unseen) != set(split.unseen)
    assert not any({"car", "car_(sedan)"} & set(drawn(seed, classes).unseen) for seed in range(20))
    with pytest.raises(ValueError, match="7 classes cannot be drawn from 8, 6 of which have no alias"):
        drawn(0, classes, 7)
