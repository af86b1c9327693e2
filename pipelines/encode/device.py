"""The device that a process computes on."""

from __future__ import annotations

import os
import sys

import torch


def assigned_device() -> torch.device:
    """In a worker of Ray the first GPU that was assigned to its task or actor, which may share it, and the CPU where
    none was asked for: Ray leaves all GPUs of a node visible to such a worker. Elsewhere the first GPU, if any.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    ray = sys.modules.get("ray")  # a worker has imported it
    if ray is None or not ray.is_initialized() or ray.get_runtime_context().worker.mode != ray.WORKER_MODE:
        return torch.device("cuda")
    if not (assigned := [str(gpu) for gpu in ray.get_gpu_ids()]):
        return torch.device("cpu")
    visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    # torch counts those that are visible; Ray names them as the driver or that variable does
    return torch.device("cuda", visible.index(assigned[0]) if assigned[0] in visible else int(assigned[0]))
