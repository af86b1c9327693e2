"""Measure diffusion: its time, and what its constants give with few and with many photos a class.

    python -m benchmarks diffusion --checkpoint workspace/checkpoints/...

The time is of random vectors. With a checkpoint, sketches of its split's pseudo-unseen classes search the photos of
these classes, 1, 3, 10 and 25 of each.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.photographed import files
from benchmarks.results.tables import head, line
from benchmarks.world import originals
from zse_model import Task, diffusion, encode, evaluate_scores, load_checkpoint

DEPTHS = (100, 500, 1000, diffusion.MOST)
DIM = 1280  # of EfficientNet-Lite2's embeddings
RUNS = 9
A_CLASS = (1, 3, 10, 25)
CHANGES: dict[str, tuple[float, ...]] = {
    "NEIGHBOURS": (3, 10),
    "WALK": (0.6, 0.9),
    "SHARPNESS": (1.0, 4.0),
    "STEPS": (3, 40),
}


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks diffusion", description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--checkpoint", help="folder of a checkpoint with pseudo-unseen classes of the data")
    parser.add_argument("--mode", help="the mode that is diffused; its first by default")
    options = parser.parse_args(arguments)
    print(line("photos ranked again", "ms a query"))
    for depth in DEPTHS:
        print(line(f"{depth:,}", f"{1e3 * seconds(depth):.1f}"), flush=True)
    if options.checkpoint is None:
        return
    print(*head("", *(f"{n} a class" for n in A_CLASS)), sep="\n")
    galleries = list(searched(Path(options.checkpoint), options.mode))
    print(line("not diffused", *(f"{value(scores, task):.3f}" for scores, _, task in galleries)))
    shown("as shipped", galleries)
    for name, values in CHANGES.items():
        for other in values:
            with patch.object(diffusion, name, other):
                shown(f"{name} = {other}", galleries)


def shown(name: str, galleries: Sequence[tuple[Tensor, Tensor, Task]]) -> None:
    found = (value(diffusion.diffused(own, rows.__getitem__, len(rows)), task) for own, rows, task in galleries)
    print(line(name, *(f"{one:.3f}" for one in found)), flush=True)


def seconds(depth: int) -> float:
    """Median time of a query."""
    vectors, scores = torch.nn.functional.normalize(torch.randn(depth, DIM), dim=1), torch.randn(1, depth)
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        diffusion.diffused(scores, vectors.__getitem__, depth)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def searched(folder: Path, mode: str | None) -> Iterator[tuple[Tensor, Tensor, Task]]:
    """Scores float32 [q, g], embeddings [g, d] and the task of each gallery of A_CLASS photos a class."""
    checkpoint = load_checkpoint(folder)
    classes = checkpoint.split.pseudo_unseen
    with tempfile.TemporaryDirectory() as scratch:
        data = originals(Path(scratch))
        (sketches, labels), (photos, others) = (files(data / kind, classes, None) for kind in ("sketch", "photo"))
        queries, gallery = encode(checkpoint, sketches, "sketch"), encode(checkpoint, photos, "photo")
    scores = checkpoint.method.score(queries, gallery, mode or checkpoint.method.modes[0])
    mixed = torch.randperm(len(others), generator=torch.Generator().manual_seed(0))
    for most in A_CLASS:
        kept = torch.cat([mixed[others[mixed] == label][:most] for label in others.unique()])
        task = Task(
            setting="diffusion",
            query_labels=labels,
            gallery_labels=others[kept],
            query_groups=labels,
            metrics=("mAP_all",),
            protocols=("plain",),
        )
        yield scores[:, kept], gallery["embedding"][kept].float(), task


def value(scores: Tensor, task: Task) -> float:
    return float(evaluate_scores([scores], task).values("plain", "mAP_all").nanmean())
