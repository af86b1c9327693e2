"""Store a shared view with an MLflow experiment: a table of its evaluations, ordered by the setting's first metric.

The view is a tag of the experiment, in the undocumented form that MLflow's "share" button writes (3.17). Versions that
do not know the form open the plain table.
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
    """Add the metrics of these rows and costs to the columns of an experiment's table."""
    plain = [row for row in rows if row["protocol"] == "plain" and row["metric"] in HEADLINES]
    ordered = sorted(plain, key=lambda row: HEADLINES.index(row["metric"]))
    names = ["{protocol}/{mode}/{metric}".format(**row) for row in ordered]
    costs_of = [f"cost/{cost['mode']}/ms_query_1000" for cost in costs]
    # The first metric and the cost decide, and MLflow draws only the columns that fit a window.
    metrics = [_column("metrics", name) for name in (*names[:1], *costs_of, *names[1:])]
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
        if NOTE not in tags:  # do not overwrite a user's note
            store.client.set_experiment_tag(experiment, NOTE, note)


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"
