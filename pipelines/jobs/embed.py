"""embed: checkpoint + image shards -> encodings of the sketches and photos of the unseen classes, as Parquet.

    <workspace>/encodings/<checkpoint>-<hash>/part-00000-of-00007.parquet ... manifest.json

Each picture is encoded once; evaluation, search and explanation read these. The folder's name is the hash of the
checkpoint and of the pictures, so encodings are never mixed and never made twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from pipelines import shards, storage
from pipelines.cluster import model_workers, run_parts
from pipelines.config import ExperimentConfig
from pipelines.loaders import encode_pictures
from pipelines.members import Members, read_members
from zse_model.checkpoint import Checkpoint, load_checkpoint
from zse_model.evaluation.leaks import refuse_leaks
from zse_model.methods import Encoding
from zse_model.split import ZeroShotSplit

ALONE = 1000  # pictures that one process has encoded before another one has loaded its network
COLUMNS = ("id", "modality", "category", "instance", "sha256")


@dataclass(frozen=True)
class Encodings:
    """Encoded pictures of one modality, in the order of their content hash."""

    members: Members
    """`part` and `row` are those of the image shards."""
    values: Encoding


def embed(config: ExperimentConfig, workspace: str, images: str, checkpoint: str, split: ZeroShotSplit) -> str:
    """Encode the unseen classes of `split`, or find it done; gives the folder of the encodings.

    Raises LeakError where the checkpoint has seen what it would be tested on.
    """
    source = shards.read_manifest(images, "zse ingest")
    trained = shards.read_manifest(checkpoint, "zse train")
    with storage.local_copy(checkpoint) as copy:
        loaded = load_checkpoint(copy)
    check_transforms(loaded, source, images)
    members = read_members(images, source).of(categories=split.unseen)
    refuse_leaks(loaded, split, members.sha256)
    key = storage.digest([trained["digest"], source["fingerprint"], images, sorted(split.unseen)], 8)
    folder = storage.join(workspace, "encodings", f"{trained['name']}-{key}")
    if shards.has_manifest(folder):
        return folder
    parts = [int(part) for part in np.unique(members.part)]
    written = [
        {"name": shards.part_name(i, len(parts)), "rows": int((members.part == part).sum())}
        for i, part in enumerate(parts)
    ]
    there = storage.names(folder)
    tasks = [
        {"part": out["name"], "images": source["shards"][part]["name"], "keep": members.row[members.part == part]}
        for part, out in zip(parts, written, strict=True)
        if out["name"] not in there
    ]
    constructor = {
        "checkpoint": checkpoint,
        "images": images,
        "folder": folder,
        "batch_size": config.evaluation.batch_size,
    }
    total = sum(len(task["keep"]) for task in tasks)
    gpus = 1 if config.cluster.gpus_per_worker else 0
    workers = model_workers(len(tasks)) if total > ALONE else 0
    for _ in run_parts(
        tasks,
        EncodePart,
        what=f"Embed {trained['method']}",
        unit="pictures",
        total=total,
        workers=workers,
        constructor=constructor,
        gpus=gpus,
        alone=total <= ALONE,
    ):
        pass
    shards.write_manifest(
        folder,
        {
            "checkpoint": checkpoint,
            "checkpoint_hash": trained["digest"],
            "images": images,
            "fingerprint": source["fingerprint"],
            "pictures": len(members),
            "shards": written,
        },
    )
    return folder


def check_transforms(checkpoint: Checkpoint, source: dict[str, Any], images: str) -> None:
    """The pictures must have been brought to what the network was trained on."""
    trained, stored = vars(checkpoint.transforms), source["transforms"]
    if trained != stored:
        raise ValueError(
            f"The checkpoint was trained on pictures prepared with {trained}, {images} holds pictures prepared with "
            f"{stored}. Run `zse ingest` with --set transforms.size={trained['size']}"
        )


class EncodePart:
    """An actor that holds the network and encodes what is kept of one image shard a call."""

    def __init__(self, checkpoint: str, images: str, folder: str, batch_size: int) -> None:
        self.images, self.folder, self.batch_size = images, folder, batch_size
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with storage.local_copy(checkpoint) as copy:
            self.method = load_checkpoint(copy, self.device).method

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        url = storage.join(self.images, task["images"])
        table = shards.open_part(url).read(columns=[*COLUMNS, "data"]).take(pa.array(task["keep"]))
        columns = [table.select(COLUMNS)]
        modalities = np.asarray(table["modality"].to_pylist())
        encoded: dict[str, np.ndarray] = {}
        for modality in ("sketch", "photo"):
            rows = np.flatnonzero(modalities == modality)
            pictures = table["data"].take(pa.array(rows)).to_pylist()
            if not pictures:
                continue
            values = encode_pictures(
                lambda x, m=modality: self.method.encode(x.to(self.device), m), pictures, self.batch_size
            )
            for name, value in values.items():
                array = encoded.setdefault(name, np.zeros((table.num_rows, *value.shape[1:]), dtype=np.float32))
                array[rows] = value.float().numpy()
        out = columns[0].append_column("row", pa.array(np.asarray(task["keep"], dtype=np.int64)))
        for name, array in encoded.items():
            flat = pa.array(array.reshape(-1))
            out = out.append_column(name, pa.FixedSizeListArray.from_arrays(flat, int(np.prod(array.shape[1:]))))
        shapes = {name: list(array.shape[1:]) for name, array in encoded.items()}
        extra = {"shapes": shapes, "images": task["images"]}
        shards.write_part(storage.join(self.folder, task["part"]), out, row_group=256, extra=extra)
        return {"part": task["part"], "rows": table.num_rows}


def read_encodings(folder: str, modality: str, images: dict[str, Any]) -> Encodings:
    """All encodings of one modality. `images` is the manifest of the image shards they were made of."""
    manifest = shards.read_manifest(folder, "zse embed")
    index = {shard["name"]: i for i, shard in enumerate(images["shards"])}
    tables, shapes, part = [], {}, []
    for shard in manifest["shards"]:
        file = shards.open_part(storage.join(folder, shard["name"]))
        extra = shards.part_extra(file)
        table = file.read()
        table = table.filter(pc.field("modality") == modality)
        shapes |= extra["shapes"]
        tables.append(table)
        part.append(np.full(table.num_rows, index[extra["images"]]))
    table = pa.concat_tables(tables)
    columns = [np.asarray(table[c].to_pylist(), dtype=object) for c in COLUMNS]
    members = Members(
        id=columns[0],
        modality=columns[1],
        category=columns[2],
        instance=columns[3],
        sha256=columns[4],
        part=np.concatenate(part),
        row=table["row"].to_numpy(),
    )
    order = np.lexsort((members.id, members.sha256))  # evaluation rule 3: galleries stand in content order
    values = {}
    for name, shape in shapes.items():
        flat = table[name].combine_chunks().flatten().to_numpy().reshape(len(order), *shape)
        values[name] = torch.from_numpy(flat[order])
    return Encodings(members.where(order), values)
