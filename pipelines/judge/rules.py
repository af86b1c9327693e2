"""Decide by rules whether a candidate replaces the champion. `promote` calls it.

    better:                    # significantly better: the interval's lower end is above the margin
      - {setting: "*-selection", metric: mAP_all}
    no_worse:                  # guards: the interval's lower end is not below minus the margin
      - {setting: "sketchy-25", metric: mAP_all, mode: fused, margin: 0.02}
    faster:                    # upper limits of the candidate's cost
      - {mode: ret, ms_query_1000: 2.0}

`better` may read selection data only: settings with `use: selection`. Guards may read every setting; the decision says
which results are for reports. Without a champion, `better` compares with the reference rows on the same queries, or
with chance. A rule with fewer than ten classes fails, unless `few_classes` is set: then the difference without its
interval is compared with the margin.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import resources
from typing import Any

import torch

from pipelines.judge.compare import Compared, Refused, Side, compare_reports, comparisons, measured_on
from pipelines.judge.missing import evaluated_by, evaluation_command, searching
from pipelines.runtime.errors import ConfigError
from pipelines.runtime.validate import read_section
from pipelines.runtime.written import read_yaml
from pipelines.store import storage
from pipelines.workspace.images import Images
from pipelines.workspace.queries import Queries, interval
from pipelines.workspace.reports import MEASURES, Report
from zse_model.errors import ZseError
from zse_model.evaluation import expected_average_precision
from zse_model.evaluation.protocol import SEEN
from zse_model.modes import RET
from zse_model.split import FEWEST

SLACK = 0.005  # the smallest margin of a guard


@dataclass(frozen=True, kw_only=True)
class Paired:
    """A rule about both models on the same queries."""

    __pydantic_config__ = {"extra": "forbid"}

    setting: str
    """Name with or without the fingerprint; * matches anything."""
    metric: str
    mode: str = RET.name
    """`ret,fused`: ret of the champion, fused of the candidate."""
    protocol: str = "plain"
    margin: float = 0.0
    """What the difference must exceed; for a guard, how far it may fall. 0 or more."""
    floor: float | None = None
    """For `better` without a champion: what the candidate's own value must exceed. None = compare with references."""

    def __post_init__(self) -> None:
        if not self.margin >= 0:
            raise ZseError(f"margin must be 0 or more, got {self.margin}")

    def names(self, setting: str) -> bool:
        """Whether a rule is about a setting. One of seen classes (`-seen`, `-fg-seen`) has to be named: * alone leaves
        it out, because a model for classes that nobody trained on is judged."""
        plain = setting.rpartition(".")[0]
        if plain.endswith(SEEN) and SEEN not in self.setting:
            return False
        return any(fnmatchcase(name, self.setting) for name in (setting, plain))


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Limits of the candidate's costs, as `zse evaluate` measured them."""

    __pydantic_config__ = {"extra": "forbid"}

    mode: str = RET.name
    ms_query_1000: float | None = None
    """Milliseconds a query against 1,000 photos."""
    gflop_pair: float | None = None
    bytes_photo: float | None = None


@dataclass(frozen=True, kw_only=True)
class Rules:
    __pydantic_config__ = {"extra": "forbid"}

    better: tuple[Paired, ...] = ()
    no_worse: tuple[Paired, ...] = ()
    faster: tuple[Cost, ...] = ()

    def __post_init__(self) -> None:
        if strict := [rule.setting for rule in self.no_worse if rule.margin < SLACK]:
            raise ZseError(
                f"no_worse of {strict[0]!r} needs a margin of at least {SLACK}: a smaller one would demand an "
                "improvement. Write such a rule under `better`"
            )


@dataclass(frozen=True)
class Reason:
    """The outcome of one rule."""

    holds: bool
    text: str


@dataclass(frozen=True)
class Decision:
    promoted: bool
    reasons: tuple[Reason, ...]
    champion: str | None = None
    """The champion of the comparison; None = there is none."""
    few_classes: int | None = None
    """The smallest number of classes that decided a rule; None if every rule had enough."""


def load_rules(url: str | None) -> Rules:
    """Read rules from a YAML file; None = the shipped rules. Raises ConfigError."""
    if url is None:
        data = resources.files("pipelines.judge").joinpath("promotion.yaml").read_bytes()
    elif storage.exists(url):
        data = storage.read_bytes(url)
    else:
        raise ConfigError(f"--rules {url!r} does not exist. Give a YAML file with better, no_worse, faster")
    rules = read_section(Rules, read_yaml(data, str(url)) or {}, f"{url}: ")
    if not rules.better:
        raise ConfigError(f"{url} has no rule in `better`. Name a setting in which the candidate must be better")
    return rules


def decide(
    rules: Rules,
    champion: Sequence[Side],
    candidate: Sequence[Side],
    *,
    references: Sequence[Side] = (),
    few_classes: bool = False,
    workspace: str = "workspace",
) -> Decision:
    """Decide whether the candidate replaces the champion: only if every rule holds.

    champion, candidate, references: reports, newest first. Without a report of a champion, `better` compares with the
    references, or with chance. few_classes: fewer than FEWEST classes may decide. workspace: that of the commands which
    make missing evaluations. Raises ConfigError for a `better` rule on a setting that is for reports.
    """
    _refuse_reports(rules.better, (*champion, *candidate))
    verdicts: list[_Verdict] = []
    for rule in rules.better:
        above, asked = rule.margin, f"must exceed {rule.margin:+g}"
        if champion:
            verdicts += _paired(rule, champion, candidate, above, asked, workspace)
        else:
            verdicts += _first(rule, references, candidate, workspace)
    for rule in rules.no_worse if champion else ():
        # A guard also holds at its limit.
        verdicts += _paired(rule, champion, candidate, -rule.margin, f"may fall by {rule.margin:g}", workspace, at=True)
    reasons = [verdict.reason(few_classes) for verdict in verdicts]
    for limit in rules.faster:
        reasons += _within(limit, candidate)
    few = min((v.classes for v in verdicts if few_classes and v.few and v.classes is not None), default=None)
    against = champion[0].name if champion else None
    return Decision(all(reason.holds for reason in reasons), tuple(reasons), against, few)


@dataclass(frozen=True)
class _Verdict:
    """The verdict of one rule on one setting, before `few_classes` is applied."""

    holds: bool
    text: str
    classes: int | None = None
    """Number of classes behind it; None if the verdict is not statistical."""

    @property
    def few(self) -> bool:
        return self.classes is not None and self.classes < FEWEST

    def reason(self, few_classes: bool) -> Reason:
        if not self.few:
            return Reason(self.holds, self.text)
        if few_classes:
            return Reason(self.holds, f"{self.text}; decided by the difference alone (--few-classes)")
        return Reason(False, f"{self.text}; too few to decide: raise dataset.pseudo_unseen, or give --few-classes")


def _refuse_reports(better: Sequence[Paired], sides: Sequence[Side]) -> None:
    for report in (side.report for side in sides):
        of_reports = [s for s in report.settings if report.use != "selection" or s.rpartition(".")[0].endswith(SEEN)]
        for setting in of_reports:
            if rule := next((rule for rule in better if rule.names(setting)), None):
                raise ConfigError(
                    f"better: {rule.setting!r} names {setting}, whose results are for reports only. Name pseudo-unseen "
                    "classes (--set evaluation.classes=pseudo_unseen) or a data set with `use: selection`, or write "
                    "the rule under no_worse"
                )


def _paired(
    rule: Paired,
    champion: Sequence[Side],
    candidate: Sequence[Side],
    above: float,
    asked: str,
    workspace: str,
    *,
    at: bool = False,
) -> Iterator[_Verdict]:
    """One verdict for each setting that the rule names; if there is none, a failed one with the command to make it.

    above: what the interval's lower end must exceed, or reach with `at`; with few classes, the difference itself.
    """
    newest: dict[str, tuple[Side, Compared | Refused]] = {}  # only the newest version of a data set counts

    def wanted(setting: str, protocol: str) -> bool:
        _, known = newest.get(setting.rpartition(".")[0], (None, None))
        # Other reports on the same data may compare where two do not.
        undecided = known is None or (isinstance(known, Refused) and known.setting == setting)
        return undecided and rule.names(setting) and protocol == rule.protocol

    why = ""
    try:
        for (report, _), one in comparisons(champion, candidate, metric=rule.metric, mode=rule.mode, wanted=wanted):
            name = one.setting.rpartition(".")[0]
            if name not in newest or isinstance(one, Compared):
                newest[name] = report, one
    except ZseError as error:
        why = str(error)
    if not newest:
        missing = _missing(rule, (champion, candidate), workspace) or f" {why}"
        yield _Verdict(False, f"{rule.setting} {rule.metric} {rule.mode}: no common measurement.{missing}")
    for report, one in newest.values():
        if isinstance(one, Refused):
            yield _Verdict(False, f"{_where(rule, report, one.setting)}: cannot be compared. {one.error}")
            continue
        d = one.difference
        low = d.value if d.few else d.low
        numbers = f"{one.means[0]:.3f} to {one.means[1]:.3f}, {d.text()}, {asked}"
        yield _Verdict(
            low > above or (at and low == above), f"{_where(rule, report, one.setting)}: {numbers}", d.classes
        )


def _first(rule: Paired, references: Sequence[Side], candidate: Sequence[Side], workspace: str) -> Iterator[_Verdict]:
    """Verdicts without a champion: is the candidate above the rule's floor, else each reference, else chance."""
    mode = rule.mode.rpartition(",")[2]
    found = _rows(rule, candidate, mode)
    if not found:
        missing = _missing(rule, (candidate,), workspace)
        yield _Verdict(False, f"{rule.setting} {rule.metric} {mode}: the candidate has no such measurement.{missing}")
    for report, row in found:
        where = f"{_where(rule, report, row['setting'])}: there is no champion"
        others = [] if rule.floor is not None else _against(references, report, rule, row)
        for name, one in others:
            d, numbers = one.difference, f"{one.means[1]:.3f}, {one.difference.text()} from {name}"
            holds = (d.value if d.few else d.low) > rule.margin
            yield _Verdict(holds, f"{where}, {numbers}, must exceed {rule.margin:+g}", d.classes)
        if others:
            continue
        least, name = (rule.floor, "its floor") if rule.floor is not None else (_chance(report, row), "chance")
        if least is None:
            yield _Verdict(False, f"{where}, and no reference row on these queries. Give the rule a `floor`")
            continue
        low = row["value"] if row["classes"] < FEWEST else row["ci_low"]
        yield _Verdict(
            low > least,
            f"{where}, {row['value']:.3f} ({interval(row, ' to ')}), must exceed {name} {least:.3f}",
            row["classes"],
        )


def _against(references: Sequence[Side], side: Side, rule: Paired, row: dict[str, Any]) -> list[tuple[str, Compared]]:
    """The candidate minus raw pixels, and minus its untrained method, as far as they have the same queries."""
    own = row["method"]
    found: dict[str, Compared] = {}
    for reference in references:
        name = reference.report.method
        if name in ("raw_pixels", f"{own}-untrained") and measured_on(reference) == measured_on(side):
            modes = f"{RET.name},{row['mode']}"
            try:
                compared = compare_reports([reference], [side], metric=rule.metric, mode=modes, setting=row["setting"])
            except ZseError:  # another metric, or other queries
                continue
            for _, one in compared:
                if one.protocol == rule.protocol:
                    found.setdefault(name, one)
    return list(found.items())


def _rows(rule: Paired, candidate: Sequence[Side], mode: str) -> list[tuple[Side, dict[str, Any]]]:
    """The candidate's rows that the rule reads, each setting on its newest data."""
    newest: dict[str, tuple[Side, dict[str, Any]]] = {}
    for report in candidate:
        for row in report.report.rows():
            if rule.names(row["setting"]) and (row["protocol"], row["metric"], row["mode"]) == (
                rule.protocol,
                rule.metric,
                mode,
            ):
                newest.setdefault(row["setting"].rpartition(".")[0], (report, row))
    return list(newest.values())


def _chance(side: Side, row: dict[str, Any]) -> float | None:
    """The expected mAP_all of a random order; None for another metric, or if it is not known."""
    report = side.report
    if row["metric"] != "mAP_all":
        return None
    if row["setting"] in (told := report.chance or {}):
        return told[row["setting"]]
    if report.images is None or (images := Images.find(report.images)) is None:
        return None
    # A report of an earlier version does not have it: compute it from the ingested counts.
    photos = [images.counts[category].get("photo", 0) for category in Queries(side.report).category]
    relevant = torch.tensor([n for n in photos if n])
    return float(expected_average_precision(relevant, row["gallery"]).mean())


def _missing(rule: Paired, sides: Sequence[Sequence[Side]], workspace: str) -> str:
    """The commands that make the missing evaluations, by the experiment of a side that has one: the last such side."""
    has = [next((r for r in side if any(map(rule.names, r.report.settings))), None) for side in sides]
    model = next(filter(None, reversed(has)), None)
    if model is None:
        classes = "pseudo_unseen" if "selection" in rule.setting else "unseen"
        experiment = searching(evaluated_by(sides[-1][0].report), classes)
    else:
        experiment = evaluated_by(model.report)
    lacking = [side[0].name for side in sides if model is None or not any(_same(r, model) for r in side)]
    return "".join(f" Run:\n    {evaluation_command(name, experiment, workspace)}" for name in lacking)


def _same(one: Side, other: Side) -> bool:
    return measured_on(one) == measured_on(other)


def _where(rule: Paired, side: Side, setting: str) -> str:
    mode = rule.mode
    return f"{setting} ({side.report.use}) {rule.protocol} {mode} {rule.metric}"


def _within(limit: Cost, candidate: Sequence[Side]) -> Iterator[Reason]:
    """Check the candidate's newest costs of the mode. They depend on the device that evaluated it."""
    tables = (side.report.table(Report.COSTS) for side in candidate)
    row = next((row for table in tables for row in table if row["mode"] == limit.mode), None)
    for name in MEASURES:
        allowed = getattr(limit, name)
        if allowed is None:
            continue
        if row is None:
            yield Reason(False, f"{limit.mode} {name}: no report of the candidate has this cost")
        else:
            yield Reason(
                row[name] <= allowed, f"{limit.mode} {name}: {row[name]:.4g} on {row['device']}, allowed {allowed:g}"
            )
