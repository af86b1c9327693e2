"""Run the workers of a training: in this process, or several under Ray Train. The stage `train` calls this module."""

from __future__ import annotations

import logging
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.collective
import ray.util
import torch
import torch.distributed
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.runtime import logs, prometheus
from pipelines.runtime.background import repeated
from pipelines.runtime.cluster import ClusterConfig
from pipelines.runtime.errors import StorageError
from pipelines.runtime.failures import to_fix, unwrapped
from pipelines.runtime.progress import say
from pipelines.runtime.ray_tasks import WAITING, connect, waits
from pipelines.store import storage
from pipelines.train.contexts import Event, ProcessContext, RayContext
from pipelines.train.items import ItemPlan
from pipelines.train.job import Job
from pipelines.train.machine import sampled
from pipelines.train.selection import Selection, by_pairs
from pipelines.train.sources import MemorySource, ShardSource
from pipelines.workspace.members import training_members
from pipelines.workspace.states import STATES, last_state, state_copy
from zse_model.errors import ZseError
from zse_model.fit import (
    STATE_FILE,
    BatchSource,
    FitState,
    TrainingError,
    WorkerContext,
    fit,
)
from zse_model.memory import keep_freed_memory


def run_worker(job: Job, context: WorkerContext) -> FitState:
    """Build the network, the batches and the selection of one worker, and fit. Returns the last state."""
    keep_freed_memory()
    config, split = job.config, job.pairs.split
    if job.pairs.settings["layout"] == "memory":
        members = training_members(job.images.members(), split)
        plan, pictures = ItemPlan(members, config.shard), job.images.data(members)
        source: BatchSource = MemorySource(plan, pictures, config.train.batch_size)
    else:
        source = ShardSource(job.pairs, config.train.batch_size, config.train.seed)
    validate = calibrate = None
    pairs = by_pairs(split, config.shard)
    if context.rank == 0 and (split.pseudo_unseen or pairs):
        selection = Selection(job.images, split, config.evaluation.batch_size, pairs=pairs)
        validate, calibrate = (selection, selection.calibrate) if selection.usable else (None, None)
    return fit(
        job.create_method(),
        source,
        context,
        config.train,
        validate=validate,
        calibrate=calibrate,
        patience=60 * config.cluster.hang_minutes,
        workers=max(config.cluster.workers, 1),
    )


@ray.remote(num_cpus=0)
class Journal:
    """An actor that carries events from the workers to the driver, the only process that prints and tracks."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.reason: ZseError | None = None

    def give_up(self, reason: ZseError) -> None:
        """Record an error that every attempt would end with: the training is not retried."""
        self.reason = self.reason or reason

    def given_up(self) -> ZseError | None:
        return self.reason

    def put(self, event: Event) -> None:
        self.events.append(event)

    def drain(self) -> list[Event]:
        events, self.events = self.events, []
        return events


def permanent_error(error: Exception) -> ZseError | None:
    """An error that the user must fix before another attempt can succeed. None for a defect, a lost worker or node, and
    a store that may be back soon."""
    passes = error.passes if isinstance(error, StorageError) else isinstance(error, RayError)
    reason = None if passes else to_fix(error)
    return error if reason and isinstance(error, ZseError) else ZseError(reason) if reason else None


@contextmanager
def locally(job: Job, on_event: Callable[[Event], None]) -> Iterator[Path]:
    """Train in this process; a local folder with the last state. On SIGTERM the state is kept and the process exits."""
    context = ProcessContext(job.folder, on_event)
    threads = torch.get_num_threads()
    # As many threads as a cluster's worker has: the order of sums, and so the weights, depend on their number.
    torch.set_num_threads(job.config.cluster.cpus_per_worker)
    try:
        metrics = sampled("", on_event) if job.config.tracking.system_metrics else nullcontext()
        with metrics, context.heeding_sigterm():
            state = run_worker(job, context)
    finally:
        torch.set_num_threads(threads)
    if state.step != state.total:
        say(f"SIGTERM: step {state.step} is kept. Run the same command again to continue")
        sys.exit(128 + signal.SIGTERM)
    with context.restore() as folder:
        assert folder is not None
        yield folder


def _ray_worker(settings: dict[str, Any]) -> None:
    """One worker under Ray Train. settings: `job`, and `journal`, the actor that takes its events."""
    job, journal = settings["job"], settings["journal"]
    torch.set_num_threads(job.config.cluster.cpus_per_worker)
    place = ray.train.get_context()
    node = platform.node() if place.get_local_world_size() < place.get_world_size() else ""
    first = place.get_local_rank() == 0 and job.config.tracking.system_metrics
    with ExitStack() as stack:
        stack.enter_context(logs.stage("train"))
        logs.about(run=job.name, worker=place.get_world_rank())
        put = stack.enter_context(prometheus.gauges(stage="train", run=job.name, worker=str(place.get_world_rank())))
        context = RayContext(job.folder, journal, put)
        if first:
            stack.enter_context(sampled(node, context.log))
        if ray.get(journal.given_up.remote()) is not None:  # a retry would end with the same error
            return
        try:
            run_worker(job, context)
        except TrainingError as error:  # all workers end here in every attempt; one has the cause as a subclass
            if type(error) is not TrainingError:
                ray.get(journal.give_up.remote(error))
        except Exception as error:
            if (permanent := permanent_error(error)) is not None:
                ray.get(journal.give_up.remote(permanent))
            raise


@contextmanager
def on_ray(job: Job, on_event: Callable[[Event], None]) -> Iterator[Path]:
    """Train under Ray Train; a local folder with the last state. The workers are restarted when a node is preempted.

    Raises the error of a worker without Ray's wrappers, and StorageError if the workers left no state.
    """
    cluster = job.config.cluster
    connect(cluster)
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    # On the driver's node, as Ray Train's controller: on another node that dies, the journal would end the run.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    journal: Any = Journal.options(scheduling_strategy=here).remote()

    trainer = TorchTrainer(
        _ray_worker,
        train_loop_config={"job": job, "journal": journal},
        scaling_config=ScalingConfig(
            num_workers=(cluster.min_workers, cluster.workers) if cluster.min_workers else cluster.workers,
            use_gpu=cluster.gpus_per_worker > 0,
            resources_per_worker={
                "CPU": cluster.cpus_per_worker,
                **({"GPU": cluster.gpus_per_worker} if cluster.gpus_per_worker else {}),
            },
        ),
        run_config=RunConfig(
            name=STATES,
            storage_path=job.folder,
            failure_config=FailureConfig(max_failures=cluster.max_failures),
        ),
    )
    while True:
        try:
            with _polled(journal, on_event), _reporting_waits(cluster), _interruptible():
                trainer.fit()
        except TrainingFailedError as error:
            reason: ZseError | None = ray.get(journal.given_up.remote())
            raise (reason or unwrapped(error)) from error
        reason = ray.get(journal.given_up.remote())
        if reason is not None:
            raise reason
        latest = last_state(job.folder)
        if latest is None:
            raise StorageError(f"Training left no state in {job.folder}/{STATES}. Run the same command again")
        state = storage.read_json(storage.join(job.folder, STATES, latest, STATE_FILE))
        if state["step"] == state["total"]:
            with state_copy(job.folder, latest) as folder:
                assert folder is not None
                yield folder
            return
        say(f"A node will be preempted: step {state['step']} is kept, and the training continues on other nodes")


@contextmanager
def _reporting_waits(cluster: ClusterConfig) -> Iterator[None]:
    """Print every WAITING seconds that the workers wait for room, which an autoscaler or the end of a job may bring."""

    def report() -> None:
        if any(group["state"] == "PENDING" for group in ray.util.placement_group_table().values()):
            each = f"{cluster.cpus_per_worker} CPUs and {cluster.gpus_per_worker:g} GPUs"
            say(f"Waiting for {each} for each of {cluster.workers} training workers: {waits()}")

    with repeated(report, WAITING):
        yield


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, as without Ray. Ray Train's own handler exits with code 0 and stays installed:
    the exit is converted here, and the former handler restored."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stopped:
        if stopped.code == 0:
            raise KeyboardInterrupt from stopped
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


@contextmanager
def _polled(journal: Any, on_event: Callable[[Event], None]) -> Iterator[None]:
    """Pass the journal's events to `on_event` about twice a second, and the remaining events at the end."""

    def drain() -> None:
        for event in ray.get(journal.drain.remote()):
            on_event(event)

    try:
        with repeated(drain, 0.5):
            yield
    finally:
        drain()
