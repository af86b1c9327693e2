"""Format the `zse evaluate` command that makes a missing evaluation. The reasons of `promote` contain it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.config.experiment import SECTIONS, to_dict
from pipelines.config.load import experiment_names, load_experiment
from pipelines.runtime.commands import command
from pipelines.workspace.encodings import Encodings
from pipelines.workspace.reports import Report
from pipelines.workspace.training import has_run, read_run

BASE = "folder+global"  # the command of a user's own experiment lists its changes to this one

Experiment = Mapping[str, Any]
"""The name and some sections of a configuration, as plain values."""


def evaluated_by(report: Report) -> Experiment | None:
    """The experiment that made a report; for older reports, that of the checkpoint's training. None = not known."""
    if report.experiment is not None or report.encodings is None:
        return report.experiment
    if (encodings := Encodings.find(report.encodings)) is None:
        return None
    selection = report.settings[0].rpartition(".")[0].endswith("-selection")
    trained = trained_by(encodings.checkpoint)
    return searching(trained, "pseudo_unseen" if selection else "unseen")


def searching(experiment: Experiment | None, classes: str) -> Experiment | None:
    """The experiment with `evaluation.classes` replaced."""
    return experiment and {**experiment, "evaluation": {**experiment["evaluation"], "classes": classes}}


def trained_by(checkpoint: str) -> Experiment | None:
    """The experiment that trained a checkpoint, from its folder; None if the folder does not have it."""
    return read_run(checkpoint)["experiment"] if has_run(checkpoint) else None


def evaluation_command(checkpoint: str, experiment: Experiment | None, workspace: str) -> str:
    """The `zse evaluate` command of a checkpoint by an experiment. None = not known: the user fills in EXPERIMENT."""
    options = ["--experiment", "EXPERIMENT"]
    if experiment is not None:
        name = experiment["name"] if experiment["name"] in experiment_names() else BASE
        base = json.loads(json.dumps(to_dict(load_experiment(name))))
        options = ["--experiment", name]
        if base["dataset"].get("source") != experiment["dataset"].get("source"):
            base["dataset"]["name"] = ""  # it would follow the source
        for section in SECTIONS:
            for change in _changes(section, base[section], json.loads(json.dumps(experiment[section]))):
                options += ["--set", change]
    return command("evaluate", "--checkpoint", checkpoint, *options, "--workspace", workspace)


def _changes(path: str, before: Any, after: Any) -> Iterator[str]:
    """`a.b=c` for every value that differs; the whole section if the names of its fields differ."""
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict) and before.keys() == after.keys():
        for key in after:
            yield from _changes(f"{path}.{key}", before[key], after[key])
    else:
        yield f"{path}={after if isinstance(after, str) else json.dumps(after)}"
