"""The `zse` command in the process of the test."""

from __future__ import annotations

from click.testing import Result
from typer.testing import CliRunner

from pipelines.cli.app import app


def invoked(*arguments: str) -> Result:
    """The command in this process: six seconds of imports less."""
    return CliRunner().invoke(app, arguments, catch_exceptions=False)
