"""reevaluate: make the missing reports of models on a catalogue of data sets, and a summary. `zse reevaluate` calls it.

    <workspace>/reevaluations/<hash>/summary.json  summary.md

The hash covers the models, the content of the data sets, and the outcome. If none of them changes, the summary is that
of the last time, and no report is read. A killed run continues where it stopped, like every stage that it runs.

Whether a report exists is asked first: of MLflow, in one search a model, by the keys of listings. The weights of a
model are fetched when one of its reports is missing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from pipelines.config.experiment import ExperimentConfig
from pipelines.config.load import apply_overrides, validate
from pipelines.datasets.arrivals import DESCRIPTION, arrived
from pipelines.datasets.base import DatasetConfig
from pipelines.datasets.splits import MissingClassesError
from pipelines.evaluate.report import report_key
from pipelines.ingest.stage import TooManyBadPicturesError, ingest, listing, plan_ingest
from pipelines.judge import drift
from pipelines.judge.promote import promote
from pipelines.judge.rules import Rules
from pipelines.judge.summary import Line, Summary, against, changed, headlines, markdown
from pipelines.run import evaluate_images, experiment_split
from pipelines.runtime.errors import ConfigError, StorageError
from pipelines.runtime.progress import say
from pipelines.store import storage
from pipelines.tracking import Store, TrackingError, checkpoint_of, described, history, registry, settle, translated
from pipelines.tracking.models import NAMES, REGISTERED
from pipelines.workspace.encodings import Encodings
from pipelines.workspace.images import Images
from pipelines.workspace.reports import Report
from pipelines.workspace.training import Training
from zse_model.checkpoint import from_dict
from zse_model.errors import ZseError
from zse_model.evaluation.leaks import LeakError
from zse_model.transforms import BadPicture, TransformConfig

DRIFT = "drift.json"  # in the folder of a report
BROKEN = (StorageError, TooManyBadPicturesError, MissingClassesError, BadPicture, ValueError, OSError)
SECTIONS = ("evaluation", "ingest", "cluster", "tracking")


@dataclass(frozen=True)
class Model:
    """A model to evaluate."""

    name: str
    """As the user gave it, such as zse@champion."""
    asked: str
    """The name that every verb takes: models:/zse@champion, or a checkpoint."""
    version: str
    """Its version and checkpoint now."""
    training: Training
    """Its manifest: the weights may not be there yet (`described`)."""
    transforms: TransformConfig


@dataclass(frozen=True)
class Wanted:
    """A report that must exist."""

    model: Model
    dataset: str
    config: ExperimentConfig
    images: Images
    key: str


def how_to_evaluate(overrides: Sequence[str]) -> ExperimentConfig:
    """The configuration of a re-evaluation from its `--set`. Raises ConfigError for a section other than SECTIONS, and
    without tracking."""
    if wrong := [o for o in overrides if o.partition(".")[0] not in SECTIONS]:
        raise ConfigError(
            f"--set {wrong[0]}: a re-evaluation has only {', '.join(SECTIONS)}. Describe a data set in its dataset.yaml"
        )
    raw: dict[str, Any] = {
        "name": "reevaluation",
        "dataset": {"adapter": "folder", "name": "catalogue", "source": ".", "split": "all"},
        "methods": {"global": {}},
        "train": {"steps": 1},
    }
    apply_overrides(raw, overrides)
    config = validate(raw, overrides)
    if not config.tracking.enabled:
        raise ConfigError("tracking.enabled is false, but a re-evaluation compares with the reports that MLflow has")
    return config


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
    """Make and track the missing reports. Returns the summary, its folder, and whether the summary is new.

    names: of models; the others are compared with the first. rules: apply them to the others (`promote`). tolerance:
    largest fall of mAP_all that is no regression. allowed: prefixes that data sets may name beside their own folders
    (`arrived`). Raises TrackingError if no model exists, StorageError if the catalogue does not exist.
    """
    workspace, catalog = storage.absolute(workspace), storage.absolute(catalog)
    store = Store.at(workspace, config.tracking.uri)
    with translated():
        settle(store, workspace)
    models = _models(names, workspace, config, store)
    wanted, broken = _plan(arrived(catalog, allowed), models, workspace, config)
    known: dict[str, history.Evaluated] = {}
    for digest in dict.fromkeys(model.training.digest for model in models):
        known |= history.evaluated(store, checkpoint_hash=digest)
    found = storage.side_by_side(partial(_there, known), wanted)
    there = {one.key: report for one, report in zip(wanted, found, strict=True)}
    missing = sum(report is None for report in there.values())
    say(f"{len(there)} reports are needed, {missing} are missing; {len(broken)} data sets cannot be used")
    summary = Summary(catalog, {m.name: m.version for m in models}, tolerance, broken=broken)
    summary.lines = [_made(one, workspace, there) for one in wanted]
    for one, line in zip(wanted, summary.lines, strict=True):
        known |= history.evaluated(store, key=one.key) if line.evaluated else {}
        if line.evaluated and one.key not in known:
            # It would be compared with nothing, and a fall would pass as fine. The next run delivers it and compares.
            line.broken = "MLflow has not taken the results. Run the same command again"
    if rules is not None:
        summary.promotion = _promoted(models, rules, workspace, config.tracking.uri)
    key = _key(summary, models, wanted)
    made = any(line.evaluated for line in summary.lines)
    if not made and (last := _written(workspace, key)) and last.about(summary):
        return dataclasses.replace(summary, lines=last.lines), _folder(workspace, key), False
    _read(summary)
    _compare(summary, wanted, known, there)
    _drift(summary, wanted, known, there, workspace, store)
    key = _key(summary, models, wanted)
    folder = _folder(workspace, key)
    if new := _written(workspace, key) is None:
        text = markdown(summary)
        history.log_reevaluation(store, key, summary.status, summary.as_json(), text)
        storage.write_bytes(storage.join(folder, history.TEXT), text.encode())
        storage.write_json(storage.join(folder, history.SUMMARY), summary.as_json())
    return summary, folder, new


def _key(summary: Summary, models: Sequence[Model], wanted: Sequence[Wanted]) -> str:
    """The hash of the inputs and the outcome of a re-evaluation."""
    came = [(line.refused, line.broken) for line in summary.lines]
    asked = [[(m.name, m.training.digest) for m in models], [one.key for one in wanted], summary.tolerance]
    return storage.digest([asked, summary.broken, came, summary.promotion], 12)


def _folder(workspace: str, key: str) -> str:
    return storage.join(workspace, "reevaluations", key)


def _written(workspace: str, key: str) -> Summary | None:
    """The summary of an earlier run with the same key. It is written last, so the drift is in MLflow, too."""
    url = storage.join(_folder(workspace, key), history.SUMMARY)
    return Summary.of(storage.read_json(url)) if storage.exists(url) else None


def _models(names: Sequence[str], workspace: str, config: ExperimentConfig, store: Store) -> list[Model]:
    """The models that exist. An alias without a version is logged and left out."""
    found = []
    for name in names:
        asked = f"{REGISTERED}{name}" if "@" in name and "/" not in name else name
        version = ""
        parts = NAMES.fullmatch(asked)
        if parts and parts["alias"]:
            there = registry.version_at(store, parts["name"], parts["alias"])
            if there is None:
                say(f"{name} is left out: no version has this alias")
                continue
            version = f"{there}, "
        training, info = described(asked, workspace, config.tracking.uri)
        transforms = from_dict(TransformConfig, info["transforms"])
        found.append(Model(name, asked, f"{version}{training.url}", training, transforms))
    if not found:
        raise TrackingError(f"None of {', '.join(names)} exists. Register one: zse promote CHECKPOINT --name zse")
    return found


def _plan(
    datasets: dict[str, DatasetConfig | ConfigError], models: Sequence[Model], workspace: str, config: ExperimentConfig
) -> tuple[list[Wanted], dict[str, str]]:
    """Ingest new and changed data sets. Returns the needed reports, and data set -> why it cannot be used."""
    wanted: list[Wanted] = []
    broken: dict[str, str] = {}
    named: dict[str, str] = {}
    for name, dataset in datasets.items():
        if isinstance(dataset, ConfigError):
            broken[name] = str(dataset)
            continue
        if (other := named.setdefault(dataset.name, name)) != name:
            broken[name] = f"its name {dataset.name} is also that of {other}. Give it another name in its dataset.yaml"
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
    """The needed reports of one data set. It is listed once, and ingested once for all models with the same
    transforms."""
    found: list[Wanted] = []
    ingested: dict[TransformConfig, Images] = {}
    listed = listing(dataclasses.replace(config, dataset=dataset))
    for model in models:
        own = dataclasses.replace(config, dataset=dataset, transforms=model.transforms)
        if model.transforms not in ingested:
            ingested[model.transforms] = ingest(own, workspace, plan_ingest(own, workspace, listed))
        images = ingested[model.transforms]
        key = report_key(own, experiment_split(own, images), images.fingerprint, model.training.digest)
        found.append(Wanted(model, name, own, images, f"{key}-{model.training.method}"))
    return found


def _made(one: Wanted, workspace: str, reports: dict[str, Report | None]) -> Line:
    """The summary's line of a report, without results. reports: by key; a missing report is made and added."""
    line = Line(one.model.name, one.dataset)
    try:
        report = reports[one.key]
        if report is None:
            folder = storage.absolute(checkpoint_of(one.model.asked, workspace, one.config.tracking.uri))
            training = Training.open(folder)
            if training.digest != one.model.training.digest:
                raise TrackingError(
                    f"{one.model.asked} was moved to another model meanwhile. Run the same command again"
                )
            out = evaluate_images(one.config, workspace, one.images, training)
            report = reports[one.key] = out.reports[one.model.training.method]
            line.evaluated = True
        line.report = report.url
    except LeakError as error:
        line.refused = f"{error}. Name the classes to search as `split` in {one.dataset}/{DESCRIPTION}"
        say(f"{one.model.name} is refused on {one.dataset}: {error}")
    except TrackingError:  # of the model, not of the data: no data set can be evaluated
        raise
    except BROKEN as error:
        line.broken = str(error)
        say(f"{one.model.name} failed on {one.dataset}: {error}")
    return line


def _read(summary: Summary) -> None:
    """Fill in the results of the reports. One that cannot be read is broken."""

    def rows(line: Line) -> Any:
        try:
            return Report.open(line.report).rows() if line.report and not line.broken else None
        except BROKEN as error:
            return error

    for line, found in zip(summary.lines, storage.side_by_side(rows, summary.lines), strict=True):
        if isinstance(found, Exception):
            line.broken = str(found)
            say(f"{line.model} failed on {line.dataset}: {found}")
        elif found is not None:
            line.values = headlines(found)
            if not line.values:
                line.broken = (
                    "no mAP_all by the protocol plain, so that nothing is compared. Ask for a mode that has it"
                )


def _there(known: dict[str, history.Evaluated], one: Wanted) -> Report | None:
    return Report.find(known[one.key].report) if one.key in known else None


def _last(one: Wanted, known: dict[str, history.Evaluated]) -> Report | None:
    """The newest report of the same model on an earlier version of the data set, if its files still exist."""
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
    """Compare each report with the last one of the same model, and with that of the first model."""
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
            try:
                line.first = against(report, firsts[line.dataset])
            except ZseError as error:  # other transforms may skip other pictures
                line.no_first = str(error)
                say(f"{line.model} is not compared with the first model on {line.dataset}: {error}")


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
        if measured := not report.has(DRIFT):
            storage.write_json(report.file(DRIFT), _measured(one, report, _last(one, known), workspace))
        found = report.table(DRIFT)
        line.drift, line.no_drift = found["drift"], found["unknown"]
        line.drift_classes = found.get("classes", {})  # older files lack it
        said = "; ".join(drift.beyond(line.drift, line.drift_classes))
        if one.key in known and (measured or known[one.key].drift != said):
            history.log_drift(store, known[one.key], line.drift, said)


def _measured(one: Wanted, report: Report, last: Report | None, workspace: str) -> dict[str, Any]:
    """The drift of a data set for a model, and why a part of it is not known."""
    trained, unknown = None, ""
    try:
        trained = drift.reference(workspace, one.model.training)
    except StorageError:
        unknown = "distances not known: the model's training images are missing"
    before = Images.find(last.images) if last and last.images else None
    encodings = Encodings.open(report.encodings or "")
    found = drift.measure(trained, Images.open(report.images or ""), encodings, before.counts if before else None)
    own = report.rows()[0]["classes"]
    return {"drift": found, "unknown": unknown, "classes": drift.classes_behind(own, trained)}


def _promoted(models: Sequence[Model], rules: Rules, workspace: str, tracking: str | None) -> dict[str, Any]:
    """Model -> decision of the rules, for every model but the first."""
    decisions = {}
    for model in models[1:]:
        try:
            decisions[model.name] = asdict(promote(model.asked, None, rules, workspace, tracking=tracking))
        except (TrackingError, ConfigError, StorageError) as error:  # the champion itself, or not evaluated
            say(f"No decision on {model.name}: {error}")
            decisions[model.name] = {"promoted": False, "reasons": [{"holds": False, "text": str(error)}]}
    return decisions
