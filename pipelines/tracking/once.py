"""Log a run once, even if several processes log it at once or repeatedly. The tag `zse.key` identifies the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from pipelines.tracking.store import Store, transfer
from pipelines.workspace.endings import Ending, ending, heeding_sigterm

KEY = "zse.key"
REASON = "zse.reason"  # why a run FAILED or was KILLED
TAKEN = ("IntegrityError", "UniqueViolation")  # errors of SQLite and PostgreSQL, also through a tracking server
STALE = 24 * 3600  # s until an unfinished duplicate is deleted
TRIES = 20  # each try gets to the next row that another process writes at the same moment


def run_once(
    store: Store, experiment: str, key: str, name: str, tags: Mapping[str, str], log: Callable[[Any], None]
) -> tuple[Any, bool]:
    """(the finished run of a key, whether this call finished it).

    log: writes the content of the run. It must be repeatable: a run that another process left half-way is logged again.
    """
    run = kept_run(store, experiment, key)
    run = run or store.client.create_run(experiment, run_name=name, tags={KEY: key, **tags})
    if run.info.status == "FINISHED":
        return run, False
    with heeding_sigterm():
        try:
            under_way(store, run)
            with transfer(0):
                beside_others(lambda: log(run))
            store.client.set_terminated(run.info.run_id)
        except BaseException as error:
            with suppress(Exception):  # if the server is unreachable, the next process continues the run
                if store.client.get_run(run.info.run_id).info.status != "FINISHED":  # another process may have
                    terminate(store, run.info.run_id, ending(error))
            raise
    return kept_run(store, experiment, key), True


def under_way(store: Store, run: Any) -> None:
    """Set a run to RUNNING, also one that had ended."""
    if run.info.status != "RUNNING":
        store.client.update_run(run.info.run_id, status="RUNNING")
    if run.data.tags.get(REASON):
        store.client.set_tag(run.info.run_id, REASON, "")


def terminate(store: Store, run_id: str, ended: Ending) -> None:
    """End a run that did not finish, with the reason as a tag."""
    store.client.set_terminated(run_id, status=ended.state)
    store.client.set_tag(run_id, REASON, ended.reason)


def beside_others(log: Callable[[], Any]) -> None:
    """Call `log`, and again if another process wrote the same tag or data set at the same moment. `log` must be
    repeatable.

    MLflow first looks for a row and then adds it, so the database refuses one of two (16 of 80 calls by four threads at
    once). The next call finds the row and overwrites it.
    """
    from mlflow.exceptions import MlflowException

    for left in reversed(range(TRIES)):
        try:
            log()
            return
        except MlflowException as error:
            if not left or not any(name in str(error) for name in TAKEN):
                raise


def kept_run(store: Store, experiment: str, key: str) -> Any:
    """The run of a key, or None. Of several runs that processes began at once:

    - the finished one with the smallest id is kept, and other finished ones are deleted;
    - if none is finished, the one with the smallest id is returned;
    - an unfinished one beside a finished one is deleted after a day, when no process can be writing to it.
    """
    found = store.client.search_runs([experiment], f"tags.`{KEY}` = '{key}'", max_results=1000)
    found.sort(key=lambda run: (run.info.status != "FINISHED", run.info.run_id))
    old = 1000 * (time.time() - STALE)
    if found and found[0].info.status == "FINISHED":
        for other in found[1:]:
            if other.info.status == "FINISHED" or other.info.start_time < old:
                _delete(store, other.info.run_id)
    return next(iter(found), None)


def _delete(store: Store, run_id: str) -> None:
    """Delete a run that another process may be deleting, too."""
    from mlflow.exceptions import MlflowException

    try:
        store.client.delete_run(run_id)
    except MlflowException:
        if store.client.get_run(run_id).info.lifecycle_stage != "deleted":
            raise
