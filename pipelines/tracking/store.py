"""Where runs are tracked: the URI, a client that does not wait for minutes, and one error for what goes wrong there."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pipelines import storage
from pipelines.config import ExperimentConfig
from pipelines.progress import say
from pipelines.redaction import shown
from zse_model.errors import ZseError

TRACKED = "tracked.json"  # beside what was delivered: where to


class TrackingError(ZseError):
    """The tracking server did not take something; what it was is still in the workspace."""


def tracking_uri(workspace: str, configured: str | None = None) -> str:
    """The configured URI, else MLFLOW_TRACKING_URI, else SQLite in a local workspace (the working folder otherwise)."""
    if uri := configured or os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    folder = Path(storage.absolute(workspace)) if storage.is_local(workspace) else _beside_remote_workspace()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'mlflow.db'}"


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
    return f"open {uri} in a browser" if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"


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

    return MlflowClient(tracking_uri=uri)


@contextmanager
def translated() -> Iterator[None]:
    """What MLflow and its transports raise, as one error with the reason."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
        raise TrackingError(shown(str(error).splitlines()[0])[:300] if str(error) else type(error).__name__) from error


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

    @property
    def client(self) -> Any:
        """An `MlflowClient`."""
        return _client(self.uri)

    def answers(self) -> str:
        """Where it is, and how fast it answers; nothing is made. Raises TrackingError."""
        if self.uri.startswith("sqlite:///") and not Path(self.uri.removeprefix("sqlite:///")).exists():
            return f"{self.uri} is made by the first run"
        start = time.monotonic()
        with translated():
            self.client.search_experiments(max_results=1)
        return f"{shown(self.uri)} answers in {time.monotonic() - start:.1f} s"

    def runs(self, asked: str) -> Iterator[Any]:
        """Those of all experiments, the newest first."""
        experiments = [e.experiment_id for e in pages(self.client.search_experiments)]
        if experiments:
            order = ["attributes.start_time DESC"]
            yield from pages(self.client.search_runs, experiment_ids=experiments, filter_string=asked, order_by=order)

    def experiment(self, name: str) -> str:
        """The id of an experiment, made if need be, also when another process makes it at the same time."""
        client = self.client
        found = client.get_experiment_by_name(name)
        if found is None:
            from mlflow.exceptions import MlflowException

            try:
                location = storage.join(self.artifacts, name) if self.artifacts else None
                return client.create_experiment(name, artifact_location=location)
            except MlflowException:
                found = client.get_experiment_by_name(name)
                if found is None:
                    raise
        return found.experiment_id


def pages(search: Callable[..., Any], **asked: Any) -> Iterator[Any]:
    """All that a search finds, however many pages they are."""
    token = None
    while True:
        page = search(**asked, max_results=1000, page_token=token)
        yield from page
        if not (token := page.token):
            return
