"""Guard the project's speed: compare short work with the kept ratios of benchmarks/baselines/.

    python -m benchmarks check                      all, as `make bench-check`
    python -m benchmarks check --only rn late       some
    python -m benchmarks check --keep rn            measure rn and keep its ratio: commit the file that it writes

A ratio is the seconds of a plain way divided by those of ours: how many times as fast ours is. It is the median of five
pairs, which run in turns (ours, plain, ours, plain ...) in one process with one thread. Both ways must first give the
same result. A ratio that is worse than the kept one by more than 15 % is measured again, and the check fails only where
both runs agree: one run of a busy machine proves nothing. A ratio is compared on the kind of machine that it was kept
on, and on no other: absolute times, and how two ways compare, depend on the processor.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.pairs import PAIRS, Ways

BASELINES = Path(__file__).with_name("baselines")
ROUNDS, LIMIT, THREADS = 5, 0.15, 1
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
"""Sets of instructions, as the kernel names them, on which the speed of matrix products depends."""
COMMAND = "python -m benchmarks check"
Measure = Callable[[str], list[float]]
"""Name of a pair -> the ratios of `ROUNDS` pairs. Raises WrongResultError."""


class WrongResultError(Exception):
    """Ours and the plain way give different results. A fast wrong answer is not fast."""


@dataclass(frozen=True)
class Kept:
    """A file of `benchmarks/baselines/`."""

    ratio: float
    """The median of `pairs`: seconds of the plain way / seconds of ours."""
    spread: float
    """The distance of the quartiles of `pairs`, divided by the ratio."""
    pairs: list[float]
    """Of one run, rising."""
    commit: str
    date: str
    machine: dict[str, Any]
    command: str


def main(arguments: Sequence[str] = ()) -> None:
    described = "\n".join(f"  {name:16s}{str(make.__doc__).splitlines()[0]}" for name, make in PAIRS.items())
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description=__doc__,
        epilog=f"names:\n{described}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--only", nargs="+", metavar="NAME", choices=PAIRS, help="compare these; default: all")
    choice.add_argument(
        "--keep",
        nargs="+",
        metavar="NAME",
        choices=[*PAIRS, "all"],
        help="measure these (all = every one), and keep their ratios with the commit and the kind of machine",
    )
    options = parser.parse_args(arguments)
    if options.keep:
        good = keep(list(PAIRS) if "all" in options.keep else options.keep)
    else:
        good = compare(options.only or list(PAIRS))
    if not good:
        sys.exit(1)


def compare(names: Sequence[str], folder: Path = BASELINES, measure: Measure | None = None) -> bool:
    """Compare with the kept ratios, and print a line for each and one for all. Returns whether none is worse or wrong.
    Raises SystemExit, before anything is measured, for a kept ratio that is absent or cannot be read."""
    kept, here, found = {name: read(name, folder) for name in names}, machine(), dict[str, str]()
    for name, one in kept.items():
        if one.machine != here:
            print(f"{name:16s}not compared: kept on {kind(one.machine)}", flush=True)
            found[name] = "not compared"
        else:
            found[name] = judged(name, one.ratio, measure or apart)
    count = Counter(found.values())
    compared = len(found) - count["not compared"]
    summary = f"{compared} compared: {count['worse']} worse, {count['better']} better, {count['wrong']} wrong"
    if count["not compared"]:
        summary += f"; {count['not compared']} not compared, because this machine is {kind(here)}"
    print(f"{summary}. {advice(found, kept)}")
    return not count["worse"] and not count["wrong"]


def judged(name: str, kept: float, measure: Measure) -> str:
    """Measure, print and judge: "as kept", "better", "worse" or "wrong"."""
    for again in ("", " again"):
        try:
            ratio = statistics.median(measure(name))
        except WrongResultError as error:
            print(f"{name:16s}wrong: {error}", flush=True)
            return "wrong"
        beyond = "worse" if kept / ratio > 1 + LIMIT else "better" if ratio / kept > 1 + LIMIT else "as kept"
        said = beyond if beyond == "as kept" else f"{beyond} by {abs(ratio / kept - 1):.0%}{again}"
        first = beyond == "worse" and not again
        print(f"{name:16s}{ratio:.2f}x, kept {kept:.2f}x: {said}{', measured again:' if first else ''}", flush=True)
        if not first:
            return beyond
    raise AssertionError("the second run returns")


def advice(found: dict[str, str], kept: dict[str, Kept]) -> str:
    """The next command."""
    named = {verdict: [name for name, its in found.items() if its == verdict] for verdict in found.values()}
    if wrong := named.get("wrong"):
        return f"Next: correct the result, then {COMMAND} --only {' '.join(wrong)}"
    if worse := named.get("worse"):
        only, since = " ".join(worse), kept[worse[0]].commit[:10]
        return (
            f"Next: git log {since}.. -- zse_model pipelines shows what changed; after a repair {COMMAND} --only "
            f"{only}; if the loss is meant, {COMMAND} --keep {only}"
        )
    if better := named.get("better"):
        return f"Next: {COMMAND} --keep {' '.join(better)}, and commit benchmarks/baselines"
    if elsewhere := named.get("not compared"):
        return f"Next, to compare on machines of this kind instead: {COMMAND} --keep {' '.join(elsewhere)}"
    return "Nothing to do."


def keep(names: Sequence[str], folder: Path = BASELINES, measure: Measure | None = None) -> bool:
    """Measure each and write its ratio, unless its pairs differ too much. Returns whether all are kept.
    Raises SystemExit if the code differs from the commit."""
    commit, refused = committed(), list[str]()
    for name in names:
        try:
            pairs = sorted((measure or apart)(name))
        except WrongResultError as error:
            print(f"{name:16s}not kept, wrong: {error}", flush=True)
            refused.append(name)
            continue
        ratio = statistics.median(pairs)
        low, _, high = statistics.quantiles(pairs, n=4, method="inclusive")
        spread = (high - low) / ratio
        if spread > LIMIT:
            print(f"{name:16s}not kept: {ratio:.2f}x, but its quartiles are {spread:.0%} apart", flush=True)
            refused.append(name)
            continue
        found = Kept(
            ratio=round(ratio, 3),
            spread=round(spread, 3),
            pairs=[round(one, 3) for one in pairs],
            commit=commit,
            date=datetime.now(UTC).date().isoformat(),
            machine=machine(),
            command=f"{COMMAND} --keep {name}",
        )
        folder.mkdir(exist_ok=True)
        place(name, folder).write_text(json.dumps(asdict(found), indent=1) + "\n")
        print(f"{name:16s}kept: {ratio:.2f}x, quartiles {spread:.0%} apart", flush=True)
    done = f"{len(names) - len(refused)} kept, {len(refused)} not."
    again = f" Next, when the machine is less busy: {COMMAND} --keep {' '.join(refused)}" if refused else ""
    print(done + (again or " Next: commit benchmarks/baselines"))
    return not refused


def apart(name: str) -> list[float]:
    """The ratios of `ROUNDS` pairs, in a process of its own: memory and threads of one comparison do not reach the
    next. Raises WrongResultError."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=one_thread) as process:
        return process.submit(measured, name).result()


def one_thread() -> None:
    """Of torch, faiss and NumPy. They read the environment when they are imported."""
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(THREADS))


def measured(name: str) -> list[float]:
    with PAIRS[name]() as ways:
        return ratios(ways)


def ratios(ways: Ways) -> list[float]:
    """Of `ROUNDS` pairs, after one of each way that is compared and not counted. Raises WrongResultError."""
    difference = ways.difference(ways.ours(), ways.plain())
    if not difference <= ways.allowed:  # NaN is wrong, too
        raise WrongResultError(f"ours and the plain way differ by {difference:.3g}, allowed is {ways.allowed:g}")
    found = []
    for _ in range(ROUNDS):
        ours, plain = seconds(ways.ours), seconds(ways.plain)
        found.append(plain / ours)
    return found


def seconds(work: Callable[[], object]) -> float:
    began = now()
    work()
    return now() - began


def now() -> float:
    """Seconds, without those in which this thread could have run and other work had the processor. On two cores with
    12 processes, ratios of `late` by wall time were 1.75 to 4.51 in one run, by these seconds 1.94 to 2.05. Waiting for
    anything else counts. Where the kernel does not count the first, it is wall time."""
    try:
        waited = int(Path("/proc/thread-self/schedstat").read_text().split()[1])
    except OSError:
        waited = 0
    return time.perf_counter() - waited / 1e9


def machine() -> dict[str, Any]:
    """What a ratio depends on: processor, cores, instructions, threads."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    given = [about[key] for key in ("model name", "cpu family", "model", "CPU part") if key in about]
    flags = (about.get("flags") or about.get("Features") or "").split()
    return {
        "processor": ", ".join(given) or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "threads": THREADS,
    }


def kind(of: dict[str, Any]) -> str:
    instructions = " ".join(of["instructions"]) or "no known instructions"
    return f"{of['processor']} ({of['cores']} cores; {instructions}; {of['threads']} thread)"


def committed() -> str:
    """The commit of the code. Raises SystemExit where files, those of kept ratios aside, differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=BASELINES.parents[1], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"A kept ratio names its commit, and git {arguments[0]} failed: {done.stderr.strip()}")
        return done.stdout.strip()

    ours = BASELINES.relative_to(BASELINES.parents[1])
    if changed := git("status", "--porcelain", "--", ".", f":(exclude){ours}"):
        sys.exit(f"A kept ratio names its commit, and these files differ from it. Commit them first:\n{changed}")
    return git("rev-parse", "HEAD")


def place(name: str, folder: Path) -> Path:
    return folder / f"{name}.json"


def read(name: str, folder: Path) -> Kept:
    """Raises SystemExit for a file that is absent or is no kept ratio."""
    path = place(name, folder)
    next_command = f"Measure it: {COMMAND} --keep {name}"
    if not path.exists():
        sys.exit(f"{path}: no kept ratio of {name}. {next_command}")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        sys.exit(f"{path}: no JSON ({error}). {next_command}")
    names = {field.name for field in fields(Kept)}
    if not isinstance(values, dict) or values.keys() != names:
        sys.exit(f"{path}: must have the fields {sorted(names)}, has {sorted(values)}. {next_command}")
    ratio, parts = values["ratio"], values["machine"]
    if not isinstance(ratio, int | float) or not 0 < ratio < math.inf:
        sys.exit(f"{path}: ratio must be a number above 0, is {ratio!r}. {next_command}")
    if not isinstance(parts, dict) or parts.keys() != machine().keys():
        sys.exit(f"{path}: machine must have the fields {sorted(machine())}, is {parts!r}. {next_command}")
    return Kept(**values)
