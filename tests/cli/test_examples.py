"""Every verb stands in a group and has an example in its help, which the command line takes as it stands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pipelines.cli.app import app

ROOT: Any = typer.main.get_command(app)
GROUPS = {"Start here", "Stages", "Search", "Choose and watch", "Cluster", "Data"}
CHEAP = ("methods", "datasets list", "datasets show")
"""Examples that are run: they ask for nothing that has to be there."""


def verbs(command: Any = ROOT, name: str = "") -> Iterator[tuple[str, Any]]:
    """Their names as they are typed, and their commands."""
    below = getattr(command, "commands", None)
    if below is None:
        yield name, command
        return
    for word, verb in below.items():
        yield from verbs(verb, f"{name} {word}".strip())


VERBS = dict(verbs())


def examples(name: str) -> list[str]:
    """The commands that the help of a verb calls examples, without the words that set the environment."""
    found = re.findall(r"Example: `([^`]+)`", VERBS[name].help or "")
    return [re.sub(r"^([A-Z_]+=\S+ )+", "", example) for example in found]


def test_every_verb_stands_in_a_group() -> None:
    assert {verb.rich_help_panel for verb in ROOT.commands.values()} == GROUPS


@pytest.mark.parametrize("name", VERBS)
def test_every_example_is_one_of_its_verb(name: str) -> None:
    assert examples(name), f"zse {name} --help has no example"
    for example in examples(name):
        words = shlex.split(example)
        assert words[: 1 + len(name.split())] == ["zse", *name.split()]
        VERBS[name].make_context(name, words[1 + len(name.split()) :])  # raises UsageError


@pytest.mark.parametrize("name", CHEAP)
def test_cheap_examples_run(name: str) -> None:
    for example in examples(name):
        done = CliRunner().invoke(app, shlex.split(example)[1:], catch_exceptions=False)
        assert done.exit_code == 0 and done.stdout and "Next: zse" in done.stderr
