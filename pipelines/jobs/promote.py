"""promote: a candidate, rules, and what MLflow knows of both, to the aliases champion and challenger."""

from __future__ import annotations

from dataclasses import asdict

from pipelines.compare import Report
from pipelines.progress import say
from pipelines.promotion import Decision, Rules, decide
from pipelines.tracking import Store, TrackingError, registry, reports_of


def promote(
    candidate: str,
    name: str | None,
    rules: Rules,
    workspace: str,
    *,
    dry_run: bool = False,
    tracking: str | None = None,
) -> Decision:
    """Decide, and set the aliases: the champion's where every rule holds, else the challenger's if it is new or nobody
    has that. The decision is logged in the experiment `promotions`. With `dry_run` nothing is written.

    name: of the registered model, where the candidate is not registered yet. Raises TrackingError for a candidate that
    is not tracked, was never evaluated, or is the champion; ConfigError for rules that may not be asked.
    """
    store = Store.at(workspace, tracking)
    name, version = registry.find_version(store, candidate, name)
    champion = registry.version_at(store, name, registry.CHAMPION)
    if champion and version == champion:
        raise TrackingError(f"{candidate} is the champion of {name} already. Name another version, or a checkpoint")
    theirs = [Report(str(champion), url) for url in reports_of(str(champion), workspace, tracking)] if champion else []
    decision = decide(rules, theirs, [Report(candidate, url) for url in reports_of(candidate, workspace, tracking)])
    for reason in decision.reasons:
        say(f"{'holds' if reason.holds else 'FAILS'}  {reason.text}")
    if dry_run:
        return decision
    new = version is None
    version = version or registry.register(store, candidate, name)
    registry.log_decision(store, version, champion, {**asdict(decision), "rules": asdict(rules)})
    if decision.promoted:
        registry.set_champion(store, version)
    elif new or registry.version_at(store, name, registry.CHALLENGER) is None:  # an old one takes nobody's place
        registry.set_challenger(store, version)
    return decision
