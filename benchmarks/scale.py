"""Measure ingest, a changed class, listing and metrics at the size of the largest data sets.

The pictures are 500 drawn ones (128 px; JPEG photos, PNG sketches), hard-linked under many names: each name is read,
decoded and encoded, but from the page cache. Ray's workers are warm before the first measurement. CPU time and peak
memory are of all processes, Ray's own included; memory is PSS, which counts shared pages once. Each measurement without
Ray runs in its own process, with torch's default threads; its peak is of that process, libraries included.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import psutil
import ray
import torch
from fsspec import AbstractFileSystem
from PIL import Image
from torch.nn.functional import normalize

from benchmarks.world import as_bytes
from pipelines.config.experiment import ExperimentConfig
from pipelines.config.load import validate
from pipelines.datasets.adapters.folder import FolderConfig
from pipelines.datasets.registry import create_dataset
from pipelines.evaluate.matrices import EMBEDDING_TILE
from pipelines.ingest.stage import ingest
from pipelines.workspace.images import Images
from zse_model.evaluation.evaluate import Evaluator, Task
from zse_model.evaluation.protocol import CATEGORY_METRICS
from zse_model.synthetic import CATEGORIES, draw_photo, draw_sketch

CLASSES = 250
DIM = 512  # of the embeddings


@dataclass(frozen=True)
class Size:
    pictures: tuple[int, ...]
    changed: int
    """The size of the set in which one class changes; one of `pictures`."""
    keys: int
    matrix: tuple[int, int]
    """Queries and gallery of a score matrix in memory: Sketchy's 25 unseen classes."""
    embedded: tuple[int, int]
    """Queries and gallery of scores made tile by tile: QuickDraw-Extended's 30 unseen classes."""


FULL = Size((2_000, 20_000, 200_000), 20_000, 1_000_000, (15_229, 17_101), (92_291, 54_151))
SMALL = Size((500, 1_000), 1_000, 1_000, (300, 400), (700, 500))


def main(size: Size = FULL) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        ingests(size, Path(scratch))
    ray.shutdown()
    alone(f"listing of {size.keys:,} keys", list_keys, size.keys)
    alone("metrics of {} x {} scores in memory".format(*size.matrix), matrix, *size.matrix)
    alone("metrics of {} x {} from embeddings".format(*size.embedded), embedded, *size.embedded)


def ingests(size: Size, scratch: Path) -> None:
    drawn = draw(scratch / "drawn")
    ingest(
        experiment(spread(drawn, scratch / "warm", 2 * size.pictures[0])), str(scratch / "w")
    )  # one task for each worker
    print("ingest      CPU s / 1,000   CPU s      s   peak GB")
    for pictures in size.pictures:
        source = spread(drawn, scratch / str(pictures), pictures)
        with watched() as cost:
            images = ingest(experiment(source), str(scratch / f"w{pictures}"))
        print(
            f"{pictures:9,d} {cost.cpu / pictures * 1000:14.2f} {cost.cpu:9.1f} {cost.wall:6.1f} {cost.peak:7.2f}",
            flush=True,
        )
        if pictures == size.changed:
            change_a_class(source, images)


def draw(folder: Path) -> list[Path]:
    """Draw 250 sketches and 250 photos."""
    folder.mkdir()
    for i in range(CLASSES):
        category = CATEGORIES[i % len(CATEGORIES)]
        (folder / f"{i}.jpg").write_bytes(as_bytes(Image.fromarray(draw_photo(category, i)), "JPEG", quality=90))
        (folder / f"{i}.png").write_bytes(as_bytes(Image.fromarray(draw_sketch(category, i)), "PNG"))
    return [folder / f"{i}.{ending}" for ending in ("png", "jpg") for i in range(CLASSES)]


def spread(drawn: list[Path], source: Path, pictures: int) -> Path:
    """A folder of 250 classes. A tenth of each class is sketches, as in TU-Berlin-Extended."""
    for i in range(pictures):
        sketch = i // CLASSES % 10 == 0
        file = drawn[i * 7 % CLASSES + (0 if sketch else CLASSES)]
        target = source / ("sketch" if sketch else "photo") / f"class {i % CLASSES:03d}" / f"{i:06d}{file.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, target)
    return source


def experiment(source: Path) -> ExperimentConfig:
    return validate(
        {
            "name": "scale",
            "dataset": {"adapter": "folder", "name": "scale", "source": str(source), "split": ["class 000"]},
            "transforms": {"size": 128},
            "methods": {"global": {}},
            "train": {"steps": 1},
        }
    )


def change_a_class(source: Path, before: Images) -> None:
    """Change the pictures of one class, and ingest into the same workspace."""
    workspace = before.url.rsplit("/", 2)[0]
    for file in source.glob("*/class 007/*"):
        content = file.read_bytes()
        file.unlink()  # breaks the hard link, so that the pictures of other classes stay unchanged
        file.write_bytes(content + b"\0")
    with watched() as cost:
        after = ingest(experiment(source), workspace)
    left = {name: rows for name, rows in after.parts.items() if name not in before.parts}
    print(
        f"          one of {CLASSES} classes changed: {sum(left.values())} of {after.pictures:,} pictures read again, "
        f"{cost.wall:.1f} s, {cost.cpu:.1f} CPU s",
        flush=True,
    )


@dataclass
class Cost:
    wall: float = 0.0
    cpu: float = 0.0
    peak: float = 0.0
    """GB"""


@contextmanager
def watched(look_every: float = 0.5) -> Iterator[Cost]:
    """The cost of the context in this process and its descendants, including those that end meanwhile: they are sampled
    one by one, because the CPU time of ended Ray workers is added to no parent."""
    cost, stop, before, after = Cost(), threading.Event(), _cpu_times(), dict[Any, float]()

    def look() -> None:
        while not stop.wait(look_every):
            cost.peak = max(cost.peak, sum(_each(lambda p: p.memory_full_info().pss)) / 1e9)
            after.update(_cpu_times())

    watcher = threading.Thread(target=look)
    watcher.start()
    cost.wall = -time.perf_counter()
    yield cost
    cost.wall += time.perf_counter()
    stop.set()
    watcher.join()
    after.update(_cpu_times())
    cost.cpu = sum(seconds - before.get(process, 0.0) for process, seconds in after.items())


def _cpu_times() -> dict[Any, float]:
    """(pid, time of creation) -> CPU seconds of the process, without its children."""
    return dict(_each(lambda process: ((process.pid, process.create_time()), sum(process.cpu_times()[:2]))))


def _each(measure: Callable[[Any], Any]) -> Iterator[Any]:
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        try:
            yield measure(process)
        except psutil.Error:
            continue


def alone(what: str, work: Callable[..., None], *arguments: int) -> None:
    """Print the cost of `work` in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        wall, cpu, peak = pool.apply(_cost_of, (work, arguments))
    print(f"{what}: {wall:.1f} s, {cpu:.1f} CPU s, peak {peak:.2f} GB", flush=True)


def _cost_of(work: Callable[..., None], arguments: tuple[int, ...]) -> tuple[float, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work(*arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return time.perf_counter() - wall, time.process_time() - cpu, peak


class Keys(AbstractFileSystem):
    """A file system with a listing and no files: sketch/<class>/* and photo/<class>/*, with the fields of a bucket's
    entries."""

    protocol = "keys"
    total = 0

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        folder = str(self._strip_protocol(path)).strip("/")
        match folder.split("/"):
            case [_]:
                names = ["sketch", "photo"]
            case [_, "sketch" | "photo"]:
                names = [f"class {i:03d}" for i in range(CLASSES)]
            case [_, _, category] if category.startswith("class"):
                names = [f"n{i:08d}_{i % 977}.jpg" for i in range(Keys.total // CLASSES // 2)]
            case _:
                raise FileNotFoundError(path)
        return [self._entry(f"{folder}/{name}", name.endswith(".jpg")) for name in names]

    def _entry(self, path: str, is_file: bool) -> dict[str, Any]:
        tag = f'"{hashlib.md5(path.encode()).hexdigest()}"'  # the same in every process
        entry = {"name": path, "Key": path, "type": "file" if is_file else "directory", "size": 10_000, "ETag": tag}
        return entry | {"LastModified": time.time(), "Size": 10_000, "StorageClass": "STANDARD"}


def list_keys(keys: int) -> None:
    Keys.total = keys
    fsspec.register_implementation("keys", Keys, clobber=True)
    dataset = create_dataset(FolderConfig(name="keys", split=("class 000",), source="keys://set"))
    before = psutil.Process().memory_info().rss
    records = dataset.records()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"  {len(records):,} records, {(peak - before) / len(records):,.0f} bytes each at the peak")


def task(queries: int, gallery: int, classes: int) -> Task:
    """A task with classes of unequal size and a gallery in random order."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.rand(classes, generator=generator) + 0.5
    of_query, of_item = (torch.multinomial(sizes, n, True, generator=generator) for n in (queries, gallery))
    return Task(
        setting="scale",
        query_labels=of_query,
        gallery_labels=of_item,
        query_groups=of_query,
        metrics=CATEGORY_METRICS,
    )


def matrix(queries: int, gallery: int) -> None:
    """Evaluate both protocols and their intervals from a score matrix in memory."""
    asked = task(queries, gallery, 25)
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(queries, gallery, generator=generator)
    for row, label in zip(scores, asked.query_labels, strict=True):
        row += asked.gallery_labels == label
    wall, cpu = time.perf_counter(), time.process_time()
    evaluate(asked, scores.split(EMBEDDING_TILE))
    print(f"  evaluation alone: {time.perf_counter() - wall:.1f} s, {time.process_time() - cpu:.1f} CPU s")


def embedded(queries: int, gallery: int) -> None:
    """Evaluate scores that are computed tile by tile from float32 vectors, and never stored."""
    asked = task(queries, gallery, 30)
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(30, DIM, generator=generator)
    sketches, photos = (
        normalize(centres[labels] + 6 * torch.randn(len(labels), DIM, generator=generator))
        for labels in (asked.query_labels, asked.gallery_labels)
    )
    evaluate(asked, (tile @ photos.T for tile in sketches.split(EMBEDDING_TILE)))


def evaluate(asked: Task, tiles: Any) -> None:
    evaluator = Evaluator(asked)
    for tile in tiles:
        evaluator.add(tile)
    rows = evaluator.result().rows(method="scale", mode="ret", provenance={})
    best = rows[0]
    print(f"  {best['protocol']} {best['metric']} {best['value']:.3f} ({best['ci_low']:.3f} to {best['ci_high']:.3f})")


if __name__ == "__main__":
    main(SMALL if "--small" in sys.argv else FULL)
