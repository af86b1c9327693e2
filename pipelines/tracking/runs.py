"""Log trainings and evaluations to MLflow: one experiment per setting; a training is in that of its training setting.

Everything logged is in the workspace first (history.json, report.json). `deliver_*` log what MLflow lacks. So a
training does not stop with the tracking server: live logging is best effort, and the next `zse train`, `evaluate` or
`run` of the same experiment delivers the rest.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

from pipelines.config.experiment import ExperimentConfig, to_dict
from pipelines.runtime.progress import say
from pipelines.runtime.redaction import shown
from pipelines.store import storage
from pipelines.tracking.models import log_model, requirements
from pipelines.tracking.once import beside_others, run_once, terminate, under_way
from pipelines.tracking.store import TRACKED, Store, TrackingError, existing, translated
from pipelines.tracking.view import share_view
from pipelines.workspace.endings import Ending, ended, ending
from pipelines.workspace.pairs import Pairs
from pipelines.workspace.queries import metric_key
from pipelines.workspace.reports import MEASURES, Report
from pipelines.workspace.training import RUN_ID, Training
from zse_model.evaluation.protocol import is_zero_shot
from zse_model.split import FEWEST

BATCH = 500  # metrics per request; MLflow takes at most 1000
COMMIT = Path(__file__).parents[1] / "COMMIT"  # in an image, where the code has no repository
# MLflow sorts the sections of a run's charts by name and opens the first: a training's begin with what tells whether it
# learns. Its other metrics stand under their own names.
FIRST = {"train/loss": "_training/loss", "selection/mAP_all": "_training/selection_mAP_all"}
GIT = 10.0  # s, limit for a git command


class TrainingRun:
    """Logs the events of a training in a background thread. `log` never waits; lost events are delivered at the end."""

    def __init__(self, config: ExperimentConfig, workspace: str, pairs: Pairs, open_run: Callable[[], str]) -> None:
        self.config, self.workspace, self.pairs = config, workspace, pairs
        self.id: str | None = None
        self._events: queue.Queue[dict[str, float] | Ending | None] = queue.Queue()
        self._open_run = open_run
        self._thread = threading.Thread(target=self._send, daemon=True)

    @staticmethod
    @contextmanager
    def open(
        config: ExperimentConfig, workspace: str, name: str, folder: str, method: str, pairs: Pairs
    ) -> Iterator[TrainingRun]:
        def open_run() -> str:
            store = Store.of(config, workspace)
            return _training_run(store, name, folder, _setting(pairs), method, config, pairs)

        run = TrainingRun(config, workspace, pairs, open_run)
        run._thread.start()
        try:
            yield run
        except BaseException as error:
            run._end(ending(error))
            raise
        finally:
            run._close()

    def log(self, event: dict[str, float]) -> None:
        self._events.put(event)

    def finish(self, training: Training) -> None:
        """Deliver the finished training, which is complete in its folder."""
        self._close()
        deliver_training(self.config, self.workspace, training, self.pairs)

    def _end(self, ended: Ending) -> None:
        """Drop unsent events for the ending: a process being stopped has seconds. A resumed training delivers them."""
        with suppress(queue.Empty):
            while True:
                self._events.get_nowait()
        self._events.put(ended)

    def _close(self) -> None:
        if self._thread.is_alive():
            self._events.put(None)
            self._thread.join(timeout=30)

    def _send(self) -> None:
        if not self.config.tracking.enabled:
            return
        retry_at, logged, started = 0.0, -1, 0
        while True:
            event = self._events.get()
            if event is None:
                return
            if time.monotonic() < retry_at and not isinstance(event, Ending):
                continue
            try:
                store = Store.of(self.config, self.workspace)
                with translated():
                    if self.id is None:
                        self.id = self._open_run()
                        logged = _last_step(store, self.id)
                        started = store.client.get_run(self.id).info.start_time
                        settle(store, self.workspace)
                    if isinstance(event, Ending):
                        terminate(store, self.id, event)
                    elif "step" not in event:  # a machine's metrics, with seconds since the start of the run as step
                        at = int(1000 * event.pop("time"))
                        _log_history(store, self.id, [{"step": (at - started) // 1000, **event}], at)
                    elif int(event["step"]) > logged:
                        _log_history(store, self.id, [event])
            except TrackingError as error:
                if not retry_at:
                    said = f"MLflow does not answer ({error}). Training goes on, and the rest is delivered at its end"
                    say(said, logging.WARNING)
                retry_at = time.monotonic() + 30


def settle(store: Store, workspace: str) -> None:
    """End the runs of killed trainings of the workspace, which MLflow still has as RUNNING."""
    ours = storage.join(storage.absolute(workspace), Training.KIND) + "/"
    running = {
        run.info.run_id: run.data.tags.get("zse.checkpoint", "")
        for run in store.runs("attributes.status = 'RUNNING'", kind="training")
    }  # all of them first: a run that ends leaves the pages that follow
    for run_id, folder in running.items():
        if folder.startswith(ours) and (how := ended(folder)):
            terminate(store, run_id, how)


def deliver_training(config: ExperimentConfig, workspace: str, training: Training, pairs: Pairs) -> None:
    """Log what MLflow lacks of a finished training: parameters, history, and the checkpoint as a logged model."""

    def log(store: Store) -> dict[str, Any]:
        client = store.client
        url = training.url
        run_id = _training_run(store, training.run_name, url, _setting(pairs), training.method, config, pairs)
        last = _last_step(store, run_id)
        _log_history(store, run_id, [event for event in training.history() if int(event["step"]) > last])
        with tempfile.TemporaryDirectory() as temporary:
            model = log_model(store, run_id, training, Path(temporary))
        for key in ("digest", "last_weights_sha256"):
            client.set_tag(run_id, f"zse.checkpoint.{key}", getattr(training, key))
        client.log_metric(run_id, "train/cpu_minutes", training.cpu_seconds / 60)
        client.set_terminated(run_id)
        return {"run": run_id, "model": model}

    def whole(store: Store, tracked: dict[str, Any]) -> bool:
        run = existing(store.client.get_run, tracked["run"])
        there = run and run.info.lifecycle_stage == "active" and run.info.status == "FINISHED"
        return bool(there and existing(store.client.get_logged_model, tracked["model"]))

    _deliver(config, workspace, training.url, log, whole)


def deliver_evaluation(config: ExperimentConfig, workspace: str, report: Report, training: Training | None) -> None:
    """Log a report as a run in the experiment of each of its settings, and its summary to the training run."""

    def log(store: Store) -> dict[str, Any]:
        rows = report.rows()
        trained = _trained(store, training.url) if training else {}
        runs, new = {}, False
        for setting in sorted({row["setting"] for row in rows}):
            mine = [row for row in rows if row["setting"] == setting]
            runs[setting], made = _evaluation_run(store, setting, mine, report, trained)
            new = new or made
        summary = _summary(rows)
        if "run" in trained and (new or not summary.keys() <= store.client.get_run(trained["run"]).data.metrics.keys()):
            log_metrics(store, trained["run"], summary)
        return {"runs": runs}

    _deliver(config, workspace, report.url, log)


def _trained(store: Store, checkpoint: str) -> dict[str, str]:
    """The `run` and `model` of a tracked checkpoint, each if this MLflow has it and it is not deleted."""
    if not storage.exists(url := storage.join(checkpoint, TRACKED)):
        return {}
    tracked, found = storage.read_json(url), {}
    run = existing(store.client.get_run, tracked["run"])
    if run and run.info.lifecycle_stage == "active":
        found["run"] = tracked["run"]
    if existing(store.client.get_logged_model, tracked["model"]):
        found["model"] = tracked["model"]
    return found


def _deliver(
    config: ExperimentConfig,
    workspace: str,
    folder: str,
    log: Callable[[Store], dict[str, Any]],
    whole: Callable[[Store, dict[str, Any]], bool] | None = None,
) -> None:
    """Log a folder unless it was tracked here and is `whole` in MLflow. Without `whole`, `log` itself finds what MLflow
    lacks. If the server does not answer a warning is printed, and the next run delivers."""
    if not config.tracking.enabled:
        return
    store = Store.of(config, workspace)
    try:
        with translated():
            if whole and _tracked(folder, store.uri) and whole(store, storage.read_json(storage.join(folder, TRACKED))):
                return
            storage.write_json(storage.join(folder, TRACKED), {"uri": shown(store.uri), **log(store)})
    except TrackingError as error:
        said = f"MLflow lacks some of the results ({error}). Run the same command again to deliver them"
        say(said, logging.WARNING)


def _summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for row in rows:
        metrics[metric_key(row)] = row["value"]
        for end in ("ci_low", "ci_high"):
            if row[end] is not None:
                metrics[f"{metric_key(row)}.{end}"] = row[end]
    return metrics


def _setting(pairs: Pairs) -> str:
    return f"{pairs.split.name}.{pairs.fingerprint[:8]}"


def _tracked(folder: str, uri: str) -> bool:
    url = storage.join(folder, TRACKED)
    return storage.exists(url) and storage.read_json(url)["uri"] == shown(uri)


def _training_run(
    store: Store,
    name: str,
    folder: str,
    setting: str,
    method: str,
    config: ExperimentConfig,
    pairs: Pairs,
) -> str:
    """The id of the training's run in this database, set to RUNNING; a new run if there is none."""
    url = storage.join(folder, RUN_ID)
    if storage.exists(url):
        known = storage.read_json(url)
        if known["uri"] == shown(store.uri) and (run := store.run(known["run"])):
            under_way(store, run)
            return run.info.run_id
    from mlflow.entities import Param, RunTag

    client = store.client
    tags = {
        "zse.kind": "training",
        "zse.method": method,
        "zse.setting": setting,
        "zse.split_hash": pairs.split_hash,
        "zse.dataset_fingerprint": pairs.fingerprint,
        "zse.checkpoint": folder,
        "zse.command": shown(" ".join(sys.argv)),
        "mlflow.source.name": "zse train",
        **_git(),
    }
    run = client.create_run(store.experiment(setting), run_name=name, tags=tags)
    settings = {k: v for k, v in to_dict(config).items() if k not in ("methods", "tracking")}
    flat = _flat({**settings, "method": {"name": method, **to_dict(config.methods[method])}})
    client.log_batch(
        run.info.run_id,
        params=[Param(k, shown(str(v))[:500]) for k, v in flat.items()],
        tags=[RunTag("zse.training_pictures", str(pairs.pictures))],
    )
    _log_dataset(store, run.info.run_id, pairs.dataset, pairs.fingerprint, pairs.images, "training")
    storage.write_json(url, {"uri": shown(store.uri), "run": run.info.run_id})
    return run.info.run_id


def _log_dataset(store: Store, run_id: str, name: str, fingerprint: str, source: str, context: str) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=name, digest=fingerprint[:8], source_type="zse", source=json.dumps({"uri": source, "sha256": fingerprint})
    )
    inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])]
    beside_others(lambda: store.client.log_inputs(run_id, inputs))  # another training may log the same data set


def _log_history(store: Store, run_id: str, history: list[dict[str, float]], at: int | None = None, **of: str) -> None:
    """Log events. at: time stamp in ms, None = now. of: `model_id`, `dataset_name` and `dataset_digest` of the
    metrics."""
    from mlflow.entities import Metric

    at = at or int(time.time() * 1000)
    metrics = [
        Metric(key, value, at, int(event["step"]), **of)
        for event in history
        for name, value in event.items()
        if name not in ("step", "total")
        for key in (name, *filter(None, [FIRST.get(name)]))
    ]
    for i in range(0, len(metrics), BATCH):
        store.client.log_batch(run_id, metrics=metrics[i : i + BATCH])


def log_metrics(store: Store, run_id: str, metrics: dict[str, float], at: int | None = None, **of: str) -> None:
    _log_history(store, run_id, [{"step": 0, **metrics}], at, **of)


def _last_step(store: Store, run_id: str) -> int:
    """The last step of a training run in MLflow; -1 if there is none."""
    client = store.client
    metrics = client.get_run(run_id).data.metrics
    steps = [
        m.step for key in metrics if key.startswith(("train/", "selection/")) for m in _history(client, run_id, key)
    ]
    return max(steps, default=-1)


def _history(client: Any, run_id: str, key: str) -> list[Any]:
    return client.get_metric_history(run_id, key)


def _evaluation_run(
    store: Store, setting: str, rows: list[dict[str, Any]], report: Report, trained: dict[str, Any]
) -> tuple[str, bool]:
    """(id of a report's finished run, whether this call finished it). A finished run is linked to a training that was
    delivered later. A repeated metric has the same time stamp, so MLflow stores it once."""
    from mlflow.entities import LoggedModelInput

    client, first = store.client, rows[0]
    tags = {
        "zse.kind": "evaluation",
        "zse.settings": str(len(report.settings)),
        "zse.dataset": report.dataset,
        "zse.queries": str(first["queries"]),
        "zse.gallery": str(first["gallery"]),
        "zse.use": first["use"],
        "zse.method": first["method"],
        "zse.setting": setting,
        "zse.report": report.url,
        "zse.split_hash": first["split_hash"],
        "zse.dataset_fingerprint": first["dataset_fingerprint"],
        "zse.checkpoint_hash": first["checkpoint_hash"],
        "zse.training_run": trained.get("run", ""),
        "zse.model": trained.get("model", ""),
        "zse.command": shown(" ".join(sys.argv)),
        "mlflow.source.name": "zse evaluate",
        **({} if is_zero_shot(first) else {"zse.zero_shot": "false"}),
        **({"zse.few_classes": str(first["classes"])} if first["classes"] < FEWEST else {}),
        **_git(),
    }
    of = {"dataset_name": setting, "dataset_digest": first["dataset_fingerprint"][:8]}
    model = {"model_id": trained["model"]} if "model" in trained else {}
    # Names without the setting, which the experiment and the data set give: the UI's columns are narrow.
    short = {name.removeprefix(f"{setting}/"): value for name, value in _summary(rows).items()}
    experiment, is_first = store.experiment(setting), setting == report.settings[0]

    def log_results(run: Any) -> None:
        if model:
            client.log_inputs(run.info.run_id, models=[LoggedModelInput(trained["model"])])
        results = short | _confidences(report, setting)
        log_metrics(store, run.info.run_id, results, run.info.start_time, **of, **model)

    def log(run: Any) -> None:
        run_id, at = run.info.run_id, run.info.start_time
        _log_dataset(store, run_id, setting, first["dataset_fingerprint"], report.url, "evaluation")
        log_results(run)
        client.log_dict(run_id, {"rows": rows}, report.ROWS)
        client.log_text(run_id, "\n".join(requirements()) + "\n", "requirements.txt")
        if is_first:
            _log_tables(store, run_id, at, report)
        share_view(store, experiment, rows, report.table(report.COSTS) if is_first else [])

    key = f"{report.report_key}-{first['method']}"
    run, made = run_once(store, experiment, key, f"evaluate {report.name}", tags, log)
    if not made:  # the report may have been moved, or the training delivered later
        links = {name: tags[name] for name in ("zse.report", "zse.training_run", "zse.model") if tags[name]}
        changed = {name: link for name, link in links.items() if run.data.tags.get(name) != link}
        if "zse.model" in changed:
            beside_others(lambda: log_results(run))
        for name, link in changed.items():  # last, so that a killed process leaves them to the next
            beside_others(partial(client.set_tag, run.info.run_id, name, link))
    return run.info.run_id, made


def _confidences(report: Report, setting: str) -> dict[str, float]:
    """What is known of a setting's confidences, by mode."""
    return {
        f"confidence/{row['mode']}/{key}": row[key]
        for row in report.table(report.CONFIDENCE)
        for key in ("ece", "refused", "caught")
        if row["setting"] == setting and row[key] is not None
    }


def _log_tables(store: Store, run_id: str, at: int, report: Report) -> None:
    """Log the tables, curves, costs and pictures of a report; they are of its first setting (category level)."""
    client = store.client
    costs, curves = report.table(report.COSTS), report.table(report.CURVES) or {}
    for row in costs:
        client.set_tag(run_id, "zse.device", row["device"])
    log_metrics(store, run_id, {f"cost/{row['mode']}/{key}": row[key] for row in costs for key in MEASURES}, at)
    steps = [
        {"step": 10 * i, f"precision_at_recall/{mode}": value}
        for mode, curve in curves.items()
        for i, value in enumerate(curve)
    ]
    _log_history(store, run_id, steps, at)
    there = {artifact.path for artifact in client.list_artifacts(run_id)}
    for file in (report.PER_CLASS, report.CONFUSION, report.COSTS, report.CONFIDENCE):
        if file not in there and (table := report.table(file)):  # log_table would append
            client.log_table(run_id, {k: [row[k] for row in table] for k in table[0]}, file)
    with tempfile.TemporaryDirectory() as temporary:
        for folder in (report.SHEETS, report.CHARTS):
            for name in sorted(storage.names(report.file(folder))):
                path = Path(temporary) / name
                path.write_bytes(storage.read_bytes(report.file(folder, name)))
                client.log_artifact(run_id, str(path), folder)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


@cache
def _git() -> dict[str, str]:
    """Tags with the commit of the code, from the image or the repository; empty if unknown."""
    if COMMIT.exists():
        commit = COMMIT.read_text().strip()
        return {"mlflow.source.git.commit": commit} if commit else {}
    here = Path(__file__)
    # An installed package may be inside another project's repository, which does not track this file.
    if _asked("ls-files", "--error-unmatch", here.name) is None or not (commit := _asked("rev-parse", "HEAD")):
        return {}
    changed = _asked("status", "--porcelain")
    dirty = {} if changed is None else {"zse.git.dirty": str(bool(changed)).lower()}
    return {"mlflow.source.git.commit": commit, **dirty}


def _asked(*arguments: str) -> str | None:
    """The output of git in the folder of this file; None if git is missing, fails or takes longer than GIT."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # a git hook sets its own
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=GIT,
            env={**mine, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout.strip()
