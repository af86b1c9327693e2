"""doctor: check a cluster, MLflow and optionally an experiment, and list what to fix before a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.config.experiment import ExperimentConfig
from pipelines.ingest.stage import plan_ingest
from pipelines.operate import preflight
from pipelines.operate.nodes import Finding, Node, findings, look
from pipelines.runtime.errors import PreflightError
from pipelines.runtime.failures import to_fix
from pipelines.runtime.ray_tasks import SPARE_CPUS, connect
from pipelines.store import storage
from pipelines.tracking import Store, TrackingError, reachable
from zse_model.errors import ZseError

PATIENCE = 120.0  # s for all nodes; the first task on a node starts a process there
TASK = ray.remote(num_cpus=0, max_retries=0)(look)


def examine(workspace: str, config: ExperimentConfig | None = None) -> list[Finding]:
    """Check every node of the cluster, and MLflow. Failures come first.

    config: an experiment to check, too. Writes a probe to the workspace and removes it; nothing else is written.
    """
    nodes: list[Node] = []
    try:
        connect()
        since = time.time()
        nodes, found = _ask(storage.absolute(workspace), config)
        if nodes:
            found += findings(nodes, since, time.time())
    except (ZseError, RayError, OSError) as error:  # the other checks go on
        found = [Finding("Ray", "fails", str(error), "run ray status on the machine of RAY_ADDRESS")]
    if storage.is_local(workspace) and len(nodes) > 1:
        fix = "give --workspace s3://bucket/prefix, unless all nodes share that folder"
        found.append(Finding("workspace", "fails", f"{workspace} is a folder, but there are {len(nodes)} nodes", fix))
    if config is not None:
        found += [*(_room(nodes, config) if nodes else ()), *_experiment(workspace, config)]
    found.append(_tracking(workspace, config))
    return sorted(found, key=lambda f: ("fails", "slow", "ok").index(f.state))


def _ask(workspace: str, config: ExperimentConfig | None) -> tuple[list[Node], list[Finding]]:
    """(nodes that answer, a finding for each node that does not)."""
    source = (
        "" if config is None or config.dataset.adapter == "synthetic" else str(getattr(config.dataset, "source", ""))
    )
    alive = [node for node in ray.nodes() if node["Alive"]]
    asked: dict[Any, str] = {}
    for node in alive:
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        there = TASK.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        asked[there.remote(node["Resources"], name, workspace, source)] = name
    done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=PATIENCE)
    nodes, silent = [], []
    for task, name in asked.items():
        try:
            if task not in done:
                raise TimeoutError(f"no answer in {PATIENCE:.0f} s")
            nodes.append(ray.get(task))
        except (RayError, TimeoutError) as error:
            reason = str(getattr(error, "cause", None) or error).strip().splitlines()[-1]
            fix = "ship the code with the job (ray job submit --working-dir .) or in the image, and check ray status"
            silent.append(Finding("nodes", "fails", f"{name}: {reason}", fix))
    if not silent:
        silent.append(Finding("nodes", "ok", f"{len(nodes)} answer"))
    return nodes, silent


def _room(nodes: list[Node], config: ExperimentConfig) -> Iterator[Finding]:
    """Whether the training's workers fit and leave a CPU for Ray Data."""
    cluster = config.cluster
    cpus, gpus = sum(n.cpus for n in nodes), sum(n.gpus for n in nodes)
    wanted = cluster.workers * cluster.cpus_per_worker + SPARE_CPUS
    asked = f"{cluster.workers} workers with {cluster.cpus_per_worker} CPUs and {cluster.gpus_per_worker:g} GPUs"
    fits = [
        min(n.cpus // cluster.cpus_per_worker, n.gpus // cluster.gpus_per_worker if cluster.gpus_per_worker else 1e9)
        for n in nodes
    ]
    if not cpus:  # scaled to zero: the worker nodes do not exist yet and cannot be checked
        fix = "ray status lists what the autoscaler may start. Run zse doctor again while a run has workers"
        yield Finding("room", "slow", f"no CPUs yet: an autoscaler must add {asked}, and a CPU for data", fix)
    elif cpus < wanted or sum(fits) < cluster.workers:
        fix = "lower --set cluster.workers or cluster.cpus_per_worker, or add nodes; an autoscaler may add them"
        yield Finding("room", "fails", f"{asked} and a CPU for data; there are {cpus:g} CPUs and {gpus:g} GPUs", fix)
    else:
        yield Finding("room", "ok", f"{asked}; there are {cpus:g} CPUs and {gpus:g} GPUs")
    if gpus and not cluster.gpus_per_worker:
        yield Finding("room", "slow", f"{gpus:g} GPUs are not used", "--set cluster.gpus_per_worker=1")


def _experiment(workspace: str, config: ExperimentConfig) -> Iterator[Finding]:
    """What would end a run of the experiment before any picture is read."""
    try:
        planned = plan_ingest(config, storage.absolute(workspace))
        preflight.check(config, workspace, planned.records, fresh=False)
        yield Finding("experiment", "ok", "split, classes, networks and weights are as they have to be")
    except (ZseError, OSError) as error:
        for text in error.found if isinstance(error, PreflightError) else [to_fix(error) or str(error)]:
            yield Finding("experiment", "fails", text, "see the message; zse run --dry-run checks the same")


def _tracking(workspace: str, config: ExperimentConfig | None) -> Finding:
    try:
        return Finding("MLflow", "ok", reachable(config, workspace) if config else Store.at(workspace).answers())
    except (TrackingError, OSError) as error:
        fix = "set MLFLOW_TRACKING_URI or --set tracking.uri; its --allowed-hosts must name host and port"
        return Finding("MLflow", "fails", str(error), fix)
