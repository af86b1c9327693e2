"""Search an index with every sketch of a folder; `zse search --sketches` calls `search_folder`.

The output is one Parquet file: sketch (path below the folder), rank (from 1), id, score, confidence (null without one)
and similar (false on all rows of a sketch for which nothing similar was found; they have no confidence). A sketch that
cannot be used, or that no photo answers, has one row with the reason as `error`. Many sketches are shared by workers,
each with the whole index.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from typing import Any, Unpack

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.datasets.archives import opened
from pipelines.datasets.drawn import DRAWN
from pipelines.datasets.tree import is_picture
from pipelines.encode.photos import as_bytes, from_bytes
from pipelines.runtime.errors import StorageError
from pipelines.runtime.progress import say
from pipelines.runtime.ray_tasks import model_workers, run_parts
from pipelines.runtime.redaction import printable
from pipelines.search.cleaning import Clean, clean_of
from pipelines.search.query import prepare_query
from pipelines.search.searcher import Asked, Searcher
from pipelines.store import storage
from pipelines.workspace.ids import as_id
from zse_model.transforms import ENDINGS, BadPicture

PART, ALONE = 64, 1000  # sketches a task, and sketches that one process searches before a second has loaded the index
SKETCHES = (*ENDINGS, *DRAWN)  # of the files that are queries
ANSWERS = pa.schema(
    [
        ("sketch", pa.string()),
        ("rank", pa.int32()),
        ("id", pa.string()),
        ("score", pa.float32()),
        ("confidence", pa.float32()),
        ("similar", pa.bool_()),
        ("error", pa.string()),
    ]
)


def search_folder(
    sketches: str, index: str, checkpoint: str, out: str, *, clean: Clean = "auto", **asked: Unpack[Asked]
) -> tuple[int, int]:
    """Write the answers to all sketches below a folder to `out`; returns the number of sketches, and of those without
    an answer.

    checkpoint: a folder or URL. clean: as in `prepare_query`.
    Raises StorageError for a folder without sketches, and what `Searcher` raises.
    """
    clean_of(clean)
    folder = opened(sketches).folder
    names = sorted(file.path for file in storage.list_files(folder) if is_picture(file.path, SKETCHES))
    if not names:
        raise StorageError(f"{sketches} holds no sketches. Give a folder of pictures, SVG or .json files")
    tasks = [{"paths": json.dumps(names[i : i + PART])} for i in range(0, len(names), PART)]
    alone = len(names) < ALONE
    constructor = {
        "index": index,
        "checkpoint": checkpoint,
        "folder": folder,
        "asked": json.dumps(asked),
        "clean": clean,
    }
    answers, read, changed = [], Counter[tuple[str, int]](), 0
    for part in run_parts(
        tasks,
        SearchSketches,
        what="Search",
        unit="sketches",
        total=len(names),
        workers=None if alone else model_workers(len(tasks)),
        constructor=constructor,
        alone=alone,
    ):
        answers.append(from_bytes(part["answers"]))
        read[part["generation"], part["version"]] += part["rows"]
        changed += part["cleaned"]
    if changed:
        say(f"{changed:,} sketches are pictures of drawings, and were cleaned. --clean never takes them as they are")
    if len(read) > 1:
        of = ", ".join(f"version {version} of {made} for {count:,} sketches" for (made, version), count in read.items())
        say(f"{index} changed during the search, which read {of}. For one version, search again", logging.WARNING)
    found = pa.concat_tables(answers)
    buffer = pa.BufferOutputStream()
    pq.write_table(found, buffer)
    storage.write_bytes(out, buffer.getvalue().to_pybytes())
    return len(names), found.num_rows - found["error"].null_count


class SearchSketches:
    """An actor that holds the model and the index. Each call answers some sketches."""

    def __init__(self, index: str, checkpoint: str, folder: str, asked: str, clean: Clean) -> None:
        self.searcher, self.folder = Searcher.open(index, checkpoint), folder
        self.asked = json.loads(asked)
        self.clean: Clean = clean

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        paths = json.loads(task["paths"])
        drawn, rows, changed = {}, [], 0
        for path, data in zip(paths, storage.read_many(self.folder, paths), strict=True):
            name = as_id(path)
            try:
                if isinstance(data, FileNotFoundError):
                    raise BadPicture(f"{printable(path)} was deleted during the search")
                if isinstance(data, Exception):
                    raise data
                query = prepare_query(data, self.searcher.checkpoint.transforms, printable(path), self.clean)
                drawn[name], changed = query.drawing, changed + query.cleaned.changed
            except BadPicture as error:
                rows.append({"sketch": name, "error": str(error)})
        answers = self.searcher.answers(list(drawn.values()), **self.asked) if drawn else []
        for name, found in zip(drawn, answers, strict=True):
            rows += [
                {
                    "sketch": name,
                    "rank": i,
                    "id": one.id,
                    "score": one.score,
                    "confidence": one.confidence,
                    "similar": found.similar,
                }
                for i, one in enumerate(found, 1)
            ]
            if not found:
                rows.append({"sketch": name, "error": "no photo passes the filter"})
        rows.sort(key=lambda row: row["sketch"])  # stable: ranks stay in order
        table = pa.Table.from_pylist(rows, schema=ANSWERS)
        generation, version = self.searcher.made
        return {
            "answers": as_bytes(table),
            "rows": len(paths),
            "cleaned": changed,
            "generation": generation,
            "version": version,
        }
