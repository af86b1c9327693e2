"""Measure what workers cost: ingest, embed and score of the same pictures in one process, and by 1, 2, 4 and 8 workers.

    python -m benchmarks distribution           measure and print the table of docs/scaling.md: 20 minutes, 8 GB
    python -m benchmarks distribution --keep    also write benchmarks/distribution.json, which `make scaling` reads
    python -m benchmarks distribution --keep --workers 4 8      only these rows; the others stay

Each worker is a raylet of its own on this machine, with one CPU; one raylet more is for Ray Data. Ingest, which has no
actors, uses that one, too. `score` is of all pairs of the tested classes by a small pair network.
Reported are CPU seconds of all processes, Ray's own included but for its start; bytes read from the store; requests of
every kind to it; and the most memory of the driver. No time is reported: it depends on the cores of this machine, and
says nothing of the speed of more machines. Each row is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import ray
import torch

from benchmarks.results.tables import head, line
from benchmarks.scale import draw, spread, watched
from benchmarks.tokens import cluster, counting, counts
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
KEPT = Path(__file__).with_name("distribution.json")
WORKERS = (0, 1, 2, 4, 8)
"""0 = all parts one after the other in one process, without Ray."""
PICTURES, UNSEEN = 4_000, 125  # of 250 classes: 2,000 pictures are embedded, 250 sketches scored with 1,750 photos
STAGES = ("ingest", "embed", "score")


@dataclass(frozen=True)
class Stage:
    """What a stage took."""

    cpu_s: float
    read: int
    """Bytes."""
    requests: int


@dataclass(frozen=True)
class Run:
    workers: int
    stages: dict[str, Stage]
    driver_mb: float
    """The most memory of the driver, its libraries included."""


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks distribution", description=str(__doc__).split("\n\n")[0]
    )
    parser.add_argument("--keep", action="store_true", help=f"write {KEPT.name}")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=WORKERS, help="0 = in one process; default: %(default)s"
    )
    asked = parser.parse_args(arguments)
    print(*table([]), sep="\n")
    for run in measure(asked.workers):
        print(table([run])[-1], flush=True)
        if asked.keep:
            rows = {one.workers: one for one in (*kept(), run)}
            KEPT.write_text(json.dumps([asdict(rows[n]) for n in sorted(rows)], indent=1) + "\n")


def kept() -> list[Run]:
    return [
        Run(run["workers"], {name: Stage(**found) for name, found in run["stages"].items()}, run["driver_mb"])
        for run in json.loads(KEPT.read_text())
    ]


def table(runs: Sequence[Run]) -> list[str]:
    """The lines of the table of docs/scaling.md: CPU seconds, MB and requests are of ingest, embed and score."""
    lines = head(
        "workers", *(f"{what}: {', '.join(STAGES)}" for what in ("CPU s", "MB read", "requests")), "driver, MB"
    )
    for run in runs:
        stages = [run.stages[name] for name in STAGES]
        lines.append(
            line(
                str(run.workers) if run.workers else "none: one process",
                ", ".join(f"{stage.cpu_s:.1f}" for stage in stages),
                ", ".join(f"{stage.read / 1e6:.1f}" for stage in stages),
                "; ".join(f"{stage.requests:,}" for stage in stages),
                f"{run.driver_mb:.0f}",
            )
        )
    return lines


# The measurement -----------------------------------------------------------------------------------------------------


def measure(workers: Sequence[int]) -> Iterator[Run]:
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        source = spread(draw(scratch / "drawn"), scratch / "set", PICTURES)
        config, workspace = experiment(str(source)), str(scratch / "w")
        images = ingest_stage.ingest(config, workspace)
        checkpoint = untrained(config, "zse_sbir", workspace, images, shard(config, workspace, images))
        ray.shutdown()
        for n in workers:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
                yield apart.submit(of_workers, n, scratch, checkpoint).result()


def of_workers(workers: int, scratch: Path, checkpoint: Training) -> Run:
    """The cost by this number of workers, in this process and a Ray that it starts."""
    torch.set_num_threads(1)  # as in a worker of Ray with one CPU
    config = experiment(f"counted://{scratch}/set")
    with counting(scratch / f"counts{workers}"), started(workers) if workers else here():
        if workers:
            ingest_stage.ingest(config, f"counted://{scratch}/warm{workers}")  # a worker's first task imports libraries
        stages = costs(config, f"counted://{scratch}/w{workers}", checkpoint)
    most = int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0])
    return Run(workers, stages, most * 1024 / 1e6)


def costs(config: ExperimentConfig, workspace: str, checkpoint: Training) -> dict[str, Stage]:
    """What each stage takes."""
    found: dict[str, Stage] = {}

    def measured(stage: str, work: Callable[[], T]) -> T:
        before = counts()
        with watched() as cost:
            made = work()
        after = counts() - before
        read, requests = (sum(n for (*_, kind), n in after.items() if kind == what) for what in ("bytes", "requests"))
        found[stage] = Stage(cost.cpu, read, requests)
        return made

    images = measured("ingest", lambda: ingest_stage.ingest(config, workspace))
    split = experiment_split(config, images)
    encodings = measured("embed", lambda: embed.embed(config, workspace, images, checkpoint, split))
    measured("score", lambda: score.score(config, workspace, encodings, "rn"))
    return found


def experiment(source: str) -> ExperimentConfig:
    return validate(
        {
            "name": "distribution",
            "dataset": {
                "adapter": "folder",
                "name": "distribution",
                "source": source,
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
    """A Ray of raylets of one CPU each, on which `workers` actors with a network fit, each on a raylet of its own."""
    with cluster(nodes=workers + SPARE_CPUS, cpus=1), patch.object(embed, "ALONE", 0), patch.object(score, "ALONE", 0):
        yield


if __name__ == "__main__":
    main()
