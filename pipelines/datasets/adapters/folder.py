"""`folder`: `sketch/<class>/*` and `photo/<class>/*` below any fsspec URL, with an optional `pairs.tsv`.

`pairs.tsv` names the photo that a sketch was drawn from: columns class, sketch, photo (file names). Folders below a
class belong to the class. A sketch may be an SVG document (.svg, .svgz) or strokes (.json). Hidden files and files with
other endings than these are passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pipelines.datasets.base import ImageRecord
from pipelines.datasets.drawn import DRAWN, picture_of
from pipelines.datasets.texts import named, table, tell
from pipelines.datasets.tree import PICTURES, Branch, Tree, TreeConfig, by_name, look_up
from pipelines.runtime.progress import say
from pipelines.store import storage
from zse_model.errors import ZseError

PAIRS = "pairs.tsv"
COLUMNS = ("class", "sketch", "photo")


@dataclass(frozen=True, kw_only=True)
class FolderConfig(TreeConfig):
    adapter: Literal["folder"] = "folder"


class Folder:
    def __init__(self, config: FolderConfig) -> None:
        self.config, self.tree = config, Tree(config.source)

    def records(self) -> list[ImageRecord]:
        pairs = self._pairs()
        branches = (
            Branch(modality="sketch", folders=("sketch",), endings=(*PICTURES, *DRAWN)),
            # With a pairs.tsv every photo is an instance, also one without a sketch.
            Branch(modality="photo", folders=("photo",), instance=lambda c, file: f"{c}/{file}" if pairs else None),
        )
        records = self.tree.records(branches, self.config.lists)
        return self._paired(records, pairs) if pairs else records

    def _pairs(self) -> list[tuple[int, tuple[str, ...]]]:
        """(row, (class, sketch, photo)) of the pairs.tsv beside sketch/; empty if there is none."""
        url = self._pairs_url()
        if not url or not storage.exists(url):
            return []
        pairs = list(table(url, COLUMNS))
        if not pairs:
            say(f"{url} has a header and no rows: no sketch is known to be drawn from a photo. Add rows, or remove it")
        return pairs

    def _pairs_url(self) -> str:
        sketches = self.tree.folder_of("sketch")
        above = sketches.rpartition("/")[0] if sketches else ""
        return storage.join(above, PAIRS) if above else ""

    def _paired(self, records: list[ImageRecord], pairs: Sequence[tuple[int, tuple[str, ...]]]) -> list[ImageRecord]:
        """The records, where each paired sketch has the instance of its photo. Rows that name missing pictures are
        reported. Raises ZseError for a sketch with two photos, and if no row names a sketch of the data."""
        url = self._pairs_url()
        photos = by_name((_name(r), r) for r in records if r.modality == "photo")
        sketches = by_name((_name(r), r) for r in records if r.modality == "sketch")
        drawn: dict[str, str] = {}
        lost: list[tuple[int, str]] = []
        twice: list[tuple[int, str]] = []
        for row, (category, sketch, photo) in pairs:
            of, by = look_up(photos, f"{category}/{photo}"), look_up(sketches, f"{category}/{sketch}")
            if of is None or by is None:
                lost.append((row, f"{category}/{sketch if by is None else photo}"))
            if by is not None:
                instance = str(of.instance) if of else f"{by.category}/{photo}"
                if by.id in drawn:
                    twice.append((row, f"{category}/{sketch}"))
                if drawn.setdefault(by.id, instance) != instance:
                    raise ZseError(
                        f"{url} row {row} gives the sketch {named(sketch)} a second photo. Keep one row for each sketch"
                    )
        if not drawn and not self.config.lists:  # lists may leave out the paired pictures
            raise ZseError(
                f"{url}: none of the {len(pairs)} rows names a sketch of the data, such as row {lost[0][0]}: "
                f"{named(lost[0][1])}. Give names of class folders and of files, such as cat, 1.png and 2.png"
            )
        if not self.config.lists:
            tell(url, "name a sketch or a photo that does not exist", lost)
        tell(url, "repeat a sketch", twice)
        return [replace(r, instance=drawn[r.id]) if r.id in drawn else r for r in records]

    def read(self, records: Sequence[ImageRecord]) -> list[bytes | Exception]:
        return [picture_of(record.path, data) for record, data in zip(records, self.tree.read(records), strict=True)]


def _name(record: ImageRecord) -> str:
    return record.id.split("/", 1)[1]
