"""Register models, set the aliases champion, challenger and former, and log decisions. `zse promote` calls it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipelines.store import storage
from pipelines.tracking.models import NAMES, REGISTERED, existing_version, logged_model, named_version
from pipelines.tracking.once import run_once
from pipelines.tracking.store import TRACKED, Store, TrackingError, translated

CHAMPION, CHALLENGER, FORMER = "champion", "challenger", "former"
ALLOWED = re.compile(r"(?!\s)[^/:@'\"`\\\x00-\x1f]{1,256}(?<!\s)")
"""Names that MLflow accepts and that `models:/NAME@ALIAS` can express."""
PROMOTIONS = "promotions"  # the experiment of the decisions


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{REGISTERED}{self.name}/{self.version}"


def version_at(store: Store, name: str, alias: str) -> Version | None:
    """The version that an alias names; None if the alias is not set."""
    with translated():
        found = existing_version(partial(store.client.get_model_version_by_alias, name), alias)
    return Version(name, str(found.version)) if found else None


def find_version(store: Store, model: str, name: str | None) -> tuple[str, Version | None]:
    """(registered name, version of a model; None if it is not registered under that name yet).

    model: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `models:/m-ID` or a checkpoint's folder.
    Raises TrackingError for a model that is not tracked, for a version of another name, and for an invalid name.
    """
    if name is not None and not ALLOWED.fullmatch(name):
        raise TrackingError(
            f"--name {name!r} is not a name for a registered model. Allowed: 1 to 256 characters without / : @ quotes "
            "and backslashes, such as zse"
        )
    parts = NAMES.fullmatch(model)
    if parts and parts["name"]:
        if name not in (None, parts["name"]):
            raise TrackingError(f"{model} is not a version of {name}. Leave out --name, or give --name {parts['name']}")
        own = str(parts["name"])
        with translated():
            return own, Version(own, str(named_version(store, model).version))
    if name is None:
        raise TrackingError(f"{model} is not registered yet. Give a name to register it under, such as --name zse")
    source = _source(model)
    with translated():
        known = [v for v in store.client.search_model_versions(f"name = '{name}'") if v.source == source]
    return name, Version(name, str(known[0].version)) if known else None


def _source(model: str) -> str:
    """`models:/m-ID` of the logged model of a checkpoint's folder. Raises TrackingError if it is not tracked."""
    if model.startswith(REGISTERED):
        return model
    url = storage.join(model, TRACKED)
    if not storage.exists(url):
        raise TrackingError(f"{model} is not tracked. Run `zse train` with tracking.enabled: it logs its checkpoint")
    return f"{REGISTERED}{storage.read_json(url)['model']}"


def register(store: Store, model: str, name: str) -> Version:
    """Register a logged model or a checkpoint's folder as a new version of `name`."""
    from mlflow.exceptions import MlflowException

    source = _source(model)
    with translated(), _everywhere(store.uri):
        try:
            store.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = logged_model(store, source)
        made = store.client.create_model_version(name, source, run_id=found.source_run_id, model_id=found.model_id)
    return Version(name, str(made.version))


@contextmanager
def _everywhere(uri: str) -> Iterator[None]:
    """Set MLFLOW_TRACKING_URI: the registry looks up a logged model there, not at the URI of its client."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        yield
    finally:
        os.environ.pop("MLFLOW_TRACKING_URI")
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def tag(store: Store, version: Version, key: str, value: str) -> None:
    with translated():
        store.client.set_model_version_tag(version.name, version.version, key, value)


def set_champion(store: Store, candidate: Version) -> None:
    """Make the candidate the champion and the last champion `former`. Unset `challenger` if it was the candidate."""
    before = version_at(store, candidate.name, CHAMPION)
    challenger = version_at(store, candidate.name, CHALLENGER)
    with translated():
        if before and before != candidate:
            store.client.set_registered_model_alias(candidate.name, FORMER, before.version)
        store.client.set_registered_model_alias(candidate.name, CHAMPION, candidate.version)
        if challenger == candidate:
            store.client.delete_registered_model_alias(candidate.name, CHALLENGER)


def set_challenger(store: Store, candidate: Version) -> None:
    with translated():
        store.client.set_registered_model_alias(candidate.name, CHALLENGER, candidate.version)


def log_decision(store: Store, candidate: Version, champion: Version | None, decision: dict[str, Any]) -> str:
    """Log a decision with its reasons, as a run of the experiment `promotions` and as a tag of the version. An equal
    decision is logged once. Returns the run's id."""
    key = storage.digest([str(candidate), str(champion), decision], 16)
    outcome = "promoted" if decision["promoted"] else "kept"
    tags = {
        "zse.kind": "promotion",
        "zse.registered_model": candidate.name,
        "zse.candidate": candidate.version,
        "zse.champion": champion.version if champion else "",
        "zse.outcome": outcome,
        "mlflow.source.name": "zse promote",
    }
    name = f"{candidate.name}/{candidate.version} {outcome}"
    with translated():
        run, made = run_once(
            store,
            store.experiment(PROMOTIONS),
            key,
            name,
            tags,
            lambda run: store.client.log_dict(run.info.run_id, decision, "decision.json"),
        )
        if made:
            told = json.dumps({"run": run.info.run_id, "outcome": outcome})
            store.client.set_model_version_tag(candidate.name, candidate.version, "zse.decision", told)
    return run.info.run_id
