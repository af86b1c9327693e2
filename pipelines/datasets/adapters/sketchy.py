"""`sketchy`: The Sketchy Database and its extension by Liu et al. (2017), unpacked.

    256x256/sketch/tx_000000000000/<class>/n02395406_3933-2.png    drawn from the next photo
    256x256/photo/tx_000000000000/<class>/n02395406_3933.jpg
    EXTEND_image_sketchy_ready/<class>/ext_12.jpg                  no sketch was drawn from these

`256x256/` and `_ready` are optional. The folder of the extension may be named `extended_photo`. It also has copies of
Sketchy's own photos, under their names.
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

# Found by elimination: of the 12,500 copies this is the only one whose name no original has, and this original is the
# only one without a copy.
MISNAMED = {"camel/c": "camel/n02437136_5405"}


@dataclass(frozen=True, kw_only=True)
class SketchyConfig(TreeConfig):
    adapter: Literal["sketchy"] = "sketchy"
    sketches: str = "tx_000000000000"
    """Rendering of the sketches: as drawn, centred, scaled, ... (README.txt of the data set)."""
    photos: str = "tx_000000000000"
    """Rendering of the photos: tx_000000000000 is the whole photo, tx_000100000000 is cropped to the object."""
    extended: bool | None = None
    """Include the photos of the extension. None = if they exist."""
    copies: bool = False
    """Include the extension's copies of Sketchy's own photos. The galleries of the published lists (17,101 and 12,553
    photos) have each of these photos twice."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, modality in (("sketches", "sketch"), ("photos", "photo")):
            if getattr(self, field) not in (allowed := [f"tx_{v}" for v in VARIANTS[modality]]):
                raise ZseError(f"dataset.{field} is {getattr(self, field)!r}, not a rendering. Allowed: {allowed}")


class Sketchy:
    """Sketch `n02395406_3933-2.png` was drawn from photo `n02395406_3933.jpg`; the extension's copy is the same
    instance."""

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
