"""Diagnose a folder, bucket or archive: its layout, the data set that it is, its counts and the possible splits.

`zse datasets` prints the lines of `report`. Layouts are tried from the most to the least specific; the first that lists
pictures is taken. For two layouts with the same folders (`sketches/`, `images/`) the class names decide. Nothing is
written.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipelines.datasets.base import DatasetConfig, ImageRecord
from pipelines.datasets.built_in import built_in, split_names
from pipelines.datasets.published import MODALITIES, Counts, Known, Version, known_datasets, load_settings
from pipelines.datasets.registry import create_dataset, read_dataset
from pipelines.datasets.splits import refuse_names
from pipelines.datasets.tree import LayoutError
from pipelines.runtime.commands import command, repeated
from pipelines.runtime.redaction import printable
from pipelines.workspace.ids import refuse_name
from pipelines.workspace.pictures import prepared
from zse_model.errors import ZseError
from zse_model.split import normalise_name
from zse_model.transforms import BadPicture, TransformConfig

# The most specific layout first. The layouts of a group read the same folders.
TRIED: tuple[tuple[dict[str, object], ...], ...] = (
    ({"adapter": "sketchy"},),
    ({"adapter": "qmul", "split": "shoe-v2"},),
    ({"adapter": "tuberlin"}, {"adapter": "quickdraw_extended"}),
    ({"adapter": "tuberlin", "svg": True},),
    ({"adapter": "folder"},),
    ({"adapter": "domains"},),
    ({"adapter": "quickdraw_strokes"},),
)
ALIKE = 0.9  # least share of the classes that must belong to a known data set
PART = 0.2  # least share of a known data set's classes that must exist
SHARED = ("tuberlin", "quickdraw_extended")  # adapters that read the same folders
SHOWN = 8  # names in a line


@dataclass(frozen=True)
class Diagnosis:
    config: DatasetConfig
    """The configuration that reads the source."""
    counts: Counts
    paired: int
    """Sketches whose photo is known."""
    known: Known | None
    """The known data set that the source is, or is a part of."""
    tried: int
    """Pictures that were read."""
    bad: Sequence[tuple[str, str]]
    """(id, reason) of read pictures that cannot be used."""

    def total(self, modality: str) -> int:
        return sum(counts.get(modality, 0) for counts in self.counts.values())

    @property
    def lacking(self) -> str:
        """The first modality without pictures; empty if there is none."""
        return next((m for m in MODALITIES if not self.total(m)), "")

    @property
    def unfit(self) -> str:
        """Why its class names allow no split; empty if they do."""
        try:
            refuse_names(self.counts)
        except ZseError as error:
            return str(error)
        return ""


def diagnose(sources: Sequence[str], read: int = 50) -> Diagnosis:
    """List a source and read about `read` of its pictures, evenly spaced.

    Raises LayoutError, which names the nearest layout, for an unknown layout; StorageError if the source cannot be
    read.
    """
    config, records = recognise(sources)
    step = max(1, len(records) // read) if read else 0
    sample = records[::step] if read else []
    bad = [(record.id, reason) for record, reason in _read(config, sample) if reason]
    counts = count(records)
    known = _known(config, counts)
    paired = sum(r.modality == "sketch" and r.instance is not None for r in records)
    return Diagnosis(config, counts, paired, known, len(sample), bad)


def recognise(sources: Sequence[str]) -> tuple[DatasetConfig, list[ImageRecord]]:
    """The configuration that reads a source, and its records. Raises LayoutError for an unknown layout."""
    return max(_listings(sources), key=lambda one: _overlap(one[1], _known_by_adapter(one[0])))  # sketches/ and images/


def count(records: Iterable[ImageRecord]) -> Counts:
    counts: dict[str, Counter[str]] = {}
    for record in records:
        counts.setdefault(record.category, Counter())[record.modality] += 1
    return counts


def _listings(sources: Sequence[str]) -> list[tuple[DatasetConfig, list[ImageRecord]]]:
    """(configuration, records) of each layout of the first group that fits. Raises LayoutError if none fits."""
    source = tuple(sources) if len(sources) > 1 else sources[0]
    nearest: LayoutError | None = None
    for group in TRIED:
        found = []
        for tried in group:
            if tried["adapter"] == "quickdraw_strokes" and len(sources) > 1:
                continue
            config = read_dataset({"name": "data", "source": source, "split": ["none"], **tried})
            try:
                found.append((config, create_dataset(config).records()))
            except LayoutError as error:
                nearest = max(nearest or error, error, key=lambda e: len(e.found))
        if found:
            return found
    none = f"{', '.join(sources)} has none of the layouts of docs/datasets.md"
    if nearest and nearest.found:
        raise LayoutError(f"{none}. Found {', '.join(nearest.found)}. The nearest layout: {nearest}")
    index = command("index", sources[0], "--index", "URL", "--model", "MODEL")
    raise LayoutError(
        f"{none}: there is no folder of sketches and none of photos. A data set to train on has sketch/<class>/* and "
        f"photo/<class>/*. To search photos, which need no classes: {index}"
    )


def _read(config: DatasetConfig, records: Sequence[ImageRecord]) -> Iterator[tuple[ImageRecord, str]]:
    """(record, reason why it cannot be used, or "")."""
    transforms = TransformConfig()
    for record, data in zip(records, create_dataset(config).read(records), strict=True):
        try:
            if isinstance(data, Exception):
                raise data
            refuse_name(record.path)
            prepared(record.modality, data, transforms)
            yield record, ""
        except (BadPicture, OSError) as error:
            yield record, str(error)


def _known_by_adapter(config: DatasetConfig) -> Known | None:
    adapter = _adapter(config)
    return next((k for k in known_datasets().values() if k.adapter == adapter and adapter != "domains"), None)


def _known(config: DatasetConfig, counts: Counts) -> Known | None:
    """The known data set of a layout that no other has. Else the smallest one that at least ALIKE of these classes
    belong to and that has at least PART of its own classes here: most data sets have a cat and a dog."""
    by_adapter = _known_by_adapter(config)
    if by_adapter and _adapter(config) not in SHARED:
        return by_adapter
    names = {normalise_name(c) for c in counts}
    candidates = [by_adapter] if by_adapter else known_datasets().values()
    alike = [k for k in candidates if len(names & k.classes()) >= max(ALIKE * len(names), PART * len(k.classes()), 1)]
    return min(alike, key=lambda k: len(k.classes()), default=None)


def _overlap(records: Sequence[ImageRecord], known: Known | None) -> float:
    names, classes = {normalise_name(r.category) for r in records}, known.classes() if known else set()
    return len(names & classes) / len(names | classes)


# Lines of text -------------------------------------------------------------------------------------------------------


def report(found: Diagnosis) -> list[str]:
    """The diagnosis as lines of text, the most important first."""
    return [
        *_layout(found),
        *_against_published(found),
        *_classes(found),
        *_reading(found),
        *_splits(found),
        *_sources(found),
    ]


def describe(known: Known) -> list[str]:
    """A known data set as lines of text: counts, sources, splits and settings with published results."""
    lines = [known.title, f"Adapter   {known.adapter}"]
    lines += [f"Counts    {version.text()}" for version in known.versions]
    lines += [f"From      {part['what']}: {part['from']}" for part in known.parts]
    for name in known.splits:
        raw = built_in(name)
        lines.append(
            f"Split     {name}: {len(raw['seen'])} seen, {len(raw['unseen'])} unseen classes; {raw['citation']}"
        )
    for setting in load_settings():
        if setting.data == known.name:
            sizes = f", {setting.queries:,} x {setting.gallery:,}" if setting.queries else ""
            lines.append(f"Setting   {setting.name}: {', '.join(setting.metrics)} by {setting.protocol}{sizes}")
            for p in setting.published:
                values = ", ".join(f"{m} {p[m]:.3f}" for m in setting.metrics if m in p)
                lines.append(f"            published {p['method']} {p['mode']}: {values} ({p['source']})")
    return lines


def next_command(found: Diagnosis) -> str:
    """The `zse run --dry-run` command for the source, with the first possible split and the weights that timm names.

    `random-N` draws at least two unseen classes where it can: with one, every photo is relevant and mAP_all is 1.
    """
    config = found.config
    settings = {"adapter": _adapter(config), "source": _source(config)}
    if getattr(config, "svg", False):
        settings["svg"] = "true"
    settings["name"] = found.known.name if found.known else "mine"
    classes = len(found.counts)
    possible = [name for name in _candidates(found) if not _missing(name, found.counts)]
    settings["split"] = possible[0] if possible else f"random-{max(1, min(2, classes - 2), classes // 5)}"
    given = repeated("--set", [f"dataset.{name}={value}" for name, value in settings.items()])
    return command("run", "-e", "folder+global", "--dry-run", *given)


def _adapter(config: DatasetConfig) -> str:
    return str(getattr(config, "adapter", ""))


def _source(config: DatasetConfig) -> str:
    """The source as `--set dataset.source=` takes it."""
    source = getattr(config, "source", "")
    return source if isinstance(source, str) else json.dumps(source, ensure_ascii=False)


def _layout(found: Diagnosis) -> list[str]:
    sketches, photos = found.total("sketch"), found.total("photo")
    what = f", {found.known.title}" if found.known else ""
    lines = [
        f"Layout    {_adapter(found.config)}{what}",
        f"Pictures  {sketches:,} sketches and {photos:,} photos of {len(found.counts)} classes",
        f"Pairs     the photo of {found.paired:,} sketches is known",
    ]
    if found.lacking:
        where = ". Give dataset.photos" if _adapter(found.config) == "quickdraw_strokes" else ""
        lines.append(f"Missing   there is no {found.lacking}: training and search need both{where}")
    return lines


def _against_published(found: Diagnosis) -> list[str]:
    if not found.known or not found.known.versions:
        return []
    totals = {**found.counts, "all": {m: found.total(m) for m in MODALITIES}}

    def differences(version: Version) -> list[tuple[str, str, int, int]]:
        wanted = [(c, m, n) for c, counts in version.counts.items() for m, n in counts.items()]
        return [(c, m, totals.get(c, {}).get(m, 0), n) for c, m, n in wanted]

    def relative(version: Version) -> float:
        return sum(abs(there - n) / max(n, 1) for _, _, there, n in differences(version))

    nearest = min(found.known.versions, key=relative)
    if relative(nearest) == 0:
        return [f"Counts    as published {nearest.name}"]
    said = [
        f"{there:,} {m} pictures{'' if c == 'all' else f' of {c}'}, published {'about ' * nearest.about}{n:,}"
        for c, m, there, n in differences(nearest)
        if there != n
    ]
    return [f"Counts    nearest to those published {nearest.name}: {'; '.join(said)}"]


def _classes(found: Diagnosis) -> list[str]:
    lines = [f"Classes   {printable(found.unfit)}"] if found.unfit else []
    for modality in (m for m in MODALITIES if m != found.lacking):
        if none := sorted(c for c, n in found.counts.items() if not n.get(modality)):
            lines.append(f"Classes   {len(none)} have no {modality}: {_some(none)}")
    each = found.known.each if found.known else {}
    for modality, number in each.items():
        odd = {c: n.get(modality, 0) for c, n in found.counts.items() if n.get(modality, 0) not in (0, number)}
        if odd and len(odd) < len(found.counts):
            texts = [f"{c} {n}" for c, n in sorted(odd.items())]
            lines.append(f"Classes   {len(odd)} do not have the usual {number} {modality} pictures: {_some(texts)}")
    if found.known and (absent := sorted(found.known.classes() - {normalise_name(c) for c in found.counts})):
        lines.append(f"Classes   {len(absent)} of {found.known.name} are missing: {_some(absent)}")
    return lines


def _reading(found: Diagnosis) -> list[str]:
    if not found.tried:
        return []
    listed = found.total("sketch") + found.total("photo")
    lines = [f"Reading   {found.tried:,} of {listed:,} pictures read, {len(found.bad)} cannot be used"]
    return lines + [printable(f"            {name}: {reason}") for name, reason in found.bad[:SHOWN]]


def _splits(found: Diagnosis) -> list[str]:
    published = {s.split: (s.queries, s.gallery) for s in load_settings() if s.form == "" and s.queries}
    lines = []
    for name in _candidates(found):
        raw, missing = built_in(name), _missing(name, found.counts)
        if missing:
            lines.append(f"Split     {name}: not possible, {len(missing)} unseen classes are missing: {_some(missing)}")
            continue
        unseen = {normalise_name(c) for c in raw["unseen"]}
        seen = {normalise_name(c) for c in raw["seen"]} & {normalise_name(c) for c in found.counts}
        inside = [n for c, n in found.counts.items() if normalise_name(c) in unseen]
        sizes = tuple(sum(n.get(m, 0) for n in inside) for m in MODALITIES)
        text = f"{sizes[0]:,} sketches x {sizes[1]:,} photos of {len(unseen)} unseen classes, {len(seen)} seen classes"
        if name in published:
            same = published[name] == sizes
            text += ", as published" if same else ", published {:,} x {:,}".format(*published[name])
        lines.append(f"Split     {name}: {text}")
    return lines or [
        "Split     no built-in split fits; give random-N, a list, or a file with one unseen class per line"
    ]


def _candidates(found: Diagnosis) -> list[str]:
    """The data set's own built-in splits, then the other possible ones."""
    own = [name for name in (found.known.splits if found.known else ())]
    others = [name for name in split_names() if name not in (*own, "synthetic")]
    return own + [name for name in others if not _missing(name, found.counts)]


def _missing(split: str, counts: Counts) -> list[str]:
    there = {normalise_name(c) for c in counts}
    return sorted(c for c in built_in(split)["unseen"] if normalise_name(c) not in there)


def _sources(found: Diagnosis) -> list[str]:
    if not found.known:
        return []
    return [f"From      {part['what']}: {part['from']}" for part in found.known.parts]


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names[:SHOWN])) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
