"""Measure the planning of a re-evaluation: 10,000 evaluations of 200 metrics each in MLflow (SQLite), 1,092 of them of
a year of daily data: 365 data sets in folders of real pictures, by three registered models.

    python -m benchmarks planning                                  10 minutes, 1 GB of disk
    ZSE_RUNS=300 ZSE_DAYS=30 python -m benchmarks planning        fewer runs, a month

MLflow's client logs 100 such runs in about a minute, so the runs are inserted by MLflow's own SQLAlchemy models, in the
form of `zse evaluate`. The ingested data, their reports and their drift are files as the stages leave them; nothing is
evaluated. The folders that the models were logged from are gone: MLflow has the only copies.

Each measurement is a process of its own. CPU seconds do not depend on what else the machine does. Memory is the most at
any time above that of the process with everything imported. Requests are calls of MLflow's client, each one request to
a server; pages are those of runs. Files and folders are those that are opened or listed below the catalogue and the
workspace. Copies are downloads of a model's weights.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import torch
from mlflow import MlflowClient
from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlRun, SqlTag
from PIL import Image
from sqlalchemy import create_engine, insert

from benchmarks.memory import apart
from pipelines.ingest.stage import plan_ingest
from pipelines.judge import reevaluate
from pipelines.judge.compare import Side
from pipelines.judge.rules import Paired, Rules, decide
from pipelines.store import storage
from pipelines.tracking import Store, history
from pipelines.tracking.once import KEY
from pipelines.workspace.images import Images
from pipelines.workspace.parts import encode_part
from pipelines.workspace.reports import Report
from pipelines.workspace.training import Training
from zse_model.backbones import BackboneConfig
from zse_model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from zse_model.methods import create_method
from zse_model.methods.global_embedding import GlobalConfig
from zse_model.split import ZeroShotSplit
from zse_model.synthetic import CATEGORIES, draw_photo
from zse_model.transforms import TransformConfig

RUNS, METRICS, ONE_BY_ONE = int(os.environ.get("ZSE_RUNS", "10000")), 200, 100
DAYS, MODELS, PICTURES = int(os.environ.get("ZSE_DAYS", "365")), 3, 2  # pictures of a class and modality
CLASSES = tuple(sorted(CATEGORIES))[:12]
QUERIES = 1000
ASKED = 15_000  # queries of a report that rules compare
NAMES = [f"model-{i}@champion" for i in range(MODELS)]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{root}/mlflow.db"
        apart(fill, root)
        print(f"{RUNS:,} runs, {RUNS * METRICS:,} metrics, SQLite", flush=True)
        print(f"{'':46s}  CPU s   wall s   MB at most   requests   pages   files   folders   copies")
        for what in QUERIED:
            apart(queried, root, what)
        for what in PLANNED:
            apart(planned, root, what)
        apart(versions, root / "workspace")
        for what in JUDGED:
            apart(judged, root, what)


# Measurements ---------------------------------------------------------------------------------------------------------


@contextmanager
def measured(root: Path, what: str, scale: float = 1) -> Iterator[None]:
    """Print what the block takes. scale: factor of the times and requests."""
    calls, opened = counted(root)
    before, begun, cpu = psutil.Process().memory_info().rss, time.perf_counter(), time.process_time()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    calls.clear()
    opened.clear()
    try:
        yield
    finally:
        wall, used = scale * (time.perf_counter() - begun), scale * (time.process_time() - cpu)
        most = int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) * 1024 - before
        requests, pages = int(scale * calls.total()), calls["search_runs"]
        copies = calls["weights"]
        print(
            f"{what:46s} {used:6.1f} {wall:8.1f} {most / 1e6:12.0f} {requests - copies:10,d} {pages:7,d} "
            f"{opened['open']:7,d} {opened['os.scandir'] + opened['os.listdir']:9,d} {copies:8,d}",
            flush=True,
        )


def counted(root: Path) -> tuple[Counter[str], Counter[str]]:
    """Counters of the calls of MLflow's client with the copies of weights, and of the files and folders opened."""
    calls: Counter[str] = Counter()
    opened: Counter[str] = Counter()
    inside = [False]

    def counting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if inside[0]:
                return method(*given, **named)
            calls[name] += 1
            inside[0] = True
            try:
                return method(*given, **named)
            finally:
                inside[0] = False

        return call

    for name in dir(MlflowClient):
        if not name.startswith("_") and callable(method := getattr(MlflowClient, name)):
            setattr(MlflowClient, name, counting(name, method))

    def heard(event: str, given: tuple[Any, ...]) -> None:
        if event in ("open", "os.scandir", "os.listdir") and isinstance(given[0], str | os.PathLike):
            path = os.fspath(given[0])
            if isinstance(path, str) and path.startswith((f"{root}/datasets", f"{root}/workspace")):
                opened[event] += 1
                calls["weights"] += event == "open" and "/mlartifacts/" in path and path.endswith("model.safetensors")

    sys.addaudithook(heard)
    return calls, opened


def store_of(root: Path) -> Store:
    return Store.at(str(root / "workspace"), os.environ["MLFLOW_TRACKING_URI"])


def queried(root: Path, what: str) -> None:
    store = store_of(root)
    store.client.search_runs(["0"], max_results=1)  # connects
    with measured(root, what, max(1, RUNS / ONE_BY_ONE) if what == RUN_BY_RUN else 1):
        QUERIED[what](store)


def one_by_one(store: Store) -> None:
    for i in range(min(RUNS, ONE_BY_ONE)):
        store.client.get_run(f"{i:032x}")


def of_the_models(store: Store) -> None:
    """The reports of the three models, as `zse reevaluate` asks for them."""
    folders = models_of(Path(store.uri.removeprefix("sqlite:///")).parent)
    digests = [Training.open(str(folder)).digest for folder in folders]
    known = [history.evaluated(store, checkpoint_hash=digest) for digest in digests]
    assert sum(map(len, known)) == (DAYS - 1) * MODELS


RUN_BY_RUN = "the baseline: run by run"
QUERIED: dict[str, Callable[[Store], Any]] = {
    RUN_BY_RUN: one_by_one,
    "every report (history.evaluated)": history.evaluated,
    "the reports of three models": of_the_models,
    "zse report (history.standings)": history.standings,
}


class BeginsError(Exception):
    """The first evaluation would begin."""


def planned(root: Path, what: str) -> None:
    def evaluate(*_: Any) -> None:
        raise PLANNED[what]

    reevaluate.evaluate_images = evaluate
    last = sorted((root / "datasets").iterdir())[-1]
    if what == NOTHING:  # the last day is no longer there: the others all have reports
        shutil.move(last, root / last.name)
        reevaluated(root)  # writes the summary
    store_of(root).client.search_runs(["0"], max_results=1)
    shutil.rmtree(root / "workspace" / Training.KIND, ignore_errors=True)  # the copies of the registered models
    with measured(root, what):
        try:
            reevaluated(root)
        except BeginsError:
            pass


def reevaluated(root: Path) -> None:
    catalog, work = str(root / "datasets"), str(root / "workspace")
    reevaluate.reevaluate(catalog, NAMES, work, reevaluate.how_to_evaluate([]))


NOTHING = "zse reevaluate, nothing is new"
PLANNED: dict[str, Exception] = {
    "zse reevaluate, until a missing report is made": BeginsError(),
    "zse reevaluate, three reports missing": ValueError("this benchmark evaluates nothing"),
    NOTHING: AssertionError("every report exists"),
}


def judged(root: Path, what: str) -> None:
    """Apply rules to two models with a report on each version of a data set."""
    sides = [
        [Side(name, Report.open(f"{root}/workspace/versions/{name}-{day}")) for day in reversed(range(DAYS))]
        for name in ("champion", "candidate")
    ]
    decide(JUDGED[what], *[side[:1] for side in sides])  # loads what a first use loads
    with measured(root, what):
        decide(JUDGED[what], *sides)


SELECTION = "shop-selection"
JUDGED = {
    "rule on mAP_all": Rules(better=(Paired(setting=SELECTION, metric="mAP_all"),)),
    "rule on acc_1": Rules(better=(Paired(setting=SELECTION, metric="acc_1"),)),
}


# A year ---------------------------------------------------------------------------------------------------------------


def fill(root: Path) -> None:
    """Write a year of reports, and the runs of other models up to RUNS."""
    arrivals(root / "datasets")
    store = store_of(root)
    for i, folder in enumerate(models_of(root)):
        registered(store, f"model-{i}", folder)
    runs = [*year(root), *others()]
    names = sorted({tags["zse.setting"] for tags in runs})
    experiments = {name: int(store.experiment(name)) for name in names}
    engine = create_engine(store.uri)
    for start in range(0, len(runs), 500):
        insert_runs(engine, start, runs[start : start + 500], experiments)


def arrivals(catalog: Path) -> None:
    """DAYS folders of the same pictures in links, which take no space; each has a picture of its own."""
    drawn = catalog.parent / "drawn"
    drawn.mkdir(parents=True)
    for i in range(PICTURES):
        Image.fromarray(draw_photo(CLASSES[0], i, size=48)).save(drawn / f"{i}.png")
    for day in range(DAYS):
        for modality in ("sketch", "photo"):
            for category in CLASSES:
                folder = catalog / f"day-{day:03d}" / modality / category
                folder.mkdir(parents=True)
                for i in range(PICTURES):
                    os.link(drawn / f"{i}.png", folder / f"{i}.png")


def models_of(root: Path) -> list[Path]:
    """The checkpoints, made once."""
    folders = [root / "trained" / f"model-{i}" for i in range(MODELS)]
    split = ZeroShotSplit(name="generated", citation="none", seen=("ant", "bee"), unseen=("emu",))
    for seed, folder in enumerate(folders):
        if not folder.exists():
            torch.manual_seed(seed)
            method = create_method("global", GlobalConfig(), BackboneConfig(name="test_vit"), size=64, classes=2)
            empty = torch.zeros(0, dtype=torch.int64)
            made = Checkpoint("global", method.eval(), TransformConfig(size=64), split, empty, {})
            save_checkpoint(made, folder)
            about = {"name": folder.name, "method": "global", "digest": load_checkpoint(folder).digest}
            Training.write(str(folder), training={"run": folder.name}, cpu_seconds=0.0, **about)
    return folders


def registered(store: Store, name: str, checkpoint: Path) -> None:
    """Log a checkpoint as a model whose own copy is the only one, and register it as the champion."""
    client, digest = store.client, Training.open(str(checkpoint)).digest
    model = client.create_logged_model(
        store.experiment("trainings"), name=name, model_type="zse.global", tags={"zse.checkpoint_hash": digest}
    )
    copy = checkpoint.parents[1] / "copies" / name
    shutil.copytree(checkpoint, copy / "artifacts" / "checkpoint")
    client.log_model_artifacts(model.model_id, str(copy))
    client.finalize_logged_model(model.model_id, "READY")
    client.create_registered_model(name)
    version = client.create_model_version(name, f"models:/{model.model_id}", model_id=model.model_id)
    client.set_registered_model_alias(name, "champion", version.version)


def year(root: Path) -> list[dict[str, str]]:
    """The tags of the runs of a year; writes ingested images and reports. Those of the last day do not exist."""
    work, config = str(root / "workspace"), reevaluate.how_to_evaluate([])
    reevaluate.ingest = partial(pretended, work)
    models = reevaluate._models(NAMES, work, config, store_of(root))
    wanted, broken = reevaluate._plan(reevaluate.arrived(str(root / "datasets")), models, work, config)
    assert not broken, broken
    logged = []
    for i, one in enumerate(wanted):
        setting = f"{one.dataset}.{one.images.fingerprint[:8]}"
        about = {"dataset": one.dataset, "dataset_fingerprint": one.images.fingerprint}
        about |= {"checkpoint_hash": one.model.training.digest, "method": "global", "use": "report"}
        url = Report.place(work, f"report-{i}", f"{i:08x}")
        if one.dataset != wanted[-1].dataset:
            reported(url, setting, i, about | {"images": one.images.url, "split_hash": "all"})
            logged.append(evaluation(one.key, setting, url, about))
    return logged


def pretended(work: str, config: Any, _: str, plan: Any = None) -> Images:
    """The manifest of an ingest: its parts are not written."""
    plan = plan or plan_ingest(config, work)
    counts = {category: {"photo": PICTURES, "sketch": PICTURES} for category in CLASSES}
    about = {"dataset": config.dataset.name, "source": config.dataset.source, "transforms": vars(config.transforms)}
    return Images.write(
        plan.folder,
        plan.key,
        **about,
        listed=len(plan.records),
        pictures=len(plan.records),
        counts=counts,
        fingerprint=storage.digest([config.dataset.name]),
        skipped=[],
        shards=[{"name": name, "rows": len(records)} for name, records in plan.parts.items()],
        row_group=config.ingest.row_group,
    )


def reported(url: str, setting: str, seed: int, about: dict[str, str]) -> None:
    """A report of QUERIES queries."""
    values = np.random.default_rng(seed).random(QUERIES)
    names = dict(zip(("setting", "protocol", "mode", "metric"), (setting, "plain", "ret", "mAP_all"), strict=True))
    table = pa.table(
        {
            "id": [f"sketch/{i}" for i in range(QUERIES)],
            "category": [CLASSES[i % len(CLASSES)] for i in range(QUERIES)],
            "instance": [None] * QUERIES,
            "/".join(names.values()): values,
        }
    )
    storage.write_bytes(f"{url}/{Report.QUERIES}", encode_part(table, row_group=4096))
    row = {"value": values.mean(), "ci_low": 0.4, "ci_high": 0.6, "classes": len(CLASSES), "gallery": QUERIES}
    storage.write_json(f"{url}/{Report.ROWS}", [{**names, **row, "queries": QUERIES, "method": "global"}])
    storage.write_json(f"{url}/{reevaluate.DRIFT}", {"drift": {"ink": 0.1}, "unknown": "", "classes": {"ink": 12}})
    Report.write(url, settings=[setting], **about)


def versions(work: Path) -> None:
    """Two models' reports of ASKED queries on each version of a data set, in links: each query has its own photo."""
    ids = {"id": [f"sketch/{i}" for i in range(ASKED)], "instance": [f"photo/{i}" for i in range(ASKED)]}
    ids["category"] = [f"class {i % 125}" for i in range(ASKED)]
    values = np.random.default_rng(0).random((2, ASKED))
    for day in range(DAYS):
        setting = f"{SELECTION}.{day:08x}"
        keys = [f"{setting}/plain/ret/{metric}" for metric in ("mAP_all", "acc_1")]
        table = pa.table({**ids, **dict(zip(keys, values, strict=True))})
        for name in ("champion", "candidate"):
            url = f"{work}/versions/{name}-{day}"
            about = {
                "split_hash": "s",
                "dataset_fingerprint": f"{day:08x}",
                "checkpoint_hash": name,
                "use": "selection",
            }
            if name == "champion":
                storage.write_bytes(f"{url}/{Report.QUERIES}", encode_part(table, row_group=4096))
            else:
                os.makedirs(url, exist_ok=True)
                os.link(f"{work}/versions/champion-{day}/{Report.QUERIES}", f"{url}/{Report.QUERIES}")
            parts = ("setting", "protocol", "mode", "metric")
            rows = [{**dict(zip(parts, key.split("/"), strict=True)), "gallery": ASKED} for key in keys]
            storage.write_json(f"{url}/{Report.ROWS}", rows)
            Report.write(url, settings=[setting], method="global", **about)


def evaluation(key: str, setting: str, report: str, about: dict[str, str]) -> dict[str, str]:
    """The tags of an evaluation's run."""
    tags = {f"zse.{name}": value for name, value in about.items()}
    tags |= {"zse.kind": "evaluation", KEY: key, "zse.setting": setting, "zse.report": report, "zse.drift": ""}
    return (
        tags
        | {"zse.settings": "1", "zse.queries": "1000", "zse.gallery": "10000"}
        | dict.fromkeys(("zse.training_run", "zse.model"), "")
    )


def others() -> list[dict[str, str]]:
    """The tags of evaluations of 50 other models in ten settings."""
    found = []
    for i in range(RUNS - (DAYS - 1) * MODELS):
        about = {"dataset": f"data-{i % 10}", "dataset_fingerprint": f"{i // 500:064x}", "use": "report"}
        about |= {"checkpoint_hash": f"{i // 10 % 50:064x}", "method": "global"}
        setting = f"data-{i % 10}.{i // 500:08x}"
        found.append(evaluation(f"{i:032x}-global", setting, f"s3://bucket/zse/reports/{i}", about))
    return found


def insert_runs(engine: Any, first: int, logged: Sequence[dict[str, str]], experiments: dict[str, int]) -> None:
    now = int(time.time() * 1000)
    runs, tags, metrics = [], [], []
    for i, each in enumerate(logged, start=first):
        run = {"run_uuid": f"{i:032x}", "name": f"evaluate {i}", "status": "FINISHED", "lifecycle_stage": "active"}
        run |= {"source_type": "LOCAL", "user_id": "zse", "start_time": now + i, "end_time": now + i}
        runs.append(run | {"artifact_uri": f"{i}", "experiment_id": experiments[each["zse.setting"]]})
        tags += [{"key": key, "value": value, "run_uuid": run["run_uuid"]} for key, value in each.items()]
        own = {"timestamp": now, "step": 0, "is_nan": False, "run_uuid": run["run_uuid"]}
        metrics += [{"key": f"plain/mode-{j}/mAP_all", "value": j / METRICS, **own} for j in range(METRICS)]
    with engine.begin() as connection:
        for table, rows in ((SqlRun, runs), (SqlTag, tags), (SqlLatestMetric, metrics)):
            connection.execute(insert(table), rows)


if __name__ == "__main__":
    main()
