"""What `make mutants` plants: faults in functions, and nothing else."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests import mutants
from tests.mutants import ROOT, TARGETS, drawn, run

SOURCE = '''"""Doc."""
LIMIT = 3

def best(values: list[int], at: int = 2) -> int:
    """Doc."""
    if not values:
        raise ValueError(f"{len(values)} values, at least {1 + 1}")
    values.sort(reverse=True)
    return divmod(values[0], at) if at > LIMIT else -max(values[1], at)
'''


def test_mutants_change_logic_and_no_default_text_or_constant_of_the_module() -> None:
    found = mutants.mutants("m.py", SOURCE)
    assert {(one.old, one.new) for one in found} == {
        ("not values", "(values)"),
        ("values.sort(reverse=True)", "pass"),
        ("values.sort(reverse=True)", "(values.sort())"),
        ("True", "(False)"),
        ("divmod(values[0], at)", "(divmod(at, values[0]))"),
        (
            "divmod(values[0], at) if at > LIMIT else -max(values[1], at)",
            "(-max(values[1], at) if at > LIMIT else divmod(values[0], at))",
        ),
        ("at > LIMIT", "(at >= LIMIT)"),
        ("0", "(1)"),
        ("-max(values[1], at)", "(max(values[1], at))"),
        ("1", "(2)"),
    }
    for one in found:
        ast.parse(one.applied(SOURCE))


def test_equally_many_mutants_are_drawn_of_each_module_by_the_seed() -> None:
    modules = [f"zse_model/{name}.py" for name in ("losses", "graph", "fit/state")]
    first = drawn(30, 1, modules)
    assert first == drawn(30, 1, modules) != drawn(30, 2, modules)
    others = [one for one in first if one.module != modules[0]]
    assert others == drawn(20, 1, modules[1:]), "a change of one module draws no others anew"
    assert [sum(one.module == module for one in first) for module in modules] == [10, 10, 10]
    assert all((ROOT / module).is_file() for module in TARGETS)
    assert all((ROOT / "tests" / test).is_file() for tests in TARGETS.values() for test in tests)


def test_a_mutant_is_caught_by_a_test_that_fails_and_survives_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a small repository. A second run makes no row again, but survivors after the tests have changed."""
    (tmp_path / "code_of").mkdir()
    (tmp_path / "code_of" / "limits.py").write_text(
        "def small(x):\n    return x < 3\n\ndef unused(x):\n    return not x\n"
    )
    (tmp_path / "tests").mkdir()
    test = tmp_path / "tests" / "test_limits.py"
    test.write_text("from code_of.limits import small\n\ndef test_limit():\n    assert small(2) and not small(3)\n")
    names = ["code_of/limits.py", "tests/test_limits.py"]
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    monkeypatch.setattr(mutants, "TARGETS", {names[0]: ("test_limits.py",)})
    monkeypatch.setattr(mutants, "tracked", lambda: names)
    asked = drawn(100, 0, names[:1])
    rows = run(asked, tmp_path / "log.jsonl", 2)
    assert {(row["line"], row["new"]): row["outcome"] for row in rows} == {
        (2, "(x <= 3)"): "caught",
        (2, "(4)"): "caught",
        (5, "(x)"): "survived",
    }
    assert "# 1 of 3 mutants survived" in mutants.survivors(rows)
    capsys.readouterr()
    assert run(asked, tmp_path / "log.jsonl", 2) == rows and capsys.readouterr().out == ""
    test.write_text(
        test.read_text() + "\ndef test_more():\n    from code_of.limits import unused\n    assert not unused(3)\n"
    )
    monkeypatch.setattr(mutants, "EQUIVALENT", {(names[0], "return not x", "(x)"): "nothing calls it"})
    report = mutants.survivors(rows)
    assert report.startswith("# 0 of 3 mutants survived") and "# 1 more are equivalent" in report
    assert report.endswith("```\n\nnothing calls it\n")
    rows = run(asked, tmp_path / "log.jsonl", 2)
    assert {row["outcome"] for row in rows} == {"caught"} and len(capsys.readouterr().out.splitlines()) == 1


def test_every_equivalent_mutant_is_one_of_its_module() -> None:
    for module, line, new in mutants.EQUIVALENT:
        source = (ROOT / module).read_text()
        made = {(source.splitlines()[one.line - 1].strip(), one.new) for one in mutants.mutants(module, source)}
        assert (line, new) in made, f"{module} has no such line any more: {line}"
