"""`emoji`: drawings of Quick, Draw!, which are shipped, and pictures of OpenMoji, which the extra `demo` installs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.datasets import emoji
from pipelines.datasets.base import DatasetConfig, ImageRecord
from pipelines.datasets.strokes import LINE_WIDTH, SIZE, draw
from zse_model.errors import ZseError
from zse_model.transforms import Modality


@dataclass(frozen=True, kw_only=True)
class EmojiConfig(DatasetConfig):
    adapter: Literal["emoji"] = "emoji"
    size: int = SIZE
    """Side of drawings and pictures, px, 16..1024."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 16 <= self.size <= 1024:
            raise ZseError(f"dataset.size is {self.size} px. Allowed: 16..1024")


class EmojiPictures:
    """The path of a drawing is its class and number, of a picture its code."""

    def __init__(self, config: EmojiConfig) -> None:
        self.config = config

    def records(self) -> list[ImageRecord]:
        emoji.every_emoji()  # raises if the pictures are not installed
        records = []
        for category, codes in emoji.pictures().items():
            records += [self._record("photo", category, code) for code in codes]
            records += [self._record("sketch", category, f"{i:02d}") for i in range(len(emoji.drawings()[category]))]
        return sorted(records, key=lambda record: record.id)

    def _record(self, modality: Modality, category: str, file: str) -> ImageRecord:
        path = f"{modality}/{category}/{file}.png"
        version = f"{self.config.size} px"
        if modality == "photo":  # another version of the package may draw it in another way
            version += f", OpenMoji {emoji.version()}"
        return ImageRecord(
            id=path, modality=modality, category=category, instance=None, path=path, size=0, version=version
        )

    def read(self, records: Sequence[ImageRecord]) -> list[bytes | Exception]:
        return [self._read(record) for record in records]

    def _read(self, record: ImageRecord) -> bytes:
        file = record.path.rpartition("/")[2].removesuffix(".png")
        if record.modality == "photo":
            return emoji.drawn(file, self.config.size)
        return draw(emoji.drawings()[record.category][int(file)], self.config.size, LINE_WIDTH)
