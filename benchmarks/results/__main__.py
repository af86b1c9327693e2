"""Make the missing rows of docs/results.md, then draw the page from the finished rows.

A row is one experiment with one seed. A finished row is one file, benchmarks/results/rows/<row>.json. The page and the
table of the README are drawn from these files alone, and mark rows that were not run. Run the same command again to
continue an interrupted row.

    python -m benchmarks.results                       make all missing rows, then the page
    python -m benchmarks.results --only selection      make missing rows whose name begins with "selection"
    python -m benchmarks.results --page                draw the page only
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.results.make import DATA, WEIGHTS, make
from benchmarks.results.page import PAGE, draw, stale_quotes
from benchmarks.results.plan import ALL_ROWS, ROWS, Row
from pipelines.runtime.progress import say


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="PREFIX", help="only rows whose table.name begins with PREFIX")
    parser.add_argument("--page", action="store_true", help="draw the page from the finished rows, and make no row")
    parser.add_argument("--workspace", default="workspace/results", help="folder or URL for outputs of the runs")
    options = parser.parse_args()
    if not options.page:
        make_missing(options.only, options.workspace)
    draw()
    for quote in stale_quotes():
        say(f"Out of date: {quote}")
    say(f"Result: {PAGE}\nNext: commit {PAGE.name}, README.md and {ROWS}")


def make_missing(only: str, workspace: str) -> None:
    left = missing(only)
    if left and not (Path(DATA).exists() and Path(WEIGHTS).exists()):
        sys.exit(
            f"The rows need DATA, now {DATA}, and WEIGHTS, now {WEIGHTS}; one does not exist. Give both: make results "
            "DATA=folder WEIGHTS=file"
        )
    for i, (row, seed) in enumerate(left):
        say(f"Row {i + 1} of {len(left)}: {row.table}.{row.name}, seed {seed}")
        make(row, seed, workspace)
        draw()


def missing(only: str) -> list[tuple[Row, int]]:
    """The missing rows, seed 0 of all rows first: a page with few seeds is better than a page with few rows."""
    return [
        (row, seed)
        for seed in range(3)
        for row in ALL_ROWS
        if seed in row.seeds
        if f"{row.table}.{row.name}".startswith(only) and not finished(row, seed)
    ]


def finished(row: Row, seed: int) -> bool:
    """Whether the row's file exists and has what the row plans to measure."""
    if not row.file(seed).exists():
        return False
    found = json.loads(row.file(seed).read_text())
    faithful = any(part.startswith("faithfulness_") for part in found)
    return ("cross" in found or not row.cross) and (faithful or not row.faithful)


if __name__ == "__main__":
    main()
