"""Where runs are tracked: the URI, a client that does not wait for minutes, and one error for what goes wrong there."""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shlex import quote
from typing import Any
from urllib.parse import quote as url_quote

from pipelines.config.experiment import ExperimentConfig
from pipelines.runtime.progress import say
from pipelines.runtime.redaction import shown
from pipelines.store import storage
from zse_model.errors import ZseError

TRACKED = "tracked.json"  # beside what was delivered: where to
PATIENCE = 5.0  # s until a server has to accept a connection where it is asked whether it is there
PORTS = {"sqlite": 0, "postgresql": 5432, "mysql": 3306, "mssql": 1433}  # of the databases that MLflow writes to
UPLOAD = 600, 1e6  # s for an upload, and bytes/s on top of it: a proxy answers once its store has all of it


class TrackingError(ZseError):
    """The tracking server did not take something; what it was is still in the workspace."""


def tracking_uri(workspace: str, configured: str | None = None) -> str:
    """The configured URI, else MLFLOW_TRACKING_URI, else SQLite in a local workspace (the working folder otherwise)."""
    if uri := configured or os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    folder = Path(storage.absolute(workspace)) if storage.is_local(workspace) else _beside_remote_workspace()
    return sqlite_uri(folder / "mlflow.db")


def sqlite_uri(database: Path) -> str:
    """The URL of a database file. Quoted is only what a URL would read as something else: `?` begins its options, `%41`
    is a character. So the URLs of other folders stay what they were. MLflow makes the folder of a `sqlite:///` URL
    without its quotes undone: one with quotes names the driver as well."""
    path = re.sub(r"%(?=[0-9A-Fa-f]{2})", "%25", str(database)).replace("?", "%3F")
    return f"sqlite:///{path}" if path == str(database) else f"sqlite+pysqlite:///{path}"


@cache
def _beside_remote_workspace() -> Path:
    """The working folder; said once, since a submitted job's is deleted with it."""
    folder = Path.cwd()
    say(
        f"MLflow runs go to {folder / 'mlflow.db'}: no tracking URI is set and the workspace is not local. A submitted "
        "job loses that file when it ends; set MLFLOW_TRACKING_URI, or --set tracking.uri=http://HOST:5000"
    )
    return folder


def ui_command(uri: str) -> str:
    """A command, or advice, that can be pasted into a shell."""
    if uri.startswith("http"):
        return f"open {shown(uri)} in a browser"
    return f"mlflow ui --backend-store-uri {quote(shown(uri))}"


@cache
def _client(uri: str) -> Any:
    # A server that is away must cost seconds, not minutes: what could not be logged is delivered later.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # that is for results
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    from mlflow import MlflowClient
    from sqlalchemy.engine import make_url

    if uri.startswith("sqlite") and (database := make_url(uri).database):
        Path(database).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Settings that MLflow reads with each request."""
    before = {name: os.environ.get(name) for name in values}
    os.environ |= values
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def _briefly() -> AbstractContextManager[None]:
    return _environment(MLFLOW_HTTP_REQUEST_TIMEOUT=f"{PATIENCE:.0f}", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")


def transfer(size: int) -> AbstractContextManager[None]:
    """For sending or fetching artifacts, the largest of so many bytes: the server, which may pass them on to a store,
    has minutes to answer."""
    seconds = max(UPLOAD[0] + size / UPLOAD[1], int(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", 0)))
    return _environment(MLFLOW_HTTP_REQUEST_TIMEOUT=f"{seconds:.0f}")


@contextmanager
def translated() -> Iterator[None]:
    """What MLflow and its transports raise, as one error with the reason."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, OSError, ImportError) as error:
        raise TrackingError(_first_line(error)) from error  # an import: of the driver of a database


def _first_line(error: Exception) -> str:
    """Why, without the pools of `requests` around it, and without a page that something else answered with."""
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    said = re.sub(r"failed with exception .*\(Caused by (.*)\)$", r"failed: \1", said)
    return shown(re.sub(r"\s*Response body: '\s*<.*", "", said))[:300]


def reachable(config: ExperimentConfig, workspace: str) -> str:
    """Where an experiment is tracked, and how fast that answers. Raises TrackingError, within seconds, where it does
    not, with what to do about it. Nothing is made."""
    if not config.tracking.enabled:
        return "switched off by tracking.enabled"
    store = Store.of(config, workspace)
    try:
        return store.answers()
    except TrackingError as error:
        raise TrackingError(
            f"MLflow at {shown(store.uri)} does not answer: {error}. Set MLFLOW_TRACKING_URI or --set tracking.uri=…, "
            "let its --allowed-hosts name host and port, or go without: --set tracking.enabled=false"
        ) from error


@dataclass(frozen=True)
class Store:
    """Where things are tracked."""

    uri: str
    artifacts: str | None
    """Root for artifacts of new experiments; None = the server decides."""

    @staticmethod
    def of(config: ExperimentConfig, workspace: str) -> Store:
        return Store.at(workspace, config.tracking.uri)

    @staticmethod
    def at(workspace: str, configured: str | None = None) -> Store:
        uri = tracking_uri(workspace, configured)
        return Store(uri, None if uri.startswith("http") else storage.join(storage.absolute(workspace), "mlartifacts"))

    def location(self, experiment: str) -> str | None:
        """URL of the artifacts of a new experiment, in which a `?`, `#` or `%` of a name is one; None = the server
        decides."""
        if self.artifacts is None:
            return None
        if storage.is_local(self.artifacts):
            return (Path(self.artifacts) / experiment).as_uri()
        return storage.join(self.artifacts, url_quote(experiment, safe="+ "))

    @property
    def client(self) -> Any:
        """An `MlflowClient`."""
        return _client(self.uri)

    def answers(self) -> str:
        """Where it is, and how fast it answers; nothing is made. Raises TrackingError, within seconds for a server that
        is away: MLflow itself asks a database for minutes."""
        start = time.monotonic()
        with translated(), _briefly():
            try:
                if not self._is_there():
                    return f"{shown(self.uri)} is made by the first run"
                self.client.search_experiments(max_results=1)
            except ValueError as error:  # of the URL's parts: a port that is no number
                raise TrackingError(f"it is no URL ({error})") from error
        return f"{shown(self.uri)} answers in {time.monotonic() - start:.1f} s"

    def _is_there(self) -> bool:
        """False for a database file that the first run makes. Raises what connecting to a database raises."""
        from sqlalchemy import create_engine, inspect
        from sqlalchemy.engine import make_url

        kind = re.split(r"[+:]", self.uri, maxsplit=1)[0]
        if kind not in PORTS:
            return True
        url = make_url(self.uri)
        if url.host:
            socket.create_connection((url.host, url.port or PORTS[kind]), PATIENCE).close()
        if kind == "sqlite" and url.database and not (file := Path(url.database).absolute()).exists():
            there = next(folder for folder in file.parents if folder.exists())
            if not there.is_dir() or not os.access(there, os.W_OK):
                raise PermissionError(f"{there} is no folder, or cannot be written")
            return False
        engine = create_engine(url)
        try:
            inspect(engine).get_table_names()
        finally:
            engine.dispose()
        return True

    def runs(self, asked: str) -> Iterator[Any]:
        """Those of all experiments, the newest first."""
        experiments = [e.experiment_id for e in pages(self.client.search_experiments)]
        if experiments:
            order = ["attributes.start_time DESC"]
            yield from pages(self.client.search_runs, experiment_ids=experiments, filter_string=asked, order_by=order)

    def run(self, run_id: str) -> Any:
        """A run, restored where it, or its experiment, was deleted. None: there is none, as after `mlflow gc`."""
        client, run = self.client, existing(self.client.get_run, run_id)
        if run is None or run.info.lifecycle_stage == "active":
            return run
        self._restored(client.get_experiment(run.info.experiment_id))
        if client.get_run(run_id).info.lifecycle_stage == "deleted":
            client.restore_run(run_id)
            say(f"The run {run.info.run_name} had been deleted in MLflow and is restored")
        return client.get_run(run_id)

    def experiment(self, name: str) -> str:
        """The id of an experiment, made if need be, also when another process makes it at the same time.

        One that was deleted is restored: MLflow gives its name to no other.
        """
        from mlflow.exceptions import MlflowException

        client = self.client
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return client.create_experiment(name, artifact_location=self.location(name))
            except MlflowException:
                found = client.get_experiment_by_name(name)
                if found is None:
                    raise
        self._restored(found)
        return found.experiment_id

    def _restored(self, experiment: Any) -> None:
        if experiment.lifecycle_stage == "deleted":
            self.client.restore_experiment(experiment.experiment_id)
            say(
                f"The experiment {experiment.name} had been deleted in MLflow and is restored, with all of its runs: "
                "these belong into it. `mlflow gc` removes what is deleted for good"
            )


def existing(get: Callable[[str], Any], name: str) -> Any:
    """What `get` gives; None for what MLflow does not have."""
    from mlflow.exceptions import MlflowException

    try:
        return get(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def pages(search: Callable[..., Any], **asked: Any) -> Iterator[Any]:
    """All that a search finds, however many pages they are."""
    token = None
    while True:
        page = search(**asked, max_results=1000, page_token=token)
        yield from page
        if not (token := page.token):
            return
