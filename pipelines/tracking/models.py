"""Checkpoints as MLflow models, and back from a registered name.

    MLmodel  requirements.txt  ranker.py  code/{zse_model,pipelines}
    artifacts/checkpoint/{manifest.json,checkpoint.json,model.safetensors,seen.safetensors}

A model is made from code: `ranker.py` and the two packages as text, the weights as safetensors. Nothing in it is
pickled. `mlflow.pyfunc.load_model` ranks photos with it; to `zse` it is the checkpoint that it was logged from.
"""

from __future__ import annotations

import re
import warnings
from importlib.metadata import requires, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from packaging.requirements import Requirement

import pipelines
import zse_model
from pipelines import shards, storage
from pipelines.progress import say
from pipelines.redaction import shown
from pipelines.tracking.store import TRACKED, Store, TrackingError, translated
from zse_model.checkpoint import INFO, SEEN, WEIGHTS, load_checkpoint

REGISTERED = "models:/"
NAMES = re.compile(r"models:/(?:(?P<id>m-[0-9a-f]+)|(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+)))")
PARTS = (WEIGHTS, SEEN, INFO, shards.MANIFEST)  # the last one written last


class NotEvaluatedError(TrackingError):
    """A model that MLflow knows and has no evaluation of."""


def log_model(store: Store, run_id: str, manifest: dict[str, Any], checkpoint: str, temporary: Path) -> str:
    """A checkpoint folder as a logged model, linked to its run; gives its id."""
    from mlflow.entities import LoggedModelOutput

    client = store.client
    model = client.create_logged_model(
        client.get_run(run_id).info.experiment_id,
        name=manifest["name"].replace("+", "-").replace(".", "-"),
        source_run_id=run_id,
        model_type=f"zse.{manifest['method']}",
        tags={"zse.checkpoint_hash": manifest["digest"], "zse.checkpoint": checkpoint},
        params={k: str(v) for k, v in manifest["training"].items()},
    )
    weights = temporary / "checkpoint"
    weights.mkdir()
    for name in PARTS:
        (weights / name).write_bytes(storage.read_bytes(storage.join(checkpoint, name)))
    _save(weights, temporary / "model", model.model_id)
    client.log_model_artifacts(model.model_id, str(temporary / "model"))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, int(manifest["training"].get("steps") or 0))])
    return model.model_id


def _save(checkpoint: Path, folder: Path, model_id: str) -> None:
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ParamSchema, ParamSpec

    with warnings.catch_warnings():  # an example input would be a picture in every model
        warnings.filterwarnings("ignore", message="(?s).*An input example was not provided")
        save_model(
            str(folder),
            mlflow_model=Model(model_id=model_id),
            python_model=str(Path(__file__).with_name("ranker.py")),
            artifacts={"checkpoint": str(checkpoint)},
            code_paths=[str(Path(module.__path__[0])) for module in (pipelines, zse_model)],
            pip_requirements=requirements(),
            # Of what goes in only the parameters: a sketch is bytes, an array, or text, as ranker.py says.
            signature=ModelSignature(
                params=ParamSchema([ParamSpec("top", "long", 10), ParamSpec("mode", "string", "")]),
            ),
            model_config={"index": ""},
        )


def requirements() -> list[str]:
    """What this code needs, in the versions that are installed."""
    needed = [Requirement(line) for line in requires("zse") or ()]
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
        return store.client.get_logged_model(parts["id"])
    if parts["alias"]:
        found = store.client.get_model_version_by_alias(parts["name"], parts["alias"])
    else:
        found = store.client.get_model_version(parts["name"], parts["version"])
    return logged_model(store, found.source)


def _digest(checkpoint: str) -> str | None:
    """Of a checkpoint that may be gone, or out of reach."""
    try:
        return storage.read_json(storage.join(checkpoint, shards.MANIFEST))["digest"]
    except (storage.StorageError, OSError, ValueError, KeyError):
        return None


def _copied(store: Store, name: str, model: Any, digest: str, workspace: str) -> str:
    """The model's own checkpoint, in the workspace, where every worker can read it."""
    folder = storage.join(storage.absolute(workspace), "checkpoints", f"registered-{digest[:16]}")
    if _digest(folder) == digest:
        return folder
    from mlflow.artifacts import download_artifacts

    with TemporaryDirectory(prefix="zse-") as temporary:
        with translated():
            source = f"{model.artifact_location.rstrip('/')}/artifacts/checkpoint"
            copy = Path(download_artifacts(source, dst_path=temporary, tracking_uri=store.uri))
        if not all((copy / part).is_file() for part in PARTS) or load_checkpoint(copy).digest != digest:
            raise TrackingError(f"{name}: what is stored at {source} is not the checkpoint that was logged")
        logged = {"uri": shown(store.uri), "run": model.source_run_id, "model": model.model_id}
        storage.write_json(storage.join(folder, TRACKED), logged)
        for part in PARTS:
            storage.write_bytes(storage.join(folder, part), (copy / part).read_bytes())
    return folder
