"""The `zse` command: its verbs in groups, its errors and its exit codes.

Options choose what to run; the experiment's YAML says how. A verb imports its code when it runs, so `--help` is fast.
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

from pipelines.cli import catalogue, datasets, judge, operate, stages, use
from pipelines.runtime import logs
from pipelines.runtime.failures import to_fix
from pipelines.runtime.progress import say
from pipelines.runtime.redaction import shown

app = typer.Typer(
    name="zse",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Search photos with a sketch, in classes that the model was never trained on.\n\n"
    "Start with `zse quickstart`: it draws a small data set, trains two methods and searches unseen classes. "
    "Then give `zse run --experiment folder+late_interaction` a folder with `sketch/<class>/*` and `photo/<class>/*`, "
    "and let `zse index` and `zse serve` search your own photos with the model.",
)
VERBS: dict[str, tuple[Callable[..., None], ...]] = {
    "Start here": (stages.quickstart, stages.demo, stages.run, stages.experiments, stages.methods),
    "Stages": (stages.ingest, stages.shard, stages.train, stages.embed, stages.evaluate),
    "Search": (catalogue.index, use.search, use.serve, use.explain),
    "Choose and watch": (judge.compare, judge.promote, judge.report, judge.reevaluate),
    "Cluster": (operate.doctor, operate.status),
    "Data": (operate.import_checkpoint,),
}
for group, verbs in VERBS.items():
    for verb in verbs:
        app.command(rich_help_panel=group)(verb)
app.command(
    rich_help_panel="Choose and watch",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},  # options of `zse reevaluate`
)(judge.watch)
app.add_typer(datasets.app, name="datasets", rich_help_panel="Data")


def main() -> None:
    """Run the `zse` command. Exit codes: 1 for an error, 2 for wrong use of the command line, 130 for an interruption.

    An error that the user can fix prints one line, any other error a traceback. Neither shows a secret.
    """
    warnings.filterwarnings("ignore", module=r"(ray|mlflow|timm|torch)\b.*")
    logging.getLogger("timm").setLevel(logging.ERROR)
    for stream in (sys.stdout, sys.stderr):  # names may have characters that the terminal's encoding lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        logs.capture()
        sys.exit(app(standalone_mode=False))
    except KeyboardInterrupt:
        _interrupted()
        sys.exit(130)
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt) or end.code == 130:  # 130: typer's exit code for Ctrl-C
            _interrupted()
        raise
    except Exception as error:
        if hasattr(error, "format_message"):  # a UsageError; typer's copy of click has no public name
            wrong: Any = error
            wrong.message = shown(wrong.message)
            rich_format_error(wrong)
            sys.exit(wrong.exit_code)
        meant = to_fix(error)
        if os.environ.get("ZSE_DEBUG") or meant is None:
            say(traceback.format_exc(), logging.ERROR)
        if meant is not None:
            say(f"zse: {meant}\n(ZSE_DEBUG=1 shows the traceback)", logging.ERROR)
        sys.exit(1)


def _interrupted() -> None:
    say("zse: interrupted. Finished work is kept: run the same command again to continue", logging.ERROR)
