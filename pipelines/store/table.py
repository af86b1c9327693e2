"""A versioned table of rows with unique ids, in a folder or a bucket: LanceDB behind a small interface.

    <url>/<name>.lance/

Each change is one commit: a killed process leaves the last commit, and a reader keeps the version that it has opened.
Rows keep their order: a new or changed row goes to the end. LanceDB stores; it never ranks. This is the only module
that imports `lancedb`, an extra (`pip install 'zse-retrieval[index]'`).
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.runtime.errors import StorageError
from pipelines.runtime.redaction import printable
from pipelines.store.urls import is_local
from zse_model.errors import ZseError

ID = "id"
KEY = "lance-schema:unenforced-primary-key:position"
ROW = "_rowid"  # Lance's address of a row; changes when its fragment is compacted
SCANNED = 8192  # rows of a scan's batch
DELETED = 10_000  # rows of a deletion: each is named in its filter
NAMED = 500  # ids of a lookup: each is named in its filter
PURGED = 1024  # rows that a purge writes at once
LONGEST = 2000  # characters of a filter: LanceDB's parser is recursive, and one of a million ends the process
FEW = 32  # small fragments after which a table is compacted
KEPT = timedelta(days=1)  # a version that a reader may still have open


class Table:
    """A table at the version at which it was opened, or that it wrote last. For the latest version, open it again."""

    def __init__(self, url: str, table: Any) -> None:
        self.url, self._table = url, table

    @classmethod
    def create(cls, url: str, name: str, schema: pa.Schema) -> Table:
        """Make an empty table, or open the existing one. schema: its first field is the string `id`; its metadata is
        kept."""
        if (found := cls.find(url, name)) is not None:
            return found
        key = schema.field(ID).with_metadata({KEY: "1"})  # of two writers that insert one id, one commits again
        with _translated(url):
            return cls(url, _connected(url).create_table(name, schema=schema.set(0, key), exist_ok=True))

    @classmethod
    def find(cls, url: str, name: str) -> Table | None:
        """Open a table; None if there is none."""
        database = _connected(url)
        try:
            return cls(url, database.open_table(name))
        except (ValueError, RuntimeError, OSError) as error:
            if f"Table '{name}' was not found" in str(error):
                return None
            raise StorageError(f"{url}: the index cannot be read: {_first_line(error)}") from error

    def reopened(self) -> Table:
        """The same version as a table of its own, which later commits of this one leave as it is."""
        table = _connected(self.url).open_table(self._table.name)
        with self._translated():
            table.checkout(self.version)
        return Table(self.url, table)

    @property
    def version(self) -> int:
        return int(self._table.version)

    @property
    def schema(self) -> pa.Schema:
        return self._table.schema

    def __len__(self) -> int:
        return self.count()

    def count(self, where: str | None = None) -> int:
        """Number of rows, or of those that pass a filter. Raises ZseError for a filter that cannot be read."""
        with _filtering(where, self.schema):
            return int(self._table.count_rows(_whole(where)))

    def upsert(self, rows: pa.Table) -> None:
        """Insert rows, and replace those with a known id, in one commit. They are stored last, in the given order."""
        self._merge(rows, self._table.merge_insert(ID).when_matched_update_all().when_not_matched_insert_all())

    def update(self, rows: pa.Table) -> None:
        """Replace columns of the rows with these ids, in one commit. The rows go to the end, in the given order."""
        self._merge(rows, self._table.merge_insert(ID).when_matched_update_all())

    def _merge(self, rows: pa.Table, how: Any) -> None:
        if rows.num_rows:
            rows = rows.cast(pa.schema([self.schema.field(name) for name in rows.column_names]))
            with self._translated():
                how.execute(rows.combine_chunks())  # Lance mixes the order of several batches

    def delete(self, rows: np.ndarray) -> None:
        """Delete rows by their addresses, int64 [n], in commits of `DELETED`."""
        for i in range(0, len(rows), DELETED):
            with self._translated():
                self._table.delete(f"{ROW} IN ({', '.join(map(str, rows[i : i + DELETED].tolist()))})")

    def add_columns(self, fields: pa.Schema) -> None:
        """Add columns, null in all rows."""
        with self._translated():
            self._table.add_columns(fields)

    def drop_columns(self, names: Sequence[str]) -> None:
        with self._translated():
            self._table.drop_columns(list(names))

    def scan(
        self, columns: Sequence[str], where: str | None = None, *, rows: int = SCANNED
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows in stored order, so many at once: the columns, and the address `_rowid`, uint64.

        where: a filter in SQL over any columns, such as "price < 100". Raises ZseError if it cannot be read.
        """
        query = self._table.search().select(list(columns)).with_row_id(True).limit(2**32 - 1)
        if where is not None:
            query = query.where(_whole(where))
        with _filtering(where, self.schema):
            yield from query.to_batches(rows)

    def addresses(self, ids: Sequence[str]) -> dict[str, int]:
        """id -> address, of those ids that the table has."""
        found: dict[str, int] = {}
        for i in range(0, len(ids), NAMED):
            texts = ", ".join("'" + id.replace("'", "''") + "'" for id in ids[i : i + NAMED])
            query = self._table.search().select([ID]).with_row_id(True).where(f"{ID} IN ({texts})").limit(NAMED)
            with self._translated():
                rows = query.to_arrow()
            found |= zip(rows[ID].to_pylist(), rows[ROW].to_pylist(), strict=True)
        return found

    def take(self, rows: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """The rows with these addresses, [n], in the order that is asked for. Raises StorageError if one is gone."""
        if len(rows) == 0:
            return self.schema.empty_table().select(list(columns))
        with self._translated():
            query = self._table.take_row_ids(np.unique(rows).tolist()).select(list(columns))
            found = query.with_row_id().to_arrow()
        known = found[ROW].to_numpy()
        order = np.argsort(known)
        places = np.searchsorted(known, rows, sorter=order).clip(max=len(known) - 1)
        if len(known) == 0 or not np.array_equal(known[order[places]], rows):
            raise StorageError(f"Rows of {self.url} are gone: the table was compacted. Open it again")
        return found.take(pa.array(order[places])).select(list(columns))

    def compact(self) -> None:
        """Join small fragments into large ones, and delete versions that are older than `KEPT`."""
        with self._translated():
            self._table.optimize(cleanup_older_than=KEPT)

    def compact_if_scattered(self) -> None:
        """`compact` a table of more than `FEW` small fragments, which slow every scan."""
        if self._table.stats()["fragment_stats"]["num_small_fragments"] > FEW:
            self.compact()

    def purge(self, rows: np.ndarray) -> None:
        """Delete rows by their addresses, and the bytes of every deleted row from every version. Readers of an earlier
        version fail.

        A deletion and an upsert only mark the old row, and compaction leaves marked rows in place where they are few.
        So all other rows are written again, in their order, and all earlier versions are deleted.
        """
        self.delete(rows)
        kept = [batch[ROW].to_numpy() for batch in self.scan([ID])]
        for some in np.array_split(np.concatenate(kept), range(PURGED, sum(map(len, kept)), PURGED)) if kept else ():
            self.upsert(self.take(some, self.schema.names))
        with self._translated(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of concurrent readers: the docs name them
            self._table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        with _translated(self.url):
            yield


def _connected(url: str) -> Any:
    try:
        import lancedb  # here: an extra, which takes a second to import
    except ImportError as error:
        raise ZseError(
            "An index of photos needs LanceDB, which is not installed: pip install 'zse-retrieval[index]'"
        ) from error
    # A process that is started inherits nothing of LanceDB's threads: `subprocess` runs another program at once.
    warnings.filterwarnings("ignore", "lancedb fork support", RuntimeWarning)
    return lancedb.connect(url.replace("s3a://", "s3://", 1), storage_options=_options(url))


def _options(url: str) -> dict[str, str] | None:
    """Lance reads credentials from the environment or the machine's role, as fsspec does, but refuses plain HTTP."""
    if is_local(url):
        return None
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    options = {"aws_endpoint": endpoint} if endpoint else {}
    return options | ({"allow_http": "true"} if endpoint and endpoint.startswith("http://") else {})


@contextmanager
def _translated(place: str) -> Iterator[None]:
    """Raise an error of Lance as a StorageError."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise StorageError(f"{place}: the index cannot be read or written: {_first_line(error)}") from error


_QUOTED = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|`[^`]*`")


def _whole(where: str | None) -> str | None:
    """A filter in brackets. Without them Lance reads up to what cannot continue a condition, such as a second condition
    without AND, `;` or `LIMIT`, and leaves out the rest, which may be the condition that matters."""
    return None if where is None else f"({where})"


@contextmanager
def _filtering(where: str | None, schema: pa.Schema) -> Iterator[None]:
    """Raise ZseError for an error of a filter, with the columns that it may use."""
    if where is not None and (len(where) > LONGEST or "\0" in where):
        raise ZseError(f"A filter has at most {LONGEST} characters, and no zero byte; this one has {len(where)}")
    open_brackets = 0
    for bracket in re.findall(r"[()]", _QUOTED.sub("", where or "")):
        open_brackets += 1 if bracket == "(" else -1
        if open_brackets < 0:
            raise ZseError(f"The filter {printable(where or '')!r} has a ) without a (")
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        # A filter that cannot be read is a ValueError; one that fails on a row says so. All else is the store.
        if where is None or not (isinstance(error, ValueError) or "applying filter expression" in str(error)):
            raise StorageError(f"The index cannot be read: {_first_line(error)}") from error
        plain = (
            pa.types.is_string,
            pa.types.is_integer,
            pa.types.is_floating,
            pa.types.is_boolean,
            pa.types.is_temporal,
        )
        known = [f.name for f in schema if any(is_plain(f.type) for is_plain in plain)]
        raise ZseError(
            f"The filter {printable(where)!r} cannot be used: {_first_line(error)}. "
            f"Columns: {', '.join(known)}. Examples: \"price < 100 AND category = 'cat'\", \"day > DATE '2026-01-31'\""
        ) from error


def _first_line(error: Exception) -> str:
    """What Lance says, without the place in its source and without its own list of columns."""
    said = re.split(r", /\S+\.rs:|\. Valid fields are", str(error).strip())[0]
    return printable(said.splitlines()[0]).rstrip(".") if said else type(error).__name__
