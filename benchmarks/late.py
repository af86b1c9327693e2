"""Measure the search of a million photos by late interaction: a shortlist by codes or embeddings, ranked by `late` or
by `fused`.

    python -m benchmarks late --checkpoint workspace/checkpoints/...     a `late_interaction`, trained as you like
    python -m benchmarks late --checkpoint ... --photos 100000           a tenth of the photos

The photos are made from the encodings of real ones (or drawn ones): a rectangle of the places of one in the places of
another, and the sum of their embeddings by area. Queries are sketches of classes that the network did not train on.
Codes are fitted to pictures of the classes that it trained on. Recall is the share of the exact first 10 and 100 of
`late`, and of `fused`, that a shortlist holds. Nothing is kept of the photos but codes and embeddings: the exact scores
are computed as the photos are made.

The time is measured in two parts: the shortlist among all photos in memory, and reading and ranking the places of a
shortlist, by `Searcher` on an index of the real photos. What the type of stored places costs is measured on
pseudo-unseen classes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.photographed import by_class
from benchmarks.results import tables
from benchmarks.results.columns import paired, text
from benchmarks.results.tables import line
from benchmarks.world import originals
from pipelines.encode.index import index
from pipelines.search.searcher import Searcher
from pipelines.workspace.photo_index import UNIT, EncodingForm
from zse_model import evaluate_scores
from zse_model.checkpoint import Checkpoint, load_checkpoint
from zse_model.code_index import CodeIndex
from zse_model.hashing import Asymmetric, CodeHead, pack
from zse_model.late import LateScorer
from zse_model.methods.late_interaction import LateInteraction
from zse_model.retrieval import encode
from zse_model.scoring import Encoding, score_all
from zse_model.transforms import Modality
from zse_model.vector_index import VectorIndex

BITS, DEPTHS, FIRST, PART = (64, 256), (100, 1000, 10_000), (10, 100), 2000
TIMED = 15


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks late", description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--checkpoint", required=True, help="folder of a late_interaction with fused")
    parser.add_argument("--photos", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=20)
    options = parser.parse_args(arguments)
    checkpoint = load_checkpoint(Path(options.checkpoint))
    method = checkpoint.method
    assert isinstance(method, LateInteraction) and "fused" in method.modes, "a late_interaction with fused is needed"
    with tempfile.TemporaryDirectory() as scratch:
        folder = originals(Path(scratch))
        recalled(checkpoint, method, folder, options.photos, options.queries)
        stored(checkpoint, folder)
        timed(checkpoint, options.checkpoint, folder, Path(scratch))


def recalled(checkpoint: Checkpoint, method: LateInteraction, folder: Path, count: int, asked: int) -> None:
    """Print the recall of shortlists, and what they take."""
    split = checkpoint.split
    photos, labels = encoded(checkpoint, folder, "photo", [*split.seen, *split.unseen])
    sketches, of = encoded(checkpoint, folder, "sketch", split.seen)
    queries, _ = encoded(checkpoint, folder, "sketch", split.unseen)
    chosen = torch.randperm(len(queries["embedding"]), generator=torch.Generator().manual_seed(1))[:asked]
    queries = {name: value[chosen] for name, value in queries.items()}
    seen = labels < len(split.seen)
    heads = {f"asym-{bits}": CodeHead(photos["embedding"].shape[1], bits) for bits in BITS}
    for head in heads.values():
        head.fit(sketches["embedding"], photos["embedding"][seen], torch.cat([of, labels[seen]]))

    codes = {name: CodeIndex(head.projection.shape[1]) for name, head in heads.items()}
    rows = VectorIndex(photos["embedding"].shape[1])
    scorer = LateScorer(method.device, method.backbone.grid, method.config.place_dim, method.config.late_distance)
    generator, began = torch.Generator().manual_seed(0), time.time()
    exact: dict[str, list[Tensor]] = {"ret": [], "late": []}
    for start in range(0, count, PART):
        some = mixed(photos, min(PART, count - start), method.backbone.grid, generator)
        exact["late"].append(score_all(scorer, {"places": queries["places"]}, {"places": some["places"]}))
        exact["ret"].append(queries["embedding"] @ some["embedding"].T)
        rows.add(some["embedding"].half())
        for name, head in heads.items():
            codes[name].add(pack(head(some["embedding"], "photo")))
    ret, late = (torch.cat(parts, dim=1) for parts in exact.values())
    took = time.time() - began
    made = f"{count:,} photos of {len(photos['embedding']):,} real ones, {asked} queries"
    print(f"{made}; {late.numel() / took:,.0f} pairs/s by late, the making of the photos included")
    truths = {"late": late, "fused": method.fuse("fused", ret, late)}

    finders: dict[str, Callable[[int, int], Tensor]] = {
        "ret": lambda i, k: rows.search(queries["embedding"][i : i + 1], k).indices[0]
    }
    for name, head in heads.items():
        weights = Asymmetric(method.device, name, head).precompute({"embedding": queries["embedding"]}, "sketch")
        finders[name] = lambda i, k, name=name, weights=weights: codes[name].search(weights[i : i + 1], k).indices[0]
    columns = [(k, first) for k in DEPTHS for first in FIRST if k < count]
    names = ("shortlist", "bytes a photo", "p50 of 1,000, ms", "ranked by")
    print(line(*names, *(f"first {first} in {k:,}" for k, first in columns)))
    for name, find in finders.items():
        size = 2 * rows.dim if name == "ret" else int(name.split("-")[1]) // 8
        took = median(lambda i, find=find: find(i % asked, min(1000, count)))
        lists = {k: [find(i, k) for i in range(asked)] for k in {k for k, _ in columns}}
        for ranked_by, scores in truths.items():
            best = scores.topk(max(FIRST), dim=1).indices
            shares = [share(lists[k], best[:, :first]) for k, first in columns]
            print(line(name, f"{size:,}", f"{took:.1f}", ranked_by, *(f"{value:.3f}" for value in shares)))


def stored(checkpoint: Checkpoint, folder: Path) -> None:
    """Print what the types of stored places cost in quality, on pseudo-unseen classes."""
    classes, method = checkpoint.split.pseudo_unseen, checkpoint.method
    sketches, labels = encoded(checkpoint, folder, "sketch", classes)
    photos, others = encoded(checkpoint, folder, "photo", classes)
    task = by_class(labels, others)
    print(
        *tables.head("places", "bytes a photo", "mode", "mAP_all", "minus the first", "largest change of a score"),
        sep="\n",
    )
    first: dict[str, tuple[Tensor, Tensor]] = {}
    for dtype in ("float32", "float16", UNIT):
        form = EncodingForm(dtype, tuple(photos["places"].shape[1:]))
        kept = torch.from_numpy(form.values(form.column(photos["places"].numpy())).copy()).float()
        for mode in ("late", "fused"):
            scores = method.score(sketches, {**photos, "places": kept}, mode)
            values = evaluate_scores([scores], task).values("plain", "mAP_all")
            cells = ("", "")
            if mode in first:
                before, of = first[mode]
                cells = text(paired(values, before, labels)), f"{float((scores - of).abs().max()):.1e}"
            first.setdefault(mode, (values, scores))
            print(line(dtype, f"{form.bytes:,}", mode, f"{float(values.nanmean()):.4f}", *cells), flush=True)


def timed(checkpoint: Checkpoint, url: str, folder: Path, scratch: Path) -> None:
    """Print what encoding a sketch, and reading and ranking a shortlist, take in a real index."""
    index(str(folder / "photo"), str(scratch / "index"), url, called=url, tokens=True)
    searcher = Searcher.open(str(scratch / "index"), url)
    sketches = sorted((folder / "sketch" / checkpoint.split.unseen[0]).iterdir())
    size = searcher.generation.forms["places"].bytes
    print(f"{len(searcher):,} photos in an index; places of a photo take {size:,} bytes there")
    alone = median(lambda i: searcher.search(str(sketches[i % len(sketches)]), group=False))
    print(f"ret, with encoding and 20 thumbnails: p50 {alone:.1f} ms")
    for depth in DEPTHS[:2]:
        for mode in ("late", "fused"):
            took = median(
                lambda i, depth=depth, mode=mode: searcher.search(
                    str(sketches[i % len(sketches)]), mode="ret", rerank=depth, rerank_mode=mode, group=False
                )
            )
            print(f"{mode} of the first {depth:,}: p50 {took:.1f} ms")


def encoded(checkpoint: Checkpoint, folder: Path, side: Modality, classes: Sequence[str]) -> tuple[Encoding, Tensor]:
    """The encodings of a side of some classes, and their places in `classes`, int64 [n]."""
    files = [(path, i) for i, name in enumerate(classes) for path in sorted((folder / side / name).iterdir())]
    return encode(checkpoint, [path for path, _ in files], side), torch.tensor([i for _, i in files])


def mixed(photos: Encoding, count: int, grid: tuple[int, int], generator: torch.Generator) -> Encoding:
    """Photos made of pairs of real ones: a rectangle of 4 places or more a side of one, in another."""
    embeddings, places = photos["embedding"], photos["places"]
    a, b = torch.randint(len(embeddings), (2, count), generator=generator)
    inside = torch.ones(count, *grid, dtype=torch.bool)
    for side, size in enumerate(grid):
        length = torch.randint(4, size + 1, (count,), generator=generator)
        start = (torch.rand(count, generator=generator) * (size - length + 1)).long()
        at = torch.arange(size)
        within = (at >= start[:, None]) & (at < (start + length)[:, None])
        inside &= within[:, :, None] if side == 0 else within[:, None, :]
    inside = inside.flatten(1)
    area = inside.float().mean(1)[:, None]
    embedding = torch.nn.functional.normalize(area * embeddings[a] + (1 - area) * embeddings[b], dim=1)
    return {"embedding": embedding, "places": torch.where(inside[:, :, None], places[a], places[b])}


def share(lists: Sequence[Tensor], best: Tensor) -> float:
    return float(np.mean([np.isin(row.numpy(), found.numpy()).mean() for row, found in zip(best, lists, strict=True)]))


def median(work: Callable[[int], object]) -> float:
    """Milliseconds of a call, after one that is not counted."""
    work(0)
    seconds = []
    for i in range(TIMED):
        began = time.perf_counter()
        work(i + 1)
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds)
