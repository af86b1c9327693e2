"""Compute the tables of docs/scoring.md: the cost of a pair, the traffic of an evaluation, the rates of GPUs.

`python -m benchmarks scaling --page` writes them into the page. The FLOP and bytes of a pair follow from the shapes of
the released network (`zse_model/pair_scorer.py`); a test compares the FLOP with torch's count in the measured rows.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from benchmarks.results.tables import head, line
from pipelines.evaluate import score
from pipelines.workspace.encodings import Encodings
from zse_model.published import RELEASED

DIM, GRID, PATCHES = 768, 14, 196  # of ViT-B/16 at 224 px
TOKENS = PATCHES + 1
TOKEN_BYTES = 4 * TOKENS * DIM  # of a picture, float32 as `zse embed` stores them
FFN, POOLED, ANCHORS = RELEASED.ffn, RELEASED.pooled_dim, PATCHES // 4
PART = 1_000  # pictures of a part of the encodings, the default of `ingest.part_size`
GPUS = ("h100", "h200")
LARGE, LONG = "8192x8192 @ 8192x8192", "8192x768 @ 768x8192"  # products whose rates are measured
SETTINGS = {"Sketchy-25": (15_229, 17_101), "QuickDraw-30": (92_291, 54_151)}
"""Sketches and photos of the published test sets."""
GIVEN_GB, NODES = (5, 10, 20, 80), (1, 2, 4)


# The cost of a pair --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pass:
    """A pass over the activations of a pair: both directions of cross-attention together."""

    name: str
    flop: float = 0.0
    """Of matrix products."""
    numbers: float = 0.0
    """Read from and written to memory, uncompiled. Those of the sketch stay in the cache and are not counted, nor are
    weights."""
    once: bool = False
    """It reads one picture: the engine computes it once a picture."""


def passes(rows: int = PATCHES) -> list[Pass]:
    """What the engine does for a pair, in its order. rows: tokens of a picture that pass; with TOKENS the retrieval
    token passes, too, which the relation network never reads."""
    tokens, hidden, pooled, kernel = rows * DIM, rows * FFN, ANCHORS * POOLED, ANCHORS**2
    product = 2 * 2 * rows  # both directions; a multiplication and an addition count as two
    perceptron = (kernel, round(ANCHORS**1.5), ANCHORS, 1)
    return [
        Pass("projections Q, K, V", flop=2 * 2 * 3 * TOKENS * DIM**2, once=True),
        Pass("attention", flop=product * 2 * TOKENS * DIM, numbers=5 * tokens),  # Q, K, V of the photo; two results
        Pass("output projection", flop=product * DIM**2, numbers=4 * tokens),
        Pass("residual", numbers=5 * tokens),
        Pass("norm", numbers=4 * tokens),
        Pass("feed-forward, up", flop=product * DIM * FFN, numbers=2 * (tokens + hidden)),
        Pass("ReLU", numbers=4 * hidden),
        Pass("feed-forward, down", flop=product * DIM * FFN, numbers=2 * (tokens + hidden)),
        Pass("residual", numbers=6 * tokens),
        Pass("norm", numbers=4 * tokens),
        Pass("neighbourhoods gathered", numbers=4 * tokens),
        Pass("strided convolution", flop=2 * 2 * ANCHORS * 4 * DIM * POOLED, numbers=2 * (tokens + pooled)),
        Pass("L2 norm", numbers=6 * pooled),
        Pass(
            "cosine kernel and its perceptron",
            flop=2 * (kernel * POOLED + sum(a * b for a, b in zip(perceptron, perceptron[1:], strict=False))),
            numbers=2 * pooled + kernel,
        ),
    ]


def pair_flop() -> float:
    """Of a pair, with projections once a picture."""
    return sum(one.flop for one in passes() if not one.once)


def pair_table(bandwidth: float) -> list[str]:
    """bandwidth: bytes a second of the GPU's memory."""
    rates = gpu("h100")
    product = 1e12 * found(rates, "matrix", "tflops", precision="bf16", product=LONG)

    def cells(name: str, flop: float, numbers: float, depends: str) -> str:
        microseconds = (x * 1e6 for x in (flop / product, 2 * numbers / bandwidth))
        shown = (f"{flop / 1e9:.3f}", f"{2 * numbers / 1e6:.2f}", *(f"{x:.2f}" for x in microseconds))
        return line(name, *(text if float(text) else "" for text in shown), depends)

    lines = head("pass", "GFLOP a pair", "MB a pair, bf16", "µs of products", "µs of memory", "depends on")
    for one in passes():
        depends = "one picture: once a picture" if one.once else "the pair"
        lines.append(cells(one.name, one.flop, one.numbers, depends))
    lines.append(cells("**pair, as written down**", sum(one.flop for one in passes(TOKENS)), 0, ""))
    each = [one for one in passes() if not one.once]
    lines.append(cells("**pair, by the engine**", pair_flop(), sum(one.numbers for one in each), ""))
    return [text.replace("|  |", "| |").replace("|  |", "| |") for text in lines]


# The rates of GPUs ---------------------------------------------------------------------------------------------------


@cache
def gpu(name: str) -> dict[str, Any]:
    """The report of `python -m benchmarks gpu` that is kept of a GPU."""
    return json.loads(Path(__file__).with_name(f"gpu_{name}.json").read_text())


def found(report: Mapping[str, Any], section: str, key: str, **about: Any) -> float:
    """A measured number of a section's last row that is so. Raises LookupError if there is none."""
    rows = [row for row in report["sections"][section]["rows"] if about.items() <= row.items() and key in row]
    if not rows:
        raise LookupError(f"{report['device']}: no row of {section} has {key} with {about}. Run make bench-gpu")
    return rows[-1][key]


def gpu_table() -> list[str]:
    ways = {"fp32": "eager", "tf32": "eager", "bf16": "eager", "bf16, compiled": "compiled"}
    works = {
        "images/s encoded": ("encode", "images_s", {}),
        **{f"pairs/s scored, chunks of {chunk:,}": ("pairs", "pairs_s", {"chunk": chunk}) for chunk in (128, 1280)},
        "items/s trained, `global`": ("train", "items_s", {"method": "global"}),
    }
    lines = head("ViT-B at 224 px", "GPU", *(name.replace("tf32", "TF32") for name in ways))
    for work, (section, unit, about) in works.items():
        for name in GPUS:
            report, cells = gpu(name), []
            for way, how in ways.items():
                asked = about | {"precision": way.split(",")[0], "way": how}
                try:
                    rate, share = (found(report, section, key, **asked) for key in (unit, "share"))
                    cells.append(f"{rate:,.0f} ({share:.0%})".replace("%", " %"))
                except LookupError:
                    cells.append("-")
            if any(cell != "-" for cell in cells):
                lines.append(line(work, name.upper(), *cells))
    for name in GPUS:
        rates = (found(gpu(name), "matrix", "tflops", precision=way.split(",")[0], product=LARGE) for way in ways)
        lines.append(line("TFLOP/s of the product that is 100 %", name.upper(), *(f"{rate:.0f}" for rate in rates)))
    return lines


# An evaluation at full size ------------------------------------------------------------------------------------------


def parts_of(setting: str) -> dict[str, dict[str, int]]:
    """Modality -> part -> pictures, as `zse embed` would write them: photos and sketches in parts of their own."""
    return {
        side: {f"{side} {i}": min(PART, total - i) for i in range(0, total, PART)}
        for side, total in zip(("sketch", "photo"), SETTINGS[setting], strict=True)
    }


def blocks(setting: str) -> list[dict[str, Any]]:
    """The tasks that `score` plans."""
    parts = parts_of(setting)
    return score._planned(cast(Encodings, SimpleNamespace(parts=parts.__getitem__)), None)


def cluster_table() -> list[str]:
    planned = {name: blocks(name) for name in SETTINGS}
    rows = {
        "sketches x photos": lambda name: " x ".join(f"{n:,}" for n in SETTINGS[name]),
        "pairs, millions": lambda name: f"{pairs(name) / 1e6:,.0f}",
        "blocks, each one task, one file and one request to read it": lambda name: f"{len(planned[name]):,}",
        "pairs of the largest block, millions": lambda name: f"{max(t['rows'] for t in planned[name]) / 1e6:.1f}",
        "tokens, GB, read once by each node": lambda name: f"{sum(SETTINGS[name]) * TOKEN_BYTES / 1e9:.1f}",
        "scores, GB": lambda name: f"{4 * pairs(name) / 1e9:.1f}",
        "scores of a band, MB": lambda name: f"{4 * score.SKETCHES * SETTINGS[name][1] / 1e6:.0f}",
    }
    return [*head("", *SETTINGS), *(line(what, *map(of, SETTINGS)) for what, of in rows.items())]


def pairs(setting: str) -> int:
    sketches, photos = SETTINGS[setting]
    return sketches * photos


def reads_table() -> list[str]:
    """How many times its size a node reads the tokens if it can keep only some."""
    of_nodes = [f"{name}, {n} node{'s' * (n > 1)}" for name in SETTINGS for n in NODES]
    lines = head("GB that a node can keep", *of_nodes)
    planned = {name: list(read_by(name)) for name in SETTINGS}
    for given in GIVEN_GB:
        times = (
            most_read(planned[name], given * 1e9, n) / sum(SETTINGS[name]) / TOKEN_BYTES
            for name in SETTINGS
            for n in NODES
        )
        lines.append(line(str(given), *(f"{one:.1f}" for one in times)))
    return lines


def read_by(setting: str) -> Iterator[dict[str, int]]:
    """For each block the parts that it reads, with their bytes."""
    pictures = {part: rows for parts in parts_of(setting).values() for part, rows in parts.items()}
    for task in blocks(setting):
        pieces = (piece for side in ("sketches", "photos") for piece in json.loads(task[side]))
        yield {part: pictures[part] * TOKEN_BYTES for part, *_ in pieces}


def most_read(planned: Sequence[Mapping[str, int]], most: float, nodes: int) -> int:
    """Bytes that the busiest node reads if nodes take blocks in turn, and each keeps `most` bytes of the parts that it
    used last, as `pipelines.evaluate.node_copies.Reader` does."""
    totals = []
    for node in range(nodes):
        kept: OrderedDict[str, int] = OrderedDict()
        total = held = 0
        for parts in planned[node::nodes]:
            for part, size in parts.items():
                if part not in kept:
                    total, held = total + size, held + size
                    while kept and held > most:
                        held -= kept.popitem(last=False)[1]
                    kept[part] = size
                kept.move_to_end(part)
        totals.append(total)
    return max(totals)
