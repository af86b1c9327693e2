"""Say which model leads a setting, whether its lead is significant, and what chance would have. `standings` shows it.

MLflow has means and intervals. The values of each query, which a paired test needs, are in the reports; a page that is
made where a report cannot be read says so instead.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.judge.compare import Compared, Side, compare
from pipelines.runtime.errors import StorageError
from pipelines.runtime.progress import say
from pipelines.tracking.history import Standing
from pipelines.workspace.reports import Report
from zse_model.errors import ZseError

Line = tuple[Standing, str]
"""An evaluation and a mode."""


@dataclass(frozen=True)
class Evidence:
    """What the reports of a setting say beside MLflow."""

    sentence: str
    """Who leads, by how much, and whether that is significant."""
    chance: float | None
    """The expected mAP_all of a random order; None if it is not known."""
    relevant: float | None
    """Mean number of relevant photos a query; None if it is not known, as with photos of other classes in between."""


class Reports:
    """The reports of a page. Each is opened once, and a store that does not answer is asked once: it is retried for
    minutes."""

    def __init__(self) -> None:
        self._found: dict[str, Report | None] = {}
        self._away: set[str] = set()

    def of(self, one: Standing) -> Report | None:
        """The report of an evaluation, if it can be read here and is still that of the evaluation."""
        if one.report not in self._found:
            self._found[one.report] = self._opened(one.report)
        report = self._found[one.report]
        return report if report and report.checkpoint_hash == one.checkpoint_hash else None

    def _opened(self, url: str) -> Report | None:
        store = "/".join(url.split("/")[:3]) if "://" in url else ""
        if not url or store in self._away:
            return None
        try:
            report = Report.find(url)
            return report if report and report.has(Report.ROWS) and report.has(Report.QUERIES) else None
        except StorageError as error:
            say(f"The page does without reports: {error}", logging.WARNING)
            self._away |= {store} - {""}
        except ZseError:
            pass  # the folder of another report
        return None


def evidence(lines: Sequence[Line], metric: str, reports: Reports) -> Evidence:
    """lines: those of a setting, the best by `metric` first; at least one."""
    best = lines[0][0]
    report = reports.of(best)
    rows = [] if report is None else [row for row in report.rows() if row["setting"] == best.setting]
    chance = None if report is None or metric != "mAP_all" else (report.chance or {}).get(best.setting)
    by_class = metric == "mAP_all" and not best.setting.rpartition(".")[0].endswith("-generalised")
    relevant = best.gallery / rows[0]["classes"] if by_class and rows and rows[0]["classes"] else None
    return Evidence(sentence(lines, metric, reports), chance, relevant)


def sentence(lines: Sequence[Line], metric: str, reports: Reports) -> str:
    """Who leads, and how far it is above the next model."""
    (best, mode), *rest = lines
    value = f"{best.metrics[f'plain/{mode}/{metric}']:.3f}"
    following = next((line for line in rest if identity(line[0]) != identity(best)), None)
    if following is None:
        return f"{called(best)} is the only model here: by {mode} its {metric} is {value}."
    other, their = following
    leads = f"{called(best)} leads: by {mode} its {metric} is {value}."
    next_one = f"the next model, {called(other)} by {their}"
    if (compared := paired((other, their), (best, mode), metric, reports)) is None:
        return (
            f"{leads} Whether {next_one}, is significantly lower is not known: their reports cannot be compared here."
        )
    difference = compared.difference
    if difference.few:
        return (
            f"{leads} It is {difference.value:+.3f} from {next_one}; with {difference.classes} classes there is no "
            "test of that."
        )
    verdict = "a significant lead" if difference.low > 0 else "no significant lead"
    return (
        f"{leads} The difference to {next_one}, is {difference.value:+.3f} "
        f"({difference.low:+.3f} to {difference.high:+.3f} for other classes like these): {verdict}."
    )


def identity(one: Standing) -> tuple[str, str]:
    return one.checkpoint_hash, one.method


def called(one: Standing) -> str:
    """The name of a model for readers: its method, and its training where methods have several."""
    words = one.method.replace("-untrained", ", untrained").replace("raw_pixels", "raw pixels")
    return words if one.model == one.method else f"{words} ({one.model})"


def paired(lower: Line, higher: Line, metric: str, reports: Reports) -> Compared | None:
    """The higher line minus the lower one on the same queries; None if the reports cannot be compared."""
    sides = [Side(called(one), report) for one, _ in (lower, higher) if (report := reports.of(one))]
    if len(sides) < 2:
        return None
    try:
        return next(
            one
            for one in compare(*sides, metric=metric, mode=f"{lower[1]},{higher[1]}", setting=higher[0].setting)
            if one.protocol == "plain"
        )
    except (ZseError, StopIteration):
        return None
