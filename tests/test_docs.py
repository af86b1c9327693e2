"""What the docs list is what the code declares."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.store.urls import ARCHIVES
from tests.helpers.kept import SAMPLES
from zse_model.methods import METHODS
from zse_model.modes import RET
from zse_model.transforms import ENDINGS

DOCS = Path(__file__).parents[1] / "docs"


def table(document: str, first: str) -> list[str]:
    """The rows of the table whose first column is called so."""
    lines = iter((DOCS / document).read_text().splitlines())
    next(line for line in lines if line.startswith(f"| {first} |"))
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(line)
    return rows[1:]


def test_the_endings_of_pictures_and_archives_are_those_that_are_read() -> None:
    text = " ".join((DOCS / "datasets.md").read_text().replace("`", " ").replace(")", " ").split())
    assert [ending for ending in (*ENDINGS, *ARCHIVES) if f" {ending} " not in f" {text} "] == []


def test_the_retrieval_modes_are_those_that_methods_declare() -> None:
    everyone = f"| all | `{RET.name}` | {RET.score} | {RET.cost} |"
    declared = [
        f"| `{name}` | `{mode.name}` | {mode.score} | {mode.cost} |"
        for name, method in METHODS.items()
        for mode in method.MODES
        if mode is not RET
    ]
    assert table("scoring.md", "method") == [everyone, *declared]


@pytest.mark.parametrize(
    ("document", "checkpoint"), [("library.md", "kept-maps-crossatnet"), ("explaining.md", "kept-tokens-zse_sbir")]
)
def test_the_code_of_a_page_runs(document: str, checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder,) = (SAMPLES / "workspace" / "checkpoints").glob(f"{checkpoint}-*")
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / document).read_text(), re.DOTALL)
    assert '"workspace/checkpoints/..."' in code
    known: dict[str, Any] = {}
    exec(code.replace("workspace/checkpoints/...", str(folder)), known)
    if document == "library.md":
        assert known["best"].indices.shape == (36, 5) and "chance: " in capsys.readouterr().out
        assert known["result"].answered == 36
    else:
        assert known["found"].mode == "rn"
