"""The next commands that verbs print can be pasted: a shell reads back the given values."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from pipelines.cli.app import app
from pipelines.operate.status_lines import Status, next_command
from pipelines.run import STAGES, Outputs
from pipelines.runtime.progress import say, show
from pipelines.store import storage
from pipelines.workspace.images import Images
from pipelines.workspace.pairs import Pairs
from pipelines.workspace.training import Training

AWKWARD = "my #1 'q' $HOME [x] :cat: é"
SETTINGS = ["dataset.source=/data/pics #2", "dataset.split=[bee, it's, $x]", "backbone.weights=installed"]
GIVEN = [word for setting in SETTINGS for word in ("--set", setting)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder whose outputs have awkward names; no stage does any work."""
    monkeypatch.chdir(tmp_path)
    made = Outputs(Images("i", {}), Pairs("p", {}), {"global": Training(AWKWARD, {})})
    monkeypatch.setattr("pipelines.run.run", lambda *_, **__: made)
    folder = tmp_path / AWKWARD
    folder.mkdir()
    storage.write_json(str(folder / "checkpoint.json"), {"method": "zse_sbir"})
    return tmp_path


def following(*arguments: str) -> list[list[str]]:
    """The words of each next command that a verb prints."""
    ended = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    lines = ended.stderr.partition("\nNext: ")[2].splitlines()
    return [shlex.split(line) for line in lines]


def has(words: list[str], *expected: str) -> bool:
    """Whether the words contain `expected`, side by side."""
    return any(tuple(words[i : i + len(expected)]) == expected for i in range(len(words)))


@pytest.mark.parametrize("verb", STAGES[:-1])
def test_a_stage_names_the_next_one_with_all_that_was_given(place: Path, verb: str) -> None:
    (words,) = following(verb, "-e", "folder+global", "-w", AWKWARD, *GIVEN)
    assert words[:2] == ["zse", STAGES[STAGES.index(verb) + 1]]
    assert has(words, "--workspace", AWKWARD) and has(words, "--experiment", "folder+global") and has(words, *GIVEN)


def test_what_is_overfitted_stays_so(place: Path) -> None:
    (words,) = following("train", "-e", "folder+global", "-w", AWKWARD, *GIVEN, "--overfit")
    assert has(words, "--set", "train.overfit=true")


def test_what_follows_a_search_an_explanation_and_an_index(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.search.search.search", lambda *_, **__: [])
    monkeypatch.setattr("pipelines.search.explain.explain", lambda *_, **__: [])
    monkeypatch.setattr("pipelines.encode.gallery.gallery_index", lambda *_: AWKWARD)
    inputs = ["--gallery", AWKWARD, "--checkpoint", AWKWARD, "--workspace", AWKWARD]
    (words,) = following("search", "--sketch", AWKWARD, *inputs, "--top", "30", "--rerank-by", AWKWARD)
    assert has(words, "--sketch", AWKWARD) and has(words, *inputs) and has(words, "--rerank-by", AWKWARD)
    top, depth = (int(words[words.index(option) + 1]) for option in ("--top", "--depth"))
    assert depth >= top > 30, "what is asked for next is allowed"
    (words,) = following("search", "--sketch", AWKWARD, *inputs, "--mode", "rerank-200", "--top", "20")
    assert has(
        words,
        "--mode",
        "rerank-200",
    ), "the same ranking, and more of it"
    (words,) = following("search", "--sketch", AWKWARD, *inputs, "--mode", "ret-diffused-500", "--top", "20")
    assert has(words, "--mode", "ret-diffused-500")
    (words,) = following("explain", "--sketch", AWKWARD, *inputs, "--out", "o ut")
    assert has(words, "--sketch", AWKWARD) and has(words, *inputs) and has(words, "--out", "o ut")
    (words,) = following("explain", "--sketch", AWKWARD, "--photo", AWKWARD, *inputs[2:])
    assert has(words, "--photo", AWKWARD) and has(words, *inputs[2:])
    (words,) = following("embed", *inputs)
    assert words[:4] == ["zse", "search", "--sketch", "FILE"] and has(words, *inputs)


def test_what_follows_a_search_of_an_index(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = SimpleNamespace(id="a", score=0.5, confidence=None, metadata={}, repeats=())
    monkeypatch.setattr("pipelines.search.searcher.Searcher.open", lambda *_, **__: None)
    monkeypatch.setattr("pipelines.search.search.search_index", lambda *_, **__: [one])
    monkeypatch.setattr("pipelines.cli.use.checkpoint_folder", lambda *_: AWKWARD)
    inputs = ["--index", AWKWARD, "--model", AWKWARD, "--where", "price < 3", "--mode", "asym-64"]
    again = ["--rerank", "500", "--rerank-mode", "late"]
    (words,) = following("search", "--sketch", AWKWARD, *inputs, *again)
    assert has(words, *inputs[:4]) and has(words, *inputs[4:]) and has(words, *again) and has(words, "--page", "2")


def test_what_follows_a_comparison_and_a_promotion(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.judge.compare.compare_all", lambda *_, **__: [])
    monkeypatch.setattr("pipelines.judge.reevaluate.how_to_evaluate", lambda _: None)
    summary = (SimpleNamespace(status="fine"), "folder", True)
    monkeypatch.setattr("pipelines.judge.reevaluate.reevaluate", lambda *_, **__: summary)
    monkeypatch.setattr("pipelines.judge.summary.markdown", lambda _: "")
    (words,) = following("compare", "first", AWKWARD, "-w", AWKWARD)
    assert words[:2] == ["zse", "explain"] and has(words, "--checkpoint", AWKWARD, "--workspace", AWKWARD)
    (words,) = following("compare", "first", "0" * 32, "-w", AWKWARD)
    assert has(words, "--checkpoint", "CHECKPOINT"), "the run of an evaluation is no checkpoint"
    storage.write_json(str(place / AWKWARD / "checkpoint.json"), {"method": "global"})
    (words,) = following("compare", "first", AWKWARD, "-w", AWKWARD)
    assert words[:2] == ["zse", "search"] and has(words, "--checkpoint", AWKWARD), "it has no explanation"
    given = ["--catalog", AWKWARD, "--models", "zse@champion", "--workspace", AWKWARD, *GIVEN, "--promote"]
    (words,) = following("reevaluate", *given, "--tolerance", "0.05")
    assert words[:2] == ["zse", "watch"] and has(words, *given) and has(words, "--tolerance", "0.05")


def test_what_follows_a_look(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.operate.doctor.examine", lambda *_: [])
    monkeypatch.setattr("pipelines.datasets.subset.write_subset", lambda *_: 1)
    monkeypatch.setattr("pipelines.judge.standings.report", lambda *_, **__: None)
    (words,) = following("doctor", "-e", "folder+global", "-w", AWKWARD, *GIVEN)
    assert words[:2] == ["zse", "run"] and has(words, "--workspace", AWKWARD) and has(words, *GIVEN)
    assert following("datasets", "list") == [
        ["zse", "datasets", "show", "NAME"],
        ["zse", "datasets", "doctor", "FOLDER"],
    ]
    assert following("datasets", "subset", "x", "--source", "y", "-o", "o ut") == [
        ["zse", "datasets", "doctor", "o ut"]
    ]
    (words,) = following("report", "-w", AWKWARD)
    assert has(words, "--workspace", AWKWARD)
    (words,) = following("status", "-w", AWKWARD)
    assert words[:2] == ["zse", "run"] and words[-1] == AWKWARD


def test_a_training_is_taken_up_by_its_own_command() -> None:
    states: dict[str, Any] = {"ingest": "done", "shard": "done", "train": "half done", "embed": "missing"}
    fields: dict[str, Any] = dict.fromkeys(Status.__dataclass_fields__)
    command = shlex.join(["zse", "train", "-e", "a b.yaml", "--overfit", "--set", "name=zse train --overfit"])

    def then(train: str, command: str | None) -> list[str]:
        stages = states | {"train": train, "evaluate": "missing"}
        status = Status(**fields | {"name": "n", "folder": "f", "stages": stages, "command": command})
        return shlex.split(next_command(status, AWKWARD))

    words = shlex.split(command)
    assert then("half done", command) == [*words, "--workspace", AWKWARD]
    assert then("half done", f"{command} -w w") == [*words, "-w", "w"]
    expected = ["zse", "evaluate", "-e", "a b.yaml", "--set", "train.overfit=true", "--set", "name=zse train --overfit"]
    assert then("done", command) == [*expected, "--workspace", AWKWARD]
    for unknown in (None, "", "zse", "zse 'cut", "pytest x y"):
        assert then("half done", unknown) == ["zse", "run", "--experiment", "NAME", "--workspace", AWKWARD]


def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    say(f"Result: {AWKWARD}")
    table = Table()
    table.add_column("[old]")
    table.add_row(AWKWARD)
    table.add_row("[/x]")
    show(table)
    show(AWKWARD)
    said = capsys.readouterr()
    assert AWKWARD in said.err and said.out.count(AWKWARD) == 2 and "[old]" in said.out and "[/x]" in said.out
