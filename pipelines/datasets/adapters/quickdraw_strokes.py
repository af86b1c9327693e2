"""`quickdraw_strokes`: the .ndjson files of Quick, Draw!, one per class, rendered here; photos are a second source.

    <source>/sea turtle.ndjson
    {"key_id": "5201136883597312", "recognized": true, "drawing": [[[x, ...], [y, ...]], ...], ...}

Both simplified files (integers 0..255) and raw files (any range, times as a third list) are read. The class is the
file's name without the prefix `full_simplified_` or `full_raw_` of a browser's download.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, cast

from pipelines.datasets.archives import Opened, opened
from pipelines.datasets.base import DatasetConfig, ImageRecord, Place, source_hash
from pipelines.datasets.strokes import LINE_WIDTH, SIZE, draw
from pipelines.datasets.tree import Branch, LayoutError, PassedOver, Tree, in_order, is_picture
from pipelines.store import storage
from zse_model.errors import ZseError
from zse_model.transforms import BadPicture

ENDING = ".ndjson"

_KEY = re.compile(rb'"key_id"\s*:\s*"?([0-9A-Za-z_-]+)')
_MISSED = re.compile(rb'"recognized"\s*:\s*"?(false|0)\b', re.IGNORECASE)  # some tools write all values as text


@dataclass(frozen=True, kw_only=True)
class QuickDrawStrokesConfig(DatasetConfig):
    adapter: Literal["quickdraw_strokes"] = "quickdraw_strokes"
    source: str
    """A folder, URL or archive with the .ndjson files, at any depth."""
    photos: str | None = None
    """A folder, URL or archive `<class>/*` with photos of the same classes."""
    recognized_only: bool = True
    """Leave out drawings that the game did not recognise."""
    limit: int | None = None
    """Drawings per class, from the start of the file, which has no order. None = all. The 50 million drawings of the
    whole set are more than a listing holds in memory."""
    size: int = SIZE
    """Side of a drawing, px, 16..1024."""
    line_width: float = LINE_WIDTH
    """px, at most size / 4."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit is not None and self.limit < 1:
            raise ZseError(f"dataset.limit must be 1 or more, or null for all; got {self.limit}")
        if not 16 <= self.size <= 1024:
            raise ZseError(f"dataset.size is {self.size} px. Allowed: 16..1024")
        if not 0 < self.line_width <= self.size / 4:
            raise ZseError(f"dataset.line_width is {self.line_width} px. Allowed: up to size / 4 = {self.size / 4}")

    def placed(self, place: Place) -> Self:
        photos = place("photos", self.photos) if self.photos else self.photos
        return replace(super().placed(place), source=place("source", self.source), photos=photos)


class QuickDrawStrokes:
    """A drawing's path is `<file>#<first byte>+<bytes>`, so that a read fetches its line alone, not the file."""

    def __init__(self, config: QuickDrawStrokesConfig) -> None:
        self.config = config
        self.source = storage.absolute(config.source)
        self.photos = Tree(config.photos) if config.photos else None

    def records(self) -> list[ImageRecord]:
        source = opened(self.source)
        files, passed = [], PassedOver()
        for file in storage.list_files(source.folder):
            files.append(file) if is_picture(file.path, (ENDING,)) else passed.add(file.path)
        categories = [_category(file.path) for file in files]
        if doubled := sorted({c for c in categories if categories.count(c) > 1}):
            raise ZseError(f"{self.source} has several files for the classes {doubled}. Keep one file for each")
        records: list[ImageRecord] = []
        for file, category in zip(files, categories, strict=True):
            records += self._of_file(source, file, category)
        if not records:
            raise LayoutError(
                f"{self.source} has no drawings. Expected <class>{ENDING} files, as "
                "https://github.com/googlecreativelab/quickdraw-dataset describes them"
                + (f"; found {passed}" if passed.counts else "")
            )
        passed.tell(self.source, (ENDING,))
        if self.photos:
            records += self.photos.records([Branch(modality="photo", folders=(".",))], spelled=categories)
        return in_order(records, f"dataset.source {self.source!r}")

    def _of_file(self, source: Opened, file: storage.FileInfo, category: str) -> Iterator[ImageRecord]:
        left = self.config.limit or math.inf
        version, place = source.version or file.version, "" if source.version else source_hash(source.folder)
        with storage.open_read(storage.join(source.folder, file.path)) as lines:
            for number, start, line in _lines(lines):
                if left <= 0:
                    return
                if self.config.recognized_only and _MISSED.search(line):
                    continue
                key = _KEY.search(line)
                left -= 1
                yield ImageRecord(
                    id=f"sketch/{category}/{key[1].decode() if key else f'line-{number}'}",
                    modality="sketch",
                    category=category,
                    instance=None,
                    path=f"{file.path}#{start}+{len(line)}",
                    size=len(line),
                    version=f"{version} {self.config.size} px, lines {self.config.line_width} px",
                    source=place,
                )

    def read(self, records: Sequence[ImageRecord]) -> list[bytes | Exception]:
        out: list[bytes | Exception] = [b""] * len(records)
        photos = [i for i, record in enumerate(records) if record.modality == "photo"]
        if photos and self.photos:
            for i, data in zip(photos, self.photos.read([records[i] for i in photos]), strict=True):
                out[i] = data
        by_file: dict[str, list[tuple[int, int, int]]] = {}
        for i, record in enumerate(records):
            if record.modality == "sketch":
                file, _, span = record.path.rpartition("#")
                start, length = map(int, span.split("+"))
                by_file.setdefault(file, []).append((i, start, length))
        folder = opened(self.source).folder if by_file else ""
        for file, wanted in by_file.items():
            lines = storage.read_ranges(folder, file, [(start, length) for _, start, length in wanted])
            for (i, _, _), line in zip(wanted, lines, strict=True):
                out[i] = line if isinstance(line, Exception) else self._draw(line)
        return out

    def _draw(self, line: bytes) -> bytes | Exception:
        try:
            return draw(json.loads(line)["drawing"], self.config.size, self.config.line_width)
        except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
            return BadPicture(f"not a Quick, Draw! drawing: {type(error).__name__}: {error}")


def _category(path: str) -> str:
    name = path.rsplit("/", 1)[-1][: -len(ENDING)]
    return re.sub(r"^full[_/](simplified|raw)[_/]", "", name)


def _lines(file: Any) -> Iterator[tuple[int, int, bytes]]:
    """(number from 0, offset of the first byte, bytes) of every line that is not blank."""
    start = 0
    for number, line in enumerate(io.BufferedReader(cast(io.RawIOBase, file), 2**20)):
        if line.strip():
            yield number, start, line
        start += len(line)
