"""What a person sees: MLflow's pages in a real browser, on a real server."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.run import run
from pipelines.tracking import Store, registry
from tests.conftest import tiny
from tests.helpers.servers import mlflow_server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(400),
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.skipif(
        CHROMIUM is None, reason="what MLflow's pages show is seen by a browser only: apt-get install chromium"
    ),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, MlflowClient]]:
    """Two models in an MLflow server, one of them the champion."""
    workspace = tmp_path_factory.mktemp("ui")
    with mlflow_server(f"sqlite:///{workspace}/mlflow.db", str(workspace / "artifacts")) as url:
        quick = {"instance_level": False}
        for seed in (0, 1):
            config = tiny(tracking={"enabled": True, "uri": url}, train={"seed": seed}, evaluation=quick)
            out = run(config, str(workspace))
        store = Store.at(str(workspace), url)
        registry.set_champion(store, registry.register(store, out.checkpoints["global"].url, "zse"))
        yield url, store.client


def seen(url: str, *texts: str, folder: Path) -> None:
    """These texts stand on the page once it is drawn."""
    for _ in range(3):  # a cold server may need longer than the browser's patience
        page = subprocess.run(
            [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}"]
            + ["--window-size=2400,1000", "--virtual-time-budget=40000", "--dump-dom", url],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        ).stdout
        missing = [text for text in texts if text not in page]
        if not missing:
            return
    raise AssertionError(f"{url} does not show {missing}")


def test_an_experiment_opens_on_its_models_best_first(server: tuple[str, MlflowClient], tmp_path: Path) -> None:
    url, client = server
    (experiment,) = [e for e in client.search_experiments() if e.name.startswith("synthetic")]
    columns = ("plain/ret/mAP_all", "plain/ret/P_100", "cost/ret/ms_query_1000", "zse.method")
    runs = client.search_runs([experiment.experiment_id], "tags.`zse.kind` = 'evaluation'")
    names = [str(run.info.run_name) for run in runs]
    assert len(names) == 2
    link = f"#/experiments/{experiment.experiment_id}/runs?viewStateShareKey=selection"
    seen(f"{url}/#/experiments/{experiment.experiment_id}", "The models of this setting", link, folder=tmp_path)
    seen(f"{url}/{link}", *names, *columns, folder=tmp_path)


def test_an_evaluation_leads_to_its_model_and_pictures(server: tuple[str, MlflowClient], tmp_path: Path) -> None:
    url, client = server
    (experiment,) = [e for e in client.search_experiments() if e.name.startswith("synthetic")]
    run, *_ = client.search_runs([experiment.experiment_id], "tags.`zse.kind` = 'evaluation'", max_results=1)
    page = f"{url}/#/experiments/{experiment.experiment_id}/runs/{run.info.run_id}"
    seen(page, run.data.tags["zse.model"], "zse.command", "zse.checkpoint_hash", folder=tmp_path)
    seen(f"{page}/artifacts", "sheets", "charts", "per_class.json", "requirements.txt", folder=tmp_path)
    seen(f"{url}/#/models/zse", "champion", "Version 1", folder=tmp_path)
