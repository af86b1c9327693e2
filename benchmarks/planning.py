"""Measure the planning of a re-evaluation with a year of results in MLflow: 500 evaluations of 200 metrics each
(100,000 rows) in SQLite.

Times the query of `zse reevaluate` for existing reports, and the query of `zse report`. The baseline asks run by run.
"""

from __future__ import annotations

import tempfile
import time

from mlflow.entities import Metric, RunTag

from pipelines.tracking import Store, history
from pipelines.tracking.once import KEY

RUNS, METRICS, SETTINGS = 500, 200, 10


def fill(store: Store) -> None:
    """Write evaluations of 50 models in ten settings, in the form of `zse evaluate`."""
    client, now = store.client, int(time.time() * 1000)
    for i in range(RUNS):
        setting, model = f"data-{i % SETTINGS}.01234567", i // SETTINGS
        tags = {
            "zse.kind": "evaluation",
            KEY: f"{i:032x}-global",
            "zse.settings": "1",
            "zse.setting": setting,
            "zse.dataset": f"data-{i % SETTINGS}",
            "zse.dataset_fingerprint": "01234567" * 8,
            "zse.checkpoint_hash": f"{model:064x}",
            "zse.report": f"s3://bucket/zse/reports/{i}",
            "zse.use": "report",
            "zse.method": "global",
            "zse.training_run": "",
            "zse.model": "",
            "zse.queries": "1000",
            "zse.gallery": "10000",
        }
        run = client.create_run(store.experiment(setting), start_time=now + i, tags=tags)
        metrics = [Metric(f"plain/mode-{j}/mAP_all", j / METRICS, now, 0) for j in range(METRICS)]
        client.log_batch(run.info.run_id, metrics=metrics, tags=[RunTag("zse.device", "cpu")])
        client.set_terminated(run.info.run_id)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store.at(folder, f"sqlite:///{folder}/mlflow.db")
        fill(store)
        start = time.perf_counter()
        known = history.evaluated(store)
        planned = time.perf_counter() - start
        assert len(known) == RUNS
        start = time.perf_counter()
        assert len(history.standings(store)) == RUNS
        stood = time.perf_counter() - start
        some = [next(iter(one.runs.values())) for one in known.values()][:50]
        start = time.perf_counter()
        for run in some:
            store.client.get_run(run)
        one_by_one = (time.perf_counter() - start) / len(some) * RUNS
    print(f"{RUNS} runs, {RUNS * METRICS:,} metric rows, SQLite")
    print(f"zse reevaluate, query     {planned:6.2f} s  ({one_by_one / planned:.1f} times as fast as run by run)")
    print(f"zse report, query         {stood:6.2f} s")


if __name__ == "__main__":
    main()
