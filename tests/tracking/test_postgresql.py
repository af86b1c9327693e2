"""MLflow on PostgreSQL with its artifacts in a bucket: what a team runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.judge.promote import promote
from pipelines.judge.reevaluate import how_to_evaluate, reevaluate
from pipelines.judge.rules import Paired, Rules
from pipelines.judge.standings import report
from pipelines.run import run
from pipelines.store import storage
from pipelines.tracking import TrackingError, checkpoint_of
from tests.conftest import tiny
from tests.helpers.pictures import write
from tests.helpers.servers import INITDB, postgresql

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        INITDB is None,
        reason="SQLite is tested everywhere, MLflow on PostgreSQL needs a server: apt-get install postgresql",
    ),
]


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgresql() as uri:
        yield uri


def test_training_promotion_and_reevaluation(
    database: str, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    workspace, client = f"{s3}/postgresql", MlflowClient(database)
    settings = {"tracking": {"enabled": True}, "evaluation": {"classes": "pseudo_unseen"}}
    outs = [run(tiny(**settings, train={"seed": seed}), workspace) for seed in (0, 1)]
    rules = Rules(better=(Paired(setting="*-selection", metric="mAP_all", floor=0.5),))
    assert promote(outs[0].checkpoints["global"].url, "zse", rules, workspace, few_classes=True).promoted
    second = promote(outs[1].checkpoints["global"].url, "zse", rules, workspace, few_classes=True)
    names = ["zse@champion", "zse@former" if second.promoted else "zse@challenger"]

    write(tmp_path / "datasets" / "shop")
    summary, folder, new = reevaluate(str(tmp_path / "datasets"), names, workspace, how_to_evaluate([]))
    assert new and summary.status == "fine" and [line.evaluated for line in summary.lines] == [True, True]
    summary, again, new = reevaluate(str(tmp_path / "datasets"), names, workspace, how_to_evaluate([]))
    assert not new and again == folder and not any(line.evaluated for line in summary.lines)
    assert storage.names(folder) == {"summary.json", "summary.md"}
    assert report(workspace, str(tmp_path / "report.html")) == (4, 8)

    experiments = client.search_experiments()
    assert {
        e.artifact_location.startswith(f"{workspace}/mlartifacts/") for e in experiments if e.name != "Default"
    } == {True}
    storage.remove_folder(outs[0].checkpoints["global"].url)  # the registry's own copy is in the bucket
    copy = checkpoint_of("models:/zse/1", workspace)
    assert copy.startswith(f"{workspace}/checkpoints/registered-")
    with pytest.raises(TrackingError, match="nobody"):
        checkpoint_of("models:/zse@nobody", workspace)
