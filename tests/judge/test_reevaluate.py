"""Re-evaluation of registered models on arriving data sets: each report once, regressions, drift, interruptions."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import ray
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from typer.testing import CliRunner, Result

from pipelines.cli.app import app
from pipelines.datasets.arrivals import arrived
from pipelines.judge import drift
from pipelines.judge import reevaluate as job
from pipelines.judge.notify import notify
from pipelines.judge.summary import Line, Summary, changed, headlines, markdown
from pipelines.operate.watch import seconds
from pipelines.run import Outputs, run
from pipelines.runtime.errors import ConfigError, StorageError
from pipelines.store import storage
from tests.conftest import tiny
from tests.helpers.pictures import CLASSES, picture, write
from tests.helpers.reports import measured
from zse_model.synthetic import draw_sketch


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[Outputs]]]:
    """Two models, champion and challenger of zse."""
    workspace = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workspace}/mlflow.db")
        settings: dict[str, Any] = {"tracking": {"enabled": True}, "evaluation": {"classes": "pseudo_unseen"}}
        outs = [run(tiny(**settings, train={"seed": seed}), str(workspace)) for seed in (0, 1)]
        for out in outs:
            done = CliRunner().invoke(
                app,
                ["promote", out.checkpoints["global"].url, "--name", "zse", "-w", str(workspace)],
                catch_exceptions=False,
            )
            assert done.exit_code == 0, done.output
        client = MlflowClient()
        client.set_registered_model_alias("zse", "champion", "1")
        client.set_registered_model_alias("zse", "challenger", "2")
        yield workspace, outs


@pytest.fixture
def place(trained: tuple[Path, list[Outputs]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the two models' MLflow for one test, and an empty catalogue."""
    shutil.copy(trained[0] / "mlflow.db", tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    (tmp_path / "datasets").mkdir()
    return tmp_path


def reevaluated(
    place: Path, *options: str, models: str = "zse@champion,zse@challenger"
) -> tuple[Result, dict[str, Any]]:
    arguments = ["--catalog", f"{place}/datasets", "--models", models, "-w", f"{place}/work", *options]
    done = CliRunner().invoke(app, ["reevaluate", *arguments], catch_exceptions=False)
    folder = done.output.rpartition("Result: ")[2].split(": ")[1].partition("/summary.md")[0].replace("\n", "")
    return done, json.loads((Path(folder) / "summary.json").read_text())


def tracked(place: Path) -> list[Any]:
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.`zse.kind` = 'evaluation'")
    return [run for run in runs if run.data.tags["zse.dataset"] != "synthetic"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_week(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets arrive: one becomes worse, one is half broken, one has classes that the model has seen, and once MLflow
    takes no results. Only here do re-evaluations follow each other, each with the history of those before."""
    shop = place / "datasets" / "Shop 1"
    write(shop)
    done, summary = reevaluated(place)
    assert done.exit_code == 0 and summary["status"] == "fine"
    assert [(x["model"], x["evaluated"]) for x in summary["lines"]] == [
        ("zse@champion", True),
        ("zse@challenger", True),
    ]
    assert not summary["lines"][0]["first"] and set(summary["lines"][1]["first"]) == {"ret"}
    assert {"ink", "sketches", "photos"} == set(summary["lines"][0]["drift"])
    assert len(tracked(place)) == 2 and {r.data.tags["zse.use"] for r in tracked(place)} == {"report"}
    assert all("drift/ink" in r.data.metrics for r in tracked(place))

    done, again = reevaluated(place)  # nothing has changed
    assert "fine (nothing is new)" in done.output.replace("\n", " ") and again == summary and len(tracked(place)) == 2
    (shop / "photo" / "key" / "0.png").touch()  # the same content with another date
    done, again = reevaluated(place)
    assert "(nothing is new)" in done.output.replace("\n", " ") and len(tracked(place)) == 2

    for path in shop.glob("sketch/*/*.png"):  # a new version: sketches of other things
        wrong = CLASSES[(CLASSES.index(path.parent.name) + 1) % len(CLASSES)]
        path.write_bytes(picture(draw_sketch(wrong, int(path.stem), size=64, variant=1)))
    write(place / "datasets" / "thick", thick=3, classes=("apple", "cat"))
    (place / "datasets" / "thick" / "dataset.yaml").write_text("use: selection\nname: scans\n")
    write(place / "datasets" / "half")
    for path in list((place / "datasets" / "half").glob("photo/*/*.png"))[::2]:
        path.write_bytes(path.read_bytes()[:99])
    write(place / "datasets" / "known", classes=("key", "airplane"))
    (place / "datasets" / "wrong").mkdir()
    (place / "datasets" / "wrong" / "dataset.yaml").write_text("splt: all\n")
    with monkeypatch.context() as away:  # MLflow answers, but takes no results
        away.setattr(MlflowClient, "log_dict", Mock(side_effect=MlflowException("503")))
        done, summary = reevaluated(place, "--exit-code")
    new = [line for line in summary["lines"] if line["dataset"] == "Shop 1"]
    assert all("MLflow has not taken the results" in line["broken"] and not line["changes"] for line in new)
    assert done.exit_code == 4
    done, summary = reevaluated(place, "--exit-code")
    lines = {(x["dataset"], x["model"]): x for x in summary["lines"]}
    assert lines["thick", "zse@champion"]["drift"]["ink"] > 1 and "deviations of ink" not in done.output
    assert lines["thick", "zse@champion"]["drift_classes"] == {"ink": 2, "sketches": 1, "photos": 1}
    assert "too few classes (n < 10) for an alarm" in done.output
    assert "zse@champion on known" in done.output.partition("Not evaluated, because the model has seen the data")[2]
    assert "airplane (seen) = airplane (unseen)" in lines["known", "zse@champion"]["refused"]
    assert set(summary["broken"]) == {"half", "wrong"}
    assert "6 of 24 pictures cannot be used" in summary["broken"]["half"] and "splt" in summary["broken"]["wrong"]
    change = lines["Shop 1", "zse@champion"]["changes"]["ret"]
    assert change["before"] == again["lines"][0]["values"]["ret"][0]
    assert change["value"] == lines["Shop 1", "zse@champion"]["values"]["ret"][0] != change["before"]
    assert change["difference"]["value"] == pytest.approx(change["value"] - change["before"])
    assert done.exit_code == 4 and not summary["regressions"], "of three classes nothing is said"
    assert change["difference"]["low"] is None and change["difference"]["classes"] == 3
    assert "too few classes (n < 10) for a verdict: Shop 1" in done.output
    assert len(tracked(place)) == 6
    assert {r.data.tags["zse.use"] for r in tracked(place) if r.data.tags["zse.dataset"] == "scans"} == {"selection"}

    page = place / "report.html"
    done = CliRunner().invoke(app, ["report", "-w", f"{place}/work", "-o", str(page)], catch_exceptions=False)
    assert done.exit_code == 0 and "12 evaluations in 5 settings" in done.output, done.output
    text = page.read_text()
    assert text.count("<h2") == 5 and 'id="shop-1"' in text and 'id="synthetic-selection"' in text
    assert text.count('class="trend"') == 1 and "mAP_all over time" in text  # two versions of shop-1
    assert "(zse/1 @champion)" in text and "(zse/2 @challenger)" in text and "may be used to choose a model" in text
    assert "too few classes (n &lt; 10)" in text and " to 0." not in text
    assert text.count("data:image/jpeg;base64,") >= 9
    assert "<script" not in text and "http://" not in text.replace("http://www.w3.org", "")
    with pytest.raises(ValueError, match="No tracked setting begins with 'sho-'. Known: scans"):
        CliRunner().invoke(app, ["report", "-w", f"{place}/work", "--setting", "sho-"], catch_exceptions=False)

    shutil.rmtree(place / "datasets" / "half")
    done, summary = reevaluated(place, "--exit-code", "--tolerance", "1", models="zse@champion,zse@nobody")
    assert "zse@nobody is left out" in done.output and done.exit_code == 4  # `wrong` is still there
    assert len(tracked(place)) == 6


def test_worse_than_before_is_a_regression(tmp_path: Path) -> None:
    """Other queries of the same classes, with differences around the tolerance."""
    before = measured(tmp_path, "before", 0.5, 0.5)[0].report
    for mean, worse in ((0.45, True), (0.493, False), (0.55, False)):
        now = measured(tmp_path, f"now {mean}", mean, mean)[0].report
        (change,) = changed(now, before).values()
        line = Line("zse@champion", "shop", now.url, True, {"ret": (mean, None, None)}, {"ret": change})
        summary = Summary("c", {}, 0.01, [line], {"other": "truncated"})
        assert change.regression(0.01) == worse and summary.status == ("regression" if worse else "partial")
        assert ("**regression** -0.05" in markdown(summary)) == worse
        assert summary.as_json()["regressions"] == ([{"model": "zse@champion", "dataset": "shop"}] if worse else [])


@pytest.mark.parametrize("classes", [1, 2, 9])
def test_few_classes_are_no_regression_and_have_no_interval(tmp_path: Path, classes: int) -> None:
    before = measured(tmp_path, "before", 0.9, 0.5, classes=classes)[0].report
    now = measured(tmp_path, "now", 0.3, 0.5, classes=classes)[0].report
    values = headlines(now.rows())
    line = Line("zse@champion", "shop", now.url, True, values, changed(now, before))
    summary = Summary("c", {}, 0.01, [line])
    text = markdown(summary)
    assert summary.status == "fine" and f", too few classes ({classes} < 10)" in text
    assert values["ret"][1:] == (None, None) and "| too few classes (n < 10) |" in text
    assert "for a verdict: shop" in text and "[" not in text
    assert line.changes["ret"].difference.value < -0.5


def test_a_reevaluation_of_which_a_part_was_refused_is_not_fine() -> None:
    good = Line("zse@champion", "shop", "r", True, {"ret": (0.5, 0.4, 0.6)})
    seen = Line("zse@former", "shop", refused="it was trained on cat")
    assert Summary("c", {}, 0.01, [good]).status == "fine"
    for lines in ([good, seen], [seen], []):
        assert Summary("c", {}, 0.01, lines).status == "partial"
    assert "because the model has seen the data: zse@former on shop." in markdown(Summary("c", {}, 0.01, [good, seen]))


def test_what_cannot_be_compared_is_said_and_the_rest_goes_on(tmp_path: Path) -> None:
    """Other transforms may skip other pictures, and some modes have no mAP_all."""
    reports = {
        "a": measured(tmp_path, "a", 0.5, 0.5)[0].report,
        "b": measured(tmp_path, "b", 0.5, 0.5, classes=11)[0].report,
        "c": measured(tmp_path, "c", 0.6, 0.5)[0].report,
    }
    models = {key: Mock(asked=key) for key in reports}
    for key, model in models.items():
        model.name = key
    wanted = [job.Wanted(models[key], "shop", Mock(), Mock(), key) for key in reports]
    values = {"ret": (0.5, 0.4, 0.6)}
    summary = Summary("c", {}, 0.01, [Line(key, "shop", report.url, True, values) for key, report in reports.items()])
    job._compare(summary, wanted, {}, dict(reports))
    _, b, c = summary.lines
    assert not b.first and "different queries" in b.no_first and "different queries" in markdown(summary)
    assert c.first["ret"].value == pytest.approx(0.1, abs=0.01) and not c.no_first
    rows = [{**row, "metric": "P_1"} for row in reports["c"].rows()]
    storage.write_json(reports["c"].file("report.json"), rows)
    summary.lines = [Line("c", "shop", reports["c"].url, True)]
    job._read(summary)
    assert summary.status == "partial" and "no mAP_all" in summary.lines[0].broken
    with pytest.raises(ConfigError, match=r"tracking\.enabled is false"):
        job.how_to_evaluate(["tracking.enabled=false"])


def test_a_name_of_a_data_set_is_text_in_the_summary() -> None:
    name = "a|b ![x](http://evil/p.png) <!channel>\n# Re-evaluation: fine"
    line = Line("zse@champion", name, "r", True, {"ret": (0.5, 0.4, 0.6)})
    text = markdown(Summary(name, {}, 0.01, [line, Line("zse@champion", name, refused="seen")], {name: "cut\noff"}))
    assert "](" not in text.replace("\\[x](", "") and "<" not in text
    assert len([row for row in text.splitlines() if row.startswith("#")]) == 1
    assert all(row.replace("\\|", "").count("|") == 9 for row in text.splitlines() if row.startswith("|"))


def test_drift_is_seen_and_new_classes_alone_are_not() -> None:
    before = {"cat": {"photo": 50, "sketch": 9}, "dog": {"photo": 50}}
    assert drift.class_difference(before, before) == 0
    assert drift.class_difference({"cat": {"photo": 10}, "owl": {"photo": 10}}, before) == pytest.approx(0.5)
    assert drift.class_difference({"owl": {"photo": 1}}, before) == 1
    training = torch.eye(4)
    assert drift.distances(torch.eye(4)[:2], training).tolist() == [0, 0]
    assert drift.distances(-torch.eye(4)[:1], training).tolist() == [1]
    assert not len(drift.distances(torch.zeros(0, 4), training))
    thin, thick = (
        picture(np.pad(np.zeros((n, 8), np.uint8), ((0, 8 - n), (0, 0)), constant_values=255)) for n in (1, 4)
    )
    assert drift.ink_shares([thin, thick]).tolist() == [0.125, 0.5]
    new = np.arange(100.0)
    assert drift.further(new, new) == 0.5 and drift.further(new - 1000, new) == 0 and drift.further(new + 50, new) > 0.8
    assert drift.beyond({"ink": -0.9, "sketches": 0.6, "photos": 0.2, "classes": 0.2}) == []
    everything = {"ink": -1.1, "sketches": 0.7, "photos": 0.9, "classes": 0.3}
    assert len(drift.beyond(everything)) == 4
    enough, new = {"new_classes": np.array([10])}, {"new_classes": np.array([4])}
    assert len(drift.beyond(everything, drift.classes_behind(10, enough))) == 4
    assert len(drift.beyond(everything, drift.classes_behind(12, new))) == 2, "ink and the mix, of 12 classes"
    assert drift.beyond(everything, drift.classes_behind(9, enough)) == ["another mix of classes (30% of the photos)"]


def test_a_catalogue_says_what_is_wrong_with_a_data_set(tmp_path: Path) -> None:
    texts = {"a": "use: selection", "Ü b": "", "c": "use: never", "d": "- 1", "e": "[", "f": "source: s3://other/f"}
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset.yaml").write_text(text)
    found = arrived(str(tmp_path), ["s3://other"])
    for name, says in {"c": "use: Input should be", "d": "got list", "e": "is not YAML"}.items():
        assert isinstance(found[name], ConfigError) and says in str(found[name]), name
    good = {name: vars(one) for name, one in found.items() if not isinstance(one, ConfigError)}
    assert good["a"]["use"] == "selection" and good["a"]["source"] == f"{tmp_path}/a" and good["a"]["split"] == "all"
    assert good["Ü b"]["name"] == "b" and good["f"]["source"] == "s3://other/f"
    with pytest.raises(ConfigError, match="has no folders"):
        arrived(str(tmp_path / "a"))
    with pytest.raises(StorageError, match="does not exist"):
        arrived(str(tmp_path / "none"))


@pytest.mark.cluster
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_killed_before_mlflow_hears_and_twice_at_once_every_report_appears_once(place: Path) -> None:
    write(place / "datasets" / "shop")
    write(place / "datasets" / "other", range(4, 8))
    arguments = ["--catalog", f"{place}/datasets", "-w", f"{place}/work"]
    command = [sys.executable, "-m", "pipelines.cli", "reevaluate", *arguments]
    reports = place / "work" / "reports"
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    first = subprocess.Popen(command, start_new_session=True, env=environment)
    while not list(reports.glob("*/report.json")):  # a report is written and not logged in MLflow yet
        assert first.poll() is None
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    assert not list((place / "work").glob("reevaluations/*/summary.json"))
    both = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    done, summary = reevaluated(place)
    assert summary["status"] == "fine" and "(nothing is new)" in done.output.replace("\n", " ")
    runs = tracked(place)
    assert len(runs) == 4 and {run.info.status for run in runs} == {"FINISHED"}
    assert len({(run.data.tags["zse.dataset"], run.data.tags["zse.checkpoint_hash"]) for run in runs}) == 4
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    experiment = client.get_experiment_by_name("reevaluations")
    assert experiment is not None and len(client.search_runs([experiment.experiment_id])) == 1


class Hook(BaseHTTPRequestHandler):
    told: list[dict[str, Any]] = []
    answer = 500

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.answer == 200:
            self.told.append(body)
        self.send_response(self.answer)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_webhook_hears_of_it_once_and_may_be_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/services/SECRET"
    summary = Summary("c", {}, 0.01, broken={"half": "truncated"})
    notify(url, summary, str(tmp_path))
    notify(url.replace("services", "ser vices"), summary, str(tmp_path))
    said = capsys.readouterr().err
    assert said.count("did not accept the message") == 2 and "HTTPError 500" in said and not Hook.told
    assert "SECRET" not in said
    Hook.answer = 200
    for _ in range(2):
        notify(url, summary, str(tmp_path))
    server.shutdown()
    server.server_close()
    (told,) = Hook.told
    assert told["status"] == "partial" and "half is broken" in told["text"]
    assert told["summary"]["broken"] == {"half": "truncated"}
    assert "SECRET" not in "".join(capsys.readouterr()) + (tmp_path / "notified.json").read_text()
    with pytest.raises(ValueError, match="http or https"):
        notify("file:///etc/passwd", summary, str(tmp_path))


@pytest.mark.cluster
def test_a_watch_goes_on_after_a_failure_and_ends_when_told(tmp_path: Path) -> None:
    assert [seconds(text) for text in ("90s", "15m", "1.5h", "1d")] == [90, 900, 5400, 86400]
    for text in ("15", "m", "0s", "-1m", "1w"):
        with pytest.raises(ValueError, match="Give a duration above 0"):
            seconds(text)
    command = [sys.executable, "-m", "pipelines.cli", "watch", "--every", "1s", "--catalog", str(tmp_path / "none")]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    process = subprocess.Popen(
        [*command, "-w", str(tmp_path)], stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "Re-evaluation 1 ended with exit code 1." in line:
            break
    process.terminate()
    assert process.wait(timeout=30) == 0
    process.stderr.close()
