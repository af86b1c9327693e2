"""`python -m benchmarks check` with small pairs: what it compares, what it says, and when it fails."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from benchmarks import check
from benchmarks.check import BASELINES, Kept, WrongResultError, compare, kind, machine, ratios, read
from benchmarks.pairs import PAIRS, Ways


def kept(folder: Path, name: str = "rn", ratio: float = 2.0, **other: Any) -> Path:
    values = Kept(
        ratio=ratio,
        spread=0.02,
        pairs=[ratio] * 5,
        commit="0123456789abcdef",
        date="2026-01-01",
        machine=machine(),
        command=f"python -m benchmarks check --keep {name}",
    )
    path = folder / f"{name}.json"
    path.write_text(json.dumps(asdict(values) | other))
    return path


def runs(*medians: float) -> check.Measure:
    """One run after the other; a run too many fails."""
    left = iter(medians)
    return lambda name: [next(left)] * 5


def ways(ours: float, plain: float, results: tuple[float, float] = (1.0, 1.0)) -> Ways:
    """ours, plain: the seconds of a call."""

    def work(seconds: float, result: float) -> float:
        time.sleep(seconds)
        return result

    return Ways(lambda: work(ours, results[0]), lambda: work(plain, results[1]), lambda a, b: abs(a - b), 0.1)


def last(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.splitlines()[-1]


def test_a_planted_slowdown_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept(tmp_path)
    measured: list[str] = []

    def slow(name: str) -> list[float]:
        measured.append(name)
        return ratios(ways(ours=0.04, plain=0.04))

    assert compare(["rn"], tmp_path, lambda name: ratios(ways(ours=0.02, plain=0.04)))
    assert not compare(["rn"], tmp_path, slow)
    assert measured == ["rn", "rn"], "a slowdown is measured twice"
    assert last(capsys) == (
        "1 compared: 1 worse, 0 better, 0 wrong. Next: git log 0123456789.. -- zse_model pipelines shows what changed; "
        "after a repair python -m benchmarks check --only rn; if the loss is meant, python -m benchmarks check "
        "--keep rn"
    )


def test_the_ratio_is_of_pairs_in_turns() -> None:
    calls: list[str] = []
    plain = lambda: calls.append("plain") or time.sleep(0.02)  # noqa: E731
    found = ratios(Ways(lambda: calls.append("ours") or time.sleep(0.01), plain, lambda a, b: 0.0))
    assert calls == ["ours", "plain"] * 6, "the first pair is compared and not counted"
    assert len(found) == 5 and 1.5 < statistics.median(found) < 2.5


def test_one_noisy_run_does_not_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept(tmp_path)
    assert compare(["rn"], tmp_path, runs(1.2, 1.95))
    out = capsys.readouterr().out
    assert "1.20x, kept 2.00x: worse by 40%, measured again:" in out
    assert out.endswith("1 compared: 0 worse, 0 better, 0 wrong. Nothing to do.\n")


@pytest.mark.parametrize(("ratio", "good"), [(1.76, True), (1.72, False)])
def test_the_limit_is_15_percent(tmp_path: Path, ratio: float, good: bool) -> None:
    kept(tmp_path)
    assert compare(["rn"], tmp_path, runs(ratio) if good else runs(ratio, ratio)) is good


def test_a_better_ratio_is_said_with_the_command_that_keeps_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept(tmp_path)
    assert compare(["rn"], tmp_path, runs(3.0))
    assert last(capsys) == (
        "1 compared: 0 worse, 1 better, 0 wrong. Next: python -m benchmarks check --keep rn, and commit "
        "benchmarks/baselines"
    )


def test_another_kind_of_machine_is_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = machine() | {"processor": "Abacus", "instructions": ["beads"]}
    kept(tmp_path, "rn", machine=other)
    kept(tmp_path, "late")
    assert compare(["rn", "late"], tmp_path, runs(2.0)), "only late is measured"
    out = capsys.readouterr().out
    assert f"not compared: kept on Abacus ({other['cores']} cores; beads; 1 thread)" in out
    assert f"1 compared: 0 worse, 0 better, 0 wrong; 1 not compared, because this machine is {kind(machine())}" in out


@pytest.mark.parametrize("result", [1.5, math.nan])
def test_a_wrong_result_is_refused_before_it_is_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], result: float
) -> None:
    kept(tmp_path)
    with pytest.raises(WrongResultError, match="ours and the plain way differ by .*, allowed is 0.1"):
        ratios(ways(0, 0, (1.0, result)))
    assert not compare(["rn"], tmp_path, lambda name: ratios(ways(0, 0, (1.0, result))))
    assert "1 wrong. Next: correct the result" in last(capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no kept ratio of rn"),
        ("{", "no JSON"),
        ("[]", "must have the fields"),
        ('{"ratio": 2}', r"must have the fields \['command', 'commit'.*has \['ratio'\]"),
        ({"ratio": 0}, "ratio must be a number above 0, is 0"),
        ({"ratio": "2"}, "ratio must be a number above 0, is '2'"),
        ({"machine": {}}, "machine must have the fields"),
    ],
)
def test_a_kept_ratio_that_cannot_be_read_is_named_before_anything_is_measured(
    tmp_path: Path, content: str | dict[str, Any] | None, message: str
) -> None:
    kept(tmp_path, "late")
    if isinstance(content, dict):
        kept(tmp_path, "rn", **content)
    elif content is not None:
        (tmp_path / "rn.json").write_text(content)
    with pytest.raises(SystemExit, match=rf"rn\.json: {message}.* Measure it: .* check --keep rn"):
        compare(["late", "rn"], tmp_path, runs())


def test_a_ratio_is_kept_with_commit_and_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "committed", lambda: "c0ffee")
    assert check.keep(["rn"], tmp_path, lambda name: [2.1, 1.9, 2.0, 2.05, 9.0])
    found = read("rn", tmp_path)
    assert (found.ratio, found.commit, found.machine) == (2.05, "c0ffee", machine())
    assert found.pairs == [1.9, 2.0, 2.05, 2.1, 9.0] and found.spread == pytest.approx(0.1 / 2.05, abs=1e-3)
    assert compare(["rn"], tmp_path, runs(found.ratio))


def test_a_ratio_whose_pairs_disagree_or_are_wrong_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "committed", lambda: "c0ffee")

    def measure(name: str) -> list[float]:
        if name == "late":
            raise WrongResultError("ours is another")
        return [1.0, 1.5, 2.0, 2.5, 3.0]

    assert not check.keep(["rn", "late"], tmp_path, measure)
    assert not list(tmp_path.iterdir())
    assert "rn              not kept: 2.00x, but its quartiles are 50% apart" in capsys.readouterr().out


def test_a_ratio_of_changed_code_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a repository of its own."""
    baselines = tmp_path / "benchmarks" / "baselines"
    baselines.mkdir(parents=True)
    monkeypatch.setattr(check, "BASELINES", baselines)
    with pytest.raises(SystemExit, match="git status failed"):
        check.committed()
    for command in ("init -q", "-c user.name=a -c user.email=a@b commit -q --allow-empty -m first"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    (baselines / "rn.json").write_text("{}")
    assert len(check.committed()) == 40, "kept ratios may differ"
    (tmp_path / "code.py").write_text("")
    with pytest.raises(SystemExit, match=r"(?s)Commit them first:\n.*code\.py"):
        check.committed()


@pytest.mark.skipif(
    not Path("/proc/thread-self/schedstat").exists(),
    reason="only Linux counts how long a thread waits: elsewhere the check uses wall time",
)
def test_the_time_that_other_work_had_the_processor_does_not_count() -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])  # on the same core
    try:

        def work() -> None:
            until = time.thread_time() + 0.2
            while time.thread_time() < until:
                pass

        began = time.perf_counter()
        counted = check.seconds(work)
        wall = time.perf_counter() - began
    finally:
        other.kill()
        other.wait()
        os.sched_setaffinity(0, cores)
    assert 0.19 < counted < 0.28 < wall


def test_waiting_counts() -> None:
    assert check.seconds(lambda: time.sleep(0.02)) > 0.018


def threads() -> int:
    import torch

    return torch.get_num_threads()


def test_a_process_of_a_pair_has_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=check.one_thread) as process:
        assert process.submit(threads).result() == 1


def test_every_pair_has_a_kept_ratio_that_can_be_read() -> None:
    assert {path.stem for path in BASELINES.glob("*")} == set(PAIRS)
    for name in PAIRS:
        assert read(name, BASELINES).command == f"python -m benchmarks check --keep {name}"


def test_the_help_names_every_pair(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        check.main(["--help"])
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in PAIRS) and "--keep" in out


def test_a_pair_is_measured_in_a_process_of_its_own() -> None:
    found = check.apart("codes")
    assert len(found) == 5 and min(found) > 0
