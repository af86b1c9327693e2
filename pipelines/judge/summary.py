"""The summary of a re-evaluation, as data and as Markdown. `reevaluate` fills it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from math import nan
from typing import Any

import numpy as np
import torch

from pipelines.judge.drift import beyond
from pipelines.runtime.redaction import printable, shown, shown_within
from pipelines.workspace.queries import FEW, Difference, Queries, difference, key_parts, metric_key
from pipelines.workspace.reports import Report
from zse_model.evaluation.metrics import difference_of_means
from zse_model.split import FEWEST

FINE, REGRESSION, PARTIAL = "fine", "regression", "partial"
EXIT = {FINE: 0, REGRESSION: 3, PARTIAL: 4}


@dataclass(frozen=True)
class Change:
    """One metric of one model on a data set, and on the version before."""

    value: float
    before: float
    difference: Difference
    """Now minus before. `classes` is the smaller number of both versions."""

    def regression(self, tolerance: float) -> bool:
        """Whether it fell significantly and by more than the tolerance. Never with too few classes: their difference
        has no interval."""
        return self.difference.high < 0 and self.difference.value < -tolerance


@dataclass
class Line:
    """One model on one data set."""

    model: str
    dataset: str
    report: str = ""
    evaluated: bool = False
    """Whether the report was made now; else it existed."""
    values: dict[str, tuple[float, float | None, float | None]] = field(default_factory=dict)
    """Mode -> mAP_all of the first setting, with its interval."""
    changes: dict[str, Change] = field(default_factory=dict)
    """Mode -> change since the data set's last version."""
    first: dict[str, Difference] = field(default_factory=dict)
    """Mode -> this minus the first model, on the same queries; below 0 = worse."""
    no_first: str = ""
    """Why it cannot be compared with the first model."""
    drift: dict[str, float] = field(default_factory=dict)
    drift_classes: dict[str, int] = field(default_factory=dict)
    """Measure -> number of classes; too few give no verdict."""
    no_drift: str = ""
    """Why drift is not known."""
    refused: str = ""
    """Which tested classes or pictures the model has seen."""
    broken: str = ""


@dataclass
class Summary:
    """A re-evaluation: its inputs, results and problems."""

    catalog: str
    models: dict[str, str]
    """Name as given -> version and checkpoint now."""
    tolerance: float
    lines: list[Line] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    """Data set -> why it cannot be used."""
    promotion: dict[str, Any] = field(default_factory=dict)

    @property
    def regressions(self) -> list[Line]:
        return [line for line in self.lines if any(c.regression(self.tolerance) for c in line.changes.values())]

    @property
    def status(self) -> str:
        """`fine` only if every model was evaluated on every data set. A refused model was not evaluated."""
        if self.regressions:
            return REGRESSION
        undone = self.broken or not self.lines or any(line.broken or line.refused for line in self.lines)
        return PARTIAL if undone else FINE

    def about(self, other: Summary) -> bool:
        """Whether both are about the same reports."""
        return [_about(line) for line in self.lines] == [_about(line) for line in other.lines]

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Summary:
        """The summary of an earlier run, from `as_json`; none of its reports is made now."""
        lines = [Line(**{**line, "evaluated": False, **_results(line)}) for line in data["lines"]]
        own = {field.name: data[field.name] for field in fields(cls)}
        return cls(**{**own, "lines": lines})

    def as_json(self) -> dict[str, Any]:
        worse = [{"model": line.model, "dataset": line.dataset} for line in self.regressions]
        return shown_within(_plain({"status": self.status, **asdict(self), "regressions": worse}))


def _about(line: Line) -> tuple[str, ...]:
    return line.model, line.dataset, shown(line.report)


def _results(line: Mapping[str, Any]) -> dict[str, Any]:
    """values, changes and first of a line of `as_json`."""

    def difference(data: Mapping[str, Any]) -> Difference:
        data = {name: nan if value is None else value for name, value in data.items()}
        return Difference(**data)

    changes = {
        mode: Change(one["value"], one["before"], difference(one["difference"]))
        for mode, one in line["changes"].items()
    }
    values = {mode: tuple(value) for mode, value in line["values"].items()}
    return {"values": values, "changes": changes, "first": {m: difference(d) for m, d in line["first"].items()}}


def changed(now: Report, before: Report) -> dict[str, Change]:
    """Mode -> change of mAP_all between two reports of one model on two versions of a data set."""
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
    """Mode -> mAP_all of `now` minus that of `first`: two models on the same queries."""
    ours, theirs = Queries(now), Queries(first)
    keys, others = _headlines(ours.keys), _headlines(theirs.keys)
    return {mode: difference(ours, theirs, keys[mode], others[mode]) for mode in keys if mode in others}


def headlines(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float | None, float | None]]:
    """Mode -> mAP_all with its interval, from a report's rows; None as interval for too few classes."""
    by_key = {metric_key(row): row for row in rows}
    found = {mode: by_key[key] for mode, key in _headlines(by_key).items()}
    ends = {mode: (row["ci_low"], row["ci_high"]) for mode, row in found.items() if row["classes"] >= FEWEST}
    return {mode: (row["value"], *ends.get(mode, (None, None))) for mode, row in found.items()}


def _headlines(keys: Iterable[str]) -> dict[str, str]:
    """Mode -> key of mAP_all in the first setting, which is at category level, and the protocol `plain`."""
    parts = [key_parts(key) for key in keys]
    wanted = [p for p in parts if p[1] == "plain" and p[3] == "mAP_all" and p[0] == parts[0][0]]
    return {p[2]: "/".join(p) for p in wanted}


def markdown(summary: Summary) -> str:
    """The summary as Markdown, for people."""
    done, refused = sum(line.evaluated for line in summary.lines), sum(bool(line.refused) for line in summary.lines)
    known = sum(bool(line.values) for line in summary.lines) - done
    datasets = len({line.dataset for line in summary.lines} | summary.broken.keys())
    out = [
        f"# Re-evaluation: {summary.status}",
        "",
        f"{_plainly(summary.catalog)}: {datasets} data sets, {len(summary.broken)} of them broken; "
        f"{len(summary.models)} models. {done} reports made now, {known} existing, {refused} refused.",
        "",
        *(f"- {asked} is {now}" for asked, now in summary.models.items()),
        "",
        "| data set | model | mAP_all | 95 % | before | change | against the first | drift |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in summary.lines:
        if line.refused or line.broken:
            what = f"refused: {line.refused}" if line.refused else f"broken: {line.broken}"
            told = map(_plainly, (line.dataset, line.model, what.splitlines()[0]))
            out.append(f"| {' | '.join(told)} | | | | | |")
            continue
        for i, (mode, (value, low, high)) in enumerate(line.values.items()):
            change = line.changes.get(mode)
            worse = change is not None and change.regression(summary.tolerance)
            cells = [
                _plainly(line.dataset),
                _plainly(f"{line.model} {mode}"),
                f"{value:.3f}",
                FEW if low is None else f"{low:.3f} to {high:.3f}",
                f"{change.before:.3f}" if change else "",
                f"{'**regression** ' if worse else ''}{change.difference.text()}" if change else "",
                line.first[mode].text() if mode in line.first else _plainly(line.no_first),
                _drifted(line) if i == 0 else "",
            ]
            out.append(f"| {' | '.join(cells)} |")
    if refused:
        asked = sorted({f"{line.model} on {line.dataset}" for line in summary.lines if line.refused})
        out += ["", f"Not evaluated, because the model has seen the data: {_plainly(', '.join(asked))}."]
    if few := sorted({line.dataset for line in summary.lines if any(c.difference.few for c in line.changes.values())}):
        out += ["", f"Changed, but with {FEW} for a verdict: {_plainly(', '.join(few))}."]
    for name, why in summary.broken.items():
        out += ["", f"**{_plainly(name)} is broken**: " + "\n    ".join(map(_plainly, why.splitlines()))]
    if summary.promotion:
        out += ["", "## Promotion", ""]
        for model, decision in summary.promotion.items():
            out.append(f"{model} {'is the new champion' if decision['promoted'] else 'is not promoted'}:")
            out += [f"- {'holds' if r['holds'] else 'fails'}: {r['text']}" for r in decision["reasons"]]
    return shown("\n".join(out) + "\n")


_MARKS = str.maketrans({"|": "\\|", "[": "\\[", "<": "&lt;"})


def _plainly(text: str) -> str:
    """Text on one line, as it is for a reader of Markdown or of a chat: a data set that arrives has any name."""
    return printable(text).translate(_MARKS)


def _drifted(line: Line) -> str:
    said = "; ".join(beyond(line.drift, line.drift_classes)) or line.no_drift
    return said or (f"{FEW} for an alarm" if beyond(line.drift) else "")


def _plain(value: Any) -> Any:
    """The value for JSON, which has no NaN: None instead."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and np.isnan(value) else value
