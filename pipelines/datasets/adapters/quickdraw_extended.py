"""`quickdraw_extended`: QuickDraw-Extended (Dey et al. 2019), unpacked.

    QuickDraw_sketches_final/<class>/*.png    sketches
    QuickDraw_images_final/<class>/*.jpg      photos

The folders may also be named `sketches/` and `images/`. There are no instances: no sketch was drawn from a photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.datasets.base import ImageRecord
from pipelines.datasets.tree import Branch, Tree, TreeConfig

BRANCHES = (
    Branch(modality="sketch", folders=("QuickDraw_sketches_final", "QuickDraw_sketches", "sketches")),
    Branch(modality="photo", folders=("QuickDraw_images_final", "QuickDraw_images", "images")),
)


@dataclass(frozen=True, kw_only=True)
class QuickDrawExtendedConfig(TreeConfig):
    adapter: Literal["quickdraw_extended"] = "quickdraw_extended"


class QuickDrawExtended:
    def __init__(self, config: QuickDrawExtendedConfig) -> None:
        self.config, self.tree = config, Tree(config.source)

    def records(self) -> list[ImageRecord]:
        return self.tree.records(BRANCHES, self.config.lists)

    def read(self, records: Sequence[ImageRecord]) -> list[bytes | Exception]:
        return self.tree.read(records)
