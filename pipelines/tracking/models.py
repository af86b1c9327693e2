"""Checkpoints as MLflow models, and back from a registered name.

    MLmodel  requirements.txt  ranker.py  code/{zse_model,pipelines}
    artifacts/checkpoint/{manifest.json,checkpoint.json,model.safetensors,seen.safetensors}

A model is made from code: `ranker.py` and the two packages as text, the weights as safetensors. Nothing in it is
pickled. `mlflow.pyfunc.load_model` ranks photos with it; to `zse` it is the checkpoint that it was logged from.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import Distribution, distributions, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from packaging.requirements import Requirement

import pipelines
import zse_model
from pipelines.runtime.errors import StorageError
from pipelines.runtime.progress import say
from pipelines.runtime.redaction import shown
from pipelines.store import storage
from pipelines.tracking.store import TRACKED, Store, TrackingError, existing, pages, transfer, translated
from pipelines.workspace import shards
from zse_model.checkpoint import INFO, SEEN, WEIGHTS, load_checkpoint

REGISTERED = "models:/"
NAMES = re.compile(r"models:/(?:(?P<id>m-[0-9a-f]+)|(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+)))")
DISTRIBUTIONS = ("zse-retrieval", "zse")  # `zse` until 0.2.0; on PyPI that is another project
PARTS = (WEIGHTS, SEEN, INFO, shards.MANIFEST)  # the last one written last


class NotEvaluatedError(TrackingError):
    """A model that MLflow knows and has no evaluation of."""


def log_model(store: Store, run_id: str, manifest: dict[str, Any], checkpoint: str, temporary: Path) -> str:
    """A checkpoint folder as a logged model, linked to its run; gives its id. One that was begun is finished."""
    from mlflow.entities import LoggedModelOutput

    client, run = store.client, store.client.get_run(run_id)
    model = _begun(store, run, manifest["digest"]) or client.create_logged_model(
        run.info.experiment_id,
        name=manifest["name"].replace("+", "-").replace(".", "-"),
        source_run_id=run_id,
        model_type=f"zse.{manifest['method']}",
        tags={"zse.checkpoint_hash": manifest["digest"], "zse.checkpoint": checkpoint},
        params={k: str(v) for k, v in manifest["training"].items()},
    )
    if model.status != "READY":
        weights = temporary / "checkpoint"
        weights.mkdir()
        for name in PARTS:
            (weights / name).write_bytes(storage.read_bytes(storage.join(checkpoint, name)))
        _save(weights, temporary / "model", model.model_id)
        with transfer(max(file.stat().st_size for file in weights.iterdir())):
            client.log_model_artifacts(model.model_id, str(temporary / "model"))
        client.finalize_logged_model(model.model_id, "READY")
    if model.model_id not in {output.model_id for output in run.outputs.model_outputs}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, int(manifest["training"].get("steps") or 0))])
    return model.model_id


def _begun(store: Store, run: Any, digest: str) -> Any:
    """The logged model of a run and checkpoint that an earlier try has made, whole or pending, if any. Further
    pending ones, which nobody will finish, are deleted."""
    of_run = f"source_run_id = '{run.info.run_id}'"
    search = partial(store.client.search_logged_models, [run.info.experiment_id], filter_string=of_run)
    found = [model for model in pages(search) if model.tags.get("zse.checkpoint_hash") == digest]
    found.sort(key=lambda model: (model.status != "READY", model.creation_timestamp))
    for other in found[1:]:
        if other.status != "READY":
            store.client.delete_logged_model(other.model_id)
    return next(iter(found), None)


def _save(checkpoint: Path, folder: Path, model_id: str) -> None:
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ParamSchema, ParamSpec

    with warnings.catch_warnings():  # an example input would be a picture in every model
        warnings.filterwarnings("ignore", message="(?s).*An input example was not provided")
        save_model(
            str(folder),
            mlflow_model=Model(model_id=model_id),
            python_model=str(Path(pipelines.__path__[0], "search", "ranker.py")),
            artifacts={"checkpoint": str(checkpoint)},
            code_paths=[str(Path(module.__path__[0])) for module in (pipelines, zse_model)],
            pip_requirements=requirements(),
            # Of what goes in only the parameters: a sketch is bytes, an array, or text, as ranker.py says.
            signature=ModelSignature(
                params=ParamSchema([ParamSpec("top", "long", 10), ParamSpec("mode", "string", "")]),
            ),
            model_config={"index": ""},
        )


def installed() -> Distribution:
    """The distribution that this code is installed as. Raises TrackingError where it is not installed."""
    for name in DISTRIBUTIONS:
        for found in distributions(name=name):
            if "pipelines" in (found.read_text("top_level.txt") or "").split():
                return found
    raise TrackingError(
        f"{DISTRIBUTIONS[0]} is not installed here, so the packages that a logged model needs are unknown. "
        "Install it (pip install -c constraints.txt -e .) and run the same command again"
    )


def requirements() -> list[str]:
    """What this code needs, in the versions that are installed."""
    needed = [Requirement(line) for line in installed().requires or ()]
    pinned = []
    for one in needed:
        if one.marker is None:
            extras = f"[{','.join(sorted(one.extras))}]" if one.extras else ""
            pinned.append(f"{one.name}{extras}=={version(one.name).partition('+')[0]}")  # 2.13.0+cpu is in no index
    return pinned


def checkpoint_of(name: str, workspace: str, configured: str | None = None) -> str:
    """The checkpoint that a name means: a folder or URL as it is, or `models:/NAME@ALIAS`, `models:/NAME/VERSION`,
    `models:/m-ID` of the registry.

    It is the folder that the model was logged from, if that is there with these weights, else the model's own copy, put
    into the workspace. Raises TrackingError for a name that the registry does not know, or a copy that is not whole.
    """
    if not name.startswith(REGISTERED):
        return name
    store = Store.at(workspace, configured)
    with translated():
        model = logged_model(store, name)
    url, digest = model.tags.get("zse.checkpoint", ""), model.tags.get("zse.checkpoint_hash", "")
    if not digest:
        raise TrackingError(f"{name} is no model of zse: it has no tag zse.checkpoint_hash")
    return url if url and _digest(url) == digest else _copied(store, name, model, digest, workspace)


def reports_of(name: str, workspace: str, configured: str | None = None) -> list[str]:
    """The reports that a name means: a report's folder, an evaluation's run id, or all that MLflow knows of a
    training's run id, a checkpoint's folder or a registered name; the newest first.

    Raises NotEvaluatedError where there is none, TrackingError for a name that means no model.
    """
    if storage.exists(storage.join(name, "report.json")) and storage.exists(storage.join(name, "queries.parquet")):
        return [storage.absolute(name)]
    store = Store.at(workspace, configured)
    with translated():
        if re.fullmatch(r"[0-9a-f]{32}", name):
            tags = store.client.get_run(name).data.tags
            if report := tags.get("zse.report"):
                return [report]
            name = tags.get("zse.checkpoint", name)
        checkpoint = checkpoint_of(name, workspace, configured)
        digest = _digest(checkpoint)
        if digest is None:
            raise TrackingError(
                f"{name} is no report, no checkpoint and no run. Allowed: the folder of a report or checkpoint, "
                "models:/NAME@ALIAS, or the id of an MLflow run"
            )
        found = _evaluations(store, digest)
    tracked = list(dict.fromkeys(run.data.tags["zse.report"] for run in found))
    reports = [report for report in tracked if storage.exists(storage.join(report, shards.MANIFEST))]
    if gone := set(tracked) - set(reports):
        say(f"{len(gone)} reports of {name} are not where they were tracked, such as {min(gone)}: they are left out")
    if not reports:
        raise NotEvaluatedError(f"No evaluation of {name} is tracked in {shown(store.uri)}. Run `zse evaluate` first")
    return reports


def _evaluations(store: Store, checkpoint_hash: str) -> list[Any]:
    """The evaluation runs of a checkpoint, the newest first."""
    asked = f"tags.`zse.kind` = 'evaluation' and tags.`zse.checkpoint_hash` = '{checkpoint_hash}'"
    return list(store.runs(asked))


def logged_model(store: Store, name: str) -> Any:
    parts = NAMES.fullmatch(name)
    if not parts:
        raise TrackingError(f"{name} names no model. Allowed: models:/NAME@ALIAS, models:/NAME/VERSION, models:/m-ID")
    if parts["id"]:
        if model := existing(store.client.get_logged_model, parts["id"]):
            return model
        raise TrackingError(
            f"{name} is not in {shown(store.uri)}, or was deleted there. Name the checkpoint's folder instead, or "
            "repeat the `zse run` that trained it: that tracks it again"
        )
    source = named_version(store, name).source
    try:
        return logged_model(store, source)
    except TrackingError as error:
        raise TrackingError(f"{name}: {error}, then register that: zse promote CHECKPOINT --name NAME") from error


def named_version(store: Store, name: str) -> Any:
    """The registered version of `models:/NAME@ALIAS` or `models:/NAME/VERSION`. Raises TrackingError where the registry
    has none, with what it has."""
    parts, client = NAMES.fullmatch(name), store.client
    assert parts is not None and parts["name"]
    by_alias = partial(client.get_model_version_by_alias, parts["name"])
    version = existing_version(by_alias, parts["alias"]) if parts["alias"] else None
    if parts["version"]:
        version = existing_version(partial(client.get_model_version, parts["name"]), parts["version"])
    if version is not None:
        return version
    registered = existing(client.get_registered_model, parts["name"])
    if registered is None:
        there = f"there is no model {parts['name']}. Register one: zse promote CHECKPOINT --name {parts['name']}"
    else:
        versions = pages(client.search_model_versions, filter_string=f"name = '{parts['name']}'")
        numbers = ", ".join(str(number) for number in sorted(int(version.version) for version in versions))
        aliases = ", ".join(f"@{alias}" for alias in sorted(registered.aliases))
        there = f"{parts['name']} has the versions {numbers or 'none'} and the aliases {aliases or 'none'}"
    raise TrackingError(f"{name} is not in the registry at {shown(store.uri)}: {there}")


def existing_version(get: Callable[[str], Any], which: str) -> Any:
    """What `get` gives; None for an alias or a number that no version has, which MLflow calls an invalid parameter."""
    from mlflow.exceptions import MlflowException

    try:
        return existing(get, which)
    except MlflowException as error:
        if error.error_code == "INVALID_PARAMETER_VALUE":
            return None
        raise


def _digest(checkpoint: str) -> str | None:
    """Of a checkpoint that may be gone, or out of reach."""
    try:
        return storage.read_json(storage.join(checkpoint, shards.MANIFEST))["digest"]
    except (StorageError, OSError, ValueError, KeyError):
        return None


def _copied(store: Store, name: str, model: Any, digest: str, workspace: str) -> str:
    """The model's own checkpoint, in the workspace, where every worker can read it."""
    folder = storage.join(storage.absolute(workspace), "checkpoints", f"registered-{digest[:16]}")
    if _digest(folder) == digest:
        return folder
    from mlflow.artifacts import download_artifacts

    with TemporaryDirectory(prefix="zse-") as temporary:
        with translated(), transfer(0):
            source = f"{model.artifact_location.rstrip('/')}/artifacts/checkpoint"
            copy = Path(download_artifacts(source, dst_path=temporary, tracking_uri=store.uri))
        if not all((copy / part).is_file() for part in PARTS) or load_checkpoint(copy).digest != digest:
            raise TrackingError(f"{name}: what is stored at {source} is not the checkpoint that was logged")
        logged = {"uri": shown(store.uri), "run": model.source_run_id, "model": model.model_id}
        storage.write_json(storage.join(folder, TRACKED), logged)
        for part in PARTS:
            storage.write_bytes(storage.join(folder, part), (copy / part).read_bytes())
    return folder
