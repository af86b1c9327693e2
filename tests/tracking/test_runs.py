"""A real MLflow with SQLite: what a run leaves there, once, and also when the server was away."""

from __future__ import annotations

import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipelines.operate import preflight
from pipelines.operate.status import statuses
from pipelines.run import evaluate_checkpoint, run
from pipelines.runtime.redaction import shown
from pipelines.store import storage
from pipelines.tracking import deliver_evaluation, ui_command
from pipelines.tracking.once import KEY, run_once
from pipelines.tracking.runs import _log_dataset, log_metrics
from pipelines.tracking.store import Store
from pipelines.train.publish import publish
from pipelines.workspace.queries import Queries
from tests.conftest import tiny
from zse_model.checkpoint import load_checkpoint
from zse_model.evaluation.leaks import LeakError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def runs(client: MlflowClient, setting: str, kind: str) -> list[Any]:
    experiment = client.get_experiment_by_name(setting)
    assert experiment is not None
    return client.search_runs([experiment.experiment_id], filter_string=f"tags.`zse.kind` = '{kind}'")


def test_a_run_is_tracked_once_with_everything_a_reader_needs(tmp_path: Path) -> None:
    config = tiny(tracking={"enabled": True}, evaluation={"references": ["untrained"]})
    workspace = str(tmp_path)
    out = run(config, workspace)
    run(config, workspace)  # nothing is tracked twice
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    setting = out.rows()[0]["setting"]
    (training,) = runs(client, setting, "training")
    assert training.data.params["train.lr"] == "0.0005" and training.data.params["method.dim"] == "16"
    assert training.data.metrics[f"{setting}/plain/ret/mAP_all"] == pytest.approx(out.rows()[0]["value"])
    assert training.data.metrics["train/cpu_minutes"] > 0
    steps = [m.step for m in client.get_metric_history(training.info.run_id, "train/loss")]
    assert steps == sorted(set(steps)) and steps[-1] == 6
    # The first section of the run's charts.
    first = [key for key in sorted(training.data.metrics) if key.startswith("_training/")]
    assert first == sorted(training.data.metrics)[: len(first)]
    assert [m.step for m in client.get_metric_history(training.info.run_id, "_training/loss")] == steps
    assert training.data.metrics["_training/selection_mAP_all"] == training.data.metrics["selection/mAP_all"]
    assert training.data.tags["zse.split_hash"] == out.rows()[0]["split_hash"]
    assert training.inputs.dataset_inputs[0].dataset.digest == out.rows()[0]["dataset_fingerprint"][:8]

    (model,) = client.search_logged_models([training.info.experiment_id])
    assert model.status == "READY" and model.source_run_id == training.info.run_id
    evaluations = runs(client, setting, "evaluation")
    assert {e.data.tags["zse.method"] for e in evaluations} == {"global", "global-untrained"}
    (ours,) = [e for e in evaluations if e.data.tags["zse.method"] == "global"]
    assert ours.data.tags["zse.training_run"] == training.info.run_id
    assert ours.data.tags["zse.model"] == model.model_id
    artifacts = {a.path for a in client.list_artifacts(ours.info.run_id)}
    assert {"per_class.json", "report.json", "sheets"} <= artifacts
    assert {Path(a.path).name for a in client.list_artifacts(ours.info.run_id, "sheets")} == {
        "good.png",
        "typical.png",
        "bad.png",
    }
    assert {"confusion.json", "costs.json", "requirements.txt", "charts"} <= artifacts
    assert {Path(a.path).name for a in client.list_artifacts(ours.info.run_id, "charts")} == {
        "precision-recall.png",
        "confusion.png",
    }
    curve = [m.value for m in client.get_metric_history(ours.info.run_id, "precision_at_recall/ret")]
    assert len(curve) == 11 and curve == sorted(curve, reverse=True) and 0 < curve[-1] < curve[0] <= 1
    assert ours.data.metrics["cost/ret/gflop_pair"] == pytest.approx(2 * 16e-9), "a product of 16 numbers"
    assert ours.data.metrics["cost/ret/bytes_photo"] == 64 and ours.data.metrics["cost/ret/ms_query_1000"] > 0
    key = "plain/ret/mAP_all"
    (found,) = client.search_logged_models([training.info.experiment_id], filter_string=f"metrics.`{key}` > 0")
    (metric,) = [m for m in found.metrics if m.key == key]
    assert (metric.dataset_name, metric.value) == (setting, pytest.approx(out.rows()[0]["value"]))
    # The fine-grained setting is an experiment of its own.
    assert any("-fg." in e.name for e in client.search_experiments())


def test_system_metrics_stand_beside_the_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.train.machine.EVERY", 0.05)
    out = run(tiny(tracking={"enabled": True}), str(tmp_path), until="train")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    training = client.get_run(storage.read_json(f"{out.checkpoints['global'].url}/tracked.json")["run"])
    assert training.data.metrics["system/system_memory_usage_megabytes"] > 100
    assert 0 <= training.data.metrics["system/cpu_utilization_percentage"] <= 100


def test_a_report_is_tracked_once_after_a_kill_and_by_two_at_once(tmp_path: Path) -> None:
    config = tiny(tracking={"enabled": True})
    out = run(config, str(tmp_path))
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    setting = out.rows()[0]["setting"]
    (first,) = runs(client, setting, "evaluation")
    name, key = first.info.run_id, "plain/ret/mAP_all"
    (model,) = client.search_logged_models([first.info.experiment_id])
    before = client.get_logged_model(model.model_id).metrics

    # Killed before its last step: the run is gone on with, and nothing in it is doubled.
    client.update_run(name, status="RUNNING")
    run(config, str(tmp_path))
    (again,) = runs(client, setting, "evaluation")
    assert again.info.run_id == name and again.info.status == "FINISHED"
    assert len(client.get_metric_history(name, key)) == 1 and again.data.metrics[key] == out.rows()[0]["value"]
    tables = client.download_artifacts(name, "", str(tmp_path))
    assert len(json.loads((Path(tables) / "costs.json").read_text())["data"]) == 1
    assert len(client.get_logged_model(model.model_id).metrics) == len(before)

    # Two at once: of two finished ones one stays, whoever looks first; one that nobody goes on with is deleted.
    tags = {k: v for k, v in first.data.tags.items() if k.startswith("zse.")}
    place, week = first.info.experiment_id, first.info.start_time - 7 * 24 * 3600 * 1000
    client.create_run(place, start_time=week, tags=tags)
    other = client.create_run(place, tags=tags).info.run_id
    client.set_terminated(other)
    live = client.create_run(place, tags=tags).info.run_id
    for _ in range(2):
        run(config, str(tmp_path))
        assert {r.info.run_id for r in runs(client, setting, "evaluation")} == {min(name, other), live}

    # Deleted by hand: it is delivered anew.
    for one in runs(client, setting, "evaluation"):
        client.delete_run(one.info.run_id)
    run(config, str(tmp_path))
    assert len(runs(client, setting, "evaluation")) == 1


def test_what_four_write_in_the_same_moment_is_there_once(tmp_path: Path) -> None:
    """MLflow's own calls fail here: a tag, or a data set, that two add at once."""
    store = Store(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "artifacts"))
    experiment = store.experiment("e")
    begun = store.client.create_run(experiment, tags={KEY: "k"}).info.run_id

    def log(run: Any) -> None:
        for i in range(8):
            store.client.set_tag(run.info.run_id, f"tag {i}", "said")
            _log_dataset(store, run.info.run_id, "d", f"{i}", "", "training")

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: run_once(store, experiment, "k", "name", {}, log), range(4)))
    assert {run.info.run_id for run, _ in made} == {begun}
    run: Any = store.client.get_run(begun)
    assert run.info.status == "FINISHED" and sum(tag.startswith("tag ") for tag in run.data.tags) == 8
    assert len(run.inputs.dataset_inputs) == 8


def test_a_training_that_does_not_reach_its_end_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, workspace = tiny(tracking={"enabled": True, "system_metrics": False}), str(tmp_path)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")

    def state() -> tuple[str, str]:
        (training,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
        return training.info.status, training.data.tags.get("zse.reason", "")

    def stopped(error: BaseException) -> None:
        def leave(*_: Any) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr("pipelines.train.workers.run_worker", leave)
            with pytest.raises(type(error)):
                run(config, workspace, until="train")

    monkeypatch.setenv("ZSE_WEBHOOK", "https://chat/SECRET")
    secret = "http://user:SECRET@host/ said no, https://chat/SECRET"
    for error, status, why in (
        (RuntimeError(f"{secret}\nmore"), "FAILED", "RuntimeError: http://***@host/ said no, ***"),
        (LeakError("seen"), "FAILED", "seen"),
        (KeyboardInterrupt(), "KILLED", "Ctrl-C (SIGINT)"),
        (SystemExit(143), "KILLED", "stopped (SIGTERM)"),
    ):
        stopped(error)
        assert state() == (status, why)
        (found,) = statuses(workspace)
        assert (found.stages["train"], found.ended) == (status.lower(), why)

    # Killed without notice: the run stays RUNNING until the next training, of another method, sees that nobody renews.
    run_id = storage.read_json(f"{found.folder}/mlflow.json")["run"]
    client.update_run(run_id, status="RUNNING")
    raw = storage.read_json(f"{found.folder}/run.json")
    storage.write_json(f"{found.folder}/run.json", {k: v for k, v in raw.items() if k != "ended"})
    lease = {"host": "elsewhere", "pid": 1, "id": "x", "since": 0.0, "renewed": time.time() - 90}
    storage.write_json(f"{found.folder}/lease/7.json", lease)
    monkeypatch.setattr("pipelines.workspace.endings.EVERY", -1.5)
    (found,) = statuses(workspace)
    assert found.stages["train"] == "killed" and found.ended is not None
    assert re.fullmatch("killed or lost: no sign of life for 9[0-9] s", found.ended)
    other = tiny(tracking={"enabled": True, "system_metrics": False}, train={"lr": 0.002})
    run(other, workspace, until="train")
    lost = client.get_run(run_id)
    assert lost.info.status == "KILLED" and lost.data.tags["zse.reason"].startswith("killed or lost: no sign of life")

    # Taken up it runs, and has ended well in the end.
    seen = []
    monkeypatch.setattr("pipelines.store.lease.STALE", 0.0)
    monkeypatch.setattr(
        "pipelines.train.stage.publish",
        lambda *a, of=publish: (seen.append(client.get_run(run_id).info.status), of(*a))[1],
    )
    run(config, workspace, until="train")
    ended = client.get_run(run_id)
    assert seen == ["RUNNING"] and ended.info.status == "FINISHED" and not ended.data.tags["zse.reason"]
    assert {one.stages["train"] for one in statuses(workspace)} == {"done"} and "SECRET" not in capsys.readouterr().err


def test_what_is_deleted_in_mlflow_is_restored_or_tracked_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(tracking={"enabled": True, "system_metrics": False})
    out = run(config, str(tmp_path))
    client, folder = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db"), out.checkpoints["global"].url
    first = storage.read_json(f"{folder}/tracked.json")
    place = client.get_run(first["run"]).info.experiment_id

    def tracked() -> dict[str, str]:
        """What is there after the same command; everything is whole."""
        assert run(config, str(tmp_path)).rows() == out.rows()
        found = storage.read_json(f"{folder}/tracked.json")
        training = client.get_run(found["run"])
        assert training.info.lifecycle_stage == "active" and training.info.status == "FINISHED"
        (model,) = client.search_logged_models([place])
        assert (model.model_id, model.status) == (found["model"], "READY")
        evaluations = client.search_runs([place], "tags.`zse.kind` = 'evaluation'")
        assert [e.data.tags["zse.training_run"] for e in evaluations] == [first["run"]]
        return found

    client.delete_run(first["run"])
    assert tracked() == first
    client.delete_experiment(place)
    assert tracked() == first
    assert "which was deleted in MLflow, with all its runs" in " ".join(capsys.readouterr().err.split())
    client.delete_logged_model(first["model"])
    second = tracked()
    assert second["run"] == first["run"] and second["model"] != first["model"]
    digest = storage.read_json(f"{folder}/manifest.json")["digest"]
    begun = [  # by tries that were cut off: one is finished, the other goes
        client.create_logged_model(
            place, name="cut-off", source_run_id=first["run"], tags={"zse.checkpoint_hash": digest}
        ).model_id
        for _ in range(2)
    ]
    client.delete_logged_model(second["model"])
    second = tracked()
    assert second["model"] in begun

    # Gone for good, as by `mlflow gc`, or in another database: new runs; evaluations are tracked without it.
    for name in ("mlflow.json", "tracked.json"):
        storage.write_json(f"{folder}/{name}", {**storage.read_json(f"{folder}/{name}"), "run": "0" * 32})
    report = out.reports["global"]
    (evaluation,) = client.search_runs([place], "tags.`zse.kind` = 'evaluation'")
    client.delete_run(evaluation.info.run_id)
    deliver_evaluation(config, str(tmp_path), report, out.checkpoints["global"])
    (again,) = client.search_runs([place], "tags.`zse.kind` = 'evaluation'")
    assert (again.data.tags["zse.training_run"], again.data.tags["zse.model"]) == ("", second["model"])
    run(config, str(tmp_path))
    assert client.get_run(storage.read_json(f"{folder}/tracked.json")["run"]).info.status == "FINISHED"


def test_pseudo_unseen_classes_are_a_setting_to_choose_by(tmp_path: Path) -> None:
    config = tiny(tracking={"enabled": True}, evaluation={"classes": "pseudo_unseen"})
    out = run(config, str(tmp_path))
    split = load_checkpoint(out.checkpoints["global"].url).split
    rows = out.rows()
    assert {row["split"] for row in rows} == {"synthetic-selection"} and {row["use"] for row in rows} == {"selection"}
    assert set(Queries(out.reports["global"]).category) == set(split.pseudo_unseen)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (evaluation,) = runs(client, rows[0]["setting"], "evaluation")
    assert evaluation.data.tags["zse.use"] == "selection"
    other = tiny(dataset={"split_seed": 1}, evaluation={"classes": "pseudo_unseen"})
    with pytest.raises(LeakError, match="trained or chosen on"):  # its pseudo-unseen classes were trained on here
        evaluate_checkpoint(other, str(tmp_path), out.checkpoints["global"].url)
    everything = tiny(dataset={"split": "all", "use": "selection"})
    with pytest.raises(LeakError, match="trained or chosen on"):
        evaluate_checkpoint(everything, str(tmp_path), out.checkpoints["global"].url)
    published = tiny(dataset={"split": "synthetic", "use": "selection"})
    with pytest.raises(ValueError, match="test classes of the published split 'synthetic' are for reports"):
        evaluate_checkpoint(published, str(tmp_path), out.checkpoints["global"].url)
    with pytest.raises(ValueError, match="at least two classes"):
        run(everything, str(tmp_path))
    with pytest.raises(ValueError, match="no pseudo-unseen classes. Raise dataset.pseudo_unseen"):
        run(tiny(dataset={"pseudo_unseen": 0}, evaluation={"classes": "pseudo_unseen"}), str(tmp_path), until="embed")


def test_training_survives_a_tracking_server_that_is_away_and_delivers_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nobody)
    monkeypatch.setattr(preflight, "reachable", lambda *_: "")  # it answered when the run began
    config = tiny(tracking={"enabled": True})
    out = run(config, str(tmp_path))
    assert "MLflow does not answer" in " ".join(capsys.readouterr().err.split())
    assert not storage.exists(storage.join(out.checkpoints["global"].url, "tracked.json"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/later.db")
    assert run(config, str(tmp_path)).rows() == out.rows()
    client = MlflowClient(f"sqlite:///{tmp_path}/later.db")
    setting = out.rows()[0]["setting"]
    (training,) = runs(client, setting, "training")
    assert [m.step for m in client.get_metric_history(training.info.run_id, "train/loss")][-1] == 6
    assert f"{setting}/plain/ret/mAP_all" in training.data.metrics
    assert len(runs(client, setting, "evaluation")) == 1


def test_an_evaluation_is_linked_to_a_training_that_is_delivered_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(tracking={"enabled": True, "system_metrics": False})
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")

    def away(*_: Any) -> None:
        raise MlflowException("does not answer")

    def away_for_trainings(store: Store, run_id: str, *args: Any, **of: Any) -> None:
        if client.get_run(run_id).data.tags["zse.kind"] == "training":
            away()
        log_metrics(store, run_id, *args, **of)

    def tracked() -> tuple[Any, Any]:
        """The training and the evaluation after the same command."""
        setting = run(config, str(tmp_path)).rows()[0]["setting"]
        training, evaluation = (runs(client, setting, kind)[0] for kind in ("training", "evaluation"))
        return training, client.get_run(evaluation.info.run_id)

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.tracking.runs.log_model", away)
        training, evaluation = tracked()
    assert (training.info.status, evaluation.info.status) == ("RUNNING", "FINISHED")
    assert evaluation.data.tags["zse.training_run"] == evaluation.data.tags["zse.model"] == ""

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.tracking.runs.log_metrics", away_for_trainings)
        training, evaluation = tracked()
    (model,) = client.search_logged_models([training.info.experiment_id])
    assert evaluation.data.tags["zse.training_run"] == training.info.run_id
    assert evaluation.data.tags["zse.model"] == model.model_id
    assert [one.model_id for one in evaluation.inputs.model_inputs] == [model.model_id]
    key, setting = "plain/ret/mAP_all", evaluation.data.tags["zse.setting"]
    (metric,) = [m for m in model.metrics if m.key == key]
    assert (metric.dataset_name, metric.value) == (setting, evaluation.data.metrics[key])
    assert f"{setting}/{key}" not in training.data.metrics, "MLflow went away before"

    for _ in range(2):  # nothing is logged twice
        training, again = tracked()
        (stored,) = client.get_metric_history(training.info.run_id, f"{setting}/{key}")
        assert stored.value == evaluation.data.metrics[key]
        assert again.data.tags == evaluation.data.tags
        assert len(client.get_metric_history(again.info.run_id, key)) == 1
        assert len(client.get_logged_model(model.model_id).metrics) == len(model.metrics)


def test_the_way_to_the_ui_is_printed() -> None:
    assert ui_command("sqlite:////w/mlflow.db") == "mlflow ui --backend-store-uri sqlite:////w/mlflow.db"
    assert "http://mlflow:5000" in ui_command("http://mlflow:5000")


def test_what_is_tracked_tells_no_secret() -> None:
    command = "zse reevaluate --webhook https://chat/T0/SECRET --set tracking.uri=http://u:SECRET@h/db --exit-code"
    assert "SECRET" not in shown(command) and shown(command).endswith("--exit-code")
    assert "SECRET" not in shown("--webhook=https://chat/T0/SECRET") and shown("a b") == "a b"
