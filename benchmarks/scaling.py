"""Compute the tables of docs/scaling.md and docs/scoring.md from kept constants.

    python -m benchmarks scaling           print the tables of docs/scaling.md
    python -m benchmarks scaling --page    count FLOP again, and write all tables into both pages (make scaling)

The constants are in benchmarks/scaling.json, with the command that measured each, in gpu_*.json, sizes.json and
distribution.json. Nothing is measured here. For another price, network or GPU, change the constant.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import distribution, scoring_tables, sizes
from benchmarks.results.costs import costs
from benchmarks.results.plan import ROOT
from benchmarks.results.tables import head, line
from benchmarks.sizes import short
from pipelines.config.load import load_experiment
from pipelines.operate.estimate import cost_of

KEPT = Path(__file__).with_name("scaling.json")
RECIPE, CLASSES = "zse_sbir-sketchy-25-modern", 90
GPUS = (1, 8, 16, 64)
PHOTOS = 100_000_000
Parts = Mapping[str, Sequence[str]]
"""Name of a computed part of a page -> its lines."""


@dataclass(frozen=True)
class Constant:
    """A number that nothing here computes."""

    value: float
    unit: str
    what: str
    kind: str
    """measured or assumed"""
    source: str
    """The command that measured it."""


@dataclass(frozen=True)
class Counted:
    """Counted of a recipe and a network without running them."""

    parameters: int
    step_flop: float
    """FLOP of a training step, per GPU."""
    items_step: int
    """Items of a step, per GPU."""
    items: int
    checks: int
    dim: int
    """Numbers of an embedding."""
    late_flop: float
    """FLOP of a pair by `late`."""
    late_bytes: int
    """Bytes of the places of a photo, int8."""


@dataclass(frozen=True)
class Way:
    """A measured way of training on one GPU."""

    name: str
    tflops: float
    """FLOP a second / 1e12 that a training reaches."""
    compiling: float
    """Seconds before the first step."""


@dataclass(frozen=True)
class Row:
    gpus: int
    images: float
    """Pictures per second of all GPUs."""
    cores: float
    """Reader cores per GPU."""
    read: float
    """Bytes per second that all GPUs read."""
    step: float
    """Seconds of computing in a step."""
    reduced: float
    """Bytes that a GPU sends in the all-reduce of a step."""
    gathered: float
    """Bytes of embeddings that a GPU receives in a step."""
    transfer: float
    """Seconds of both transfers in a step."""
    steps: int
    uploads: float
    """Seconds of writing states in the whole training."""
    hours: float
    """From the first step to the last, with compiling. No transfer overlaps with computing."""
    cost: float
    """Dollars."""


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks scaling", description=str(__doc__).split("\n\n")[0])
    parser.add_argument(
        "--page", action="store_true", help="count FLOP again, and write docs/scaling.md and scoring.md"
    )
    if parser.parse_args(arguments).page:
        data = json.loads(KEPT.read_text()) | {"counted": asdict(count())}
        KEPT.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
        for path, parts in pages().items():
            path.write_text(with_parts(path.read_text(), parts))
    for name, lines in scaling_parts().items():
        print(f"\n{name}", *lines, sep="\n")


def kept() -> tuple[Counted, dict[str, Constant], list[dict[str, Any]]]:
    """Counts, constants by name, and the measured indices in memory."""
    data = json.loads(KEPT.read_text())
    return (
        Counted(**data["counted"]),
        {name: Constant(**one) for name, one in data["constants"].items()},
        data["indices"],
    )


def count() -> Counted:
    """Count FLOP by torch on networks without memory. Takes seconds."""
    config = load_experiment(RECIPE)
    cost = cost_of(config, "zse_sbir", [str(i) for i in range(CLASSES)])
    items_step, steps = config.train.batch_size * config.train.accumulate, config.train.steps
    assert steps is not None
    workers = max(config.cluster.workers, 1)
    flop, size = costs("late")["late"]
    return Counted(
        parameters=cost.parameters,
        step_flop=cost.step / workers,
        items_step=items_step,
        items=steps * items_step * workers,
        checks=config.train.checks,
        dim=768,  # of ViT-B: the embedding is its class token
        late_flop=flop,
        late_bytes=size,
    )


# The pages -----------------------------------------------------------------------------------------------------------


def pages() -> dict[Path, Parts]:
    return {ROOT / "docs" / "scaling.md": scaling_parts(), ROOT / "docs" / "scoring.md": scoring_parts()}


def scaling_parts() -> Parts:
    counted, constants, _ = kept()
    return {
        "constants": constants_table(counted, constants),
        "training": training_table(counted, constants),
        "catalogue": catalogue_table(counted, constants),
        "re-evaluation": reevaluation_table(counted, constants),
        "evaluation": evaluation_table(counted),
        "workers": distribution.table(distribution.kept()),
    }


def scoring_parts() -> Parts:
    _, constants, indices = kept()
    return {
        "pair": scoring_tables.pair_table(constants["bandwidth"].value * 1e12),
        "cluster": scoring_tables.cluster_table(),
        "reads": scoring_tables.reads_table(),
        "indices": indices_table(indices),
        "gpus": scoring_tables.gpu_table(),
    }


def with_parts(text: str, parts: Parts) -> str:
    """The page with `parts` between their markers. Raises ValueError unless it has the markers of each part once and no
    others."""
    there = re.findall(r"<!-- computed: (.*?) -->", text)
    if sorted(there) != sorted(parts):
        raise ValueError(
            f"The page has markers of {sorted(there)}, but {sorted(parts)} are computed. Change the markers"
        )
    for name, lines in parts.items():
        begin, end = f"<!-- computed: {name} -->\n", "\n<!-- end -->"
        before, _, rest = text.partition(begin)
        if end not in rest.partition("<!-- computed:")[0]:
            raise ValueError(f"The page has no <!-- end --> after <!-- computed: {name} -->. Add it")
        text = before + begin + "\n" + "\n".join(lines) + "\n" + rest[rest.index(end) :]
    return text


# docs/scaling.md -----------------------------------------------------------------------------------------------------


def constants_table(counted: Counted, constants: Mapping[str, Constant]) -> list[str]:
    h100, h200 = map(scoring_tables.gpu, scoring_tables.GPUS)
    lines = head("constant", "value", "", "")
    lines += [line(one.what, f"{one.value:,g} {one.unit}".strip(), one.kind, one.source) for one in constants.values()]
    state, index = state_bytes(counted) / 1e9, short(1e3 * sizes.kept().index_cpu_s)
    rates = {
        "Encoding by ViT-B at 224 px in bf16, compiled, H100; H200.": (encoded(h100), encoded(h200), "pictures/s"),
        "Pairs by `rn` at ViT-B dimensions in bf16, compiled, H100; H200.": (scored(h100), scored(h200), "pairs/s"),
        "Large matrix products in bf16, H100; H200.": (matrix(h100), matrix(h200), "TFLOP/s"),
    }
    trained = "; ".join(f"{way.tflops:g}" for way in ways(h100))
    lines += [
        line(
            "An index of a photo: read, decode, thumbnail, encode by EfficientNet-Lite2 at 192 px, commit.",
            f"{index} CPU ms",
            "measured",
            "`make sizes`",
        ),
        *(line(what, f"{one:,g}; {two:,g} {unit}", *GPU) for what, (one, two, unit) in rates.items()),
        line("Training of `global` on an H100 in bf16; compiled.", f"{trained} TFLOP/s", *GPU),
        line(
            f"A step of `{RECIPE}`, {counted.items_step} items a GPU, forward and backward.",
            f"{counted.step_flop / 1e12:.1f} TFLOP",
            *COUNTED,
        ),
        line(
            f"A state, written at each of {counted.checks} checks and the start: weights, best weights and AdamW's "
            f"moments of {counted.parameters / 1e6:.1f} M parameters in float32.",
            f"{state:.2f} GB",
            *COUNTED,
        ),
        line("A pair by `late`: 144 x 144 places of 96 numbers.", f"{counted.late_flop / 1e6:.2f} MFLOP", *COUNTED),
    ]
    return [text.replace("|  |", "| |") for text in lines]


GPU, COUNTED = ("measured", "`make bench-gpu`"), ("computed", "`make scaling`")


def ways(report: Mapping[str, Any]) -> list[Way]:
    """The measured trainings in bf16 of a GPU's report."""
    found = []
    for name, way in (("as it is", "eager"), ("compiled", "compiled")):
        asked = {"method": "global", "precision": "bf16", "way": way}
        tflops, seconds = (scoring_tables.found(report, "train", key, **asked) for key in ("tflops", "warm_up_s"))
        found.append(Way(name, tflops, seconds if way == "compiled" else 0.0))
    return found


def encoded(report: Mapping[str, Any]) -> float:
    return scoring_tables.found(report, "encode", "images_s", precision="bf16", way="compiled")


def scored(report: Mapping[str, Any]) -> float:
    """Of the longest measured chunks."""
    return scoring_tables.found(report, "pairs", "pairs_s", precision="bf16", way="compiled")


def matrix(report: Mapping[str, Any]) -> float:
    return scoring_tables.found(report, "matrix", "tflops", precision="bf16", product=scoring_tables.LARGE)


def training_table(counted: Counted, constants: Mapping[str, Constant]) -> list[str]:
    names = ("training", "GPUs", "pictures/s", "reader cores a GPU", "read, MB/s", "step, s")
    names += (
        "all-reduce, MB a GPU and step",
        "gathered, MB",
        "both, s",
        "steps",
        "states written, s",
        "hours",
        "dollars",
    )
    lines = head(*names)
    for way in ways(scoring_tables.gpu("h100")):
        for gpus in GPUS:
            r = row(gpus, counted, constants, way)
            lines.append(
                line(
                    way.name,
                    str(gpus),
                    f"{r.images:,.0f}",
                    f"{r.cores:.2f}",
                    f"{r.read / 1e6:,.1f}",
                    f"{r.step:.3f}",
                    f"{r.reduced / 1e6:,.0f}",
                    f"{r.gathered / 1e6:.1f}",
                    f"{r.transfer:.3f}",
                    f"{r.steps:,}",
                    f"{r.uploads:.0f}",
                    f"{r.hours:.3f}",
                    f"{r.cost:.2f}",
                )
            )
    return lines


def row(gpus: int, counted: Counted, constants: Mapping[str, Constant], way: Way) -> Row:
    """The plan for a number of GPUs. Every GPU has the recipe's batch: with more GPUs the global batch is larger, and
    the steps are fewer."""
    step = counted.step_flop / (way.tflops * 1e12)
    reduced = 4 * counted.parameters * 2 * (gpus - 1) / gpus  # gradients are float32 in bf16 trainings too
    # Forward: the embeddings of the other GPUs. Backward: an all-reduce of their gradients, twice the bytes.
    gathered = 3 * (gpus - 1) * 4 * counted.items_step * 4 * counted.dim
    transfer = (reduced + gathered) / (constants["network"].value * 1e9)
    steps = -(-counted.items // (counted.items_step * gpus))
    uploads = (counted.checks + 1) * state_bytes(counted) / (constants["store"].value * 1e9)
    hours = (way.compiling + steps * (step + transfer) + uploads) / 3600
    images = 4 * counted.items_step * gpus / (step + transfer)
    return Row(
        gpus=gpus,
        images=images,
        cores=images / gpus / constants["images_core"].value,
        read=images / 4 * constants["item_kib"].value * 1024,
        step=step,
        reduced=reduced,
        gathered=gathered,
        transfer=transfer,
        steps=steps,
        uploads=uploads,
        hours=hours,
        cost=hours * gpus * constants["price"].value,
    )


def state_bytes(counted: Counted) -> int:
    """Bytes that a check uploads: weights, best weights and two moments of AdamW, float32."""
    return 16 * counted.parameters


def catalogue_table(counted: Counted, constants: Mapping[str, Constant]) -> list[str]:
    """Everything grows in proportion to the photos, but the process and the query of a service."""
    of = sizes.kept()
    (scan,) = (one for one in kept()[2] if (one["rows"], one["by"]) == (PHOTOS, "weights"))
    read = PHOTOS / constants["images_core"].value / 3600
    vit = PHOTOS * core_seconds(constants, "encode_ms") / 3600
    rows = {
        "ingest of pictures of 128 px, CPU hours": short(PHOTOS * constants["ingest_cpu_ms"].value / 3.6e6),
        "reading them at 224 px, CPU hours": short(read),
        **{
            f"encoding by ViT-B in bf16, compiled, GPU hours of an {name.upper()}": short(
                PHOTOS / encoded(scoring_tables.gpu(name)) / 3600
            )
            for name in scoring_tables.GPUS
        },
        "encoding by ViT-B in float32 on processors, CPU hours": short(vit),
        "first index by EfficientNet-Lite2, with reading and decoding, CPU hours": short(
            PHOTOS * of.index_cpu_s / 3600
        ),
        "codes of 64 bits, GB": short(PHOTOS * of.code_bytes / 1e9),
        "embeddings of 768 numbers (ViT-B), float16, GB": short(PHOTOS * 2 * counted.dim / 1e9),
        f"embeddings of {of.embedding_bytes // 2:,} numbers (EfficientNet-Lite2), float16, GB": short(
            PHOTOS * of.embedding_bytes / 1e9
        ),
        "places for `late` (EfficientNet-Lite2), int8, GB": short(PHOTOS * counted.late_bytes / 1e9),
        "tokens for `rn` (ViT-B), float16, GB": short(PHOTOS * scoring_tables.TOKEN_BYTES / 2e9),
        "the index on disk, thumbnails and embeddings (EfficientNet-Lite2), GB": short(PHOTOS * of.row_bytes / 1e9),
        "the codes in memory, measured at this size, GB": short(scan["mb"] / 1e3),
        "a scan of them by weights, measured at this size, p50 ms": short(scan["p50_ms"]),
        "a service by codes: memory, GB": short(of.process_mb / 1e3 + PHOTOS * of.code_bytes / 1e9),
        "a query by `asym-64`, 1,000 ranked again, ms": short(
            of.query_ms + PHOTOS / 1e6 * of.codes_ms + of.shortlist_ms
        ),
    }
    return [*head(f"{PHOTOS:,} photos", ""), *(line(what, value) for what, value in rows.items())]


def core_seconds(constants: Mapping[str, Constant], name: str) -> float:
    """CPU seconds of a time that was measured on all cores."""
    one = constants[name]
    return one.value * {"ms": 1e-3, "µs": 1e-6}[one.unit] * constants["cores"].value


def reevaluation_table(counted: Counted, constants: Mapping[str, Constant]) -> list[str]:
    """A data set arrives: each model encodes its pictures and scores all pairs."""
    models, arrivals, sketches, photos = (
        constants[name].value for name in ("models", "arrivals", "arriving_sketches", "arriving_photos")
    )
    h100 = scoring_tables.gpu("h100")
    lines = head("", "an arrival", "a year")
    each = {
        "pictures encoded": (models * (sketches + photos), "{:,.0f}"),
        "pairs scored": (models * sketches * photos, "{:,.0f}"),
        "encoding, GPU hours": (models * (sketches + photos) / encoded(h100) / 3600, ""),
        "`rn`, GPU hours": (models * sketches * photos / scored(h100) / 3600, ""),
        "encoding, CPU hours": (models * (sketches + photos) * core_seconds(constants, "encode_ms") / 3600, ""),
        "`rn`, CPU hours": (models * sketches * photos * core_seconds(constants, "pair_ms") / 3600, ""),
        "`late`, CPU hours": (models * sketches * photos * core_seconds(constants, "late_us") / 3600, ""),
    }
    for what, (value, form) in each.items():
        lines.append(line(what, *(form.format(x) if form else short(x) for x in (value, value * arrivals))))
    return lines


def evaluation_table(counted: Counted) -> list[str]:
    lines = head("", "GPU", *scoring_tables.SETTINGS)
    for name in scoring_tables.GPUS:
        report = scoring_tables.gpu(name)
        works = {
            "encoding, GPU hours": lambda of, r=report: sum(scoring_tables.SETTINGS[of]) / encoded(r) / 3600,
            "`rn`, GPU hours": lambda of, r=report: scoring_tables.pairs(of) / scored(r) / 3600,
            "`late`, GPU hours at least": lambda of, r=report: (
                scoring_tables.pairs(of) * counted.late_flop / (matrix(r) * 1e12) / 3600
            ),
        }
        lines += [
            line(what, name.upper(), *(short(work(of)) for of in scoring_tables.SETTINGS))
            for what, work in works.items()
        ]
    return lines


def indices_table(indices: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = head("index", "searched by", "MB", "p50 ms", "p99 ms")
    for one in indices:
        numbers = (f"{one[key]:,}" for key in ("mb", "p50_ms", "p99_ms"))
        lines.append(line(f"{one['rows'] // 10**6} million {one['index']}", one["by"], *numbers))
    return lines


if __name__ == "__main__":
    main()
