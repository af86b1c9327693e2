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
from pipelines.catalog.base import ImageRecord
from pipelines.catalog.tree import Branch, Tree, TreeConfig, meaning
from zse_model.errors import ZseError

PAIRS = "pairs.tsv"


@dataclass(frozen=True, kw_only=True)
class FolderConfig(TreeConfig):
    adapter: Literal["folder"] = "folder"


class Folder:
    def __init__(self, config: FolderConfig) -> None:
        self.config, self.tree = config, Tree(config.source)

    def records(self) -> list[ImageRecord]:
        pairs = self._pairs()

        def drawn_from(category: str, file: str) -> str | None:
            photo = pairs.get((meaning(category), file))
            return f"{category}/{photo}" if photo else None

        branches = (
            Branch(modality="sketch", folders=("sketch",), instance=drawn_from),
            # Where pairs are known, a photo is an instance of its own even if nobody drew it.
            Branch(modality="photo", folders=("photo",), instance=lambda c, file: f"{c}/{file}" if pairs else None),
        )
        return self.tree.records(branches, self.config.lists)

    def _pairs(self) -> dict[tuple[str, str], str]:
        """(class, sketch file) -> photo file, from the pairs.tsv beside sketch/; a class in any spelling."""
        sketches = self.tree.folder_of("sketch")
        above = sketches.rpartition("/")[0] if sketches else ""
        if not above or not storage.exists(url := storage.join(above, PAIRS)):
            return {}
        rows = csv.DictReader(storage.read_bytes(url).decode("utf-8-sig").splitlines(), delimiter="\t")
        if missing := {"class", "sketch", "photo"} - set(rows.fieldnames or ()):
            raise ZseError(f"{url} lacks the columns {sorted(missing)}; it has {rows.fieldnames}")
        return {(meaning(row["class"]), row["sketch"]): row["photo"] for row in rows}

    def read(self, records: Sequence[ImageRecord]) -> list[bytes | Exception]:
        return self.tree.read(records)
