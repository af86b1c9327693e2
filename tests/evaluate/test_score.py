"""Scoring in blocks: every pair once, equal to the bit, continued after a kill, and what is read and how often."""

from __future__ import annotations

import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import tokens
from pipelines.evaluate import score as stage
from pipelines.evaluate.matrices import EMBEDDING_TILE, tiles
from pipelines.evaluate.node_copies import NodeCopies, Reader
from pipelines.runtime.errors import StorageError
from pipelines.store import storage
from pipelines.workspace.encodings import Encodings
from pipelines.workspace.scores import Scores, write_block
from zse_model.checkpoint import load_checkpoint
from zse_model.evaluation.search import rank
from zse_model.scoring import score_all

SIZE = tokens.Size(sketches=19, photos=40, part=18)
PARTS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@pytest.fixture
def encodings(tmp_path: Path) -> Iterator[Encodings]:
    """Random encodings on a store that counts requests."""
    with tokens.counting(tmp_path / "counts"):
        yield tokens.make_encodings(SIZE, tmp_path)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of at most 16 sketches, and 4 photos scored at once."""
    monkeypatch.setattr(stage, "SKETCHES", 16)
    monkeypatch.setattr(stage, "PHOTOS", 4)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Products of a few numbers wait for threads longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def scored(encodings: Encodings, workspace: Path, mode: str = "late", among: torch.Tensor | None = None) -> Scores:
    return stage.score(tokens.experiment(workspace), f"counted://{workspace}", encodings, mode, among)


def requests(kind: str) -> int:
    return sum(n for (_, of, what), n in tokens.counts().items() if of == kind and what == "requests")


def planned(sketches: list[int], photos: list[int]) -> list[dict[str, Any]]:
    sides = {"sketch": sketches, "photo": photos}
    return stage._planned(
        SimpleNamespace(parts=lambda side: {f"{side} {i}": n for i, n in enumerate(sides[side])}),  # type: ignore[arg-type]
        None,
    )


@given(sketches=PARTS, photos=PARTS, blocks=st.integers(1, 40))
def test_the_blocks_are_every_pair_once(sketches: list[int], photos: list[int], blocks: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("SKETCHES", 32), ("PHOTOS", 8), ("BLOCKS", blocks)):
            patch.setattr(stage, name, value)
        tasks = planned(sketches, photos)
    found = np.zeros((sum(sketches), sum(photos)), dtype=int)
    for task in tasks:
        _, top, bottom, _, left, right = task["block"].removesuffix(".parquet").split("-")
        found[int(top) : int(bottom), int(left) : int(right)] += 1
        assert task["rows"] == (int(bottom) - int(top)) * (int(right) - int(left))
    assert (found == 1).all()
    bands = {task["band"] for task in tasks}
    assert len(tasks) <= 2 * max(blocks, len(bands)), "more blocks are more requests"


def test_blocks_in_a_row_share_their_photos_or_their_sketches() -> None:
    tasks = planned([1000] * 15, [1000] * 17)
    assert len(tasks) <= stage.BLOCKS
    for before, after in pairwise(tasks):
        assert before["photos"] == after["photos"] or before["sketches"] == after["sketches"]
    galleries = [task["photos"] for task in tasks]
    assert sum(a != b for a, b in pairwise(galleries)) + 1 == len(set(galleries)), "a range of photos comes once"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("blocks", [1, 6, 100])
def test_scores_are_equal_to_the_bit_for_blocks_of_any_size(
    encodings: Encodings, tmp_path: Path, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To those of version 1: each part of sketches with PHOTOS photos of a part."""
    monkeypatch.setattr(stage, "BLOCKS", blocks)
    scorer = load_checkpoint(encodings.checkpoint).method.scorer("rn")
    rows = []
    for sketches in encodings.parts("sketch"):
        queries = encodings.values(sketches, "sketch", ["tokens"])
        of_part = [encodings.values(part, "photo", ["tokens"])["tokens"].split(4) for part in encodings.parts("photo")]
        rows.append(torch.cat([score_all(scorer, queries, {"tokens": x}) for xs in of_part for x in xs], dim=1))
    found = scored(encodings, tmp_path, "rn")
    assert torch.equal(torch.cat(list(found.rows())), torch.cat(rows))
    asked = rank(torch.cat(rows), 5).indices
    listed = torch.cat(list(scored(encodings, tmp_path, "rn", asked).rows()))
    torch.testing.assert_close(listed.gather(1, asked), torch.cat(rows).gather(1, asked), rtol=1e-5, atol=1e-6)
    assert (listed.isfinite().sum(1) == 5).all(), "only pairs of a shortlist are scored"


@pytest.mark.usefixtures("small")
def test_a_killed_scoring_continues_at_the_first_missing_block(
    encodings: Encodings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scored(encodings, tmp_path / "whole")
    written: list[str] = []

    def write(url: str, scores: torch.Tensor) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(url.rpartition("/")[2])
        write_block(url, scores)

    monkeypatch.setattr(stage, "write_block", write)
    with pytest.raises(KeyboardInterrupt):
        scored(encodings, tmp_path)
    order = [task["block"] for task in stage._planned(encodings, None)]
    assert written == order[:3] and not storage.exists(f"{tmp_path}/scores/random-0-late/manifest.json")
    before, written[:] = requests("encodings"), [""] * 4  # no further kill
    found = scored(encodings, tmp_path)
    assert written[4:] == order[3:] and requests("encodings") > before
    for name in order:
        one, other = (storage.read_bytes(f"{scores.url}/{name}") for scores in (whole, found))
        assert one == other


@pytest.mark.usefixtures("small")
def test_a_file_of_scores_is_read_once(encodings: Encodings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests grow with the files, not with files times sketches."""
    for blocks in (2, 6):
        monkeypatch.setattr(stage, "BLOCKS", blocks)
        scores = scored(encodings, tmp_path / str(blocks))
        before = requests("scores")
        assert [len(band) for band in scores.rows()] == [16, 3]
        assert requests("scores") - before == len(scores.manifest["shards"])


def test_the_metric_holds_one_band_of_scores(tmp_path: Path) -> None:
    bands, rows, photos = 40, 16, 4096
    shards = []
    for band in range(bands):
        name = Scores.block_name(range(band * rows, (band + 1) * rows), range(photos))
        write_block(str(tmp_path / name), torch.full((rows, photos), float(band)))
        shards.append({"name": name, "band": band})
    scores = Scores.write(str(tmp_path), encodings="", mode="rn", sketches=bands * rows, shards=shards)
    tracemalloc.start()
    assert [int(band[0, 0]) for band in scores.rows()] == list(range(bands))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * rows * photos * bands / 4


def test_blocks_of_any_height_become_tiles() -> None:
    rows = torch.arange(3 * EMBEDDING_TILE + 7)
    for heights in (
        [len(rows)],
        [100] * (len(rows) // 100) + [len(rows) % 100],
        [EMBEDDING_TILE, 2 * EMBEDDING_TILE, 7],
    ):
        found = list(tiles(rows.split(heights)))
        assert torch.equal(torch.cat(found), rows)
        assert [len(tile) for tile in found] == [EMBEDDING_TILE] * 3 + [7]


@pytest.fixture
def read(encodings: Encodings, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts that were read from the store."""
    parts: list[str] = []
    values: Callable[..., Any] = Encodings.values

    def counted(self: Encodings, part: str, *arguments: Any) -> Any:
        parts.append(part)
        return values(self, part, *arguments)

    monkeypatch.setattr(Encodings, "values", counted)
    return parts


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_reader_reads_a_part_once_and_keeps_what_was_used_last(encodings: Encodings, read: list[str]) -> None:
    first, second, third = encodings.parts("photo")
    reader = Reader(encodings, most=2 * SIZE.part * 5 * 64 * 4)
    start = threading.Barrier(8)

    def ask(_: int) -> Any:
        start.wait()
        return reader.read(first, "photo", ("tokens",))

    with ThreadPoolExecutor(8) as pool:
        found = {tuple(one) for one in pool.map(ask, range(8))}
    assert len(found) == 1 and read == [first], "workers that ask at once share one copy"
    for part in (second, first, third, first, second):  # the third takes the place of the second
        reader.read(part, "photo", ("tokens",))
    assert read == [first, second, third, second]


def test_a_part_that_another_pushes_out_is_still_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four threads, eight parts, and room for one and a half."""
    parts = {str(i): {"tokens": torch.full((100,), float(i))} for i in range(8)}
    monkeypatch.setattr("pipelines.evaluate.node_copies.ray.put", lambda values: values)
    source = SimpleNamespace(values=lambda part, *_: parts[part])
    reader = Reader(source, most=600)  # type: ignore[arg-type]

    def ask(i: int) -> bool:
        part = str((7 * i) % 8)
        (copy,) = reader.read(part, "photo", ("tokens",))
        return bool((copy["tokens"] == float(part)).all())  # type: ignore[index]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(2000)))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_workers_of_a_node_share_a_reader_and_outlive_it(tmp_path: Path) -> None:
    with tokens.counting(tmp_path / "counts"):
        made = tokens.make_encodings(SIZE, tmp_path)
    encodings = Encodings(made.url.removeprefix("counted://"), made.manifest)
    part = next(iter(encodings.parts("sketch")))
    wanted = encodings.values(part, "sketch", ["tokens"])["tokens"]
    first, second = NodeCopies(encodings), NodeCopies(encodings)
    copies = [one(part, "sketch", ["tokens"])["tokens"] for one in (first, second)]
    assert all(torch.equal(copy, wanted) for copy in copies)
    assert first.reader == second.reader
    with pytest.raises(StorageError, match="does not exist"):
        second("part-none.parquet", "sketch", ["tokens"])
    ray.kill(first.reader)
    assert torch.equal(second(part, "sketch", ["tokens"])["tokens"], wanted), "a reader that ended is started again"


def _on_a_cluster(scratch: Path) -> tokens.Traffic:
    stage.SKETCHES = 256
    os.environ.pop("RAY_ADDRESS", None)
    with tokens.counting(scratch / "counts"), tokens.cluster():
        return tokens.measure(tokens.Size(sketches=1024, photos=1024, part=256), scratch)


@pytest.mark.cluster
@pytest.mark.timeout(600)  # 94 s alone, once over 300 beside the nodes of other tests
def test_a_node_of_a_cluster_reads_each_token_once(tmp_path: Path) -> None:
    # A process joins one cluster, and this one may have joined that of `ray_cluster`.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        found = process.submit(_on_a_cluster, tmp_path).result()
    assert len(found.reads) == tokens.NODES and found.files == 16
    for node, reads in found.reads.items():
        assert reads.bytes <= 1.5 * found.tokens and found.stores[node] <= 1.5 * found.tokens
        assert reads.requests <= 8 * 8, "requests grow with the 8 parts, not with the 16 blocks"
    assert found.score_requests == found.files
