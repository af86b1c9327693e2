"""Measure what an index of photos asks of its table: commits, scans, rows by address, a killed and a second writer.

    python -m benchmarks table            100,000 rows
    ZSE_ROWS=1000000 python -m benchmarks table

Rows have generated encodings of 256 numbers, a code of 64 bits and thumbnails of 2 kB.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from pipelines.store.table import ROW, Table
from pipelines.workspace.photo_index import EncodingForm, photos_schema

ROWS = int(os.environ.get("ZSE_ROWS", "100000"))
STEP, THUMBNAIL = 4096, 2048
FORMS = {"embedding": EncodingForm("float16", (256,)), "hash-64": EncodingForm("uint8", (8,))}
SCHEMA = photos_schema(FORMS, {}).append(pa.field("price", pa.float64()))


def made(first: int, last: int, version: str = "1") -> pa.Table:
    """Rows `first` to `last` - 1, the same at every call."""
    chance, count = np.random.default_rng(first), last - first
    raw, now = chance.bytes(THUMBNAIL * count), pa.scalar(datetime.now(UTC), pa.timestamp("ms", tz="UTC"))
    columns = {
        "id": [f"photos/{i // 1000:04d}/{i:08d}.jpg" for i in range(first, last)],
        "version": [version] * count,
        "sha256": [i.to_bytes(32, "big") for i in range(first, last)],
        "width": [640] * count,
        "height": [480] * count,
        "thumbnail": [raw[i * THUMBNAIL : (i + 1) * THUMBNAIL] for i in range(count)],
        "look": [raw[i : i + 192] for i in range(count)],
        "indexed_at": pa.repeat(now, count),
        "embedding": FORMS["embedding"].column(chance.standard_normal((count, 256), dtype=np.float32)),
        "hash-64": FORMS["hash-64"].column(chance.integers(0, 256, (count, 8), dtype=np.uint8)),
        "price": chance.random(count) * 100,
    }
    return pa.table(columns, schema=SCHEMA)


def fill(table: Table, rows: int) -> None:
    for first in range(0, rows, STEP):
        table.upsert(made(first, min(first + STEP, rows)))


def timed(what: str, work: Callable[[], Any], times: int = 1) -> Any:
    """Print the median of some calls, and the resident memory after them."""
    taken, result = [], None
    for _ in range(times):
        begun = time.perf_counter()
        result = work()
        taken.append(time.perf_counter() - begun)
    memory = psutil.Process().memory_info().rss / 2**20
    print(f"{what:44} {statistics.median(taken) * 1e3:10,.1f} ms   {memory:6,.0f} MiB", flush=True)
    return result


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = Table.create(folder, "photos", SCHEMA)
        print(f"{ROWS:,} rows of {made(0, 1).nbytes:,} bytes")
        timed(f"insert all, {STEP} a commit", lambda: fill(table, ROWS))
        changed = pa.concat_tables([made(5, 6, "2"), made(ROWS, ROWS + 1)])
        timed("upsert 2 rows", lambda: table.upsert(changed))
        rows = timed("scan addresses", lambda: addresses(table))
        timed("delete 1 row", lambda: table.delete(rows[7:8]))
        rows = addresses(table)
        timed("scan id and version", lambda: scanned(table, ["id", "version"]))
        timed("scan codes", lambda: scanned(table, ["hash-64"]))
        timed("scan embeddings", lambda: scanned(table, ["embedding"]))
        timed("filter that 1 % passes", lambda: scanned(table, ["id"], "price < 1"), 5)
        chance = np.random.default_rng(0)
        some = [chance.choice(rows, 200, replace=False) for _ in range(20)]
        timed("take 200 embeddings", lambda: table.take(some.pop(), ["embedding"]), 20)
        some = [chance.choice(rows, 20, replace=False) for _ in range(20)]
        timed("take 20 thumbnails", lambda: table.take(some.pop(), ["thumbnail"]), 20)
        timed("open the latest version", lambda: Table.find(folder, "photos"), 20)
        before = ids(table)
        timed("compact", table.compact)
        print(f"order after compaction is {'the same' if ids(table) == before else 'another'}")
        timed("purge 1 row", lambda: table.purge(addresses(table)[11:12]))
    killed()
    together()


def addresses(table: Table) -> np.ndarray:
    return np.concatenate([batch[ROW].to_numpy() for batch in table.scan(["version"])]).astype(np.int64)


def scanned(table: Table, columns: list[str], where: str | None = None) -> int:
    return sum(batch.num_rows for batch in table.scan(columns, where))


def ids(table: Table) -> list[str]:
    return [id for batch in table.scan(["id"]) for id in batch["id"].to_pylist()]


def killed() -> None:
    """Kill a writer ten times. After each the table must open, with whole commits in order."""
    whole = 0
    with tempfile.TemporaryDirectory() as folder:
        for i in range(10):
            place = str(Path(folder) / str(i))
            writer = spawned(writes, place, 200)
            time.sleep(2 + i / 10)  # after the start of a process
            os.kill(writer.pid or 0, signal.SIGKILL)
            writer.join()
            table = Table.find(place, "photos")
            found = ids(table) if table else []
            whole += found == made(0, len(found))["id"].to_pylist() and len(found) % 10 == 0
    print(f"kill -9 of a writer: {whole} of 10 tables hold whole commits in order")


def together() -> None:
    """Four writers of different rows and of the same rows."""
    for same in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            Table.create(folder, "photos", SCHEMA)
            writers = [spawned(writes, folder, 10, 0 if same else 100 * i) for i in range(4)]
            for writer in writers:
                writer.join()
            table = Table.find(folder, "photos")
            found = ids(table) if table else []
            print(
                f"4 writers of {'the same' if same else 'different'} rows: {len(set(found))} of "
                f"{100 if same else 400} rows, {len(found) - len(set(found))} twice"
            )


def spawned(work: Callable[..., None], *given: Any) -> Any:
    process = multiprocessing.get_context("spawn").Process(target=work, args=given)  # type: ignore[attr-defined]
    process.start()
    return process


def writes(folder: str, commits: int, first: int = 0) -> None:
    table = Table.create(folder, "photos", SCHEMA)
    for i in range(commits):
        table.upsert(made(first + 10 * i, first + 10 * (i + 1)))
