"""Check the confidences of a model in a report's settings: `confidence.json` and the reliability diagram. `evaluate`
calls this module."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipelines.drawing.charts import reliability_diagram
from pipelines.evaluate.searches import Search
from pipelines.store import storage
from pipelines.workspace.reports import Report
from zse_model.evaluation.evaluate import Evaluation
from zse_model.methods import RetrievalMethod
from zse_model.modes import undiffused


def write_confidences(
    folder: str, method: RetrievalMethod, searches: Sequence[Search], evaluations: Mapping[str, Sequence[Evaluation]]
) -> None:
    """Write a row for each setting by class and mode with a confidence, and the diagram of the first setting. A model
    without confidences leaves an empty table and no diagram."""
    rows: list[dict[str, Any]] = []
    for i, search in enumerate(searches):
        if "mAP_all" not in search.task.metrics or "plain" not in search.task.protocols:
            continue
        for mode, each in evaluations.items():
            confidence = None if undiffused(mode)[1] else method.confidence_of(mode)
            if confidence is not None:
                checked = asdict(each[i].reliability(confidence))
                rows.append({"setting": search.task.setting, "mode": mode, **checked})
    for row in rows:
        row["caught"] = None if math.isnan(row["caught"]) else row["caught"]
    storage.write_json(storage.join(folder, Report.CONFIDENCE), rows)
    first = {row["mode"]: row["bins"] for row in rows if row["setting"] == searches[0].task.setting}
    if first:
        storage.write_bytes(storage.join(folder, Report.CHARTS, Report.RELIABILITY), reliability_diagram(first))
