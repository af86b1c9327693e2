"""Compute what a catalogue of photos takes, the table "is it for me" of README.md, from measured constants.

    python -m benchmarks sizes              print the table from benchmarks/sizes.json
    python -m benchmarks sizes --measure    measure the constants here (5 minutes, 5 GB of memory), then draw the table

The constants are of `late_interaction` on EfficientNet-Lite2 at 192 px with random weights: speed does not depend on
them. The photos are those of Caltech-101 beside the repository, else drawn ones, enlarged to 1,600 x 1,200 pixels and
given grain, so that they are as heavy as a camera's.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from benchmarks.late import median
from benchmarks.results.page import README, with_table
from benchmarks.results.tables import head, line
from pipelines.encode.index import index
from pipelines.search.query import prepared
from pipelines.search.searcher import Searcher
from pipelines.serve.batches import MOST as TOGETHER
from zse_model.backbones import BackboneConfig
from zse_model.checkpoint import Checkpoint, save_checkpoint
from zse_model.code_index import CodeIndex
from zse_model.methods import LateInteractionConfig, create_method
from zse_model.methods.late_interaction import LateInteraction
from zse_model.split import ZeroShotSplit
from zse_model.synthetic import draw_photo
from zse_model.transforms import TransformConfig
from zse_model.vector_index import VectorIndex

KEPT = Path(__file__).with_name("sizes.json")
CALTECH = Path(__file__).parents[2] / "shared" / "data" / "quickdraw_x_caltech101" / "photo"
BACKBONE, SIZE, BITS, PLACE_DIM = "tf_efficientnet_lite2", 192, 64, 96
PHOTOS, PIXELS = 900, (1600, 1200)  # below 1,000 photos `zse index` is one process
ROWS, CODES, STEP, SHORTLIST = 10**6, 10**7, 10_000, 800
MACHINE_CORES, NIGHT_HOURS = 16, 8
CATALOGUES = ((20_000, "ret"), (200_000, "ret"), (2_000_000, "ret"), (2_000_000, "asym-64"), (100_000_000, "asym-64"))


@dataclass(frozen=True)
class Constants:
    """What `measure` found."""

    index_cpu_s: float
    """CPU seconds of `zse index` a photo: read, decode, thumbnail, encode, commit."""
    row_bytes: float
    """On disk, a photo, without places."""
    place_bytes: int
    """On disk, a photo, more with `--tokens`."""
    embedding_bytes: int
    """In memory, a photo, where `ret` ranks all."""
    code_bytes: int
    """In memory, a photo, where `asym-64` finds a shortlist."""
    process_mb: float
    """Memory of a process that has searched a small index, by as many drawings at once as a service does."""
    query_ms: float
    """Of a query on a small index: prepare and encode the drawing, read 20 thumbnails."""
    embeddings_ms: float
    """Of a query, to rank a million photos by embeddings."""
    codes_ms: float
    """Of a query, to find a shortlist among a million photos by codes."""
    shortlist_ms: float
    """Of a query, to read and rank a shortlist of 1,000 by embeddings."""
    cores: int
    """That the queries used."""


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks sizes", description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--measure", action="store_true", help=f"measure anew, write {KEPT.name} and README.md's table")
    if parser.parse_args(arguments).measure:
        KEPT.write_text(json.dumps(asdict(measure()), indent=1) + "\n")
        README.write_text(with_table(README.read_text(), table(kept())))
    for name, value in asdict(kept()).items():
        print(f"{name:16} {value:,.4g}")
    print(*table(kept()), sep="\n")


def kept() -> Constants:
    return Constants(**json.loads(KEPT.read_text()))


def table(of: Constants) -> list[str]:
    """The lines of README's table: everything grows in proportion to the photos, but the process and the query."""
    lines = head(
        "photos",
        "searched by",
        "first index, CPU hours",
        f"machines of {MACHINE_CORES} cores, {NIGHT_HOURS} hours",
        "on disk, GB",
        "ms a query",
        "memory, GB",
    )
    for photos, mode in CATALOGUES:
        hours = photos * of.index_cpu_s / 3600
        machines = math.ceil(hours / (MACHINE_CORES * NIGHT_HOURS))
        by_code = mode != "ret"
        memory = of.process_mb / 1e3 + photos * (of.code_bytes if by_code else of.embedding_bytes) / 1e9
        scan = photos / 1e6 * (of.codes_ms if by_code else of.embeddings_ms) + by_code * of.shortlist_ms
        lines.append(
            line(
                f"{photos:,}",
                f"`{mode}`, 1,000 ranked again" if by_code else f"`{mode}`",
                short(hours),
                str(machines),
                short(photos * of.row_bytes / 1e9),
                short(of.query_ms + scan),
                short(memory),
            )
        )
    return lines


def short(value: float) -> str:
    """Two digits: 0.042, 1.3, 27, 1,300."""
    digits = max(0, 1 - math.floor(math.log10(value)))
    return f"{round(value, 1 - math.floor(math.log10(value))):,.{digits}f}"


def measure() -> Constants:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        checkpoint = made_checkpoint(folder / "checkpoint")
        photographs(folder / "photos")
        index_cpu_s = indexed(folder, checkpoint)
        row_bytes = sum(p.stat().st_size for p in (folder / "index").rglob("*") if p.is_file()) / PHOTOS
        forms = Searcher.open(str(folder / "index"), checkpoint).generation.forms
        # In a process of its own: this one has the memory of the work before.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
            process_mb, query_ms, shortlist_ms = apart.submit(queried, folder, checkpoint, SHORTLIST).result()
        dim = forms["embedding"].shape[0]
        return Constants(
            index_cpu_s=index_cpu_s,
            row_bytes=row_bytes,
            place_bytes=(SIZE // 16) ** 2 * PLACE_DIM,
            embedding_bytes=forms["embedding"].bytes,
            code_bytes=BITS // 8,
            process_mb=process_mb,
            query_ms=query_ms,
            embeddings_ms=embeddings_ms(dim),
            codes_ms=codes_ms(),
            shortlist_ms=shortlist_ms * 1000 / SHORTLIST,
            cores=torch.get_num_threads(),
        )


def made_checkpoint(folder: Path) -> str:
    torch.manual_seed(0)
    config = LateInteractionConfig(place_dim=PLACE_DIM, readout="pooled", bits=BITS)
    method = create_method("late_interaction", config, BackboneConfig(name=BACKBONE), size=SIZE, classes=4).eval()
    assert isinstance(method, LateInteraction)
    pictures = torch.nn.functional.normalize(torch.randn(400, method.codes[f"hash-{BITS}"].projection.shape[0]))
    for code in method.codes.values():
        code.fit(pictures[:200], pictures[200:], torch.arange(400) % 4)
    split = ZeroShotSplit(name="generated", citation="none", seen=("ant", "bee", "cat", "dog"), unseen=("emu",))
    empty = torch.zeros(0, dtype=torch.int64)
    save_checkpoint(Checkpoint("late_interaction", method, TransformConfig(size=SIZE), split, empty, {}), folder)
    return str(folder)


def photographs(folder: Path) -> None:
    """Different JPEG files: the table's compression would find repeated thumbnails."""
    folder.mkdir()
    chance = np.random.default_rng(0)
    for i, small in zip(range(PHOTOS), pictures(), strict=False):
        large = np.asarray(small.resize(PIXELS, Image.Resampling.BICUBIC), dtype=np.float32)
        grain = chance.normal(0, 4, (PIXELS[1], PIXELS[0], 1)).astype(np.float32)
        noisy = Image.fromarray(np.clip(large + grain, 0, 255).astype(np.uint8))
        noisy.save(folder / f"{i}.jpg", quality=88)


def pictures() -> Iterator[Image.Image]:
    if not CALTECH.exists():
        print(f"{CALTECH} does not exist: using drawn photos, whose thumbnails are smaller")
        yield from (Image.fromarray(draw_photo("fish", i, size=384)) for i in range(PHOTOS))
        return
    for path in sorted(CALTECH.rglob("*.jpg"), key=lambda path: path.name):  # of all classes
        with Image.open(path) as image:
            yield image.convert("RGB")


def indexed(folder: Path, checkpoint: str) -> float:
    """CPU seconds a photo of one process that indexes."""
    began = time.process_time()
    index(str(folder / "photos"), str(folder / "index"), checkpoint, called="generated")
    return (time.process_time() - began) / PHOTOS


def queried(folder: Path, checkpoint: str, shortlist: int) -> tuple[float, float, float]:
    """(MB of a process that searches, ms of a query by `ret`, ms more to read and rank a shortlist)."""
    searcher = Searcher.open(str(folder / "index"), checkpoint)
    drawing = [[[0, 60, 30, 80], [0, 10, 60, 90]], [[10, 20], [70, 15]]]
    drawn = prepared(drawing, searcher.checkpoint.transforms)
    searcher.answers([drawn] * TOGETHER, group=False)  # as a service does before it is ready
    whole = median(lambda _: searcher.search(drawing, group=False))
    found = median(lambda _: searcher.search(drawing, mode=f"asym-{BITS}", top=10, group=False))
    ranked = median(
        lambda _: searcher.search(
            drawing, mode=f"asym-{BITS}", rerank=shortlist, rerank_mode="ret", top=10, group=False
        )
    )
    return psutil.Process().memory_info().rss / 1e6, whole, ranked - found


def embeddings_ms(dim: int) -> float:
    rows, chance = VectorIndex(dim), np.random.default_rng(0)
    for _ in range(ROWS // STEP):
        rows.add(torch.from_numpy(chance.standard_normal((STEP, dim), dtype=np.float32)).half())
    query = torch.from_numpy(chance.standard_normal((1, dim), dtype=np.float32))
    return per_million(lambda: rows.search(query, 20), ROWS)


def codes_ms() -> float:
    codes, chance = CodeIndex(BITS), np.random.default_rng(0)
    for _ in range(CODES // STEP):
        codes.add(torch.from_numpy(chance.integers(0, 256, (STEP, BITS // 8), dtype=np.uint8)))
    query = torch.from_numpy(chance.integers(-2047, 2048, (1, BITS))).float()
    return per_million(lambda: codes.search(query, 1000), CODES)


def per_million(search: Callable[[], object], rows: int) -> float:
    return median(lambda _: search()) * 1e6 / rows


if __name__ == "__main__":
    main()
