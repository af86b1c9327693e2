"""Ray: which device a worker computes on, and what is refused or said while there is no room."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch

from pipelines.device import assigned_device


@pytest.mark.parametrize(
    ("mode", "assigned", "visible", "device"),
    [
        (None, [], None, "cuda"),
        (ray.SCRIPT_MODE, [], None, "cuda"),
        (ray.WORKER_MODE, [], "0,1", "cpu"),
        (ray.WORKER_MODE, [], None, "cpu"),
        (ray.WORKER_MODE, [3], "3", "cuda:0"),
        (ray.WORKER_MODE, ["GPU-7", "GPU-8"], "GPU-6,GPU-7,GPU-8", "cuda:1"),
        (ray.WORKER_MODE, [2], None, "cuda:2"),
    ],
)
def test_a_worker_computes_on_the_gpu_that_it_was_given(
    mode: int | None, assigned: list[Any], visible: str | None, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ray, "is_initialized", lambda: mode is not None)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(worker=SimpleNamespace(mode=mode)))
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: assigned)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert assigned_device() == torch.device(device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert assigned_device() == torch.device("cpu")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_that_asked_for_no_gpu_computes_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def device() -> str:
        torch.cuda.is_available = lambda: True  # as on a node that has one
        return str(assigned_device())

    class Actor:
        def device(self) -> str:
            return device()

    remote: Any = ray.remote
    assert ray.get(remote(device).remote()) == "cpu"
    assert ray.get(remote(Actor).remote().device.remote()) == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert str(assigned_device()) == "cuda", "the driver takes what is there"
