"""report: write one HTML page of all tracked evaluations: who leads each setting, models best first, history, costs,
pictures.

`zse report` calls it. The page has no script and loads no other file, so it can be sent, printed and read on a phone.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from math import ceil, isfinite
from typing import Any

from PIL import Image

from pipelines.datasets.published import Setting, load_settings
from pipelines.drawing import pages
from pipelines.judge.leading import Evidence, Reports, called, evidence
from pipelines.runtime.progress import say
from pipelines.runtime.redaction import shown
from pipelines.store import storage
from pipelines.tracking import Store, history
from pipelines.tracking.history import Standing
from pipelines.workspace.queries import FEW
from pipelines.workspace.reports import MEASURES
from zse_model.errors import ZseError
from zse_model.evaluation import HEADLINES, LEADING, METRICS
from zse_model.modes import ranks_together

WIDE = 900  # px, the maximum width of a picture
MINUTE = "%Y-%m-%d %H:%M"
COSTS = {**MEASURES, "gflop_pair": "MFLOP a pair"}
PICTURES = {
    "good.png": "Sketches that are answered best",
    "typical.png": "Sketches in the middle",
    "bad.png": "Sketches that are answered worst",
    "explained-best.png": "Explained: a sketch that is answered best",
    "explained-typical.png": "Explained: one in the middle",
    "explained-worst.png": "Explained: one that is answered worst",
    "reliability.png": "Confidence that is said, and the share of photos that are of the sketch's class",
}
UNSEEN = "unseen classes, by class"
FORMS = {
    "-fg-seen": "trained classes, a sketch's own photo among the held-back photos of its class",
    "-fg-class": "a sketch's own photo among the photos of its class",
    "-fg-all": "a sketch's own photo among the drawn photos of all classes, trained ones included",
    "-selection-fg": "pseudo-unseen classes, a sketch's own photo among their drawn photos",
    "-fg": "unseen classes, a sketch's own photo among their drawn photos",
    "-generalised": "unseen classes, by class, among held-back photos of trained classes too",
    "-seen": "trained classes, by class, in held-back pictures",
    "-selection": "pseudo-unseen classes, by class",
}


@dataclass(frozen=True)
class Row:
    """A row of a section's table."""

    method: str
    mode: str
    """The mode, and the protocol of the values if it is not plain."""
    value: float | None
    """The section's first metric."""
    interval: tuple[float, float] | None
    cells: list[str]
    """The other metrics, then the costs."""
    model: str = ""
    """The training and its registered versions; empty for a reference and a published row."""
    source: str = ""
    """Source of a published row; empty for a tracked one."""


@dataclass(frozen=True)
class Course:
    """One model and mode over the versions of its data."""

    model: str
    mode: str
    points: list[tuple[int, float]]
    """(ms since 1970, value of the section's first metric)."""


@dataclass(frozen=True)
class Trend:
    """A chart of 640 x 240 units."""

    courses: list[Course]

    @property
    def start(self) -> int:
        return min(course.points[0][0] for course in self.courses)

    @property
    def end(self) -> int:
        return max(course.points[-1][0] for course in self.courses)

    def x(self, at: int) -> float:
        return 44 + 576 * (at - self.start) / max(self.end - self.start, 1)

    def y(self, value: float) -> float:
        return 212 - 200 * value


@dataclass
class Section:
    """One setting: the newest evaluation of each model on the newest data, and older ones for the trend."""

    setting: str
    """The setting without its fingerprint."""
    now: list[Standing]
    history: list[Standing]
    published: Setting | None = None
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    """Name -> PNG of the best model."""
    reports: Reports = field(default_factory=Reports)
    apart: str = ""
    """What tells it from another section of the same setting; empty if there is none."""

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.setting, self.apart)))

    @cached_property
    def first(self) -> str:
        """The metric that orders the models."""
        names = {key.split("/")[2] for one in self.now for key in one.metrics if key.count("/") == 2}
        return next((metric for metric in LEADING if metric in names), LEADING[0])

    def lines(self) -> list[tuple[Standing, str]]:
        """(evaluation, mode), best first."""
        key = f"plain/{{}}/{self.first}".format
        found = [(one, mode) for one in self.now for mode in modes(one) if key(mode) in one.metrics]
        return sorted(found, key=lambda line: -line[0].metrics[key(line[1])])

    @property
    def zero_shot(self) -> bool:
        """False for a setting that searches seen classes on purpose."""
        return self.now[0].zero_shot

    @cached_property
    def evidence(self) -> Evidence | None:
        """Who leads, and chance; None without a line."""
        return evidence(self.lines(), self.first, self.reports) if self.lines() else None

    @property
    def about(self) -> str:
        """What is searched, in words."""
        return next((said for form, said in FORMS.items() if self.setting.endswith(form)), UNSEEN)

    def drifts(self) -> list[tuple[str, str]]:
        """(model, what drifted, in words), once for each model."""
        return [(called(one), one.drift) for one in self.now if one.drift]

    @property
    def confidence(self) -> str:
        """How far the confidences of the leading model's best mode with confidences are right; empty without one."""
        for one, mode in self.lines():
            ece, refused, caught = (one.metrics.get(f"confidence/{mode}/{key}") for key in ("ece", "refused", "caught"))
            if ece is None or refused is None:
                continue
            said = f"The confidences of {called(one)} by {mode} are {100 * ece:.0f} points off on average. "
            said += f"{refused:.0%} of the sketches are told that nothing is similar"
            return said + (
                f", and {caught:.0%} once the photos of their class are left out." if caught is not None else "."
            )
        return ""

    @cached_property
    def top(self) -> float:
        """The end of the chart's axis: the highest of values, intervals and chance, to the next tenth."""
        chance = self.evidence.chance if self.evidence else None
        values = [x for row in self.rows() for x in (row.value, *(row.interval or ()))]
        known = [x for x in (*values, chance) if x is not None and isfinite(x)]
        return min(1.0, ceil(10 * max(known, default=1.0) + 1e-9) / 10)

    def shown_pictures(self) -> list[tuple[str, bytes]]:
        """(caption, PNG), the best answers first."""
        order = [*PICTURES, *sorted(self.pictures.keys() - PICTURES.keys())]
        return [
            (PICTURES.get(name, name.rpartition(".")[0]), self.pictures[name])
            for name in order
            if name in self.pictures
        ]

    @property
    def anchor(self) -> str:
        return self.name.replace(" ", "-")

    def titles(self) -> list[str]:
        """The column titles: model and mode, first metric as a number and as a bar, then those of `cells`."""
        return ["model and mode", self.first, "", *self._others, *(COSTS[name] for name in self._costs)]

    def rows(self) -> list[Row]:
        """The table's rows: models, best first, then published rows of the same data and training. If their protocol
        is not `plain`, the comparable models stand before them once more, with their values by that protocol."""
        rows = [self._row(*line) for line in self.lines()]
        if self.published and (comparable := [line for line in self.lines() if not self.difference(*line)]):
            protocol = self.published.protocol
            rows += [self._row(*line, protocol) for line in comparable if protocol != "plain"]
            rows += [self._published(line, protocol) for line in self._known]
        return rows

    @property
    def _known(self) -> Sequence[Mapping[str, Any]]:
        return self.published.published if self.published else ()

    def _row(self, one: Standing, mode: str, protocol: str = "plain") -> Row:
        key = f"{protocol}/{mode}/{self.first}"
        low, high = (one.metrics.get(f"{key}.{end}") for end in ("ci_low", "ci_high"))
        cells = [_metric(one.metrics.get(f"{protocol}/{mode}/{metric}")) for metric in self._others]
        cells += [_cost(name, one.metrics.get(f"cost/{mode}/{name}")) for name in self._costs]
        interval = None if low is None or high is None else (low, high)
        model = "" if one.model == one.method else one.model
        method = called(replace(one, model=one.method))
        return Row(method, _by(mode, protocol), one.metrics.get(key), interval, cells, model=model)

    def _published(self, line: Mapping[str, Any], protocol: str) -> Row:
        cells = [_metric(line.get(metric)) for metric in self._others] + [""] * len(self._costs)
        return Row(
            line["method"], _by(line["mode"], protocol), line.get(self.first), None, cells, source=line["source"]
        )

    @cached_property
    def _others(self) -> list[str]:
        """The other metrics of the rows: headline ones that suit the gallery, and published ones."""
        wanted = {metric for metric in HEADLINES if self._suits(metric)}.union(*self._known)
        return [m for m in METRICS if m in wanted and m != self.first and self._has(f"plain/{{}}/{m}")]

    def _suits(self, metric: str) -> bool:
        """Whether a metric can tell rankings of this gallery apart: P_k cannot reach 1 if fewer than k photos are
        relevant, and mAP_k is mAP_all if the gallery has no more than k photos."""
        kind, _, k = metric.partition("_")
        relevant = self.evidence.relevant if self.evidence else None
        if not k.isdigit() or int(k) == 1:
            return True
        return int(k) < self.now[0].gallery and (kind != "P" or relevant is None or int(k) <= relevant)

    @cached_property
    def _costs(self) -> list[str]:
        return [name for name in MEASURES if self._has(f"cost/{{}}/{name}")]

    def _has(self, key: str) -> bool:
        return any(key.format(mode) in one.metrics for one, mode in self.lines())

    def devices(self) -> list[str]:
        """The devices that measured the costs."""
        return sorted({one.device for one, _ in self.lines()} - {""}) if self._costs else []

    def incomparable(self) -> list[str]:
        """Why rows are not comparable with published numbers."""
        return sorted({self.difference(*line) for line in self.lines()} - {""}) if self._known else []

    def trend(self) -> Trend | None:
        """The first metric over the versions of the data; None if there is only one."""
        courses: dict[tuple[str, str], list[tuple[int, float]]] = {}
        for one in self.history:
            for mode in modes(one):
                if (value := one.metrics.get(f"plain/{mode}/{self.first}")) is not None:
                    courses.setdefault((one.model, mode), []).append((one.started, value))
        found = [Course(*name, points) for name, points in courses.items() if len(points) > 1]
        return Trend(found) if found else None

    def difference(self, one: Standing, mode: str) -> str:
        """Why an evaluation by a mode is not comparable with published numbers; empty if it is."""
        known = self.published
        if known is None or not known.published:
            return "nothing is published for it"
        if one.trained_on != known.trained_on:
            return f"trained on {one.trained_on or 'another split'}, published on {known.trained_on}"
        if known.queries is None:
            return "the published counts are not known"
        if (one.queries, one.gallery) != (known.queries, known.gallery):
            return f"{one.queries:,} x {one.gallery:,}, published {known.queries:,} x {known.gallery:,}"
        if not any(key.startswith(f"{known.protocol}/{mode}/") for key in one.metrics):
            return f"not evaluated by the published protocol, {known.protocol}"
        return f"{mode}: {why}" if (why := ranks_together(mode)) else ""


def report(workspace: str, out: str, *, setting: str | None = None, pictures: bool = True) -> tuple[int, int]:
    """Write the page. Returns its numbers of settings and evaluations.

    setting: only settings whose names begin with this. Raises TrackingError if MLflow does not answer, ZseError if
    there is no such setting.
    """
    store = Store.at(workspace)
    kept = history.standings(store, setting or "")
    if setting and not kept and (known := sorted({one.setting for one in history.standings(store)})):
        raise ZseError(f"No tracked setting begins with {setting!r}. Known: {', '.join(known)}")
    found = sections(kept, load_settings())
    for section in found:
        if pictures and section.lines():
            section.pictures = history.pictures(store, section.lines()[0][0].run)
    text = page(found, shown(store.uri))
    storage.write_bytes(out, text.encode())
    say(f"{len(kept)} evaluations in {len(found)} settings, {len(text) / 1e6:.1f} MB")
    return len(found), len(kept)


def modes(one: Standing) -> list[str]:
    return list(dict.fromkeys(key.split("/")[1] for key in one.metrics if key.startswith("plain/")))


def sections(everything: Sequence[Standing], known: Sequence[Setting]) -> list[Section]:
    """Group evaluations by setting and split. The newest version of its data is current, the others are history.

    Splits of one setting may have different classes. The name of a published setting fixes its classes, so that it has
    one section; with held-back pictures it has one for each split. A split that only older data have belongs to the
    history of every section, since new data may bring classes.
    """
    by_name: dict[str, list[Standing]] = {}
    for one in everything:
        by_name.setdefault(one.setting.rpartition(".")[0], []).append(one)
    published = {setting.split + setting.form: setting for setting in known}
    found, reports = [], Reports()
    for name, each in sorted(by_name.items()):
        setting = published.get(name)
        if setting and not setting.form.endswith(("-generalised", "-seen")):
            each = [replace(one, split_hash="") for one in each]
        newest = max(each, key=lambda one: one.started).setting
        current = [one for one in each if one.setting == newest]
        splits = sorted({one.split_hash for one in current})
        for split in splits:
            now = {one.checkpoint_hash + one.method: one for one in current if one.split_hash == split}
            before = [one for one in each if one.split_hash == split or one.split_hash not in splits]
            apart = "" if len(splits) == 1 else f"(split {split[:8] or 'unknown'})"
            found.append(Section(name, list(now.values()), before, setting, reports=reports, apart=apart))
    return found


def _by(mode: str, protocol: str) -> str:
    """How values were measured; the protocol is named if it is not plain."""
    return mode if protocol == "plain" else f"{mode}, {protocol}"


def page(found: Sequence[Section], source: str, made: datetime | None = None) -> str:
    return pages.page(
        "standings",
        sections=found,
        source=source,
        models=len({one.checkpoint_hash for section in found for one in section.history}),
        when=(made or datetime.now(UTC)).strftime(f"{MINUTE} UTC"),
        few=FEW,
        day=lambda at: datetime.fromtimestamp(at / 1000, UTC).strftime(MINUTE),
        thumbnail=_thumbnail,
    )


def _metric(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _cost(name: str, value: float | None) -> str:
    value = 1000 * value if value is not None and name == "gflop_pair" else value
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _thumbnail(data: bytes) -> bytes:
    """A picture as JPEG, at most WIDE px wide."""
    with Image.open(io.BytesIO(data)) as picture:
        small = picture.convert("RGB")
    small.thumbnail((WIDE, 10 * WIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
