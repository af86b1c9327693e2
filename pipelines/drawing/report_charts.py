"""List the charts of a report by file name. A new chart = a file with its function, an import and a line here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipelines.drawing.charts import Charted, confusion, precision_recall


def _precision_recall(report: Charted) -> bytes | None:
    return precision_recall(report.curves) if report.curves else None


def _confusion(report: Charted) -> bytes:
    """The confusion of the classes that are searched or found."""
    known = np.flatnonzero(report.shares.any(0) | report.shares.any(1))
    return confusion(report.shares[np.ix_(known, known)], [report.names[int(i)] for i in known], report.first)


CHARTS: dict[str, Callable[[Charted], bytes | None]] = {
    "precision-recall.png": _precision_recall,
    "confusion.png": _confusion,
}
"""File name -> drawing function, which returns None if the report has no data for the chart."""
