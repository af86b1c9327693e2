"""The command line: its verbs in groups, and how it ends. Flags choose what to run, the YAML says how.

What a verb does is imported when it runs: `--help` answers at once.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import typer
from typer.rich_utils import rich_format_error

from pipelines.cli import datasets, judge, operate, stages, use
from pipelines.runtime import logs
from pipelines.runtime.failures import to_mend
from pipelines.runtime.progress import say
from pipelines.runtime.redaction import shown

app = typer.Typer(
    name="zse",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Find photos by drawings, of things the model was never trained on.\n\n"
    "Start with `zse quickstart`: it draws a small world, trains two methods and searches classes they never saw. "
    "Then point `zse run --experiment folder+global` at a folder with `sketch/<class>/*` and `photo/<class>/*`.",
)
VERBS: dict[str, tuple[Callable[..., None], ...]] = {
    "Start here": (stages.quickstart, stages.run, stages.experiments, stages.methods),
    "Stages": (stages.ingest, stages.shard, stages.train, stages.embed, stages.evaluate),
    "Search": (use.search, use.explain),
    "Choose and watch": (judge.compare, judge.promote, judge.report, judge.reevaluate),
    "Cluster": (operate.doctor, operate.status),
    "Data": (operate.import_checkpoint,),
}
for group, verbs in VERBS.items():
    for verb in verbs:
        app.command(rich_help_panel=group)(verb)
app.command(
    rich_help_panel="Choose and watch",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},  # those of `zse reevaluate`
)(judge.watch)
app.add_typer(datasets.app, name="datasets", rich_help_panel="Data")


def main() -> None:
    """The `zse` command. What a user can mend ends with one clear line, everything else with a traceback, and neither
    shows a secret. Ends with 1 for an error, 2 for a wrong use of the command line, 130 where it was interrupted."""
    warnings.filterwarnings("ignore", module=r"(ray|mlflow|timm|torch)\b.*")
    logging.getLogger("timm").setLevel(logging.ERROR)
    for stream in (sys.stdout, sys.stderr):  # a terminal may lack letters that names have
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        logs.capture()
        if (code := app(standalone_mode=False)) == 130:  # typer makes that of Ctrl-C
            _interrupted()
        sys.exit(code)
    except KeyboardInterrupt:
        _interrupted()
        sys.exit(130)
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt) or end.code == 130:
            _interrupted()
        raise
    except Exception as error:
        if hasattr(error, "format_message"):  # click's error of a wrong use: typer has a copy, under no public name
            wrong: Any = error
            wrong.message = shown(wrong.message)
            rich_format_error(wrong)
            sys.exit(wrong.exit_code)
        meant = to_mend(error)
        if os.environ.get("ZSE_DEBUG") or meant is None:
            say(traceback.format_exc(), logging.ERROR)
        if meant is not None:
            say(f"zse: {meant}\n(ZSE_DEBUG=1 shows where)", logging.ERROR)
        sys.exit(1)


def _interrupted() -> None:
    say("zse: interrupted. Finished work is kept: the same command goes on from there", logging.ERROR)
