"""Which pictures make training item i: a pure function of (members, configuration, i).

Classes are drawn uniformly, so that a class with few pictures counts as much as one with many. An item is (sketch,
photo, another sketch of its class, a photo it must not match); zse_sbir section 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipelines.config.data import ShardConfig
from pipelines.workspace.members import Members
from zse_model.augment import augment_photo, augment_sketch
from zse_model.errors import ZseError

ROLES = ("sketch", "photo", "sketch2", "negative")


@dataclass(frozen=True)
class Item:
    """Indices into the training members, and labels into `ItemPlan.classes`."""

    sketch: int
    photo: int
    sketch2: int
    negative: int
    label: int
    negative_label: int

    def pictures(self) -> tuple[int, int, int, int]:
        return self.sketch, self.photo, self.sketch2, self.negative


class ItemPlan:
    """`plan[i]` is item i, the same in every process and in any order. Raises ValueError where none can be planned."""

    def __init__(self, members: Members, config: ShardConfig) -> None:
        self.members, self.config = members, config
        self.classes: list[str] = []
        self.incomplete: list[str] = []
        """Classes without a sketch or without a photo: nothing to learn from."""
        self._sketches: list[np.ndarray] = []
        self._photos: list[np.ndarray] = []
        for category in sorted(set(members.category)):
            inside = members.category == category
            sketches = np.flatnonzero(inside & (members.modality == "sketch"))
            photos = np.flatnonzero(inside & (members.modality == "photo"))
            if len(sketches) and len(photos):
                self.classes.append(category)
                self._sketches.append(sketches)
                self._photos.append(photos)
            else:
                self.incomplete.append(category)
        if len(self.classes) < 2:
            self._check_alone()
        self._parts = list(self._of_parts()) if config.weights else []
        self._photos_of: dict[str, list[int]] = {}
        for index in np.concatenate(self._photos):
            instance: str | None = members.instance[int(index)]  # type: ignore[assignment]
            if instance is not None:
                self._photos_of.setdefault(instance, []).append(int(index))

    def _of_parts(self) -> Iterator[tuple[float, list[int], list[np.ndarray]]]:
        """Share of the items, labels, and the sketches of each label, for every weighted part. Raises ValueError where
        weights and parts differ."""
        parts = np.array([id.split("/", 3)[2] for id in self.members.id])
        there = {str(part) for part in parts[self.members.modality == "sketch"]}
        if there != set(self.config.weights):
            raise ZseError(
                f"shard.weights names {sorted(self.config.weights)}, but the parts with training sketches are "
                f"{sorted(there)[:10]}. Give each of them a weight"
            )
        for name, weight in self.config.weights.items():
            inside = [sketches[parts[sketches] == name] for sketches in self._sketches]
            labels = [label for label, sketches in enumerate(inside) if len(sketches)]
            if not labels:
                raise ZseError(f"shard.weights: no class of {name!r} has a sketch and, in any part, a photo")
            yield weight, labels, inside

    def _draw_class(self, rng: np.random.Generator) -> tuple[int, np.ndarray]:
        """A label, and the sketches that the item may take."""
        if not self._parts:
            label = int(rng.integers(len(self.classes)))
            return label, self._sketches[label]
        shares = np.array([weight for weight, _, _ in self._parts])
        _, labels, sketches = self._parts[int(rng.choice(len(shares), p=shares / shares.sum()))]
        label = labels[int(rng.integers(len(labels)))]
        return label, sketches[label]

    def _check_alone(self) -> None:
        """Without another class every negative is another instance of the one there is, also other than the positive's:
        so there must be three, and all known."""
        if not self.classes or self.config.hard_negatives < 1:
            raise ZseError(
                f"Training needs at least two classes with sketches and photos, got {self.classes}; classes with only "
                f"one of them: {self.incomplete[:20]}. One class whose pairs are known is enough where every negative "
                f"is of it: --set shard.hard_negatives=1 (it is {self.config.hard_negatives})"
            )
        instances = self.members.instance
        unknown = sum(instance is None for rows in (self._sketches[0], self._photos[0]) for instance in instances[rows])
        known = len(set(instances[self._photos[0]]) - {None})
        if unknown or known < 3:
            raise ZseError(
                f"Training on the class {self.classes[0]!r} alone takes its negatives from the class: every picture's "
                f"instance must be known, of {unknown} it is not; and photos of at least 3 instances, it has {known}"
            )

    def __getitem__(self, i: int) -> Item:
        rng = np.random.default_rng([self.config.seed, i])
        label, sketches = self._draw_class(rng)
        photos = self._photos[label]
        first = int(rng.integers(len(sketches)))
        second = (first + 1 + int(rng.integers(max(len(sketches) - 1, 1)))) % len(sketches)
        sketch, sketch2 = int(sketches[first]), int(sketches[second])
        own = self._photos_of.get(self.members.instance[sketch], [])
        use_own = bool(own) and rng.random() < self.config.own_photo
        photo = int(rng.choice(own)) if use_own else int(rng.choice(photos))
        # The negative is for the second sketch: a hard one is another instance of the same class.
        instances = self.members.instance
        others = photos[(instances[photos] != instances[sketch2]) & (instances[photos] != instances[photo])]
        if instances[sketch2] is not None and len(others) and rng.random() < self.config.hard_negatives:
            return Item(sketch, photo, sketch2, int(rng.choice(others)), label, label)
        negative_label = (label + 1 + int(rng.integers(len(self.classes) - 1))) % len(self.classes)
        return Item(sketch, photo, sketch2, int(rng.choice(self._photos[negative_label])), label, negative_label)

    def render(self, i: int, pictures: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]) -> list[np.ndarray]:
        """Augmented pictures of item i, in the order of ROLES; uint8 in, uint8 out, the same every time."""
        rng = np.random.default_rng([self.config.seed, i, 1])
        augment = self.config.augment
        flips = rng.random(3) < augment.flip
        # A sketch and the photo it was drawn from are mirrored together: a fine-grained pair stays one.
        turned = (flips[0], flips[0], flips[1], flips[2])
        return [
            (augment_sketch if role.startswith("sketch") else augment_photo)(picture, augment, rng, flip=bool(flip))
            for role, picture, flip in zip(ROLES, pictures, turned, strict=True)
        ]
