"""Read evaluations from MLflow, and log re-evaluations and drift to it. `judge` calls it."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from sys import intern
from typing import Any

from pipelines.tracking.once import KEY, beside_others, kept_run, run_once
from pipelines.tracking.runs import log_metrics
from pipelines.tracking.store import Store, TrackingError, pages, transfer, translated
from pipelines.workspace.reports import Report
from zse_model.evaluation import LEADING

REEVALUATIONS = "reevaluations"  # the experiment of the summaries
SUMMARY, TEXT = "summary.json", "summary.md"  # files of a re-evaluation, in its folder and in MLflow
KEPT = tuple(
    f"zse.{name}"
    for name in ("setting", "settings", "report", "dataset", "dataset_fingerprint", "checkpoint_hash", "use", "drift")
)  # tags of an evaluation's run
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
    drift: str | None
    """What exceeds its limit, as `log_drift` logged it to every run; None if a run lacks it."""

    @property
    def settings(self) -> set[str]:
        """The settings without the fingerprint of their data."""
        return {setting.rpartition(".")[0] for setting in self.runs}


@dataclass(frozen=True, slots=True)
class _Logged:
    """What is kept of an evaluation's run. Its metrics are not."""

    id: str
    experiment: str
    started: int
    tags: Mapping[str, str]

    @staticmethod
    def of(run: Any) -> _Logged:
        kept = {name: run.data.tags[name] for name in KEPT if name in run.data.tags}
        return _Logged(run.info.run_id, run.info.experiment_id, run.info.start_time, kept)


def evaluated(store: Store, **having: str) -> dict[str, Evaluated]:
    """Key -> report, for the reports whose settings are all in MLflow. having: values of `zse.<name>` to ask for, such
    as `checkpoint_hash` or `key`; MLflow sends the metrics of every run that has them."""
    runs: dict[str, dict[str, _Logged]] = {}
    with translated():
        for run in _evaluations(store, **having):
            runs.setdefault(run.data.tags[KEY], {})[run.info.run_id] = _Logged.of(run)
    found = {}
    for key, by_id in runs.items():
        each = list(by_id.values())
        tags, settings = each[0].tags, {run.tags["zse.setting"] for run in each}
        if len(each) > len(settings):  # two processes logged it at once and were killed before one deleted its run
            with translated():
                each = [_Logged.of(kept_run(store, id, key)) for id in sorted({run.experiment for run in each})]
        drifts = {run.tags.get("zse.drift") for run in each}
        if len(settings) == int(tags["zse.settings"]):
            found[key] = Evaluated(
                key=key,
                report=tags["zse.report"],
                dataset=tags["zse.dataset"],
                fingerprint=tags["zse.dataset_fingerprint"],
                checkpoint_hash=tags["zse.checkpoint_hash"],
                use=tags["zse.use"],
                started=min(run.started for run in each),
                runs={run.tags["zse.setting"]: run.id for run in each},
                drift=drifts.pop() if len(drifts) == 1 else None,
            )
    return found


def _evaluations(store: Store, *asked: str, **tags: str) -> Iterator[Any]:
    """The finished runs of evaluations, newest first."""
    runs = store.runs("attributes.status = 'FINISHED'", *asked, kind="evaluation", **tags)
    return (run for run in runs if KEY in run.data.tags)


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
    """`<protocol>/<mode>/<metric>` with `.ci_low` and `.ci_high`, `cost/<mode>/...`; of an evaluation that a newer one
    of its model or a newer version of the data follows, only `plain/<mode>/<one of LEADING>`."""
    run: str
    zero_shot: bool = True
    """False for a setting that searches seen classes on purpose."""
    report: str = ""
    """The URL of its report."""
    split_hash: str = ""
    """The hash of its split; empty if its run has none."""


def standings(store: Store, setting: str = "") -> list[Standing]:
    """Every finished evaluation, oldest first. setting: only of settings whose names begin with this."""
    pattern = re.sub(r"[^\w.+-]", "_", setting)  # `_` matches any character
    beginning = [f"tags.`zse.setting` LIKE '{pattern}%'"] if setting else []
    found: dict[str, Standing] = {}
    newest: dict[str, str] = {}  # name of a setting -> the newest version of its data
    shown: set[tuple[str, ...]] = set()
    with translated():
        trainings = {
            run.info.run_id: (run.info.run_name, run.data.tags.get("zse.setting", "").rpartition(".")[0])
            for run in store.runs(kind="training")
        }
        names = _registered(store)
        for run in _evaluations(store, *beginning):
            if run.data.tags["zse.setting"].startswith(setting) and run.info.run_id not in found:
                one = _standing(run, trainings, names)
                model = one.setting, one.split_hash, one.checkpoint_hash, one.method
                current = newest.setdefault(one.setting.rpartition(".")[0], one.setting) == one.setting
                kept = one.metrics if current and model not in shown else _course(one.metrics)
                shown.add(model)
                found[one.run] = replace(one, metrics={intern(name): value for name, value in kept.items()})
    return sorted(found.values(), key=lambda one: (one.started, one.run))


def _course(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of an older evaluation that are drawn over time: no intervals and no costs."""
    return {name: value for name, value in metrics.items() if name.startswith("plain/") and name.endswith(LEADING)}


def _standing(run: Any, trainings: Mapping[str, tuple[str, str]], names: Mapping[str, Sequence[str]]) -> Standing:
    """trainings: run id -> name and split. names: id of a logged model -> its registered versions."""
    tags = run.data.tags
    name, trained_on = trainings.get(tags["zse.training_run"], (tags["zse.method"], ""))
    return Standing(
        setting=tags["zse.setting"],
        use=tags["zse.use"],
        method=tags["zse.method"],
        model=" ".join([name, *names.get(tags["zse.model"], [])]),
        trained_on=trained_on,
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
        split_hash=tags.get("zse.split_hash", ""),
    )


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
