"""Plan and augment training items. Item i is a pure function of (training members, configuration, i).

`zse shard` writes items to pair shards; MemorySource makes the same items during training. An item is (sketch, photo,
another sketch of the class, negative photo), as in ZSE-SBIR. Classes are drawn uniformly: a class with few pictures has
as many items as one with many.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.config.data import ShardConfig
from pipelines.workspace.groups import Groups
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

    members: training members only. The plan keeps arrays of their indices and none of their texts, so that a part of a
    million pictures' items begins without reading them. Raises ZseError if no item can be planned, and for weights that
    do not fit the parts of a union.
    """

    def __init__(self, members: Members, config: ShardConfig) -> None:
        self.config = config
        drawn = members.modality == "sketch"
        sketches, photos = np.flatnonzero(drawn), np.flatnonzero(~drawn)
        names, category = _coded(members.category)
        has_sketches, has_photos = (
            np.bincount(category[rows], minlength=len(names)) > 0 for rows in (sketches, photos)
        )
        complete = has_photos & (has_sketches | (config.pseudo_sketches > 0))
        self.classes: list[str] = names[complete].tolist()
        self.incomplete: list[str] = names[~complete].tolist()
        """Classes without a sketch (but for pseudo-sketches) or without a photo, which no item uses."""
        label = np.where(complete, np.cumsum(complete) - 1, -1)[category]
        self._sketches = Groups.of(label, len(self.classes), sketches)
        self._photos = Groups.of(label, len(self.classes), photos)
        instances, self._instance = _coded(members.instance)
        """int64 [members], -1 if unknown."""
        if len(self.classes) < 2:
            self._check_one_class()
        if config.weights and config.pseudo_sketches:
            raise ZseError(
                "shard.weights counts the sketches of a union's parts, and shard.pseudo_sketches makes sketches of no "
                "part. Leave out one of the two"
            )
        self._parts = list(self._weighted_parts(members.id, sketches, label)) if config.weights else []
        self._photos_of = Groups.of(self._instance, len(instances), self._photos.indices)

    def _weighted_parts(
        self, ids: np.ndarray, sketches: np.ndarray, label: np.ndarray
    ) -> Iterator[tuple[float, np.ndarray, Groups]]:
        """(weight, labels with sketches, sketches by label) of every part of a union. Raises ZseError if weights and
        parts differ."""
        parts = np.array([id.split("/", 3)[2] for id in ids[sketches]])
        there = set(parts.tolist())
        if there != set(self.config.weights):
            raise ZseError(
                f"shard.weights names {sorted(self.config.weights)}, but the parts with training sketches are "
                f"{sorted(there)[:10]}. Give a weight to each of these parts and to no other"
            )
        for name, weight in self.config.weights.items():
            inside = Groups.of(label, len(self.classes), sketches[parts == name])
            labels = np.flatnonzero(inside.sizes())
            if not len(labels):
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
        label = int(labels[int(rng.integers(len(labels)))])
        return label, sketches[label]

    def _check_one_class(self) -> None:
        """Check a training on one class. Every negative is then an instance of the class, other than those of photo and
        both sketches. These are at most two instances where the photo is the sketch's own, else three. So photos of one
        instance more are needed, and every picture's instance must be known."""
        if not self.classes or self.config.hard_negatives < 1:
            raise ZseError(
                f"Training needs at least two classes with sketches and photos, got {self.classes}; classes without "
                f"sketches or without photos: {self.incomplete[:20]}. One class with known pairs is enough with --set "
                f"shard.hard_negatives=1 (now {self.config.hard_negatives})"
            )
        drawn, photographed = self._instance[self._sketches[0]], self._instance[self._photos[0]]
        unknown = np.count_nonzero(drawn < 0) + np.count_nonzero(photographed < 0)
        known, needed = len(np.unique(photographed[photographed >= 0])), 3 if self.config.own_photo == 1 else 4
        if unknown or known < needed:
            raise ZseError(
                f"Training on the class {self.classes[0]!r} alone needs the instance of every picture (unknown: "
                f"{unknown}) and, with shard.own_photo={self.config.own_photo:g}, photos of at least {needed} "
                f"instances (found: {known}). Add pairs or a second class"
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
        instance = self._instance
        own = self._photos_of[instance[sketch]] if instance[sketch] >= 0 else ()
        use_own = len(own) > 0 and rng.random() < self.config.own_photo
        photo = int(rng.choice(own)) if use_own else int(rng.choice(photos))
        # A hard negative is another instance of the class. It is a negative of both sketches and of the photo, so it is
        # an own photo of none of them.
        strange = (instance[photos] != instance[sketch2]) & (instance[photos] != instance[photo])
        if len(own):
            strange &= instance[photos] != instance[sketch]
        others = photos[strange]
        if instance[sketch2] >= 0 and len(others) and rng.random() < self.config.hard_negatives:
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


def _coded(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the different texts of an object [n] column, sorted; int64 [n], the place of each among them, -1 for None)."""
    coded = pa.array(column, pa.string()).dictionary_encode()
    texts = np.array(coded.dictionary.to_pylist(), dtype=object)
    order = np.argsort(texts, kind="stable")
    places = np.empty(len(texts) + 1, dtype=np.int64)
    places[order], places[-1] = np.arange(len(texts)), -1
    return texts[order], places[np.asarray(coded.indices.fill_null(-1))]
