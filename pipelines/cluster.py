"""Ray: join the cluster this runs on, or start one on this machine; run planned parts as Ray Data tasks."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import ray
import ray.data
from ray.exceptions import RayTaskError

from pipelines.progress import Meter

SPARE_CPUS = 1  # Ray Data needs CPUs of its own beside training workers and encoding actors, or it waits for ever


def connect(workers: int = 0, cpus_per_worker: int = 1) -> None:
    """Join the cluster named by RAY_ADDRESS (a submitted job has it), else start Ray on this machine.

    Logical CPUs may exceed the cores: training workers hold theirs while data tasks run beside them.
    """
    quiet_ray_data()
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False)
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ray.init(
        address="local",
        num_cpus=max(cores, workers * cpus_per_worker) + SPARE_CPUS,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def quiet_ray_data() -> None:
    """Our own progress instead of Ray Data's bars, an order of results that does not depend on timing, and a task's
    error as it was raised."""
    context = ray.data.DataContext.get_current()
    context.raise_original_map_exception = True
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.execution_options.verbose_progress = False
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that its bars are off
    # A task's error with some 50 lines of Ray's own stacks, which is raised as it was.
    logging.getLogger("ray.data._internal.execution.streaming_executor_state").setLevel(logging.CRITICAL)


def run_parts(
    tasks: Sequence[dict[str, Any]],
    work: Any,
    *,
    what: str,
    unit: str,
    total: int,
    workers: tuple[int, int] | None = None,
    constructor: dict[str, Any] | None = None,
    gpus: float = 0,
    alone: bool = False,
) -> Iterator[dict[str, Any]]:
    """`work(task) -> result` for every task, each a Ray Data block of its own; results in the order of the tasks.

    `work` is a function, or a class that is built once in each actor with `constructor` (for a model); `workers` are
    how many actors there are at first and at most. A result has `rows`, which the progress counts towards `total` in
    `unit`. What a task raises is raised here; what others have written stays. `alone` runs them in this process, one
    after the other: for so little work that starting the workers would take longer.
    """
    if not tasks:
        return
    results = _here(tasks, work, constructor) if alone and not gpus else _there(tasks, work, workers, constructor, gpus)
    done = 0
    with Meter(what, total, unit) as meter:
        for row in results:
            done += row["rows"]
            meter.update(done)
            yield row


def _here(tasks: Sequence[dict[str, Any]], work: Any, constructor: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    call = work(**constructor) if constructor else work
    yield from (call(task) for task in tasks)


def _there(
    tasks: Sequence[dict[str, Any]],
    work: Any,
    workers: tuple[int, int] | None,
    constructor: dict[str, Any] | None,
    gpus: float,
) -> Iterator[dict[str, Any]]:
    connect()
    pool = ray.data.ActorPoolStrategy(min_size=workers[0], max_size=workers[1]) if workers else None
    dataset = ray.data.from_items(list(tasks), override_num_blocks=len(tasks)).map(
        work,
        fn_constructor_kwargs=constructor,
        compute=pool,
        num_cpus=1,
        num_gpus=gpus or None,
    )
    try:
        yield from dataset.iter_rows()
    except RayTaskError as error:  # what the task raised: that says what failed and what to do
        raise error.cause from error


def model_workers(tasks: int, gpus: float = 0) -> tuple[int, int]:
    """How many actors that hold a model, on so many GPUs each, at first and at most.

    At first one a CPU, without those that Ray Data keeps for itself, and no more than there are GPUs for: a pool waits
    until these are there. More on a cluster, whose autoscaler Ray Data asks for nodes while all actors are busy: one
    that is scaled to zero would else embed everything with a single actor.
    """
    connect()
    there = ray.cluster_resources()
    room = int(there.get("CPU", 1)) - SPARE_CPUS
    first = max(1, min(tasks, room, int(there.get("GPU", 0) / gpus) if gpus else room))
    return first, tasks if os.environ.get("RAY_ADDRESS") else first
