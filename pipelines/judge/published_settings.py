"""Evaluate one checkpoint on published settings. `zse evaluate --settings` calls it.

`datasets/lists/settings.yaml` has the queries, the gallery, the protocol and the published numbers of each setting. A
file of the user says where the data sets are:

    sketchy: {adapter: sketchy, source: s3://bucket/Sketchy, copies: true}
    tuberlin: {adapter: tuberlin, source: /data/TUBerlin}

A result is not comparable with published numbers if its counts of queries and photos are not the published ones, or if
the checkpoint was trained on another split. The row's name then has the fingerprint of the data, and the table gives
the reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from pipelines.config.experiment import EvaluationConfig, ExperimentConfig
from pipelines.datasets.published import Setting
from pipelines.datasets.registry import read_dataset
from pipelines.datasets.splits import MissingClassesError
from pipelines.ingest.stage import TooManyBadPicturesError
from pipelines.run import evaluate_checkpoint
from pipelines.runtime.errors import ConfigError, StorageError
from pipelines.runtime.progress import say
from pipelines.runtime.written import read_yaml
from pipelines.store import storage
from pipelines.workspace.queries import interval
from zse_model.checkpoint import load_checkpoint
from zse_model.errors import ZseError
from zse_model.evaluation.leaks import LeakError
from zse_model.modes import ranks_together
from zse_model.split import ZeroShotSplit
from zse_model.transforms import BadPicture

HELD_BACK = ("-generalised", "-fg-seen")  # forms that use held-back pictures of seen classes


@dataclass(frozen=True)
class Result:
    """The result of one setting: report rows, or why there are none."""

    setting: Setting
    rows: Sequence[Mapping[str, Any]] = ()
    """Rows of the setting's form, protocol and metrics, for every mode."""
    refused: str = ""
    """Why there are no rows: the checkpoint has seen the data, or the data is missing."""
    broken: str = ""
    """Why existing data cannot be used."""
    trained_on: str = ""
    """The checkpoint's split."""

    @property
    def difference(self) -> str:
        """Why the result is not comparable with the published numbers; empty if it is."""
        setting = self.setting
        if self.trained_on != setting.trained_on:
            return f"trained on {self.trained_on}, published on {setting.trained_on}"
        if setting.queries is None:
            return "the published counts are not known"
        counts = {(row["queries"], row["gallery"]) for row in self.rows}
        if counts != {(setting.queries, setting.gallery)}:
            found = ", ".join(f"{queries} x {gallery}" for queries, gallery in sorted(counts))
            return f"{found}, published {setting.queries} x {setting.gallery}"
        return ""


def load_datasets(url: str) -> dict[str, dict[str, Any]]:
    """Read a user's file of data sets: name -> adapter and its fields. Raises ConfigError."""
    if not storage.exists(url):
        raise ConfigError(
            f"--datasets {url!r} does not exist. Give YAML such as `sketchy: {{adapter: folder, source: URL}}`"
        )
    raw = read_yaml(storage.read_bytes(url), f"--datasets {url!r}")
    if not isinstance(raw, dict) or not all(isinstance(one, dict) and "adapter" in one for one in raw.values()):
        raise ConfigError(f"{url} is not a map of data sets. Write `sketchy: {{adapter: folder, source: URL}}`")
    return raw


def evaluate_settings(
    config: ExperimentConfig, workspace: str, checkpoint: str, settings: Sequence[Setting], datasets: Mapping[str, Any]
) -> list[Result]:
    """Evaluate a checkpoint on settings; returns one result for each, in their order.

    Settings of one split are forms of one evaluation; each evaluation is a stage that resumes. config: how to evaluate;
    its data set, split and transforms are replaced. Data that cannot be used or was seen affects its own settings only.
    Raises ConfigError for a wrong description of a data set, before anything is evaluated.
    """
    with storage.local_copy(checkpoint) as copy:
        trained, transforms = (loaded := load_checkpoint(copy)).split, loaded.transforms
    groups: dict[tuple[str, str], list[Setting]] = {}
    for setting in settings:
        groups.setdefault((setting.data, setting.split), []).append(setting)
    described = {
        (data, split): read_dataset({"name": data, **datasets[data], "split": split, "held_back": trained.held_back})
        for data, split in groups
        if data in datasets
    }

    def evaluated(data: str, split: str, forms: Sequence[Setting]) -> Iterator[Result]:
        """The results of the forms of one evaluation."""
        say(f"{', '.join(setting.name for setting in forms)}:")
        rows: list[dict[str, Any]] = []
        refused = broken = ""
        try:
            if data not in datasets:
                raise MissingDataError(f"--datasets has no data set {data!r}. It has {sorted(datasets)}")
            asked = _asked(config.evaluation, forms)
            wanted = dataclasses.replace(
                config, dataset=described[data, split], transforms=transforms, evaluation=asked
            )
            rows = evaluate_checkpoint(wanted, workspace, checkpoint).rows()
        except (LeakError, MissingClassesError, MissingDataError) as error:
            refused = str(error)
            say(f"  refused: {refused}")
        except (StorageError, TooManyBadPicturesError, BadPicture, ValueError) as error:
            broken = str(error)
            say(f"  broken: {broken}")
        others = [setting for setting in forms if setting.form not in HELD_BACK]
        if refused and 0 < len(others) < len(forms):  # it may have seen held-back pictures only
            yield from evaluated(data, split, others)
            forms = [setting for setting in forms if setting not in others]
        for setting in forms:
            own = [row for row in rows if _belongs(row, setting)]
            why = refused or ("" if own or broken else _why_nothing(setting, trained))
            yield Result(setting, own, why, broken, trained.name)

    found = {r.setting.name: r for (data, split), forms in groups.items() for r in evaluated(data, split, forms)}
    return [found[setting.name] for setting in settings]


def _asked(evaluation: EvaluationConfig, forms: Sequence[Setting]) -> EvaluationConfig:
    """The experiment's evaluation, extended by what these forms need."""
    wanted = {"-generalised": "held_back", "-fg-all": "drawn"}
    distractors = (*evaluation.distractors, *(wanted[s.form] for s in forms if s.form in wanted))
    return dataclasses.replace(
        evaluation,
        classes="unseen",
        references=(),  # the table shows one checkpoint
        protocols=tuple(dict.fromkeys((*evaluation.protocols, *(s.protocol for s in forms)))),
        distractors=tuple(dict.fromkeys(distractors)),
        seen_classes=evaluation.seen_classes or any(s.form == "-fg-seen" for s in forms),
    )


def _why_nothing(setting: Setting, trained: ZeroShotSplit) -> str:
    if setting.form in HELD_BACK and not trained.held_back:
        return (
            "the training held no pictures back (dataset.held_back: 0), so it may have seen every photo of its classes"
        )
    if setting.form.startswith("-fg"):
        return "the data set has no pairs of sketch and photo, or evaluation.instance_level is off"
    return "the report has no row of this form. Check evaluation.modes and evaluation.protocols"


class MissingDataError(ZseError):
    """The user's file does not name the data set of a setting."""


def _belongs(row: Mapping[str, Any], setting: Setting) -> bool:
    name = f"{setting.split}{setting.form}"
    own = str(row["setting"]).rpartition(".")[0] == name
    return own and row["protocol"] == setting.protocol and row["metric"] in setting.metrics


def settings_table(results: Sequence[Result]) -> Table:
    """One row for each setting, mode and metric: our value with its interval, and published values if comparable."""
    table = Table(title="One checkpoint on every setting")
    for column in ("setting", "protocol", "mode", "metric", "ours", "95 % interval", "published", "comparable"):
        table.add_column(column, justify="right" if column in ("ours", "95 % interval") else "left")
    for result in results:
        setting = result.setting
        if result.refused or result.broken:
            what = "refused" if result.refused else "broken"
            table.add_row(setting.name, setting.protocol, "", "", what, "", "", result.refused or result.broken)
        for row in sorted(result.rows, key=lambda row: setting.metrics.index(row["metric"])):
            table.add_row(
                row["setting"] if result.difference else setting.name,
                setting.protocol,
                row["mode"],
                row["metric"],
                f"{row['value']:.3f}",
                interval(row),
                "" if result.difference or ranks_together(row["mode"]) else _published(setting, row["metric"]),
                _comparison(result, row["mode"]),
            )
    return table


def _published(setting: Setting, metric: str) -> str:
    found = [
        f"{p['method']} {p['mode']} {p[metric]:.3f}{' (second-hand)' if p['source'] == 'second-hand' else ''}"
        for p in setting.published
        if metric in p
    ]
    return "; ".join(found)


def _comparison(result: Result, mode: str) -> str:
    if not result.setting.published:
        return ""
    why = result.difference or ranks_together(mode)
    return f"no: {why}" if why else "yes"
