"""The manifest of image shards is a function of their parts."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pyarrow as pa

from pipelines.config.experiment import ExperimentConfig
from pipelines.config.load import validate
from pipelines.datasets.base import source_hash
from pipelines.ingest.stage import _planned, ingest, listing, plan_ingest
from pipelines.workspace.images import Images
from pipelines.workspace.parts import write_part
from tests.conftest import TINY, tiny_folder


def folder_of_names(root: Path) -> ExperimentConfig:
    """A data set of pictures whose names, sizes and times are those of every such folder."""
    for modality in ("sketch", "photo"):
        for i in range(3):
            file = root / modality / "a" / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"")
            os.utime(file, (0, 0))
    return tiny_folder(str(root), ["a"])


def test_pictures_of_another_source_are_other_parts(tmp_path: Path) -> None:
    """The listing is the same. Parts of one name would be copied."""
    plans = [plan_ingest(folder_of_names(tmp_path / name), str(tmp_path / "w")) for name in ("one", "two")]
    assert plans[0].key != plans[1].key and not plans[0].parts.keys() & plans[1].parts.keys()
    assert [record.id for record in plans[0].records] == [record.id for record in plans[1].records]
    strokes = []
    for name in ("one", "two"):
        file = tmp_path / name / "a.ndjson"
        file.write_text('{"key_id": "1", "drawing": []}\n')
        os.utime(file, (0, 0))
        dataset = {"adapter": "quickdraw_strokes", "name": "x", "split": ["a"], "source": str(tmp_path / name)}
        strokes.append(plan_ingest(validate(TINY | {"dataset": dataset}), str(tmp_path / "w")))
    assert strokes[0].key != strokes[1].key
    assert source_hash("s3://bucket/one") == "", "an ETag is a hash of the content"


def test_a_finished_ingest_of_earlier_code_is_kept_for_its_own_source(tmp_path: Path) -> None:
    """Its name does not cover the source."""
    first, second, workspace = folder_of_names(tmp_path / "one"), folder_of_names(tmp_path / "two"), str(tmp_path / "w")
    records = listing(first)
    earlier = _planned(first, workspace, records, of_source=False)
    assert plan_ingest(first, workspace, records).key != earlier.key
    for source in (str(tmp_path / "one"), [str(tmp_path / "one")]):
        Images.write(earlier.folder, earlier.key, source=source)
        assert plan_ingest(first, workspace, records) == earlier
        assert plan_ingest(second, workspace).key != earlier.key
    Images.write(earlier.folder, earlier.key, source=None)
    assert plan_ingest(first, workspace, records).key != earlier.key, "a union names no source"


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
