"""One HTML page of what is tracked: who stands where in each setting, since when, at what cost, and how it looks.

The page needs nothing beside it and no script: it can be sent, printed, and read on a phone.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from PIL import Image

from pipelines.datasets.published import Setting
from pipelines.runtime.redaction import in_html
from pipelines.tracking.history import Standing
from pipelines.workspace.queries import FEW
from pipelines.workspace.reports import MEASURES
from zse_model.evaluation import HEADLINES, LEADING, METRICS

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#3c3c3c")
WIDE = 900  # px of a picture at most

STYLE = """
:root { color-scheme: light dark; --faint: #767676; --line: #8884; --bar: #0072b2; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 74rem; padding: 1rem; }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin: 2.2rem 0 .2rem } h3 { font-size: 1rem; margin: 1rem 0 .2rem }
p { margin: .3rem 0; max-width: 60rem } .faint { color: var(--faint) }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 12rem; overflow-wrap: anywhere }
tr.published td { color: var(--faint); font-style: italic }
td svg { vertical-align: middle } figure { margin: .8rem 0 } figcaption { color: var(--faint) }
img { max-width: 100%; height: auto; background: #fff } svg.trend { width: 100%; max-width: 46rem; height: auto }
.badge { border: 1px solid var(--line); border-radius: .6rem; padding: 0 .5rem; font-size: .8rem; font-weight: normal }
summary { cursor: pointer }
@media print { body { font-size: 10px; max-width: none } details { break-inside: avoid } h2 { break-after: avoid }
  tr, figure { break-inside: avoid } .scroll { overflow: visible } }
"""


@dataclass
class Section:
    """One setting: the newest evaluation of each model on its newest data, and older ones for the trend."""

    name: str
    """Without the fingerprint."""
    now: list[Standing]
    history: list[Standing]
    published: Setting | None = None
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    """Of the best model."""

    @property
    def first(self) -> str:
        """The metric it is ordered by."""
        names = {key.split("/")[2] for one in self.now for key in one.metrics if key.count("/") == 2}
        return next((metric for metric in LEADING if metric in names), LEADING[0])

    def lines(self) -> list[tuple[Standing, str]]:
        """Models and their modes, the best first."""
        key = f"plain/{{}}/{self.first}".format
        found = [(one, mode) for one in self.now for mode in modes(one) if key(mode) in one.metrics]
        return sorted(found, key=lambda line: -line[0].metrics[key(line[1])])

    def difference(self, one: Standing) -> str:
        """What its data or training has not in common with what was published; empty where they may be compared."""
        known = self.published
        if known is None or not known.published:
            return "nothing is published for it"
        if one.trained_on != known.trained_on:
            return f"trained on {one.trained_on or 'another split'}, published on {known.trained_on}"
        if known.queries is None:
            return "the published counts are not known"
        if (one.queries, one.gallery) != (known.queries, known.gallery):
            return f"{one.queries:,} x {one.gallery:,}, published {known.queries:,} x {known.gallery:,}"
        return ""


def modes(one: Standing) -> list[str]:
    return list(dict.fromkeys(key.split("/")[1] for key in one.metrics if key.startswith("plain/")))


def sections(everything: Sequence[Standing], known: Sequence[Setting]) -> list[Section]:
    """By setting; of several versions of its data the newest one stands, the others are history."""
    by_name: dict[str, list[Standing]] = {}
    for one in everything:
        by_name.setdefault(one.setting.rpartition(".")[0], []).append(one)
    published = {setting.split + setting.form: setting for setting in known}
    found = []
    for name, each in sorted(by_name.items()):
        newest = max(each, key=lambda one: one.started).setting
        now = {one.checkpoint_hash + one.method: one for one in each if one.setting == newest}
        found.append(Section(name, list(now.values()), each, published.get(name)))
    return found


def page(found: Sequence[Section], source: str, made: datetime | None = None) -> str:
    when = (made or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC")
    count = len({one.checkpoint_hash for section in found for one in section.history})
    body = "".join(map(_section, found)) or "<p>No evaluation is tracked yet: run <code>zse evaluate</code>.</p>"
    index = " · ".join(f'<a href="#{_id(s.name)}">{in_html(s.name)}</a>' for s in found)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sketch-based image retrieval: report</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>'
        f'<h1>Zero-shot sketch-based image retrieval</h1><p class="faint">{when}, from {in_html(source)}: '
        f"{len(found)} settings, {count} models.</p><p>{index}</p>{body}</body></html>\n"
    )


def _section(section: Section) -> str:
    one = section.now[0]
    use = "may decide between models" if one.use == "selection" else "for reports only"
    head = (
        f'<h2 id="{_id(section.name)}">{in_html(section.name)} <span class="badge">{use}</span></h2>'
        f'<p class="faint">{in_html(one.setting)}: {one.queries:,} sketches, {one.gallery:,} photos.</p>'
    )
    return head + _table(section) + _trend(section) + _pictures(section)


def _table(section: Section) -> str:
    lines, first = section.lines(), section.first
    told = {m for line in (section.published.published if section.published else ()) for m in line}
    shown = [
        m
        for m in METRICS
        if (m in HEADLINES or m in told) and any(f"plain/{mode}/{m}" in each.metrics for each, mode in lines)
    ]
    costs = [name for name in MEASURES if any(f"cost/{mode}/{name}" in each.metrics for each, mode in lines)]
    head = ["model and mode", first, "", *(m for m in shown if m != first), *(MEASURES[name] for name in costs)]
    rows = []
    for each, mode in lines:
        key = f"plain/{mode}/{first}"
        low, high = (each.metrics.get(f"{key}.{end}") for end in ("ci_low", "ci_high"))
        few = low is None or high is None
        interval = f'<br><span class="faint">{in_html(FEW) if few else f"{low:.3f} to {high:.3f}"}</span>'
        others = (each.metrics.get(f"plain/{mode}/{m}") for m in shown if m != first)
        drift = f'<br><span class="faint">drift: {in_html(each.drift)}</span>' if each.drift else ""
        cells = [
            f"{in_html(each.model)} <b>{in_html(mode)}</b>{drift}",
            f"{each.metrics[key]:.3f}{interval}",
            _bar(each.metrics[key], low, high),
            *("" if value is None else f"{value:.3f}" for value in others),
            *(_number(each.metrics.get(f"cost/{mode}/{name}")) for name in costs),
        ]
        rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    differences = sorted({section.difference(each) for each, _ in lines})
    note = ""
    if section.published and section.published.published:
        if "" in differences:
            rows += _published(section.published, first, [m for m in shown if m != first], len(costs))
        if others := [difference for difference in differences if difference]:
            note = f'<p class="faint">Not comparable with what was published: {in_html("; ".join(others))}.</p>'
    titles = "".join(f"<th>{in_html(title)}</th>" for title in head)
    devices = sorted({each.device for each, _ in lines} - {""})
    where = f'<p class="faint">Time on {in_html("; ".join(devices))}.</p>' if devices and costs else ""
    table = f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    return table + note + where


def _published(known: Setting, first: str, others: Sequence[str], costs: int) -> list[str]:
    rows = []
    for line in known.published:
        value = line.get(first)
        cells = [
            f"{in_html(str(line['method']))} <b>{in_html(str(line['mode']))}</b>, published: "
            f"{in_html(str(line['source']))}",
            "" if value is None else f"{value:.3f}",
            "" if value is None else _bar(value, None, None),
            *("" if line.get(m) is None else f"{line[m]:.3f}" for m in others),
            *[""] * costs,
        ]
        rows.append(f'<tr class="published">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    return rows


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _bar(value: float, low: float | None, high: float | None) -> str:
    """A value of 0..1 with its interval, as a picture of 120 px."""
    whisker = ""
    if low is not None and high is not None:
        whisker = (
            f'<line x1="{120 * low:.1f}" x2="{120 * high:.1f}" y1="7" y2="7" stroke="currentColor" stroke-width="2"/>'
        )
    return (
        '<svg width="120" height="14" role="img" aria-hidden="true">'
        f'<rect width="{120 * max(0, min(1, value)):.1f}" height="14" fill="var(--bar)" opacity=".35"/>{whisker}</svg>'
    )


def _trend(section: Section) -> str:
    """The same model and mode on the versions of its data, where there are several."""
    lines: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for one in section.history:
        for mode in modes(one):
            if (value := one.metrics.get(f"plain/{mode}/{section.first}")) is not None:
                lines.setdefault((one.model, mode), []).append((one.started, value))
    lines = {name: points for name, points in lines.items() if len(points) > 1}
    if not lines:
        return ""
    start = min(points[0][0] for points in lines.values())
    end = max(points[-1][0] for points in lines.values())
    drawn, legend = [], []
    for i, ((model, mode), points) in enumerate(lines.items()):
        colour = COLOURS[i % len(COLOURS)]
        places = [(40 + 580 * (at - start) / max(end - start, 1), 150 - 140 * value) for at, value in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        drawn += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}">'
            f"<title>{value:.3f} at {_day(at)}</title></circle>"
            for (x, y), (at, value) in zip(places, points, strict=True)
        ]
        values = ", ".join(f"{value:.3f}" for _, value in points)
        legend.append(f'<span style="color:{colour}">●</span> {in_html(model)} <b>{in_html(mode)}</b>: {values}')
    scale = "".join(
        f'<line x1="40" x2="625" y1="{150 - 140 * v}" y2="{150 - 140 * v}" stroke="currentColor" opacity=".15"/>'
        f'<text x="34" y="{154 - 140 * v}" font-size="10" text-anchor="end" fill="currentColor">{v:g}</text>'
        for v in (0, 0.25, 0.5, 0.75, 1)
    )
    days = (
        f'<text x="40" y="166" font-size="10" fill="currentColor">{_day(start)}</text>'
        f'<text x="620" y="166" font-size="10" text-anchor="end" fill="currentColor">{_day(end)}</text>'
    )
    return (
        f"<h3>{in_html(section.first)} as the data changed</h3>"
        f'<figure><svg class="trend" viewBox="0 0 640 170" role="img">{scale}{"".join(drawn)}{days}</svg>'
        f"<figcaption>{'<br>'.join(legend)}</figcaption></figure>"
    )


def _day(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _pictures(section: Section) -> str:
    if not section.pictures:
        return ""
    shown = "".join(
        f'<figure><img alt="{in_html(name)}" src="{_inline(data)}">'
        f"<figcaption>{in_html(name.rpartition('.')[0])}</figcaption></figure>"
        for name, data in section.pictures.items()
    )
    best = section.lines()[0][0].model
    return f"<details><summary>What {in_html(best)} finds</summary>{shown}</details>"


def _inline(data: bytes) -> str:
    """A picture as a data URL, no wider than the page shows it."""
    with Image.open(io.BytesIO(data)) as picture:
        small = picture.convert("RGB")
    small.thumbnail((WIDE, 10 * WIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _id(name: str) -> str:
    return in_html(name.replace(" ", "-"))
