"""Publish a finished training as a checkpoint in its folder. The stage `train` calls this module."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from pipelines.runtime.progress import say
from pipelines.store import storage
from pipelines.train.contexts import Event
from pipelines.train.job import Job
from pipelines.workspace.members import training_members
from pipelines.workspace.states import STATES
from pipelines.workspace.training import HISTORY, Training
from zse_model.checkpoint import (
    INFO,
    Checkpoint,
    fill,
    read_seen,
    read_tensors,
    save_checkpoint,
    seen_keys,
)
from zse_model.fit import (
    BEST_FILE,
    STATE_FILE,
    WEIGHTS_FILE,
    FitState,
)
from zse_model.methods import RetrievalMethod
from zse_model.proof import proof_of
from zse_model.split import FEWEST
from zse_model.transforms import TransformConfig
from zse_model.tuning import merged


def publish(job: Job, state_folder: Path, run_id: str | None) -> Training:
    """Write the weights of the best check as a checkpoint, and remove the training's states.

    state_folder: a local copy of the last state. Raises ZseError for a state that is cut or does not fit.
    """
    state = FitState(**json.loads((state_folder / STATE_FILE).read_text()))
    method = job.create_method(load_weights=False)
    fill(method, merged(read_tensors(state_folder / BEST_FILE)), state_folder / BEST_FILE)
    training = {
        "steps": state.total,
        "best_step": state.best_step,
        "selection_mAP_all": state.best,
        "images": state.images,
        "workers": job.config.cluster.workers,
    }
    if not bool(method.confidence.any()):
        say(
            f"Answers of this model have no confidence. It is fitted when a training ends, on {FEWEST} or more "
            f"pseudo-unseen classes, if higher scores are right more often. This training has "
            f"{len(job.pairs.split.pseudo_unseen)} such classes"
        )
    last = hashlib.sha256((state_folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    extra = {"last_weights_sha256": last, "cpu_seconds": state.cpu_seconds, "mlflow_run": run_id}
    made = write_checkpoint(job, method, training, extra, state.history)
    storage.remove_folder(storage.join(job.folder, STATES))
    return made


def write_checkpoint(
    job: Job,
    method: RetrievalMethod,
    training: dict[str, Any],
    extra: dict[str, Any],
    history: list[Event] | None = None,
) -> Training:
    """Write a checkpoint; its manifest is written last.

    training: kept in the checkpoint and the manifest, with the job's licence; extra: in the manifest only. The
    checkpoint's seen pictures are those of this training and of its start.
    """
    pairs = job.pairs
    seen = seen_keys(training_members(job.images.members(), pairs.split).sha256)
    if job.config.start is not None:
        with storage.local_copy(job.config.start) as copy:
            seen = torch.cat([seen, read_seen(copy)]).unique()
    if job.licence is not None:
        training = training | {"licence": job.licence}
    checkpoint = Checkpoint(
        name=job.method,
        method=method,
        transforms=TransformConfig(**pairs.transforms),
        split=pairs.split,
        seen_pictures=seen,
        training={"run": job.name, "fingerprint": job.images.fingerprint, "classes": pairs.classes, **training},
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_checkpoint(checkpoint, folder)
        (folder / HISTORY).write_text(json.dumps(history or []))
        storage.upload_folder(folder, job.folder, last=INFO)
    about = {"name": job.name, "method": job.method, "digest": checkpoint.digest, "training": training}
    return Training.write(job.folder, job.key, **about, **extra, proof=proof_of(method, checkpoint.transforms))
