"""Every verb is in a group, and its help has an example that the command line accepts."""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pipelines.cli.app import app
from tests.datasets.test_adapters import SKETCHY
from tests.helpers.command import invoked
from tests.helpers.kept import kept_samples
from tests.helpers.pictures import build, picture
from zse_model.synthetic import draw_photo, draw_sketch

ROOT: Any = typer.main.get_command(app)
GROUPS = {"Start here", "Stages", "Search", "Choose and watch", "Cluster", "Data"}
RUN = (
    *("methods", "datasets list", "datasets show", "datasets doctor", "embed", "index", "search", "explain"),
    *("compare", "promote", "report", "status"),
)
"""Verbs whose examples run here in seconds, on the samples of tests/kept. Other tests run the other verbs."""
STAND_INS = {
    "s3://bucket/photos": "photos",
    "s3://bucket/photos.index": "photos.index",
    "s3://bucket/zse": "workspace",
    "s3://bucket/report.html": "report.html",
    "s3://bucket/Sketchy": "Sketchy",
    "workspace/checkpoints/...": "workspace/checkpoints/kept-maps-zse_sbir-6d415b18",
    "2,3": "1,0",  # a patch in the grid of the sample's checkpoint
    "models:/zse@challenger": "workspace/checkpoints/kept-maps-crossatnet-d2dab78c",
    "folder+zse_sbir": "kept-maps-zse_sbir",
}


def verbs(command: Any = ROOT, name: str = "") -> Iterator[tuple[str, Any]]:
    """(name as typed, command) of every verb."""
    below = getattr(command, "commands", None)
    if below is None:
        yield name, command
        return
    for word, verb in below.items():
        yield from verbs(verb, f"{name} {word}".strip())


VERBS = dict(verbs())


def examples(name: str) -> list[str]:
    """The example commands in the help of a verb, without environment variables."""
    found = re.findall(r"Example: `([^`]+)`", VERBS[name].help or "")
    return [re.sub(r"^([A-Z_]+=\S+ )+", "", example) for example in found]


@pytest.fixture(scope="module")
def place() -> Iterator[None]:
    """A working directory with what the examples name."""
    with kept_samples() as samples, tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        home = Path(folder)
        (home / "workspace").symlink_to(samples / "workspace")
        shutil.copytree(samples / "gallery", home / "photos")
        (home / "cat.png").write_bytes(picture(draw_sketch("fish", 0, size=64)))
        (home / "cat.jpg").write_bytes(picture(draw_photo("fish", 0, size=64)))
        build(home / "Sketchy", SKETCHY)
        patch.setenv("HOME", folder)
        patch.chdir(folder)
        invoked("index", "photos", "--index", "photos.index", "--model", "models:/zse@champion")
        yield


def test_every_verb_stands_in_a_group() -> None:
    assert {verb.rich_help_panel for verb in ROOT.commands.values()} == GROUPS


@pytest.mark.parametrize("name", VERBS)
def test_every_example_is_one_of_its_verb(name: str) -> None:
    assert examples(name), f"zse {name} --help has no example"
    for example in examples(name):
        words = shlex.split(example)
        assert words[: 1 + len(name.split())] == ["zse", *name.split()]
        VERBS[name].make_context(name, words[1 + len(name.split()) :])  # raises UsageError


@pytest.mark.parametrize("name", RUN)
def test_an_example_runs(name: str, place: None) -> None:
    (example,) = examples(name)
    words = [STAND_INS.get(word, word) for word in shlex.split(example)[1:]]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0 and "Next: zse" in done.stderr, done.output
