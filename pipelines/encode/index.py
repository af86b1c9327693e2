"""Bring an index of photos up to date with the catalogue that it follows. `zse index` calls `index`.

Changed metadata are written first. New and changed photos are encoded and committed in steps of `STEP`, in the order of
their paths; then photos that are gone are deleted. So a killed run loses one step, and the same command goes on to the
same rows in the same order. A photo is known by its path and the version that the store gives; a photo that moved is
known by its content and keeps its encodings.
"""

from __future__ import annotations

import json
import logging
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from pipelines.datasets.archives import opened
from pipelines.datasets.tree import PICTURES, PassedOver, is_picture, unreadable
from pipelines.encode.photo_metadata import read_metadata
from pipelines.encode.photos import EncodePhotos, from_bytes, stored_forms
from pipelines.runtime.errors import StorageError
from pipelines.runtime.progress import LOG_EVERY, say
from pipelines.runtime.ray_tasks import gpus_of_workers, model_workers, run_parts
from pipelines.runtime.redaction import printable
from pipelines.runtime.validate import refuse_passwords
from pipelines.store import storage
from pipelines.store.lease import HeldError, held
from pipelines.store.table import ROW, Table
from pipelines.workspace.ids import as_id, as_path
from pipelines.workspace.photo_index import (
    OWN,
    PHOTOS,
    SKIPPED,
    SKIPPED_SCHEMA,
    EncodingForm,
    Generation,
    PhotoIndex,
    Source,
    about_of,
    forms_of,
    own_columns,
    photos_schema,
)
from zse_model.checkpoint import Checkpoint, load_checkpoint
from zse_model.errors import ZseError

pc: Any = pyarrow.compute  # makes its functions when it is imported: type checkers do not see them
PART, STEP = 64, 4096  # photos a task, and photos a commit at most
STEP_BYTES = 2**28  # of the encodings of a commit
ALONE = 1000  # photos that one process encodes before a second process has loaded its network
LISTED = 16_384  # files of a listing that are Python objects at once
SHOWN = 5  # skipped files that are named
EXACT = 2**53  # up to here each integer is a float64
MANY = 100  # deletions that need no confirmation, whatever their share


@dataclass
class Indexed:
    """What a run has done, in photos."""

    photos: int = 0
    """In the index now."""
    new: int = 0
    changed: int = 0
    moved: int = 0
    """Of the new and changed ones: their content was known, and is not encoded again."""
    described: int = 0
    """Unchanged photos with other metadata than before."""
    deleted: int = 0
    skipped: int = 0
    """Files that cannot be used, in all."""

    @property
    def encoded(self) -> int:
        return self.new + self.changed - self.moved

    def text(self) -> str:
        """One line for people."""
        kinds = {"new": "new", "changed": "changed", "moved": "moved", "described": "with other metadata"}
        kinds |= {"deleted": "deleted", "skipped": "skipped"}
        counts = ", ".join(f"{getattr(self, kind):,} {said}" for kind, said in kinds.items() if getattr(self, kind))
        return f"{self.photos:,} photos are indexed" + (f": {counts}" if counts else "; nothing has changed")


@dataclass
class Catalogue:
    """The listing of a source."""

    source: str
    folder: str
    """The source, or the folder that its archive was unpacked into."""
    photos: pa.Table
    """id, version; sorted by id"""
    unread: list[dict[str, str]]
    """id, version, reason: pictures of formats that are not read, and links that lead nowhere"""


@dataclass
class Plan:
    """The differences between a catalogue and an index."""

    wanted: pa.Table
    """id, version: photos to read, new or changed, sorted by id"""
    older: dict[str, int]
    """id -> address of the row, of those that the index has in an older version"""
    unread: list[dict[str, str]]
    """id, version, reason: files to skip unread"""
    gone: np.ndarray
    """int64 [n], addresses of the photos that are gone"""
    stale: np.ndarray
    """int64 [n], addresses of the skipped files that are gone or have changed, or that have no version"""
    locked: dict[str, tuple[int, str]]
    """id -> address and reason of the skipped files that have no version: they are read again in each run"""


def index(
    source: str | None,
    url: str,
    checkpoint_url: str,
    *,
    called: str | None = None,
    metadata: str | None = None,
    tokens: bool = False,
    delete_many: bool = False,
    checkpoint: Checkpoint | None = None,
) -> Indexed:
    """Make the index at `url` hold every photo of `source`, encoded by a checkpoint.

    source, metadata: None = as in the run before. called: the name of the checkpoint, such as models:/zse@champion;
    None = its URL. tokens: of a new generation: also keep the encodings of places. delete_many: delete even if most of
    the photos are gone. checkpoint: the content of `checkpoint_url`, if that is loaded already.
    Raises ZseError for another source than the run before's, for metadata that cannot be joined, and if most photos are
    gone; StorageError for a source without photos.
    """
    there = PhotoIndex(url)
    _followed(there, source, metadata)  # raises before any work
    if checkpoint is None:
        with storage.local_copy(checkpoint_url) as copy:
            checkpoint = load_checkpoint(copy)
    place = there.place(checkpoint.name, checkpoint.digest)
    Generation.find(place, checkpoint.digest)  # refuses what newer code wrote, before anything is written
    with turn(there.url) as refuse_lost:
        followed = _followed(there, source, metadata)
        catalogue = _listed(followed.url, there.url)
        metadata_rows = _metadata(followed.metadata, catalogue, checkpoint)
        table = _photos(place, checkpoint, called or checkpoint_url, tokens)
        skipped = Table.create(place, SKIPPED, SKIPPED_SCHEMA)
        plan = _planned(catalogue, table, skipped)
        photos = len(table)

        def refuse_many(lost: int) -> None:
            if not delete_many and lost > MANY and lost > photos / 2:
                raise ZseError(
                    f"{lost:,} of the {photos:,} photos in {there.url} are no longer in {followed.url}, or cannot be "
                    "read any more. If that is meant, run the same command with --delete-many"
                )

        refuse_many(len(plan.gone))
        there.follow(followed)
        about = about_of(table.schema)
        described, written = None, 0
        if metadata_rows is not None:
            refuse_lost()
            described = _described(metadata_rows, table, forms_of(about["encodings"]))
            written = _describe(described, table, plan, refuse_lost)
            plan = _planned(catalogue, table, skipped)  # rows that were written have other addresses
        run = _Run(catalogue, plan, table, skipped, described, refuse_lost)
        run.done.described = written
        run.encode(checkpoint_url)
        run.tell()
        run.delete(refuse_many)
        for one in (table, skipped):
            one.compact_if_scattered()
        if Generation.find(place, checkpoint.digest) is None:
            version = Generation.version_of(forms_of(about["encodings"]))
            Generation.write(place, checkpoint.digest, schema_version=version, **about)
        run.done.photos, run.done.skipped = len(table), len(skipped)
    return run.done


class _Run:
    """A pass over a catalogue. Its steps are commits."""

    def __init__(
        self,
        catalogue: Catalogue,
        plan: Plan,
        table: Table,
        skipped: Table,
        described: pa.Table | None,
        refuse_lost: Callable[[], None],
    ) -> None:
        """refuse_lost: raises where another process writes to the index now; called before each commit."""
        self.catalogue, self.plan, self.table, self.skipped = catalogue, plan, table, skipped
        self.described, self.refuse_lost = described, refuse_lost
        self.forms = forms_of(about_of(table.schema)["encodings"])
        self.own = own_columns(table.schema, self.forms)
        self.before = table.reopened()
        """The table as it was: a photo may have the content that another one had before this run wrote to it."""
        self.known: dict[bytes, int] = {}
        """sha256 of the photos that are gone or have another version -> address in `before`"""
        self.bad: list[str] = []
        """Lines that name the files that were skipped."""
        self.spoiled: list[dict[str, str]] = []
        """Files that cannot be used any more; the index has an older version of them until `delete`."""
        self.still: set[int] = set()
        """Addresses of skipped files that may not be read, as in the run before."""
        self.missing: list[str] = []
        """Paths of photos that a worker did not find."""
        self.done = Indexed()

    def encode(self, checkpoint_url: str) -> None:
        """Read, encode and commit the wanted photos."""
        self._skip(self.plan.unread)
        ids, count = self.plan.wanted["id"], self.plan.wanted.num_rows
        if not count:
            return
        before = np.array([*self.plan.gone, *self.plan.older.values()], dtype=np.int64)
        contents = self.before.take(before, ["sha256"])["sha256"].to_pylist()
        self.known = dict(zip(contents, before.tolist(), strict=True))
        parts = (ids[i : i + PART].to_pylist() for i in range(0, count, PART))
        tasks = [{"paths": json.dumps([as_path(id) for id in part])} for part in parts]
        alone, step, most = count < ALONE, [], self._step()
        gpus = 0 if alone else gpus_of_workers()
        for part in run_parts(
            tasks,
            EncodePhotos,
            what="Index",
            unit="photos",
            total=count,
            workers=None if alone else model_workers(len(tasks), gpus),
            gpus=gpus,
            constructor={
                "checkpoint": checkpoint_url,
                "source": self.catalogue.source,
                "forms": json.dumps({name: asdict(form) for name, form in self.forms.items()}),
                "known": "".join(content.hex() for content in self.known),
            },
            alone=alone,
        ):
            step.append(part)
            if len(step) * PART >= most:
                self._commit(step)
                step = []
        if step:
            self._commit(step)
        self._refuse_hidden()

    def _step(self) -> int:
        """Photos a commit: fewer where tokens are kept, which take 300 kB a photo with a ViT-B."""
        return min(STEP, STEP_BYTES // sum(form.bytes for form in self.forms.values()))

    def _refuse_hidden(self) -> None:
        """Raise StorageError if photos that a worker did not find are there: then it does not see the source."""
        there = [path for path in self.missing if storage.exists(storage.join(self.catalogue.folder, path))]
        if there:
            raise StorageError(
                f"{len(there)} photos are in {self.catalogue.source}, such as {printable(there[0])}, but not on the "
                "machines of the workers. Give a source that every machine reads, such as a bucket"
            )

    def _commit(self, parts: Sequence[dict[str, Any]]) -> None:
        """Write the photos of some parts, then the files that cannot be used."""
        self.refuse_lost()
        encoded, moved = (pa.concat_tables([from_bytes(part[name]) for part in parts]) for name in ("encoded", "moved"))
        addresses = np.array([self.known[content] for content in moved["sha256"].to_pylist()], dtype=np.int64)
        values = self.before.take(addresses, list(self.forms))
        for name in self.forms:
            moved = moved.append_column(name, values[name])
        rows = pa.concat_tables([encoded, moved]).sort_by("id")
        ids = rows["id"].to_pylist()
        self.table.upsert(self._completed(rows))
        changed = sum(id in self.plan.older for id in ids)
        self.done.new += len(ids) - changed
        self.done.changed += changed
        self.done.moved += moved.num_rows
        self.missing += [path for part in parts for path in json.loads(part["missing"])]
        bad = [pair for part in parts for pair in json.loads(part["skipped"])]
        versions = self._versions(pa.array([id for id, _ in bad], pa.string())).to_pylist()
        self._skip([{"id": id, "version": v, "reason": why} for (id, why), v in zip(bad, versions, strict=True)])
        # A new permission changes neither size nor time: without a version the file is read again in each run.
        locked = [pair for part in parts for pair in json.loads(part["locked"])]
        for id, why in locked:
            address, before = self.plan.locked.get(id, (-1, ""))
            if before == why:
                self.still.add(address)
            else:
                self._note([{"id": id, "version": "", "reason": why}])
        self._name([{"id": id, "reason": why} for id, why in locked])

    def _versions(self, ids: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
        """The versions of wanted photos."""
        return self.plan.wanted["version"].take(pc.index_in(ids, self.plan.wanted["id"]))

    def _completed(self, rows: pa.Table) -> pa.Table:
        """All columns of the table: those of the files, the encodings, version, time and metadata."""
        count, now = rows.num_rows, pa.scalar(datetime.now(UTC), pa.timestamp("ms", tz="UTC"))
        rows = rows.append_column("version", self._versions(rows["id"]))
        rows = rows.append_column("indexed_at", pa.repeat(now, count))
        if self.described is not None:
            joined = _joined(rows["id"], self.described)
            for name in self.own:
                rows = rows.append_column(name, joined[name])
        return rows.select(self.table.schema.names).cast(self.table.schema)

    def _skip(self, bad: Sequence[dict[str, str]]) -> None:
        """Note files that cannot be used. `delete` decides on those of which the index has an older version."""
        self._name(bad)
        self._note([one for one in bad if one["id"] not in self.plan.older])
        self.spoiled += [one for one in bad if one["id"] in self.plan.older]

    def _note(self, bad: Sequence[dict[str, str]]) -> None:
        """Write files to the table of those that were skipped."""
        if bad:
            self.skipped.upsert(pa.Table.from_pylist(list(bad), schema=SKIPPED_SCHEMA).sort_by("id"))

    def _name(self, bad: Sequence[Mapping[str, str]]) -> None:
        self.bad += [f"{printable(one['id'])}: {one['reason']}" for one in bad]

    def tell(self) -> None:
        """Name photos that were not indexed."""
        if self.missing:
            say(f"{len(self.missing):,} photos were deleted while this ran, such as {printable(self.missing[0])}")
        if self.bad:
            files = self.catalogue.photos.num_rows + len(self.catalogue.unread)
            say(f"Skipped {len(self.bad)} of {files} files:\n  " + "\n  ".join(self.bad[:SHOWN]))

    def delete(self, refuse_many: Callable[[int], None]) -> None:
        """Delete the photos that are gone or cannot be used any more: after `encode`, which reads the encodings of
        those that moved. refuse_many: raises for a number of deletions that somebody must confirm."""
        older = np.array([self.plan.older[one["id"]] for one in self.spoiled], dtype=np.int64)
        lost = np.concatenate([self.plan.gone, older])
        refuse_many(len(lost))
        self.refuse_lost()
        self.table.delete(lost)
        self.skipped.delete(np.setdiff1d(self.plan.stale, np.array([*self.still], dtype=np.int64)))
        self._note(self.spoiled)
        self.done.deleted = len(lost)


def _followed(there: PhotoIndex, source: str | None, metadata: str | None) -> Source:
    """The catalogue to follow. Raises ZseError without one, and for another one than before."""
    before = there.source
    if source is None and before is None:
        raise ZseError(f"{there.url} is not an index yet. Give the photos: zse index SOURCE --index {there.url} ...")
    refuse_passwords({"source": source, "metadata": metadata}, "")  # the index keeps both
    given = storage.absolute(source) if source is not None else before.url if before else ""
    if before is not None and given != before.url:
        raise ZseError(
            f"{there.url} is the index of {before.url}, not of {given}. Give another --index, or leave out the source"
        )
    described = storage.absolute(metadata) if metadata is not None else before.metadata if before else None
    return Source(given, described)


@contextmanager
def turn(url: str) -> Iterator[Callable[[], None]]:
    """Hold the lease of an index. Waits for another process that writes to it. Gives a function that raises HeldError
    if another process has taken the lease, because this one was suspended for longer than a lease lasts."""
    with ExitStack() as stack:
        while True:
            try:
                lease = stack.enter_context(held(url, f"The index {url}"))
                break
            except HeldError as error:
                say(f"{error}. Waiting for it", logging.WARNING)
        yield lease.refuse_lost


def _listed(source: str, index: str) -> Catalogue:
    """List the photos of a source; an index in the source is none of them. Raises StorageError if there are none."""
    place, passed = opened(source), PassedOver()
    if index == place.folder:
        raise ZseError(f"The index and the photos are one folder, {index}. Give another --index")
    own = f"{index}/".removeprefix(f"{place.folder}/")
    tables, unread, ids, versions = [], [], [], []
    shown = time.monotonic()

    def flush() -> None:
        tables.append(pa.table({"id": pa.array(ids, pa.string()), "version": pa.array(versions, pa.string())}))
        ids.clear()
        versions.clear()

    for file in storage.list_files(place.folder):
        if file.path.startswith(own):
            continue
        version = f"{place.version or file.version}:{file.size}"
        if is_picture(file.path) and not (place.version or file.version):
            unread.append({"id": as_id(file.path), "version": "", "reason": "a link that leads nowhere"})
            continue
        if is_picture(file.path):
            ids.append(as_id(file.path))
        elif (reason := unreadable(file.path)) is not None:
            unread.append({"id": as_id(file.path), "version": version, "reason": reason})
            continue
        else:
            passed.add(file.path)
            continue
        versions.append(version)
        if len(ids) == LISTED:
            flush()
            if time.monotonic() - shown > LOG_EVERY:
                shown = time.monotonic()
                say(f"List {source}: {len(tables) * LISTED:,} photos")
    flush()
    found = pa.concat_tables(tables).combine_chunks()
    if not found.num_rows:
        for one in unread:
            passed.add(as_path(one["id"]))
        there = f"; there are {passed}" if passed.counts else ""
        raise StorageError(f"{source} holds no pictures{there}. Give photos with endings {' '.join(PICTURES)}")
    passed.tell(source)
    return Catalogue(source, place.folder, found.take(pc.sort_indices(found["id"])), unread)


def _photos(place: str, checkpoint: Checkpoint, called: str, tokens: bool) -> Table:
    """The table of a generation, made if it is missing. Raises ZseError if it lacks the tokens that are asked for."""
    forms = stored_forms(checkpoint, tokens=tokens)
    about = {
        "method": checkpoint.name,
        "registered": called if called.startswith("models:/") else None,
        "made": datetime.now(UTC).isoformat(),
        "checkpoint_hash": checkpoint.digest,
        "licence": checkpoint.training.get("licence"),
        "transforms": asdict(checkpoint.transforms),
        "encodings": {name: asdict(form) for name, form in forms.items()},
    }
    table = Table.create(place, PHOTOS, photos_schema(forms, about))
    kept = forms_of(about_of(table.schema)["encodings"])
    if missing := sorted(set(forms) - set(kept)):
        raise ZseError(
            f"{place} was indexed without {', '.join(missing)}. To have them, delete this folder and run the same "
            "command again: it encodes every photo anew"
        )
    return table


def _metadata(url: str | None, catalogue: Catalogue, checkpoint: Checkpoint) -> pa.Table | None:
    """The metadata of a file. Raises ZseError for a file of which no row names a photo: before the index is touched."""
    if url is None:
        return None
    found = read_metadata(url, [field.name for field in OWN] + list(stored_forms(checkpoint, tokens=True)))
    found = _spelt_as(catalogue.photos["id"], found)
    used = pc.sum(pc.is_in(found["id"], catalogue.photos["id"])).as_py() or 0
    if found.num_rows and not used and len(catalogue.photos):
        raise ZseError(
            f"None of the {found.num_rows:,} rows of {url} names a photo of {catalogue.source}. Its paths must be "
            f"those below the source, such as {printable(catalogue.photos['id'][0].as_py())}; its first is "
            f"{printable(str(found['id'][0].as_py()))}"
        )
    say(f"{used:,} of {found.num_rows:,} rows of {url} name a photo")
    return found


def _spelt_as(ids: pa.ChunkedArray, found: pa.Table) -> pa.Table:
    """Metadata whose names of photos are spelt as those of the catalogue: macOS stores an accent as a letter of its
    own, tables do not, and both look the same."""
    here = ids.filter(pc.invert(pc.string_is_ascii(ids))).to_pylist()
    forms: dict[str, list[str]] = {}
    for id in here:
        forms.setdefault(unicodedata.normalize("NFC", id), []).append(id)
    known, named = set(here), found["id"].to_pylist()
    taken = known & set(named)

    def spelt(name: str) -> str:
        same = [] if name.isascii() or name in known else forms.get(unicodedata.normalize("NFC", name), [])
        return same[0] if len(same) == 1 and same[0] not in taken else name

    return found.set_column(0, "id", pa.array([spelt(name) for name in named], pa.string())) if here else found


def _described(described: pa.Table, table: Table, forms: Mapping[str, EncodingForm]) -> pa.Table:
    """Metadata as they are stored; gives the table its columns. A column of another type than before is made again."""
    stored = {name: table.schema.field(name).type for name in own_columns(table.schema, forms)}
    for field in described.schema:
        if pa.types.is_null(field.type):  # as CSV reads a column without a value
            at = described.schema.get_field_index(field.name)
            column = described[field.name].cast(stored.get(field.name, pa.string()))
            described = described.set_column(at, field.name, column)
    for name, kind in stored.items():  # whole numbers today, decimals yesterday
        if pa.types.is_floating(kind) and name in described.schema.names:
            at, column = described.schema.get_field_index(name), described[name]
            if pa.types.is_integer(column.type) and not pc.any(pc.greater(pc.abs(column), EXACT)).as_py():
                described = described.set_column(at, name, column.cast(kind, safe=False))
    given = {field.name: field.type for field in described.schema if field.name != "id"}
    if old := [name for name in stored if given.get(name) != stored[name]]:
        table.drop_columns(old)
    if new := [pa.field(name, kind) for name, kind in given.items() if name in old or name not in stored]:
        table.add_columns(pa.schema(new))
    return described


def _describe(described: pa.Table, table: Table, plan: Plan, refuse_lost: Callable[[], None]) -> int:
    """Write the metadata of photos that stay, where it is another than before. Gives the number of those that are not
    read again."""
    own = [name for name in described.schema.names if name != "id"]
    if not own:
        return 0
    stored = _whole(table, ["id", *own])
    stored = stored.filter(pc.invert(pc.is_in(stored[ROW].cast(pa.int64()), pa.array(plan.gone, pa.int64()))))
    joined = _joined(stored["id"], described)
    other = np.zeros(stored.num_rows, dtype=bool)
    for name in own:
        same = pc.equal(stored[name], joined[name])
        both_null = pc.and_(pc.is_null(stored[name]), pc.is_null(joined[name]))
        other |= ~pc.or_kleene(same, both_null).fill_null(False).to_numpy(zero_copy_only=False)
    rows = joined.append_column("id", stored["id"]).filter(pa.array(other)).sort_by("id")
    for i in range(0, rows.num_rows, STEP):
        refuse_lost()
        table.update(rows.slice(i, STEP))
    return sum(id not in plan.older for id in rows["id"].to_pylist())


def _planned(catalogue: Catalogue, table: Table, skipped: Table) -> Plan:
    listed, stored = catalogue.photos, _whole(table, ["id", "version"])
    bad = _whole(skipped, ["id", "version", "reason"])
    is_stored, is_bad = _same_version(listed, stored), _same_version(listed, bad)
    wanted = listed.filter(pc.invert(pc.or_(is_stored, is_bad)))
    old = stored.filter(pc.is_in(stored["id"], wanted["id"]))
    unread = pa.Table.from_pylist(catalogue.unread, schema=SKIPPED_SCHEMA)
    gone = stored.filter(pc.invert(pc.is_in(stored["id"], listed["id"])))
    still_bad = pc.or_(_same_version(bad, listed), _same_version(bad, unread))
    stale = bad.filter(pc.or_(pc.invert(still_bad), pc.is_in(bad["id"], listed.filter(is_stored)["id"])))
    return Plan(
        wanted=wanted,
        older=dict(zip(old["id"].to_pylist(), old[ROW].to_pylist(), strict=True)),
        unread=unread.filter(pc.invert(_same_version(unread, bad))).to_pylist(),
        gone=_addresses(gone),
        stale=_addresses(stale),
        locked={row["id"]: (row[ROW], row["reason"]) for row in bad.filter(pc.equal(bad["version"], "")).to_pylist()},
    )


def _same_version(files: pa.Table, known: pa.Table) -> pa.ChunkedArray:
    """bool [files]: a known file has this id and this version."""
    places = pc.index_in(files["id"], known["id"])
    return pc.fill_null(pc.equal(known["version"].take(places), files["version"]), False)


def _whole(table: Table, columns: Sequence[str]) -> pa.Table:
    """Columns of all rows, and their addresses."""
    batches = list(table.scan(columns))
    schema = pa.schema([*(table.schema.field(name) for name in columns), pa.field(ROW, pa.uint64())])
    return pa.Table.from_batches(batches).combine_chunks() if batches else schema.empty_table()


def _joined(ids: pa.ChunkedArray, described: pa.Table) -> pa.Table:
    """The metadata of photos, in their order; null for a photo without."""
    return described.drop_columns(["id"]).take(pc.index_in(ids, described["id"]))


def _addresses(rows: pa.Table) -> np.ndarray:
    return rows[ROW].to_numpy().astype(np.int64)
