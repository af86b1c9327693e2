"""Look at an index, compact it, and purge photos from it. `zse index --status`, `--compact` and `--purge` call it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np

from pipelines.datasets.archives import is_archive
from pipelines.encode.index import turn
from pipelines.runtime.progress import say
from pipelines.runtime.redaction import printable
from pipelines.store import storage
from pipelines.store.lease import holder
from pipelines.store.table import Table
from pipelines.workspace.ids import as_path
from pipelines.workspace.photo_index import PHOTOS, SKIPPED, Generation, PhotoIndex, about_of

SHOWN = 10  # skipped files in a status


def index_status(url: str) -> Iterator[str]:
    """Lines that say what an index holds. Raises StorageError for a folder that is no index."""
    there = PhotoIndex(url)
    source = there.required()
    yield f"{there.url} follows {source.url}" + (f", with metadata of {source.metadata}" if source.metadata else "")
    for place, photos, skipped in _tables(there):
        about, complete = about_of(photos.schema), Generation.find(place) is not None
        named, licence = about["registered"] or about["method"], about.get("licence")
        yield (
            f"{place.rsplit('/', 1)[1]}: {len(photos):,} photos, {len(skipped):,} skipped files, encoded by {named} "
            f"({about['checkpoint_hash'][:12]}), {', '.join(about['encodings'])}; version {photos.version}"
            + (f"; the licence of the model's pretrained weights is {licence}" if licence else "")
            + ("" if complete else "; not complete: run the same `zse index` again")
        )
        for i, row in enumerate(row for batch in skipped.scan(["id", "reason"]) for row in batch.to_pylist()):
            if i == SHOWN:
                yield f"  ... and {len(skipped) - SHOWN:,} more skipped files"
                break
            yield f"  skipped {printable(row['id'])}: {row['reason']}"
    if (other := holder(there.url)) is not None:
        yield f"Process {other.get('pid')} on {other.get('host')} is writing to it"


def compact_index(url: str) -> None:
    """Join the small files of every table, and delete old versions."""
    there = PhotoIndex(url)
    there.required()
    with turn(there.url) as refuse_lost:
        for place, *tables in _tables(there):
            for table in tables:
                refuse_lost()
                table.compact()
            say(f"{place.rsplit('/', 1)[1]}: compacted, version {tables[0].version}")


def purge_photos(url: str, ids: Sequence[str]) -> int:
    """Delete photos, and what is left of photos that were deleted or replaced before, from every version of every
    generation. Returns the number of the ids that the index had. Rows are written again, so it takes as long as reading
    the index does."""
    there = PhotoIndex(url)
    source = there.required()
    with turn(there.url) as refuse_lost:
        found = [(table, table.addresses(ids)) for _, *tables in _tables(there) for table in tables]
        known = {id for _, rows in found for id in rows}
        if missing := [printable(id) for id in ids if id not in known]:
            say(
                f"The index has no photo {', '.join(missing[:5])} now. What is left of earlier versions is deleted",
                logging.WARNING,
            )
        for table, rows in found:
            refuse_lost()
            table.purge(np.array(list(rows.values()), dtype=np.int64))
    if not is_archive(source.url):
        left = [printable(id) for id in known if storage.exists(storage.join(source.url, as_path(id)))]
        if left:
            say(
                f"Still in {source.url}: {', '.join(left[:5])}. Delete them there, or the next run indexes them again",
                logging.WARNING,
            )
    return len(known)


def _tables(there: PhotoIndex) -> Iterator[tuple[str, Table, Table]]:
    """(folder, photos, skipped) of each generation, complete or not."""
    for place in there.places():
        photos, skipped = (Table.find(place, name) for name in (PHOTOS, SKIPPED))
        if photos is not None and skipped is not None:
            yield place, photos, skipped
