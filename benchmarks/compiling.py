"""Measure CPU seconds of a forward and backward pass, plain and compiled in turns: ViT-Tiny at 224 px, 16 pictures."""

from __future__ import annotations

import os
import statistics
import time

import torch

from tests.helpers.batches import Pictures
from zse_model.backbones import BackboneConfig
from zse_model.methods import GlobalConfig, RetrievalMethod, TrainBatch, create_method

SIZE, ITEMS, CLASSES, ROUNDS = 224, 4, 5, 7


def main() -> None:
    torch.set_num_threads(1)
    batch, plain, compiled = Pictures(ITEMS, SIZE, CLASSES).batch(0, 0, 1), network(), network()
    compiled.compile()
    before = sum(os.times()[:4])
    step(compiled, batch)
    print(f"first step, compilation included: {sum(os.times()[:4]) - before:.0f} CPU s")
    seconds: dict[str, list[float]] = {"plain": [], "compiled": []}
    step(plain, batch)
    for _ in range(ROUNDS):
        seconds["plain"].append(step(plain, batch))
        seconds["compiled"].append(step(compiled, batch))
    ours, base = statistics.median(seconds["compiled"]), statistics.median(seconds["plain"])
    print(f"a step: plain {base:.2f} CPU s, compiled {ours:.2f} CPU s, {base / ours:.2f}x")


def network() -> RetrievalMethod:
    torch.manual_seed(0)
    backbone = BackboneConfig(name="vit_tiny_patch16_224")
    return create_method("global", GlobalConfig(dim=128), backbone, size=SIZE, classes=CLASSES).train()


def step(method: RetrievalMethod, batch: TrainBatch) -> float:
    start = time.process_time()
    torch.stack([value.mean() for value in method(batch).values()]).sum().backward()
    method.zero_grad()
    return time.process_time() - start


if __name__ == "__main__":
    main()
