"""promote: decide by rules if a candidate becomes champion or challenger, and set that alias in MLflow.

`zse promote` and `reevaluate` call it.
"""

from __future__ import annotations

from dataclasses import asdict

from pipelines.judge.compare import Side
from pipelines.judge.missing import evaluated_by, evaluation_command, searching, trained_by
from pipelines.judge.rules import Decision, Reason, Rules, decide
from pipelines.runtime.progress import say
from pipelines.tracking import NotEvaluatedError, Store, TrackingError, checkpoint_of, history, registry, reports_of
from pipelines.workspace.reports import Report


def promote(
    candidate: str,
    name: str | None,
    rules: Rules,
    workspace: str,
    *,
    dry_run: bool = False,
    few_classes: bool = False,
    tracking: str | None = None,
) -> Decision:
    """Decide, log the decision in the experiment `promotions`, and set the alias. dry_run: decide and write nothing.

    The candidate becomes the champion if every rule holds. Else it becomes the challenger if it is new or there is no
    challenger. name: the registered model of a candidate that is not registered yet. few_classes: fewer than ten
    classes may decide; a tag of the version says so. Raises TrackingError for a candidate that is not tracked or is the
    champion, and for an invalid model name; ConfigError for a `better` rule on results that are for reports.
    """
    store = Store.at(workspace, tracking)
    name, version = registry.find_version(store, candidate, name)
    champion = registry.version_at(store, name, registry.CHAMPION)
    if champion and version == champion:
        raise TrackingError(f"{candidate} is the champion of {name} already. Name another version, or a checkpoint")
    theirs = _reports(str(champion), workspace, tracking) if champion else []
    ours = _reports(candidate, workspace, tracking)
    if theirs and ours and _weights(theirs[0]) == _weights(ours[0]):
        raise TrackingError(f"{candidate} has the weights of {champion}, the champion of {name}. Name another version")
    sides = [(str(champion), theirs)] * (champion is not None) + [(candidate, ours)]
    if lacking := [model for model, reports in sides if not reports]:
        reasons = tuple(_not_evaluated(model, theirs or ours, workspace, tracking) for model in lacking)
        decision = Decision(False, reasons, str(champion) if champion else None)
    else:
        references = [] if theirs else _references(store, ours[0].report.method)
        decision = decide(rules, theirs, ours, references=references, few_classes=few_classes, workspace=workspace)
    for reason in decision.reasons:
        say(f"{'holds' if reason.holds else 'FAILS'}  {reason.text}")
    if dry_run:
        return decision
    if decision.promoted:
        checkpoint_of(candidate, workspace, tracking)  # raises unless the files are there and have the model's weights
    new = version is None
    version = version or registry.register(store, candidate, name)
    registry.log_decision(store, version, champion, {**asdict(decision), "rules": asdict(rules)})
    if decision.few_classes is not None:
        registry.tag(store, version, "zse.few_classes", str(decision.few_classes))
    if decision.promoted:
        registry.set_champion(store, version)
    elif new or registry.version_at(store, name, registry.CHALLENGER) is None:  # an old version replaces no challenger
        registry.set_challenger(store, version)
    return decision


def _reports(model: str, workspace: str, tracking: str | None) -> list[Side]:
    """The reports of a model, newest first; none if it was never evaluated."""
    try:
        return [Side(model, report) for report in reports_of(model, workspace, tracking)]
    except NotEvaluatedError:
        return []


def _weights(side: Side) -> str:
    return side.report.checkpoint_hash


def _references(store: Store, method: str) -> list[Side]:
    """The evaluated reference rows of a method, newest first: raw pixels and its untrained network."""
    rows = [history.evaluated(store, method=name) for name in ("raw_pixels", f"{method}-untrained")]
    known = sorted((one for row in rows for one in row.values()), key=lambda one: -one.started)
    found = [(one.key, Report.find(one.report)) for one in known]
    return [Side(key, report) for key, report in found if report is not None]


def _not_evaluated(model: str, others: list[Side], workspace: str, tracking: str | None) -> Reason:
    """The reason that a model has no evaluation, with the command to make one by the other model's experiment, or its
    own."""
    experiment = evaluated_by(others[0].report) if others else trained_by(checkpoint_of(model, workspace, tracking))
    command = evaluation_command(model, searching(experiment, "pseudo_unseen"), workspace)
    return Reason(False, f"{model} has no evaluation. Run:\n    {command}")
