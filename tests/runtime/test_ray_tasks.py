"""Ray: which device a worker computes on, and what is refused or said while there is no room."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import ray
import torch
import yaml

from pipelines.encode import device as device_of_process
from pipelines.encode.device import assigned_device, usable_device
from pipelines.runtime.cluster import ClusterConfig
from pipelines.runtime.ray_tasks import connect, expecting, run_parts
from tests.conftest import TINY, merged
from tests.helpers.servers import BIN, ray_head
from zse_model.errors import ZseError


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


def test_a_gpu_that_does_not_compute_is_named_once_and_the_cpu_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    device_of_process._computes.cache_clear()
    monkeypatch.setattr(torch, "ones", Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory.\nTried")))
    try:
        assert [str(usable_device()), str(usable_device())] == ["cpu", "cpu"]
        assert str(assigned_device()) == "cuda", "a training ends with the error of its GPU"
    finally:
        device_of_process._computes.cache_clear()
    said = capsys.readouterr().err
    assert said.count("computing on the CPU") == 1 and "The GPU cannot be used (CUDA out of memory.)" in said


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments that Ray would be started with, on a machine of 4 CPUs."""
    calls: list[dict[str, Any]] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: bool(calls))
    monkeypatch.setattr(ray, "init", lambda **arguments: calls.append(arguments))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": float(calls[0]["num_cpus"])})
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": ray.cluster_resources()}])
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 0.0})
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    return calls


def test_ray_is_started_once_with_room_for_the_training_that_follows(started: list[dict[str, Any]]) -> None:
    with expecting(ClusterConfig(workers=3, cpus_per_worker=2)):
        connect()  # for the ingest
    connect(ClusterConfig(workers=3, cpus_per_worker=2))
    connect()
    assert [call["num_cpus"] for call in started] == [7]
    with pytest.raises(
        ZseError, match="8 CPUs and 0 GPUs are needed .*, but Ray on this machine has 7 CPUs and 0 GPUs, room for 7"
    ):
        connect(ClusterConfig(workers=8))
    connect(ClusterConfig(workers=8, min_workers=7))


def test_a_gpu_that_is_not_there_is_not_waited_for(started: list[dict[str, Any]]) -> None:
    with expecting(ClusterConfig(workers=1, gpus_per_worker=1)), pytest.raises(ZseError, match="has 5 CPUs and 0 GPUs"):
        connect()
    with pytest.raises(ZseError, match="1 CPUs and 1 GPUs are needed.*cluster.gpus_per_worker"):
        next(run_parts([{}], dict, what="", unit="", total=1, gpus=1))


def test_a_folder_with_a_long_path_is_none_for_rays_sockets(
    started: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 60)))
    connect()
    assert started[0]["_temp_dir"] == "/tmp/ray" and "is too long for sockets" in capsys.readouterr().err
    started.clear()
    monkeypatch.setenv("TMPDIR", "/tmp")
    connect()
    assert started[0]["_temp_dir"] is None


def test_a_cluster_that_does_not_answer_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: Any) -> None:
        raise ConnectionError("no connection\nmore")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refused)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ZseError, match=r"RAY_ADDRESS=127.0.0.1:1: no Ray answers \(.*refused\)\. Start a cluster"):
        connect()
    monkeypatch.setattr("pipelines.runtime.ray_tasks._answers", lambda _: None)  # something listens, and it is no Ray
    with pytest.raises(ZseError, match=r"no Ray answers \(no connection\)\. Start a cluster"):
        connect()


@pytest.mark.cluster
@pytest.mark.ray
@pytest.mark.timeout(200)
@pytest.mark.parametrize("version", ["0", "1"], ids=["autoscaler v1", "autoscaler v2"])
def test_a_cluster_without_an_autoscaler_refuses_what_can_never_fit(version: str, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(merged(TINY, {"cluster": {"workers": 8}})))
    with ray_head("--num-cpus=1", environment={"RAY_enable_autoscaler_v2": version}) as head:
        done = subprocess.run(
            [str(BIN / "zse"), "run", "-e", str(tmp_path / "tiny.yaml"), "-w", str(tmp_path / "w")],
            env=head.env | {"RAY_ADDRESS": head.address},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == 1 and done.stdout == "" and "Traceback" not in done.stderr
    assert "zse: 8 CPUs and 0 GPUs are needed (workers: 8, each with 1 and 0 of one node)" in done.stderr
    assert f"the cluster at {head.address}, which has no autoscaler, has 1 CPUs and 0 GPUs" in done.stderr
    assert not list(tmp_path.glob("w/images/*/_manifest.json")), "refused before data is read"


def on_a_cluster(monkeypatch: pytest.MonkeyPatch, types: list[str] | None, *nodes: int) -> None:
    """A cluster of nodes with so many CPUs, of which Ray's monitor says that they are of these types."""
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr("pipelines.runtime.ray_tasks.JOINING", 0)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": float(sum(nodes))})
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": float(n)}} for n in nodes])
    monkeypatch.setattr("pipelines.runtime.ray_tasks.is_autoscaler_v2", lambda **_: False)
    told = None if types is None else json.dumps({"autoscaler_report": {"active_nodes": dict.fromkeys(types, 1)}})
    monkeypatch.setattr("pipelines.runtime.ray_tasks._internal_kv_get", lambda _: told)


@pytest.mark.parametrize("types", [["head"], ["ray.head.default", "worker"], [], None])
def test_what_an_autoscaler_may_bring_is_waited_for(types: list[str] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_cluster(monkeypatch, types, 1)
    connect(ClusterConfig(workers=8))


def test_a_worker_needs_its_cpus_on_one_node(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_cluster(monkeypatch, [f"node_{'0f' * 28}"], 2, 2, 3)
    connect(ClusterConfig(workers=3, cpus_per_worker=2))
    with pytest.raises(ZseError, match="each with 3 and 0 of one node.*which has no autoscaler, has 7 CPUs.*for 1"):
        connect(ClusterConfig(workers=2, cpus_per_worker=3))
