"""The stage `zse train`: train a method on pair shards and publish a checkpoint.

Ray Train runs `zse_model.fit` as DDP workers; with `cluster.workers: 0` it runs in this process. The folder's name ends
in a hash of everything that the weights depend on, so the same command resumes the training or finds it complete. Its
files are listed in `pipelines/workspace/training.py`.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from shlex import quote
from typing import Any

from pipelines.config.experiment import ExperimentConfig, to_dict
from pipelines.runtime import logs
from pipelines.runtime.errors import StorageError
from pipelines.runtime.progress import Meter, say
from pipelines.runtime.redaction import shown
from pipelines.store import storage
from pipelines.store.lease import held
from pipelines.tracking import TrainingRun
from pipelines.train.contexts import Event
from pipelines.train.job import Job, make_job
from pipelines.train.networks import refuse_random_teacher
from pipelines.train.publish import publish, write_checkpoint
from pipelines.train.workers import locally, on_ray
from pipelines.workspace.endings import ENDED, ending, heeding_sigterm
from pipelines.workspace.images import Images
from pipelines.workspace.pairs import Pairs
from pipelines.workspace.training import Training, read_run, write_run
from zse_model.checkpoint import (
    load_checkpoint,
    start_from,
)
from zse_model.evaluation.leaks import refuse_start
from zse_model.fit import (
    TrainConfig,
)


@logs.stage("train")
def train(config: ExperimentConfig, method: str, workspace: str, images: Images, pairs: Pairs) -> Training:
    """The checkpoint; trained or resumed unless it is complete.

    Raises HeldError if another process runs the same training.
    """
    job = make_job(config, method, workspace, images, pairs)
    logs.about(run=job.name)
    if (done := Training.find(job.folder, job.key)) is not None:
        return done
    with held(job.folder, job.name) as lease:
        return Training.find(job.folder, job.key) or _train(job, workspace, lease.note)


def _train(job: Job, workspace: str, note: dict[str, Any]) -> Training:
    """note: progress for `zse status`, kept in the lease: from (the first step), step, total, images_per_second,
    seconds_left."""
    config = job.config
    refuse_random_teacher(config, job.method)
    if config.start is not None:
        _check_start(job)
    write_run(
        job.folder,
        {
            "name": job.name,
            "experiment": {k: v for k, v in to_dict(config).items() if k != "tracking"},  # a URI may hold a password
            "method": job.method,
            "images": job.images.url,
            "pairs": job.pairs.url,
            "command": shown(" ".join(["zse", *map(quote, sys.argv[1:])])),
        },
    )
    trained = locally if config.cluster.workers == 0 else on_ray
    with (
        heeding_sigterm(),
        TrainingRun.open(config, workspace, job.name, job.folder, job.method, job.pairs) as run,
        _endings(job),
        ExitStack() as stack,
    ):
        with _progress(config.train, job, run, note) as on_event:
            state = stack.enter_context(trained(job, on_event))
        training = publish(job, state, run.id)
        run.finish(training)
    return training


@contextmanager
def _endings(job: Job) -> Iterator[None]:
    """If the training ends early, write how and why to run.json. The next attempt overwrites it."""
    try:
        yield
    except BaseException as error:
        with suppress(StorageError, OSError):  # the store itself may be the cause
            write_run(job.folder, {**read_run(job.folder), ENDED: dataclasses.asdict(ending(error))})
        raise


def untrained(config: ExperimentConfig, method: str, workspace: str, images: Images, pairs: Pairs) -> Training:
    """A checkpoint of the network before training, for the reference row `untrained`."""
    job = make_job(config, method, workspace, images, pairs, untrained=True)
    done = Training.find(job.folder, job.key)
    return done or write_checkpoint(job, job.create_method(), {"untrained": True}, {})


def _check_start(job: Job) -> None:
    """Refuse a start that would leak, and print which weights are new. Done before any worker starts."""
    assert job.config.start is not None
    with storage.local_copy(job.config.start) as copy:
        start = load_checkpoint(copy)
    refuse_start(start, job.pairs.split)
    new = start_from(job.create_method(load_weights=False), start)
    say(f"Starting from {start.training.get('run')}" + (f"; new weights: {', '.join(new)}" if new else ""))


@contextmanager
def _progress(
    config: TrainConfig, job: Job, run: TrainingRun, note: dict[str, Any]
) -> Iterator[Callable[[Event], None]]:
    """A function that takes the training's events: to the progress bar, the log, `note` and MLflow."""
    with Meter(f"Train {job.method}", config.steps, "steps") as meter:
        said: dict[str, str] = {}

        def on_event(event: Event) -> None:
            if "step" not in event:  # a sample of a machine's load
                run.log(event)
                return
            step = int(event["step"])
            logs.about(step=step)
            logs.log("training", event)
            meter.before = note.setdefault("from", step)
            if total := int(event.get("total", 0)):
                if meter.total is None:
                    write_run(job.folder, {**read_run(job.folder), "steps": total})
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
