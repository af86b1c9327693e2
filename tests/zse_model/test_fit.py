"""The training loop, alone in a process: resumes to the same weights, keeps its budget, refuses nonsense."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.batches import CLASSES, Pictures
from zse_model.backbones import BackboneConfig
from zse_model.errors import ZseError
from zse_model.fit import (
    STATE_FILE,
    LocalContext,
    NonFiniteLossError,
    SelectionError,
    TrainConfig,
    TrainingError,
    fit,
)
from zse_model.methods import GlobalConfig, RetrievalMethod, TrainBatch, ZseSbirConfig, create_method

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


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("check", [0, 2])
def test_a_selection_value_that_is_no_number_is_refused(value: float, check: int, tmp_path: Path) -> None:
    scores = iter([*[0.1] * check, value, 0.5, 0.5, 0.5])
    with pytest.raises(SelectionError, match=rf"selection/mAP_all at step {3 * check} is {value}: no weights"):
        fit(
            method(),
            Source(),
            LocalContext(tmp_path),
            config(),
            validate=lambda _: {"selection/mAP_all": next(scores)},
        )


def test_best_weights_that_an_earlier_version_kept_with_a_value_that_is_no_number_are_replaced(tmp_path: Path) -> None:
    fit(method(), Source(), LocalContext(tmp_path), config(steps=3, checks=1), prepare_steps=0)
    (folder,) = tmp_path.glob("state-*")
    state = json.loads((folder / STATE_FILE).read_text())
    (folder / STATE_FILE).write_text(json.dumps(state | {"best": math.nan}))
    broken = {name: value * math.nan for name, value in load_file(folder / "best.safetensors").items()}
    save_file({name: value for name, value in broken.items() if value.is_floating_point()}, folder / "best.safetensors")
    found = fit(method(), Source(), LocalContext(tmp_path), config(steps=6, checks=2), prepare_steps=0)
    assert found.step == 6 and found.best_step == 6


def test_an_error_does_not_wait_for_the_batch_that_is_read_ahead() -> None:
    class Slow(Source):
        def batch(self, step: int, rank: int, world_size: int) -> TrainBatch:
            if step:
                reading.wait(30)
            return super().batch(step, rank, world_size)

    reading, m = threading.Event(), method()
    with torch.no_grad():
        next(p for p in m.parameters() if p.requires_grad).fill_(math.nan)
    began = time.monotonic()
    with pytest.raises(NonFiniteLossError, match="step 0"):
        try:
            fit(m, Slow(), LocalContext(), config(), prepare_steps=0)
        finally:
            waited = time.monotonic() - began
            reading.set()
    assert waited < 25


def test_a_metric_that_no_check_gives_is_refused_before_the_first_step(tmp_path: Path) -> None:
    def validate(_: RetrievalMethod) -> dict[str, float]:
        return {"selection/mAP_all": 0.5, "selection/P_25": 0.2}

    source, known = Source(), r"select_by: there is no metric 'mAP'. Metrics of a check: \['selection/P_25', 'selecti"
    with pytest.raises(SelectionError, match=known):
        fit(method(), source, LocalContext(), config(), validate=validate, select_by="mAP", prepare_steps=0)
    assert not source.asked
    fit(method(), Source(), LocalContext(tmp_path), config(steps=3, checks=1), validate=validate)
    source = Source()
    with pytest.raises(SelectionError, match=known):  # resumed
        fit(method(), source, LocalContext(tmp_path), config(), validate=validate, select_by="mAP", prepare_steps=0)
    assert not source.asked


@pytest.mark.parametrize("where", ["validate", "calibrate"])
def test_what_the_first_worker_cannot_check_ends_the_others_too(where: str) -> None:
    meeting, told = threading.Barrier(2, timeout=60), dict[int, torch.Tensor]()

    class Worker(LocalContext):
        world_size = 2

        def __init__(self, rank: int) -> None:
            super().__init__(device=torch.device("cpu"))
            self.rank = rank

        def total(self, value: torch.Tensor) -> torch.Tensor:
            told[self.rank] = value.clone()
            meeting.wait()
            value.copy_(told[0] + told[1])
            meeting.wait()
            return value

    def fails(_: RetrievalMethod) -> dict[str, float]:
        raise OSError("the store went away")

    def work(rank: int) -> None:
        checks = {"validate": lambda _: {"selection/mAP_all": 0.5}, "calibrate": None, where: fails}
        fit(networks[rank], Source(), Worker(rank), config(steps=1, checks=1), prepare_steps=0, **checks)

    networks = [method(), method()]
    with ThreadPoolExecutor(2) as pool:
        first, second = (pool.submit(work, rank) for rank in (0, 1))
        assert isinstance(first.exception(), OSError)
        assert isinstance(second.exception(), TrainingError)


@pytest.mark.parametrize("kept", [0, 100, None])
def test_a_state_without_its_whole_optimizer_is_named(kept: int | None, tmp_path: Path) -> None:
    fit(method(), Source(), LocalContext(tmp_path), config(steps=1, checks=1))
    (file,) = tmp_path.glob("state-*/optimizer.pt")
    file.write_bytes(file.read_bytes()[:kept]) if kept is not None else file.unlink()
    with pytest.raises(ZseError, match=rf"^{file} is missing, cut or damaged.*delete its folder"):
        fit(method(), Source(), LocalContext(tmp_path), config())


def test_a_gpu_without_room_for_the_optimizer_is_no_damaged_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    fit(method(), Source(), LocalContext(tmp_path), config(steps=1, checks=1))
    monkeypatch.setattr(torch.optim.Optimizer, "load_state_dict", full)
    with pytest.raises(torch.OutOfMemoryError):
        fit(method(), Source(), LocalContext(tmp_path), config())


def test_weights_that_an_update_broke_are_not_kept(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match="The weights after step 1 are not finite"):
        fit(method(), Source(), LocalContext(tmp_path), config(lr=1e39, warmup=0, steps=1, checks=1))
    with LocalContext(tmp_path).restore() as kept:
        assert kept is not None and '"step": 0' in (kept / STATE_FILE).read_text()


@pytest.mark.parametrize("name", ["lr", "weight_decay", "clip", "backbone_lr"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_setting_that_is_no_number_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"train\.{name} must be (above 0|0 or more)(, and finite)?, got {value}"):
        config(**{name: value})


def test_each_check_is_told_and_kept_once_wherever_a_training_breaks(tmp_path: Path) -> None:
    def checked(events: list[dict[str, float]]) -> list[float]:
        return [event["step"] for event in events if "selection/mAP_all" in event]

    for broken_at in range(4):
        told: list[dict[str, float]] = []
        context = LocalContext(tmp_path / str(broken_at), told.append)
        settings, validate = config(steps=4, checks=2), lambda _: {"selection/mAP_all": 0.5}
        with pytest.raises(OSError, match="went away"):
            fit(method(), Source(broken_at=broken_at), context, settings, validate=validate, prepare_steps=0)
        state = fit(method(), Source(), context, settings, validate=validate, prepare_steps=0)
        again = fit(method(), Source(), context, settings, validate=validate, prepare_steps=0)
        assert checked(told) == checked(state.history) == checked(again.history) == [0, 2, 4], broken_at


def test_the_check_that_ends_a_spent_budget_is_told_once(tmp_path: Path) -> None:
    told: list[dict[str, float]] = []
    concluded: list[int] = []
    m = method()
    m.conclude = lambda batches: concluded.append(1)  # type: ignore[method-assign]
    state = fit(
        m,
        Source(),
        LocalContext(tmp_path, told.append),
        config(steps=None, minutes=1e-6),
        validate=lambda _: {"selection/mAP_all": 0.5},
        prepare_steps=0,
    )
    for events in (told, state.history):
        assert [event["step"] for event in events if "selection/mAP_all" in event] == [0, state.total]
    assert concluded == [1]


def test_workers_speak_once_a_step_and_are_waited_for_once() -> None:
    class Counts(LocalContext):
        def __init__(self) -> None:
            super().__init__(device=torch.device("cpu"))
            self.sums: list[int] = []
            self.asked = 0

        def total(self, value: torch.Tensor) -> torch.Tensor:
            self.sums.append(value.numel())
            return value

        def due(self) -> bool:
            return self.asked < 2

        def leaving(self) -> bool:
            self.asked += 1
            return False

    few, many = Counts(), Counts()
    fit(method(), Source(), few, config(steps=4, checks=1), prepare_steps=0)
    fit(method(), Source(), many, config(steps=9, checks=1), prepare_steps=0)
    assert len(many.sums) - len(few.sums) == 5
    assert few.asked == many.asked == 2, "only where one of them is due"


def test_a_training_that_is_told_to_go_keeps_its_step_and_goes_on(tmp_path: Path) -> None:
    class Leaves(LocalContext):
        def leaving(self) -> bool:
            self.steps = getattr(self, "steps", 0) + 1
            return self.steps == 2

    whole, left = method(), method()
    fit(whole, Source(), LocalContext(tmp_path / "whole"), config(checks=1))
    spent = fit(left, Source(), Leaves(tmp_path / "left"), config(checks=1))
    assert spent.step == 2 and spent.cpu_seconds > 0
    resumed = method()
    assert fit(resumed, Source(), LocalContext(tmp_path / "left"), config(checks=1)).step == 9
    assert torch.equal(weights(resumed), weights(whole))


class Killed(BaseException):
    pass


def test_a_state_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    """Killed before each thing that is done to a file, one after the other."""
    doing: list[int] = []  # how many more may be done; empty = any number

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        done_to_files = event == "open" or event.startswith(
            ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil")
        )
        if doing and done_to_files and str(tmp_path) in str(arguments):
            doing[0] -= 1
            if doing[0] < 0:
                raise Killed

    def state(n: int) -> Path:
        (tmp_path / "made").mkdir(exist_ok=True)
        for name in ("best.safetensors", "model.safetensors", "optimizer.pt", STATE_FILE):
            (tmp_path / "made" / name).write_text(str(n))
        return tmp_path / "made"

    def kept(folder: Path) -> set[str]:
        with LocalContext(folder).restore() as found:
            assert found is not None
            files = {file.name: file.read_text() for file in found.iterdir() if file.is_file()}
        assert {"best.safetensors", "model.safetensors", "optimizer.pt", STATE_FILE} <= files.keys()
        return {files[name] for name in files if name != "other"}

    sys.addaudithook(hook)
    ended, killed_after = False, 0
    for flat in (False, True):
        for killed_after in range(100):
            folder = tmp_path / f"{flat}-{killed_after}"
            if flat:  # as earlier versions kept it
                shutil.copytree(state(0), folder)
            else:
                LocalContext(folder).report({}, state(0))
            made = state(1)
            doing.append(killed_after)
            try:
                LocalContext(folder).report({}, made)
                ended = True
            except Killed:
                ended = False
            doing.clear()
            assert kept(folder) in ({"0"}, {"1"})
            LocalContext(folder).report({}, state(2))
            assert kept(folder) == {"2"}
            assert [f.name for f in folder.iterdir() if f.is_dir()] == [max(f.name for f in folder.glob("state-*"))]
            if ended:
                break
        assert ended and killed_after > 5


def test_a_budget_becomes_a_number_of_steps_and_is_kept(tmp_path: Path) -> None:
    shares = []
    for attempt in range(3):  # on a machine that becomes busy, steps cost more than those that were measured
        context = LocalContext(tmp_path / str(attempt))
        state = fit(method(), Source(), context, config(steps=None, minutes=0.03))
        assert state.total is not None and state.total == state.step and state.total >= 8
        shares.append(state.cpu_seconds / (0.03 * 60))
        if 0.5 < shares[-1] < 2.0:
            break
    else:
        pytest.fail(f"shares of the budget that were spent: {shares}")
    again = fit(method(), Source(), context, config(steps=None, minutes=60))
    assert again.total == state.total, "a resumed run keeps the measured number"


def test_the_time_set_aside_for_checks_is_the_one_that_a_resumed_training_finds(tmp_path: Path) -> None:
    class Broken(LocalContext):
        kept: float | None = None

        def report(self, metrics: dict[str, float], state: Path | None) -> None:
            super().report(metrics, state)
            if state is not None and self.kept is None:
                self.kept = json.loads((state / "state.json").read_text())["check_seconds"]

    context = Broken(tmp_path)
    state = fit(method(), Source(), context, config(steps=None, minutes=0.01))
    assert context.kept == state.check_seconds


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
from tests.zse_model.test_fit import LocalContext
from tests.zse_model.test_fit import Source
from tests.zse_model.test_fit import config
from tests.zse_model.test_fit import fit
from tests.zse_model.test_fit import method
class Hangs(Source):
    def batch(self, step, rank, world_size):
        if step == 60:
            time.sleep(60)
        return super().batch(step, rank, world_size)
fit(method(), Hangs(), LocalContext(), config(steps=100, checks=1), patience=3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "Timeout (0:00:03)!" in done.stderr and "in fit" in done.stderr, done.stderr


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
    ("backbone", "reason"), [("test_resnet", "statistics would count"), ("convit_tiny", "timm cannot")]
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
