"""Read image shards: the prepared pictures of a data set, written by `zse ingest`.

<workspace>/images/<dataset>-<key>/part-<hash>.parquet ... manifest.json
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.workspace.kept import Kept
from pipelines.workspace.members import Members
from pipelines.workspace.parts import read_parts, read_rows

_MEMBERS = ["id", "modality", "category", "instance", "sha256"]
_REPEATED = ("modality", "category", "instance")


class Images(Kept):
    KIND, MADE_BY = "images", "zse ingest"

    SCHEMA = pa.schema(
        [
            ("id", pa.string()),  # modality/class/path: unique, stable
            ("modality", pa.string()),
            ("category", pa.string()),
            ("instance", pa.string()),  # the thing that was photographed and drawn; null if unknown
            ("uri", pa.string()),
            ("sha256", pa.string()),  # of the source bytes
            ("data", pa.binary()),  # PNG or JPEG at the experiment's size
            ("look", pa.binary()),  # a photo's thumbnail, uint8 [192], to find repeated photos; null for sketches
        ]
    )

    @staticmethod
    def part_name(made_from: str) -> str:
        """made_from: the hash of the part's sources."""
        return f"part-{made_from}.parquet"

    @property
    def dataset(self) -> str:
        return self.manifest["dataset"]

    @property
    def source(self) -> str | None:
        """The folder of the pictures; None for a data set without one."""
        return self.manifest["source"]

    @property
    def transforms(self) -> Mapping[str, Any]:
        """The settings of the `TransformConfig` that prepared the pictures."""
        return self.manifest["transforms"]

    @property
    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """class -> modality -> pictures"""
        return self.manifest["counts"]

    @property
    def fingerprint(self) -> str:
        """sha256 of the content: the same pictures have the same fingerprint in every place."""
        return self.manifest["fingerprint"]

    @property
    def pictures(self) -> int:
        return self.manifest["pictures"]

    @property
    def skipped(self) -> Sequence[Mapping[str, str]]:
        """uri and reason of each picture that cannot be used."""
        return self.manifest["skipped"]

    @property
    def parts(self) -> Mapping[str, int]:
        """Name of each part -> number of its pictures. `Members.part` is an index in this order."""
        return {shard["name"]: shard["rows"] for shard in self.manifest["shards"]}

    def members(self) -> Members:
        """All pictures, in stored order."""
        tables = list(read_parts(self.url, list(self.parts), _MEMBERS))
        table = pa.concat_tables(tables)
        part = np.repeat(np.arange(len(tables)), [t.num_rows for t in tables])
        row = np.concatenate([np.arange(t.num_rows) for t in tables])
        values = {c: _shared(table[c]) if c in _REPEATED else _objects(table[c].to_pylist()) for c in _MEMBERS}
        return Members(**values, part=part, row=row)

    def rows(self, members: Members) -> list[tuple[str, np.ndarray]]:
        """(part, int64 rows of the members in it), by part."""
        names = list(self.parts)
        return [(names[part], members.row[own]) for part, own in members.by_part()]

    def data(self, members: Members) -> list[bytes]:
        """The PNG or JPEG of each member, in order. Reads a few image shards at a time."""
        return self._column(members, "data")

    def looks(self, photos: Members) -> np.ndarray:
        """uint8 [n, 192], the thumbnails of photos in order."""
        return np.frombuffer(b"".join(self._column(photos, "look")), np.uint8).reshape(len(photos), -1)

    def _column(self, members: Members, column: str) -> list[bytes]:
        data: list[bytes] = [b""] * len(members)
        for (_, own), table in zip(members.by_part(), self._tables(members, column), strict=True):
            for i, picture in zip(own, table[column].to_pylist(), strict=True):
                data[i] = picture
        return data

    def _tables(self, members: Members, column: str) -> Iterator[pa.Table]:
        return read_rows(self.url, self.rows(members), [column])


def _shared(column: pa.ChunkedArray) -> np.ndarray:
    """object [n]. Equal texts are one object: of a million pictures, 250 names of classes and not a million."""
    coded = column.dictionary_encode().combine_chunks()
    return _objects([*coded.dictionary.to_pylist(), None])[np.asarray(coded.indices.fill_null(-1))]


def _objects(values: list[str | None]) -> np.ndarray:
    return np.array(values, dtype=object)
