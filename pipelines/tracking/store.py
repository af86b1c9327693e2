"""Connect to MLflow: the tracking URI, a client with short timeouts, and `TrackingError` for all of MLflow's errors."""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from shlex import quote
from typing import Any
from urllib.parse import quote as url_quote

from pipelines.config.experiment import ExperimentConfig
from pipelines.runtime.progress import say
from pipelines.runtime.redaction import shown
from pipelines.store import storage
from zse_model.errors import ZseError

TRACKED = "tracked.json"  # in a delivered folder: the URI, run and model that it was delivered to
PATIENCE = 5.0  # s until a server must accept a connection when it is checked
PORTS = {"sqlite": 0, "postgresql": 5432, "mysql": 3306, "mssql": 1433}  # default ports of MLflow's databases
RUNS = 200  # runs a page. MLflow gives all metrics of a run: 1,000 runs of 200 metrics take 420 MB, 200 runs 83 MB
UPLOAD = 600, 1e6  # s, plus size / (bytes/s): a proxy answers only when its store has everything


class TrackingError(ZseError):
    """MLflow cannot be reached, refused a request, or does not know a name. Results stay in the workspace."""


def tracking_uri(workspace: str, configured: str | None = None) -> str:
    """The configured URI, else MLFLOW_TRACKING_URI, else SQLite in a local workspace, else in the working folder."""
    if uri := configured or os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    folder = Path(storage.absolute(workspace)) if storage.is_local(workspace) else _beside_remote_workspace()
    return sqlite_uri(folder / "mlflow.db")


def sqlite_uri(database: Path) -> str:
    """The URL of a database file. Only `?` and `%` before two hex digits are escaped, so that URLs of other paths stay
    as they were. MLflow creates the folder of a `sqlite:///` URL without unescaping it: an escaped one names the
    driver."""
    path = re.sub(r"%(?=[0-9A-Fa-f]{2})", "%25", str(database)).replace("?", "%3F")
    return f"sqlite:///{path}" if path == str(database) else f"sqlite+pysqlite:///{path}"


@cache
def _beside_remote_workspace() -> Path:
    """The working folder. Prints a warning once: a submitted job's folder is deleted with the job."""
    folder = Path.cwd()
    say(
        f"MLflow runs go to {folder / 'mlflow.db'}: no tracking URI is set and the workspace is not local. A submitted "
        "job loses this file at its end. Set MLFLOW_TRACKING_URI or --set tracking.uri=http://HOST:5000"
    )
    return folder


def ui_command(uri: str) -> str:
    """How to open the MLflow UI: a command for a database, advice for a server."""
    if uri.startswith("http"):
        return f"open {shown(uri)} in a browser"
    return f"mlflow ui --backend-store-uri {quote(shown(uri))}"


@cache
def _client(uri: str) -> Any:
    # An unreachable server must cost seconds, not minutes: what was not logged is delivered later.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for results
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    from mlflow import MlflowClient
    from sqlalchemy.engine import make_url

    if uri.startswith("sqlite") and (database := make_url(uri).database):
        Path(database).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set environment variables that MLflow reads at each request."""
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
    """Raise the request timeout for artifacts of at most `size` bytes: a server may first pass them on to a store."""
    seconds = max(UPLOAD[0] + size / UPLOAD[1], int(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", 0)))
    return _environment(MLFLOW_HTTP_REQUEST_TIMEOUT=f"{seconds:.0f}")


@contextmanager
def translated() -> Iterator[None]:
    """Raise errors of MLflow and its transports as TrackingError with the reason."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, OSError, ImportError) as error:
        raise TrackingError(_first_line(error)) from error  # ImportError: a database driver is missing


def _first_line(error: Exception) -> str:
    """The reason, without the connection pool that `requests` adds, and without an HTML page of another server."""
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    said = re.sub(r"failed with exception .*\(Caused by (.*)\)$", r"failed: \1", said)
    return shown(re.sub(r"\s*Response body: '\s*<.*", "", said))[:300]


def reachable(config: ExperimentConfig, workspace: str) -> str:
    """A line with the tracking URI of an experiment and its response time. Creates nothing. Raises TrackingError within
    seconds if MLflow does not answer."""
    if not config.tracking.enabled:
        return "switched off by tracking.enabled"
    store = Store.of(config, workspace)
    try:
        return store.answers()
    except TrackingError as error:
        raise TrackingError(
            f"MLflow at {shown(store.uri)} does not answer: {error}. Set MLFLOW_TRACKING_URI or --set tracking.uri=…, "
            "name host and port in its --allowed-hosts, or disable tracking: --set tracking.enabled=false"
        ) from error


@dataclass(frozen=True)
class Store:
    """An MLflow tracking store: its URI and where artifacts go."""

    uri: str
    artifacts: str | None
    """Root of the artifacts of new experiments; None = the server decides."""

    @staticmethod
    def of(config: ExperimentConfig, workspace: str) -> Store:
        return Store.at(workspace, config.tracking.uri)

    @staticmethod
    def at(workspace: str, configured: str | None = None) -> Store:
        uri = tracking_uri(workspace, configured)
        return Store(uri, None if uri.startswith("http") else storage.join(storage.absolute(workspace), "mlartifacts"))

    def location(self, experiment: str) -> str | None:
        """URL of the artifacts of a new experiment, with its name escaped; None = the server decides."""
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
        """A line with the URI and its response time. Creates nothing. Raises TrackingError, within seconds for an
        unreachable server: MLflow itself retries a database for minutes."""
        start = time.monotonic()
        with translated(), _briefly():
            try:
                if not self._is_there():
                    return f"{shown(self.uri)} will be created by the first run"
                self.client.search_experiments(max_results=1)
            except ValueError as error:  # such as a port that is not a number
                raise TrackingError(f"it is not a URL ({error})") from error
        return f"{shown(self.uri)} answers in {time.monotonic() - start:.1f} s"

    def _is_there(self) -> bool:
        """False for a database file that does not exist yet. Raises the errors of connecting to a database."""
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
                raise PermissionError(f"{there} is not a folder, or cannot be written")
            return False
        engine = create_engine(url)
        try:
            inspect(engine).get_table_names()
        finally:
            engine.dispose()
        return True

    def runs(self, *asked: str, **tags: str) -> Iterator[Any]:
        """The runs of all experiments that match every filter and have these values of the tags `zse.<name>`, newest
        first. A page at a time is held: keep of a run what is needed. A run that starts meanwhile may make another one
        appear twice; one that is deleted meanwhile may hide another."""
        experiments = [e.experiment_id for e in pages(self.client.search_experiments)]
        if experiments:
            wanted = " and ".join([*(f"tags.`zse.{name}` = '{value}'" for name, value in tags.items()), *asked])
            order = ["attributes.start_time DESC"]
            search = partial(self.client.search_runs, filter_string=wanted, order_by=order)
            yield from pages(search, RUNS, experiment_ids=experiments)

    def run(self, run_id: str) -> Any:
        """A run, restored if it or its experiment was deleted; None if there is none, such as after `mlflow gc`."""
        client, run = self.client, existing(self.client.get_run, run_id)
        if run is None or run.info.lifecycle_stage == "active":
            return run
        self._restored(client.get_experiment(run.info.experiment_id))
        if client.get_run(run_id).info.lifecycle_stage == "deleted":
            client.restore_run(run_id)
            say(f"Restored the run {run.info.run_name}, which was deleted in MLflow")
        return client.get_run(run_id)

    def experiment(self, name: str) -> str:
        """The id of an experiment, created if necessary, also if another process creates it at the same time.

        A deleted experiment is restored, since MLflow does not reuse its name.
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
                f"Restored the experiment {experiment.name}, which was deleted in MLflow, with all its runs: new runs "
                "belong to it. `mlflow gc` removes deleted experiments for good"
            )


def existing(get: Callable[[str], Any], name: str) -> Any:
    """`get(name)`; None if MLflow does not have it."""
    from mlflow.exceptions import MlflowException

    try:
        return get(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def pages(search: Callable[..., Any], most: int = 1000, **asked: Any) -> Iterator[Any]:
    """The results of a search, from all its pages. most: results a page. One page at a time is held."""
    token = None
    while True:
        page = search(**asked, max_results=most, page_token=token)
        token = page.token
        yield from page
        del page  # before the next one is fetched
        if not token:
            return
