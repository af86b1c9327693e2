"""Measure the traffic of scoring all pairs on a Ray of two nodes on this machine: bytes and requests, by node.

The encodings are random numbers in real Parquet, scored by `late`, the cheapest network of pairs. Their store is a
folder under another protocol, so that every read is a request and is counted. Bytes that a node's object store received
are Ray's own count; they include copies from another node. `python -m benchmarks tokens --raw-pixels` measures the
memory of the reference row `raw_pixels` instead.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import resource
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import fsspec
import numpy as np
import pyarrow as pa
import ray
import torch
from fsspec.implementations.local import LocalFileSystem
from ray._private.internal_api import node_stats
from ray.cluster_utils import Cluster

from benchmarks.scale import CLASSES, draw, spread, watched
from pipelines.config.experiment import ExperimentConfig
from pipelines.config.load import validate
from pipelines.evaluate.raw_pixels import raw_pixels
from pipelines.evaluate.score import score
from pipelines.ingest.stage import ingest
from pipelines.run import experiment_split
from pipelines.workspace.encodings import Encodings
from pipelines.workspace.images import Images
from pipelines.workspace.parts import part_name, write_part
from zse_model.backbones import BackboneConfig
from zse_model.checkpoint import Checkpoint, save_checkpoint
from zse_model.methods import ZseSbirConfig, create_method
from zse_model.split import ZeroShotSplit
from zse_model.transforms import TransformConfig

NODES, CPUS = 2, 2
STORE = 500_000_000  # bytes of a node's object store: with 100 MB Ray Data waits for ever
COUNTS = "ZSE_COUNTED_REQUESTS"  # the folder of the counts, in the environment of every process
SIDE = 32  # px
SHAPES = {"tokens": (5, 64), "places": (4, 64)}  # of the encodings of a picture, which rn and late read


@dataclass(frozen=True)
class Size:
    sketches: int
    photos: int
    part: int
    """Pictures of a part of the encodings."""


FULL = Size(sketches=4_096, photos=8_192, part=512)
PICTURES = 30_000  # of raw_pixels, a tenth of them sketches


def main(options: Sequence[str] = ()) -> None:
    if "--raw-pixels" in options:
        with tempfile.TemporaryDirectory() as scratch:
            of_raw_pixels(Path(scratch))
        return
    with tempfile.TemporaryDirectory() as scratch, counting(Path(scratch) / "counts"), cluster():
        found = measure(FULL, Path(scratch))
    print(f"{FULL.sketches:,} sketches x {FULL.photos:,} photos, tokens of {found.tokens / 1e6:.1f} MB, {NODES} nodes")
    for node, size in found.stores.items():
        read = found.reads[node]
        print(
            f"  node {node[:6]}: read {read.bytes / 1e6:6.1f} MB = {read.bytes / found.tokens:.2f} x the tokens in "
            f"{read.requests} requests; its object store received {size / 1e6:.1f} MB = {size / found.tokens:.2f} x"
        )
    print(f"  scores: {found.scores / 1e6:.1f} MB in {found.files} files, read in {found.score_requests} requests")
    print(f"  driver: {found.driver / 1e6:.0f} MB more than before; all processes: {found.cpu:.0f} CPU s", flush=True)


# The measurement -----------------------------------------------------------------------------------------------------


@dataclass
class Reads:
    bytes: int = 0
    requests: int = 0


@dataclass
class Traffic:
    tokens: int
    """Bytes of the encodings of all pictures that the mode reads."""
    reads: dict[str, Reads] = field(default_factory=dict)
    """Node -> what it read of the encodings."""
    stores: dict[str, int] = field(default_factory=dict)
    """Node -> bytes that its object store received."""
    scores: int = 0
    files: int = 0
    score_requests: int = 0
    """Of reading the scores once, for the metric."""
    driver: int = 0
    """Bytes by which the peak memory of this process grew while it read the scores."""
    cpu: float = 0.0


def measure(size: Size, scratch: Path) -> Traffic:
    encodings = make_encodings(size, scratch)
    found = Traffic(tokens=(size.sketches + size.photos) * 4 * math.prod(SHAPES["places"]))
    config = experiment(scratch)
    before, stored = counts(), received()
    address = ray.get_runtime_context().gcs_address  # as on a cluster, `score` asks for one worker a task
    with patch.dict(os.environ, RAY_ADDRESS=address), watched(look_every=5.0) as cost:
        scores = score(config, f"counted://{scratch}/w", encodings, "late")
    found.cpu = cost.cpu
    after = counts()
    for node, size_after in received().items():
        found.stores[node] = size_after - stored[node]
        one = {key: after[key] - before[key] for key in after if key[0] == node and key[1] == "encodings"}
        found.reads[node] = Reads(
            bytes=sum(n for (_, _, what), n in one.items() if what == "bytes"),
            requests=sum(n for (_, _, what), n in one.items() if what == "requests"),
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = sum(len(block) for block in scores.rows())
    assert rows == size.sketches
    found.driver = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
    read = counts()
    found.score_requests = sum(read[key] - after[key] for key in read if key[1] == "scores" and key[2] == "requests")
    found.scores, found.files = 4 * size.sketches * size.photos, len(scores.manifest["shards"])
    return found


def received() -> dict[str, int]:
    """Node with CPUs -> bytes of all objects that its object store has received since it began."""
    found = {}
    for node in ray.nodes():
        if node["Resources"].get("CPU"):
            stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], False)
            found[node["NodeID"]] = int(stats.store_stats.cumulative_created_bytes)
    return found


def make_encodings(size: Size, scratch: Path) -> Encodings:
    """Random encodings of an untrained network, in a test's folder on the counting store."""
    torch.manual_seed(0)
    settings = ZseSbirConfig(heads=2, ffn=32, dropout=0.0, late=1.0)
    method = create_method("zse_sbir", settings, BackboneConfig(name="test_vit"), size=SIDE, classes=2)
    split = ZeroShotSplit(name="random", seen=("a", "b"), unseen=("c",), citation="")
    empty = torch.zeros(0, dtype=torch.int64)
    made = Checkpoint("zse_sbir", method.eval(), TransformConfig(size=SIDE), split, empty, {"run": "random"})
    save_checkpoint(made, scratch / "checkpoint")
    url = f"counted://{scratch}/w/encodings/random-0"
    generator = np.random.default_rng(0)
    asked = [("photo", size.photos), ("sketch", size.sketches)]
    planned = [(side, min(size.part, n - start)) for side, n in asked for start in range(0, n, size.part)]
    shards = []
    for i, (side, rows) in enumerate(planned):
        columns: dict[str, Any] = {"modality": pa.array([side] * rows)}
        for encoding, shape in SHAPES.items():
            numbers = generator.standard_normal(rows * math.prod(shape), dtype=np.float32)
            columns[encoding] = pa.FixedSizeListArray.from_arrays(pa.array(numbers), math.prod(shape))
        name = part_name(i, len(planned))
        write_part(f"{url}/{name}", pa.table(columns), row_group=256, extra={"shapes": SHAPES})
        shards.append({"name": name, "rows": rows, "sketch": 0, "photo": 0, side: rows})
    return Encodings.write(url, checkpoint=str(scratch / "checkpoint"), checkpoint_hash="0", images="", shards=shards)


def experiment(scratch: Path) -> ExperimentConfig:
    return validate(
        {
            "name": "tokens",
            "dataset": {"adapter": "folder", "name": "tokens", "source": str(scratch), "split": ["c"]},
            "transforms": {"size": SIDE},
            "methods": {"zse_sbir": {}},
            "train": {"steps": 1},
        }
    )


# The store and the cluster -------------------------------------------------------------------------------------------


class Counted(LocalFileSystem):
    """A folder as a store whose requests are counted by node and by kind of artefact."""

    protocol = "counted"

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return LocalFileSystem._strip_protocol(str(path).removeprefix("counted://"))

    def info(self, path: Any, **kwargs: Any) -> dict[str, Any]:
        if isinstance(path, str):  # else an entry of a listing
            _count(path, 0)
        return super().info(path, **kwargs)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        with open(self._strip_protocol(path), "rb") as file:
            file.seek(start or 0)
            data = file.read(-1 if end is None else end - (start or 0))
        _count(path, len(data))
        return data

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        _count(path, 0)
        target = Path(self._strip_protocol(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        partial.write_bytes(value)
        partial.replace(target)


def register() -> None:
    """Make the counting store known to this process; Ray calls it in every worker."""
    fsspec.register_implementation("counted", Counted, clobber=True)


def _count(path: str, size: int) -> None:
    node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "none"
    kind = next((kind for kind in ("encodings", "scores") if f"/{kind}/" in path), "other")
    with open(Path(os.environ[COUNTS]) / f"{os.getpid()}", "a") as file:
        file.write(f"{node} {kind} {size}\n")


def counts() -> Counter[tuple[str, str, str]]:
    """(node, kind of artefact, "bytes" or "requests") -> number so far."""
    found = Counter[tuple[str, str, str]]()
    for file in Path(os.environ[COUNTS]).iterdir():
        for line in file.read_text().splitlines():
            node, kind, size = line.split()
            found[node, kind, "bytes"] += int(size)
            found[node, kind, "requests"] += 1
    return found


@contextmanager
def counting(folder: Path) -> Iterator[None]:
    """Count requests to counted://... in this process and in the Ray that it starts within the context."""
    folder.mkdir()
    register()
    with patch.dict(os.environ, {COUNTS: str(folder)}):
        yield


@contextmanager
def cluster(nodes: int = NODES, cpus: int = CPUS) -> Iterator[None]:
    """A Ray with a head without CPUs and `nodes` nodes on this machine, each a raylet, joined by this process."""
    there = None
    with patch.dict(os.environ, PYTHONPATH=str(Path(__file__).parents[1])):  # workers run the same code
        try:
            head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
            there = Cluster(initialize_head=True, head_node_args=head)
            for _ in range(nodes):
                there.add_node(num_cpus=cpus, object_store_memory=STORE)
            hook = {"worker_process_setup_hook": register}
            ray.init(address=there.address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=hook)
            yield
        finally:
            ray.shutdown()
            if there is not None:
                there.shutdown()


# raw_pixels ----------------------------------------------------------------------------------------------------------


def of_raw_pixels(scratch: Path) -> None:
    """Print the memory of `raw_pixels` over PICTURES ingested pictures, in a process of its own without Ray."""
    config = pixels(spread(draw(scratch / "drawn"), scratch / "set", PICTURES))
    images = ingest(config, str(scratch / "w"))
    ray.shutdown()
    sketches, photos = (sum(count[side] for count in images.counts.values()) for side in ("sketch", "photo"))
    print(f"scores of {sketches:,} sketches x {photos:,} photos are {4 * sketches * photos / 1e6:,.0f} MB")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        before, after = pool.apply(_pixels_alone, (config, str(scratch / "w"), images))
    print(f"raw_pixels: the peak memory of its process rose by {(after - before) / 1e3:,.0f} MB", flush=True)


def _pixels_alone(config: ExperimentConfig, workspace: str, images: Images) -> tuple[int, int]:
    """Peak memory before and after, kB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    raw_pixels(config, workspace, images, experiment_split(config, images))
    return before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def pixels(source: Path) -> ExperimentConfig:
    return validate(
        {
            "name": "pixels",
            "dataset": {
                "adapter": "folder",
                "name": "pixels",
                "source": str(source),
                "split": [f"class {i:03d}" for i in range(CLASSES - 1)],
                "pseudo_unseen": 0,
            },
            "transforms": {"size": SIDE},
            "methods": {"global": {}},
            "train": {"steps": 1},
            "evaluation": {"classes": "unseen"},
        }
    )


if __name__ == "__main__":
    main()
