"""Score pairs of sketches and photos with a pair network on the cluster: all pairs, or those of shortlists.

`matrices` calls this step. A part has the scores of up to PHOTOS photos with all sketches, in stored order, and is one
task, so an interrupted scoring continues with the missing parts. Neither the tokens of the whole gallery nor the whole
score matrix is in memory at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipelines.config.experiment import ExperimentConfig
from pipelines.encode.device import assigned_device
from pipelines.runtime import logs, prometheus
from pipelines.runtime.progress import say
from pipelines.runtime.ray_tasks import model_workers, run_parts
from pipelines.store import storage
from pipelines.workspace.encodings import Encodings
from pipelines.workspace.parts import part_name, write_part
from pipelines.workspace.scores import Scores
from zse_model.checkpoint import load_checkpoint
from zse_model.memory import keep_freed_memory
from zse_model.scoring import score_all

PHOTOS = 256  # of a part: about as many as a scorer prepares at once
SKETCHES = 1024  # of a row group of a part
ALONE = 100_000  # pairs that one process scores before further processes have loaded their networks


@logs.stage("score")
def score(
    config: ExperimentConfig, workspace: str, encodings: Encodings, mode: str, among: Tensor | None = None
) -> Scores:
    """The scores of a mode; computed unless they are complete.

    among: int64 [sketches, k], the photos to score for each sketch, in stored order; all other scores are -inf. None =
    every photo.
    """
    precision = config.evaluation.precision
    name = f"{encodings.name}-{mode}" + ("" if precision == "fp32" else f"-{precision}")
    key = "" if among is None else storage.sha256(among.numpy().tobytes())
    folder = storage.join(workspace, Scores.KIND, name) if among is None else Scores.place(workspace, name, key)
    name = folder.rsplit("/", 1)[1]
    logs.about(run=name)
    if (done := Scores.find(folder, key)) is not None:
        return done
    total = sum(encodings.parts("sketch").values())
    tasks = _planned(encodings, among)
    there = storage.names(folder)
    left = [task for task in tasks if task["part"] not in there]
    if len(left) < len(tasks):
        say(f"{len(tasks) - len(left)} of {len(tasks)} parts are already written")
    alone = total * sum(task["rows"] for task in left) <= ALONE
    gpus = 1 if config.cluster.gpus_per_worker else 0
    for part in run_parts(
        left,
        ScorePart,
        what=f"Score {mode}",
        unit="photos",
        total=sum(task["rows"] for task in left),
        workers=None if alone else model_workers(len(left), gpus),
        constructor={"encodings": encodings, "mode": mode, "precision": precision, "folder": folder},
        gpus=gpus,
        alone=alone,
    ):
        prometheus.count("zse_pairs_scored", part["pairs"], stage="score", run=name)
    written = [{"name": task["part"], "rows": total} for task in tasks]
    return Scores.write(folder, key, encodings=encodings.url, mode=mode, sketches=total, shards=written)


def _planned(encodings: Encodings, among: Tensor | None) -> list[dict[str, Any]]:
    """A task for each part of the scores: PHOTOS photos of one part of the encodings.

    `wanted` holds the pairs to score of a shortlist as bits, [q, rows] packed by row.
    """
    tasks: list[dict[str, Any]] = []
    position = 0
    for part, count in encodings.parts("photo").items():
        for start in range(0, count, PHOTOS):
            rows = min(PHOTOS, count - start)
            task = {"photos": part, "start": start, "rows": rows}
            if among is not None:
                inside = ((among >= position) & (among < position + rows)).nonzero(as_tuple=True)
                wanted = np.zeros((len(among), rows), dtype=bool)
                wanted[inside[0].numpy(), (among[inside] - position).numpy()] = True
                task["wanted"] = np.packbits(wanted, axis=1).tobytes()
            tasks.append(task)
            position += rows
    return [{**task, "part": part_name(i, len(tasks))} for i, task in enumerate(tasks)]


class ScorePart:
    """An actor with the network. A call scores all sketches with the photos of one part."""

    def __init__(self, encodings: Encodings, mode: str, precision: Any, folder: str) -> None:
        keep_freed_memory()
        self.device = assigned_device()
        with storage.local_copy(encodings.checkpoint) as copy:
            method = load_checkpoint(copy, self.device).method
        self.scorer = method.scorer(method.ranked_by(mode), precision)
        self.encodings, self.sketches, self.folder = encodings, encodings.parts("sketch"), folder

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        photos = self.encodings.values(task["photos"], "photo", self.scorer.reads("photo"))
        photos = {name: value[task["start"] : task["start"] + task["rows"]] for name, value in photos.items()}
        total = sum(self.sketches.values())
        scores = torch.empty(total, task["rows"])
        wanted, pairs = None, scores.numel()
        if "wanted" in task:
            packed = np.frombuffer(task["wanted"], dtype=np.uint8).reshape(total, -1)
            wanted = torch.from_numpy(np.unpackbits(packed, axis=1, count=task["rows"]).astype(bool))
            pairs = int(wanted.sum())
        done = 0
        for part, count in self.sketches.items():
            rows = slice(done, done + count)
            queries = self.encodings.values(part, "sketch", self.scorer.reads("sketch"))
            scores[rows] = score_all(self.scorer, queries, photos, None if wanted is None else wanted[rows])
            done += count
        flat = pa.array(scores.numpy().reshape(-1))
        table = pa.table({"scores": pa.FixedSizeListArray.from_arrays(flat, task["rows"])})
        write_part(storage.join(self.folder, task["part"]), table, row_group=SKETCHES)
        return {"part": task["part"], "rows": task["rows"], "pairs": pairs}
