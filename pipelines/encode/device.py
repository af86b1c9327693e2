"""Choose the device that a process computes on. Trainings, `embed`, evaluations and searches call it."""

from __future__ import annotations

import logging
import os
import sys
from functools import cache

import torch

from pipelines.runtime.progress import say
from zse_model.precision import allow_tf32


def assigned_device() -> torch.device:
    """In a Ray worker, the first GPU that is assigned to its task or actor, perhaps shared. A worker that asked for no
    GPU gets the CPU, although Ray leaves all GPUs of the node visible to it. Elsewhere the first GPU, or the CPU. From
    then on this process computes float32 without TF32.
    """
    allow_tf32(False)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    ray = sys.modules.get("ray")  # a worker has imported it
    if ray is None or not ray.is_initialized() or ray.get_runtime_context().worker.mode != ray.WORKER_MODE:
        return torch.device("cuda")
    if not (assigned := [str(gpu) for gpu in ray.get_gpu_ids()]):
        return torch.device("cpu")
    visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    # torch counts the visible GPUs; Ray gives the name of the driver or of CUDA_VISIBLE_DEVICES
    return torch.device("cuda", visible.index(assigned[0]) if assigned[0] in visible else int(assigned[0]))


def usable_device() -> torch.device:
    """`assigned_device`, or the CPU, with a warning, where a GPU that nobody asked for does not compute. For searches
    and indices: a training that went on with the CPU would look like one that works.
    """
    device = assigned_device()
    return device if device.type == "cpu" or device.index is not None or _computes() else torch.device("cpu")


@cache
def _computes() -> bool:
    """Whether the visible GPU adds two numbers: this build of torch may have no code for it, or its memory is full. The
    answer is kept for the life of the process."""
    try:
        torch.ones(1, device="cuda").add(1).cpu()
    except RuntimeError as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        say(f"The GPU cannot be used ({said}); computing on the CPU", logging.WARNING)
        return False
    return True
