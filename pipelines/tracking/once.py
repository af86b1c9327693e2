"""What is logged once, however often and by however many processes at once: a run with the tag `zse.key`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from pipelines.tracking.store import Store, transfer
from pipelines.workspace.endings import Ending, ending, heeding_sigterm

KEY = "zse.key"
REASON = "zse.reason"  # why a run FAILED or was KILLED
TAKEN = ("IntegrityError", "UniqueViolation")  # as SQLite and PostgreSQL say it, also through a tracking server
STALE = 24 * 3600  # s
TRIES = 20  # each goes as far as the next row that another process writes in the same moment


def run_once(
    store: Store, experiment: str, key: str, name: str, tags: Mapping[str, str], log: Callable[[Any], None]
) -> tuple[Any, bool]:
    """The finished run of a key, and whether it was not before.

    `log` writes what is in it: all of it again where another process left it half way, so it must be able to.
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
            with suppress(Exception):  # a server that is away: the next that logs it goes on
                if store.client.get_run(run.info.run_id).info.status != "FINISHED":  # another process may have
                    terminate(store, run.info.run_id, ending(error))
            raise
    return kept_run(store, experiment, key), True


def under_way(store: Store, run: Any) -> None:
    """A run that is gone on with, also where it had ended."""
    if run.info.status != "RUNNING":
        store.client.update_run(run.info.run_id, status="RUNNING")
    if run.data.tags.get(REASON):
        store.client.set_tag(run.info.run_id, REASON, "")


def terminate(store: Store, run_id: str, ended: Ending) -> None:
    """A run that did not reach its end, with the reason as a tag."""
    store.client.set_terminated(run_id, status=ended.state)
    store.client.set_tag(run_id, REASON, ended.reason)


def beside_others(log: Callable[[], Any]) -> None:
    """`log` again where another process wrote the same tag or data set in the same moment: MLflow looks whether it is
    there, then adds it, and the database takes one of the two (16 of 80 calls by four threads at once). Then it is
    there, and is written over. For what may be logged twice."""
    from mlflow.exceptions import MlflowException

    for left in reversed(range(TRIES)):
        try:
            log()
            return
        except MlflowException as error:
            if not left or not any(name in str(error) for name in TAKEN):
                raise


def kept_run(store: Store, experiment: str, key: str) -> Any:
    """The run of a key, None where there is none. Of several that processes began at once the finished one with the
    smallest id stays and other finished ones are deleted; as long as none is, it is the one with the smallest id. A run
    that is still written to is left alone for a day: then nobody does, and it is deleted beside a finished one."""
    found = store.client.search_runs([experiment], f"tags.`{KEY}` = '{key}'", max_results=1000)
    found.sort(key=lambda run: (run.info.status != "FINISHED", run.info.run_id))
    old = 1000 * (time.time() - STALE)
    if found and found[0].info.status == "FINISHED":
        for other in found[1:]:
            if other.info.status == "FINISHED" or other.info.start_time < old:
                _delete(store, other.info.run_id)
    return next(iter(found), None)


def _delete(store: Store, run_id: str) -> None:
    """Also where another process is quicker."""
    from mlflow.exceptions import MlflowException

    try:
        store.client.delete_run(run_id)
    except MlflowException:
        if store.client.get_run(run_id).info.lifecycle_stage != "deleted":
            raise
