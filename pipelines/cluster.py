"""Ray: join the cluster this runs on, or start one on this machine; run planned parts as Ray Data tasks."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import ray.data
from ray.exceptions import RayTaskError

from pipelines.background import repeated
from pipelines.config import ClusterConfig
from pipelines.progress import Meter, say
from pipelines.redaction import shown
from zse_model.errors import ZseError

WAITING = 30.0  # s between two lines that say what is waited for
SOCKET = len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")  # bytes below the temporary folder
SPARE_CPUS = 1  # Ray Data needs CPUs of its own beside training workers and encoding actors, or it waits for ever


_expected: ClusterConfig | None = None  # of the training that this process comes to


@contextmanager
def expecting(cluster: ClusterConfig | None) -> Iterator[None]:
    """Within, a training of these workers follows: Ray is started with room for it, and a machine that has none is
    refused with the first work that needs Ray."""
    global _expected
    before, _expected = _expected, cluster
    try:
        yield
    finally:
        _expected = before


def connect(cluster: ClusterConfig | None = None) -> None:
    """Join the cluster named by RAY_ADDRESS (a submitted job has it), else start Ray on this machine.

    cluster: the training that is to run now, which needs room. Logical CPUs may exceed the cores: training workers hold
    theirs while data tasks run beside them. Raises ZseError where nothing answers, and where there never is room.
    """
    quiet_ray_data()
    cluster = cluster or _expected
    address = os.environ.get("RAY_ADDRESS")
    if not ray.is_initialized():
        if address:
            try:
                ray.init(log_to_driver=False)
            except ConnectionError as error:
                raise ZseError(
                    f"RAY_ADDRESS={shown(address)}: no Ray answers there ({str(error).splitlines()[0]}). Start one, "
                    "name its address, or unset RAY_ADDRESS to use this machine alone"
                ) from error
        else:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            workers = cluster.workers * cluster.cpus_per_worker if cluster else 0
            ray.init(
                address="local",
                num_cpus=max(cores, workers) + SPARE_CPUS,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=_short_folder(),
            )
    if cluster is not None and cluster.workers and not address:  # on a cluster an autoscaler may bring more
        least = cluster.min_workers or cluster.workers
        require(least * cluster.cpus_per_worker, least * cluster.gpus_per_worker)


def require(cpus: float, gpus: float) -> None:
    """Raise ZseError where Ray on this machine has less: it would wait for ever."""
    there = ray.cluster_resources()
    if there.get("CPU", 0) < cpus or there.get("GPU", 0) < gpus:
        raise ZseError(
            f"{cpus:g} CPUs and {gpus:g} GPUs are asked for, and Ray on this machine has {_amount(there)}. Lower "
            "--set cluster.workers, cluster.cpus_per_worker or cluster.gpus_per_worker (0 = train on CPUs), or name a "
            "cluster that has them by RAY_ADDRESS"
        )


def waits() -> str:
    """What the cluster has, and what of it is free, for who waits for some of it."""
    return f"the cluster has {_amount(ray.cluster_resources())}; free are {_amount(ray.available_resources())}"


def _amount(resources: Mapping[str, float]) -> str:
    return f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"


def _short_folder() -> str | None:
    """Where Ray puts its files instead, if the folder for temporary files has too long a path for its sockets."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if len(os.fsencode(os.path.abspath(folder))) + SOCKET <= 107:  # bytes of a Unix socket's path
        return None
    say(
        f"Ray's files go to /tmp/ray: the path {folder} is too long for its sockets. TMPDIR=/short/path chooses another"
    )
    return "/tmp/ray"


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
    if not os.environ.get("RAY_ADDRESS"):
        require(1, gpus)
    pool = ray.data.ActorPoolStrategy(min_size=workers[0], max_size=workers[1]) if workers else None
    dataset = ray.data.from_items(list(tasks), override_num_blocks=len(tasks)).map(
        work,
        fn_constructor_kwargs=constructor,
        compute=pool,
        num_cpus=1,
        num_gpus=gpus or None,
    )
    began = False

    def tell() -> None:
        free = ray.available_resources()
        if not began and (free.get("CPU", 0) < 1 or free.get("GPU", 0) < gpus):
            say(f"Waiting for 1 CPU and {gpus:g} GPUs: {waits()}")

    try:
        with repeated(tell, WAITING):
            for row in dataset.iter_rows():
                began = True
                yield row
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
