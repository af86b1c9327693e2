"""The page that an experiment of MLflow opens on: its evaluations as a table, ordered by the setting's first metric.

MLflow keeps a shared view as a tag of the experiment, in the form that its own "share" button writes (3.17; not
documented). Where another version does not know it, the plain table opens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from pipelines.tracking.store import Store
from zse_model.evaluation import HEADLINES

KEY = "selection"
TAG = f"mlflow.sharedViewState.{KEY}"
TAGS = ("zse.use", "zse.drift")
NOTE = "mlflow.note.content"
LIMIT = 5000  # characters of a tag


def share_view(store: Store, experiment: str, rows: Sequence[dict[str, Any]], costs: Iterable[dict[str, Any]]) -> None:
    """Let the table of an experiment show what these rows measured, beside what it shows already."""
    plain = [row for row in rows if row["protocol"] == "plain" and row["metric"] in HEADLINES]
    ordered = sorted(plain, key=lambda row: HEADLINES.index(row["metric"]))
    names = ["{protocol}/{mode}/{metric}".format(**row) for row in ordered]
    metrics = [_column("metrics", name) for name in (*names, *(f"cost/{cost['mode']}/ms_query_1000" for cost in costs))]
    tags = store.client.get_experiment(experiment).tags
    before = json.loads(tags[TAG]) if TAG in tags else {"selectedColumns": [_column("tags", "zse.method")]}
    columns = list(dict.fromkeys([*before["selectedColumns"], *metrics, *(_column("tags", tag) for tag in TAGS)]))
    if not metrics or columns == before["selectedColumns"]:
        return
    view = {
        "searchFilter": "tags.`zse.kind` = 'evaluation'",
        "orderByKey": before.get("orderByKey", metrics[0]),
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": [_column("attributes", "Run Name"), *columns],
        "columnWidths": {name: 8 * min(len(name), 24) for name in columns},
        "runsHiddenMode": "FIRST_20_RUNS",
    }
    if len(text := json.dumps(view)) <= LIMIT:
        store.client.set_experiment_tag(experiment, TAG, text)
        store.client.set_experiment_tag(experiment, "mlflow.experimentKind", "custom_model_development")
        link = f"#/experiments/{experiment}/runs?viewStateShareKey={KEY}"
        note = f"[The models of this setting, best first]({link}): choose one there, then register it from its run."
        if NOTE not in tags:  # people write theirs there
            store.client.set_experiment_tag(experiment, NOTE, note)


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"
