"""Inspect the nodes of a cluster, and find what would stop a run or slow it down. `doctor` calls it."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal
from uuid import uuid4

import ray

PACKAGES = ("ray", "torch", "torchvision", "timm", "pyarrow", "numpy", "fsspec", "s3fs", "mlflow")
SPILL_ROOM = 0.1  # share of a disk that must be free; Ray stops writing at 5 %
SKEW = 60.0  # s; stores refuse signatures that are off by 15 minutes


@dataclass(frozen=True)
class Node:
    """The properties of a node, measured on it."""

    name: str
    cpus: float
    gpus: float
    """GPUs that Ray offers."""
    object_store: float
    """Bytes."""
    versions: Mapping[str, str]
    """Versions of python and the packages; `zse` is a digest of the code."""
    clock: float
    """Seconds since the epoch."""
    shared_memory: int
    """Bytes of /dev/shm; 0 = none."""
    disk: tuple[int, int]
    """Free and total bytes of the disk that objects spill to."""
    cards: tuple[str, ...]
    """Names of the GPUs that NVIDIA's library finds."""
    driver: tuple[int, int]
    """CUDA version that the driver supports; (0, 0) = no driver."""
    cuda: str
    """CUDA version that torch was built for; empty = built without CUDA."""
    nccl: bool
    storage: str
    """Why the workspace cannot be written, read or cleaned from the node; empty if it can."""
    source: str
    """Why the experiment's data cannot be read from the node; empty if it can."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    what: str
    state: Literal["ok", "slow", "fails"]
    text: str
    fix: str = ""
    """What to do about it."""


def look(resources: Mapping[str, float], name: str, workspace: str, source: str) -> Node:
    """Inspect the node that this runs on. workspace: a probe is written to it, read and removed. source: is listed.
    Empty = not checked."""
    import torch
    import torch.distributed

    spills, shm = shutil.disk_usage(ray.get_runtime_context().get_temp_dir()), Path("/dev/shm")
    cards, driver = _cards()
    return Node(
        name=name,
        cpus=resources.get("CPU", 0),
        gpus=resources.get("GPU", 0),
        object_store=resources.get("object_store_memory", 0),
        versions={"python": platform.python_version(), **{p: version(p) for p in PACKAGES}, "zse": code_digest()},
        clock=time.time(),
        shared_memory=shutil.disk_usage(shm).total if shm.is_dir() else 0,
        disk=(spills.free, spills.total),
        cards=cards,
        driver=driver,
        cuda=torch.version.cuda or "",
        nccl=torch.distributed.is_nccl_available(),
        storage=written(workspace) if workspace else "",
        source=_listed(source) if source else "",
    )


def code_digest() -> str:
    """A digest of the Python files of the two packages, to find nodes with other code."""
    import pipelines
    import zse_model

    found = hashlib.sha256()
    for package in (pipelines, zse_model):
        root = Path(package.__path__[0])
        for file in sorted(root.rglob("*.py")):
            found.update(f"{package.__name__}/{file.relative_to(root)}\n".encode() + file.read_bytes())
    return found.hexdigest()[:12]


def _cards() -> tuple[tuple[str, ...], tuple[int, int]]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return (), (0, 0)
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        can = pynvml.nvmlSystemGetCudaDriverVersion()
        return tuple(str(pynvml.nvmlDeviceGetName(handle)) for handle in handles), (can // 1000, can % 1000 // 10)
    finally:
        pynvml.nvmlShutdown()


def written(workspace: str) -> str:
    """Why a workspace cannot be written, read or cleaned from here; empty if it can."""
    from pipelines.runtime.errors import StorageError
    from pipelines.store import storage

    folder, data = storage.join(workspace, f"doctor-{uuid4().hex}"), os.urandom(1024)
    try:
        storage.write_bytes(storage.join(folder, "probe"), data)
        same = storage.read_bytes(storage.join(folder, "probe")) == data
        storage.remove_folder(folder)
    except (StorageError, OSError) as error:
        return f"{workspace}: {error}"
    return "" if same else f"{workspace}: the bytes read are not those written"


def _listed(source: str) -> str:
    from pipelines.runtime.errors import StorageError
    from pipelines.store import storage

    try:
        return "" if storage.exists(source) or storage.names(source) else f"{source} does not exist or is empty"
    except (StorageError, OSError) as error:
        return f"{source}: {error}"


def findings(nodes: Sequence[Node], since: float, until: float) -> list[Finding]:
    """The findings on nodes that were inspected between two times of the driver's clock."""
    return [*_versions(nodes), *_clocks(nodes, since, until), *_gpus(nodes), *_memory(nodes), *_storage(nodes)]


def _versions(nodes: Sequence[Node]) -> Iterator[Finding]:
    same = True
    for package in nodes[0].versions:
        by_version: dict[str, list[str]] = {}
        for node in nodes:  # torch 2.14.1+cpu counts as 2.14.1: nodes without a GPU may have it
            by_version.setdefault(node.versions[package].partition("+")[0], []).append(node.name)
        if len(by_version) > 1:
            same = False
            said = "; ".join(f"{v} on {_names(names)}" for v, names in sorted(by_version.items()))
            fix = (
                "ship the code with the job: ray job submit --working-dir ., or build all images from one commit"
                if package == "zse"
                else "install all nodes from constraints.txt: build all images from one commit"
            )
            yield Finding("versions", "fails", f"{package}: {said}", fix)
    if same:
        known = nodes[0].versions
        said = ", ".join(f"{name} {known[name]}" for name in ("python", "ray", "torch", "zse"))
        yield Finding("versions", "ok", f"the same on {len(nodes)} nodes: {said}")


def _clocks(nodes: Sequence[Node], since: float, until: float) -> Iterator[Finding]:
    """A node read its clock between `since` and `until`; what lies outside is its least error."""
    off = {node.name: min(node.clock - since, 0) + max(node.clock - until, 0) for node in nodes}
    if wrong := [name for name, seconds in off.items() if abs(seconds) > SKEW]:
        worst = max((off[name] for name in wrong), key=abs)
        text = f"{_names(wrong)}: {worst:+.0f} s from the driver's clock"
        yield Finding("clocks", "fails", text, "run a time service (chrony) on every node: stores refuse signatures")


def _gpus(nodes: Sequence[Node]) -> Iterator[Finding]:
    with_cards = [n for n in nodes if n.cards or n.gpus]
    if not with_cards:
        yield Finding("GPUs", "ok", "no node has a GPU: everything runs on CPUs")
        return
    good = True
    for node in with_cards:
        for text, fix in _wrong_with(node):
            good = False
            yield Finding("GPUs", "fails", f"{node.name}: {text}", fix)
    kinds = sorted({card for n in with_cards for card in n.cards})
    if good:
        yield Finding(
            "GPUs", "ok", f"{sum(n.gpus for n in with_cards):g} on {len(with_cards)} nodes: {', '.join(kinds)}"
        )
    if len(kinds) > 1:
        yield Finding(
            "GPUs", "slow", f"{len(kinds)} kinds: {', '.join(kinds)}", "use one kind: each step waits for the slowest"
        )


def _wrong_with(node: Node) -> Iterator[tuple[str, str]]:
    """(problem, remedy) of everything that keeps the GPUs of a node from being used."""
    install = "install torch from PyPI by constraints.txt"
    if len(node.cards) < node.gpus:
        yield f"Ray has {node.gpus:g} GPUs, the driver {len(node.cards)}", "check nvidia-smi on that node"
    elif len(node.cards) > node.gpus:
        text = f"the driver has {len(node.cards)} GPUs, Ray {node.gpus:g}"
        yield text, "start its Ray with --num-gpus, or leave CUDA_VISIBLE_DEVICES unset"
    if not node.cuda:
        yield "torch was built without CUDA", install
    elif node.driver < tuple(int(part) for part in node.cuda.split(".")[:2]):
        text = f"the driver supports CUDA {node.driver[0]}.{node.driver[1]}, torch needs {node.cuda}"
        yield text, "install a newer driver on the node (580 or later for CUDA 13)"
    if node.cuda and not node.nccl:
        yield "torch has no NCCL", install


def _memory(nodes: Sequence[Node]) -> Iterator[Finding]:
    if small := [n for n in nodes if n.shared_memory < n.object_store]:
        node = small[0]
        yield Finding(
            "shared memory",
            "slow",
            f"{_names([n.name for n in small])}: /dev/shm has {_gb(node.shared_memory)}, the object store takes "
            f"{_gb(node.object_store)}: Ray puts it on disk",
            "docker --shm-size, an emptyDir with medium: Memory at /dev/shm, or a smaller --object-store-memory",
        )
    full = [n for n in nodes if n.disk[0] < SPILL_ROOM * n.disk[1]]
    if full:
        node = min(full, key=lambda n: n.disk[0] / n.disk[1])
        yield Finding(
            "disk",
            "fails",
            f"{_names([n.name for n in full])}: {_gb(node.disk[0])} of {_gb(node.disk[1])} free where objects spill",
            "free some, or ray start --temp-dir on a larger disk: Ray stops writing at 5 %",
        )
    else:
        least = min(nodes, key=lambda n: n.disk[0])
        yield Finding("disk", "ok", f"at least {_gb(least.disk[0])} free where objects spill ({least.name})")


def _storage(nodes: Sequence[Node]) -> Iterator[Finding]:
    for what, good, problem in (
        ("workspace", "written, read and cleaned", {n.name: n.storage for n in nodes}),
        ("data", "can be listed", {n.name: n.source for n in nodes}),
    ):
        by_reason: dict[str, list[str]] = {}
        for name, reason in problem.items():
            by_reason.setdefault(reason, []).append(name)
        for reason, names in by_reason.items():
            if reason:
                fix = "give every node the same role or credentials, and AWS_ENDPOINT_URL where the store is not AWS"
                yield Finding(what, "fails", f"{_names(names)}: {reason}", fix)
        if set(problem.values()) == {""}:
            yield Finding(what, "ok", f"{good} from {len(nodes)} nodes")


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(sorted(names)[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"


def _gb(n: float) -> str:
    return f"{n / 1e9:.1f} GB"
