"""The registered versions of a model, and which of them is the champion."""

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
"""Names that MLflow takes and `models:/NAME@ALIAS` can say."""
PROMOTIONS = "promotions"  # the experiment that decisions are logged in


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{REGISTERED}{self.name}/{self.version}"


def version_at(store: Store, name: str, alias: str) -> Version | None:
    """What an alias means now; None for nothing."""
    with translated():
        found = existing_version(partial(store.client.get_model_version_by_alias, name), alias)
    return Version(name, str(found.version)) if found else None


def find_version(store: Store, model: str, name: str | None) -> tuple[str, Version | None]:
    """The registered name, and the version that a model is there: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, or a
    logged model or checkpoint's folder, that `name` may not have yet (None).

    Raises TrackingError for one that is not tracked, for a version of another name, and for a name that none may have.
    """
    if name is not None and not ALLOWED.fullmatch(name):
        raise TrackingError(
            f"--name {name!r} cannot name a registered model: 1 to 256 characters without / : @ quotes and backslashes "
            "are allowed, such as zse"
        )
    parts = NAMES.fullmatch(model)
    if parts and parts["name"]:
        if name not in (None, parts["name"]):
            raise TrackingError(f"{model} is no version of {name}: a version belongs to one registered model")
        own = str(parts["name"])
        with translated():
            return own, Version(own, str(named_version(store, model).version))
    if name is None:
        raise TrackingError(f"{model} is not registered yet: give the name to register it by, --name zse")
    source = _source(model)
    with translated():
        known = [v for v in store.client.search_model_versions(f"name = '{name}'") if v.source == source]
    return name, Version(name, str(known[0].version)) if known else None


def _source(model: str) -> str:
    """The logged model that a checkpoint's folder is, as the registry names it."""
    if model.startswith(REGISTERED):
        return model
    url = storage.join(model, TRACKED)
    if not storage.exists(url):
        raise TrackingError(f"{model} is not tracked: `zse train` logs its checkpoint, and says where MLflow is")
    return f"{REGISTERED}{storage.read_json(url)['model']}"


def register(store: Store, model: str, name: str) -> Version:
    """A new version: of a logged model or a checkpoint's folder."""
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
    """The registry looks a logged model up where the environment says, not where its own client does."""
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
    """The candidate becomes the champion; who was is `former`, and the challenger's place is free if it was its."""
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
    """A run of the experiment `promotions` with the decision and its reasons, one however often it is taken, which is
    also a tag of the version; gives its id."""
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
