"""The workers of a training: one process, or several under Ray Train."""

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
from pipelines.runtime.failures import to_mend, unwrapped
from pipelines.runtime.progress import say
from pipelines.runtime.ray_tasks import WAITING, connect, waits
from pipelines.store import storage
from pipelines.train.contexts import Event, ProcessContext, RayContext
from pipelines.train.items import ItemPlan
from pipelines.train.job import Job
from pipelines.train.machine import sampled
from pipelines.train.selection import Selection
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
    """One worker of a training: build, then fit."""
    keep_freed_memory()
    config, split = job.config, job.pairs.split
    if job.pairs.settings["layout"] == "memory":
        members = training_members(job.images.members(), split)
        plan, pictures = ItemPlan(members, config.shard), job.images.data(members)
        source: BatchSource = MemorySource(plan, pictures, config.train.batch_size)
    else:
        source = ShardSource(job.pairs, config.train.batch_size, config.train.seed)
    validate = calibrate = None
    # A fine-grained training has no other class to choose by, and need not: its held-back pairs are what it is for.
    pairs = not split.pseudo_unseen and config.shard.hard_negatives == 1
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
    """Carries progress from the workers to the driver, the only process that prints and tracks."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.reason: ZseError | None = None

    def give_up(self, reason: ZseError) -> None:
        """What every attempt would end with: it is not taken up again."""
        self.reason = self.reason or reason

    def given_up(self) -> ZseError | None:
        return self.reason

    def put(self, event: Event) -> None:
        self.events.append(event)

    def drain(self) -> list[Event]:
        events, self.events = self.events, []
        return events


def what_lasts(error: Exception) -> ZseError | None:
    """What the user has to mend before another attempt can succeed; None for a defect, a worker or node that was lost,
    and a store that may be back soon."""
    passes = error.passes if isinstance(error, StorageError) else isinstance(error, RayError)
    reason = None if passes else to_mend(error)
    return error if reason and isinstance(error, ZseError) else ZseError(reason) if reason else None


@contextmanager
def locally(job: Job, on_event: Callable[[Event], None]) -> Iterator[Path]:
    context = ProcessContext(job.folder, on_event)
    threads = torch.get_num_threads()
    torch.set_num_threads(job.config.cluster.cpus_per_worker)  # sums depend on it: as a worker of the cluster has it
    try:
        metrics = sampled("", on_event) if job.config.tracking.system_metrics else nullcontext()
        with metrics, context.heeding_sigterm():
            state = run_worker(job, context)
    finally:
        torch.set_num_threads(threads)
    if state.step != state.total:
        say(f"SIGTERM: step {state.step} is kept; the same command goes on from there")
        sys.exit(128 + signal.SIGTERM)
    with context.restore() as folder:
        assert folder is not None
        yield folder


@contextmanager
def on_ray(job: Job, on_event: Callable[[Event], None]) -> Iterator[Path]:
    cluster = job.config.cluster
    connect(cluster)
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    # Beside the driver, as Ray Train's controller is: on a node that dies it would take the run with it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    journal: Any = Journal.options(scheduling_strategy=here).remote()

    def worker(settings: dict[str, Any]) -> None:
        torch.set_num_threads(cluster.cpus_per_worker)
        name, place = settings["job"].name, ray.train.get_context()
        node = platform.node() if place.get_local_world_size() < place.get_world_size() else ""
        first = place.get_local_rank() == 0 and settings["job"].config.tracking.system_metrics
        with ExitStack() as stack:
            stack.enter_context(logs.stage("train"))
            logs.about(run=name, worker=place.get_world_rank())
            put = stack.enter_context(prometheus.gauges(stage="train", run=name, worker=str(place.get_world_rank())))
            context = RayContext(settings["job"].folder, settings["journal"], put)
            if first:
                stack.enter_context(sampled(node, context.log))
            if ray.get(settings["journal"].given_up.remote()) is not None:  # another attempt would end with the same
                return
            try:
                run_worker(settings["job"], context)
            except TrainingError as error:  # every worker ends here, and in every attempt; one of them knows why
                if type(error) is not TrainingError:
                    ray.get(settings["journal"].give_up.remote(error))
            except Exception as error:
                if (last := what_lasts(error)) is not None:
                    ray.get(settings["journal"].give_up.remote(last))
                raise

    trainer = TorchTrainer(
        worker,
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
            with _polled(journal, on_event), _telling_what_waits(cluster), _interruptible():
                trainer.fit()
        except TrainingFailedError as error:
            reason: ZseError | None = ray.get(journal.given_up.remote())
            raise (reason or unwrapped(error)) from error
        reason = ray.get(journal.given_up.remote())
        if reason is not None:
            raise reason
        latest = last_state(job.folder)
        if latest is None:
            raise StorageError(f"Training left no state in {job.folder}/{STATES}")
        state = storage.read_json(storage.join(job.folder, STATES, latest, STATE_FILE))
        if state["step"] == state["total"]:
            with state_copy(job.folder, latest) as folder:
                assert folder is not None
                yield folder
            return
        say(f"A node of the training is about to go: step {state['step']} is kept, the others go on from there")


@contextmanager
def _telling_what_waits(cluster: ClusterConfig) -> Iterator[None]:
    """Say, every half a minute, that there is no room for the workers: an autoscaler may bring it, a job may end."""

    def tell() -> None:
        if any(group["state"] == "PENDING" for group in ray.util.placement_group_table().values()):
            each = f"{cluster.cpus_per_worker} CPUs and {cluster.gpus_per_worker:g} GPUs"
            say(f"Waiting for {each} for each of {cluster.workers} training workers: {waits()}")

    with repeated(tell, WAITING):
        yield


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends a training of Ray Train as one in this process. Ray's own handler leaves with exit code 0, and stays
    behind."""
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
    """Hand the journal's events on, about twice a second, and all of them at the end."""

    def drain() -> None:
        for event in ray.get(journal.drain.remote()):
            on_event(event)

    try:
        with repeated(drain, 0.5):
            yield
    finally:
        drain()
