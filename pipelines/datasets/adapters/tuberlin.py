"""`tuberlin`: TU-Berlin (Eitz et al. 2012) and the photos of its extension (Zhang et al. 2016), unpacked.

    png_ready/<class>/*.png or png/<class>/*.png, svg/<class>/*.svg    sketches
    ImageResized_ready/<class>/*.jpg or ImageResized/<class>/*.jpg     photos

The folders may also be named `sketches/` and `images/`. There are no instances: no sketch was drawn from a photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.datasets.base import ImageRecord
from pipelines.datasets.drawn import rasterise
from pipelines.datasets.tree import PICTURES, Branch, Tree, TreeConfig
from zse_model.errors import ZseError


@dataclass(frozen=True, kw_only=True)
class TUBerlinConfig(TreeConfig):
    adapter: Literal["tuberlin"] = "tuberlin"
    svg: bool = False
    """Rasterise the sketches of svg/ instead of reading the PNGs."""
    svg_size: int = 512
    """Side of a rasterised sketch, px, 16..2048. At 256 the strokes are hairlines."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 16 <= self.svg_size <= 2048:
            raise ZseError(f"dataset.svg_size is {self.svg_size} px. Allowed: 16..2048")


class TUBerlin:
    def __init__(self, config: TUBerlinConfig) -> None:
        self.config, self.tree = config, Tree(config.source)

    def records(self) -> list[ImageRecord]:
        svg, size = self.config.svg, self.config.svg_size
        branches = (
            Branch(
                modality="sketch",
                folders=("svg",) if svg else ("png_ready", "png", "sketches"),
                endings=(".svg",) if svg else PICTURES,
                drawn_at=f"{size} px" if svg else "",
            ),
            Branch(modality="photo", folders=("ImageResized_ready", "ImageResized", "images")),
        )
        return self.tree.records(branches, self.config.lists)

    def read(self, records: Sequence[ImageRecord]) -> list[bytes | Exception]:
        data = self.tree.read(records)
        is_svg = [record.path.lower().endswith(".svg") for record in records]
        return [rasterise(d, self.config.svg_size) if svg else d for svg, d in zip(is_svg, data, strict=True)]
