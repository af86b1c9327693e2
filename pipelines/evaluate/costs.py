"""What a way of scoring costs: FLOP a pair, bytes a photo, time a query. Measured on what was encoded."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from zse_model.methods import Encoding, RetrievalMethod
from zse_model.scoring import Precision, count

FLOP = 2e10  # that the clock runs for: a third of a second on two cores
PAIRS = 2**20
SKETCHES = 8


@torch.inference_mode()
def cost(
    method: RetrievalMethod, mode: str, precision: Precision, sketches: Encoding, photos: Encoding
) -> dict[str, Any]:
    """Of one of `method.modes`, on the device that the method is on, with some pictures encoded by it.

    gflop_pair: of matrix products and attention, pictures prepared; bytes_photo: what is stored and read of a photo;
    ms_query_1000: wall time of one sketch of eight against 1,000 photos, pictures prepared, every pair scored, of codes
    too, which an index finds faster; device: where.
    """
    scorer = method.scorer(mode, precision)
    sketch, photo = scorer.prepare(_first(sketches, 1), "sketch"), scorer.prepare(_first(photos, 1), "photo")
    flop = count_flop(lambda: scorer.score(sketch, photo))
    asked = min(SKETCHES, count(sketches))
    pairs = max(asked, min(PAIRS, int(FLOP / max(flop, 1))))
    against = min(count(photos), pairs // asked)
    queries, gallery = (
        scorer.prepare(_first(sketches, asked), "sketch"),
        scorer.prepare(_first(photos, against), "photo"),
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
    """Of what a call computes, on any device."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def _first(pictures: Encoding, n: int) -> Encoding:
    return {name: value[:n] for name, value in pictures.items()}


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.get_num_threads()} threads"
