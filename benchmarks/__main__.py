"""Run the named benchmarks, or all of them."""

from __future__ import annotations

import sys
from importlib import import_module

ALL = ("scoring", "search", "training", "ingest", "layouts", "duplicates")


def main() -> None:
    names = sys.argv[1:] or ALL
    if unknown := sorted(set(names) - set(ALL)):
        sys.exit(f"Unknown benchmarks {unknown}. Known: {ALL}")
    for name in names:
        print(f"\n== {name}", flush=True)
        import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
