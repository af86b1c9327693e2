"""train: pair shards -> checkpoint. Ray Train runs `zse_model.fit` as DDP workers; workers: 0 runs it in this process.

    <workspace>/checkpoints/<experiment>-<method>-<hash>/
        run.json             what is trained and by which command, written first; a budget's steps once they are known
        state/               what an interrupted training resumes from; removed when the checkpoint is complete
        model.safetensors ... manifest.json

The name is the hash of everything that the weights depend on, so the same command resumes, or finds it done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import platform
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from shlex import quote
from typing import Any

import ray
import ray.train
import ray.train.collective
import ray.util
import torch
import torch.distributed
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer, get_device, prepare_model
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor, nn

from pipelines.config.experiment import ExperimentConfig, to_dict
from pipelines.encode.device import assigned_device
from pipelines.runtime import logs, prometheus
from pipelines.runtime.background import repeated
from pipelines.runtime.cluster import ClusterConfig
from pipelines.runtime.errors import StorageError
from pipelines.runtime.failures import to_mend, unwrapped
from pipelines.runtime.progress import Meter, say
from pipelines.runtime.ray_tasks import WAITING, connect, waits
from pipelines.runtime.redaction import shown
from pipelines.store import storage
from pipelines.store.lease import held
from pipelines.tracking import TrainingRun
from pipelines.train.class_vectors import class_vectors_of
from pipelines.train.items import ItemPlan
from pipelines.train.machine import sampled
from pipelines.train.networks import weights_at_hand, weights_hash
from pipelines.train.selection import Selection
from pipelines.train.sources import MemorySource, ShardSource
from pipelines.workspace import shards
from pipelines.workspace.endings import ENDED, RUN, ending, heeding_sigterm
from pipelines.workspace.images import Images
from pipelines.workspace.members import training_members
from pipelines.workspace.states import STATES, keep_state, last_state, state_copy
from zse_model.checkpoint import (
    INFO,
    Checkpoint,
    fill,
    load_checkpoint,
    read_seen,
    read_tensors,
    save_checkpoint,
    seen_keys,
    start_from,
)
from zse_model.errors import ZseError
from zse_model.evaluation.leaks import refuse_start
from zse_model.fit import (
    BEST_FILE,
    STATE_FILE,
    WEIGHTS_FILE,
    BatchSource,
    FitState,
    LocalContext,
    TrainConfig,
    TrainingError,
    WorkerContext,
    fit,
)
from zse_model.memory import keep_freed_memory
from zse_model.methods import RetrievalMethod, create_method
from zse_model.split import ZeroShotSplit, imagenet_units_naming
from zse_model.transforms import TransformConfig

Event = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Job:
    """Everything that a worker needs, picklable."""

    name: str
    method: str
    config: ExperimentConfig
    images: Images
    pairs: str
    folder: str
    class_vectors: Tensor | None = None
    """Of the training classes, in the order of their labels, where the method's configuration names a file of them."""
    weights: str | None = None
    """`weights_hash` of the backbone's, which each worker compares what it reads with."""

    def split(self) -> ZeroShotSplit:
        return ZeroShotSplit.from_json(json.dumps(self.pairs_manifest()["split"]))

    def pairs_manifest(self) -> dict[str, Any]:
        return shards.read_manifest(self.pairs, "zse shard")

    def create_method(self, *, load_weights: bool = True) -> RetrievalMethod:
        """The network as training starts from it, the same in every process."""
        config = self.config.methods[self.method]
        if getattr(config, "distillation", 0) and not config.dropped_units:
            config = dataclasses.replace(config, dropped_units=units_to_drop(self.split(), self.images.counts))
        if self.class_vectors is not None:
            config = dataclasses.replace(config, vector_dim=self.class_vectors.shape[1])
        torch.manual_seed(self.config.train.seed)
        backbone, start = self.config.backbone, self.config.start if load_weights else None
        with ExitStack() as stack:
            if load_weights:
                backbone = stack.enter_context(weights_at_hand(backbone, self.weights))
            method = create_method(
                self.method,
                config,
                backbone,
                size=self.config.transforms.size,
                classes=len(self.pairs_manifest()["classes"]),
                load_weights=load_weights,
            )
            if self.class_vectors is not None:
                method.set_class_vectors(self.class_vectors)
            if start is not None:  # over the pretrained weights: of a classifier to distil the start may have none
                start_from(method, load_checkpoint(stack.enter_context(storage.local_copy(start))))
        method.backbone_config = self.config.backbone
        return method


def units_to_drop(split: ZeroShotSplit, categories: Iterable[str]) -> tuple[int, ...]:
    """Of an ImageNet classifier: those that name a class which training must not know about, such as every category of
    the data that is not trained on, also where the split does not name it."""
    others = {*categories, *split.unseen, *split.pseudo_unseen} - set(split.training)
    return tuple(imagenet_units_naming(sorted(others)))


@logs.stage("train")
def train(config: ExperimentConfig, method: str, workspace: str, images: Images, pairs: str) -> str:
    """Run the stage, or find it done; gives the folder of the checkpoint.

    Raises HeldError where another process is training the same.
    """
    job = make_job(config, method, workspace, images, pairs)
    logs.about(run=job.name)
    if shards.has_manifest(job.folder):
        return job.folder
    with held(job.folder, job.name) as note:
        return job.folder if shards.has_manifest(job.folder) else _train(job, workspace, note)


def _train(job: Job, workspace: str, note: dict[str, Any]) -> str:
    """note: what others may know of it while it runs: from (the first step), step, total, images_per_second,
    seconds_left."""
    config = job.config
    if config.start is not None:
        _check_start(job)
    storage.write_json(
        storage.join(job.folder, RUN),
        {
            "name": job.name,
            "experiment": {k: v for k, v in to_dict(config).items() if k != "tracking"},  # a URI may hold a password
            "method": job.method,
            "images": job.images.url,
            "pairs": job.pairs,
            "command": shown(" ".join(["zse", *map(quote, sys.argv[1:])])),
        },
    )
    trained, manifest = _local if config.cluster.workers == 0 else _on_ray, job.pairs_manifest()
    with (
        heeding_sigterm(),
        TrainingRun.open(config, workspace, job.name, job.folder, job.method, manifest) as run,
        _endings(job),
        ExitStack() as stack,
    ):
        with _progress(config.train, job, run, note) as on_event:
            state = stack.enter_context(trained(job, on_event))
        folder = _publish(job, state, run.id)
        run.finish(folder)
    return folder


@contextmanager
def _endings(job: Job) -> Iterator[None]:
    """Where the training does not reach its end, its run.json says how and why, until it is taken up."""
    try:
        yield
    except BaseException as error:
        with suppress(StorageError, OSError):  # the store itself may be why
            run = storage.read_json(storage.join(job.folder, RUN))
            storage.write_json(storage.join(job.folder, RUN), {**run, ENDED: dataclasses.asdict(ending(error))})
        raise


def untrained(config: ExperimentConfig, method: str, workspace: str, images: Images, pairs: str) -> str:
    """A checkpoint of the network before its training: the reference row that a training has to beat."""
    job = make_job(config, method, workspace, images, pairs, untrained=True)
    if not shards.has_manifest(job.folder):
        _write_checkpoint(job, job.create_method(), {"untrained": True}, {})
    return job.folder


def _check_start(job: Job) -> None:
    """Refuse a start that would leak, and say what of it is new: before a cluster is asked for workers."""
    assert job.config.start is not None
    with storage.local_copy(job.config.start) as copy:
        start = load_checkpoint(copy)
    refuse_start(start, job.split())
    new = start_from(job.create_method(load_weights=False), start)
    say(f"Starting from {start.training.get('run')}" + (f"; new: {', '.join(new)}" if new else ""))


def make_job(
    config: ExperimentConfig, method: str, workspace: str, images: Images, pairs: str, *, untrained: bool = False
) -> Job:
    manifest = shards.read_manifest(pairs, "zse shard")
    weights = weights_hash(config.backbone.weights)
    depends: dict[str, Any] = {
        "method": [method, _method_named(config.methods[method])],
        "backbone": {**to_dict(config.backbone), "weights": weights},
        "transforms": to_dict(config.transforms),
        "split": manifest["split_hash"],
        "fingerprint": manifest["fingerprint"],
        "seed": config.train.seed,
    }
    if not untrained:
        depends |= {
            "pairs": manifest["shard"],
            "train": _named(config.train),
            "workers": config.cluster.workers,
            "cpus": config.cluster.cpus_per_worker,
        }
    if config.start is not None:
        depends["start"] = shards.read_manifest(config.start, "zse train")["digest"]
    vectors = class_vectors_of(config.methods[method], manifest["classes"])
    if vectors is not None:  # their values, not their URL: what a file says of other classes changes no name
        depends["class_vectors"] = storage.sha256(vectors.numpy().tobytes())
        depends["method"][1].pop("class_vectors")
    name = f"{config.name}-{method}{'-untrained' if untrained else ''}-{storage.digest(depends, 8)}"
    return Job(name, method, config, images, pairs, storage.join(workspace, "checkpoints", name), vectors, weights)


def _method_named(method: Any) -> dict[str, Any]:
    """What of a method's configuration names a checkpoint. Units that are not decided yet were once written as none."""
    settings = to_dict(method)
    return (
        {**settings, "dropped_units": settings.get("dropped_units") or ()} if "dropped_units" in settings else settings
    )


def _named(train: TrainConfig) -> dict[str, Any]:
    """What of the settings names a checkpoint: not what leaves the weights as they are, and settings that came later
    only where they are not what all trainings had before, which so keep their names."""
    before = {"accumulate": 1, "gather": False, "compile": False}
    settings = to_dict(train)
    del settings["activation_checkpointing"]
    return {name: value for name, value in settings.items() if value != before.get(name, ...)}


# Workers ------------------------------------------------------------------------------------------------------------


def run_worker(job: Job, context: WorkerContext) -> FitState:
    """One worker of a training: build, then fit."""
    keep_freed_memory()
    config, manifest = job.config, job.pairs_manifest()
    split = job.split()
    if manifest["shard"]["layout"] == "memory":
        members = training_members(job.images.members(), split)
        plan, pictures = ItemPlan(members, config.shard), job.images.data(members)
        source: BatchSource = MemorySource(plan, pictures, config.train.batch_size)
    else:
        source = ShardSource(job.pairs, manifest, config.train.batch_size, config.train.seed)
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


class ProcessContext(LocalContext):
    """One plain process. States are kept in the training's folder, wherever that is."""

    def __init__(self, training: str, on_event: Callable[[Event], None]) -> None:
        super().__init__(None, on_event, assigned_device())
        self.training, self.told = training, False

    @contextmanager
    def restore(self) -> Iterator[Path | None]:
        with state_copy(self.training, last_state(self.training)) as folder:
            yield folder

    def report(self, metrics: Event, state: Path | None) -> None:
        if state is not None:
            keep_state(self.training, state)

    @contextmanager
    def heeding_sigterm(self) -> Iterator[None]:
        """On SIGTERM the training keeps its state and returns."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def tell(*_: Any) -> None:
            self.told = True

        before = signal.signal(signal.SIGTERM, tell)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def leaving(self) -> bool:
        return self.told


NOTICED_EVERY = 5.0  # s; a machine that is taken away says so half a minute or more before


class RayContext(ProcessContext):
    """A worker of Ray Train."""

    def __init__(self, training: str, journal: Any, put: Callable[[Event], None]) -> None:
        """put: sets gauges."""
        super().__init__(training, journal.put.remote)
        place = ray.train.get_context()
        self.rank, self.world_size = place.get_world_rank(), place.get_world_size()
        self.device = get_device()
        self.put, self.asked = put, time.monotonic()

    @contextmanager
    def restore(self) -> Iterator[Path | None]:
        """The same on every worker, whatever is written meanwhile."""
        latest = last_state(self.training) if self.rank == 0 else None
        with state_copy(self.training, ray.train.collective.broadcast_from_rank_zero(latest)) as folder:
            yield folder

    def wrap(self, module: nn.Module) -> nn.Module:
        return prepare_model(module)

    def total(self, value: Tensor) -> Tensor:
        if self.world_size > 1:
            torch.distributed.all_reduce(value)
        return value

    def due(self) -> bool:
        """Asking Ray is a barrier of 10 ms: not done in every step."""
        return time.monotonic() - self.asked > NOTICED_EVERY

    def leaving(self) -> bool:
        """Whether a node of the workers is about to go."""
        self.asked = time.monotonic()
        return ray.train.get_preemption_info() is not None

    def log(self, event: Event) -> None:
        """Every worker shows how long it waits; of the training the first one speaks."""
        if "step" in event:
            logs.about(step=event["step"])
            logs.log("training", event)
        if "train/wait_share" in event:
            self.put({"zse_wait_share": event["train/wait_share"]})
            if self.rank == 0:
                self.put({"zse_images_per_second": event["train/images_per_second"]})
        if self.rank == 0 or "step" not in event:
            super().log(event)


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
def _local(job: Job, on_event: Callable[[Event], None]) -> Iterator[Path]:
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
def _on_ray(job: Job, on_event: Callable[[Event], None]) -> Iterator[Path]:
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


@contextmanager
def _progress(
    config: TrainConfig, job: Job, run: TrainingRun, note: dict[str, Any]
) -> Iterator[Callable[[Event], None]]:
    with Meter(f"Train {job.method}", config.steps, "steps") as meter:
        said: dict[str, str] = {}

        def on_event(event: Event) -> None:
            if "step" not in event:  # a sample of a machine
                run.log(event)
                return
            step = int(event["step"])
            logs.about(step=step)
            logs.log("training", event)
            meter.before = note.setdefault("from", step)
            if total := int(event.get("total", 0)):
                if meter.total is None:
                    raw = storage.read_json(storage.join(job.folder, RUN))
                    storage.write_json(storage.join(job.folder, RUN), {**raw, "steps": total})
                meter.total = total
            if "train/loss" in event:
                note["images_per_second"] = event["train/images_per_second"]
                said["loss"] = f"loss {event['train/loss']:.3f}, {event['train/images_per_second']:.0f} img/s"
            if "selection/mAP_all" in event:
                said["selection"] = f"pseudo-unseen mAP_all {event['selection/mAP_all']:.3f}"
            meter.update(step, ", ".join(said.values()))
            note.update(step=step, total=meter.total, seconds_left=meter.left)
            run.log(event)

        yield on_event


# Publishing ---------------------------------------------------------------------------------------------------------


def _publish(job: Job, state_folder: Path, run_id: str | None) -> str:
    """The best weights of a finished training as a checkpoint; the manifest last."""
    state = FitState(**json.loads((state_folder / STATE_FILE).read_text()))
    method = job.create_method(load_weights=False)
    fill(method, read_tensors(state_folder / BEST_FILE), state_folder / BEST_FILE)
    training = {
        "steps": state.total,
        "best_step": state.best_step,
        "selection_mAP_all": state.best,
        "images": state.images,
        "workers": job.config.cluster.workers,
    }
    last = hashlib.sha256((state_folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    extra = {"last_weights_sha256": last, "cpu_seconds": state.cpu_seconds, "mlflow_run": run_id}
    _write_checkpoint(job, method, training, extra, state.history)
    storage.remove_folder(storage.join(job.folder, STATES))
    return job.folder


def _write_checkpoint(
    job: Job,
    method: RetrievalMethod,
    training: dict[str, Any],
    extra: dict[str, Any],
    history: list[Event] | None = None,
) -> None:
    pairs, split = job.pairs_manifest(), job.split()
    seen = seen_keys(training_members(job.images.members(), split).sha256)
    if job.config.start is not None:
        with storage.local_copy(job.config.start) as copy:
            seen = torch.cat([seen, read_seen(copy)]).unique()
    checkpoint = Checkpoint(
        name=job.method,
        method=method,
        transforms=TransformConfig(**pairs["transforms"]),
        split=split,
        seen_pictures=seen,
        training={"run": job.name, "fingerprint": job.images.fingerprint, "classes": pairs["classes"], **training},
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_checkpoint(checkpoint, folder)
        (folder / "history.json").write_text(json.dumps(history or []))
        storage.upload_folder(folder, job.folder, last=INFO)
    shards.write_manifest(
        job.folder,
        {"name": job.name, "method": job.method, "digest": checkpoint.digest, "training": training, **extra},
    )
