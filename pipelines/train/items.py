"""Plan and augment training items. Item i is a pure function of (training members, configuration, i).

`zse shard` writes items to pair shards; MemorySource makes the same items during training. An item is (sketch, photo,
another sketch of the class, negative photo), as in ZSE-SBIR. Classes are drawn uniformly: a class with few pictures has
as many items as one with many.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipelines.config.data import ShardConfig
from pipelines.workspace.members import Members
from zse_model.augment import augment_photo, augment_sketch
from zse_model.errors import ZseError
from zse_model.pseudo_sketch import pseudo_sketch

ROLES = ("sketch", "photo", "sketch2", "negative")


@dataclass(frozen=True)
class Item:
    """Pictures as indices into the training members, labels as indices into `ItemPlan.classes`. Both sketches may be
    indices of photos: `render` makes drawings of them."""

    sketch: int
    photo: int
    sketch2: int
    negative: int
    label: int
    negative_label: int

    def pictures(self) -> tuple[int, int, int, int]:
        """The pictures in the order of ROLES."""
        return self.sketch, self.photo, self.sketch2, self.negative


class ItemPlan:
    """`plan[i]` is item i, the same in every process and in any order.

    members: training members only. Raises ZseError if no item can be planned, and for weights that do not fit the parts
    of a union.
    """

    def __init__(self, members: Members, config: ShardConfig) -> None:
        self.members, self.config = members, config
        self.classes: list[str] = []
        self.incomplete: list[str] = []
        """Classes without a sketch (but for pseudo-sketches) or without a photo, which no item uses."""
        self._sketches: list[np.ndarray] = []
        self._photos: list[np.ndarray] = []
        for category in sorted(set(members.category)):
            inside = members.category == category
            sketches = np.flatnonzero(inside & (members.modality == "sketch"))
            photos = np.flatnonzero(inside & (members.modality == "photo"))
            if len(photos) and (len(sketches) or config.pseudo_sketches):
                self.classes.append(category)
                self._sketches.append(sketches)
                self._photos.append(photos)
            else:
                self.incomplete.append(category)
        if len(self.classes) < 2:
            self._check_one_class()
        if config.weights and config.pseudo_sketches:
            raise ZseError(
                "shard.weights counts the sketches of a union's parts, and shard.pseudo_sketches makes sketches of no "
                "part. Leave out one of the two"
            )
        self._parts = list(self._weighted_parts()) if config.weights else []
        self._photos_of: dict[str, list[int]] = {}
        for index in np.concatenate(self._photos):
            instance: str | None = members.instance[int(index)]  # type: ignore[assignment]
            if instance is not None:
                self._photos_of.setdefault(instance, []).append(int(index))

    def _weighted_parts(self) -> Iterator[tuple[float, list[int], list[np.ndarray]]]:
        """(weight, labels with sketches, sketches by label) of every part of a union. Raises ZseError if weights and
        parts differ."""
        parts = np.array([id.split("/", 3)[2] for id in self.members.id])
        there = {str(part) for part in parts[self.members.modality == "sketch"]}
        if there != set(self.config.weights):
            raise ZseError(
                f"shard.weights names {sorted(self.config.weights)}, but the parts with training sketches are "
                f"{sorted(there)[:10]}. Give a weight to each of these parts and to no other"
            )
        for name, weight in self.config.weights.items():
            inside = [sketches[parts[sketches] == name] for sketches in self._sketches]
            labels = [label for label, sketches in enumerate(inside) if len(sketches)]
            if not labels:
                raise ZseError(
                    f"shard.weights: no training class has sketches of the part {name!r} and photos of any part. "
                    f"Remove {name} from dataset.parts and shard.weights"
                )
            yield weight, labels, inside

    def _draw_class(self, rng: np.random.Generator) -> tuple[int, np.ndarray]:
        """(label, int64 indices of the sketches to draw from)."""
        if not self._parts:
            label = int(rng.integers(len(self.classes)))
            return label, self._sketches[label]
        shares = np.array([weight for weight, _, _ in self._parts])
        _, labels, sketches = self._parts[int(rng.choice(len(shares), p=shares / shares.sum()))]
        label = labels[int(rng.integers(len(labels)))]
        return label, sketches[label]

    def _check_one_class(self) -> None:
        """Check a training on one class. Every negative is then an instance of the class, other than those of photo and
        second sketch: at least three instances are needed, and every picture's instance must be known."""
        if not self.classes or self.config.hard_negatives < 1:
            raise ZseError(
                f"Training needs at least two classes with sketches and photos, got {self.classes}; classes without "
                f"sketches or without photos: {self.incomplete[:20]}. One class with known pairs is enough with --set "
                f"shard.hard_negatives=1 (now {self.config.hard_negatives})"
            )
        instances = self.members.instance
        unknown = sum(instance is None for rows in (self._sketches[0], self._photos[0]) for instance in instances[rows])
        known = len(set(instances[self._photos[0]]) - {None})
        if unknown or known < 3:
            raise ZseError(
                f"Training on the class {self.classes[0]!r} alone needs the instance of every picture (unknown: "
                f"{unknown}) and photos of at least 3 instances (found: {known}). Add pairs or a second class"
            )

    def __getitem__(self, i: int) -> Item:
        rng = np.random.default_rng([self.config.seed, i])
        label, sketches = self._draw_class(rng)
        photos = self._photos[label]
        if self.config.pseudo_sketches and (not len(sketches) or rng.random() < self.config.pseudo_sketches):
            sketches = photos
        first = int(rng.integers(len(sketches)))
        second = (first + 1 + int(rng.integers(max(len(sketches) - 1, 1)))) % len(sketches)
        sketch, sketch2 = int(sketches[first]), int(sketches[second])
        own = self._photos_of.get(self.members.instance[sketch], [])
        use_own = bool(own) and rng.random() < self.config.own_photo
        photo = int(rng.choice(own)) if use_own else int(rng.choice(photos))
        # The negative is paired with the second sketch. A hard negative is another instance of the same class.
        instances = self.members.instance
        others = photos[(instances[photos] != instances[sketch2]) & (instances[photos] != instances[photo])]
        if instances[sketch2] is not None and len(others) and rng.random() < self.config.hard_negatives:
            return Item(sketch, photo, sketch2, int(rng.choice(others)), label, label)
        negative_label = (label + 1 + int(rng.integers(len(self.classes) - 1))) % len(self.classes)
        return Item(sketch, photo, sketch2, int(rng.choice(self._photos[negative_label])), label, negative_label)

    def render(self, i: int, pictures: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]) -> list[np.ndarray]:
        """Augmented pictures of item i in the order of ROLES, equal in every call. Input and output are uint8: sketches
        [s, s], photos [s, s, 3]; of a photo in the place of a sketch a drawing is made."""
        rng = np.random.default_rng([self.config.seed, i, 1])
        augment = self.config.augment
        flips = rng.random(3) < augment.flip
        # Sketch and photo are flipped together: a flipped sketch no longer fits the photo that it was drawn from.
        turned = (flips[0], flips[0], flips[1], flips[2])
        out = []
        for role, picture, flip in zip(ROLES, pictures, turned, strict=True):
            if role.startswith("sketch"):
                drawn = picture if picture.ndim == 2 else pseudo_sketch(picture, rng)
                out.append(augment_sketch(drawn, augment, rng, flip=bool(flip)))
            else:
                out.append(augment_photo(picture, augment, rng, flip=bool(flip)))
        return out
