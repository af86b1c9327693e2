"""Score pairs of sketches and photos with a pair network on the cluster: all pairs, or those of shortlists.

`matrices` calls this step. A block has the scores of a band of sketches with a range of photos, in stored order. It is
one task and one file, so an interrupted scoring continues with the missing blocks. Neither the tokens of the whole
gallery nor the whole score matrix is in memory at once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipelines.config.experiment import ExperimentConfig
from pipelines.encode.device import assigned_device
from pipelines.evaluate.node_copies import reads_of
from pipelines.runtime import logs, prometheus
from pipelines.runtime.background import one_ahead
from pipelines.runtime.progress import say
from pipelines.runtime.ray_tasks import model_workers, run_parts
from pipelines.store import storage
from pipelines.workspace.encodings import Encodings
from pipelines.workspace.parts import batched_parts
from pipelines.workspace.scores import Scores, write_block
from zse_model.checkpoint import load_checkpoint
from zse_model.memory import keep_freed_memory
from zse_model.methods import Encoding
from zse_model.scoring import score_all
from zse_model.transforms import Modality

PHOTOS = 256  # scored at once: about as many as a scorer prepares
SKETCHES = 1024  # of a block
# More blocks are more requests, fewer are more work to repeat after a kill and less for many workers to divide.
BLOCKS = 512
ALONE = 100_000  # pairs that one process scores before further processes have loaded their networks


class Piece(NamedTuple):
    """Consecutive pictures of one modality in a part of the encodings."""

    part: str
    start: int
    """Of the part's pictures of the modality."""
    at: int
    """Position of the first picture in stored order."""
    rows: int


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
    tasks = _planned(encodings, among)
    there = storage.names(folder)
    left = [task for task in tasks if task["block"] not in there]
    if len(left) < len(tasks):
        say(f"{len(tasks) - len(left)} of {len(tasks)} blocks are already written")
    total = sum(task["rows"] for task in left)
    gpus = 1 if config.cluster.gpus_per_worker else 0
    for block in run_parts(
        left,
        ScoreBlock,
        what=f"Score {mode}",
        unit="pairs",
        total=total,
        workers=None if total <= ALONE else model_workers(len(left), gpus),
        constructor={"encodings": encodings, "mode": mode, "precision": precision, "folder": folder},
        gpus=gpus,
        alone=total <= ALONE,
    ):
        prometheus.count("zse_pairs_scored", block["pairs"], stage="score", run=name)
    return Scores.write(
        folder,
        key,
        encodings=encodings.url,
        mode=mode,
        sketches=sum(encodings.parts("sketch").values()),
        shards=[
            {"name": task["block"], "band": task["band"]}
            for task in sorted(tasks, key=lambda task: task["band"])  # a stable sort: photos stay in stored order
        ],
    )


def _planned(encodings: Encodings, among: Tensor | None) -> list[dict[str, Any]]:
    """A task for each block. All sketches with a range of photos come before the next range, forwards and backwards in
    turn: a node that keeps only some parts reads few of them again.

    The plan depends on the encodings alone, not on the workers. `wanted` holds the pairs to score of a shortlist as
    bits, [sketches, photos] packed by row.
    """
    bands = _grouped(_pieces(encodings.parts("sketch"), SKETCHES), SKETCHES)
    photos = _pieces(encodings.parts("photo"), PHOTOS)
    ranges = _grouped(photos, PHOTOS * math.ceil(len(photos) / max(1, BLOCKS // len(bands))))
    tasks: list[dict[str, Any]] = []
    for i, gallery in enumerate(ranges):
        columns = _positions(gallery)
        for band, queries in list(enumerate(bands))[:: 1 if i % 2 == 0 else -1]:
            rows = _positions(queries)
            task = {"block": Scores.block_name(rows, columns), "band": band, "rows": len(rows) * len(columns)}
            # As text: lists of unequal length are no Arrow column, and Ray warns of it for every task.
            task |= {"sketches": json.dumps(queries), "photos": json.dumps(gallery)}
            if among is not None:
                task["wanted"] = _bits(among[rows.start : rows.stop], columns)
            tasks.append(task)
    return tasks


def _pieces(parts: Mapping[str, int], most: int) -> list[Piece]:
    """All pictures of a modality in pieces of at most `most`. A piece starts at a multiple of `most` in its part: the
    scorer groups the same pictures in blocks of any size, and scores are equal to the bit."""
    ends = accumulate(parts.values())
    return [
        Piece(part, start, end - count + start, min(most, count - start))
        for (part, count), end in zip(parts.items(), ends, strict=True)
        for start in range(0, count, most)
    ]


def _grouped(pieces: Sequence[Piece], most: int) -> list[list[Piece]]:
    return [list(pieces[i.start : i.stop]) for i in batched_parts([piece.rows for piece in pieces], most)]


def _positions(pieces: Sequence[Piece]) -> range:
    """The positions of consecutive pieces in stored order."""
    return range(pieces[0].at, pieces[-1].at + pieces[-1].rows)


def _bits(among: Tensor, columns: range) -> bytes:
    inside = ((among >= columns.start) & (among < columns.stop)).nonzero(as_tuple=True)
    wanted = np.zeros((len(among), len(columns)), dtype=bool)
    wanted[inside[0].numpy(), (among[inside] - columns.start).numpy()] = True
    return np.packbits(wanted, axis=1).tobytes()


class ScoreBlock:
    """An actor with the network. A call scores the sketches with the photos of one block."""

    def __init__(self, encodings: Encodings, mode: str, precision: Any, folder: str) -> None:
        keep_freed_memory()
        self.device = assigned_device()
        with storage.local_copy(encodings.checkpoint) as copy:
            method = load_checkpoint(copy, self.device).method
        self.scorer = method.scorer(method.ranked_by(mode), precision)
        self.read, self.folder = reads_of(encodings), folder

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        sketches, photos = ([Piece(*piece) for piece in json.loads(task[side])] for side in ("sketches", "photos"))
        rows, columns = _positions(sketches), _positions(photos)
        scores = torch.empty(len(rows), len(columns))
        wanted, pairs = None, scores.numel()
        if "wanted" in task:
            packed = np.frombuffer(task["wanted"], dtype=np.uint8).reshape(len(rows), -1)
            wanted = torch.from_numpy(np.unpackbits(packed, axis=1, count=len(columns)).astype(bool))
            pairs = int(wanted.sum())
        queries = list(self._encodings("sketch", sketches))
        for photo, gallery in self._encodings("photo", photos):
            for sketch, block in queries:
                at = _within(sketch, rows), _within(photo, columns)
                scores[at] = score_all(self.scorer, block, gallery, None if wanted is None else wanted[at])
        write_block(storage.join(self.folder, task["block"]), scores)
        return {"block": task["block"], "rows": task["rows"], "pairs": pairs}

    def _encodings(self, side: Modality, pieces: Sequence[Piece]) -> Iterator[tuple[Piece, Encoding]]:
        """The encodings of each piece. A part is read while the part before it is scored."""
        by_part = {part: list(group) for part, group in groupby(pieces, key=lambda piece: piece.part)}
        names = self.scorer.reads(side)
        for part, values in one_ahead(lambda part: self.read(part, side, names), by_part):
            for piece in by_part[part]:
                yield piece, {name: x[piece.start : piece.start + piece.rows] for name, x in values.items()}


def _within(piece: Piece, positions: range) -> slice:
    start = piece.at - positions.start
    return slice(start, start + piece.rows)
