"""A re-evaluation asks first whether a report exists: then it fetches no weights and reads no report."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import mlflow.artifacts
import pytest

from benchmarks import planning
from pipelines.evaluate import stage
from pipelines.ingest import stage as ingesting
from pipelines.judge import compare, reevaluate, rules
from pipelines.judge.compare import Side
from pipelines.tracking import history
from pipelines.workspace.reports import Report
from tests.helpers.reports import measured
from zse_model.checkpoint import WEIGHTS


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four days of three models; the last day has no report."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for name, value in {"RUNS": 12, "METRICS": 2, "DAYS": 4, "QUERIES": 60}.items():
        monkeypatch.setattr(planning, name, value)
    monkeypatch.setattr(reevaluate, "ingest", reevaluate.ingest)  # `fill` replaces it
    planning.fill(tmp_path)
    return tmp_path


def run(root: Path) -> tuple[Any, str, bool]:
    names, config = planning.NAMES, reevaluate.how_to_evaluate([])
    return reevaluate.reevaluate(str(root / "datasets"), names, str(root / "work"), config)


def test_what_exists_fetches_no_weights_and_is_read_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    fetch = mlflow.artifacts.download_artifacts

    def watched(source: str, **given: Any) -> str:
        fetched.append(source.rpartition("/")[2])
        return fetch(source, **given)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("every report exists")

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", watched)
    monkeypatch.setattr(reevaluate, "evaluate_images", never)
    listed: list[str] = []
    listing = ingesting.listing
    monkeypatch.setattr(reevaluate, "listing", lambda config: listed.append(config.dataset.name) or listing(config))
    shutil.move(root / "datasets" / "day-003", root / "day-003")
    monkeypatch.setattr(history, "log_drift", never)  # MLflow has it
    first, folder, new = run(root)
    assert new and first.status == "fine" and len(first.lines) == 9 and all(line.values for line in first.lines)
    assert sorted(listed) == ["day-000", "day-001", "day-002"]
    assert {*fetched} == {"manifest.json", "checkpoint.json"}
    monkeypatch.setattr(Report, "rows", never)
    again, same, new = run(root)
    assert not new and same == folder and again.as_json() == first.as_json()

    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", watched)
    shutil.move(root / "day-003", root / "datasets" / "day-003")
    made: list[str] = []

    def missing(_: object, __: str, ___: object, training: Any) -> None:
        assert (Path(training.url) / WEIGHTS).exists()
        made.append(training.digest)
        raise ValueError("not evaluated here")

    monkeypatch.setattr(reevaluate, "evaluate_images", missing)
    fetched.clear()
    summary, _, new = run(root)
    assert new and summary.status == "partial" and len({*made}) == len(made) == 3
    assert fetched.count("checkpoint") == 3, "each model once, for the report that is missing"


def test_a_rule_resamples_the_newest_version_of_what_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resampled: list[str] = []
    difference = compare.difference

    def counted(ours: Any, theirs: Any, key: str, their_key: str) -> Any:
        resampled.append(key)
        return difference(ours, theirs, key, their_key)

    monkeypatch.setattr(compare, "difference", counted)
    sides = [[s for i in range(3) for s in measured(tmp_path / f"{i}", name, mean, mean)] for name, mean in SIDES]
    rule = rules.Paired(setting="shop-selection", metric="mAP_all")
    decision = rules.decide(rules.Rules(better=(rule,)), *sides)
    assert decision.promoted and resampled == ["shop-selection.01234567/plain/ret/mAP_all"]


SIDES = (("old", 0.5), ("new model", 0.6))


def test_a_report_that_exists_is_found_before_the_checkpoint_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Known:
        checkpoint, name, about = str(tmp_path / "gone"), "a", {}

    side: Side = measured(tmp_path, "a", 0.5, 0.5)[0]
    monkeypatch.setattr(stage.Report, "find", lambda *_: side.report)
    config: Any = reevaluate.how_to_evaluate([])
    known: Any = Known()
    split: Any = type("Split", (), {"digest": "s"})
    assert stage.evaluate(config, str(tmp_path), known, known, "global", split) is side.report
