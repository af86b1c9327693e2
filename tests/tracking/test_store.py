"""Where runs are tracked: any folder's name, servers that are away, what was deleted in MLflow's pages."""

from __future__ import annotations

import os
import shlex
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from sqlalchemy.engine import make_url

from pipelines.tracking import TrackingError, reachable, runs, ui_command
from pipelines.tracking.store import Store, sqlite_uri, transfer, translated
from tests.conftest import tiny
from tests.helpers.servers import free_ports

NAMES = ["a?b", "a#b", "a%20b", "a b", "a;b", "ü", "a%3Fb", "a%b", "a&b=c", "'a'", 'a"b', "a@b:c", "a\\b"]


def test_a_workspace_of_any_name_has_its_database_and_artifacts_in_it(tmp_path: Path) -> None:
    workspace = tmp_path / " ".join(NAMES)
    store = Store.at(str(workspace))
    assert "created by the first run" in store.answers() and not workspace.exists()
    run = store.client.create_run(store.experiment("what?#%41"))
    store.client.log_text(run.info.run_id, "told", "said.txt")
    assert " answers in " in store.answers()
    assert Path(store.client.download_artifacts(run.info.run_id, "said.txt")).read_text() == "told"
    assert {path.name for path in workspace.iterdir()} == {"mlflow.db", "mlartifacts"}
    assert [path.name for path in (workspace / "mlartifacts").iterdir()] == ["what?#%41"]
    assert list(tmp_path.iterdir()) == [workspace], "nothing lies beside it"
    command = shlex.split(ui_command(store.uri))
    assert command[:3] == ["mlflow", "ui", "--backend-store-uri"] and len(command) == 4
    assert make_url(command[3]).database == str(workspace / "mlflow.db")


def test_urls_of_databases_that_are_there_stay_what_they_were() -> None:
    for path in ("/w/mlflow.db", "/with blank/ü#;&=%zz/mlflow.db"):
        assert sqlite_uri(Path(path)) == f"sqlite:///{path}"
    for name in NAMES:
        assert make_url(sqlite_uri(Path("/") / name / "mlflow.db")).database == f"/{name}/mlflow.db"


def test_a_server_that_does_not_answer_is_said_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.tracking.store.PATIENCE", 1.0)
    (tmp_path / "bad.db").write_text("no database " * 100)
    with socket.socket() as silent:  # accepts, and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        nobody = free_ports(1)[0]
        for uri, why in (
            (f"http://127.0.0.1:{silent.getsockname()[1]}", "timed out"),
            (f"http://127.0.0.1:{nobody}", "Connection refused"),
            (f"postgresql+psycopg2://zse@127.0.0.1:{nobody}/mlflow", "Connection refused"),
            ("postgresql+pg8001://zse@/mlflow", "pg8001"),
            (f"sqlite:///{tmp_path}/bad.db", "not a database"),
            (f"sqlite:///{tmp_path}/bad.db/mlflow.db", "bad.db is not a folder"),
            ("http://[::1", "it is not a URL"),
            ("postgresql://h:port/mlflow", "it is not a URL"),
        ):
            start = time.monotonic()
            with pytest.raises(TrackingError, match=why) as told:
                reachable(tiny(tracking={"enabled": True, "uri": uri}), str(tmp_path))
            assert time.monotonic() - start < 15
            assert str(told.value).startswith(f"MLflow at {uri}".replace("zse@", "***@")) and "\n" not in str(
                told.value
            )
            assert "--set tracking.enabled=false" in str(told.value)
    assert "switched off" in reachable(tiny(), str(tmp_path))


def test_the_commit_is_left_out_where_git_cannot_say_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = runs._git.__wrapped__
    monkeypatch.setattr(runs, "GIT", 0.5)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git() == {}, "not installed"
    program = tmp_path / "git"
    for does in ("exit 128", "exec /bin/sleep 30", "exit 1"):  # dubious ownership, a hang, files of no repository
        program.write_text(f"#!/bin/sh\n{does}\n")
        program.chmod(0o755)
        assert git() == {}
    program.write_text(
        '#!/bin/sh\n[ -z "$GIT_DIR" ] || exit 1\ncase $3 in rev-parse) echo c0ffee;; status) exit 1;; esac\n'
    )
    monkeypatch.setenv("GIT_DIR", "/elsewhere")
    assert git() == {"mlflow.source.git.commit": "c0ffee"}
    (tmp_path / "COMMIT").write_text("bad5eed\n")
    monkeypatch.setattr(runs, "COMMIT", tmp_path / "COMMIT")
    assert git() == {"mlflow.source.git.commit": "bad5eed"}, "what an image was built from"


def test_an_upload_has_longer_than_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy answers once its store has the file, which takes longer here than a request may."""

    class Slow(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(2)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    (tmp_path / "weights").write_bytes(bytes(1000))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        repository = HttpArtifactRepository(f"http://127.0.0.1:{server.server_port}/artifacts")
        with pytest.raises(TrackingError, match="timed out"), translated():
            repository.log_artifact(str(tmp_path / "weights"))
        with transfer(1000), translated():
            repository.log_artifact(str(tmp_path / "weights"))
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "1"
        server.shutdown()
