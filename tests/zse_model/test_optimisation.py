"""What a step of the training does: learning rate, groups of parameters and gradient, against numbers by hand."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.helpers.batches import CLASSES, Pictures
from tests.helpers.toy import Arrays, Numbers, Steps, Toy, arrays, gradients, norm
from zse_model.backbones import BackboneConfig
from zse_model.fit import FitState, LocalContext, TrainConfig, fit, prefetch
from zse_model.fit.progress import Budget, CpuClock, Window
from zse_model.methods import CrossATNetConfig, RetrievalMethod, ZseSbirConfig, create_method

HEAD, BACKBONE = "head.weight", "backbone.model.weight"
CPU = torch.device("cpu")


def train(toy: Toy, source: Numbers, *, folder: Path | None = None, **settings: Any) -> tuple[Steps, FitState]:
    """What the optimizer was given, and what the training returned. Without a schedule unless asked."""
    fitting = {
        name: settings.pop(name) for name in ("validate", "calibrate", "select_by", "patience") if name in settings
    }
    config = TrainConfig(**{"steps": 4, "lr": 0.01, "warmup": 0, "schedule": "constant", "checks": 1, **settings})
    context = LocalContext(folder, device=CPU)
    with Steps(toy) as steps:
        return steps, fit(toy, source, context, config, prepare_steps=0, **fitting)


def rates(name: str, **settings: Any) -> list[float]:
    return [lr[name] for lr in train(Toy(), Numbers(), **settings)[0].lr]


# Learning rate ------------------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_by_equal_steps_and_falls_by_half_a_cosine() -> None:
    """Four steps of warm-up, then 0.4 (1 + cos(pi k / 8)) for k = 0 to 7."""
    falling = [0.8, 0.769552, 0.682843, 0.553073, 0.4, 0.246927, 0.117157, 0.030448]
    found = rates(HEAD, steps=12, lr=0.8, warmup=4, schedule="cosine")
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, *falling], abs=1e-6)


def test_without_warmup_the_cosine_begins_at_the_first_step() -> None:
    assert rates(HEAD, steps=3, lr=0.8, schedule="cosine") == pytest.approx([0.8, 0.6, 0.2])


def test_a_constant_schedule_keeps_the_learning_rate_after_the_warmup() -> None:
    assert rates(HEAD, steps=5, lr=0.3, warmup=3) == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.3])


def test_a_training_shorter_than_its_warmup_stays_on_the_rise() -> None:
    assert rates(HEAD, steps=2, lr=0.5, warmup=5, schedule="cosine") == pytest.approx([0.1, 0.2])


def test_before_a_budget_has_become_a_number_of_steps_nothing_falls() -> None:
    found = rates(HEAD, steps=None, minutes=1e-9, lr=0.4, warmup=2, schedule="cosine")
    assert found == pytest.approx([0.2, *[0.4] * 7]), "eight steps measure the rate"


def test_a_backbone_has_its_share_of_the_learning_rate_at_every_step() -> None:
    found = rates(BACKBONE, steps=4, lr=0.8, warmup=2, schedule="cosine", backbone_lr=0.25)
    assert found == pytest.approx([0.1, 0.2, 0.2, 0.1])


def test_the_learning_rate_of_a_resumed_training_is_that_of_its_step(tmp_path: Path) -> None:
    class Ends(Numbers):
        def batch(self, step: int, rank: int, world_size: int) -> Any:
            if step == 3:
                raise OSError("the store went away")
            return super().batch(step, rank, world_size)

    settings: dict[str, Any] = {"steps": 4, "lr": 0.8, "schedule": "cosine", "checks": 2}
    with pytest.raises(OSError, match="went away"):
        train(Toy(), Ends(), folder=tmp_path, **settings)
    steps, state = train(Toy(), Numbers(), folder=tmp_path, **settings)
    assert [lr[HEAD] for lr in steps.lr] == pytest.approx([0.4, 0.117157], abs=1e-6)
    assert [event["train/lr"] for event in state.history if "train/lr" in event][2:] == pytest.approx(
        [0.4, 0.117157], abs=1e-6
    )


# Groups of parameters -----------------------------------------------------------------------------------------------


def test_matrices_decay_and_biases_and_tokens_do_not() -> None:
    steps, _ = train(Toy(), Numbers(), steps=2, weight_decay=0.07, lr=0.8, backbone_lr=0.25)
    decays = {HEAD: 0.07, "head.bias": 0.0, "token": 0.0, BACKBONE: 0.07, "backbone.model.bias": 0.0}
    shares = {HEAD: 0.8, "head.bias": 0.8, "token": 0.8, BACKBONE: 0.2, "backbone.model.bias": 0.2}
    assert steps.decay == [decays, decays]
    assert steps.lr == [pytest.approx(shares), pytest.approx(shares)], "a frozen parameter is in no group"


def of_layers(method: nn.Module, *kinds: type[nn.Module]) -> set[str]:
    """Names of the weights of all layers of some kinds."""
    return {f"{name}.weight" for name, layer in method.named_modules() if isinstance(layer, kinds)}


@pytest.mark.parametrize(
    ("name", "config", "backbone", "others", "vectors"),
    [
        (
            "crossatnet",
            CrossATNetConfig(dim=16, vector_dim=8, neighbours=1, share_backbone=False, bits=0),
            "test_resnet",
            {"classifier.prototypes"},
            {"own_mask.2.weight"},  # one row
        ),
        (
            "zse_sbir",
            ZseSbirConfig(heads=2, ffn=16, classification=1.0),
            "test_vit",
            {"classifier.prototypes", "backbone.model.pos_embed"},
            {"relation.perceptron.6.weight"},  # one row
        ),
    ],
    ids=["crossatnet", "zse_sbir"],
)
def test_of_a_network_the_weights_of_layers_decay_and_backbones_learn_at_their_own_rate(
    name: str, config: Any, backbone: str, others: set[str], vectors: set[str]
) -> None:
    method = create_method(name, config, BackboneConfig(name=backbone), size=32, classes=CLASSES)
    settings = TrainConfig(steps=1, warmup=0, lr=1e-3, backbone_lr=0.5, weight_decay=0.07, checks=1)
    with Steps(method) as steps:
        fit(method, Pictures(2), LocalContext(device=CPU), settings, prepare_steps=0)
    trained = {n for n, p in method.named_parameters() if p.requires_grad}
    decays = of_layers(method, nn.Linear, nn.Conv2d) - vectors | others
    assert vectors < trained and others < trained
    assert steps.decay == [{n: 0.07 if n in decays else 0.0 for n in trained}]
    own = ("backbone.", "sketch_backbone.")
    assert steps.lr == [{n: pytest.approx(5e-4 if n.startswith(own) else 1e-3) for n in trained}]


# Gradients ----------------------------------------------------------------------------------------------------------


def same(found: Arrays, expected: Arrays, tolerance: float = 1e-5) -> bool:
    return found.keys() == expected.keys() and all(
        np.allclose(found[name], expected[name], rtol=tolerance, atol=tolerance) for name in expected
    )


def mean_of(*parts: Arrays) -> Arrays:
    return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}  # type: ignore[misc]


def test_the_gradient_of_a_step_is_that_of_the_mean_of_the_summed_losses() -> None:
    toy, source = Toy(), Numbers(3)
    start = arrays(toy)
    steps, state = train(toy, source, steps=1)
    assert same(steps.gradient[0], gradients(start, *source.arrays(0, 0)))
    (event,) = (event for event in state.history if "train/loss" in event)
    x, target = source.arrays(0, 0)
    h = x @ start[BACKBONE].T + start["backbone.model.bias"]
    e = h @ start[HEAD].T + start["head.bias"] + start["token"][0, 0] - target
    assert event["train/fit"] == pytest.approx((e**2).sum() / 6)
    assert event["train/size"] == pytest.approx(0.3 * (h**2).sum() / 6)
    assert event["train/loss"] == pytest.approx((e**2).sum() / 6 + 0.3 * (h**2).sum() / 6)


@pytest.mark.parametrize("clip", [0.0, 0.5, 1000.0])
def test_a_gradient_longer_than_the_limit_is_scaled_down_to_it_whole(clip: float) -> None:
    toy, source = Toy(), Numbers()
    before = gradients(arrays(toy), *source.arrays(0, 0))
    assert 1 < norm(before) < 1000
    steps, _ = train(toy, source, steps=1, clip=clip)
    scale = 0.5 / norm(before) if clip == 0.5 else 1.0
    assert same(steps.gradient[0], {name: scale * value for name, value in before.items()})


def test_accumulated_batches_have_the_gradient_of_one_larger_batch() -> None:
    class Joined(Numbers):
        def arrays(self, step: int, share: int) -> tuple[np.ndarray, np.ndarray]:
            parts = [Numbers(2).arrays(step, part) for part in range(3)]
            x, target = (np.concatenate(columns) for columns in zip(*parts, strict=True))
            return x, target

    start, source = arrays(Toy()), Numbers(2)
    parts, state = train(Toy(), source, steps=2, accumulate=3, batch_size=2, clip=1e-3)
    whole, one = train(Toy(), Joined(6), steps=2, batch_size=6, clip=1e-3)
    by_hand = mean_of(*(gradients(start, *source.arrays(0, share)) for share in range(3)))
    limited = {name: value * 1e-3 / norm(by_hand) for name, value in by_hand.items()}
    assert same(parts.gradient[0], limited, 1e-7), "what is limited is the mean"
    assert all(same(a, b, 1e-7) for a, b in zip(parts.gradient, whole.gradient, strict=True))
    parts, _ = train(Toy(), Numbers(2), steps=1, accumulate=3)
    assert same(parts.gradient[0], by_hand)
    logged, alike = ([event["train/loss"] for event in s.history if "train/loss" in event] for s in (state, one))
    assert logged == pytest.approx(alike)
    assert state.images == one.images == 2 * 4 * 6


def test_a_worker_of_two_computes_its_shares_of_four() -> None:
    class Second(LocalContext):
        rank, world_size = 1, 2

    toy, source = Toy(), Numbers()
    start, config = arrays(toy), TrainConfig(steps=1, warmup=0, checks=1)
    with Steps(toy) as steps:
        fit(toy, source, Second(device=CPU), config, prepare_steps=0, workers=4)
    assert toy.seen == [(0, 1), (0, 3)]
    assert same(steps.gradient[0], mean_of(*(gradients(start, *source.arrays(0, share)) for share in (1, 3))))


def test_a_training_is_adam_with_decoupled_decay() -> None:
    """Six steps, against Loshchilov and Hutter 2019, algorithm 2, with all that a configuration changes of a step."""
    toy, source = Toy(), Numbers()
    at, decays = arrays(toy), {HEAD, BACKBONE}
    m, v = ({name: np.zeros_like(value) for name, value in at.items()} for _ in range(2))
    norms = []
    for step in range(6):
        gradient = mean_of(*(gradients(at, *source.arrays(step, share)) for share in (0, 1)))
        norms.append(norm(gradient))
        shrink = min(1.0, 5.0 / norms[-1])
        rate = 0.05 * (step + 1) / 2 if step < 2 else 0.025 * (1 + math.cos(math.pi * (step - 2) / 4))
        for name, value in gradient.items():
            g, lr = shrink * value, rate * (0.5 if name.startswith("backbone.") else 1.0)
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g**2
            update = m[name] / (1 - 0.9 ** (step + 1)) / (np.sqrt(v[name] / (1 - 0.999 ** (step + 1))) + 1e-8)
            at[name] = at[name] - lr * (0.2 * at[name] if name in decays else 0.0) - lr * update
    assert min(norms) < 5 < max(norms)
    settings = {"lr": 0.05, "backbone_lr": 0.5, "weight_decay": 0.2, "clip": 5.0, "accumulate": 2}
    train(toy, source, steps=6, warmup=2, schedule="cosine", **settings)
    assert same(arrays(toy), at, 1e-4)
    assert torch.equal(toy.fixed, Toy().fixed)


# Batches and random numbers -----------------------------------------------------------------------------------------


def test_every_step_trains_on_its_own_batch() -> None:
    toy, source = Toy(), Numbers()
    train(toy, source, steps=3, accumulate=2)
    assert toy.seen == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]


def test_overfit_trains_on_the_first_batch_at_every_step(tmp_path: Path) -> None:
    toy, source = Toy(), Numbers()
    train(toy, source, folder=tmp_path, steps=3, accumulate=2, overfit=True)
    assert toy.seen == [(0, 0), (0, 1)] * 3
    assert set(source.asked) == {(0, 0), (0, 1)}


def test_random_numbers_follow_from_seed_step_and_share(tmp_path: Path) -> None:
    def drawn(**settings: Any) -> list[float]:
        toy = Toy()
        torch.manual_seed(99)
        train(toy, Numbers(), steps=3, accumulate=2, **settings)
        return toy.drawn

    first = drawn()
    assert len(set(first)) == 6 and drawn() == drawn(overfit=True) == first
    assert not set(drawn(seed=1)) & set(first)


def test_logged_losses_are_means_since_the_point_before() -> None:
    """600 steps are logged every third step."""
    toy = Toy()
    _, state = train(toy, Numbers(), steps=601)
    logged = [event for event in state.history if "train/loss" in event]
    assert [event["step"] for event in logged] == [*range(3, 601, 3), 601]
    means = [float(np.mean(toy.told[at : at + 3])) for at in range(0, 601, 3)]
    assert [event["train/loss"] for event in logged] == pytest.approx(means)


def test_a_point_of_the_log_is_also_an_event_with_the_number_of_steps_of_the_run() -> None:
    told: list[dict[str, float]] = []
    context = LocalContext(on_event=told.append, device=CPU)
    state = fit(Toy(), Numbers(), context, TrainConfig(steps=3, warmup=0, checks=1), prepare_steps=0)
    logged = [event for event in state.history if "train/loss" in event]
    assert [event for event in told if "train/loss" in event] == [{**event, "total": 3} for event in logged]
    assert len(logged) == 3


def test_a_window_that_waited_for_no_batch_has_no_wait_and_begins_again() -> None:
    window = Window()
    window.add({"loss": 2.0}, images=8, lr=0.5)
    window.add({"loss": 4.0}, images=8, lr=0.25)
    first = window.drain()
    assert (first["train/loss"], first["train/lr"], first["train/wait_share"]) == (3.0, 0.25, 0.0)
    batches: Any = iter([0])
    window.fetch(batches)
    window.add({"loss": 1.0}, images=8, lr=0.1)
    second = window.drain()
    assert second["train/loss"] == 1.0 and 0 < second["train/wait_share"] <= 1


@pytest.mark.parametrize("took", [0.25, 4.0])
def test_a_window_counts_pictures_by_the_time_since_it_began(took: float, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("zse_model.fit.progress.time.perf_counter", lambda: now[0])
    window = Window()
    window.add({"loss": 1.0}, images=8, lr=0.5)
    now[0] += took
    assert window.drain()["train/images_per_second"] == 8 / took


def test_reading_ahead_has_ended_when_its_batches_are_closed() -> None:
    """A thread inside a decoder when the interpreter ends aborts the process."""
    reading: list[bool] = []

    class Slow(Numbers):
        def batch(self, step: int, rank: int, world_size: int) -> Any:
            reading.append(True)
            time.sleep(0.05)
            reading.pop()
            return step

    batches: Any = prefetch(Slow(), ((step, 0) for step in range(100)), 1)
    assert [next(batches), next(batches)] == [0, 1]
    batches.close()
    assert not reading


def test_a_training_that_is_slow_has_few_batches_read_ahead() -> None:
    """Two wait, one is being handed over: a batch of pictures takes memory."""
    read: list[int] = []

    class Quick(Numbers):
        def batch(self, step: int, rank: int, world_size: int) -> Any:
            read.append(step)
            return step

    batches: Any = prefetch(Quick(), ((step, 0) for step in range(100)), 1)
    assert next(batches) == 0
    end = time.monotonic() + 30
    while len(read) < 4 and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.05)
    assert read == [0, 1, 2, 3]
    batches.close()


# A budget in minutes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("warmup", "skipped", "measured"), [(0, 1, 8), (7, 1, 8), (20, 5, 20)])
def test_a_budget_is_steps_at_the_rate_of_the_warmup_without_the_first_ones_and_the_checks(
    warmup: int, skipped: int, measured: int
) -> None:
    """The measured steps take 2 s on average. Of 600 s the steps so far and 3 checks of 10 s are taken."""
    clock: Any = SimpleNamespace(now=50.0)
    clock.all_workers = lambda: clock.now
    budget, total = Budget(TrainConfig(minutes=10, warmup=warmup, checks=3), clock), None
    for done in range(1, measured + 1):
        clock.now += 30.0 if done <= skipped else {skipped + 1: 0.0, measured: 4.0}.get(done, 2.0)
        total = budget.total(done, check_seconds=10.0)
        assert (total is None) == (done < measured)
    assert total == measured + (600 - clock.now - 30) // 2


def test_a_spent_budget_ends_at_the_step_that_measured_it() -> None:
    clock: Any = SimpleNamespace(all_workers=iter(range(0, 100000, 1000)).__next__)
    budget = Budget(TrainConfig(minutes=1, warmup=0), clock)
    assert [budget.total(done, 0.0) for done in (1, 8)] == [None, 8]


def test_months_of_cpu_time_are_counted_to_the_hundredth_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.process_time", lambda: 5.0)
    clock = CpuClock(LocalContext(device=CPU))
    monkeypatch.setattr("time.process_time", lambda: 2e7 + 5.25)
    assert clock.all_workers() == 2e7 + 0.25


def test_a_check_costs_the_time_that_the_first_one_took(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.process_time", lambda: now[0])

    class Restores(LocalContext):
        def restore(self) -> Any:
            now[0] += 3.0  # before the first check
            return super().restore()

    def validate(_: RetrievalMethod) -> dict[str, float]:
        now[0] += 7.0
        return {"selection/mAP_all": 0.5}

    settings = TrainConfig(steps=2, warmup=0, checks=1)
    state = fit(Toy(), Numbers(), Restores(device=CPU), settings, validate=validate, prepare_steps=0)
    assert state.check_seconds == 7.0 and state.cpu_seconds == 10.0, "of the state that the last check kept"


# Checks and the best weights ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "checks", "at"),
    [(9, 3, [0, 3, 6, 9]), (10, 4, [0, 2, 5, 8, 10]), (2, 4, [0, 1, 2]), (5, 1, [0, 5])],
)
def test_checks_are_evenly_spread_and_the_last_step_has_one(steps: int, checks: int, at: list[int]) -> None:
    _, state = train(Toy(), Numbers(), steps=steps, checks=checks, validate=lambda _: {"selection/mAP_all": 0.5})
    assert [event["step"] for event in state.history if "selection/mAP_all" in event] == at


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ([0.1, 0.5, 0.5, 0.2], 1),
        ([0.7, 0.5, 0.6, 0.7], 0),
        ([-0.9, -0.4, -0.2, -0.3], 2),
        ([0.0, 0.1, 0.2, 0.3], 3),
    ],
    ids=["the first of two", "before the first step", "below 0", "the last"],
)
def test_the_best_weights_are_the_first_of_the_highest_value_of_what_selects(
    values: list[float], best: int, tmp_path: Path
) -> None:
    checked: list[torch.Tensor] = []
    others = iter(range(9, 0, -1))

    def validate(method: RetrievalMethod) -> dict[str, float]:
        assert not method.training and not torch.is_grad_enabled()
        checked.append(method.state_dict()[HEAD].clone())
        return {"other": float(next(others)), "chosen": values[len(checked) - 1]}

    concluded: list[torch.Tensor] = []
    toy = Toy()

    def conclude(_: Any) -> None:
        assert not toy.training
        concluded.append(toy.head.weight.detach().clone())

    toy.conclude = conclude  # type: ignore[method-assign]

    def calibrate(method: RetrievalMethod) -> None:
        assert not method.training
        concluded.append(method.state_dict()[HEAD].clone())

    settings = {"steps": 6, "checks": 3, "select_by": "chosen", "validate": validate, "calibrate": calibrate}
    _, state = train(toy, Numbers(), folder=tmp_path, **settings)
    assert (state.best, state.best_step) == (values[best], 2 * best)
    assert len({str(value) for value in checked}) == 4
    with LocalContext(tmp_path).restore() as kept:
        assert kept is not None
        assert torch.equal(load_file(kept / "best.safetensors")[HEAD], checked[best])
        assert torch.equal(load_file(kept / "model.safetensors")[HEAD], checked[3])
    assert len(concluded) == 2 and all(torch.equal(value, checked[best]) for value in concluded)
    assert torch.equal(toy.head.weight, checked[3]), "the training goes on with its own weights"


def test_without_validation_the_last_weights_are_the_best(tmp_path: Path) -> None:
    toy = Toy()
    _, state = train(toy, Numbers(), folder=tmp_path, steps=4, checks=2)
    assert (state.best, state.best_step) == (None, 4)
    with LocalContext(tmp_path).restore() as kept:
        assert kept is not None
        assert torch.equal(load_file(kept / "best.safetensors")[HEAD], toy.head.weight)


def test_a_resumed_training_remembers_its_best_weights(tmp_path: Path) -> None:
    best: list[torch.Tensor] = []

    def broken(method: RetrievalMethod) -> dict[str, float]:
        if len(best) == 3:  # the last that is kept is not the best
            raise OSError("the store went away")
        best.append(method.state_dict()[HEAD].clone())
        return {"selection/mAP_all": (0.3, 0.8, 0.4)[len(best) - 1]}

    settings: dict[str, Any] = {"folder": tmp_path, "steps": 6, "checks": 3}
    with pytest.raises(OSError, match="went away"):
        train(Toy(), Numbers(), validate=broken, **settings)
    _, state = train(Toy(), Numbers(), validate=lambda _: {"selection/mAP_all": 0.8}, **settings)
    assert (state.best, state.best_step) == (0.8, 2)
    with LocalContext(tmp_path).restore() as kept:
        assert kept is not None
        assert torch.equal(load_file(kept / "best.safetensors")[HEAD], best[1])
        assert json.loads((kept / "state.json").read_text())["best_step"] == 2


# Patience -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patience", [0.0, 7.0])
def test_patience_begins_anew_at_every_step_and_ends_with_the_training(
    patience: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []

    def armed(seconds: float, **how: Any) -> None:
        done.append((seconds, how["exit"], len(toy.seen)))

    monkeypatch.setattr("faulthandler.dump_traceback_later", armed)
    monkeypatch.setattr("faulthandler.cancel_dump_traceback_later", lambda: done.append("off"))
    toy = Toy()
    train(toy, Numbers(), steps=3, patience=patience)
    assert done == [*([(7.0, True, step) for step in range(3)] if patience else []), "off"]

    class Breaks(Numbers):
        def batch(self, step: int, rank: int, world_size: int) -> Any:
            raise OSError("the store went away")

    done.clear()
    with pytest.raises(OSError, match="went away"):
        train(toy, Breaks(), patience=patience)
    assert done[-1] == "off"
