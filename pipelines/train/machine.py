"""How busy a machine is while it trains: processors, memory, network, GPUs, under the names that MLflow's page of
system metrics shows."""

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
    """Send a sample of this machine now and then until left, from a thread.

    node: stands in the names where a training has several machines; "" = it has one. A sample has `time` (s since the
    epoch) and values as `system/<node>/cpu_utilization_percentage`.
    """
    before = psutil.net_io_counters()
    prefix = f"{PREFIX}{node}/" if node else PREFIX
    psutil.cpu_percent()  # it counts from the call before

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
    """Of the GPUs of this machine that the training may use; asked of NVIDIA's library, which opens nothing on them."""
    found: dict[str, float] = {}
    for i in range(torch.cuda.device_count()):
        with suppress(Exception):  # a slice of a GPU has no utilisation, and a sample is not worth a training
            used, total = torch.cuda.device_memory_used(i), torch.cuda.get_device_properties(i).total_memory
            found[f"gpu_{i}_memory_usage_percentage"] = 100 * used / total
            found[f"gpu_{i}_memory_usage_megabytes"] = used / MB
            found[f"gpu_{i}_utilization_percentage"] = float(torch.cuda.utilization(i))
    return found
