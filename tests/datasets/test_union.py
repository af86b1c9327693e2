"""Everything at once: data sets as one, the unseen classes of several settings kept out, items by weight."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipelines.config.data import ShardConfig
from pipelines.config.load import validate
from pipelines.datasets.built_in import built_in
from pipelines.datasets.published import load_settings
from pipelines.datasets.registry import create_dataset, read_dataset
from pipelines.datasets.splits import load_split
from pipelines.datasets.union import UnionConfig
from pipelines.judge.published_settings import evaluate_settings
from pipelines.run import run
from pipelines.runtime.errors import ConfigError
from pipelines.train.items import ItemPlan
from pipelines.workspace.members import training_members
from tests.conftest import TINY
from tests.helpers.pictures import build, world
from zse_model.checkpoint import load_checkpoint
from zse_model.split import conflicts, normalise_name


def parts_of(tmp_path: Path) -> dict[str, Any]:
    first = build(tmp_path / "a", ["sketch/hot-air_balloon/1.png", "photo/hot-air_balloon/1.png", "sketch/cat/1.png"])
    (tmp_path / "a" / "photo" / "cat").mkdir()
    (tmp_path / "a" / "pairs.tsv").write_text("class\tsketch\tphoto\nhot-air_balloon\t1.png\t1.png\n")
    second = build(tmp_path / "b", ["sketches/hot air balloon/1.png", "images/cat/1.jpg", "images/dog/1.jpg"])
    return {
        "one": {"adapter": "folder", "source": first},
        "two": {"adapter": "quickdraw_extended", "source": second},
    }


def test_parts_are_one_data_set(tmp_path: Path) -> None:
    config = read_dataset({"adapter": "union", "name": "all", "split": ["cat"], "parts": parts_of(tmp_path)})
    dataset = create_dataset(config)
    records = dataset.records()
    assert [(r.id, r.instance) for r in records] == [
        ("photo/cat/two//1.jpg", None),
        ("photo/dog/two//1.jpg", None),
        ("photo/hot-air_balloon/one//1.png", "one//hot-air_balloon/1.png"),
        ("sketch/cat/one//1.png", None),
        ("sketch/hot-air_balloon/one//1.png", "one//hot-air_balloon/1.png"),
        ("sketch/hot-air_balloon/two//1.png", None),
    ]
    for record, data in zip(records[::-1], dataset.read(records[::-1]), strict=True):
        assert isinstance(data, bytes) and len(data) == record.size
    assert isinstance(dataset.read([records[0]])[0], bytes)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "dataset.parts is empty"),
        (
            {"a": {"adapter": "folder", "source": "x", "split": ["cat"]}},
            r"sets \['split'\], which a part cannot set",
        ),
        ({"a": {"adapter": "union", "parts": {}}}, "is a union\\."),
        ({"a": {"adapter": "folder"}}, "source"),
    ],
)
def test_wrong_parts_are_refused(parts: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        UnionConfig(name="x", split=("cat",), parts=parts)


def test_nothing_that_any_setting_tests_is_seen_by_any_name() -> None:
    config = UnionConfig(
        name="all", split="sketchy-25+tuberlin-30", pseudo_unseen=0.25, parts={"a": {"adapter": "synthetic"}}
    )
    categories = ["cup", "teacup", "swan", "rocket", "space shuttle", "tiger", "rabbit", "umbrella", "car", "piano"]
    split = load_split(config, categories)
    assert {"cup", "swan"} <= set(split.unseen) and "banana" in split.unseen, "without pictures, and on the list"
    assert set(split.seen) <= {"tiger", "rabbit", "car", "piano", "umbrella"} and len(split.pseudo_unseen) == 1
    assert not conflicts(split.seen, split.unseen)
    assert {normalise_name(c) for c in split.unseen} >= {"cup", "swan", "space shuttle", "teacup", "telephone"}
    with pytest.raises(ValueError, match=r"names unknown splits \['sketchy-26'\]"):
        load_split(UnionConfig(name="all", split="sketchy-25+sketchy-26", parts=config.parts), categories)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_one_network_for_all_settings(tmp_path: Path) -> None:
    """Only here is a network trained on parts of a union, by their weights, and evaluated on each."""
    places = {
        "sketchy": {"adapter": "folder", "source": world(tmp_path / "s", ["tiger", "car", "rabbit"], ["swan"])},
        "tuberlin": {"adapter": "folder", "source": world(tmp_path / "t", ["tiger", "church", "camera"], ["bus"])},
    }
    dataset = {"adapter": "union", "name": "all", "split": "sketchy-25+tuberlin-30", "parts": places}
    shard = TINY["shard"] | {"weights": {"sketchy": 3.0, "tuberlin": 1.0}, "items": 400}
    config = validate(TINY | {"dataset": dataset | {"pseudo_unseen": 0.2, "held_back": 0.3}, "shard": shard})
    workspace = str(tmp_path / "w")
    out = run(config, workspace, until="train")
    checkpoint = load_checkpoint(out.checkpoints["global"].url)
    assert set(checkpoint.split.seen) == {"tiger", "car", "rabbit", "camera", "church"}

    members = training_members(out.images.members(), checkpoint.split)
    plan = ItemPlan(members, config.shard)
    items = [plan[i] for i in range(400)]
    shares = Counter(members.id[item.sketch].split("/")[2] for item in items)
    assert shares["sketchy"] / 400 == pytest.approx(0.75, abs=0.06)
    assert all(members.category[item.sketch] == members.category[item.photo] for item in items)
    mixed = {tuple(members.id[i].split("/")[2] for i in (item.sketch, item.photo)) for item in items}
    assert len(mixed) == 4, "a sketch of one part learns from photos of the other"
    with pytest.raises(ValueError, match=r"names \['sketchy'\], but the parts .*\['sketchy', 'tuberlin'\]"):
        ItemPlan(members, ShardConfig(weights={"sketchy": 1}))

    for split, data in (("sketchy-25", "s"), ("tuberlin-30", "t")):
        there = {path.name for path in (tmp_path / data / "sketch").iterdir()}
        world(tmp_path / data, [], [c for c in built_in(split)["unseen"] if c not in there])
    settings = load_settings(["sketchy-25", "tuberlin-30", "sketchy-25-generalised"])
    results = evaluate_settings(config, workspace, out.checkpoints["global"].url, settings, places)
    assert [(bool(r.rows), r.refused, r.broken) for r in results] == [(True, "", "")] * 3, "the same ones are held back"
    assert results[2].rows[0]["gallery"] > results[0].rows[0]["gallery"]
    assert results[0].difference == "trained on all, published on sketchy-25"
