"""Measure training items per second: `zse_model.fit` against a plain loop, in turns, in one process.

The plain loop opens and prepares the original files for every item, encodes the four pictures of an item kind by kind,
relates positive and negative pairs one after the other, and uses torch's default AdamW. `fit` reads pictures that were
prepared once, decodes the next batch while it trains, encodes all pictures in one forward pass, and relates all pairs
in another. Neither augments pictures, which `zse shard` does before training.
"""

from __future__ import annotations

import io
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.scoring import released
from benchmarks.world import as_bytes, originals
from zse_model.backbones import BackboneConfig
from zse_model.fit import LocalContext, TrainConfig, fit
from zse_model.losses import triplet
from zse_model.methods import TrainBatch, ZseSbirConfig
from zse_model.methods.zse_sbir import ZseSbir
from zse_model.transforms import TransformConfig, prepare_photo, prepare_sketch

ROUNDS = 3
KINDS = ("sketch", "photo", "sketch2", "negative")


@dataclass
class Case:
    name: str
    create: Callable[[], ZseSbir]
    transforms: TransformConfig
    batch: int
    steps: int


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(cores)
    cases = [
        Case(
            "MobileNetV2 maps, 128 px",
            lambda: ZseSbir(
                ZseSbirConfig(dim=256, depth=1, ffn=256), BackboneConfig(name="mobilenetv2_100"), size=128, classes=100
            ),
            TransformConfig(size=128),
            8,
            12,
        ),
        Case(
            "ViT-B/16 as released, 224 px",
            lambda: released(device),
            TransformConfig(size=224, recipe="published"),
            2 if device.type == "cpu" else 15,
            2 if device.type == "cpu" else 20,
        ),
    ]
    with tempfile.TemporaryDirectory() as scratch:
        items = Items(originals(Path(scratch)))
        for case in cases:
            compare(case, items, device)


def compare(case: Case, items: Items, device: torch.device) -> None:
    method, count = case.create().to(device), case.batch * case.steps
    stored = Stored(items, case.transforms, case.batch, case.steps)
    config = TrainConfig(steps=case.steps, batch_size=case.batch, lr=1e-5, warmup=0, checks=1)
    seconds: dict[str, list[float]] = {"plain": [], "fit": []}
    plain_loop(method, items, case, 1)
    for _ in range(ROUNDS):
        start = time.perf_counter()
        plain_loop(method, items, case, case.steps)
        seconds["plain"].append(time.perf_counter() - start)
        context = Timed(device=device)
        fit(method, stored, context, config, prepare_steps=0)
        seconds["fit"].append(context.ended - context.started)
    plain, ours = (count / statistics.median(seconds[way]) for way in ("plain", "fit"))
    print(f"{case.name}: plain loop {plain:.2f} items/s, fit {ours:.2f} items/s, {ours / plain:.2f}x", flush=True)


class Timed(LocalContext):
    """Times the steps alone. Writing the states before and after would outweigh a few steps."""

    started = ended = 0.0

    def wrap(self, module: nn.Module) -> nn.Module:
        self.started = time.perf_counter()
        return module

    def log(self, event: dict[str, float]) -> None:
        if "train/loss" in event:  # not the event of a check, which comes after its state is written
            self.ended = time.perf_counter()


class Items:
    """Random items of four files, as published: classes are uniform, the negative is of another class."""

    def __init__(self, source: Path) -> None:
        self.classes = sorted(p.name for p in (source / "sketch").iterdir())
        self.files = {
            (modality, c): sorted((source / modality / c).iterdir())
            for modality in ("sketch", "photo")
            for c in self.classes
        }
        self.random = random.Random(0)

    def draw(self) -> tuple[dict[str, Path], int, int]:
        a, b = self.random.sample(range(len(self.classes)), 2)
        own, other = self.classes[a], self.classes[b]
        pick = lambda modality, c: self.random.choice(self.files[modality, c])  # noqa: E731
        paths = [pick("sketch", own), pick("photo", own), pick("sketch", own), pick("photo", other)]
        return dict(zip(KINDS, paths, strict=True)), a, b


def prepared(path: Path, kind: str, transforms: TransformConfig) -> np.ndarray:
    prepare = prepare_sketch if kind.startswith("sketch") else prepare_photo
    return prepare(path.read_bytes(), transforms)


def to_batch(pictures: dict[str, list[np.ndarray]], labels: list[tuple[int, int]]) -> TrainBatch:
    tensors = {}
    for kind, arrays in pictures.items():
        stacked = torch.from_numpy(np.stack(arrays))
        tensors[kind] = stacked[:, None] if stacked.dim() == 3 else stacked.permute(0, 3, 1, 2)
    label, negative = torch.tensor(labels).T
    return TrainBatch(**tensors, label=label, negative_label=negative)


class Stored:
    """Items prepared once and kept as PNG and JPEG. A batch decodes them, as a reader of pair shards does."""

    def __init__(self, items: Items, transforms: TransformConfig, batch: int, batches: int) -> None:
        self.batches = []
        for _ in range(batches):
            drawn = [items.draw() for _ in range(batch)]
            data = {
                kind: [self._encoded(prepared(p[kind], kind, transforms), kind) for p, _, _ in drawn] for kind in KINDS
            }
            self.batches.append((data, [(a, b) for _, a, b in drawn]))

    @staticmethod
    def _encoded(pixels: np.ndarray, kind: str) -> bytes:
        image = Image.fromarray(pixels)
        return as_bytes(image, "PNG") if kind.startswith("sketch") else as_bytes(image, "JPEG", quality=92)

    def batch(self, step: int, rank: int, world_size: int) -> TrainBatch:
        data, labels = self.batches[step % len(self.batches)]
        return to_batch({k: [np.array(Image.open(io.BytesIO(x))) for x in v] for k, v in data.items()}, labels)


def plain_loop(method: ZseSbir, items: Items, case: Case, steps: int) -> None:
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-5)
    method.train()
    for _ in range(steps):
        drawn = [items.draw() for _ in range(case.batch)]
        pictures = {kind: [prepared(p[kind], kind, case.transforms) for p, _, _ in drawn] for kind in KINDS}
        batch = to_batch(pictures, [(a, b) for _, a, b in drawn]).to(method.device)
        tokens: dict[str, Tensor] = {}
        for kind in KINDS:
            found = method.features(getattr(batch, kind), "sketch" if kind.startswith("sketch") else "photo").tokens
            assert found is not None
            tokens[kind] = found
        anchor, near = method.cross_attend(tokens["sketch"], tokens["photo"])
        other, far = method.cross_attend(tokens["sketch2"], tokens["negative"])
        assert method.relation is not None
        positive = method.relation(anchor[:, 1:], near[:, 1:])
        negative = method.relation(other[:, 1:], far[:, 1:])
        loss = 2 * triplet(anchor[:, 0], near[:, 0], far[:, 0], 1.0).mean()
        scores, target = torch.cat([positive, negative]).sigmoid(), torch.tensor([0.99, 0.01], device=method.device)
        loss = loss + 4 * (scores - target.repeat_interleave(case.batch)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()


if __name__ == "__main__":
    main()
