"""The training loop, alone in a process: resumes to the same weights, keeps its budget, refuses nonsense."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.workers import CLASSES, Pictures
from zse_model.backbones import BackboneConfig
from zse_model.fit import LocalContext, NonFiniteLossError, TrainConfig, _optimizer, fit
from zse_model.methods import CrossATNetConfig, GlobalConfig, RetrievalMethod, TrainBatch, ZseSbirConfig, create_method

SIZE = 32


class Source:
    """Random batches by position."""

    def __init__(self, b: int = 4, broken_at: int | None = None) -> None:
        self.b, self.broken_at, self.asked = b, broken_at, []

    def batch(self, step: int, rank: int, world_size: int) -> TrainBatch:
        self.asked.append(step)
        if step == self.broken_at:
            raise OSError("the store went away")
        g = torch.Generator().manual_seed(step)  # not the global one: that is the training loop's

        def pictures(c: int) -> torch.Tensor:
            return torch.randint(0, 256, (self.b, c, SIZE, SIZE), generator=g, dtype=torch.uint8)

        label = torch.arange(self.b) % 3
        return TrainBatch(
            sketch=pictures(1),
            photo=pictures(3),
            sketch2=pictures(1),
            negative=pictures(3),
            label=label,
            negative_label=(label + 1) % 3,
        )


def method() -> RetrievalMethod:
    torch.manual_seed(0)
    config = ZseSbirConfig(dim=16, heads=2, ffn=16, contrast=1.0, dropout=0.2)
    return create_method("zse_sbir", config, BackboneConfig(name="test_resnet"), size=SIZE, classes=3)


def config(**changes: object) -> TrainConfig:
    return TrainConfig(**{"steps": 9, "lr": 1e-3, "warmup": 2, "checks": 3, **changes})  # type: ignore[arg-type]


def weights(m: RetrievalMethod) -> torch.Tensor:
    return torch.cat([p.detach().double().flatten() for p in m.state_dict().values()])


def test_a_resumed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = method()
    fit(whole, Source(), LocalContext(tmp_path / "whole"), config())
    broken = method()
    with pytest.raises(OSError, match="went away"):
        fit(broken, Source(broken_at=7), LocalContext(tmp_path / "broken"), config())
    resumed, source = method(), Source()
    state = fit(resumed, source, LocalContext(tmp_path / "broken"), config())
    assert min(source.asked) == 6, "it goes on from the last check"
    assert torch.equal(weights(resumed), weights(whole))
    steps = [event["step"] for event in state.history if "train/loss" in event]
    assert steps == sorted(set(steps)), "each logged once"


def test_the_best_weights_are_those_of_the_best_check(tmp_path: Path) -> None:
    scores = iter([0.1, 0.5, 0.3, 0.2])
    seen: list[torch.Tensor] = []

    def validate(m: RetrievalMethod) -> dict[str, float]:
        seen.append(weights(m))
        return {"selection/mAP_all": next(scores)}

    state = fit(method(), Source(), LocalContext(tmp_path), config(), validate=validate)
    assert (state.best, state.best_step) == (0.5, 3)
    from safetensors.torch import load_file

    best, last = method(), method()
    best.load_state_dict(load_file(tmp_path / "best.safetensors"))
    last.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(weights(best), seen[1]) and torch.equal(weights(last), seen[3])


def test_a_budget_becomes_a_number_of_steps_and_is_kept(tmp_path: Path) -> None:
    context = LocalContext(tmp_path)
    state = fit(method(), Source(), context, config(steps=None, minutes=0.03))
    assert state.total == state.step and state.total >= 8
    assert 0.5 < state.cpu_seconds / (0.03 * 60) < 2.0
    again = fit(method(), Source(), context, config(steps=None, minutes=60))
    assert again.total == state.total, "a resumed run keeps the measured number"


def test_a_loss_that_is_not_finite_stops_before_the_update() -> None:
    m = create_method("global", GlobalConfig(dim=8), BackboneConfig(name="test_resnet"), size=SIZE, classes=3)
    with torch.no_grad():
        next(m.head.parameters()).fill_(float("nan"))  # type: ignore[union-attr]
    before = weights(m)
    with pytest.raises(NonFiniteLossError, match="step 0 is nan"):
        fit(m, Source(), LocalContext(), config(checks=1))
    parameters = torch.isnan(weights(m)) == torch.isnan(before)
    assert bool(parameters.all())


def test_a_step_that_hangs_ends_the_process_with_its_stacks() -> None:
    code = """
import time
from tests.zse_model.test_fit import LocalContext, Source, config, fit, method
class Hangs(Source):
    def batch(self, step, rank, world_size):
        if step == 60:
            time.sleep(60)
        return super().batch(step, rank, world_size)
fit(method(), Hangs(), LocalContext(), config(steps=100, checks=1), patience=3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "Timeout (0:00:03)!" in done.stderr and "in fit" in done.stderr, done.stderr


def test_overfit_repeats_the_first_batch() -> None:
    source = Source()
    fit(method(), source, LocalContext(), config(overfit=True, steps=4))
    assert set(source.asked[50:]) <= {0}


def test_half_precision_trains_float32_weights_to_nearly_the_same_losses(tmp_path: Path) -> None:
    networks, losses = {}, {}
    for precision in ("fp32", "bf16"):
        networks[precision] = method()
        found = fit(networks[precision], Source(), LocalContext(tmp_path / precision), config(precision=precision))
        losses[precision] = torch.tensor([event["train/loss"] for event in found.history if "train/loss" in event])
    assert {value.dtype for value in networks["bf16"].state_dict().values()} == {
        value.dtype for value in networks["fp32"].state_dict().values()
    }
    assert torch.allclose(losses["bf16"], losses["fp32"], rtol=0.05)
    assert not torch.equal(losses["bf16"], losses["fp32"]), "it is rounded"
    again = method()
    fit(again, Source(), LocalContext(tmp_path / "bf16"), config())  # done: its state is read as any other
    assert torch.equal(weights(again), weights(networks["bf16"]))


def trained(
    m: RetrievalMethod, tmp_path: Path, items: int = 4, **changes: object
) -> tuple[RetrievalMethod, torch.Tensor]:
    """The method after four steps, and its losses."""
    context = LocalContext(tmp_path, device=torch.device("cpu"))
    settings = config(steps=4, checks=1, batch_size=items, **changes)
    history = fit(m, Pictures(items), context, settings, prepare_steps=0).history
    return m, torch.tensor([event["train/loss"] for event in history if "train/loss" in event])


def fresh(backbone: str, method: str = "global", **settings: Any) -> RetrievalMethod:
    torch.manual_seed(0)
    kind = GlobalConfig(dim=8, **settings) if method == "global" else ZseSbirConfig(heads=2, ffn=16, **settings)
    return create_method(method, kind, BackboneConfig(name=backbone), size=SIZE, classes=CLASSES)


def test_two_halves_of_a_batch_are_one_step(tmp_path: Path) -> None:
    """Of losses that compare no pictures, on a backbone that has layer norms; a resumed training counts alike."""
    whole, losses = trained(fresh("test_convnext", contrast=0.0), tmp_path / "1", items=8)
    halves, same = trained(fresh("test_convnext", contrast=0.0), tmp_path / "2", items=4, accumulate=2)
    assert torch.allclose(losses, same, rtol=0, atol=1e-5)
    assert torch.allclose(weights(whole), weights(halves), rtol=0, atol=1e-5)

    class Breaks(Pictures):
        def batch(self, step: int, rank: int, world_size: int) -> TrainBatch:
            if step == 3:
                raise OSError("the store went away")
            return super().batch(step, rank, world_size)

    settings, context = config(steps=4, checks=4, batch_size=4, accumulate=2), LocalContext(tmp_path / "3")
    with pytest.raises(OSError, match="went away"):
        fit(fresh("test_convnext", contrast=0.0), Breaks(4), context, settings, prepare_steps=0)
    resumed = fresh("test_convnext", contrast=0.0)
    state = fit(resumed, Pictures(4), context, settings, prepare_steps=0)
    assert torch.equal(weights(resumed), weights(halves)) and state.images == 4 * 4 * 8
    with pytest.raises(ValueError, match=r"train\.accumulate must be above 0, got 0"):
        config(accumulate=0)


@pytest.mark.parametrize(
    ("backbone", "method", "settings"),
    [
        ("test_vit", "global", {}),
        ("test_convnext", "global", {}),
        ("test_vit", "zse_sbir", {"keep_rates": (1, 0.5), "dropout": 0.2}),
    ],
)
def test_activations_computed_again_change_nothing(
    backbone: str, method: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    def kept(m: RetrievalMethod) -> int:
        """Bytes that the forward pass keeps for the backward pass."""
        sizes: dict[int, int] = {}

        def pack(x: torch.Tensor) -> torch.Tensor:
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            alive = m(Pictures(4).batch(0, 0, 1))
        assert alive
        return sum(sizes.values()) - sum(p.nbytes for p in m.parameters())

    plain, losses = trained(fresh(backbone, method, **settings), tmp_path / "plain")
    again, same = trained(fresh(backbone, method, **settings), tmp_path / "again", activation_checkpointing=True)
    assert torch.equal(losses, same) and torch.equal(weights(plain), weights(again))
    assert kept(again) < 0.7 * kept(plain)


@pytest.mark.parametrize(
    ("backbone", "reason"), [("test_resnet", "batch norms, which would count"), ("convit_tiny", "timm cannot")]
)
def test_a_backbone_that_cannot_compute_again_says_so(backbone: str, reason: str) -> None:
    m = create_method("global", GlobalConfig(dim=8), BackboneConfig(name=backbone), size=SIZE, classes=CLASSES)
    with pytest.raises(ValueError, match=reason):
        fit(m, Pictures(4), LocalContext(), config(activation_checkpointing=True))


@pytest.mark.cluster
def test_a_compiled_training_has_the_same_losses_and_names(tmp_path: Path) -> None:
    if not shutil.which("c++"):
        pytest.skip("train.compile is off unless you ask for it, and needs a C++ compiler: apt-get install g++")
    plain, losses = trained(fresh("test_vit"), tmp_path / "plain")
    compiled, same = trained(fresh("test_vit"), tmp_path / "compiled", compile=True)
    assert torch.allclose(losses, same, rtol=0, atol=1e-4)
    assert list(compiled.state_dict()) == list(plain.state_dict())


def test_exactly_one_budget() -> None:
    with pytest.raises(ValueError, match="exactly one of steps and minutes"):
        TrainConfig(steps=1, minutes=1)
    with pytest.raises(ValueError, match="exactly one of steps and minutes"):
        TrainConfig()


@pytest.mark.parametrize("shared", [True, False])
def test_every_backbone_learns_at_its_own_rate(shared: bool) -> None:
    network = create_method(
        "crossatnet",
        CrossATNetConfig(dim=16, vector_dim=8, neighbours=1, share_backbone=shared),
        BackboneConfig(name="test_resnet"),
        size=32,
        classes=CLASSES,
    )
    scales = {
        id(p): g["scale"] for g in _optimizer(network, config(backbone_lr=0.25)).param_groups for p in g["params"]
    }
    for name, p in network.named_parameters():
        assert scales[id(p)] == (0.25 if name.startswith(("backbone.", "sketch_backbone.")) else 1), name
