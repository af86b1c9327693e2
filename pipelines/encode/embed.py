"""The stage `zse embed`: encode the sketches and photos of a test with a checkpoint, from image shards to Parquet.

    <workspace>/encodings/<checkpoint>-<hash>/part-00000-of-00007.parquet ... manifest.json

Each picture is encoded once. Evaluation, search and explanation read the encodings. The name of the folder has the hash
of the checkpoint and the pictures, so encodings are never mixed and never made twice.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.config.experiment import ExperimentConfig
from pipelines.datasets.splits import stands_verbatim
from pipelines.encode.device import assigned_device
from pipelines.runtime import logs
from pipelines.runtime.ray_tasks import model_workers, run_parts
from pipelines.store import storage
from pipelines.workspace.encodings import COLUMNS, Encodings
from pipelines.workspace.images import Images
from pipelines.workspace.members import Members, leakable, tested_members
from pipelines.workspace.parts import batched_parts, part_name, read_rows, write_part
from pipelines.workspace.tensors import encode_pictures
from pipelines.workspace.training import Training
from zse_model.checkpoint import INFO, SEEN, Checkpoint, Trained, load_checkpoint, read_trained
from zse_model.errors import ZseError
from zse_model.evaluation.leaks import refuse_leaks
from zse_model.split import ZeroShotSplit

ALONE = 1000  # pictures that one process encodes before a second process has loaded its network


@logs.stage("embed")
def embed(
    config: ExperimentConfig, workspace: str, images: Images, training: Training, split: ZeroShotSplit
) -> Encodings:
    """Encode the unseen classes of `split` and the distractors, or return the existing encodings.

    Raises LeakError if the checkpoint has seen a tested class or picture, and ZseError for pictures that were prepared
    in another way than those of the training: also for encodings that exist, because the same weights may come with
    other pictures that they have seen. The weights are read only if something must be encoded.
    """
    asked = config.evaluation
    members = tested_members(images.members(), split, sorted(set(asked.distractors)), seen_classes=asked.seen_classes)
    _check(config, images, training, split, members)
    key = storage.digest([training.digest, images.fingerprint, images.url, storage.digest_lines(members.id)])
    folder = Encodings.place(workspace, training.run_name, key)
    logs.about(run=folder.rsplit("/", 1)[1])
    if (done := Encodings.find(folder, key)) is not None:
        return done
    parts = _planned(images, members, config.ingest.part_size)
    there = storage.names(folder)
    tasks = [
        {"part": name, "images": wanted, "rows": rows["rows"]} for name, rows, wanted in parts if name not in there
    ]
    _encode(config, tasks, images, training, folder)
    return Encodings.write(
        folder,
        key,
        checkpoint=training.url,
        checkpoint_hash=training.digest,
        images=images.url,
        fingerprint=images.fingerprint,
        pictures=len(members),
        shards=[{"name": name, **rows} for name, rows, _ in parts],
    )


def _check(
    config: ExperimentConfig, images: Images, training: Training, split: ZeroShotSplit, members: Members
) -> None:
    """Raise LeakError if the checkpoint was trained on a class of the test, ZseError for pictures of other
    transforms."""
    with storage.local_copy(training.url, (INFO, SEEN)) as copy:
        trained = read_trained(copy)
    check_transforms(trained, images)
    distractors, seen_classes = sorted(set(config.evaluation.distractors)), config.evaluation.seen_classes
    verbatim = stands_verbatim(trained.split, split)
    tested = leakable(members, split, distractors, seen_classes=seen_classes)
    refuse_leaks(
        trained, split, tested.names(), verbatim=verbatim, selection=config.evaluation.classes == "pseudo_unseen"
    )


def _planned(images: Images, members: Members, part_size: int) -> list[tuple[str, dict[str, int], str]]:
    """(name, counts of rows, sketches and photos, rows of the image shards as JSON) of each part.

    A part has pictures of several image shards, because the pair network reads every part many times.
    """
    of_part = [(part, members.where(own)) for part, own in members.by_part()]
    names = list(images.parts)
    batches = batched_parts([len(kept) for _, kept in of_part], part_size)
    planned = []
    for i, batch in enumerate(batches):
        kept = of_part[batch.start : batch.stop]
        modality = np.concatenate([m.modality for _, m in kept])
        counts = {name: int((modality == name).sum()) for name in ("sketch", "photo")}
        # As text: lists of unequal length are no Arrow column, and Ray warns of it for every task.
        wanted = json.dumps([(names[part], m.row.tolist()) for part, m in kept])
        planned.append((part_name(i, len(batches)), {"rows": len(modality), **counts}, wanted))
    return planned


def _encode(
    config: ExperimentConfig, tasks: list[dict[str, Any]], images: Images, training: Training, folder: str
) -> None:
    """Write the parts of `tasks`: in this process if they are few pictures, else by actors on the cluster."""
    total = sum(task["rows"] for task in tasks)
    gpus = 1 if config.cluster.gpus_per_worker else 0
    for _ in run_parts(
        tasks,
        EncodePart,
        what=f"Embed {training.method}",
        unit="pictures",
        total=total,
        workers=model_workers(len(tasks), gpus) if total > ALONE else None,
        constructor={
            "checkpoint": training.url,
            "images": images.url,
            "folder": folder,
            "batch_size": config.evaluation.batch_size,
        },
        gpus=gpus,
        alone=total <= ALONE,
    ):
        pass


def check_transforms(checkpoint: Checkpoint | Trained, images: Images) -> None:
    """Raise ZseError unless the pictures were prepared like those of the training."""
    trained, stored = vars(checkpoint.transforms), images.transforms
    if trained != stored:
        raise ZseError(
            f"The checkpoint was trained on pictures prepared with {trained}, but {images.url} holds pictures prepared "
            f"with {stored}. Give --set transforms.size={trained['size']} --set transforms.recipe={trained['recipe']}"
        )


class EncodePart:
    """An actor that holds the network. Each call encodes the selected pictures of some image shards, one part."""

    def __init__(self, checkpoint: str, images: str, folder: str, batch_size: int) -> None:
        self.images, self.folder, self.batch_size = images, folder, batch_size
        self.device = assigned_device()
        with storage.local_copy(checkpoint) as copy:
            self.method = load_checkpoint(copy, self.device).method

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        wanted = [(name, np.array(rows, dtype=np.int64)) for name, rows in json.loads(task["images"])]
        names, rows_of = zip(*wanted, strict=True)
        table = pa.concat_tables(read_rows(self.images, wanted, [*COLUMNS, "data"])).combine_chunks()
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
                kept = (value.float() if value.is_floating_point() else value).numpy()
                array = encoded.setdefault(name, np.zeros((table.num_rows, *kept.shape[1:]), dtype=kept.dtype))
                array[rows] = kept
        out = table.select(COLUMNS)
        out = out.append_column("images", pa.array(np.repeat(names, [len(rows) for rows in rows_of])))
        out = out.append_column("row", pa.array(np.concatenate(rows_of)))
        for name, array in encoded.items():
            flat = pa.array(array.reshape(-1))
            out = out.append_column(name, pa.FixedSizeListArray.from_arrays(flat, int(np.prod(array.shape[1:]))))
        shapes = {name: list(array.shape[1:]) for name, array in encoded.items()}
        write_part(storage.join(self.folder, task["part"]), out, row_group=256, extra={"shapes": shapes})
        return {"part": task["part"], "rows": table.num_rows}
