"""Sample the load of a training machine: CPU, memory, network and GPUs, under the names of MLflow's system metrics.

The first worker of each machine calls `sampled`; `tracking` writes the samples to the training's run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil
import torch

from pipelines.runtime.background import repeated

EVERY = 10.0  # s
PREFIX = "system/"
MB = 1e6


@contextmanager
def sampled(node: str, send: Callable[[dict[str, float]], None]) -> Iterator[None]:
    """Within the context, a thread sends a sample of this machine every EVERY seconds.

    node: the machine's name in the metrics of a training on several machines, else "". A sample has `time` (s since the
    epoch) and values such as `system/<node>/cpu_utilization_percentage`.
    """
    before = psutil.net_io_counters()
    prefix = f"{PREFIX}{node}/" if node else PREFIX
    psutil.cpu_percent()  # the next call measures from here

    def sample() -> None:
        nonlocal before
        network = psutil.net_io_counters()
        memory = psutil.virtual_memory()
        found = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MB,
            "system_memory_usage_percentage": memory.percent,
            "network_receive_megabytes": (network.bytes_recv - before.bytes_recv) / MB,
            "network_transmit_megabytes": (network.bytes_sent - before.bytes_sent) / MB,
            **_gpus(),
        }
        send({"time": time.time(), **{prefix + name: value for name, value in found.items()}})
        before = network

    with repeated(sample, EVERY):
        yield


def _gpus() -> dict[str, float]:
    """Utilisation and memory of the GPUs that the training may use, read by NVML, which allocates nothing on a GPU."""
    found: dict[str, float] = {}
    for i in range(torch.cuda.device_count()):
        with suppress(Exception):  # a MIG slice reports no utilisation; a failed sample must not end the training
            used, total = torch.cuda.device_memory_used(i), torch.cuda.get_device_properties(i).total_memory
            found[f"gpu_{i}_memory_usage_percentage"] = 100 * used / total
            found[f"gpu_{i}_memory_usage_megabytes"] = used / MB
            found[f"gpu_{i}_utilization_percentage"] = float(torch.cuda.utilization(i))
    return found
