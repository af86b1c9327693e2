"""Reports as an evaluation leaves them, with the scores that a test wants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.judge.compare import Side
from pipelines.store import storage
from pipelines.workspace.parts import encode_part
from pipelines.workspace.reports import Report

SELECTION, TEST = "shop-selection.01234567", "shop.01234567"


def measured(
    folder: Path,
    name: str,
    selection: float,
    test: float,
    ms: float = 1.0,
    *,
    classes: int = 10,
    gallery: int = 50,
    others: int = 0,
    **about: Any,
) -> list[Side]:
    """The reports of a model whose queries score about this, on classes to choose by and on others.

    classes: of the former. others: further queries, of another setting. about: what their manifests say besides."""
    reports = []
    for setting, mean, use, count in ((SELECTION, selection, "selection", classes), (TEST, test, "report", 10)):
        url, key = str(folder / name / use), f"{setting}/plain/ret/mAP_all"
        noise = np.random.default_rng(0).normal(0, 0.05, 8 * count)
        own = np.random.default_rng(len(name)).normal(0, 0.005, 8 * count)
        values = mean + noise + own
        columns = {
            "id": [f"sketch/{i}" for i in range(8 * count)],
            "category": [f"class {i // 8}" for i in range(8 * count)],
            "instance": [None] * 8 * count,
            key: values,
        }
        further = {"id": "sketch/x", "category": "dog", "instance": None, key: np.nan}
        columns = {name: [*values, *[further[name]] * others] for name, values in columns.items()}
        storage.write_bytes(f"{url}/queries.parquet", encode_part(pa.table(columns), row_group=80))
        names = dict(zip(("setting", "protocol", "mode", "metric"), key.split("/"), strict=True))
        row = {"value": values.mean(), "ci_low": mean - 0.03, "ci_high": mean + 0.03, "classes": count}
        storage.write_json(f"{url}/report.json", [{**names, **row, "method": "global", "gallery": gallery}])
        storage.write_json(f"{url}/costs.json", [{"mode": "ret", "ms_query_1000": ms, "device": "an abacus"}])
        of = {"settings": [setting], "use": use, "split_hash": setting, "dataset_fingerprint": "0123"}
        said = {"method": "global", "checkpoint_hash": name, **of, **about}
        reports.append(Side(name, Report.write(url, **said)))
    return reports
