"""reevaluate: a catalogue of data sets, and models of the registry, to the reports that are missing and a summary.

    <workspace>/reevaluations/<hash>/summary.json  summary.md

The hash is of the models, of the data sets' content, and of what came of them: as long as none of them changes there is
nothing new, and a run that was killed goes on where it was. Every stage before it works the same way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.config.experiment import ExperimentConfig
from pipelines.config.load import apply_overrides, validate
from pipelines.datasets.arrivals import DESCRIPTION, arrived
from pipelines.datasets.base import DatasetConfig
from pipelines.datasets.splits import MissingClassesError
from pipelines.evaluate.report import report_key
from pipelines.ingest.stage import TooManyBadPicturesError, ingest
from pipelines.judge import drift
from pipelines.judge.promote import promote
from pipelines.judge.rules import Rules
from pipelines.judge.summary import Line, Summary, against, changed, headlines, markdown
from pipelines.run import evaluate_images, experiment_split
from pipelines.runtime.errors import ConfigError, StorageError
from pipelines.runtime.progress import say
from pipelines.store import storage
from pipelines.tracking import Store, TrackingError, checkpoint_of, history, registry, settle, translated
from pipelines.tracking.models import NAMES, REGISTERED
from pipelines.workspace.encodings import Encodings
from pipelines.workspace.images import Images
from pipelines.workspace.reports import Report
from pipelines.workspace.training import Training
from zse_model.checkpoint import INFO, from_dict
from zse_model.evaluation.leaks import LeakError
from zse_model.transforms import BadPicture, TransformConfig

SUMMARY, TEXT = "summary.json", "summary.md"
DRIFT = "drift.json"  # beside a report's own files
BROKEN = (StorageError, TooManyBadPicturesError, MissingClassesError, BadPicture, ValueError, OSError)
SECTIONS = ("evaluation", "ingest", "cluster", "tracking")


@dataclass(frozen=True)
class Model:
    """A model to evaluate."""

    name: str
    """As the user says it: zse@champion."""
    asked: str
    """As every verb takes it: models:/zse@champion, or a checkpoint."""
    version: str
    """What that is now."""
    training: Training
    transforms: TransformConfig


@dataclass(frozen=True)
class Wanted:
    """A report that there has to be."""

    model: Model
    dataset: str
    config: ExperimentConfig
    images: Images
    key: str


def how_to_evaluate(overrides: Sequence[str]) -> ExperimentConfig:
    """`--set` of a re-evaluation: how it evaluates, ingests, and what it runs on. Raises ConfigError."""
    if wrong := [o for o in overrides if o.partition(".")[0] not in SECTIONS]:
        raise ConfigError(
            f"--set {wrong[0]}: a re-evaluation has only {', '.join(SECTIONS)}; data sets are described "
            "by their dataset.yaml"
        )
    raw: dict[str, Any] = {
        "name": "reevaluation",
        "dataset": {"adapter": "folder", "name": "catalogue", "source": ".", "split": "all"},
        "methods": {"global": {}},
        "train": {"steps": 1},
    }
    apply_overrides(raw, overrides)
    return validate(raw, overrides)


def reevaluate(
    catalog: str,
    names: Sequence[str],
    workspace: str,
    config: ExperimentConfig,
    *,
    rules: Rules | None = None,
    tolerance: float = 0.01,
    allowed: Sequence[str] = (),
) -> tuple[Summary, str, bool]:
    """Make and track the reports that are missing; gives the summary, its folder, and whether anything is new.

    allowed: what data sets may name outside of their folders (`arrived`).
    names: of models, the first one the others are compared with. rules: let them decide about the others (`promote`).
    Raises TrackingError where no model is there, StorageError for a catalogue that is not.
    """
    workspace, catalog = storage.absolute(workspace), storage.absolute(catalog)
    store = Store.at(workspace, config.tracking.uri)
    with translated():
        settle(store, workspace)
    models = _models(names, workspace, config, store)
    wanted, broken = _plan(arrived(catalog, allowed), models, workspace, config)
    known = history.evaluated(store)
    there = {one.key: _there(known, one) for one in wanted}
    missing = [one for one in wanted if there[one.key] is None]
    say(f"{len(wanted)} reports are wanted, {len(missing)} are missing; {len(broken)} data sets cannot be used")
    summary = Summary(catalog, {m.name: m.version for m in models}, tolerance, broken=broken)
    for one in wanted:
        summary.lines.append(_line(one, workspace, there))
    known = history.evaluated(store) if missing else known
    _compare(summary, wanted, known, there)
    _drift(summary, wanted, known, there, workspace, store)
    if rules is not None:
        summary.promotion = _promoted(models, rules, workspace, config.tracking.uri)
    came = [(line.refused, line.broken) for line in summary.lines]
    asked = [[(m.name, m.training.digest) for m in models], [one.key for one in wanted], tolerance]
    key = storage.digest([asked, broken, came, summary.promotion], 12)
    folder = storage.join(workspace, "reevaluations", key)
    new = not storage.exists(storage.join(folder, SUMMARY))
    if new:
        text = markdown(summary)
        history.log_reevaluation(store, key, summary.status, summary.as_json(), text)
        storage.write_bytes(storage.join(folder, TEXT), text.encode())
        storage.write_json(storage.join(folder, SUMMARY), summary.as_json())
    return summary, folder, new


def _models(names: Sequence[str], workspace: str, config: ExperimentConfig, store: Store) -> list[Model]:
    """The models that are there; an alias that nothing has yet is said."""
    found = []
    for name in names:
        asked = f"{REGISTERED}{name}" if "@" in name and "/" not in name else name
        version = ""
        parts = NAMES.fullmatch(asked)
        if parts and parts["alias"]:
            there = registry.version_at(store, parts["name"], parts["alias"])
            if there is None:
                say(f"{name} is left out: nothing has that alias")
                continue
            version = f"{there}, "
        checkpoint = storage.absolute(checkpoint_of(asked, workspace, config.tracking.uri))
        training = Training.open(checkpoint)
        transforms = from_dict(TransformConfig, storage.read_json(storage.join(checkpoint, INFO))["transforms"])
        found.append(Model(name, asked, f"{version}{checkpoint}", training, transforms))
    if not found:
        raise TrackingError(f"None of {', '.join(names)} is there. Register one: zse promote CHECKPOINT --name zse")
    return found


def _plan(
    datasets: dict[str, DatasetConfig | ConfigError], models: Sequence[Model], workspace: str, config: ExperimentConfig
) -> tuple[list[Wanted], dict[str, str]]:
    """Ingest what is new or changed, and name the reports that there have to be; and what cannot be used, with why."""
    wanted: list[Wanted] = []
    broken: dict[str, str] = {}
    named: dict[str, str] = {}
    for name, dataset in datasets.items():
        if isinstance(dataset, ConfigError):
            broken[name] = str(dataset)
            continue
        if (other := named.setdefault(dataset.name, name)) != name:
            broken[name] = f"it is called {dataset.name} as {other} is. Give it another name in its dataset.yaml"
            continue
        try:
            wanted += _wanted(name, dataset, models, workspace, config)
        except BROKEN as error:
            broken[name] = str(error)
            say(f"{name} cannot be used: {error}")
    return wanted, broken


def _wanted(
    name: str, dataset: DatasetConfig, models: Sequence[Model], workspace: str, config: ExperimentConfig
) -> list[Wanted]:
    """A data set for each model, ingested once for all that take pictures in the same form."""
    found: list[Wanted] = []
    ingested: dict[TransformConfig, Images] = {}
    for model in models:
        own = dataclasses.replace(config, dataset=dataset, transforms=model.transforms)
        if model.transforms not in ingested:
            ingested[model.transforms] = ingest(own, workspace)
        images = ingested[model.transforms]
        key = report_key(own, experiment_split(own, images), images.fingerprint, model.training.digest)
        found.append(Wanted(model, name, own, images, f"{key}-{model.training.method}"))
    return found


def _line(one: Wanted, workspace: str, reports: dict[str, Report | None]) -> Line:
    """What a report says. reports: by key; one that is missing is made, and comes to them."""
    line = Line(one.model.name, one.dataset)
    try:
        report = reports[one.key]
        if report is None:
            out = evaluate_images(one.config, workspace, one.images, one.model.training)
            report = reports[one.key] = out.reports[one.model.training.method]
            line.evaluated = True
        line.report = report.url
        line.values = headlines(report.rows())
    except LeakError as error:
        line.refused = f"{error}. `split` in {one.dataset}/{DESCRIPTION} says which are searched"
        say(f"{one.model.name} is refused on {one.dataset}: {error}")
    except BROKEN as error:
        line.broken = str(error)
        say(f"{one.model.name} failed on {one.dataset}: {error}")
    return line


def _there(known: dict[str, history.Evaluated], one: Wanted) -> Report | None:
    return Report.find(known[one.key].report) if one.key in known else None


def _last(one: Wanted, known: dict[str, history.Evaluated]) -> Report | None:
    """The report of the same model on the data set as it was before, the newest one, if it is where it was tracked."""
    if (own := known.get(one.key)) is None:
        return None
    others = [
        e
        for e in known.values()
        if (e.checkpoint_hash, e.dataset, e.use) == (own.checkpoint_hash, own.dataset, own.use)
        and e.settings & own.settings
        and e.fingerprint != own.fingerprint
        and e.started < own.started
    ]
    last = max(others, key=lambda e: e.started, default=None)
    return Report.find(last.report) if last else None


def _compare(
    summary: Summary,
    wanted: Sequence[Wanted],
    known: dict[str, history.Evaluated],
    reports: dict[str, Report | None],
) -> None:
    """With the last report of the same model, and with the first model."""
    firsts: dict[str, Report] = {}
    for one, line in zip(wanted, summary.lines, strict=True):
        report = reports[one.key]
        if report is None or not line.values:
            continue
        last = _last(one, known)
        if last is not None:
            line.changes = changed(report, last)
        if one.model.name == wanted[0].model.name:
            firsts[line.dataset] = report
        elif line.dataset in firsts:
            line.first = against(report, firsts[line.dataset])


def _drift(
    summary: Summary,
    wanted: Sequence[Wanted],
    known: dict[str, history.Evaluated],
    reports: dict[str, Report | None],
    workspace: str,
    store: Store,
) -> None:
    for one, line in zip(wanted, summary.lines, strict=True):
        report = reports[one.key]
        if report is None or not line.values:
            continue
        if not report.has(DRIFT):
            storage.write_json(report.file(DRIFT), _measured(one, report, _last(one, known), workspace))
        found = report.table(DRIFT)
        line.drift, line.no_drift = found["drift"], found["unknown"]
        line.drift_classes = found.get("classes", {})  # older ones do not say
        if one.key in known:
            said = "; ".join(drift.beyond(line.drift, line.drift_classes))
            history.log_drift(store, known[one.key], line.drift, said)


def _measured(one: Wanted, report: Report, last: Report | None, workspace: str) -> dict[str, Any]:
    """Drift of a data set as a model sees it, and why some of it is not known."""
    trained, unknown = None, ""
    try:
        trained = drift.reference(workspace, one.model.training)
    except StorageError:
        unknown = "distance not known: what the model was trained on is not there"
    before = Images.find(last.images) if last and last.images else None
    encodings = Encodings.open(report.encodings or "")
    found = drift.measure(trained, Images.open(report.images or ""), encodings, before.counts if before else None)
    own = report.rows()[0]["classes"]
    return {"drift": found, "unknown": unknown, "classes": drift.classes_behind(own, trained)}


def _promoted(models: Sequence[Model], rules: Rules, workspace: str, tracking: str | None) -> dict[str, Any]:
    """What the rules say of each model but the first."""
    decisions = {}
    for model in models[1:]:
        try:
            decisions[model.name] = asdict(promote(model.asked, None, rules, workspace, tracking=tracking))
        except (TrackingError, ConfigError, StorageError) as error:  # the champion itself, or not evaluated
            say(f"{model.name} is not decided about: {error}")
            decisions[model.name] = {"promoted": False, "reasons": [{"holds": False, "text": str(error)}]}
    return decisions
