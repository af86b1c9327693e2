"""The papers' experiments, each loaded and dry-run on an imitation of its data, and what a dry run counts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from torch import nn

from pipelines.config.experiment import ExperimentConfig
from pipelines.config.load import experiment_names, load_experiment
from pipelines.datasets.adapters.qmul import QmulConfig
from pipelines.datasets.base import DatasetConfig
from pipelines.datasets.splits import trained_split
from pipelines.operate.estimate import Cost, Estimate, Rates, cost_of, count_flop, estimate, table
from pipelines.runtime.errors import StorageError
from tests.conftest import TINY, tiny
from tests.helpers.command import invoked
from tests.helpers.pictures import png
from zse_model.methods import ZseSbirConfig
from zse_model.published import RELEASED, RELEASED_BACKBONE

PAPERS = [name for name in experiment_names() if name.startswith(("zse_sbir-", "crossatnet-"))]
PUBLISHED = [name for name in PAPERS if not name.endswith("-modern")]
COUNTED = "zse_sbir-sketchy-25"  # whose dimensions are those of docs/scoring.md

# What a data set of the layout has of a class: 2 sketches, 3 photos, but for QMUL's 40 and 3 products.
LAYOUTS: dict[str, Callable[[str], list[str]]] = {
    "sketchy": lambda c: [
        *(f"256x256/sketch/tx_000000000000/{c}/n1_{i}-1.png" for i in range(2)),
        *(f"256x256/photo/tx_000000000000/{c}/n1_{i}.jpg" for i in range(2)),
        f"EXTEND_image_sketchy_ready/{c}/ext_1.jpg",
    ],
    "tuberlin": lambda c: [
        *(f"png_ready/{c}/{i}.png" for i in range(2)),
        *(f"ImageResized_ready/{c}/{i}.jpg" for i in range(3)),
    ],
    "quickdraw_extended": lambda c: [
        *(f"QuickDraw_sketches_final/{c}/{i}.png" for i in range(2)),
        *(f"QuickDraw_images_final/{c}/{i}.jpg" for i in range(3)),
    ],
    "qmul": lambda c: [
        f"{part}{file}"
        for part, products in (("train", range(40)), ("test", range(40, 43)))
        for i in products
        for file in (f"A/{i}_1.png", f"A/{i}_2.png", f"B/{i}.png")
    ],
}


@pytest.fixture(scope="module")
def dry_run(loaded: Callable[[str], ExperimentConfig]) -> Iterator[Callable[[str], Estimate]]:
    """Each network is counted once, which takes seconds: most experiments of a paper differ in their data alone."""
    costs: dict[str, Cost] = {}

    def counted(config: ExperimentConfig, name: str, classes: Sequence[str]) -> Cost:
        train = (config.train.batch_size, config.train.accumulate, config.train.activation_checkpointing)
        run = (train, config.cluster.workers, config.evaluation.precision, len(classes))
        network = repr((config.methods[name], config.backbone, config.transforms.size, run))
        if network not in costs:
            costs[network] = cost_of(config, name, classes)
        return costs[network]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.operate.estimate.cost_of", counted)
        yield cache(lambda name: estimate(loaded(name)))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], ExperimentConfig]]:
    """A shipped experiment on an imitation of the data that it names: every class, few pictures, two different ones."""
    root = tmp_path_factory.mktemp("imitated")
    for kind, data in (("png", png("sketch", 0)), ("jpg", png("photo", 0, "JPEG"))):
        (root / f"one.{kind}").write_bytes(data)

    @cache
    def source(adapter: str, classes: tuple[str, ...]) -> str:
        folder = root / f"{adapter}-{len(classes)}-{classes[0]}"
        for path in (folder / file for category in classes for file in LAYOUTS[adapter](category)):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(root / f"one.{path.suffix[1:]}", path)
        return str(folder)

    def load(name: str) -> ExperimentConfig:
        dataset = load_experiment(name).dataset
        split = trained_split(str(dataset.split))
        classes = (dataset.name,) if is_products(dataset) else (*split.seen, *split.unseen)
        vectors = root / "vectors.npz"
        if "crossatnet" in name:
            values = np.random.default_rng(0).normal(size=(len(classes), 300))
            np.savez(vectors, names=np.array(classes), vectors=values.astype(np.float32))
        overrides = [f"methods.crossatnet.class_vectors={vectors}"] if "crossatnet" in name else []
        return load_experiment(name, [f"dataset.source={source(dataset.adapter, classes)}", *overrides])  # type: ignore[attr-defined]

    yield load


def is_products(dataset: DatasetConfig) -> bool:
    """Of one class, whose test part is other products."""
    return isinstance(dataset, QmulConfig)


def shown(found: Estimate, rates: Rates | None = None) -> str:
    console = Console(width=250)
    with console.capture() as capture:
        console.print(table(found, rates or Rates()))
    return capture.get()


@pytest.mark.parametrize("name", PAPERS)
def test_every_experiment_of_a_paper_is_dry_run(name: str, dry_run: Callable[[str], Estimate]) -> None:
    found = dry_run(name)
    config, split = found.config, found.data.split
    (method,) = config.methods
    assert config.backbone.weights == "hub" and found.costs[method].trained == found.costs[method].parameters
    if not is_products(config.dataset):
        expected = trained_split(str(config.dataset.split))
        assert len(split.pseudo_unseen) == max(round(len(expected.seen) / 10), 10)
        left_out = len(split.training) - len(found.data.classes)
        assert 0 <= left_out < 8 and (not left_out or split.held_back), "both its sketches were held back"
        assert found.data.tested == {"sketch": 2 * len(expected.unseen), "photo": 3 * len(expected.unseen)}
    else:
        assert len(found.data.classes) == 1 and found.data.tested == {"sketch": 6, "photo": 3}
        assert 20 < found.data.training["photo"] < 40, "some are held back, to choose the checkpoint by"
    items = (config.train.steps or 0) * config.train.batch_size
    assert items == config.shard.items, "every item is seen once"
    text = shown(found)
    assert "GPU hours" in text and f"{items:,} items, 1.0 passes" in text
    comment = resources.files("pipelines").joinpath("experiments", f"{name}.yaml").read_text().split("\nname:")[0]
    described = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text()
    assert f"| `{name.removesuffix('-modern')}`, `-modern` |" in described
    assert "Not run yet." in comment.replace("\n# ", " ") and "Needs: " in comment


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("zse_sbir")])
def test_the_published_recipe_is_the_network_that_published_weights_fit(name: str) -> None:
    config = load_experiment(name)
    assert config.methods["zse_sbir"] == RELEASED
    backbone = replace(config.backbone, name=RELEASED_BACKBONE.name, weights=None)
    assert backbone == RELEASED_BACKBONE and config.backbone.name == f"{RELEASED_BACKBONE.name}.sam_in1k"
    train = config.train
    assert (train.lr, train.batch_size, train.precision, train.schedule) == (1e-5, 15, "fp32", "constant")
    assert (config.transforms.size, config.transforms.recipe) == (224, "published")


def test_a_count_is_the_arithmetic_of_the_layers(dry_run: Callable[[str], Estimate]) -> None:
    """A multiplication and an addition are two; a backward pass costs twice the forward one."""
    x = torch.empty(5, 7, device="meta", requires_grad=True)
    layer = nn.Linear(7, 11, device="meta")
    assert count_flop(lambda: layer(x)) == 2 * 5 * 7 * 11
    assert count_flop(lambda: layer(x).sum().backward()) == 3 * 2 * 5 * 7 * 11

    cost = dry_run(COUNTED).costs["zse_sbir"]
    n, d, hidden = 196, 768, 3072
    block = 2 * (n + 1) * d * (3 * d + d + 2 * hidden) + 4 * (n + 1) ** 2 * d
    convolutions = [(112, 3, 64, 7), (56, 64, 128, 3), (28, 128, 256, 3), (14, 256, d, 3)]
    tokenizer = sum(2 * side**2 * a * b * kernel**2 for side, a, b, kernel in convolutions)
    picture = 12 * block + 2 * n * (3 * 16**2) * d + tokenizer
    assert cost.encode == {"sketch": picture, "photo": picture}
    direction = 4 * n * (n + 1) * d + 2 * n * d * d + 4 * n * d * 1024 + 2 * 49 * 512 * 4 * d
    kernel, perceptron = 2 * 49**2 * 512, 2 * (2401 * 343 + 343 * 49 + 49)
    assert cost.pair == 2 * direction + kernel + perceptron == pytest.approx(2.25e9, rel=0.01)
    projected = 2 * (n + 1) * d * d
    # q of the own picture leaves the retrieval token in: 3 projections a side, of which one reads the other picture.
    assert cost.precompute == {"sketch": 3 * projected, "photo": 3 * projected}
    # Four pictures and two pairs an item; the pixels alone need no gradient.
    whole_pair = cost.pair + 6 * projected
    assert cost.step == pytest.approx(3 * 15 * (4 * picture + 2 * whole_pair), rel=0.01)
    assert cost.parameters == 98_240_536  # the published 102.18 M less a copy that is never used


def test_what_a_run_takes_follows_from_counts_and_rates() -> None:
    modes = {"modes": ["ret", "rn", "rerank-5"]}
    config = tiny(evaluation=modes, cluster={"workers": 2})
    found = estimate(replace(config, methods={"zse_sbir": ZseSbirConfig(dim=16, heads=2, ffn=16)}))
    cost, alone = found.costs["zse_sbir"], estimate(replace(found.config, cluster=tiny().cluster))
    assert cost.step == 2 * alone.costs["zse_sbir"].step and found.training("zse_sbir") == 6 * cost.step
    assert found.data.tested == {"sketch": 12, "photo": 12}
    assert found.pairs("zse_sbir") == 12 * 12 + 12 * 5
    assert found.scoring("zse_sbir") == 204 * cost.pair + 12 * cost.precompute["photo"] + 12 * cost.precompute["sketch"]
    assert found.encoding_bytes("zse_sbir") == 24 * 4 * (16 + 5 * 16), "a normalised token beside all five"
    sizes = found.data.picture_bytes
    assert found.pair_bytes() == 48 * 2 * (sizes["sketch"] + sizes["photo"])
    asked = replace(config, evaluation=replace(config.evaluation, modes=("ret", "late", "rerank-5")))
    pairs = {}
    for late in (0.0, 1.0):
        method = ZseSbirConfig(dim=16, heads=2, ffn=16, place_dim=8, late_distillation=late)
        with_late = estimate(replace(asked, methods={"zse_sbir": method}))
        pairs[late] = with_late.pairs("zse_sbir"), with_late.costs["zse_sbir"].pair
    assert pairs[0.0] == (12 * 5, cost.pair), "a network without late ranks five photos a query by rn"
    assert pairs[1.0][0] == 12 * 12 + 12 * 5 and pairs[1.0][1] < cost.pair / 5, "by late alone"
    assert Rates(100, 0.5).hours(1.8e17, "fp32") == pytest.approx(1.0)
    assert "at 100 TFLOP/s x 0.5" in shown(found, Rates(100, 0.5))
    memory = estimate(tiny(shard={"layout": "memory"}))
    assert memory.pair_bytes() == 0 and memory.memory_bytes() == 32**2 * (
        memory.data.training["sketch"] + 3 * memory.data.training["photo"]
    )
    assert "measures the number of steps" in shown(estimate(tiny(train={"steps": None, "minutes": 1})))
    with pytest.raises(ValueError, match="--utilisation in 0..1, got None and 1.5"):
        Rates(utilisation=1.5)


def test_a_dry_run_writes_nothing_and_says_what_to_run(tmp_path: Path) -> None:
    experiment, workspace = tmp_path / "tiny.yaml", tmp_path / "w"
    experiment.write_text(yaml.safe_dump(TINY))
    done = invoked("run", "--dry-run", "-e", str(experiment), "-w", str(workspace), "--set", "train.steps=9")
    assert done.exit_code == 0 and "9 steps, 36 items" in done.stdout
    assert f"zse run --experiment {experiment} --workspace {workspace} --set train.steps=9" in done.stderr
    assert not workspace.exists() and list(tmp_path.iterdir()) == [experiment]


def test_a_dry_run_says_what_is_missing(loaded: Callable[[str], ExperimentConfig], tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No sketch folder was found. Expected 256x256/sketch"):
        estimate(load_experiment("zse_sbir-sketchy-25", [f"dataset.source={tmp_path}"]))
    config = loaded("crossatnet-sketchy-25")
    methods = {"crossatnet": replace(config.methods["crossatnet"], class_vectors="gone.bin")}
    with pytest.raises(ValueError, match="class_vectors: 'gone.bin' does not exist"):
        estimate(replace(config, methods=methods))
