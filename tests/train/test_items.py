"""Planned items: pure, balanced, and never of a class or picture that training may not see."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from pipelines.config.data import ShardConfig
from pipelines.train.items import ItemPlan
from pipelines.workspace.members import Members, training_members
from zse_model.augment import AugmentConfig
from zse_model.split import ZeroShotSplit

SPLIT = ZeroShotSplit(
    name="s", citation="c", seen=("a", "b", "c", "d"), unseen=("x", "y"), pseudo_unseen=("d",), held_back=0.3
)


def members() -> Members:
    """Each class has 10 instances with a photo and two sketches; class b has 50."""
    rows = [
        (f"{modality}/{category}/{i}-{k}", modality, category, f"{category}/{i}")
        for category in "abcdxy"
        for i in range(50 if category == "b" else 10)
        for modality, k in (("photo", 0), ("sketch", 0), ("sketch", 1))
    ]
    ids, modalities, categories, instances = (np.array(column, dtype=object) for column in zip(*rows, strict=True))
    n = np.arange(len(ids))
    return Members(ids, modalities, categories, instances, np.array([f"{i:064x}" for i in n], dtype=object), n * 0, n)


def test_training_sees_neither_unseen_nor_pseudo_unseen_nor_held_back() -> None:
    inside = training_members(members(), SPLIT)
    assert set(inside.category) == {"a", "b", "c"}
    assert not any(SPLIT.is_held_back(i) for i in inside.instance) and 0 < len(inside) < 3 * 70
    plan = ItemPlan(inside, ShardConfig(hard_negatives=0.5))
    used = {index for i in range(500) for index in plan[i].pictures()}
    assert {str(inside.category[i]) for i in used} == {"a", "b", "c"}


def test_items_are_a_function_of_their_number_and_classes_are_uniform() -> None:
    inside = training_members(members(), SPLIT)
    config = ShardConfig(own_photo=1.0, hard_negatives=0.5, seed=3)
    plan, again = ItemPlan(inside, config), ItemPlan(inside, config)
    items = [plan[i] for i in range(3000)]
    assert [again[i] for i in reversed(range(3000))] == items[::-1]
    assert (
        ItemPlan(inside, replace(config, seed=4))[0] != items[0]
        or ItemPlan(inside, replace(config, seed=4))[1] != items[1]
    )
    shares = np.bincount([item.label for item in items]) / len(items)
    assert np.allclose(shares, 1 / 3, atol=0.04)  # not 5 : 1 as the pictures are
    for item in items:
        sketch, photo, sketch2, negative = item.pictures()
        assert inside.instance[sketch] == inside.instance[photo] and sketch != sketch2
        assert inside.category[sketch2] == inside.category[sketch]
        assert (item.negative_label == item.label) == (inside.category[negative] == inside.category[sketch])
        assert inside.instance[negative] not in (inside.instance[sketch2], inside.instance[photo])
    assert 0.45 < np.mean([item.label == item.negative_label for item in items]) < 0.55


@pytest.mark.parametrize("own_photo", [0.0, 0.5, 1.0])
def test_a_hard_negative_is_an_own_photo_of_neither_sketch(own_photo: float) -> None:
    some = members()
    few = some.where(np.isin(some.instance, [f"{c}/{i}" for c in "ab" for i in range(4)]))
    plan = ItemPlan(few, ShardConfig(own_photo=own_photo, hard_negatives=1.0))
    photos_of_others = 0
    for i in range(500):
        item = plan[i]
        sketch, photo, sketch2, negative = (few.instance[index] for index in item.pictures())
        assert item.negative_label == item.label and negative not in (sketch, photo, sketch2)
        photos_of_others += photo != sketch
    assert bool(photos_of_others) == (own_photo < 1)


def test_rendering_is_deterministic_and_mirrors_pairs_together() -> None:
    plan = ItemPlan(training_members(members(), SPLIT), ShardConfig(augment=AugmentConfig(flip=1.0)))
    left = np.tile(np.arange(16, dtype=np.uint8), (16, 1))
    pictures = (left, np.stack([left] * 3, -1), left, np.stack([left] * 3, -1))
    out = plan.render(5, pictures)
    assert all(np.array_equal(a, b) for a, b in zip(out, plan.render(5, pictures), strict=True))
    assert np.array_equal(out[0], left[:, ::-1]) and np.array_equal(out[1][..., 0], left[:, ::-1])


def test_a_training_without_two_complete_classes_is_refused() -> None:
    inside = training_members(members(), SPLIT)
    photos = inside.where((inside.modality == "photo") | (inside.category == "a"))
    with pytest.raises(ValueError, match=r"at least two classes .* got \['a'\]; .*\['b', 'c'\]"):
        ItemPlan(photos, ShardConfig())


def test_one_class_with_known_pairs_is_enough_for_hard_negatives() -> None:
    inside = training_members(members(), SPLIT)
    alone = inside.where(inside.category == "a")
    plan = ItemPlan(alone, ShardConfig(hard_negatives=1.0, own_photo=1.0))
    for i in range(200):
        item = plan[i]
        sketch, photo, sketch2, negative = (alone.instance[index] for index in item.pictures())
        assert item.label == item.negative_label == 0 and sketch == photo and negative not in (photo, sketch2)
    with pytest.raises(ValueError, match=r"got \['a'\].*hard_negatives=1 \(now 0.9\)"):
        ItemPlan(alone, ShardConfig(hard_negatives=0.9))
    two = sorted(set(alone.instance))[:2]
    with pytest.raises(ValueError, match=r"shard.own_photo=1, photos of at least 3 instances \(found: 2\)"):
        ItemPlan(alone.where(np.isin(alone.instance, two)), ShardConfig(hard_negatives=1.0, own_photo=1.0))
    unknown = replace(alone, instance=np.array([None if i == two[0] else i for i in alone.instance], dtype=object))
    with pytest.raises(ValueError, match=r"every picture \(unknown: 3\)"):
        ItemPlan(unknown, ShardConfig(hard_negatives=1.0))


def test_one_class_has_a_negative_for_photos_of_three_instances() -> None:
    """Photos of a sketch that is not theirs may leave one instance fewer than own photos do."""
    inside = training_members(members(), SPLIT)
    three, four = (
        inside.where(np.isin(inside.instance, sorted(set(inside.instance[inside.category == "a"]))[:n])) for n in (3, 4)
    )
    own, any_photo = (ShardConfig(hard_negatives=1.0, own_photo=share) for share in (1.0, 0.9))
    for plan in (ItemPlan(three, own), ItemPlan(four, any_photo)):
        assert all(plan[i].negative_label == 0 for i in range(500))
    with pytest.raises(ValueError, match=r"shard.own_photo=0.9, photos of at least 4 instances \(found: 3\)"):
        ItemPlan(three, any_photo)


def pixels_of(plan: ItemPlan, some: Members, item: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A picture of each role: sketches of one line, photos of a dark square on a light ground."""
    drawn, shown = np.full((64, 64), 255, np.uint8), np.full((64, 64, 3), 230, np.uint8)
    drawn[30:32, 10:50], shown[16:48, 16:48] = 0, 20
    a, b, c, d = (shown if some.modality[i] == "photo" else drawn for i in plan[item].pictures())
    return a, b, c, d


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_pseudo_sketches_stand_in_for_a_share_of_the_drawings_and_for_classes_without_any(share: float) -> None:
    inside = training_members(members(), SPLIT)
    some = inside.where((inside.modality == "photo") | (inside.category != "c"))
    plan = ItemPlan(some, ShardConfig(pseudo_sketches=share, own_photo=1.0, seed=2))
    assert plan.classes == ["a", "b", "c"] and plan.incomplete == []
    assert ItemPlan(some, ShardConfig()).incomplete == ["c"]
    items = [plan[i] for i in range(3000)]
    made = np.array([some.modality[item.sketch] == "photo" for item in items])
    for item, from_photo in zip(items, made, strict=True):
        sketch, photo, sketch2, negative = item.pictures()
        assert (some.modality[sketch2] == "photo") == from_photo and sketch != sketch2
        assert some.category[sketch] == some.category[sketch2] == plan.classes[item.label]
        assert some.instance[photo] == some.instance[sketch] and some.category[negative] != some.category[sketch]
    labels = np.array([item.label for item in items])
    assert made[labels == 2].all() and abs(made[labels != 2].mean() - share) < 0.04
    for i in range(5):
        pictures = pixels_of(plan, some, i)
        out = plan.render(i, pictures)
        assert [p.shape for p in out] == [(64, 64), (64, 64, 3), (64, 64), (64, 64, 3)]
        assert all(np.array_equal(x, y) for x, y in zip(out, plan.render(i, pictures), strict=True))


def test_parts_of_a_union_are_not_weighted_where_sketches_are_of_no_part() -> None:
    with pytest.raises(ValueError, match="Leave out one of the two"):
        ItemPlan(training_members(members(), SPLIT), ShardConfig(weights={"x": 1.0}, pseudo_sketches=0.5))


def test_without_pseudo_sketches_items_are_those_of_before() -> None:
    """Of 1afa7fd, whose pair shards are kept. Hard negatives are of before where every photo is the sketch's own."""
    expected = {
        (0.5, 0.0): [(133, 135, 136, 0), (98, 87, 94, 144), (145, 144, 140, 75)],
        (1.0, 0.5): [(133, 132, 136, 0), (98, 96, 94, 84), (145, 144, 140, 141)],
    }
    for (own, hard), pictures in expected.items():
        plan = ItemPlan(training_members(members(), SPLIT), ShardConfig(own_photo=own, hard_negatives=hard, seed=3))
        assert [plan[i].pictures() for i in (0, 7, 1234)] == pictures


def test_a_part_receives_arrays_and_no_text_of_the_pictures() -> None:
    """Ray maps arrays into a worker; texts it would decode again in each part: 7 CPU seconds of a million pictures."""
    copied = []
    for times in (1, 20):
        all_of = training_members(members(), SPLIT)
        many = all_of.where(np.tile(np.arange(len(all_of)), times))
        arrays: list[pickle.PickleBuffer] = []
        plan = ItemPlan(many, ShardConfig(own_photo=0.5, hard_negatives=0.5))
        copied.append(len(pickle.dumps(plan, protocol=5, buffer_callback=arrays.append)))
        assert sum(memoryview(array).nbytes for array in arrays) < 50 * len(many) + 5000
    assert copied[1] < copied[0] + 50


@pytest.mark.parametrize("name", ["own_photo", "hard_negatives", "pseudo_sketches"])
def test_a_share_lies_between_0_and_1(name: str) -> None:
    with pytest.raises(ValueError, match=rf"shard\.{name} is a share, 0\.\.1, got 1\.5"):
        ShardConfig(**{name: 1.5})
