"""`synthetic`: the pictures of `zse_model.synthetic` as a data set, drawn at each read. Nothing is downloaded.

Every instance of a class has one photo and `sketches` sketches.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from pipelines.datasets.base import DatasetConfig, ImageRecord
from zse_model import synthetic
from zse_model.errors import ZseError
from zse_model.transforms import Modality


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig(DatasetConfig):
    adapter: Literal["synthetic"] = "synthetic"
    categories: tuple[str, ...] = ()
    """Names of `zse_model.synthetic.CATEGORIES`. Empty = all."""
    instances: int = 20
    """Instances per class."""
    sketches: int = 1
    """Sketches per instance."""
    size: int = 128
    """Side of the drawn pictures, px."""
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("instances", "sketches", "size"):
            if getattr(self, field) < 1:
                raise ZseError(f"dataset.{field} must be 1 or more, got {getattr(self, field)}")
        if unknown := sorted(set(self.categories) - set(synthetic.CATEGORIES)):
            raise ZseError(f"dataset.categories {unknown} are unknown. Known: {sorted(synthetic.CATEGORIES)}")


class Synthetic:
    def __init__(self, config: SyntheticConfig) -> None:
        self.config = config

    def records(self) -> list[ImageRecord]:
        records = []
        for category in self.config.categories or synthetic.CATEGORIES:
            for instance in range(self.config.instances):
                records.append(self._record("photo", category, instance, 0))
                records.extend(self._record("sketch", category, instance, v) for v in range(self.config.sketches))
        return sorted(records, key=lambda r: r.id)

    def _record(self, modality: Modality, category: str, instance: int, variant: int) -> ImageRecord:
        path = f"{modality}/{category}/{instance:04d}-{variant}.png"
        return ImageRecord(
            id=path,
            modality=modality,
            category=category,
            instance=f"{category}/{instance:04d}",
            path=path,
            size=0,
            version=f"{self.config.size}px seed {self.config.seed}",
        )

    def read(self, records: Sequence[ImageRecord]) -> list[bytes | Exception]:
        return [self._draw(record) for record in records]

    def _draw(self, record: ImageRecord) -> bytes:
        instance, variant = (int(part) for part in record.path.rsplit("/", 1)[1].removesuffix(".png").split("-"))
        size, seed = self.config.size, self.config.seed
        if record.modality == "photo":
            pixels = synthetic.draw_photo(record.category, instance, size=size, seed=seed)
        else:
            pixels = synthetic.draw_sketch(record.category, instance, variant=variant, size=size, seed=seed)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()
