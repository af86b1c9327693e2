"""What a report consists of: the names of its files, and what is said in them."""

from __future__ import annotations

REPORT, TOP, PER_CLASS, SHEETS = "report.json", "top.parquet", "per_class.json", "sheets"
CONFUSION, CURVES, COSTS, CHARTS = "confusion.json", "curves.json", "costs.json", "charts"
MEASURES = {
    "ms_query_1000": "ms a query, 1,000 photos",
    "gflop_pair": "GFLOP a pair",
    "bytes_photo": "B a photo",
}
