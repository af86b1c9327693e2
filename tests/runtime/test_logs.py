"""What is said, as lines for machines."""

from __future__ import annotations

import json
import logging
import sys

import pytest
from rich.progress import TextColumn

from pipelines.runtime import logs
from pipelines.runtime.progress import Meter, say


def test_what_a_library_logs_shows_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    before, library = logging.getLogRecordFactory(), logging.getLogger("library")
    handler = logging.StreamHandler(sys.stderr)
    library.addHandler(handler)
    try:
        logs.capture()
        library.warning("asked %s", "http://me:hunter2@h/a")
        try:
            raise ValueError("http://me:hunter2@h/b")
        except ValueError:
            library.exception("failed")
    finally:
        logging.setLogRecordFactory(before)
        library.removeHandler(handler)
    said = capsys.readouterr().err
    assert "asked http://***@h/a" in said and "ValueError: http://***@h/b" in said and "hunter2" not in said


def test_a_bar_shows_names_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    meter = Meter("Read [old] a", total=2, unit="[files]")
    meter.update(1, "[red]cat http://me:hunter2@h/a")
    assert meter.bar is not None
    (task,) = meter.bar.tasks
    texts = [column.render(task) for column in meter.bar.columns if isinstance(column, TextColumn)]
    assert [text.plain for text in texts] == ["Read [old] a", "1/2 [files]", "[red]cat http://***@h/a"]


def test_a_line_says_where_it_is_from_and_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.log("training", {"step": 1})
    say("for people")
    assert capsys.readouterr().err == "for people\n", "as it was"

    monkeypatch.setenv("ZSE_LOG", "json")
    logs._logger.cache_clear()
    with logs.stage("train"):
        logs.about(run="tiny-0123abcd", step=7)
        logs.log("training", {"train/loss": 0.5})
        with logs.stage("score"), Meter("Score", 2, "pairs") as meter:
            meter.update(2)
        say("http://me:hunter2@h is away\nx@y", logging.WARNING, where="http://me:hunter2@h")
    say("the end")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    for line in lines:
        assert line.pop("time").endswith("+00:00") and line.pop("node")
    train = {"stage": "train", "run": "tiny-0123abcd", "step": 7}
    assert lines[0] == {"level": "info", **train, "message": "training", "train/loss": 0.5}
    assert lines[1]["stage"] == "score" and lines[1]["done"] == 2 and "run" not in lines[1]
    assert lines[2] == {
        "level": "warning",
        **train,
        "message": "http://***@h is away\nx@y",
        "where": "http://***@h",
    }
    assert lines[3] == {"level": "info", "message": "the end"}
    logs._logger.cache_clear()

    monkeypatch.setenv("ZSE_LOG", "xml")
    with pytest.raises(ValueError, match="ZSE_LOG is 'xml'. Allowed: text, json"):
        logs.capture()
