"""Part files: Parquet, of which a kept form (`kept.py`) has as many as its manifest names.

Every stage works the same way. It plans parts with fixed names; each part is one task that writes one Parquet file; a
part that is there is not made again, because the folder's name is the hash of everything that its parts depend on.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.runtime.errors import StorageError
from pipelines.store import storage

SCHEMA_VERSION = 1


def part_name(index: int, total: int) -> str:
    return f"part-{index:05d}-of-{total:05d}.parquet"


def is_part(name: str) -> bool:
    """Whether a file of an image or pair folder is a part."""
    return name.startswith("part-")


def batched_parts(sizes: Sequence[int], most: int) -> list[range]:
    """Consecutive parts that together have at most `most` rows; a larger one stands alone. They cover all parts."""
    out: list[range] = []
    held = 0
    for i, size in enumerate(sizes):
        if out and held + size <= most:
            out[-1], held = range(out[-1].start, i + 1), held + size
        else:
            out.append(range(i, i + 1))
            held = size
    return out


def encode_part(table: pa.Table, *, row_group: int, extra: dict[str, Any] | None = None) -> bytes:
    """A Parquet file: the same table gives the same bytes. Pictures are compressed already, so only text is again."""
    table = table.replace_schema_metadata({"zse": json.dumps({"schema_version": SCHEMA_VERSION, **(extra or {})})})
    sink = io.BytesIO()
    text = [field.name for field in table.schema if pa.types.is_string(field.type)]
    pq.write_table(
        table,
        sink,
        row_group_size=row_group,
        compression={f.name: "zstd" if f.name in text else "NONE" for f in table.schema},  # type: ignore[arg-type]
        use_dictionary=text,  # type: ignore[arg-type]
        write_statistics=False,
    )
    return sink.getvalue()


def write_part(url: str, table: pa.Table, *, row_group: int, extra: dict[str, Any] | None = None) -> None:
    storage.write_bytes(url, encode_part(table, row_group=row_group, extra=extra))


def open_part(url: str) -> pq.ParquetFile:
    """A part for reading by row group. A file that is not Parquet raises StorageError naming it."""
    try:
        if storage.is_local(url):
            return pq.ParquetFile(storage.absolute(url), memory_map=True)
        # Exact ranges, joined where columns lie side by side: a row group is one request.
        return pq.ParquetFile(storage.RangeFile(url), pre_buffer=True)
    except FileNotFoundError:
        raise StorageError(f"{url} does not exist. Delete its folder and run the stage again") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise StorageError(f"Cannot read {url}: {error}. Delete it and run the stage again") from error


def part_extra(schema: pa.Schema) -> dict[str, Any]:
    """What `write_part` was given as extra, of a part's schema or that of a table read from it."""
    return json.loads((schema.metadata or {}).get(b"zse", b"{}"))


def read_parts(folder: str, parts: Sequence[str], columns: Sequence[str]) -> Iterator[pa.Table]:
    def read(part: str) -> pa.Table:
        return open_part(storage.join(folder, part)).read(columns=list(columns))

    yield from storage.side_by_side(read, parts)


def read_rows(folder: str, wanted: Sequence[tuple[str, np.ndarray]], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Of each (part, rows) a table with these rows, in their order."""

    def read(one: tuple[str, np.ndarray]) -> pa.Table:
        part, rows = one
        return open_part(storage.join(folder, part)).read(columns=list(columns)).take(pa.array(rows))

    yield from storage.side_by_side(read, wanted)
