"""ingest: raw pictures -> image shards. Lists, reads and decodes each picture once, resizes it, and writes Parquet.

    <workspace>/images/<dataset>-<hash>/part-<hash>.parquet ... manifest.json

The folder's hash covers the listing, the source and the transforms: a changed picture or size gives another folder. An
interrupted ingest continues. A part has pictures of one class and modality, and its name is the hash of its inputs, so
parts of earlier ingests of the data set are copied: only changed classes are read, and each folder is complete. The
manifest's fingerprint covers the content alone: equal pictures have equal fingerprints in any place and with any number
of workers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress, groupby, islice
from typing import Any

from pipelines.config.experiment import ExperimentConfig, to_dict
from pipelines.datasets.base import ImageRecord, source_hash
from pipelines.datasets.registry import create_dataset
from pipelines.ingest.prepare import packed, write_images
from pipelines.runtime import logs, prometheus
from pipelines.runtime.progress import say
from pipelines.runtime.ray_tasks import run_parts
from pipelines.store import storage
from pipelines.workspace.images import Images
from pipelines.workspace.kept import MANIFEST, complete
from pipelines.workspace.parts import batched_parts, open_part, part_extra, read_parts
from zse_model.errors import ZseError
from zse_model.transforms import BadPicture


class TooManyBadPicturesError(ZseError):
    """More pictures were skipped than the configuration allows."""


@dataclass(frozen=True)
class Planned:
    """The folder and parts that an ingest of a listing will write."""

    folder: str
    key: str
    parts: dict[str, list[ImageRecord]]
    """Name of a part -> its pictures."""

    @property
    def records(self) -> list[ImageRecord]:
        return [record for records in self.parts.values() for record in records]


@logs.stage("ingest")
def ingest(config: ExperimentConfig, workspace: str, planned: Planned | None = None) -> Images:
    """Run the stage, or return its finished output. planned: from `plan_ingest`, to list the data once.

    Raises TooManyBadPicturesError, BadPicture with `on_bad: raise`, and the errors of listing and reading.
    """
    planned = planned or plan_ingest(config, workspace)
    folder, parts = planned.folder, planned.parts
    logs.about(run=_name(folder))
    if (done := Images.find(folder, planned.key)) is not None:
        _refuse_bad(config, done.skipped, done.manifest["listed"])  # other settings may have let it finish
        return done
    write_parts(config, folder, parts)
    about = _about(folder, parts, config)
    skipped, listed = about["skipped"], about["listed"]
    _refuse_bad(config, skipped, listed)
    images = Images.write(folder, planned.key, **about)
    if skipped:
        reasons = Counter(s["reason"] for s in skipped).most_common(3)
        say(f"Skipped {len(skipped)} of {listed} pictures: {reasons}. {folder}/{MANIFEST} names all of them")
    return images


def listing(config: ExperimentConfig) -> list[ImageRecord]:
    """The pictures of the data set, by id. Reads no picture."""
    say(f"Listing {getattr(config.dataset, 'source', config.dataset.name)} ...")
    return create_dataset(config.dataset).records()


def plan_ingest(config: ExperimentConfig, workspace: str, listed: Sequence[ImageRecord] | None = None) -> Planned:
    """Plan the parts of the pictures. Reads no picture. listed: their `listing`, if it is known.

    Names of earlier code do not cover the source. A finished ingest of that name is not made again if its manifest
    names the sources of all pictures.
    """
    pictures = listing(config) if listed is None else listed
    planned = _planned(config, workspace, pictures, of_source=True)
    sources = {record.source for record in pictures} - {""}
    if not sources or complete(planned.folder):
        return planned
    earlier = _planned(config, workspace, pictures, of_source=False)
    found = Images.find(earlier.folder, earlier.key)
    named = found.manifest["source"] if found is not None else None  # a list where there are several
    known = {source_hash(url) for url in ([named] if isinstance(named, str) else named or ())}
    return earlier if sources <= known else planned


def _planned(config: ExperimentConfig, workspace: str, pictures: Sequence[ImageRecord], *, of_source: bool) -> Planned:
    """of_source: whether names cover the sources of pictures that have one. All other names are those of earlier
    code."""
    made_by = [Images.VERSION, Images.SCHEMA.names, to_dict(config.transforms), config.ingest.row_group]
    parts: dict[str, list[ImageRecord]] = {}
    for _, alike in groupby(pictures, key=lambda record: (record.modality, record.category)):
        while records := list(islice(alike, config.ingest.part_size)):
            values = (record.values() if of_source and record.source else record.values()[:-1] for record in records)
            lines = storage.digest_lines(map(json.dumps, values))
            parts[Images.part_name(storage.digest([lines, *made_by], 16))] = records
    key = storage.digest(list(parts))
    return Planned(Images.place(workspace, config.dataset.name, key), key, parts)


def write_parts(config: ExperimentConfig, folder: str, parts: dict[str, list[ImageRecord]]) -> None:
    """Write the missing parts: copy those of other ingests of the data set, read and prepare the rest.

    Parts that exist are kept, also those with skipped pictures: a few bad files in each class would make an interrupted
    ingest begin anew.
    """
    there = storage.names(folder) & parts.keys()
    if there:
        say(f"{len(there)} of {len(parts)} parts already exist")
    there |= _copy_parts(folder, parts.keys() - there)
    left = {name: records for name, records in parts.items() if name not in there}
    names = list(left)
    tasks = [
        {
            "parts": packed(
                {name: [record.values() for record in left[name]] for name in names[batch.start : batch.stop]}
            )
        }
        for batch in batched_parts([len(records) for records in left.values()], config.ingest.part_size)
    ]
    work = partial(
        write_images, folder=folder, dataset=config.dataset, transforms=config.transforms, ingest=config.ingest
    )
    for result in run_parts(tasks, work, what="Ingest", unit="pictures", total=sum(map(len, left.values()))):
        skipped = json.loads(result["skipped"])
        prometheus.count("zse_bad_files", len(skipped), stage="ingest", run=_name(folder))
        _raise_if_asked(config, skipped)


def _name(folder: str) -> str:
    return folder.rsplit("/", 1)[1]


def _copy_parts(folder: str, wanted: set[str]) -> set[str]:
    """Copy the wanted parts that other ingests of the data set have written; returns their names.

    A part with skipped pictures is not copied: it is made again, in case the pictures can be read now.
    """
    images, _, own = folder.rpartition("/")
    copied: set[str] = set()
    for other in storage.folders(images) if wanted and storage.exists(images) else []:
        if other == own or other.rpartition("-")[0] != own.rpartition("-")[0]:
            continue

        source = storage.join(images, other)
        there = sorted((wanted - copied) & storage.names(source))
        done = list(storage.side_by_side(partial(_copy_part, source, folder), there))
        if any(done):
            say(f"Copied {sum(done)} parts from {other}")
        copied |= set(compress(there, done))
    return copied


def _copy_part(source: str, folder: str, name: str) -> bool:
    url = storage.join(source, name)
    if part_extra(open_part(url).schema_arrow)["skipped"]:
        return False
    storage.copy_file(url, storage.join(folder, name))
    return True


def _refuse_bad(config: ExperimentConfig, skipped: Sequence[Mapping[str, str]], listed: int) -> None:
    """Raise BadPicture or TooManyBadPicturesError for skipped pictures that the configuration does not allow."""
    _raise_if_asked(config, skipped)
    if len(skipped) > config.ingest.max_bad_fraction * listed:
        first = "\n".join(f"  {s['uri']}: {s['reason']}" for s in skipped[:10])
        raise TooManyBadPicturesError(
            f"{len(skipped)} of {listed} pictures cannot be used, but ingest.max_bad_fraction allows "
            f"{config.ingest.max_bad_fraction:.1%}. The first:\n{first}\nRepair or remove them, or raise the limit: "
            f"--set ingest.max_bad_fraction={len(skipped) / listed + 0.005:.2f}. Finished work is kept"
        )


def _raise_if_asked(config: ExperimentConfig, skipped: Sequence[Mapping[str, str]]) -> None:
    if skipped and config.ingest.on_bad == "raise":
        raise BadPicture(f"{skipped[0]['uri']}: {skipped[0]['reason']} (ingest.on_bad is raise)")


def _about(folder: str, parts: dict[str, list[ImageRecord]], config: ExperimentConfig) -> dict[str, Any]:
    """The manifest's content, computed from the parts alone, so that it does not depend on the run that wrote them."""
    rows: dict[str, int] = {}
    skipped: dict[str, list[dict[str, str]]] = {}
    counts: dict[str, Counter[str]] = {}

    def class_of(part: str) -> tuple[str, str]:
        return parts[part][0].modality, parts[part][0].category

    def content() -> Iterator[str]:
        """A line for each picture, sorted. The classes come in the order of their lines, so that the lines of one class
        are in memory, not those of all."""
        ordered = sorted(parts, key=lambda part: json.dumps(class_of(part)))
        tables = zip(ordered, read_parts(folder, ordered, ["instance", "sha256"]), strict=True)
        for (modality, category), own in groupby(tables, key=lambda pair: class_of(pair[0])):
            lines: list[str] = []
            for part, table in own:
                rows[part], skipped[part] = table.num_rows, part_extra(table.schema)["skipped"]
                columns = (table[name].to_pylist() for name in ("instance", "sha256"))
                lines += (json.dumps([modality, category, *values]) for values in zip(*columns, strict=True))
            if lines:
                counts.setdefault(category, Counter())[modality] += len(lines)
            yield from sorted(lines)

    fingerprint = storage.digest_lines(content())
    return {
        "dataset": config.dataset.name,
        "source": getattr(config.dataset, "source", None),
        "transforms": to_dict(config.transforms),
        "listed": sum(map(len, parts.values())),
        "pictures": sum(rows.values()),
        "counts": {c: dict(sorted(n.items())) for c, n in sorted(counts.items())},
        "fingerprint": fingerprint,
        "skipped": [bad for part in parts for bad in skipped[part]],
        "shards": [{"name": part, "rows": rows[part]} for part in parts],
        "row_group": config.ingest.row_group,
    }
