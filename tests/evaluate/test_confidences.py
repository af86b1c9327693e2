"""Confidences through a whole experiment: fitted at the end of a training, checked in its report, told by MLflow."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.run import run
from pipelines.workspace.reports import Report
from tests.conftest import tiny
from zse_model.checkpoint import load_checkpoint
from zse_model.synthetic import CATEGORIES

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

# A class has more sketches, 9, than a fit asks for.
MANY = {
    "categories": list(CATEGORIES[:26]),
    "split": list(CATEGORIES[:4]),
    "pseudo_unseen": 0.5,
    "instances": 3,
    "sketches": 3,
}


def test_a_training_with_ten_pseudo_unseen_classes_is_confident(tmp_path: Path) -> None:
    out = run(tiny(dataset=MANY, train={"steps": 60, "checks": 1}, tracking={"enabled": True}), str(tmp_path))
    (training,) = out.checkpoints.values()
    method = load_checkpoint(training.url).method
    confidence = method.confidence_of("ret")
    assert confidence is not None and confidence.b > 0
    report = out.reports["global"]
    (row,) = report.table(Report.CONFIDENCE)
    assert (row["mode"], row["setting"]) == ("ret", report.settings[0])
    assert 0 <= row["ece"] <= 1 and 0 <= row["refused"] <= 1
    assert sum(bin["photos"] for bin in row["bins"]) == 36 * 12  # the whole gallery is shorter than a first page
    assert report.has(f"{Report.CHARTS}/{Report.RELIABILITY}")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name(report.settings[0])
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id], "tags.`zse.kind` = 'evaluation'")
    assert found.data.metrics["confidence/ret/ece"] == pytest.approx(row["ece"])
    assert Report.RELIABILITY in {Path(a.path).name for a in client.list_artifacts(found.info.run_id, Report.CHARTS)}


def test_a_training_with_fewer_says_that_it_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(tiny(train={"steps": 2, "checks": 1}), str(tmp_path))
    (training,) = out.checkpoints.values()
    assert load_checkpoint(training.url).method.confidence_of("ret") is None
    said = capsys.readouterr()
    assert "Answers of this model have no confidence" in said.out + said.err
    report = out.reports["global"]
    assert report.table(Report.CONFIDENCE) == []
    assert not report.has(f"{Report.CHARTS}/{Report.RELIABILITY}")
