"""Measure the cost of a retrieval mode on encoded pictures: FLOP per pair, bytes per photo, time per query.

`evaluate` writes the costs to the report; `operate/estimate` counts FLOP with `count_flop`.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from zse_model.methods import Encoding, RetrievalMethod
from zse_model.scoring import Precision, count

FLOP = 2e10  # of one timed round: a third of a second on two cores
PAIRS = 2**20  # at most, of one timed round
SKETCHES = 8


@torch.inference_mode()
def cost(
    method: RetrievalMethod, mode: str, precision: Precision, sketches: Encoding, photos: Encoding
) -> dict[str, Any]:
    """The cost of one of `method.modes`, with pictures that the method has encoded, on the method's device.

    gflop_pair: GFLOP per pair of matrix products and attention, without preparing the pictures, the mean of
    SKETCHES sketches: `late` skips places without ink. bytes_photo: bytes of a
    photo's encodings that the mode reads. ms_query_1000: wall time, in ms, of one sketch in a batch of SKETCHES against
    1,000 photos, without preparation; every pair is scored, for codes too, which an index searches faster. device: name
    of the GPU, or processor and threads.
    """
    scorer = method.scorer(mode, precision)
    asked = min(SKETCHES, count(sketches))
    several, photo = scorer.precompute(_first(sketches, asked), "sketch"), scorer.precompute(_first(photos, 1), "photo")
    flop = count_flop(lambda: scorer.score(several, photo)) // asked
    pairs = max(asked, min(PAIRS, int(FLOP / max(flop, 1))))
    against = min(count(photos), pairs // asked)
    queries, gallery = (
        scorer.precompute(_first(sketches, asked), "sketch"),
        scorer.precompute(_first(photos, against), "photo"),
    )
    scorer.score(queries, gallery)
    start, rounds = time.perf_counter(), 0
    while rounds == 0 or time.perf_counter() - start < 0.05:
        scorer.score(queries, gallery).cpu()
        rounds += 1
    seconds = (time.perf_counter() - start) / rounds
    return {
        "mode": mode,
        "gflop_pair": flop / 1e9,
        "bytes_photo": sum(photos[name][0].nbytes for name in scorer.reads("photo")),
        "ms_query_1000": 1e6 * seconds / (asked * against),
        "device": _device(method.device),
    }


def count_flop(work: Callable[[], Any]) -> int:
    """The FLOP of one call, on any device."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def _first(pictures: Encoding, n: int) -> Encoding:
    return {name: value[:n] for name, value in pictures.items()}


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.get_num_threads()} threads"
