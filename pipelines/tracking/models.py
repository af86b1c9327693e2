"""Log checkpoints as MLflow models, and resolve registered names to checkpoints and reports.

    MLmodel  requirements.txt  ranker.py  code/{zse_model,pipelines}
    artifacts/checkpoint/{manifest.json,checkpoint.json,model.safetensors,seen.safetensors}

A model is logged from code: `ranker.py` and the two packages as text, the weights as safetensors. Nothing is pickled.
`mlflow.pyfunc.load_model` loads it to rank photos; `zse` reads the checkpoint that it was logged from.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import Distribution, distributions, version
from importlib.util import find_spec
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
from pipelines.workspace.kept import MANIFEST
from pipelines.workspace.reports import Report
from pipelines.workspace.training import Training
from zse_model.checkpoint import INFO, SEEN, WEIGHTS, load_checkpoint

REGISTERED = "models:/"
NAMES = re.compile(r"models:/(?:(?P<id>m-[0-9a-f]+)|(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+)))")
DISTRIBUTIONS = ("zse-retrieval", "zse")  # `zse` before 0.2.0; on PyPI that name is another project
PARTS = (WEIGHTS, SEEN, INFO, MANIFEST)  # in the order of writing: the manifest last


class NotEvaluatedError(TrackingError):
    """A model without a tracked evaluation."""


def log_model(store: Store, run_id: str, training: Training, temporary: Path) -> str:
    """Log a checkpoint folder as a model linked to its run, or finish one that was begun. Returns the model's id."""
    from mlflow.entities import LoggedModelOutput

    client, run = store.client, store.client.get_run(run_id)
    model = _begun(store, run, training.digest) or client.create_logged_model(
        run.info.experiment_id,
        name=training.run_name.replace("+", "-").replace(".", "-"),
        source_run_id=run_id,
        model_type=f"zse.{training.method}",
        tags={"zse.checkpoint_hash": training.digest, "zse.checkpoint": training.url},
        params={k: str(v) for k, v in training.training.items()},
    )
    if model.status != "READY":
        weights = temporary / "checkpoint"
        weights.mkdir()
        for name in PARTS:
            (weights / name).write_bytes(storage.read_bytes(storage.join(training.url, name)))
        _save(weights, temporary / "model", model.model_id)
        with transfer(max(file.stat().st_size for file in weights.iterdir())):
            client.log_model_artifacts(model.model_id, str(temporary / "model"))
        client.finalize_logged_model(model.model_id, "READY")
    if model.model_id not in {output.model_id for output in run.outputs.model_outputs}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, int(training.training.get("steps") or 0))])
    return model.model_id


def _begun(store: Store, run: Any, digest: str) -> Any:
    """The logged model of a run and checkpoint from an earlier try, finished or pending; None if there is none. Other
    pending models, left by interrupted tries, are deleted."""
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

    with (
        warnings.catch_warnings(),
        TemporaryDirectory() as temporary,
    ):  # no example input: it would put a picture into every model
        warnings.filterwarnings("ignore", message="(?s).*An input example was not provided")
        save_model(
            str(folder),
            mlflow_model=Model(model_id=model_id),
            python_model=str(Path(pipelines.__path__[0], "search", "ranker.py")),
            artifacts={"checkpoint": str(checkpoint)},
            code_paths=[_code(Path(module.__path__[0]), temporary) for module in (pipelines, zse_model)],
            pip_requirements=requirements(),
            # Parameters only: the input may be bytes, an array or text, see ranker.py.
            signature=ModelSignature(
                params=ParamSchema(
                    [
                        ParamSpec("top", "long", 10),
                        ParamSpec("mode", "string", ""),
                        ParamSpec("clean", "string", "auto"),
                    ]
                ),
            ),
            model_config={"index": ""},
        )


def _code(package: Path, folder: str) -> str:
    """A copy of a package for a model, which has no use for the page, the service and the drawings of the demo."""
    ignored = shutil.ignore_patterns("__pycache__", "serve", "emoji")
    return shutil.copytree(package, os.path.join(folder, package.name), ignore=ignored)


def installed() -> Distribution:
    """The distribution that this code is installed as. Raises TrackingError if it is not installed."""
    for name in DISTRIBUTIONS:
        for found in distributions(name=name):
            if "pipelines" in (found.read_text("top_level.txt") or "").split():
                return found
    raise TrackingError(
        f"{DISTRIBUTIONS[0]} is not installed, so the requirements of a logged model are unknown. Install it "
        "(pip install -c constraints.txt -e .) and run the same command again"
    )


def requirements() -> list[str]:
    """The dependencies of this code, and those of the extra `index` where it is installed, pinned to the installed
    versions."""
    needed = [Requirement(line) for line in installed().requires or ()]
    pinned = []
    for one in needed:
        extra = one.marker is not None and one.marker.evaluate({"extra": "index"}) and find_spec(one.name) is not None
        if one.marker is None or extra:
            extras = f"[{','.join(sorted(one.extras))}]" if one.extras else ""
            pinned.append(f"{one.name}{extras}=={version(one.name).partition('+')[0]}")  # PyPI has no 2.13.0+cpu
    return pinned


def checkpoint_of(name: str, workspace: str, configured: str | None = None) -> str:
    """The checkpoint folder of a name: a folder or URL, or `models:/NAME@ALIAS`, `models:/NAME/VERSION`,
    `models:/m-ID`.

    For a model: the folder that it was logged from if it still has the same weights, else the model's own copy, fetched
    into the workspace. Raises TrackingError for an unknown name, and for an incomplete copy.
    """
    if not name.startswith(REGISTERED):
        return name
    store = Store.at(workspace, configured)
    model, digest = _identified(store, name)
    return _complete(model, digest, workspace) or _copied(store, name, model, digest, workspace)


def described(name: str, workspace: str, configured: str | None = None) -> tuple[Training, dict[str, Any]]:
    """The manifest and the content of checkpoint.json of a name, without its weights. Names as of `checkpoint_of`.

    The training has the folder that `checkpoint_of` returns. It is complete only after that: a model's own copy is not
    fetched here, but these two files of it. Raises TrackingError as `checkpoint_of` does.
    """
    folder = storage.absolute(name)
    if name.startswith(REGISTERED):
        store = Store.at(workspace, configured)
        model, digest = _identified(store, name)
        if (found := _complete(model, digest, workspace)) is None:
            with TemporaryDirectory(prefix="zse-") as temporary:
                copy = _fetched(store, model, Path(temporary), INFO, MANIFEST)
                training = Training.open(str(copy))
                info = storage.read_json(str(copy / INFO))
            if training.digest != digest:
                raise TrackingError(_another(name, model))
            return replace(training, url=_place(digest, workspace)), info
        folder = storage.absolute(found)
    return Training.open(folder), storage.read_json(storage.join(folder, INFO))


def digest_of(name: str, workspace: str, configured: str | None = None) -> str | None:
    """The digest of a name's checkpoint, without its files if the name is registered; None if there is no checkpoint.
    Names as of `checkpoint_of`."""
    if not name.startswith(REGISTERED):
        return _digest(name)
    return _identified(Store.at(workspace, configured), name)[1]


def _identified(store: Store, name: str) -> tuple[Any, str]:
    """The logged model of a registered name, and the digest of its checkpoint."""
    with translated():
        model = logged_model(store, name)
    if digest := model.tags.get("zse.checkpoint_hash", ""):
        return model, digest
    raise TrackingError(f"{name} was not logged by zse: it has no tag zse.checkpoint_hash. Name another model")


def _complete(model: Any, digest: str, workspace: str) -> str | None:
    """The folder with the checkpoint of a model: the one it was logged from, or its copy in the workspace; None if
    neither has these weights."""
    url, copy = model.tags.get("zse.checkpoint", ""), _place(digest, workspace)
    return next((folder for folder in (url, copy) if folder and _digest(folder) == digest), None)


def _place(digest: str, workspace: str) -> str:
    """The folder of the workspace for the copy of a registered model."""
    return storage.join(storage.absolute(workspace), Training.KIND, f"registered-{digest[:16]}")


def reports_of(name: str, workspace: str, configured: str | None = None) -> list[Report]:
    """The reports of a name, newest first: a report's folder or an evaluation's run id names one report; a training's
    run id, a checkpoint's folder or a registered name means all its tracked reports.

    Raises NotEvaluatedError if there is no report, TrackingError for an unknown name.
    """
    if (report := Report.find(storage.absolute(name))) is not None and report.has(report.QUERIES):
        return [report]
    store = Store.at(workspace, configured)
    with translated():
        if re.fullmatch(r"[0-9a-f]{32}", name):
            tags = store.client.get_run(name).data.tags
            if url := tags.get("zse.report"):
                return [Report.open(url)]
            name = tags.get("zse.checkpoint", name)
        digest = digest_of(name, workspace, configured)
        if digest is None:
            raise TrackingError(
                f"{name} is not a report, checkpoint or run. Give the folder of a report or checkpoint, "
                "models:/NAME@ALIAS, or the id of an MLflow run"
            )
        runs = store.runs(kind="evaluation", checkpoint_hash=digest)
        tracked = list(dict.fromkeys(run.data.tags["zse.report"] for run in runs))
    reports = [report for report in storage.side_by_side(Report.find, tracked) if report is not None]
    if gone := set(tracked) - {report.url for report in reports}:
        say(f"Left out {len(gone)} tracked reports of {name} that no longer exist, such as {min(gone)}")
    if not reports:
        raise NotEvaluatedError(f"No evaluation of {name} is tracked in {shown(store.uri)}. Run `zse evaluate` first")
    return reports


def logged_model(store: Store, name: str) -> Any:
    parts = NAMES.fullmatch(name)
    if not parts:
        raise TrackingError(f"{name} is not a model. Allowed: models:/NAME@ALIAS, models:/NAME/VERSION, models:/m-ID")
    if parts["id"]:
        if model := existing(store.client.get_logged_model, parts["id"]):
            return model
        raise TrackingError(
            f"{name} is not in {shown(store.uri)} or was deleted. Name the checkpoint's folder instead, or repeat the "
            "`zse run` that trained it, to track it again"
        )
    source = named_version(store, name).source
    try:
        return logged_model(store, source)
    except TrackingError as error:
        raise TrackingError(f"{name}: {error}, then register it: zse promote CHECKPOINT --name NAME") from error


def named_version(store: Store, name: str) -> Any:
    """The registered version of `models:/NAME@ALIAS` or `models:/NAME/VERSION`. Raises TrackingError, with the known
    versions and aliases, if the registry has none."""
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
    """`get(which)`; None for an unknown alias or number, for which MLflow raises INVALID_PARAMETER_VALUE."""
    from mlflow.exceptions import MlflowException

    try:
        return existing(get, which)
    except MlflowException as error:
        if error.error_code == "INVALID_PARAMETER_VALUE":
            return None
        raise


def _digest(checkpoint: str) -> str | None:
    """The digest of a checkpoint; None if the checkpoint does not exist or cannot be read."""
    try:
        return Training.open(checkpoint).digest
    except (StorageError, OSError, ValueError, KeyError):
        return None


def _copied(store: Store, name: str, model: Any, digest: str, workspace: str) -> str:
    """Copy the model's own checkpoint into the workspace, where every worker can read it; returns the folder.

    Raises TrackingError for a copy that lacks files or has other weights.
    """
    folder = _place(digest, workspace)
    with TemporaryDirectory(prefix="zse-") as temporary:
        copy = _fetched(store, model, Path(temporary))
        with storage.naming(copy, name):
            if not all((copy / part).is_file() for part in PARTS) or load_checkpoint(copy).digest != digest:
                raise TrackingError(_another(name, model))
        logged = {"uri": shown(store.uri), "run": model.source_run_id, "model": model.model_id}
        storage.write_json(storage.join(folder, TRACKED), logged)
        for part in PARTS:
            storage.write_bytes(storage.join(folder, part), (copy / part).read_bytes())
    return folder


def _source(model: Any) -> str:
    """The URL of a model's own copy of its checkpoint."""
    return f"{model.artifact_location.rstrip('/')}/artifacts/checkpoint"


def _fetched(store: Store, model: Any, temporary: Path, *files: str) -> Path:
    """A folder below `temporary` with these files of a model's own copy; without names with all."""
    from mlflow.artifacts import download_artifacts

    with translated(), transfer(0):
        fetch = partial(download_artifacts, dst_path=str(temporary), tracking_uri=store.uri)
        if not files:
            return Path(fetch(_source(model)))
        return [Path(fetch(f"{_source(model)}/{file}")) for file in files][-1].parent


def _another(name: str, model: Any) -> str:
    return f"{name}: the copy at {_source(model)} is not the logged checkpoint. Name the checkpoint's folder instead"
