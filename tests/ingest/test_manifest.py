"""The manifest of image shards is a function of their parts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow as pa

from pipelines.config.load import validate
from pipelines.ingest.stage import ingest, plan_ingest
from pipelines.workspace.images import Images
from pipelines.workspace.parts import write_part

CLASSES = ("a", "a b", "a!", "a#", 'a"b', "a-b", "b", "é", "京", "A")
"""Their order differs between plain text and JSON."""


def test_the_fingerprint_is_that_of_all_lines_sorted(tmp_path: Path) -> None:
    """Lines are sorted class by class, so that those of one class are in memory."""
    for category in CLASSES:
        for modality, pictures in (("photo", 5), ("sketch", 3)):
            folder = tmp_path / "set" / modality / category
            folder.mkdir(parents=True)
            for i in range(pictures):
                (folder / f"{'zyxwv'[i]}.png").write_bytes(b"")
    config = validate(
        {
            "name": "x",
            "dataset": {"adapter": "folder", "name": "x", "source": str(tmp_path / "set"), "split": ["a"]},
            "transforms": {"size": 32},
            "ingest": {"part_size": 2, "max_bad_fraction": 0.2},
            "methods": {"global": {}},
            "train": {"steps": 1},
        }
    )
    planned = plan_ingest(config, str(tmp_path / "w"))
    lines, bad = [], []
    for number, (name, records) in enumerate(planned.parts.items()):
        rows = [
            {"id": one.id, "modality": one.modality, "category": one.category, "instance": one.instance}
            | {"uri": one.path, "sha256": hashlib.sha256(one.path.encode()).hexdigest(), "data": b"", "look": None}
            for one in records[number % 7 == 0 :]  # the first picture of some parts cannot be used
        ]
        lines += [json.dumps([r["modality"], r["category"], r["instance"], r["sha256"]]) for r in rows]
        bad += [{"uri": records[0].path, "reason": "cut"}] if number % 7 == 0 else []
        table = pa.Table.from_pylist(rows, schema=Images.SCHEMA)
        write_part(f"{planned.folder}/{name}", table, row_group=2, extra={"skipped": bad[-1:] * (number % 7 == 0)})
    images = ingest(config, str(tmp_path / "w"), planned)
    assert images.fingerprint == hashlib.sha256("".join(f"{line}\n" for line in sorted(lines)).encode()).hexdigest()
    assert list(images.skipped) == bad
    assert list(images.parts) == list(planned.parts) and images.pictures == len(lines) == 80 - len(bad)
    assert sum(sum(kinds.values()) for kinds in images.counts.values()) == len(lines)
