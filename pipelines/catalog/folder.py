"""`folder`: `sketch/<class>/*` and `photo/<class>/*` below any fsspec URL, with an optional `pairs.tsv`.

`pairs.tsv` has the columns class, sketch, photo (file names): which photo a sketch was drawn from. Deeper folders below
a class belong to the class. Hidden files, and files whose ending no picture has, are passed over.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines import storage
from pipelines.catalog.base import DatasetConfig, ImageRecord
from zse_model.transforms import Modality

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
PAIRS = "pairs.tsv"


@dataclass(frozen=True, kw_only=True)
class FolderConfig(DatasetConfig):
    adapter: Literal["folder"] = "folder"
    source: str
    """The folder or URL that holds sketch/ and photo/."""


class Folder:
    def __init__(self, config: FolderConfig) -> None:
        self.source = storage.absolute(config.source)

    def records(self) -> list[ImageRecord]:
        instances = self._instances()
        records: list[ImageRecord] = []
        for modality in ("sketch", "photo"):
            for file in storage.list_files(storage.join(self.source, modality)):
                category, _, name = file.path.partition("/")
                if name and is_picture(name):
                    records.append(self._record(modality, category, name, file, instances))
        if not records:
            raise storage.StorageError(
                f"{self.source} holds no pictures. Expected sketch/<class>/* and photo/<class>/*, ending in {PICTURES}"
            )
        return sorted(records, key=lambda r: r.id)

    def _record(
        self, modality: Modality, category: str, name: str, file: storage.FileInfo, instances: dict[str, str]
    ) -> ImageRecord:
        path = f"{modality}/{category}/{name}"
        # Where pairs are known, a photo is an instance of its own even if nobody drew it.
        own = f"{category}/{name}" if instances and modality == "photo" else None
        return ImageRecord(
            id=path,
            modality=modality,
            category=category,
            instance=instances.get(path, own),
            path=path,
            size=file.size,
            version=file.version,
        )

    def _instances(self) -> dict[str, str]:
        """sketch/<class>/<file> -> instance `<class>/<photo file>`, from pairs.tsv."""
        url = storage.join(self.source, PAIRS)
        if not storage.exists(url):
            return {}
        rows = csv.DictReader(storage.read_bytes(url).decode("utf-8-sig").splitlines(), delimiter="\t")
        if missing := {"class", "sketch", "photo"} - set(rows.fieldnames or ()):
            raise ValueError(f"{url} lacks the columns {sorted(missing)}; it has {rows.fieldnames}")
        return {f"sketch/{row['class']}/{row['sketch']}": f"{row['class']}/{row['photo']}" for row in rows}

    def read(self, records: Sequence[ImageRecord]) -> list[bytes | Exception]:
        return storage.read_many(self.source, [record.path for record in records])


def is_picture(name: str) -> bool:
    """By its ending; hidden files and what systems leave in folders are none."""
    return name.lower().endswith(PICTURES) and not name.rsplit("/", 1)[-1].startswith(".")
