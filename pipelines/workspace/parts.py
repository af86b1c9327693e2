"""Read and write part files: the Parquet files of an artefact (`kept.py`), which its manifest names.

Every stage plans parts with fixed names, and one task writes each part. An existing part is not made again: the name of
its folder is the hash of everything that the part depends on.
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
    """Whether a file of image or pair shards is a part, by its name."""
    return name.startswith("part-")


def batched_parts(sizes: Sequence[int], most: int) -> list[range]:
    """All parts in consecutive batches of at most `most` rows; a larger part is a batch of its own.

    sizes: rows of each part.
    """
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
    """The bytes of a Parquet file; equal for equal tables. Only text is compressed: pictures are compressed already."""
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


def open_part(url: str, *, whole: bool = False) -> pq.ParquetFile:
    """Open a part to read by row group. Raises StorageError for a missing file and for one that is not Parquet.

    whole: request the file of a store at once, for a part that is read completely and fits in memory.
    """
    try:
        if storage.is_local(url):
            return pq.ParquetFile(storage.absolute(url), memory_map=True)
        if whole:
            return pq.ParquetFile(pa.BufferReader(storage.read_bytes(url)))
        # Reads exact ranges and joins those of adjacent columns: a row group is one request.
        return pq.ParquetFile(storage.RangeFile(url), pre_buffer=True)
    except FileNotFoundError:
        raise StorageError(f"{url} does not exist. Delete its folder and run the stage again") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise StorageError(f"Cannot read {url}: {error}. Delete it and run the stage again") from error


def part_extra(schema: pa.Schema) -> dict[str, Any]:
    """The `extra` of `write_part`, from the schema of a part or of a table read from it."""
    return json.loads((schema.metadata or {}).get(b"zse", b"{}"))


def read_parts(folder: str, parts: Sequence[str], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield a table of these columns for each part, in order. Several parts are read at once."""

    def read(part: str) -> pa.Table:
        return open_part(storage.join(folder, part)).read(columns=list(columns))

    yield from storage.side_by_side(read, parts)


def read_rows(folder: str, wanted: Sequence[tuple[str, np.ndarray]], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield a table for each (part, rows) with these rows in their order.

    wanted: name of a part, and int64 rows of it.
    """

    def read(one: tuple[str, np.ndarray]) -> pa.Table:
        part, rows = one
        return open_part(storage.join(folder, part)).read(columns=list(columns)).take(pa.array(rows))

    yield from storage.side_by_side(read, wanted)
