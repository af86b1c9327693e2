"""No credential is where others can read it, and nothing that a store holds is unpickled."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest
import yaml
from rich.table import Table

import pipelines
import zse_model
from pipelines.cli.app import main
from pipelines.drawing import explanations
from pipelines.judge import standings
from pipelines.judge.summary import Line, Summary, markdown
from pipelines.operate import preflight
from pipelines.run import run
from pipelines.runtime import logs
from pipelines.runtime.errors import ConfigError, StorageError
from pipelines.runtime.progress import Meter, say, show
from pipelines.runtime.redaction import SECRETS, shown
from pipelines.search import explanation_page
from pipelines.store import storage
from pipelines.store.retry import failure
from pipelines.tracking import Store, TrackingError
from pipelines.tracking.history import Standing
from pipelines.workspace.endings import ending
from tests.conftest import TINY, merged, tiny
from tests.helpers.servers import ray_head
from zse_model.errors import ZseError

HIDDEN = {name: f"{name.lower()}-7f3a9c" for name in SECRETS if not name.startswith("RAY_")}


def holders(text: dict[str, bytes]) -> dict[str, list[str]]:
    """By place, the secrets that stand there."""
    found = {place: [n for n, value in HIDDEN.items() if value.encode() in data] for place, data in text.items()}
    return {place: names for place, names in found.items() if names}


@pytest.mark.cluster
@pytest.mark.ray
@pytest.mark.timeout(500)
def test_a_submitted_run_leaves_no_secret_and_writes_lines_for_machines(tmp_path: Path, s3: str) -> None:
    """Submitted as README says, on nodes that have the secrets: then every file of the bucket, of MLflow, of Ray's logs
    and what Ray tells of the job is looked through."""
    workspace, database, experiment = f"{s3}/secrets", tmp_path / "mlflow.db", tmp_path / "tiny.yaml"
    changes = {"cluster": {"workers": 1}, "tracking": {"enabled": True}, "train": {"steps": 30}}
    experiment.write_text(yaml.safe_dump(merged(TINY, changes)))
    to_the_store = {name: os.environ[name] for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_DEFAULT_REGION")}
    of_nodes = {**to_the_store, **HIDDEN, "MLFLOW_TRACKING_URI": f"sqlite:///{database}", "ZSE_LOG": "json"}
    with ray_head("--num-cpus=4", environment=of_nodes) as head:
        command = ["zse", "run", "-e", str(experiment), "-w", workspace, "--report", str(tmp_path / "report.json")]
        done = subprocess.run(
            [*head.job("--submission-id", "run"), *command],
            env={name: value for name, value in head.env.items() if name not in of_nodes},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        report = (tmp_path / "report.json").read_bytes()
        assert {row["metric"] for row in json.loads(report)} >= {"mAP_all", "acc_1"}
        with urllib.request.urlopen(f"{head.dashboard}/api/jobs/", timeout=10) as answer:
            text = {"the job": answer.read(), "what it said": (done.stdout + done.stderr).encode()}
        logs = {str(file): file.read_bytes() for file in head.folder.rglob("*") if file.is_file()}
    text |= {file.path: storage.read_bytes(f"{workspace}/{file.path}") for file in storage.list_files(workspace)}
    text |= logs | {"MLflow": database.read_bytes(), "the report": report}
    assert any("mlartifacts/" in place for place in text) and any("job-driver" in place for place in logs)
    assert holders(text) == {} and holders({"a": HIDDEN["ZSE_WEBHOOK"].encode()}) == {"a": ["ZSE_WEBHOOK"]}
    discovery = head.folder / "prom_metrics_service_discovery.json"
    assert str(discovery) in logs, "what Prometheus reads, by the docs"

    (driver,) = (data for place, data in logs.items() if "job-driver" in place)
    said = [json.loads(line) for line in driver.decode().splitlines() if line.startswith("{")]
    assert {line["stage"] for line in said if "stage" in line} >= {"ingest", "shard", "train", "embed"}
    steps = [line for line in said if line["message"] == "training"]
    assert steps[-1]["step"] == 30 and steps[-1]["run"].startswith("tiny-global-") and steps[-1]["node"]
    worker = b"".join(data for place, data in logs.items() if "/worker-" in place and place.endswith(".err"))
    own = [json.loads(line) for line in worker.decode().splitlines() if '"message": "training"' in line]
    assert {(line["run"], line["worker"]) for line in own} == {(steps[-1]["run"], 0)} and own[-1]["step"] == 30
    assert 0 <= own[-2]["train/wait_share"] <= 1


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_password_in_a_url_is_told_to_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:1")
    with pytest.raises(TrackingError, match="127.0.0.1") as away:
        Store.at(str(tmp_path)).answers()
    assert "hunter2" not in str(away.value)
    with pytest.raises(StorageError, match="127.0.0.1") as away:
        storage.read_bytes("http://me:hunter2@127.0.0.1:1/a")
    assert "hunter2" not in str(away.value)
    config = tiny(tracking={"enabled": True})
    with pytest.raises(TrackingError, match="does not answer") as away:
        run(config, str(tmp_path), until="train")
    assert "hunter2" not in str(away.value)
    monkeypatch.setattr(preflight, "reachable", lambda *_: "")  # it goes away once the run has begun
    run(config, str(tmp_path), until="train")
    written = {str(file): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert [place for place, data in written.items() if b"hunter2" in data] == []
    said = capsys.readouterr()
    assert "MLflow does not answer" in said.err and "hunter2" not in said.err + said.out


@pytest.mark.parametrize("field", ["tracking.uri", "dataset.source", "backbone.weights"])
def test_a_configuration_with_a_password_is_refused(field: str) -> None:
    section, key = field.split(".")
    with pytest.raises(ConfigError, match=f"^{field} is a URL with a password. Give credentials by") as refused:
        tiny(**{section: {key: "https://me:hunter2@example.com/a"}})
    assert "hunter2" not in str(refused.value)


def test_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "test")
    for text, expected in {
        "x http://u:p@h/a": "x http://***@h/a",
        "http://u:p/w@h": "http://***@h",
        "http://u:5000@h/": "http://***@h/",
        "https://token@h": "https://***@h",
        "key wJalrXUtnFEMI/K7MDENG, a test": "key ***, a test",
        "zse reevaluate --webhook https://chat/T0/SECRET -x": "zse reevaluate --webhook *** -x",
    }.items():
        assert shown(text) == expected
    assert shown("http://h:5000/#/models/zse@champion") == "http://h:5000/#/models/zse@champion"
    for text in ("s3://bucket/photo@2x.png", "models:/zse@champion", "http://h:5000", "s3://b/a:b@c", "me@h", ""):
        assert shown(text) == text


def test_secrets_of_other_services_are_known_by_the_names_of_their_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = {
        **{"HF_TOKEN": "hf_7f3a9c7f3a9c", "OPENAI_API_KEY": "sk-7f3a9c7f3a9c", "db_password": "p4ssw0rd!x"},
        **{"AZURE_STORAGE_ACCESS_KEY": "azure/7f3a9c==", "MY_SECRET": "7f3a9c7f3a9c-and-more", "TOKEN": "7f3a9c7f3a9c"},
        "GOOGLE_CREDENTIALS_JSON": '{"private": 1}',
    }
    plain = {
        **{"GIT_ASKPASS": "/usr/bin/askpass", "AWS_WEB_IDENTITY_TOKEN_FILE": "var/run/token", "KEYBOARD": "us-intl-x"},
        **{"API_TOKEN": "short", "SECRET_FOLDER_PASSWORD": "sketches", "TOKENIZERS_PARALLELISM": "false-false"},
        **{"AWS_ACCESS_KEY_ID": "AKIA-example", "MAX_TOKEN": "1234567890", "SSH_PRIVATE_KEY_PATH": "~/.ssh/id_rsa"},
    }
    for name, value in (hidden | plain).items():
        monkeypatch.setenv(name, value)
    for value in hidden.values():
        assert shown(f"a {value} b") == "a *** b"
    for value in plain.values():
        assert shown(f"a {value} b") == f"a {value} b"


def test_a_summary_tells_no_secret_to_file_mlflow_or_webhook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_API_KEY", "7f3a9c-7f3a9c")
    line = Line("m", "shop", broken="cannot read https://h/a?key=7f3a9c-7f3a9c")
    summary = Summary("c", {"m": "7f3a9c-7f3a9c"}, 0.01, [line], {"7f3a9c-7f3a9c": "of http://u:p4ss@h/7f3a9c-7f3a9c"})
    summary.promotion = {"m": {"promoted": False, "reasons": [{"holds": False, "text": "7f3a9c-7f3a9c"}]}}
    told = markdown(summary) + json.dumps(summary.as_json())
    assert "7f3a9c" not in told and "p4ss" not in told and told.count("***") >= 8


def test_no_exit_shows_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Table, line, line for machines, last line of a failure, reason of an ending, both pages, a client's own text."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "PLANTED&7f3a9c")
    told = "key PLANTED&7f3a9c of http://me:hunter2@h/a"
    table = Table("class", told, title=told)
    table.add_row("[old] a", told)
    show(table)
    show(told)
    say(told)
    Meter(told, total=1).update(1)
    monkeypatch.setenv("ZSE_LOG", "json")
    logs._logger.cache_clear()
    say(told, done={"by": [told]}, why=ZseError(told))
    logs._logger.cache_clear()
    monkeypatch.delenv("ZSE_LOG")
    monkeypatch.setattr("sys.argv", ["zse", "train"])
    for error in (ZseError(told), RuntimeError(told)):
        monkeypatch.setattr("pipelines.cli.app.app", Mock(side_effect=error))
        with pytest.raises(SystemExit):
            main()
    said = capsys.readouterr()
    assert said.out.count("***") >= 6 and "[old] a" in said.out and said.err.count("***") >= 8

    one = Standing("s.1", "report", "m", told, "", "c", 1, 1, 0, told, told, {"plain/ret/mAP_all": 0.5}, "r")
    seen = SimpleNamespace(mode="ret", grid=(2, 2), about=told, no_attention=told, scores={"ret": 1.0})
    pages = standings.page([standings.Section("s", [one], [one])], told)
    pages += explanation_page.page(told, told, [explanations.Explained(told, cast(Any, seen), {}, [told])])
    failed = failure("s3://me:hunter2@bucket/a", ValueError('Invalid bucket name "me:hunter2@bucket"'))
    assert "s3://***@bucket/a cannot be used" in str(failed)
    everything = said.out + said.err + pages + str(failed) + str(ending(RuntimeError(told)))
    assert "PLANTED" not in everything and "hunter2" not in everything


def test_a_configuration_with_a_secret_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would stand in run.json, manifests, checkpoints and MLflow."""
    monkeypatch.setenv("SHOP_API_KEY", "7f3a9c-7f3a9c")
    with pytest.raises(ConfigError, match="^dataset.source contains the secret value of SHOP_API_KEY") as said:
        tiny(dataset={"source": "https://h/a?key=7f3a9c-7f3a9c"})
    assert "7f3a9c" not in str(said.value)


def test_nothing_that_a_store_holds_is_unpickled() -> None:
    """By the text of the code: a torch file with weights alone, arrays without objects, YAML without tags."""
    calls: list[tuple[str, str, dict[str, object]]] = []
    for package in (pipelines, zse_model):
        for file in Path(package.__path__[0]).rglob("*.py"):
            tree = ast.parse(file.read_text())
            for node in ast.walk(tree):
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                    assert not names & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}, file
                if isinstance(node, ast.Call):
                    given = {k.arg: k.value.value for k in node.keywords if k.arg and isinstance(k.value, ast.Constant)}
                    calls.append((file.name, ast.unparse(node.func), given))
    loads = [(file, given) for file, name, given in calls if name == "torch.load"]
    assert len(loads) >= 2 and all(given.get("weights_only") is True for _, given in loads), loads
    arrays = [(file, given) for file, name, given in calls if name in ("np.load", "numpy.load")]
    assert arrays and all(given.get("allow_pickle", False) is False for _, given in arrays), arrays
    forbidden = {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec", "pd.read_pickle"}
    assert [(file, name) for file, name, _ in calls if name in forbidden] == []
