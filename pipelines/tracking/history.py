"""Read evaluations from MLflow, and log re-evaluations and drift to it. `judge` calls it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.tracking.once import KEY, beside_others, kept_run, run_once
from pipelines.tracking.runs import log_metrics
from pipelines.tracking.store import Store, TrackingError, pages, transfer, translated
from pipelines.workspace.reports import Report

REEVALUATIONS = "reevaluations"  # the experiment of the summaries
SUMMARY, TEXT = "summary.json", "summary.md"  # files of a re-evaluation, in its folder and in MLflow
NOTE = 7500  # characters; PostgreSQL stores 8,000 of a tag


@dataclass(frozen=True)
class Evaluated:
    """A report whose settings are all in MLflow."""

    key: str
    """`report_key` and method."""
    report: str
    dataset: str
    fingerprint: str
    checkpoint_hash: str
    use: str
    started: int
    """ms since 1970."""
    runs: Mapping[str, str]
    """Setting -> run id."""

    @property
    def settings(self) -> set[str]:
        """The settings without the fingerprint of their data."""
        return {setting.rpartition(".")[0] for setting in self.runs}


def evaluated(store: Store) -> dict[str, Evaluated]:
    """Key -> report, for the reports whose settings are all in MLflow."""
    runs: dict[str, list[Any]] = {}
    with translated():
        for run in store.runs("tags.`zse.kind` = 'evaluation' and attributes.status = 'FINISHED'"):
            if key := run.data.tags.get(KEY):
                runs.setdefault(key, []).append(run)
    found = {}
    for key, each in runs.items():
        tags, settings = each[0].data.tags, {run.data.tags["zse.setting"] for run in each}
        if len(each) > len(settings):  # two processes logged it at once and were killed before one deleted its run
            each = [kept_run(store, id, key) for id in sorted({run.info.experiment_id for run in each})]
        if len(settings) == int(tags["zse.settings"]):
            found[key] = Evaluated(
                key=key,
                report=tags["zse.report"],
                dataset=tags["zse.dataset"],
                fingerprint=tags["zse.dataset_fingerprint"],
                checkpoint_hash=tags["zse.checkpoint_hash"],
                use=tags["zse.use"],
                started=min(run.info.start_time for run in each),
                runs={run.data.tags["zse.setting"]: run.info.run_id for run in each},
            )
    return found


@dataclass(frozen=True)
class Standing:
    """A model's evaluation in one setting, from MLflow."""

    setting: str
    """Setting with the fingerprint of its data."""
    use: str
    method: str
    model: str
    """Name of the training run, and its registered versions."""
    trained_on: str
    """The split of its training; empty if the training is not tracked."""
    checkpoint_hash: str
    queries: int
    gallery: int
    started: int
    """ms since 1970."""
    drift: str
    device: str
    metrics: Mapping[str, float]
    """`<protocol>/<mode>/<metric>` with `.ci_low` and `.ci_high`, `cost/<mode>/...`."""
    run: str
    zero_shot: bool = True
    """False for a setting that searches seen classes on purpose."""
    report: str = ""
    """The URL of its report."""


def standings(store: Store) -> list[Standing]:
    """Every finished evaluation, oldest first."""
    with translated():
        trainings = {run.info.run_id: run for run in store.runs("tags.`zse.kind` = 'training'")}
        names = _registered(store)
        asked = "tags.`zse.kind` = 'evaluation' and attributes.status = 'FINISHED'"
        runs = [run for run in store.runs(asked) if KEY in run.data.tags]
    found = []
    for run in sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id)):
        tags, training = run.data.tags, trainings.get(run.data.tags["zse.training_run"])
        name = training.info.run_name if training else tags["zse.method"]
        found.append(
            Standing(
                setting=tags["zse.setting"],
                use=tags["zse.use"],
                method=tags["zse.method"],
                model=" ".join([name, *names.get(tags["zse.model"], [])]),
                trained_on=training.data.tags["zse.setting"].rpartition(".")[0] if training else "",
                checkpoint_hash=tags["zse.checkpoint_hash"],
                queries=int(tags["zse.queries"]),
                gallery=int(tags["zse.gallery"]),
                started=run.info.start_time,
                drift=tags.get("zse.drift", ""),
                device=tags.get("zse.device", ""),
                metrics=run.data.metrics,
                run=run.info.run_id,
                zero_shot=tags.get("zse.zero_shot") != "false",
                report=tags.get("zse.report", ""),
            )
        )
    return found


def _registered(store: Store) -> dict[str, list[str]]:
    """Id of a logged model -> its registered versions with their aliases, as text."""
    found: dict[str, list[str]] = {}
    for registered in pages(store.client.search_registered_models):
        aliases: dict[str, list[str]] = {}
        for alias, version in registered.aliases.items():
            aliases.setdefault(str(version), []).append(f"@{alias}")
        for version in pages(store.client.search_model_versions, filter_string=f"name = '{registered.name}'"):
            said = " ".join([f"{registered.name}/{version.version}", *sorted(aliases.get(str(version.version), []))])
            found.setdefault(str(version.source).removeprefix("models:/"), []).append(f"({said})")
    return found


def pictures(store: Store, run: str) -> dict[str, bytes]:
    """File name -> bytes of the retrieval sheets, explanations and the reliability diagram of an evaluation run."""
    found = {}
    with translated(), transfer(0), tempfile.TemporaryDirectory() as temporary:
        charts = (
            one for one in store.client.list_artifacts(run, Report.CHARTS) if one.path.endswith(Report.RELIABILITY)
        )
        for artifact in (*store.client.list_artifacts(run, Report.SHEETS), *charts):
            found[Path(artifact.path).name] = Path(
                store.client.download_artifacts(run, artifact.path, temporary)
            ).read_bytes()
    return found


def log_drift(store: Store, of: Evaluated, drift: Mapping[str, float], said: str) -> None:
    """Log drift to the runs of a report: metrics `drift/...`, and in the tag `zse.drift` what exceeds its limit."""
    for run_id in of.runs.values():
        try:
            with translated():
                log_metrics(store, run_id, {f"drift/{name}": value for name, value in drift.items()}, of.started)
                beside_others(partial(store.client.set_tag, run_id, "zse.drift", said))
        except TrackingError:
            with translated():
                if store.client.get_run(run_id).info.lifecycle_stage != "deleted":
                    raise  # a deleted run gave way to that of another process, which logs the drift there


def log_reevaluation(store: Store, key: str, status: str, summary: Mapping[str, Any], text: str) -> None:
    """Log a summary as the only run with this key in the experiment `reevaluations`."""
    tags = {
        "zse.kind": "reevaluation",
        "zse.status": status,
        "mlflow.source.name": "zse reevaluate",
        "mlflow.note.content": text[:NOTE],
    }

    def log(run: Any) -> None:
        store.client.log_text(run.info.run_id, json.dumps(summary, indent=1), SUMMARY)
        store.client.log_text(run.info.run_id, text, TEXT)

    with translated():
        run_once(store, store.experiment(REEVALUATIONS), key, f"{status} {key}", tags, log)
