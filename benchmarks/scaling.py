"""Compute the plan for up to 64 GPUs of docs/scaling.md from measurements on processors and assumptions about GPUs.

Nothing was run on several machines. Change a constant and run `python -m benchmarks scaling` to compute the table
again.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.config.load import load_experiment
from pipelines.operate.estimate import TFLOPS, UTILISATION, cost_of

RECIPE, CLASSES = "zse_sbir-sketchy-25-modern", 90
GPUS = (1, 8, 16, 64)


@dataclass(frozen=True)
class Measured:
    """Measured by `python -m benchmarks loading`, on one core."""

    images_core: float
    """Images per CPU second of a reader of pair shards, at 224 px."""
    item_bytes: float
    """Bytes of an item of a pair shard: four pictures at 224 px."""


@dataclass(frozen=True)
class Assumed:
    """Assumed of the machines; none was measured."""

    tflops: float = TFLOPS["bf16"]
    utilisation: float = UTILISATION
    network: float = 12.5e9
    """Bytes per second that a GPU sends in an all-reduce: 100 Gbit/s."""
    store: float = 0.5e9
    """Bytes per second that one worker writes to the object store."""
    price: float = 4.0
    """Dollars of a GPU hour with its share of the machine."""


@dataclass(frozen=True)
class Network:
    """Computed by `pipelines.operate.estimate` from a recipe."""

    parameters: int
    step_flop: float
    """FLOP of a step, per GPU."""
    items_step: int
    """Items of a step, per GPU."""
    items: int
    checks: int
    dim: int
    """Numbers of an embedding."""


@dataclass(frozen=True)
class Row:
    gpus: int
    images: float
    """Images per second of all GPUs."""
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
    reduce: float
    """Seconds of both transfers in a step."""
    steps: int
    uploads: float
    """Seconds of writing states in the whole training."""
    hours: float
    """From the first step to the last. No transfer overlaps with computing."""
    cost: float
    """Dollars."""


def row(gpus: int, network: Network, measured: Measured, assumed: Assumed) -> Row:
    """The plan for a number of GPUs. Every GPU has the recipe's batch: with more GPUs the global batch is larger, and
    the steps are fewer."""
    step = network.step_flop / (assumed.tflops * 1e12 * assumed.utilisation)
    reduced = 4 * network.parameters * 2 * (gpus - 1) / gpus  # gradients are float32 in bf16 trainings too
    # Forward: the embeddings of the other GPUs. Backward: an all-reduce of their gradients, twice the bytes.
    gathered = 3 * (gpus - 1) * 4 * network.items_step * 4 * network.dim
    transfer = (reduced + gathered) / assumed.network
    steps = -(-network.items // (network.items_step * gpus))
    uploads = (network.checks + 1) * state_bytes(network) / assumed.store
    hours = (steps * (step + transfer) + uploads) / 3600
    images = 4 * network.items_step * gpus / (step + transfer)
    return Row(
        gpus=gpus,
        images=images,
        cores=images / gpus / measured.images_core,
        read=images / 4 * measured.item_bytes,
        step=step,
        reduced=reduced,
        gathered=gathered,
        reduce=transfer,
        steps=steps,
        uploads=uploads,
        hours=hours,
        cost=hours * gpus * assumed.price,
    )


def state_bytes(network: Network) -> int:
    """Bytes that a check uploads: weights, best weights and two moments of AdamW, float32."""
    return 16 * network.parameters


def of_recipe() -> Network:
    config = load_experiment(RECIPE)
    cost = cost_of(config, "zse_sbir", [str(i) for i in range(CLASSES)])
    items_step, steps = config.train.batch_size * config.train.accumulate, config.train.steps
    assert steps is not None
    workers = max(config.cluster.workers, 1)
    width = 768  # of ViT-B: the embedding is its class token
    return Network(
        cost.parameters, cost.step / workers, items_step, steps * items_step * workers, config.train.checks, width
    )


MEASURED = Measured(images_core=2_726, item_bytes=51.3 * 1024)


def main() -> None:
    network, assumed = of_recipe(), Assumed()
    print(
        f"{RECIPE}: {network.parameters / 1e6:.1f} M parameters, {network.step_flop / 1e12:.1f} TFLOP a step of "
        f"{network.items_step} items a GPU, {network.items:,} items; a state {state_bytes(network) / 1e9:.2f} GB"
    )
    print(f"measured: {MEASURED}\nassumed: {assumed}\n")
    print("| GPUs | images/s | reader cores a GPU | read, MB/s | step, s | all-reduce, MB a GPU and step | ", end="")
    print("gathered, MB | both, s | steps | states written, s | hours | dollars |")
    print("|---" * 12 + "|")
    for gpus in GPUS:
        r = row(gpus, network, MEASURED, assumed)
        print(
            f"| {gpus} | {r.images:,.0f} | {r.cores:.2f} | {r.read / 1e6:,.1f} | {r.step:.3f} | {r.reduced / 1e6:,.0f} "
            f"| {r.gathered / 1e6:.1f} | {r.reduce:.3f} | {r.steps:,} | {r.uploads:.0f} | {r.hours:.3f} "
            f"| {r.cost:.2f} |"
        )


if __name__ == "__main__":
    main()
