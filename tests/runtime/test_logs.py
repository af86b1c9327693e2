"""What is said, as lines for machines."""

from __future__ import annotations

import json
import logging

import pytest

from pipelines.runtime import logs
from pipelines.runtime.progress import Meter, say


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
