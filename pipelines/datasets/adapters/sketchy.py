"""`sketchy`: The Sketchy Database, and its extension by Liu et al. (2017), as they are unpacked.

    256x256/sketch/tx_000000000000/<class>/n02395406_3933-2.png    a drawing of
    256x256/photo/tx_000000000000/<class>/n02395406_3933.jpg
    EXTEND_image_sketchy_ready/<class>/ext_12.jpg                  nobody drew these

`256x256/` may be missing, `_ready` may stand behind or not, and `extended_photo` is another name of the extension. Its
folder also holds the photos of Sketchy itself under their own names: those are copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.datasets.base import ImageRecord
from pipelines.datasets.tree import Branch, Tree, TreeConfig, drawn_instance, own_instance
from zse_model.errors import ZseError

VARIANTS = {
    "sketch": ("000000000000", "000100000000", "000000000010", "000000000110", "000000001010", "000000001110"),
    "photo": ("000000000000", "000100000000"),
}
EXTENDED = "extended/"

# By elimination: of the 12,500 copies it is the only one that no original shares its name with, and of the originals
# this is the only one without a copy.
MISNAMED = {"camel/c": "camel/n02437136_5405"}


@dataclass(frozen=True, kw_only=True)
class SketchyConfig(TreeConfig):
    adapter: Literal["sketchy"] = "sketchy"
    sketches: str = "tx_000000000000"
    """Which rendering: as drawn, or centred, scaled, ... (README.txt of the data set)."""
    photos: str = "tx_000000000000"
    """tx_000000000000 is the whole photo, tx_000100000000 is cropped to the object."""
    extended: bool | None = None
    """With the photos of the extension; None = if they are there."""
    copies: bool = False
    """With the extension's copies of Sketchy's own photos. The galleries of the published lists (17,101 and 12,553
    photos) hold each of those twice; without, a gallery holds every photo once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, modality in (("sketches", "sketch"), ("photos", "photo")):
            if getattr(self, field) not in (allowed := [f"tx_{v}" for v in VARIANTS[modality]]):
                raise ZseError(f"dataset.{field} {getattr(self, field)!r} is no rendering. Allowed: {allowed}")


class Sketchy:
    """Sketch `n02395406_3933-2.png` is of photo `n02395406_3933.jpg`, and of its copy in the extension."""

    def __init__(self, config: SketchyConfig) -> None:
        self.config, self.tree = config, Tree(config.source)

    def records(self) -> list[ImageRecord]:
        config = self.config
        branches = [
            Branch(modality="sketch", folders=_folders("sketch", config.sketches), instance=drawn_instance("-")),
            Branch(modality="photo", folders=_folders("photo", config.photos), instance=own_instance),
        ]
        if config.extended is not False or config.lists:
            folders = ("EXTEND_image_sketchy_ready", "EXTEND_image_sketchy", "extended_photo")
            needed = config.extended is True
            branches.append(Branch(modality="photo", folders=folders, instance=_copied, tag=EXTENDED, needed=needed))
        records = self.tree.records(branches, config.lists)
        return records if config.copies or config.lists else _without_copies(records)

    def read(self, records: Sequence[ImageRecord]) -> list[bytes | Exception]:
        return self.tree.read(records)


def _folders(modality: str, variant: str) -> tuple[str, ...]:
    names = (variant, f"{variant}_ready")
    return tuple(f"{above}{modality}/{name}" for above in ("256x256/", "") for name in names)


def _copied(category: str, file: str) -> str:
    instance = own_instance(category, file)
    return MISNAMED.get(instance, instance)


def _without_copies(records: Sequence[ImageRecord]) -> list[ImageRecord]:
    own = {r.instance for r in records if r.modality == "photo" and not _is_extended(r)}
    return [r for r in records if not (_is_extended(r) and r.instance in own)]


def _is_extended(record: ImageRecord) -> bool:
    return record.id.startswith(f"photo/{record.category}/{EXTENDED}")
