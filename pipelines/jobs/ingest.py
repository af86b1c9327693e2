"""ingest: raw pictures -> image shards. Lists, reads, decodes once, brings to the experiment's size, writes Parquet.

    <workspace>/images/<dataset>-<hash>/part-00000-of-00007.parquet ... manifest.json

The hash is of the listing and of the transforms: a changed picture, or another size, is another folder; an interrupted
ingest goes on where it was. The manifest's fingerprint is of the content alone, so the same pictures have the same one
wherever they lie and however many workers read them.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from typing import Any

from pipelines import shards, storage
from pipelines.catalog import ImageRecord, create_dataset
from pipelines.cluster import run_parts
from pipelines.config import ExperimentConfig, to_dict
from pipelines.prepare import write_images
from pipelines.progress import say
from zse_model.transforms import BadPicture


class TooManyBadPicturesError(RuntimeError):
    """More pictures were skipped than the configuration allows."""


def ingest(config: ExperimentConfig, workspace: str) -> str:
    """Run the stage, or find it done; gives the folder of the image shards."""
    folder, parts = plan_ingest(config, workspace)
    if shards.has_manifest(folder):
        return folder
    write_parts(config, folder, parts)
    listed = sum(map(len, parts.values()))
    manifest = _manifest(folder, list(parts), config, listed)
    skipped = manifest["skipped"]
    _raise_if_asked(config, skipped)
    if len(skipped) > config.ingest.max_bad_fraction * listed:
        first = "\n".join(f"  {s['uri']}: {s['reason']}" for s in skipped[:10])
        raise TooManyBadPicturesError(
            f"{len(skipped)} of {listed} pictures cannot be used, ingest.max_bad_fraction allows "
            f"{config.ingest.max_bad_fraction:.1%}. The first:\n{first}\nMend them, or raise the limit with "
            f"--set ingest.max_bad_fraction={len(skipped) / listed + 0.005:.2f}; what was read is kept"
        )
    shards.write_manifest(folder, manifest)
    if skipped:
        reasons = Counter(s["reason"] for s in skipped).most_common(3)
        say(f"Skipped {len(skipped)} of {listed} pictures: {reasons}; all are named in {folder}/manifest.json")
    return folder


def plan_ingest(config: ExperimentConfig, workspace: str) -> tuple[str, dict[str, list[ImageRecord]]]:
    """List the pictures: the folder that their shards belong in, and which pictures each part holds."""
    dataset = create_dataset(config.dataset)
    say(f"Listing {getattr(config.dataset, 'source', config.dataset.name)} ...")
    records = dataset.records()
    key = storage.digest(
        {
            "schema": shards.SCHEMA_VERSION,
            "records": storage.digest_lines(json.dumps(list(vars(record).values())) for record in records),
            "transforms": to_dict(config.transforms),
            "parts": [config.ingest.part_size, config.ingest.row_group],
        },
        8,
    )
    folder = storage.join(workspace, "images", f"{config.dataset.name}-{key}")
    size = config.ingest.part_size
    chunks = [records[i : i + size] for i in range(0, len(records), size)]
    return folder, {shards.part_name(i, len(chunks)): chunk for i, chunk in enumerate(chunks)}


def write_parts(config: ExperimentConfig, folder: str, parts: dict[str, list[ImageRecord]]) -> None:
    """Read, prepare and write the parts that are not there yet."""
    there = storage.names(folder)
    left = {name: records for name, records in parts.items() if name not in there}
    if len(left) < len(parts):
        say(f"{len(parts) - len(left)} of {len(parts)} parts are there already")
    tasks = [{"part": name, "records": json.dumps([vars(r) for r in records])} for name, records in left.items()]
    work = partial(
        write_images, folder=folder, dataset=config.dataset, transforms=config.transforms, ingest=config.ingest
    )
    for result in run_parts(tasks, work, what="Ingest", unit="pictures", total=sum(map(len, left.values()))):
        _raise_if_asked(config, json.loads(result["skipped"]))


def _raise_if_asked(config: ExperimentConfig, skipped: list[dict[str, str]]) -> None:
    if skipped and config.ingest.on_bad == "raise":
        raise BadPicture(f"{skipped[0]['uri']}: {skipped[0]['reason']} (ingest.on_bad is raise)")


def _manifest(folder: str, parts: list[str], config: ExperimentConfig, listed: int) -> dict[str, Any]:
    """Made from the parts alone, so it does not matter who wrote them and when."""
    written, skipped, content = [], [], []
    counts: dict[str, Counter[str]] = {}
    for name in parts:
        file = shards.open_part(storage.join(folder, name))
        skipped.extend(shards.part_extra(file)["skipped"])
        written.append({"name": name, "rows": file.metadata.num_rows})
        for row in file.read(columns=["modality", "category", "instance", "sha256"]).to_pylist():
            counts.setdefault(row["category"], Counter())[row["modality"]] += 1
            content.append(json.dumps([row["modality"], row["category"], row["instance"], row["sha256"]]))
    return {
        "dataset": config.dataset.name,
        "source": getattr(config.dataset, "source", None),
        "transforms": to_dict(config.transforms),
        "listed": listed,
        "pictures": sum(shard["rows"] for shard in written),
        "counts": {c: dict(sorted(n.items())) for c, n in sorted(counts.items())},
        "fingerprint": storage.digest_lines(sorted(content)),
        "skipped": skipped,
        "shards": written,
        "row_group": config.ingest.row_group,
    }
