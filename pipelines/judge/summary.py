"""What a re-evaluation found, as data and in words. `reevaluate.py` does the work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from pipelines.judge.drift import beyond
from pipelines.runtime.redaction import shown, shown_within
from pipelines.workspace.queries import FEW, Difference, Queries, difference, key_parts, metric_key
from pipelines.workspace.reports import Report
from zse_model.evaluation.metrics import difference_of_means
from zse_model.split import FEWEST

FINE, REGRESSION, PARTIAL = "fine", "regression", "partial"
EXIT = {FINE: 0, REGRESSION: 3, PARTIAL: 4}


@dataclass(frozen=True)
class Change:
    """One metric of one model on a data set, and on what it was before."""

    value: float
    before: float
    difference: Difference
    """Of the fewer classes of both versions."""

    def regression(self, tolerance: float) -> bool:
        """Worse than before by more than the tolerance, and significantly: never of too few classes, whose difference
        has no interval."""
        return self.difference.high < 0 and self.difference.value < -tolerance


@dataclass
class Line:
    """One model on one data set."""

    model: str
    dataset: str
    report: str = ""
    evaluated: bool = False
    """Now; else its report was there."""
    values: dict[str, tuple[float, float | None, float | None]] = field(default_factory=dict)
    """mAP_all of the first setting by mode, and its interval."""
    changes: dict[str, Change] = field(default_factory=dict)
    """By mode, since the data set's last version."""
    first: dict[str, Difference] = field(default_factory=dict)
    """By mode, against the first model on the same queries; below 0: worse."""
    drift: dict[str, float] = field(default_factory=dict)
    drift_classes: dict[str, int] = field(default_factory=dict)
    """Of how many classes: too few say nothing."""
    no_drift: str = ""
    """Why it is not known."""
    refused: str = ""
    """The model has seen what it would be tested on."""
    broken: str = ""


@dataclass
class Summary:
    """A re-evaluation: what there was to do, what came of it, and what is wrong."""

    catalog: str
    models: dict[str, str]
    """As asked, and what that is now."""
    tolerance: float
    lines: list[Line] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    """Data sets that cannot be used, and why."""
    promotion: dict[str, Any] = field(default_factory=dict)

    @property
    def regressions(self) -> list[Line]:
        return [line for line in self.lines if any(c.regression(self.tolerance) for c in line.changes.values())]

    @property
    def status(self) -> str:
        """`fine` only where every model was evaluated on every data set: what was refused was not looked at."""
        if self.regressions:
            return REGRESSION
        undone = self.broken or not self.lines or any(line.broken or line.refused for line in self.lines)
        return PARTIAL if undone else FINE

    def as_json(self) -> dict[str, Any]:
        worse = [{"model": line.model, "dataset": line.dataset} for line in self.regressions]
        return shown_within(_plain({"status": self.status, **asdict(self), "regressions": worse}))


def changed(now: Report, before: Report) -> dict[str, Change]:
    """Of two reports of one model on two versions of a data set: mAP_all by mode."""
    a, b = Queries(now), Queries(before)
    names = np.unique([*a.category, *b.category], return_inverse=True)[1]
    groups = torch.from_numpy(names[: len(a.category)]), torch.from_numpy(names[len(a.category) :])
    keys, others = _headlines(a.keys), _headlines(b.keys)
    found = {}
    for mode in (mode for mode in keys if mode in others):
        values = a.values(keys[mode]), b.values(others[mode])
        means = [float(value.nanmean()) for value in values]
        classes = min(len(group[~value.isnan()].unique()) for value, group in zip(values, groups, strict=True))
        apart = Difference.of(difference_of_means(*values, *groups), classes)
        found[mode] = Change(means[0], means[1], apart)
    return found


def against(now: Report, first: Report) -> dict[str, Difference]:
    """Of two models' reports on the same queries: mAP_all by mode, the first one's subtracted."""
    ours, theirs = Queries(now), Queries(first)
    keys, others = _headlines(ours.keys), _headlines(theirs.keys)
    return {mode: difference(ours, theirs, keys[mode], others[mode]) for mode in keys if mode in others}


def headlines(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float | None, float | None]]:
    """Of a report's rows, mAP_all by mode with its interval, which too few classes do not have."""
    by_key = {metric_key(row): row for row in rows}
    found = {mode: by_key[key] for mode, key in _headlines(by_key).items()}
    ends = {mode: (row["ci_low"], row["ci_high"]) for mode, row in found.items() if row["classes"] >= FEWEST}
    return {mode: (row["value"], *ends.get(mode, (None, None))) for mode, row in found.items()}


def _headlines(keys: Iterable[str]) -> dict[str, str]:
    """The key of mAP_all by mode: of the first setting, which is by class, and of the plain protocol."""
    parts = [key_parts(key) for key in keys]
    wanted = [p for p in parts if p[1] == "plain" and p[3] == "mAP_all" and p[0] == parts[0][0]]
    return {p[2]: "/".join(p) for p in wanted}


def markdown(summary: Summary) -> str:
    """The summary for people."""
    done, refused = sum(line.evaluated for line in summary.lines), sum(bool(line.refused) for line in summary.lines)
    known = sum(bool(line.values) for line in summary.lines) - done
    datasets = len({line.dataset for line in summary.lines} | summary.broken.keys())
    out = [
        f"# Re-evaluation: {summary.status}",
        "",
        f"{summary.catalog}: {datasets} data sets, {len(summary.broken)} of them broken; {len(summary.models)} models. "
        f"{done} reports made now, {known} known, {refused} refused.",
        "",
        *(f"- {asked} is {now}" for asked, now in summary.models.items()),
        "",
        "| data set | model | mAP_all | 95 % | before | change | against the first | drift |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in summary.lines:
        if line.refused or line.broken:
            what = f"refused: {line.refused}" if line.refused else f"broken: {line.broken}"
            out.append(f"| {line.dataset} | {line.model} | {what.splitlines()[0]} | | | | | |")
            continue
        for i, (mode, (value, low, high)) in enumerate(line.values.items()):
            change = line.changes.get(mode)
            worse = change is not None and change.regression(summary.tolerance)
            cells = [
                line.dataset,
                f"{line.model} {mode}",
                f"{value:.3f}",
                FEW if low is None else f"{low:.3f} to {high:.3f}",
                f"{change.before:.3f}" if change else "",
                f"{'**regression** ' if worse else ''}{change.difference.text()}" if change else "",
                line.first[mode].text() if mode in line.first else "",
                _drifted(line) if i == 0 else "",
            ]
            out.append(f"| {' | '.join(cells)} |")
    if refused:
        asked = sorted({f"{line.model} on {line.dataset}" for line in summary.lines if line.refused})
        out += ["", f"Not looked at, because the model has seen it: {', '.join(asked)}."]
    if few := sorted({line.dataset for line in summary.lines if any(c.difference.few for c in line.changes.values())}):
        out += ["", f"Changed, and of {FEW} to call that a regression: {', '.join(few)}."]
    for name, why in summary.broken.items():
        out += ["", f"**{name} is broken**: {why}".replace("\n", "\n    ")]
    if summary.promotion:
        out += ["", "## Promotion", ""]
        for model, decision in summary.promotion.items():
            out.append(f"{model} {'is the new champion' if decision['promoted'] else 'is not promoted'}:")
            out += [f"- {'holds' if r['holds'] else 'fails'}: {r['text']}" for r in decision["reasons"]]
    return shown("\n".join(out) + "\n")


def _drifted(line: Line) -> str:
    said = "; ".join(beyond(line.drift, line.drift_classes)) or line.no_drift
    return said or (f"{FEW} for an alarm" if beyond(line.drift) else "")


def _plain(value: Any) -> Any:
    """For JSON, which has no NaN."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and np.isnan(value) else value
