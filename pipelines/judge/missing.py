"""The command that makes an evaluation which is missing, to be pasted: what is known of the experiment, as options."""

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

BASE = "folder+global"  # what an experiment of the user's is said as a change of

Experiment = Mapping[str, Any]
"""Of a configuration as plain values: name, and some of its sections."""


def evaluated_by(report: Report) -> Experiment | None:
    """The experiment that a report was made by; of a report of older code that of its checkpoint's training."""
    if report.experiment is not None or report.encodings is None:
        return report.experiment
    if (encodings := Encodings.find(report.encodings)) is None:
        return None
    selection = report.settings[0].rpartition(".")[0].endswith("-selection")
    trained = trained_by(encodings.checkpoint)
    return searching(trained, "pseudo_unseen" if selection else "unseen")


def searching(experiment: Experiment | None, classes: str) -> Experiment | None:
    """The experiment, evaluated on other classes."""
    return experiment and {**experiment, "evaluation": {**experiment["evaluation"], "classes": classes}}


def trained_by(checkpoint: str) -> Experiment | None:
    """The experiment that a checkpoint's folder says it was trained by; None where it does not."""
    return read_run(checkpoint)["experiment"] if has_run(checkpoint) else None


def evaluation_command(checkpoint: str, experiment: Experiment | None, workspace: str) -> str:
    """`zse evaluate` of a checkpoint by an experiment. None: what is not known stands in capitals."""
    options = ["--experiment", "EXPERIMENT"]
    if experiment is not None:
        name = experiment["name"] if experiment["name"] in experiment_names() else BASE
        base = json.loads(json.dumps(to_dict(load_experiment(name))))
        options = ["--experiment", name]
        for section in SECTIONS:
            for change in _changes(section, base[section], json.loads(json.dumps(experiment[section]))):
                options += ["--set", change]
    return command("evaluate", "--checkpoint", checkpoint, *options, "--workspace", workspace)


def _changes(path: str, before: Any, after: Any) -> Iterator[str]:
    """`a.b=c` of every field that differs; the whole section where its fields are others."""
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict) and before.keys() == after.keys():
        for key in after:
            yield from _changes(f"{path}.{key}", before[key], after[key])
    else:
        yield f"{path}={after if isinstance(after, str) else json.dumps(after)}"
