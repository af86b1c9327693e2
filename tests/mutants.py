"""Plant faults in the code, one at a time, and run the tests that should notice. `make mutants` runs it.

    <out>/mutants.jsonl  a line for each mutant: module, line, old and new text, outcome; a second run continues there,
                         and tries a survivor again if its tests have changed
    <out>/survivors.md   the mutants that no test noticed, each with its diff; equivalent ones apart, with the reason

A mutant replaces one expression or statement inside a function. Module constants, defaults, annotations, and the texts
of errors are left alone: their values are choices, not logic. The mutants of all modules are drawn by a seed, equally
many from each module.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

ROOT = Path(__file__).parents[1]
TARGETS: dict[str, tuple[str, ...]] = {
    "zse_model/losses.py": ("zse_model/test_losses.py", "zse_model/test_method_losses.py"),
    "zse_model/graph.py": ("zse_model/test_graph.py",),
    "zse_model/hashing.py": ("zse_model/test_hashing.py", "zse_model/test_crossatnet.py"),
    "zse_model/layers.py": ("zse_model/test_method_losses.py", "zse_model/test_methods.py"),
    "zse_model/fit/trainer.py": ("zse_model/test_optimisation.py", "zse_model/test_fit.py"),
    "zse_model/fit/state.py": ("zse_model/test_fit.py", "zse_model/test_optimisation.py"),
    "zse_model/fit/optimisation.py": ("zse_model/test_optimisation.py",),
    "zse_model/fit/progress.py": ("zse_model/test_optimisation.py", "zse_model/test_fit.py"),
    "zse_model/split.py": ("zse_model/test_split.py",),
    "zse_model/methods/zse_sbir.py": (
        "zse_model/test_method_losses.py",
        "zse_model/test_fusion.py",
        "zse_model/test_loss_choices.py",
        "zse_model/test_methods.py",
    ),
    "zse_model/methods/crossatnet.py": ("zse_model/test_method_losses.py", "zse_model/test_crossatnet.py"),
    "zse_model/methods/global_embedding.py": (
        "zse_model/test_method_losses.py",
        "zse_model/test_loss_choices.py",
        "zse_model/test_methods.py",
    ),
    "zse_model/methods/codes.py": ("zse_model/test_crossatnet.py", "zse_model/test_methods.py"),
    "zse_model/methods/places.py": (
        "zse_model/test_late.py",
        "zse_model/test_method_losses.py",
        "zse_model/test_workers.py",
    ),
    "zse_model/methods/late_interaction.py": ("zse_model/test_late.py", "zse_model/test_method_losses.py"),
    "zse_model/late.py": ("zse_model/test_late.py", "zse_model/test_method_losses.py"),
    "zse_model/tuning.py": ("zse_model/test_tuning.py",),
    "zse_model/confidence.py": ("zse_model/test_confidence.py",),
    "zse_model/diffusion.py": ("zse_model/test_diffusion.py",),
    "zse_model/explanation/matches.py": ("zse_model/test_late.py", "zse_model/test_method_losses.py"),
    "zse_model/methods/distillation.py": ("zse_model/test_method_losses.py", "zse_model/test_methods.py"),
    "zse_model/evaluation/metrics.py": ("zse_model/test_metrics.py", "zse_model/test_evaluate.py"),
    "zse_model/evaluation/search.py": ("zse_model/test_ranking.py",),
    "zse_model/evaluation/leaks.py": ("zse_model/test_leaks.py",),
    "zse_model/code_index.py": ("zse_model/test_code_index.py",),
    "zse_model/vector_index.py": ("zse_model/test_vector_index.py",),
    "zse_model/checkpoint.py": ("zse_model/test_checkpoint.py", "workspace/test_kept.py"),
    "zse_model/weight_names.py": ("zse_model/test_checkpoint.py", "workspace/test_kept.py"),
    "pipelines/workspace/states.py": ("workspace/test_states.py",),
    "pipelines/workspace/images.py": ("workspace/test_artefacts.py", "workspace/test_kept.py"),
    "pipelines/workspace/kept.py": ("workspace/test_artefacts.py", "workspace/test_kept.py"),
    "pipelines/store/lease.py": ("store/test_lease.py",),
    "pipelines/serve/batches.py": ("serve/test_batches.py",),
    "pipelines/serve/filters.py": ("serve/test_filters.py",),
    "pipelines/judge/rules.py": ("judge/test_promote.py",),
    "pipelines/operate/preflight.py": ("operate/test_preflight.py",),
}
"""Module -> the test files below tests/ that should notice its faults. Tests marked ray or cluster do not run."""
EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        "zse_model/graph.py",
        "distance = (2 - similarity).clamp(min=1.0)",
        "(3)",
    ): "all distances grow by 1, and the spanning tree stays",
    (
        "zse_model/hashing.py",
        "alone = bool((labels == labels[0]).all())",
        "(1)",
    ): "all labels equal the first exactly if they equal the second",
    (
        "zse_model/layers.py",
        "tokens = self.convolution(maps.unflatten(2, self.grid)).flatten(2).transpose(1, 2)",
        "(self.convolution(maps.unflatten(2, self.grid)).flatten(2).transpose(2, 1))",
    ): "transpose is symmetric in its two axes",
    (
        "zse_model/fit/trainer.py",
        'self.context.log({**event, "total": self.state.total or 0})',
        "(1)",
    ): "a window is due only once the total is known, and it is never 0",
    (
        "zse_model/methods/crossatnet.py",
        "if own is not None and guided is not None:",
        "(own is not None or guided is not None)",
    ): "the attention builds both masks or neither",
    (
        "zse_model/methods/distillation.py",
        "overall = sums.sum(0, keepdim=True) / counts.sum()",
        "(False)",
    ): "[units] broadcasts as [1, units] does",
    (
        "zse_model/methods/distillation.py",
        "overall = sums.sum(0, keepdim=True) / counts.sum()",
        "(sums.sum(0))",
    ): "[units] broadcasts as [1, units] does",
    (
        "zse_model/evaluation/search.py",
        "keys.sort(axis=1)",
        "(keys.sort())",
    ): "the last axis, the default, is axis 1",
    (
        "zse_model/graph.py",
        "adjacency = torch.maximum(adjacency, adjacency.T)",
        "(torch.maximum(adjacency.T, adjacency))",
    ): "the larger of two numbers is the same in either order",
    (
        "zse_model/hashing.py",
        "return (codes[..., None] >> torch.arange(8, dtype=torch.uint8, device=codes.device) & 1).flatten(1).bool()",
        "(torch.arange(8, device=codes.device))",
    ): "the shifted bits are int64 instead of uint8, and become bool",
    (
        "zse_model/vector_index.py",
        "near = products >= least - margin",
        "(products > least - margin)",
    ): "the margin is more than rounding can move a score",
    (
        "zse_model/code_index.py",
        "return np.sort(keys, axis=-1)",
        "(np.sort(keys))",
    ): "the last axis, the default, is axis -1",
    (
        "zse_model/code_index.py",
        "if 2 * depth > self._size:",
        "(3)",
    ): "a scan of most codes only costs more time than reading all",
    (
        "zse_model/fit/optimisation.py",
        "return torch.optim.AdamW(",
        "(torch.optim.AdamW([{'params': parameters, 'scale': config.backbone_lr if in_backbone else 1.0, "
        "'weight_decay': config.weight_decay if decays else 0.0} for (in_backbone, decays), parameters in "
        "groups.items()], fused=True))",
    ): "every step sets its own learning rate",
    (
        "zse_model/layers.py",
        "return x.unflatten(-1, (heads, -1)).transpose(-2, -3)",
        "(x.unflatten(-1, (heads, -1)).transpose(-3, -2))",
    ): "transpose is symmetric in its two axes",
    (
        "zse_model/fit/optimisation.py",
        "return config.lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))",
        "(2.0)",
    ): "no step is beyond the last",
    (
        "pipelines/workspace/images.py",
        'return np.frombuffer(b"".join(self._column(photos, "look")), np.uint8).reshape(len(photos), -1)',
        "(2)",
    ): "NumPy takes any negative length for the one that is left",
    (
        "pipelines/workspace/images.py",
        "for (_, own), table in zip(members.by_part(), self._tables(members, column), strict=True):",
        "(False)",
    ): "both have one element for each part of the members: strict is an assertion",
    (
        "pipelines/store/lease.py",
        "while time.monotonic() < end:",
        "(time.monotonic() <= end)",
    ): "the clock has nanoseconds",
}
"""(module, line, what replaces a part of it) -> why the mutant behaves as the module does. A mutant that is not listed
counts as survived."""
COMPARED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
COMPUTED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
SLACK = 30.0  # s, beside three times the tests' own time: a mutant may loop for ever


@dataclass(frozen=True)
class Mutant:
    """One fault."""

    module: str
    line: int
    start: int
    """First byte of the text that is replaced."""
    old: str
    new: str

    def applied(self, source: str) -> str:
        raw = source.encode()
        end = self.start + len(self.old.encode())
        return (raw[: self.start] + self.new.encode() + raw[end:]).decode()

    within: str
    """Digest of the module's text: a mutant of another text is another one."""

    @property
    def key(self) -> str:
        return f"{self.module}:{self.within}:{self.start}:{self.new}"


def mutants(module: str, source: str) -> list[Mutant]:
    """All mutants of a module, in the order of their place."""
    raw, within = source.encode(), digest(source)
    starts = [0]
    for line in raw.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for function in _functions(ast.parse(source)):
        for node, new in _replaced(function):
            start = starts[node.lineno - 1] + node.col_offset
            end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
            found.append(Mutant(module, node.lineno, start, raw[start:end].decode(), new, within))
    return sorted({one.key: one for one in found}.values(), key=lambda one: (one.start, one.new))


def digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def _functions(tree: ast.AST) -> Iterator[ast.stmt]:
    """The statements of all functions, without nested functions twice."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from node.body
        else:
            yield from _functions(node)


def _replaced(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """(node, text in its place) for every fault in a statement."""
    if isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        return
    if isinstance(node, ast.Expr | ast.AugAssign):
        yield node, "pass"
    if isinstance(node, ast.expr):
        for new in _faults(node):
            yield node, f"({ast.unparse(ast.fix_missing_locations(new))})"
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "args") and not isinstance(node, ast.Call):
            continue
        if isinstance(node, ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _replaced(child)


def _faults(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.Compare(left, [op], [right]) if type(op) in COMPARED:
            yield ast.Compare(left, [COMPARED[type(op)]()], [right])
        case ast.BinOp(left, op, right) if type(op) in COMPUTED:
            yield ast.BinOp(left, COMPUTED[type(op)](), right)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield operand
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield ast.Constant(value + 1)
        case ast.IfExp(test, body, orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.Subscript(value, ast.Slice(None, upper, None), context) if upper is not None:
            yield ast.Subscript(value, ast.Slice(upper, None, None), context)
        case ast.Subscript(value, ast.Slice(lower, None, None), context) if lower is not None:
            yield ast.Subscript(value, ast.Slice(None, lower, None), context)
        case ast.Call(function, [first, second, *rest], keywords) if ast.dump(first) != ast.dump(second):
            same = isinstance(function, ast.Name) and function.id in ("min", "max")  # in any order
            if not same and not isinstance(first, ast.Starred) and not isinstance(second, ast.Starred):
                yield ast.Call(function, [second, first, *rest], keywords)
        case ast.Call(function, arguments, [_, *keywords]):
            yield ast.Call(function, arguments, keywords)
        case ast.Call(ast.Attribute(value, "detach" | "clamp" | "relu" | "mean"), _, _):
            yield value


def drawn(count: int, seed: int, modules: Sequence[str]) -> list[Mutant]:
    """`count` mutants, equally many of each module as far as they go. Those of a module depend on its text alone."""
    left = []
    for module in modules:
        of_module = mutants(module, (ROOT / module).read_text())
        random.Random(f"{seed}/{module}").shuffle(of_module)
        left.append(of_module)
    out: list[Mutant] = []
    while len(out) < count and any(left):
        out += [of_module.pop() for of_module in left if of_module]
    return out[:count]


def tracked() -> list[str]:
    """The repository's files, without deleted ones."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    return [name for name in listed.decode().split("\0") if (ROOT / name).is_file()]


class Copy:
    """A copy of the repository, whose modules are changed one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in tracked():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)

    def tested(self, tests: Sequence[str], limit: float | None = None) -> tuple[str, float, str]:
        """(passed, failed or timeout; seconds; what pytest printed) of the tests on this copy."""
        options = "-m pytest -x -q --tb=short -p no:cacheprovider".split()
        command = [sys.executable, *options, "-m", "not ray and not cluster"]
        env = os.environ | {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        begun = time.monotonic()
        try:
            done = subprocess.run(
                [*command, *(f"tests/{test}" for test in tests)],
                cwd=self.folder,
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "timeout", time.monotonic() - begun, ""
        return "failed" if done.returncode else "passed", time.monotonic() - begun, done.stdout

    def planted(self, mutant: Mutant, tests: Sequence[str], limit: float) -> str:
        """`caught` or `survived`. A test that never ends has noticed the fault too."""
        file = self.folder / mutant.module
        source = file.read_text()
        file.write_text(mutant.applied(source))
        try:
            return "survived" if self.tested(tests, limit)[0] == "passed" else "caught"
        finally:
            file.write_text(source)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--module", action="append", help="only this module, as in zse_model/losses.py; repeatable")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("mutants"))
    asked = parser.parse_args()
    modules = asked.module or list(TARGETS)
    if unknown := sorted(set(modules) - set(TARGETS)):
        parser.error(f"unknown modules {unknown}. Known: {', '.join(TARGETS)}")
    asked.out.mkdir(parents=True, exist_ok=True)
    rows = run(drawn(asked.count, asked.seed, modules), asked.out / "mutants.jsonl", asked.workers)
    caught = sum(row["outcome"] == "caught" for row in rows)
    same = sum(row["outcome"] == "survived" and equivalent(row) is not None for row in rows)
    (asked.out / "survivors.md").write_text(survivors(rows))
    print(f"Result: {caught} of {len(rows)} mutants caught ({caught / len(rows):.1%}), {same} of the others equivalent")
    print(f"Next: read {asked.out / 'survivors.md'}")


def run(asked: Sequence[Mutant], log: Path, workers: int) -> list[dict[str, Any]]:
    """A row for each mutant. Rows in `log` are not made again, but survivors of tests that have changed."""
    known = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    tests = {name: digest(*((ROOT / "tests" / test).read_text() for test in of)) for name, of in TARGETS.items()}
    done = {row["key"]: row for row in known if row["outcome"] == "caught" or row["tests"] == tests.get(row["module"])}
    left = [one for one in asked if one.key not in done]
    copies: SimpleQueue[Copy] = SimpleQueue()
    lock = threading.Lock()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        for i in range(workers):
            copies.put(Copy(Path(folder) / str(i)))
        limits = dict(pool.map(lambda module: (module, _limit(module, copies)), sorted({m.module for m in left})))

        def one(mutant: Mutant) -> None:
            copy = copies.get()
            try:
                outcome = copy.planted(mutant, TARGETS[mutant.module], limits[mutant.module])
            finally:
                copies.put(copy)
            row = {"key": mutant.key, **asdict(mutant), "tests": tests[mutant.module], "outcome": outcome}
            with lock, log.open("a") as file:
                done[mutant.key] = row
                file.write(json.dumps(row) + "\n")
                print(
                    f"{sum(m.key in done for m in asked)}/{len(asked)} {outcome:8} {mutant.module}:{mutant.line}",
                    flush=True,
                )

        list(pool.map(one, left))
    return [done[one.key] for one in asked]


def _limit(module: str, copies: SimpleQueue[Copy]) -> float:
    """Seconds that a mutant of a module may take. Exits if the tests fail without a fault."""
    copy = copies.get()
    try:
        outcome, seconds, printed = copy.tested(TARGETS[module])
    finally:
        copies.put(copy)
    if outcome != "passed":
        sys.exit(f"{printed[-4000:]}\nThe tests of {module} fail without a mutant: {' '.join(TARGETS[module])}")
    return 3 * seconds + SLACK


def equivalent(row: dict[str, Any]) -> str | None:
    """Why a mutant behaves as the module does; None if nothing says so."""
    line = (ROOT / row["module"]).read_text().splitlines()[row["line"] - 1].strip()
    return EQUIVALENT.get((row["module"], line, row["new"]))


def survivors(rows: Sequence[dict[str, Any]]) -> str:
    """The mutants that no test noticed, as Markdown; equivalent ones at the end."""
    kept = [(row, equivalent(row)) for row in rows if row["outcome"] == "survived"]
    missed, same = [row for row, why in kept if why is None], [(row, why) for row, why in kept if why]
    blocks = [f"# {len(missed)} of {len(rows)} mutants survived\n", *map(_diff, missed)]
    if same:
        blocks += [f"# {len(same)} more are equivalent\n", *(f"{_diff(row)}\n{why}\n" for row, why in same)]
    return "\n".join(blocks)


def _diff(row: dict[str, Any]) -> str:
    return f"## {row['module']}:{row['line']}\n\n```diff\n-{row['old']}\n+{row['new']}\n```\n"


if __name__ == "__main__":
    main()
