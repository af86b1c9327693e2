"""Run the named benchmarks, or all that take minutes."""

from __future__ import annotations

import sys
from importlib import import_module

ALL = ("scoring", "search", "training", "loading", "ingest", "distribution", "layouts", "duplicates", "scaling")
LONG = ("codes", "workers", "compiling", "scale", "planning", "alarms", "drift")


def main() -> None:
    names = sys.argv[1:] or ALL
    if unknown := sorted(set(names) - {*ALL, *LONG}):
        sys.exit(f"Unknown benchmarks {unknown}. Known: {(*ALL, *LONG)}")
    for name in names:
        print(f"\n== {name}", flush=True)
        import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
