"""Measure the overhead of distribution: CPU seconds per 1,000 pictures of ingest, embed and score with 1 and 2 workers.
The baseline runs the same parts one after the other in this process.

CPU time is of all processes, Ray's own included, after a warm-up; it does not predict the speed of more machines.
`score` is of 1,000 photos with SKETCHES sketches by a small pair network.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import ray

from benchmarks.scale import draw, spread, watched
from pipelines.config.experiment import ExperimentConfig
from pipelines.config.load import validate
from pipelines.encode import embed
from pipelines.evaluate import score
from pipelines.ingest import stage as ingest_stage
from pipelines.run import experiment_split
from pipelines.runtime.ray_tasks import SPARE_CPUS, run_parts
from pipelines.train.shard import shard
from pipelines.train.stage import untrained
from pipelines.workspace.training import Training

T = TypeVar("T")
PICTURES, SKETCHES = 4_000, 200
UNSEEN = 125
"""Of 250 classes: half of the pictures are embedded."""


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        config = experiment(spread(draw(scratch / "drawn"), scratch / "set", PICTURES))
        images = ingest_stage.ingest(config, str(scratch / "w"))
        checkpoint = untrained(
            config, "zse_sbir", str(scratch / "w"), images, shard(config, str(scratch / "w"), images)
        )
        ray.shutdown()
        with here():
            alone = costs(config, scratch / "alone", checkpoint)
        print("CPU s per 1,000 pictures     " + "  ".join(f"{stage:>14}" for stage in alone))
        show("this process", alone, alone)
        for workers in (1, 2):
            with started(workers):
                costs(config, scratch / f"warm{workers}", checkpoint)
                show(
                    f"{workers} worker{'s' * (workers > 1)}", costs(config, scratch / f"w{workers}", checkpoint), alone
                )


def experiment(source: Path) -> ExperimentConfig:
    return validate(
        {
            "name": "distribution",
            "dataset": {
                "adapter": "folder",
                "name": "distribution",
                "source": str(source),
                "split": [f"class {i:03d}" for i in range(UNSEEN)],
                "pseudo_unseen": 0,
            },
            "transforms": {"size": 64},
            "ingest": {"part_size": 250},
            "shard": {"items": 64, "part_size": 64},
            "backbone": {"name": "test_vit"},
            "methods": {"zse_sbir": {"heads": 2, "ffn": 32}},
            "train": {"steps": 1},
            "cluster": {"workers": 0},
            "tracking": {"enabled": False},
        }
    )


def costs(config: ExperimentConfig, workspace: Path, checkpoint: Training) -> dict[str, float]:
    """CPU seconds per 1,000 pictures of each stage."""
    found: dict[str, float] = {}

    def measured(stage: str, work: Callable[[], T], pictures: int) -> T:
        with watched() as cost:
            made = work()
        found[stage] = cost.cpu / pictures * 1000
        return made

    folder = str(workspace)
    images = measured("ingest", lambda: ingest_stage.ingest(config, folder), PICTURES)
    split = experiment_split(config, images)
    encodings = measured("embed", lambda: embed.embed(config, folder, images, checkpoint, split), PICTURES // 2)
    measured("score", lambda: score.score(config, folder, encodings, "rn"), PICTURES // 2 - SKETCHES)
    return found


def show(name: str, found: dict[str, float], alone: dict[str, float]) -> None:
    cells = (f"{cost:7.2f} {cost / alone[stage]:5.2f}x" for stage, cost in found.items())
    print(f"{name:28} " + "  ".join(f"{cell:>14}" for cell in cells), flush=True)


@contextmanager
def here() -> Iterator[None]:
    """Within the context, all parts of the stages run in this process."""

    def alone(*arguments: Any, **options: Any) -> Any:
        return run_parts(*arguments, **(options | {"alone": True}))

    with ExitStack() as stack:
        for job in (ingest_stage, embed, score):
            stack.enter_context(patch.object(job, "run_parts", alone))
        stack.enter_context(patch.object(embed, "model_workers", lambda *_: (1, 1)))
        stack.enter_context(patch.object(score, "model_workers", lambda *_: (1, 1)))
        yield


@contextmanager
def started(workers: int) -> Iterator[None]:
    """A Ray with room for `workers` actors with a network. Ingest, which has no actors, uses the spare CPU, too."""
    ray.init(
        address="local",
        num_cpus=workers + SPARE_CPUS,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        with patch.object(embed, "ALONE", 0), patch.object(score, "ALONE", 0):
            yield
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
