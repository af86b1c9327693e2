"""Run the named benchmarks, by default those of ALL. Options after a single benchmark of WITH_OPTIONS go to it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import takewhile

ALL = ("scoring", "search", "training", "loading", "ingest", "layouts", "duplicates", "scaling")
LONG = (
    "averaging",
    "check",
    "codes",
    "confidence",
    "diffusion",
    "distance",
    "distribution",
    "late",
    "workers",
    "compiling",
    "scale",
    "planning",
    "alarms",
    "drift",
    "driver",
    "gpu",
    "table",
    "index",
    "int8",
    "memory",
    "photographed",
    "roofline",
    "serve",
    "sizes",
    "tokens",
)
WITH_OPTIONS = (
    "averaging",
    "check",
    "confidence",
    "diffusion",
    "distance",
    "distribution",
    "driver",
    "gpu",
    "late",
    "photographed",
    "scaling",
    "serve",
    "sizes",
    "tokens",
)


def main(arguments: Sequence[str]) -> None:
    named = list(takewhile(lambda argument: not argument.startswith("-"), arguments))
    options, names = arguments[len(named) :], named or ALL
    if unknown := sorted(set(names) - {*ALL, *LONG}):
        sys.exit(f"Unknown benchmarks {unknown}. Known: {', '.join((*ALL, *LONG))}")
    if options and not (len(names) == 1 and names[0] in WITH_OPTIONS):
        sys.exit(
            f"{' '.join(options)}: only {', '.join(WITH_OPTIONS)} takes options, named alone. Usage: python -m "
            f"benchmarks [NAME ...]. Run by default: {', '.join(ALL)}. Others: {', '.join(LONG)}"
        )
    for name in names:
        print(f"\n== {name}", flush=True)
        run = import_module(f"benchmarks.{name}").main
        run(options) if name in WITH_OPTIONS else run()


if __name__ == "__main__":
    main(sys.argv[1:])
