"""What the distribution says of itself: its dependencies, name, version and licence."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipelines.tracking.models import installed
from pipelines.tracking.store import TrackingError

ROOT = Path(__file__).parents[1]
SHIPPED, OURS = ("zse_model", "pipelines"), ("zse_model", "pipelines", "benchmarks", "tests")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = [Requirement(line) for lines in PROJECT["optional-dependencies"].values() for line in lines]
OPTIONAL = [
    Requirement(line) for extra in ("demo", "index", "serve") for line in PROJECT["optional-dependencies"][extra]
]
RUNTIME = [Requirement(line) for line in PROJECT["dependencies"]]


def names(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(one.name) for one in requirements}


@cache
def distributions() -> Mapping[str, list[str]]:
    """Top-level package -> the distributions that have it: a second of reading."""
    return packages_distributions()


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
    origins = distributions()
    packages = set(imported(folder)) - set(OURS) - sys.stdlib_module_names
    return sorted(p for p in packages if not declared & {canonicalize_name(d) for d in origins.get(p, [])})


@pytest.mark.parametrize("folder", OURS)
def test_what_is_imported_is_declared(folder: str) -> None:
    assert undeclared(folder, names(RUNTIME) | (names(OPTIONAL) if folder in SHIPPED else names(EXTRAS))) == []


def test_what_is_not_declared_is_found() -> None:
    assert undeclared("pipelines", names(RUNTIME + OPTIONAL) - {"pandas", "botocore"}) == ["botocore", "pandas"]


def distribution(folder: Path, name: str, version: str, package: str) -> str:
    """A folder of installed packages with one distribution."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "top_level.txt").write_text(f"{package}\n")
    return str(folder)


def test_the_distribution_of_this_code_is_no_stranger_of_its_old_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = distribution(tmp_path / "stranger", "zse", "1.4.0", "zse")
    before = distribution(tmp_path / "before", "zse", "0.1.0", "pipelines")
    now = distribution(tmp_path / "now", PROJECT["name"], PROJECT["version"], "pipelines")
    monkeypatch.setattr(sys, "path", [stranger, before, now])
    assert (installed().name, installed().version) == (PROJECT["name"], PROJECT["version"])
    monkeypatch.setattr(sys, "path", [stranger, before])
    assert (installed().name, installed().version) == ("zse", "0.1.0")
    monkeypatch.setattr(sys, "path", [stranger])
    with pytest.raises(TrackingError, match="zse-retrieval is not installed"):
        installed()


def test_what_is_shipped_says_its_licence() -> None:
    assert PROJECT["license"] == "Apache-2.0" and PROJECT["license-files"] == ["LICENSE", "NOTICE"]
    assert "END OF TERMS AND CONDITIONS" in (ROOT / "LICENSE").read_text()
    notice = (ROOT / "NOTICE").read_text()
    others = {p.name for p in (ROOT / "tests/infra/schemas").glob("*.gz")}
    others |= {p.stem for p in (ROOT / "pipelines").rglob("splits/*.json")}
    assert others and [name for name in others if name not in notice] == []


def test_data_of_the_packages_is_shipped() -> None:
    """The lists, experiments and templates that the code reads are in a wheel."""
    package_data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package in SHIPPED:
        folder = ROOT / package
        shipped = {file for pattern in package_data.get(package, []) for file in folder.glob(pattern)}
        files = {f for f in folder.rglob("*") if f.is_file() and f.suffix != ".py" and f.parent.name != "__pycache__"}
        assert files - shipped == set()


def test_the_version_is_the_same_everywhere() -> None:
    version = PROJECT["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version} - " in (ROOT / "CHANGELOG.md").read_text()
