"""Measure correctness and speed of the networks on one GPU. Takes minutes, and needs torch and timm only.

    python -m benchmarks gpu --out gpu.json     # at most eight minutes; an interrupted run keeps its measurements
    python -m benchmarks gpu --small            # the same code on tiny networks and a CPU, in seconds

- matrix: TFLOP/s of a large matrix product in each precision. `share` in the other sections is a share of this rate.
- parity: losses, gradients, encodings and scores of every method in fp32, TF32 and bf16, against fp32 on the CPU.
- golden: the released ZSE-SBIR against values that the public code computed (tests/golden).
- encode, train: ViT-B at 224 px with random weights and pictures in device memory, eager and compiled.
- pairs: the pair network of ZSE-SBIR by precision, by pairs a chunk, by attention kernel, eager and compiled.

A failed measurement is recorded as an error, a measurement without time left as skipped; the others go on. Times are
medians of CUDA events after a warm-up, and compared ways run in turns. FLOP are torch's count of the eager pass,
attention included. An item is four pictures, forward, backward and a step of AdamW.
"""

from __future__ import annotations

import argparse
import copy
import gc
import itertools
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.golden import FOLDER, recipe_state, reference
from zse_model.backbones import BackboneConfig
from zse_model.layers import TokenNorm, attend
from zse_model.methods import (
    CrossATNetConfig,
    Encoding,
    GlobalConfig,
    LateInteractionConfig,
    Modality,
    RetrievalMethod,
    TrainBatch,
    ZseSbirConfig,
    create_method,
)
from zse_model.methods.fusion import FUSION_STEPS, Fusing
from zse_model.methods.zse_sbir import ZseSbir
from zse_model.pair_scorer import PairScorer
from zse_model.published import RELEASED, RELEASED_BACKBONE, RELEASED_SIZE, translate
from zse_model.scoring import Precision, score_all

PRECISIONS = ("fp32", "tf32", "bf16")
BACKENDS = {
    "math": SDPBackend.MATH,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
OTHER_GOLDEN = FOLDER.parents[2] / "shared" / "golden"
CLASSES = 5
Row = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """Sizes of the measurements."""

    size: int
    """Pixels a side."""
    transformer: BackboneConfig
    maps: BackboneConfig
    dim: int
    compare: int
    """Pictures of each modality for parity."""
    encode_batch: int
    items: int
    """Items of a training step."""
    pairs: ZseSbirConfig
    """The timed pair network."""
    chunks: tuple[int, ...]
    sketches: int
    matrix: int
    """Side of the matrices whose product gives the rate."""
    seconds: float
    """Time to repeat a measurement for."""
    compiler: str
    compiled: tuple[str, ...]
    """Methods whose training is also measured compiled."""


FULL = Scale(
    size=224,
    transformer=BackboneConfig(name="vit_base_patch16_224"),
    maps=BackboneConfig(name="mobilenetv2_100"),
    dim=512,
    compare=16,
    encode_batch=256,
    items=32,
    pairs=RELEASED,
    chunks=(32, 128, 256, 1024, 1280, 1300),
    sketches=4,
    matrix=8192,
    seconds=1.0,
    compiler="inductor",
    compiled=("global", "zse_sbir"),
)
SMALL = Scale(
    size=64,
    transformer=BackboneConfig(name="test_vit"),
    maps=BackboneConfig(name="test_resnet"),
    dim=16,
    compare=4,
    encode_batch=4,
    items=2,
    pairs=ZseSbirConfig(heads=2, ffn=32),
    chunks=(2, 4),
    sketches=1,
    matrix=64,
    seconds=0.0,
    compiler="eager",  # traces the network and compiles nothing
    compiled=("global",),
)


class NoTimeError(Exception):
    """No time is left."""


@dataclass
class Bench:
    """A run of the benchmark: its device, sizes, deadline and report."""

    device: torch.device
    scale: Scale
    until: float
    """Deadline in `time.monotonic`: no measurement begins after it."""
    out: Path | None
    report: dict[str, Any]
    rates: dict[str, float] = field(default_factory=dict)
    """Measured FLOP/s of matrix products by precision."""

    def section(self, name: str, measure: Callable[[Bench], None]) -> None:
        """Measure, print and write one section. An error in it is recorded there."""
        started = time.monotonic()
        section: dict[str, Any] = {"rows": []}
        self.report["sections"][name] = section
        try:
            self.check_time()
            measure(self)
        except Exception as error:
            section.update(failure(error))
        section["seconds"] = round(time.monotonic() - started, 2)
        self.report["seconds"] = round(sum(s["seconds"] for s in self.report["sections"].values()), 2)
        self.write()
        print(
            f"\n-- {name}, {section['seconds']:.0f} s" + "".join(f"; {k}: {section[k]}" for k in FAILED if k in section)
        )
        print_table(section["rows"])

    def add(self, section: str, about: Row, measure: Callable[[], Row]) -> Row:
        """Add a row: `about` with the result of `measure`, or with its error."""
        row = dict(about)
        self.report["sections"][section]["rows"].append(row)
        try:
            self.check_time()
            row |= measure()
        except Exception as error:
            row |= failure(error)
        self.clear()
        self.write()
        return row

    def check_time(self) -> None:
        if time.monotonic() > self.until:
            raise NoTimeError("no time is left (--minutes)")

    def write(self) -> None:
        if self.out is not None:
            scratch = self.out.with_name(f"{self.out.name}.part")
            scratch.write_text(json.dumps(self.report, indent=1, allow_nan=False) + "\n")
            scratch.replace(self.out)

    def clear(self) -> None:
        if self.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()

    def share(self, flop_per_second: float, precision: str) -> float | None:
        """The share of the measured matrix rate; None if the rate was not measured."""
        rate = self.rates.get(precision)
        return rate and rounded(flop_per_second / rate)


FAILED = ("error", "skipped")


def failure(error: Exception) -> Row:
    if isinstance(error, NoTimeError):
        return {"skipped": str(error)}
    first = (str(error).strip().splitlines() or [""])[0][:300]
    return {"error": f"{type(error).__name__}: {first}"}


# Measuring ----------------------------------------------------------------------------------------------------------


def seconds_of(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call; on a GPU by CUDA events."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


@dataclass(frozen=True)
class Timing:
    seconds: float
    """The median."""
    spread: float
    """The third quartile divided by the first; 1 = all equal."""
    runs: int
    warm_up: float
    """Seconds of the first three calls, compilation included."""
    peak: int | None
    """Peak bytes of allocated device memory, other tensors included."""
    working: int | None
    """Bytes of the peak that the call itself allocated."""


def measured(bench: Bench, ways: Mapping[str, Callable[[], Any]]) -> dict[str, Timing | Exception]:
    """The timing of each way, or its error. Each way warms up alone; ways without an error then run in turns."""
    found: dict[str, Timing | Exception] = {}
    warm: dict[str, tuple[float, int | None, int | None]] = {}
    for name, run in ways.items():
        try:
            bench.check_time()
            warm[name] = warmed_up(run, bench.device)
        except Exception as error:
            found[name] = error
    spent: dict[str, list[float]] = {name: [] for name in warm}
    end = time.monotonic() + bench.scale.seconds * len(warm)
    for turn in range(100 if warm else 0):
        if turn >= 3 and time.monotonic() > end:
            break
        for name, seconds in spent.items():
            seconds.append(seconds_of(ways[name], bench.device))
    for name, seconds in spent.items():
        quarters = statistics.quantiles(seconds, n=4)
        spread = quarters[2] / max(quarters[0], 1e-12)
        found[name] = Timing(statistics.median(seconds), spread, len(seconds), *warm[name])
    return {name: found[name] for name in ways}


def warmed_up(run: Callable[[], Any], device: torch.device) -> tuple[float, int | None, int | None]:
    """Three calls, after which compilers, autotuning and allocators are done: their seconds, the peak bytes of the last
    call, and the bytes that the last call added."""
    start, there = time.perf_counter(), 0
    for i in range(3):
        if i == 2 and device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            there = torch.cuda.memory_allocated()
        run()
    if device.type != "cuda":
        return time.perf_counter() - start, None, None
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    return time.perf_counter() - start, peak, peak - there


def add_timings(
    bench: Bench,
    section: str,
    about: Row,
    ways: Mapping[str, Callable[[], Any]],
    *,
    unit: str,
    count: int,
    flop: float,
    precision: str,
    base: str = "eager",
) -> None:
    """Add a row for each way, with its speed relative to `base`. count: how many of `unit` a call processes."""
    found = measured(bench, ways)
    baseline = found.get(base)
    for name, timing in found.items():

        def row(timing: Timing | Exception = timing) -> Row:
            if isinstance(timing, Exception):
                raise timing
            rate = flop / timing.seconds
            return {
                f"{unit}_s": rounded(count / timing.seconds),
                "ms": rounded(timing.seconds * 1e3),
                "tflops": rounded(rate / 1e12),
                "share": bench.share(rate, precision),
                "times_eager": rounded(baseline.seconds / timing.seconds) if isinstance(baseline, Timing) else None,
                "spread": rounded(timing.spread),
                "runs": timing.runs,
                "warm_up_s": rounded(timing.warm_up),
                "peak_gib": gib(timing.peak),
                "working_gib": gib(timing.working),
            }

        bench.add(section, {**about, "precision": precision, "way": name}, row)


def gib(size: int | None) -> float | None:
    return None if size is None else rounded(size / 2**30)


def rounded(x: float) -> float | None:
    """The number with four significant digits; None for NaN and infinity, which JSON lacks."""
    return float(f"{x:.4g}") if math.isfinite(x) else None


def flop_of(run: Callable[[], Any]) -> float:
    """Torch's count of FLOP, with the math kernel of attention, which is counted on every device."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


@contextmanager
def computing(precision: str, device: torch.device) -> Iterator[None]:
    """Within the context, matrix products and convolutions run in fp32 or TF32, or in bf16 by autocast as in a
    training."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    cast_: AbstractContextManager[Any] = (
        torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
    )
    try:
        with cast_:
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def scoring_precision(precision: str) -> Precision:
    return "bf16" if precision == "bf16" else "fp32"


# Inputs -------------------------------------------------------------------------------------------------------------


def pictures(n: int, channels: int, size: int, seed: int) -> Tensor:
    """uint8 [n, channels, size, size]: smooth noise, because networks hardly distinguish pictures of white noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, 8, 8, generator=generator)
    fine = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return (fine * 255).to(torch.uint8)


def train_batch(n: int, size: int, seed: int = 0) -> TrainBatch:
    label = torch.arange(n) % CLASSES
    return TrainBatch(
        sketch=pictures(n, 1, size, seed),
        photo=pictures(n, 3, size, seed + 1),
        sketch2=pictures(n, 1, size, seed + 2),
        negative=pictures(n, 3, size, seed + 3),
        label=label,
        negative_label=(label + 1) % CLASSES,
    )


def networks(scale: Scale) -> dict[str, Callable[[], RetrievalMethod]]:
    """Every method on a transformer and on a convolutional backbone, with all losses, and without dropout, which would
    make comparisons random."""
    configs: dict[str, Any] = {
        "global": GlobalConfig(dim=scale.dim, readout="head", distillation=1.0, dropped_units=()),
        "crossatnet": CrossATNetConfig(
            dim=scale.dim, vector_dim=16, neighbours=2, bits=32, distillation=1.0, dropped_units=()
        ),
        "zse_sbir": ZseSbirConfig(
            heads=2,
            ffn=scale.dim,
            contrast=1.0,
            classification=1.0,
            distillation=1.0,
            dropped_units=(),
            negatives="batch",
            dropout=0.0,
        ),
        "late_interaction": LateInteractionConfig(dim=scale.dim, pairs=1.0, distillation=1.0, dropped_units=()),
    }

    def build(name: str, config: Any, backbone: BackboneConfig) -> RetrievalMethod:
        torch.manual_seed(0)
        return create_method(name, config, backbone, size=scale.size, classes=CLASSES)

    return {
        f"{name} on {backbone.name}": (lambda n=name, c=config, b=backbone: build(n, c, b))
        for backbone in (scale.transformer, scale.maps)
        for name, config in configs.items()
    }


# Sections -----------------------------------------------------------------------------------------------------------


def matrix(bench: Bench) -> None:
    n, device = bench.scale.matrix, bench.device
    for precision in PRECISIONS:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        for inner in (n, 768):
            a, b = torch.randn(n, inner, device=device).to(dtype), torch.randn(inner, n, device=device).to(dtype)

            def row(a: Tensor = a, b: Tensor = b, inner: int = inner) -> Row:
                (timing,) = measured(bench, {"product": lambda: a @ b}).values()
                if isinstance(timing, Exception):
                    raise timing
                rate = 2 * n * n * inner / timing.seconds
                return {"tflops": rounded(rate / 1e12), "spread": rounded(timing.spread), "runs": timing.runs}

            with computing("tf32" if precision == "tf32" else "fp32", device):
                made = bench.add("matrix", {"precision": precision, "product": f"{n}x{inner} @ {inner}x{n}"}, row)
            if inner == n and "tflops" in made:
                bench.rates[precision] = made["tflops"] * 1e12


def parity(bench: Bench) -> None:
    scale = bench.scale
    for name, build in networks(scale).items():
        method, batch = build(), train_batch(scale.compare // 2, scale.size)
        settle(method, batch, scale)
        expected = outcomes(copy.deepcopy(method), batch, scale, "fp32")
        for precision in PRECISIONS:
            run = partial(on_device, bench, method, batch, precision, expected)
            add_parity(bench, "parity", {"method": name, "precision": precision}, expected, run)


def on_device(
    bench: Bench, method: RetrievalMethod, batch: TrainBatch, precision: str, expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    return outcomes(copy.deepcopy(method).to(bench.device), batch, bench.scale, precision, expected)


def settle(method: RetrievalMethod, batch: TrainBatch, scale: Scale) -> None:
    """Set the values that a training computes at its start and end, so that every loss and every mode works."""
    method.eval()
    method.measure_start(iter([batch]), lambda x: x)
    with torch.no_grad():
        sketches, photos = encoded(method, scale)
        for head in getattr(method, "codes", {}).values():
            head.fit_itq(torch.cat([sketches["embedding"], photos["embedding"]]))
        if isinstance(method, Fusing):
            tried = itertools.count()  # the middle of the shares, so that both modes count
            middle = FUSION_STEPS // 2
            method.calibrate(
                lambda mode: method.score(sketches, photos, mode),
                lambda _: -abs(next(tried) % FUSION_STEPS - middle),
            )


def encoded(method: RetrievalMethod, scale: Scale) -> tuple[Encoding, Encoding]:
    sides: tuple[tuple[Modality, int], ...] = (("sketch", 1), ("photo", 3))
    found = []
    for modality, channels in sides:
        shown = pictures(scale.compare, channels, scale.size, seed=100 + channels)
        with torch.inference_mode():
            found.append({k: v.cpu() for k, v in method.encode(shown.to(method.device), modality).items()})
    return found[0], found[1]


def outcomes(
    method: RetrievalMethod, batch: TrainBatch, scale: Scale, precision: str, given: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """All results of a method as CPU tensors: encodings, scores of every mode from `given` encodings (default: its
    own), scores from its own encodings (end to end), losses and the gradient."""
    device, out = method.device, {}
    method.eval()
    with computing(precision, device):
        own = encoded(method, scale)
    for side, encoding in zip(("sketch", "photo"), own, strict=True):
        out |= {f"encode {side} {key}": value for key, value in encoding.items()}
    same = own
    if given is not None:
        sketches, photos = ({k: given[f"encode {side} {k}"] for k in own[0]} for side in ("sketch", "photo"))
        same = sketches, photos
    with ExitStack() as stack:
        if precision != "bf16":  # a scorer has its own precision, and runs without autocast
            stack.enter_context(computing(precision, device))
        for mode in method.modes:
            scorer = method.scorer(mode, scoring_precision(precision))
            out[f"score {mode}"] = score_all(scorer, *same)
            out[f"end to end {mode}"] = score_all(scorer, *own)
    method.train()
    with computing(precision, device):
        losses = method.losses(batch.to(device))
    out |= {f"loss {name}": value.detach().cpu() for name, value in losses.items()}
    torch.stack([value.mean() for value in losses.values()]).sum().backward()
    gradients = [p.grad.detach().flatten().float().cpu() for p in method.parameters() if p.grad is not None]
    out["gradient"] = torch.cat(gradients)
    method.zero_grad()
    return out


def add_parity(
    bench: Bench, section: str, about: Row, expected: Mapping[str, Tensor], run: Callable[[], Mapping[str, Tensor]]
) -> None:
    """Add a row for each result: its difference from the expected one, and for scores the agreement of the ranking."""
    rows = bench.report["sections"][section]["rows"]
    try:
        bench.check_time()
        found = run()
        compared = [{"result": k, **difference(found[k], v, ranks=is_score(k))} for k, v in expected.items()]
    except Exception as error:
        compared = [{"result": "all", **failure(error)}]
    rows.extend({**about, **row} for row in compared)
    bench.clear()
    bench.write()


def is_score(name: str) -> bool:
    return name.startswith(("score ", "end to end ", "logits"))


def difference(ours: Tensor, theirs: Tensor, *, ranks: bool = False) -> Row:
    """The largest difference, absolute and relative to the largest value, and the mean difference relative to the mean
    absolute value. For codes the share of equal bits."""
    if ours.dtype == torch.uint8:
        bits = torch.arange(8)
        equal = ((ours[..., None] >> bits) & 1) == ((theirs[..., None] >> bits) & 1)
        return {"bits": rounded(equal.double().mean().item())}
    a, b = ours.double(), theirs.double()
    if not a.isfinite().all():
        return {"error": f"{int((~a.isfinite()).sum())} of {a.numel()} values are not finite"}
    off = (a - b).abs()
    row = {
        "max_abs": rounded(off.max().item()),
        "max_rel": rounded((off.max() / b.abs().max().clamp(min=1e-30)).item()),
        "mean_rel": rounded((off.mean() / b.abs().mean().clamp(min=1e-30)).item()),
    }
    return row | (order_agreement(a, b) if ranks else {})


def order_agreement(ours: Tensor, theirs: Tensor) -> Row:
    """Agreement of two score matrices, float64 [q, g]: the share of queries with the same first photo, and the share of
    pairs of photos in the same order, without pairs that tie in `theirs`."""
    mine, reference_ = (torch.sign(x[:, :, None] - x[:, None, :]) for x in (ours, theirs))
    asked = reference_ != 0
    agree = (mine == reference_)[asked].double().mean().item() if asked.any() else 1.0
    return {"first": rounded((ours.argmax(1) == theirs.argmax(1)).double().mean().item()), "order": rounded(agree)}


def golden(bench: Bench) -> None:
    arrays = {key: torch.from_numpy(value) for key, value in reference().items() if value.dtype.kind in "fiu"}
    small_parts(bench, arrays)
    other = OTHER_GOLDEN / "zse_reference.npz"
    rows = bench.report["sections"]["golden"]["rows"]
    if not other.is_file():
        rows.append({"result": "shared/golden", "skipped": "does not exist"})
    elif other.read_bytes() == (FOLDER / "zse_reference.npz").read_bytes():
        rows.append({"result": "shared/golden", "skipped": "the same bytes as tests/golden"})
    else:
        rows.append({"result": "shared/golden", "error": "other arrays than tests/golden"})
    if bench.scale is SMALL:
        rows.append({"result": "the whole network", "skipped": "--small"})
        return
    method, shown = released(), torch.cat([arrays["sketches_u8"], arrays["photos_u8"]])
    for precision in PRECISIONS:
        expected = {key: arrays[of].float() for key, of in GOLDEN.items()}
        if precision == "bf16":
            expected["kernels, compiled"] = expected["kernels"]

        def run(precision: str = precision) -> dict[str, Tensor]:
            return golden_outcomes(copy.deepcopy(method).to(bench.device), shown, arrays, precision)

        add_parity(bench, "golden", {"method": "released ZSE-SBIR", "precision": precision}, expected, run)


GOLDEN = {
    "tokens, retrieval": "sa_ret",
    "tokens, some": "sa_sub",
    "kernels": "kernels_all_pairs",
    "logits": "logits",
    "ret_distance": "ret_distance",
    "loss triplet": "loss_triplet_x2",
    "loss relation": "loss_relation_x4",
}


def small_parts(bench: Bench, arrays: Mapping[str, Tensor]) -> None:
    """Compare the published norm and the cosine kernel alone."""
    name, device = "ca.encoder.layer1.0.sublayer.0.norm.", bench.device
    state = recipe_state(name)

    def norm() -> Row:
        layer = TokenNorm(768)
        layer.load_state_dict({"weight": state[f"{name}a"], "bias": state[f"{name}b"]})
        with torch.no_grad():
            normed = layer.to(device)(arrays["micro_ca_layernorm_in"].to(device)).cpu()
        return difference(normed, arrays["micro_ca_layernorm_out"])

    def kernel() -> Row:
        p, q = (nn.functional.normalize(arrays[f"micro_cos_{x}"].to(device), dim=-1) for x in "pq")
        return difference((p @ q.transpose(1, 2)).cpu(), arrays["micro_cos_out"])

    with computing("fp32", device):
        bench.add("golden", {"method": "published norm", "precision": "fp32", "result": "norm"}, norm)
        bench.add("golden", {"method": "cosine kernel", "precision": "fp32", "result": "kernel"}, kernel)


def released() -> ZseSbir:
    """The published network with the golden recipe's weights."""
    method = ZseSbir(RELEASED, RELEASED_BACKBONE, size=RELEASED_SIZE, classes=1, load_weights=False)
    method.load_state_dict(method.state_dict() | translate(recipe_state(), method.state_dict()).state)
    return method.eval()


@torch.no_grad()
def golden_outcomes(method: ZseSbir, shown: Tensor, arrays: Mapping[str, Tensor], precision: str) -> dict[str, Tensor]:
    """The results named in GOLDEN, of four sketches and four photos, without dropout as in the golden arrays."""
    device = method.device
    with computing(precision, device):
        tokens = method.features(shown.to(device), "sketch").tokens
        s, p = shown[:4], shown[4:]
        label = torch.tensor([0, 1])
        batch = TrainBatch(
            sketch=s[:2], photo=p[:2], sketch2=s[2:], negative=p[2:], label=label, negative_label=1 - label
        )
        losses = method.losses(batch.to(device))
    assert tokens is not None
    tokens = tokens.float()
    sketch, photo = ({"tokens": x, "embedding": nn.functional.normalize(x[:, 0])} for x in (tokens[:4], tokens[4:]))
    with computing("fp32" if precision == "bf16" else precision, device):
        pairs = cast(PairScorer, method.scorer("rn", scoring_precision(precision)))
        sketches, photos = pairs.precompute(sketch, "sketch"), pairs.precompute(photo, "photo")
        compiled = torch.compile(pairs.kernel, dynamic=False) if precision == "bf16" else pairs.kernel
        kernels, fused = (
            torch.cat([kernel(sketches.take(slice(i, i + 1)), photos) for i in range(4)])
            for kernel in (pairs.kernel, compiled)
        )
        logits, cosine = pairs.score(sketches, photos), score_all(method.scorer("ret"), sketch, photo)
    some = tokens[:, arrays["sub_tokens"].to(device)][..., arrays["sub_channels"].to(device)]
    found = {
        "tokens, retrieval": tokens[:, 0],
        "tokens, some": some,
        "kernels": kernels,
        "kernels, compiled": fused,
        "logits": logits,
        "ret_distance": (2 - 2 * cosine.double()).clamp(min=0).sqrt(),
        **{f"loss {name}": value.mean() for name, value in losses.items()},
    }
    return {name: value.float().cpu() for name, value in found.items()}


def encode(bench: Bench) -> None:
    scale, device = bench.scale, bench.device
    torch.manual_seed(0)
    config = GlobalConfig(dim=scale.dim, readout="head")
    method = create_method("global", config, scale.transformer, size=scale.size, classes=CLASSES).to(device).eval()
    images = pictures(scale.encode_batch, 3, scale.size, 0).to(device)
    with torch.inference_mode():
        flop = flop_of(lambda: method.encode(images[:2], "photo")) / 2 * len(images)
        for precision in PRECISIONS:
            ways = {"eager": method.encode}
            if precision == "bf16":
                ways["compiled"] = torch.compile(method.encode, backend=scale.compiler, dynamic=False, fullgraph=True)
            with computing(precision, device):
                calls = {name: partial(encode_, images, "photo") for name, encode_ in ways.items()}
                about = {"backbone": scale.transformer.name, "batch": len(images)}
                add_timings(
                    bench, "encode", about, calls, unit="images", count=len(images), flop=flop, precision=precision
                )


def train(bench: Bench) -> None:
    configs: dict[str, Any] = {
        "global": GlobalConfig(dim=bench.scale.dim, readout="head"),
        "zse_sbir": ZseSbirConfig(heads=2 if bench.scale is SMALL else 8, contrast=1.0, classification=1.0),
        "crossatnet": CrossATNetConfig(dim=bench.scale.dim, vector_dim=16, neighbours=2, bits=0),
    }
    for name, config in configs.items():
        for precision in PRECISIONS[1:] if name == "global" else PRECISIONS[2:]:
            train_one(bench, name, config, precision)


def train_one(bench: Bench, name: str, config: Any, precision: str) -> None:
    """Time the steps of `zse_model.fit` on one batch in device memory."""
    scale, device = bench.scale, bench.device
    batch, two = (train_batch(items, scale.size).to(device) for items in (scale.items, 2))

    def built(*, compiled: bool) -> Callable[[TrainBatch], None]:
        torch.manual_seed(0)
        method = create_method(name, config, scale.transformer, size=scale.size, classes=CLASSES).to(device).train()
        optimizer = torch.optim.AdamW(method.parameters(), lr=1e-6, fused=device.type == "cuda")
        if compiled:
            method.compile(backend=scale.compiler, dynamic=False, fullgraph=True)

        def step(batch: TrainBatch) -> None:
            optimizer.zero_grad()
            with computing(precision, device):
                losses = method(batch)
                torch.stack([value.mean() for value in losses.values()]).sum().backward()
            optimizer.step()

        return step

    about = {"method": name, "backbone": scale.transformer.name, "items": scale.items}
    try:
        eager = built(compiled=False)
        flop = flop_of(partial(eager, two)) / 2 * scale.items
        ways = {"eager": partial(eager, batch)}
        if precision == "bf16" and name in scale.compiled:
            ways["compiled"] = partial(built(compiled=True), batch)
    except Exception as error:
        bench.report["sections"]["train"]["rows"].append({**about, "precision": precision, **failure(error)})
        return
    add_timings(bench, "train", about, ways, unit="items", count=scale.items, flop=flop, precision=precision)


def pairs(bench: Bench) -> None:
    """Time the scoring of one sketch after another with precomputed photos, as many as fill whole chunks."""
    scale, device = bench.scale, bench.device
    torch.manual_seed(0)
    backbone = RELEASED_BACKBONE if scale.pairs is RELEASED else scale.transformer
    method = ZseSbir(scale.pairs, backbone, size=scale.size, classes=1, load_weights=False).to(device).eval()
    dim, n = method.backbone.token_dim, 1 + method.backbone.tokens
    tokens = torch.randn(scale.sketches + max(scale.chunks), n, dim, device=device)
    for precision in PRECISIONS:
        with computing("fp32" if precision == "bf16" else precision, device):
            scorer = cast(PairScorer, method.scorer("rn", scoring_precision(precision)))
            sketches = scorer.precompute({"tokens": tokens[: scale.sketches]}, "sketch")
            photos = scorer.precompute({"tokens": tokens[scale.sketches :]}, "photo")
            flop = flop_of(partial(scorer.score, sketches.take(slice(0, 1)), photos.take(slice(0, 2)))) / 2
            for chunk in scale.chunks:
                gallery = photos.take(slice(0, chunk * (len(photos) // chunk)))
                ways = pair_ways(bench, method, precision, chunk)
                calls = {name: partial(score, sketches, gallery) for name, score in ways.items()}
                count = len(sketches) * len(gallery)
                about = {"chunk": chunk, "gflop_pair": rounded(flop / 1e9)}
                add_timings(
                    bench, "pairs", about, calls, unit="pairs", count=count, flop=flop * count, precision=precision
                )
            if precision == "bf16":
                bench.add(
                    "pairs", {"precision": precision, "way": "profile"}, partial(profile, scorer, sketches, photos)
                )


def pair_ways(bench: Bench, method: ZseSbir, precision: str, chunk: int) -> dict[str, Callable[..., Tensor]]:
    """Name -> scoring with torch's choice of an attention kernel; for some chunks also with each kernel alone, and
    compiled."""
    chunks = bench.scale.chunks

    def scorer() -> PairScorer:
        made = cast(PairScorer, method.scorer("rn", scoring_precision(precision)))
        made.chunk = chunk
        return made

    eager = scorer()
    ways: dict[str, Callable[..., Tensor]] = {"eager": eager.score}
    if precision == "tf32" or chunk not in (chunks[len(chunks) // 4], chunks[-2]):
        return ways
    if eager.sketch_side.attend is attend:
        ways |= {f"eager, {name} attention": with_backend(eager.score, kind) for name, kind in BACKENDS.items()}
    else:
        bench.report["sections"]["pairs"]["attention"] = f"{precision}: explicit products, not torch's attention"
    if precision == "bf16":
        ways["compiled"] = compiled_score(bench, scorer())
    return ways


def compiled_score(bench: Bench, scorer: PairScorer) -> Callable[..., Tensor]:
    """Scoring with the compiled kernel, as after many pairs. It raises RuntimeError if compiling failed."""
    scorer.compile_after = 0
    scorer.compiled = torch.compile(scorer.kernel, backend=bench.scale.compiler, dynamic=False, fullgraph=True)

    def score(*args: Any) -> Tensor:
        scores = scorer.score(*args)
        if scorer.compile_after:
            raise RuntimeError("the kernel was not compiled; the log has the reason")
        return scores

    return score


def with_backend(score: Callable[..., Tensor], backend: SDPBackend) -> Callable[..., Tensor]:
    """Scoring with one attention kernel. It raises RuntimeError if the kernel does not support it."""

    def run(*args: Any) -> Tensor:
        with sdpa_kernel(backend):
            return score(*args)

    return run


def profile(scorer: PairScorer, sketches: Any, photos: Any) -> Row:
    """The eight kernels that take most of the device's time, and their shares."""
    on_gpu = scorer.device.type == "cuda"
    activity = torch.profiler.ProfilerActivity
    scorer.score(sketches, photos)
    with torch.profiler.profile(activities=[activity.CPU, *([activity.CUDA] if on_gpu else [])]) as found:
        scorer.score(sketches, photos)
        if on_gpu:
            torch.cuda.synchronize()
    spent = {
        str(event.key)[:90]: float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)
        for event in found.key_averages()
        if not on_gpu or event.device_type.name == "CUDA"  # operators are left out: their kernels are events, too
    }
    total = sum(spent.values()) or 1.0
    return {"kernels": {name: rounded(spent[name] / total) for name in sorted(spent, key=lambda n: -spent[n])[:8]}}


SECTIONS: dict[str, Callable[[Bench], None]] = {
    "matrix": matrix,
    "golden": golden,
    "parity": parity,
    "encode": encode,
    "pairs": pairs,
    "train": train,
}


# The run ------------------------------------------------------------------------------------------------------------


def print_table(rows: Sequence[Row]) -> None:
    """Print a line for each row; for comparisons a line for each result, with all precisions."""
    compared = [row for row in rows if "result" in row and "precision" in row]
    by_result: dict[tuple[str, str], list[str]] = {}
    for row in compared:
        by_result.setdefault((row["method"], row["result"]), []).append(f"{row['precision']} {said(row)}")
    if by_result:
        print("  largest and mean relative error; for scores also the share of pairs of photos in the same order")
    for (method, result), cells in by_result.items():
        print(f"  {method:34s} {result:24s} " + "   ".join(f"{cell:28s}" for cell in cells).rstrip())
    rest = [row for row in rows if row not in compared]
    head = list(dict.fromkeys(key for row in rest for key, value in row.items() if value is not None))
    head = [key for key in head if key not in (*FAILED, "kernels")]
    width = {key: max(len(key), *(len(str(row.get(key, ""))) for row in rest)) for key in head}
    if head:
        print("  " + "  ".join(f"{key:>{width[key]}s}" for key in head))
    for row in rest:
        cells = (f"{'' if row.get(key) is None else row[key]!s:>{width[key]}s}" for key in head)
        print("  " + "  ".join(cells) + "".join(f"  {row[key]}" for key in FAILED if key in row))
        for name, share in row.get("kernels", {}).items():
            print(f"  {share:12.1%}  {name}")
    sys.stdout.flush()


def said(row: Row) -> str:
    if failed := [row[key] for key in FAILED if key in row]:
        return failed[0]
    if "bits" in row:
        return f"{row['bits']:.2%} of bits"
    return f"{row['max_rel']:.0e} {row['mean_rel']:.0e}" + (f" {row['order']:.2%}" if "order" in row else "")


def about(device: torch.device, scale: Scale, minutes: float) -> dict[str, Any]:
    cuda = device.type == "cuda"
    properties = torch.cuda.get_device_properties(device) if cuda else None
    return {
        "format": 1,
        "device": properties.name if properties else platform.processor() or platform.machine(),
        "memory_gib": rounded(properties.total_memory / 2**30) if properties else None,
        "capability": ".".join(map(str, torch.cuda.get_device_capability(device))) if cuda else None,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version() if cuda else None,
        },
        "cpus": len(os.sched_getaffinity(0)),
        "small": scale is SMALL,
        "minutes": minutes,
        "sections": {},
    }


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description="Measure the networks on a GPU.")
    parser.add_argument("--small", action="store_true", help="measure tiny networks on the CPU")
    parser.add_argument("--out", type=Path, help="JSON file, written after every measurement")
    parser.add_argument("--minutes", type=float, default=7.0, help="begin no measurement after this time (default 7)")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="run only these sections")
    options = parser.parse_args(arguments)
    if not options.small and not torch.cuda.is_available():
        sys.exit("torch sees no GPU. On a CPU give --small")
    device, scale = torch.device("cpu" if options.small else "cuda"), SMALL if options.small else FULL
    report = about(device, scale, options.minutes)
    bench = Bench(device, scale, time.monotonic() + 60 * options.minutes, options.out, report)
    print(f"{report['device']}, {report['versions']}")
    for name, measure in SECTIONS.items():
        if options.only is None or name in options.only:
            bench.section(name, measure)
    if options.out is not None:
        print(f"\n{options.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
