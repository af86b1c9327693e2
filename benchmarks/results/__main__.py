"""Make the rows of docs/results.md that are missing, then draw the page from the rows that are there.

A row is one experiment with one seed. A finished row is one file, benchmarks/results/rows/<row>.json. The page and the
table of the README are drawn from these files alone: a row that was not run says so. An interrupted row continues where
it stopped, because its stages do.

    python -m benchmarks.results                       every row that is missing, then the page
    python -m benchmarks.results --only selection      those whose name begins so
    python -m benchmarks.results --page                the page alone
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.results.make import DATA, WEIGHTS, make
from benchmarks.results.page import PAGE, draw, stale_quotes
from benchmarks.results.plan import ALL_ROWS, ROWS, Row
from pipelines.runtime.progress import say


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose table.name begins so")
    parser.add_argument("--page", action="store_true", help="draw the page from the rows that are there")
    parser.add_argument("--workspace", default="workspace/results")
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
            f"Nothing to measure on: DATA is {DATA}, WEIGHTS is {WEIGHTS}. Give both: make results DATA=... WEIGHTS=..."
        )
    for i, (row, seed) in enumerate(left):
        say(f"Row {i + 1} of {len(left)}: {row.table}.{row.name}, seed {seed}")
        make(row, seed, workspace)
        draw()


def missing(only: str) -> list[tuple[Row, int]]:
    """One seed of every row first: a page with few seeds is better than a page with few rows."""
    return [
        (row, seed)
        for seed in range(3)
        for row in ALL_ROWS
        if seed in row.seeds
        if f"{row.table}.{row.name}".startswith(only) and not row.file(seed).exists()
    ]


if __name__ == "__main__":
    main()
