"""Read reports: the results of one checkpoint on one data set, written by `zse evaluate`.

<workspace>/reports/<checkpoint>-<key>/report.json  queries.parquet  top.parquet  per_class.json  confusion.json
                                       curves.json  costs.json  confidence.json  sheets/*.png  charts/*.png
                                       manifest.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.store import storage
from pipelines.workspace.kept import Kept

MEASURES = {
    "ms_query_1000": "ms a query, 1,000 photos",
    "gflop_pair": "GFLOP a pair",
    "bytes_photo": "B a photo",
}


class Report(Kept):
    """The results of an evaluation.

    `report.json` has the rows that the README describes, `queries.parquet` the values of each query (`queries.py` reads
    it), `top.parquet` the first photos of each query. The other tables describe the first setting: average precision by
    class, the classes of the first ten photos, interpolated precision at eleven recalls, and the cost of each mode.
    """

    KIND, MADE_BY = "reports", "zse evaluate"
    FORMAT = 3
    """Part of the key: a report of another format is made again."""

    ROWS, QUERIES, TOP = "report.json", "queries.parquet", "top.parquet"
    PER_CLASS, CONFUSION, CURVES, COSTS = "per_class.json", "confusion.json", "curves.json", "costs.json"
    CONFIDENCE = "confidence.json"
    """How confidences agree with what is relevant, by setting and mode; empty for a model without confidences."""
    RELIABILITY = "reliability.png"
    SHEETS, CHARTS = "sheets", "charts"
    """Folders of PNG files."""

    @property
    def method(self) -> str:
        return self.manifest["method"]

    @property
    def dataset(self) -> str:
        return self.manifest["dataset"]

    @property
    def settings(self) -> Sequence[str]:
        """Names of the settings. The tables by class describe the first."""
        return self.manifest["settings"]

    @property
    def chance(self) -> Mapping[str, float] | None:
        """Setting -> the expected mAP_all of a random order; None in a report of older code."""
        return self.manifest.get("chance")

    @property
    def split_hash(self) -> str:
        return self.manifest["split_hash"]

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the image shards."""
        return self.manifest["dataset_fingerprint"]

    @property
    def checkpoint_hash(self) -> str:
        """`none` for raw pixels."""
        return self.manifest["checkpoint_hash"]

    @property
    def use(self) -> str:
        """`selection`: the results may be used to choose a model; `report`: they may be reported only."""
        return self.manifest.get("use", "report")

    @property
    def report_key(self) -> str:
        """Two reports with the same report key have the same rows, even if their pictures came from two folders."""
        return self.manifest["report_key"]

    @property
    def images(self) -> str | None:
        """The URL of the image shards; None in a report of older code."""
        return self.manifest.get("images")

    @property
    def encodings(self) -> str | None:
        """The URL of the encodings; None for raw pixels."""
        return self.manifest.get("encodings")

    @property
    def experiment(self) -> Mapping[str, Any] | None:
        """name, dataset, transforms and evaluation of the experiment; None in a report of older code."""
        return self.manifest.get("experiment")

    def file(self, *names: str) -> str:
        return storage.join(self.url, *names)

    def has(self, name: str) -> bool:
        return storage.exists(self.file(name))

    def table(self, name: str) -> Any:
        """The content of a JSON file, [] if it is missing: a list of rows, for CURVES a mapping. Raw pixels have no
        COSTS."""
        return storage.read_json(self.file(name)) if self.has(name) else []

    def rows(self) -> list[dict[str, Any]]:
        """The results: one row for each setting, protocol, mode and metric."""
        return storage.read_json(self.file(self.ROWS))
