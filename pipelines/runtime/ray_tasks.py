"""Connect to a Ray cluster, or start Ray on this machine, and run planned parts as Ray Data tasks.

`ingest`, `train`, `encode` and `evaluate` call it.
"""

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

CONNECTING = 5.0  # s until the head of a cluster must accept a connection
WAITING = 30.0  # s between messages about a wait for resources
JOINING = 10.0  # s for the nodes of a new cluster to join, and for its autoscaler's first report
SOCKET = len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")  # bytes below the temporary folder
SPARE_CPUS = 1  # for Ray Data, which waits forever if training workers and encoding actors hold all CPUs


_expected: ClusterConfig | None = None  # of the training that follows in this process


@contextmanager
def expecting(cluster: ClusterConfig | None) -> Iterator[None]:
    """Within the context, the first `connect` starts Ray with room for this training, or raises if there is none."""
    global _expected
    before, _expected = _expected, cluster
    try:
        yield
    finally:
        _expected = before


def connect(cluster: ClusterConfig | None = None) -> None:
    """Join the cluster at RAY_ADDRESS (set in a submitted job), else start Ray on this machine.

    cluster: the training to make room for. Logical CPUs may exceed the cores, since data tasks run beside training
    workers. Raises ZseError if no Ray answers at RAY_ADDRESS, and if the cluster cannot hold the training.
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
                    f"RAY_ADDRESS={shown(address)}: no Ray answers ({str(error).splitlines()[0]}). Start a cluster, "
                    "correct the address, or unset RAY_ADDRESS to use this machine alone"
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
    """Raise OSError within seconds if nothing listens at HOST:PORT: Ray itself retries for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "//" not in address:
        socket.create_connection((host.strip("[]"), int(port)), CONNECTING).close()


def require(workers: int, cpus: float, gpus: float) -> None:
    """Raise ZseError if the nodes cannot hold `workers`, each with `cpus` and `gpus` of one node: Ray would wait
    forever.

    Nothing is raised if an autoscaler may add nodes, or if that is unknown.
    """
    address = os.environ.get("RAY_ADDRESS")
    end = time.monotonic() + (JOINING if address else 0)
    while (room := _room(cpus, gpus)) < workers:
        grows = _grows() if address else False
        if grows:
            return
        if time.monotonic() > end:
            if grows is None:
                return
            where = f"the cluster at {shown(address)}, which has no autoscaler," if address else "this machine"
            raise ZseError(
                f"{workers * cpus:g} CPUs and {workers * gpus:g} GPUs are needed (workers: {workers}, each with "
                f"{cpus:g} and {gpus:g} of one node), but Ray on {where} has {_amount(ray.cluster_resources())}, room "
                f"for {room} workers. Lower --set cluster.workers, cluster.cpus_per_worker or cluster.gpus_per_worker "
                f"(0 = train on CPUs), or {'add nodes' if address else 'set RAY_ADDRESS to a larger cluster'}"
            )
        time.sleep(0.5)


def _room(cpus: float, gpus: float) -> int:
    """The number of workers that fit on the nodes if nothing else runs on them."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    asked = {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount}
    return sum(int(min(node.get(name, 0) / amount for name, amount in asked.items())) for node in nodes)


def _grows() -> bool | None:
    """Whether the cluster has an autoscaler; None if it does not report that (yet).

    Ray has no public call for this. Its monitor runs on every cluster: with an autoscaler, node types are those of the
    configuration; without, each node has a type named after itself.
    """
    try:
        if is_autoscaler_v2(fetch_from_server=True):
            status = get_cluster_status(ray.get_runtime_context().gcs_address)
            known = status.stats.autoscaler_version not in (None, "", "0")
            types = [node.ray_node_type_name for node in status.active_nodes + status.idle_nodes] if known else []
        else:
            report = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or "{}").get("autoscaler_report") or {}
            types = list(report.get("active_nodes") or {})
    except Exception as error:  # private parts of Ray: if they change, work waits and says for what
        say(f"Cannot tell whether the cluster has an autoscaler: {type(error).__name__}")
        return None
    return any(not re.fullmatch("node_[0-9a-f]+", one) for one in types) if types else None


def waits() -> str:
    """The total and the free resources of the cluster, for a message about waiting."""
    return f"the cluster has {_amount(ray.cluster_resources())}; free are {_amount(ray.available_resources())}"


def _amount(resources: Mapping[str, float]) -> str:
    return f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"


def _short_folder() -> str | None:
    """A folder for Ray's files if the path of the temporary folder is too long for its sockets, else None."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if len(os.fsencode(os.path.abspath(folder))) + SOCKET <= 107:  # bytes of a Unix socket's path
        return None
    say(f"Ray's files go to /tmp/ray: the path {folder} is too long for sockets. Set TMPDIR=/short/path for another")
    return "/tmp/ray"


def quiet_ray_data() -> None:
    """Configure Ray Data: no progress bars beside ours, results in the order of tasks, a task's error as raised."""
    context = ray.data.DataContext.get_current()
    context.raise_original_map_exception = True
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.execution_no_progress_timeout_s = (
        -1
    )  # a part of a pair network may take hours on CPUs: Ray ends it after 0.5
    context.execution_options.verbose_progress = False
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that its bars are off
    # It logs a task's error, which is raised anyway, with some 50 lines of Ray's own stacks.
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
    """Yield `work(task)` for every task, in the order of the tasks. Each task is a Ray Data block.

    work: a function, or a class that each actor builds once with `constructor` (for a model).
    workers: actors at first and at most.
    total, unit: of the progress, which counts the `rows` of each result.
    alone: run the tasks one after the other in this process, for work shorter than the start of workers.
    Raises the error of a failed task; the output of other tasks stays.
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
    except RayTaskError as error:  # the task's own error says what failed and what to do
        raise error.cause from error


def gpus_of_workers() -> int:
    """GPUs of an actor that holds a model: one where the cluster has any, else none."""
    connect()
    return int(ray.cluster_resources().get("GPU", 0) >= 1)


def model_workers(tasks: int, gpus: float = 0) -> tuple[int, int]:
    """(first, most) actors that hold a model, with `gpus` each.

    First: one per CPU without SPARE_CPUS, and at most as many as the GPUs allow, since a pool waits for all of them.
    Most: one per task on a cluster. While all actors are busy Ray Data asks the autoscaler for nodes; with a limit a
    cluster scaled to zero would embed everything with a single actor.
    """
    connect()
    there = ray.cluster_resources()
    room = int(there.get("CPU", 1)) - SPARE_CPUS
    first = max(1, min(tasks, room, int(there.get("GPU", 0) / gpus) if gpus else room))
    return first, tasks if os.environ.get("RAY_ADDRESS") else first
