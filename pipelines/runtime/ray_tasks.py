"""Ray: join the cluster this runs on, or start one on this machine; run planned parts as Ray Data tasks."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import ray.data
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.exceptions import RayTaskError
from ray.experimental.internal_kv import _internal_kv_get

from pipelines.runtime.background import repeated
from pipelines.runtime.cluster import ClusterConfig
from pipelines.runtime.progress import Meter, say
from pipelines.runtime.redaction import shown
from zse_model.errors import ZseError

CONNECTING = 5.0  # s until the head of a cluster has to accept a connection
WAITING = 30.0  # s between two lines that say what is waited for
JOINING = 10.0  # s for nodes of a cluster that has just started, and for its autoscaler's first word
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
                _answers(address)
                ray.init(log_to_driver=False)
            except OSError as error:
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
    if cluster is not None and cluster.workers:
        require(cluster.min_workers or cluster.workers, cluster.cpus_per_worker, cluster.gpus_per_worker)


def _answers(address: str) -> None:
    """Raise OSError within seconds where nothing listens at HOST:PORT: Ray itself asks for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "//" not in address:
        socket.create_connection((host.strip("[]"), int(port)), CONNECTING).close()


def require(workers: int, cpus: float, gpus: float) -> None:
    """Raise ZseError where there never is room for so many workers, each with so much of one node: Ray would wait for
    ever. Where an autoscaler brings nodes, or where nobody can tell, nothing is refused."""
    address = os.environ.get("RAY_ADDRESS")
    end = time.monotonic() + (JOINING if address else 0)
    while (room := _room(cpus, gpus)) < workers:
        grows = _grows() if address else False
        if grows:
            return
        if time.monotonic() > end:
            if grows is None:
                return
            where = f"the cluster at {shown(address)}, which no autoscaler enlarges," if address else "this machine"
            raise ZseError(
                f"{workers * cpus:g} CPUs and {workers * gpus:g} GPUs are asked for (workers: {workers}, each with "
                f"{cpus:g} and {gpus:g} of one node), and Ray on {where} has {_amount(ray.cluster_resources())}, room "
                f"for {room} of them. Lower --set cluster.workers, cluster.cpus_per_worker or cluster.gpus_per_worker "
                f"(0 = train on CPUs), or {'add nodes' if address else 'name a cluster that has them by RAY_ADDRESS'}"
            )
        time.sleep(0.5)


def _room(cpus: float, gpus: float) -> int:
    """How many workers the nodes would hold if nothing else ran on them."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    asked = {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount}
    return sum(int(min(node.get(name, 0) / amount for name, amount in asked.items())) for node in nodes)


def _grows() -> bool | None:
    """Whether the cluster has an autoscaler; None: it does not say so (yet).

    Ray's monitor runs on each cluster. Where it starts nodes, these are of the types of its configuration; where it
    only looks on, it names a type after each node. (Ray has no public call for this.)
    """
    try:
        if is_autoscaler_v2(fetch_from_server=True):
            status = get_cluster_status(ray.get_runtime_context().gcs_address)
            known = status.stats.autoscaler_version not in (None, "", "0")
            types = [node.ray_node_type_name for node in status.active_nodes + status.idle_nodes] if known else []
        else:
            report = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or "{}").get("autoscaler_report") or {}
            types = list(report.get("active_nodes") or {})
    except Exception as error:  # parts of Ray without a promise: then it is waited, and said for what
        say(f"Whether the cluster has an autoscaler is not known: {type(error).__name__}")
        return None
    return any(not re.fullmatch("node_[0-9a-f]+", one) for one in types) if types else None


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
    require(1, 1, gpus)
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
