"""promotion: rules, and what two models measured, to the decision which of them is the champion.

    better:                    # all of these, significantly: the interval's lower end above the margin
      - {setting: "*-selection", metric: mAP_all}
    no_worse:                  # guards: the interval's lower end above minus the margin
      - {setting: "sketchy-25", metric: mAP_all, mode: fused, margin: 0.02}
    faster:                    # at most, of the candidate alone
      - {mode: ret, ms_query_1000: 2.0}

`better` may read only what one may choose by: settings with `use: selection`. Guards may read every setting; the
decision says which of them are for reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import resources
from math import isnan

from pipelines import shards, storage
from pipelines.compare import Compared, Report, compare_reports
from pipelines.config import ConfigError, read_section
from pipelines.costs import MEASURES
from pipelines.jobs.evaluate import COSTS
from pipelines.written import read_yaml
from zse_model.errors import ZseError

SLACK = 0.005  # the least margin of a guard


@dataclass(frozen=True, kw_only=True)
class Paired:
    """A rule about both on the same queries."""

    __pydantic_config__ = {"extra": "forbid"}

    setting: str
    """Its name, without or with the fingerprint; * stands for anything."""
    metric: str
    mode: str = "ret"
    """`ret,fused`: the champion's ret, the candidate's fused."""
    protocol: str = "plain"
    margin: float = 0.0
    """What the difference must exceed, or by how much a guard lets it fall; 0 or more."""

    def __post_init__(self) -> None:
        if self.margin < 0:
            raise ZseError(f"margin must be 0 or more, got {self.margin}")

    def names(self, setting: str) -> bool:
        return any(fnmatchcase(name, self.setting) for name in (setting, setting.rpartition(".")[0]))


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A limit of what the candidate may cost, as `zse evaluate` measured it."""

    __pydantic_config__ = {"extra": "forbid"}

    mode: str = "ret"
    ms_query_1000: float | None = None
    """Milliseconds of a query against 1,000 photos."""
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
                f"no_worse of {strict[0]!r} needs a margin of at least {SLACK}: with less it asks the candidate to be "
                "better there, which only `better` may"
            )


@dataclass(frozen=True)
class Reason:
    """What one rule said."""

    holds: bool
    text: str


@dataclass(frozen=True)
class Decision:
    promoted: bool
    reasons: tuple[Reason, ...]


def load_rules(url: str | None) -> Rules:
    """A YAML file of rules; None = the shipped ones. Raises ConfigError."""
    if url is None:
        data = resources.files("pipelines").joinpath("promotion.yaml").read_bytes()
    elif storage.exists(url):
        data = storage.read_bytes(url)
    else:
        raise ConfigError(f"--rules {url!r} does not exist. It is a YAML file with better, no_worse, faster")
    rules = read_section(Rules, read_yaml(data, str(url)) or {}, f"{url}: ")
    if not rules.better:
        raise ConfigError(f"{url} says of nothing that the candidate must be better there: name a setting in `better`")
    return rules


def decide(rules: Rules, champion: Sequence[Report], candidate: Sequence[Report]) -> Decision:
    """Whether the candidate takes the champion's place: only if every rule holds. Reports, the newest first.

    Without a report of a champion only the costs are asked. Raises ConfigError for a `better` rule that reads a setting
    that is for reports.
    """
    reasons: list[Reason] = []
    if champion:
        _refuse_reports(rules.better, (*champion, *candidate))
        for rule in rules.better:
            reasons += _paired(rule, champion, candidate, lambda rule, low: low > rule.margin, "must exceed {:+g}")
        for rule in rules.no_worse:
            reasons += _paired(rule, champion, candidate, lambda rule, low: low >= -rule.margin, "may fall by {:g}")
    else:
        reasons.append(Reason(True, "there is no champion to compare with"))
    for limit in rules.faster:
        reasons += _within(limit, candidate)
    return Decision(all(reason.holds for reason in reasons), tuple(reasons))


def _refuse_reports(better: Sequence[Paired], reports: Sequence[Report]) -> None:
    for report in reports:
        manifest = shards.read_manifest(report.folder, "zse evaluate")
        for setting in manifest["settings"] if manifest.get("use") != "selection" else ():
            if rule := next((rule for rule in better if rule.names(setting)), None):
                raise ConfigError(
                    f"better: {rule.setting!r} names {setting}, whose results are for reports: nothing may be chosen "
                    "by them. Name pseudo-unseen classes (--set evaluation.classes=pseudo_unseen) or a data set that "
                    "was marked `use: selection`; as a guard it may stand under no_worse"
                )


def _paired(
    rule: Paired,
    champion: Sequence[Report],
    candidate: Sequence[Report],
    holds: Callable[[Paired, float], bool],
    asked: str,
) -> Iterator[Reason]:
    """One reason for each setting that the rule names, or that there is none."""
    try:
        compared = compare_reports(champion, candidate, metric=rule.metric, mode=rule.mode)
    except ValueError as error:
        compared, why = [], str(error)
    else:
        why = "Evaluate both on it"
    newest: dict[str, tuple[tuple[Report, Report], Compared]] = {}  # older versions of a data set decide nothing
    for pair, one in compared:
        if rule.names(one.setting) and one.protocol == rule.protocol:
            newest.setdefault(one.setting.rpartition(".")[0], (pair, one))
    if not newest:
        yield Reason(False, f"{rule.setting} {rule.metric} {rule.mode}: nothing that both measured. {why}")
    for (report, _), one in newest.values():
        d, use = one.difference, shards.read_manifest(report.folder, "zse evaluate").get("use", "report")
        where = f"{one.setting} ({use}) {rule.protocol} {rule.mode} {rule.metric}"
        numbers = f"{one.means[0]:.3f} to {one.means[1]:.3f}, {d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"
        low = d.value if isnan(d.low) else d.low  # one class has no interval
        yield Reason(holds(rule, low), f"{where}: {numbers}, {asked.format(rule.margin)}")


def _within(limit: Cost, candidate: Sequence[Report]) -> Iterator[Reason]:
    """The candidate's newest costs of the mode; they are of the device that evaluated it."""
    tables = (storage.read_json(url) for r in candidate if storage.exists(url := storage.join(r.folder, COSTS)))
    row = next((row for table in tables for row in table if row["mode"] == limit.mode), None)
    for name in MEASURES:
        allowed = getattr(limit, name)
        if allowed is None:
            continue
        if row is None:
            yield Reason(False, f"{limit.mode} {name}: no report of the candidate has measured it")
        else:
            yield Reason(
                row[name] <= allowed, f"{limit.mode} {name}: {row[name]:.4g} on {row['device']}, allowed {allowed:g}"
            )
