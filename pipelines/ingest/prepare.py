"""Run one ingest task: read, decode and resize pictures, and write parts. `ingest.stage` sends it to workers.

Imports no torch, so that workers start fast.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

from pipelines.config.data import IngestConfig
from pipelines.datasets.base import DatasetConfig, ImageRecord
from pipelines.datasets.registry import create_dataset
from pipelines.runtime.redaction import printable
from pipelines.store import storage
from pipelines.workspace.ids import refuse_name
from pipelines.workspace.images import Images
from pipelines.workspace.parts import write_part
from pipelines.workspace.pictures import prepared
from zse_model.transforms import BadPicture, TransformConfig


def write_images(
    task: dict[str, Any], *, folder: str, dataset: DatasetConfig, transforms: TransformConfig, ingest: IngestConfig
) -> dict[str, Any]:
    """Read, prepare and write the parts of one task.

    A bad picture is listed in the metadata of its part. Returns `rows` (pictures read) and `skipped` (JSON of `uri` and
    `reason`). Raises StorageError and OSError of the store.
    """
    listed = json.loads(zlib.decompress(task["parts"]))
    parts = {name: [ImageRecord.of(values) for values in records] for name, records in listed.items()}
    everything = [record for records in parts.values() for record in records]
    contents = iter(create_dataset(dataset).read(everything))
    skipped: list[dict[str, str]] = []
    for name, records in parts.items():
        table, bad = _prepared(records, list(islice(contents, len(records))), transforms)
        write_part(storage.join(folder, name), table, row_group=ingest.row_group, extra={"skipped": bad})
        skipped += bad
    return {"rows": len(everything), "skipped": json.dumps(skipped)}


def packed(parts: dict[str, list[list[Any]]]) -> bytes:
    """What a task says of its parts: name -> values of the records. The tasks of a million pictures are in memory
    together; their paths repeat themselves, so they take a quarter when compressed."""
    return zlib.compress(json.dumps(parts).encode(), level=1)


def _prepared(
    records: Sequence[ImageRecord], contents: Sequence[bytes | Exception], transforms: TransformConfig
) -> tuple[pa.Table, list[dict[str, str]]]:
    """The table of a part, and `uri` and `reason` of its skipped pictures."""
    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    for record, data in zip(records, contents, strict=True):
        try:
            if isinstance(data, Exception):
                raise data
            rows.append(_row(record, data, transforms))
        except (BadPicture, FileNotFoundError) as error:
            # Faults of the picture only. A store that does not answer fails the job, and so does a missing permission:
            # a skipped picture is read again only when its listing changes, and granting the permission changes
            # nothing.
            reason = str(error) if isinstance(error, BadPicture) else f"{type(error).__name__}: cannot be read"
            skipped.append({"uri": printable(record.path), "reason": reason})
    return pa.Table.from_pylist(rows, schema=Images.SCHEMA), skipped


def _row(record: ImageRecord, data: bytes, transforms: TransformConfig) -> dict[str, Any]:
    refuse_name(record.path)
    encoded, thumbnail = prepared(record.modality, data, transforms)
    return {
        "id": record.id,
        "modality": record.modality,
        "category": record.category,
        "instance": record.instance,
        "uri": record.path,
        "sha256": storage.sha256(data),
        "data": encoded,
        "look": thumbnail,
    }
