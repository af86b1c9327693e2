"""Choose the device that a process computes on. Trainings, `embed`, evaluations and searches call it."""

from __future__ import annotations

import os
import sys
from functools import cache

import torch

from pipelines.runtime.progress import say


def assigned_device() -> torch.device:
    """In a Ray worker, the first GPU that is assigned to its task or actor, perhaps shared. A worker that asked for no
    GPU gets the CPU, although Ray leaves all GPUs of the node visible to it. Elsewhere the first GPU if it computes,
    or the CPU.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    ray = sys.modules.get("ray")  # a worker has imported it
    if ray is None or not ray.is_initialized() or ray.get_runtime_context().worker.mode != ray.WORKER_MODE:
        return torch.device("cuda" if _computes() else "cpu")
    if not (assigned := [str(gpu) for gpu in ray.get_gpu_ids()]):
        return torch.device("cpu")
    visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    # torch counts the visible GPUs; Ray gives the name of the driver or of CUDA_VISIBLE_DEVICES
    return torch.device("cuda", visible.index(assigned[0]) if assigned[0] in visible else int(assigned[0]))


@cache
def _computes() -> bool:
    """A GPU may be visible and yet unusable: its memory is full, or this build of torch has no code for it. A worker
    that was given a GPU is not asked: a training that went on with the CPU would look like one that works.
    """
    try:
        torch.ones(1, device="cuda").add(1).cpu()
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        say(f"The GPU cannot be used ({str(error).splitlines()[0]}); computing on the CPU")
        return False
    return True
