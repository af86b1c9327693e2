"""Every package that the code imports is declared in pyproject.toml, and constraints.txt pins an allowed version."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SHIPPED, OURS = ("zse_model", "pipelines"), ("zse_model", "pipelines", "benchmarks", "tests")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = [Requirement(line) for lines in PROJECT["optional-dependencies"].values() for line in lines]
RUNTIME = [Requirement(line) for line in PROJECT["dependencies"]]


def names(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(one.name) for one in requirements}


def imported(folder: str) -> Iterator[str]:
    """Top-level packages, those of imports inside functions included."""
    for file in (ROOT / folder).rglob("*.py"):
        if "kept" in file.relative_to(ROOT).parts:
            continue  # what earlier code wrote
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.partition(".")[0]


def undeclared(folder: str, declared: set[str]) -> list[str]:
    """Packages of which no declared distribution is the origin."""
    origins = packages_distributions()
    packages = set(imported(folder)) - set(OURS) - sys.stdlib_module_names
    return sorted(p for p in packages if not declared & {canonicalize_name(d) for d in origins.get(p, [])})


@pytest.mark.parametrize("folder", OURS)
def test_what_is_imported_is_declared(folder: str) -> None:
    assert undeclared(folder, names(RUNTIME) | (set() if folder in SHIPPED else names(EXTRAS))) == []


def test_what_is_not_declared_is_found() -> None:
    assert undeclared("pipelines", names(RUNTIME) - {"pandas", "botocore"}) == ["botocore", "pandas"]


def test_pins_are_versions_that_are_allowed() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    versions = {str(one): pinned.get(canonicalize_name(one.name)) for one in RUNTIME + EXTRAS}
    assert [one for one, version in versions.items() if not version or version not in Requirement(one).specifier] == []
