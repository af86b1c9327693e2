"""Runs are read from MLflow a page at a time, and only those asked for."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest

from pipelines.tracking import Store, history
from pipelines.tracking import store as stores
from pipelines.tracking.once import KEY

RUNS, PAGE = 7, 2


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Evaluations of two models, an unfinished one and a training."""
    monkeypatch.setattr(stores, "RUNS", PAGE)
    made = Store.at(str(tmp_path), f"sqlite:///{tmp_path}/mlflow.db")
    names = ("report", "dataset", "dataset_fingerprint", "use", "method", "training_run", "model")
    for i in range(RUNS + 2):
        setting = f"shop.{i // 2:08d}"
        tags = {"zse.kind": "training" if i == RUNS else "evaluation", KEY: f"{i}-global", "zse.setting": setting}
        tags |= {f"zse.{name}": "" for name in names} | {"zse.settings": "1", "zse.queries": "1", "zse.gallery": "1"}
        tags |= {"zse.checkpoint_hash": "ab"[i % 2]}
        run = made.client.create_run(made.experiment(setting), tags=tags, start_time=i + 1)
        for name in ("plain/ret/mAP_all", "plain/ret/P_100", "cost/ret/gflop_pair"):
            made.client.log_metric(run.info.run_id, name, 0.5)
        if i <= RUNS:
            made.client.set_terminated(run.info.run_id)
    return made


def test_one_page_of_runs_is_held(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[weakref.ref[Any]] = []
    held: list[int] = []
    search = type(store.client).search_runs

    def watched(self: Any, *args: Any, **asked: Any) -> Any:
        held.append(sum(one() is not None for one in given))
        page = search(self, *args, **asked)
        given.extend(map(weakref.ref, page))
        return page

    monkeypatch.setattr(type(store.client), "search_runs", watched)
    for read in (history.evaluated, history.standings):
        held.clear()
        assert len(read(store)) == RUNS
        assert len(held) >= RUNS // PAGE + 1 and max(held) <= 1, "the last run of the page before"


def test_the_store_is_asked_for_the_reports_of_a_model(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    of = history._Logged.of
    monkeypatch.setattr(history._Logged, "of", staticmethod(lambda run: read.append(run) or of(run)))
    assert set(history.evaluated(store, checkpoint_hash="b")) == {"1-global", "3-global", "5-global"}
    assert len(read) == 3
    assert set(history.evaluated(store, key="4-global")) == {"4-global"}


def test_older_evaluations_keep_what_is_drawn_over_time(store: Store) -> None:
    *older, newest = history.standings(store)
    assert set(newest.metrics) == {"plain/ret/mAP_all", "plain/ret/P_100", "cost/ret/gflop_pair"}
    assert all(set(one.metrics) == {"plain/ret/mAP_all"} for one in older)
    assert [one.started for one in older] == sorted(one.started for one in older)
    assert [one.setting for one in history.standings(store, "shop.00000001")] == ["shop.00000001"] * 2
    assert not history.standings(store, "sho'_")


def test_evaluations_of_two_splits_keep_their_metrics(store: Store) -> None:
    newest = history.standings(store)[-1]
    tags = store.client.get_run(newest.run).data.tags
    place = store.experiment(newest.setting)
    for i, split in enumerate("xy"):
        about = {**tags, KEY: f"{split}-global", "zse.split_hash": split}
        run = store.client.create_run(place, tags=about, start_time=RUNS + 2 + i)
        for name in newest.metrics:
            store.client.log_metric(run.info.run_id, name, 0.5)
        store.client.set_terminated(run.info.run_id)
    *older, untagged, first, second = history.standings(store)
    assert [one.split_hash for one in (untagged, first, second)] == ["", "x", "y"]
    assert untagged == newest and first.metrics == second.metrics == newest.metrics
    assert {one.split_hash for one in older} == {""}
