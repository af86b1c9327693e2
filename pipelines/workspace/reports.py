"""Reports: what an evaluation found.

<workspace>/reports/<checkpoint>-<key>/report.json  queries.parquet  top.parquet  per_class.json  confusion.json
                                       curves.json  costs.json  sheets/*.png  charts/*.png  manifest.json
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
    """What `zse evaluate` found: `report.json` has the rows that the README describes, `queries.parquet` what each
    query scored (`queries.py` reads it), `top.parquet` the first photos that each found.

    The other tables are of the first setting, by class: average precision, whose photos stand among the first ten,
    interpolated precision at eleven recalls; and what a mode costs.
    """

    KIND, MADE_BY = "reports", "zse evaluate"
    FORMAT = 3
    """In the key: a report of another format is made again."""

    ROWS, QUERIES, TOP = "report.json", "queries.parquet", "top.parquet"
    PER_CLASS, CONFUSION, CURVES, COSTS = "per_class.json", "confusion.json", "curves.json", "costs.json"
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
        """Names of what was searched in what; the tables by class are of the first."""
        return self.manifest["settings"]

    @property
    def chance(self) -> Mapping[str, float] | None:
        """By setting, the mAP_all that a random order is expected to have; None where older code did not say."""
        return self.manifest.get("chance")

    @property
    def split_hash(self) -> str:
        return self.manifest["split_hash"]

    @property
    def fingerprint(self) -> str:
        """Of the image shards."""
        return self.manifest["dataset_fingerprint"]

    @property
    def checkpoint_hash(self) -> str:
        """`none` for raw pixels."""
        return self.manifest["checkpoint_hash"]

    @property
    def use(self) -> str:
        """`report` or `selection`: whether its numbers may be chosen by."""
        return self.manifest.get("use", "report")

    @property
    def report_key(self) -> str:
        """Two reports with one have the same rows, whatever folder their pictures came from."""
        return self.manifest["report_key"]

    @property
    def images(self) -> str | None:
        """The URL of the image shards; None where older code did not say."""
        return self.manifest.get("images")

    @property
    def encodings(self) -> str | None:
        """The URL of the encodings; None for raw pixels."""
        return self.manifest.get("encodings")

    @property
    def experiment(self) -> Mapping[str, Any] | None:
        """name, dataset, transforms and evaluation of the experiment; None where older code did not say."""
        return self.manifest.get("experiment")

    def file(self, *names: str) -> str:
        return storage.join(self.url, *names)

    def has(self, name: str) -> bool:
        return storage.exists(self.file(name))

    def table(self, name: str) -> Any:
        """One of the JSON files, if it is there: a list of rows, CURVES a mapping. Raw pixels have no COSTS."""
        return storage.read_json(self.file(name)) if self.has(name) else []

    def rows(self) -> list[dict[str, Any]]:
        """The results, one a setting, protocol, mode and metric."""
        return storage.read_json(self.file(self.ROWS))
