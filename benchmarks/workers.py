"""Measure differences of 2 and 4 workers to one worker with the same global batch: losses of 20 steps, and the weights
after them.

The workers are processes with gloo. Pictures are random, 32 px; networks are tiny, of timm, without dropout, one with
layer norms and one with batch norms. A global batch is 8 items.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.helpers.batches import CLASSES, SIZE, Pictures
from zse_model.backbones import BackboneConfig
from zse_model.fit import LocalContext, TrainConfig, fit
from zse_model.methods import (
    CrossATNetConfig,
    GlobalConfig,
    LateInteractionConfig,
    RetrievalMethod,
    ZseSbirConfig,
    create_method,
)

GLOBAL, STEPS = 8, 20
METHODS: dict[str, Any] = {
    "global": GlobalConfig(dim=16, readout="head"),
    "zse_sbir": ZseSbirConfig(heads=2, ffn=32, contrast=1.0, classification=1.0, dropout=0.0),
    "crossatnet": CrossATNetConfig(dim=16, attention_dim=8, vector_dim=8, neighbours=2, bits=0),
    "late_interaction": LateInteractionConfig(dim=16, place_dim=8, readout="head"),
}


@dataclass(frozen=True)
class Case:
    method: str
    backbone: str = "test_vit"
    gather: bool = True
    planned: int | None = None
    """Number of workers that the batch is divided by; None = the real number."""


CASES = [
    *(Case(method, gather=gather) for method in METHODS for gather in (True, False)),
    *(Case(method, "test_resnet") for method in METHODS),
    *(Case(method, gather=False, planned=4) for method in METHODS),
]


@dataclass
class Outcome:
    losses: Tensor
    """float64 [20], means over the workers."""
    weights: Tensor
    """float32, without the biases of attention's keys, which change nothing: their gradient is rounding error, which
    Adam turns into full steps."""


def main() -> None:
    alone, *others = (outcomes(workers, CASES) for workers in (1, 2, 4))
    print("largest difference to one worker            losses: 2 workers, 4    weights: 2 workers, 4")
    for case, base, *found in zip(CASES, alone, *others, strict=True):
        how = "gathered" if case.gather else "not gathered" if case.planned is None else f"planned for {case.planned}"
        name = f"{case.method} on {case.backbone}, {how}"
        losses = "  ".join(f"{(o.losses - base.losses).abs().max():10.1e}" for o in found)
        weights = "  ".join(f"{(o.weights - base.weights).abs().max():10.1e}" for o in found)
        print(f"{name:44} {losses}   {weights}", flush=True)


def outcomes(workers: int, cases: Sequence[Case]) -> list[Outcome]:
    """The outcome of each case, trained by `workers` processes. One worker is this process."""
    if workers == 1:
        return [_train(case, Gloo(0, 1)) for case in cases]
    with tempfile.TemporaryDirectory() as folder:
        arguments = (workers, list(cases), folder)
        # A server that has imported this module once forks the workers: importing it takes a worker seconds.
        multiprocessing.set_forkserver_preload(["benchmarks.workers"])
        torch.multiprocessing.start_processes(_worker, arguments, nprocs=workers, start_method="forkserver")  # type: ignore[attr-defined]
        return torch.load(Path(folder) / "outcomes.pt", weights_only=False)


def _worker(rank: int, workers: int, cases: list[Case], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=workers)
    try:
        found = [_train(case, Gloo(rank, workers)) for case in cases]
    finally:
        dist.destroy_process_group()
    if rank == 0:
        torch.save(found, Path(folder) / "outcomes.pt")


def _train(case: Case, context: Gloo) -> Outcome:
    torch.manual_seed(0)
    backbone = BackboneConfig(name=case.backbone)
    method: RetrievalMethod = create_method(case.method, METHODS[case.method], backbone, size=SIZE, classes=CLASSES)
    workers = case.planned or context.world_size
    items = GLOBAL // workers
    config = TrainConfig(steps=STEPS, batch_size=items, warmup=2, lr=1e-3, checks=1, gather=case.gather)
    history = fit(method, Pictures(items), context, config, prepare_steps=0, workers=workers).history
    losses = torch.tensor([event["train/loss"] for event in history if "train/loss" in event], dtype=torch.float64)
    return Outcome(losses, torch.cat([value.flatten().float() for value in _without_key_biases(method)]))


def _without_key_biases(method: nn.Module) -> Iterator[Tensor]:
    for name, value in method.state_dict().items():
        if name.endswith("qkv.bias"):
            yield from value.chunk(3)[::2]
        elif not name.endswith(".k.bias"):
            yield value


class Gloo(LocalContext):
    """One of several processes on a machine. No state is written."""

    def __init__(self, rank: int, world_size: int) -> None:
        super().__init__(device=torch.device("cpu"))
        self.rank, self.world_size = rank, world_size

    def wrap(self, module: nn.Module) -> nn.Module:
        return DistributedDataParallel(module) if self.world_size > 1 else module

    def total(self, value: Tensor) -> Tensor:
        if self.world_size > 1:
            dist.all_reduce(value)
        return value


if __name__ == "__main__":
    main()
