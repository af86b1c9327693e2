"""The settings of the field as data, and one checkpoint evaluated on all that it may see.

`catalog/settings.yaml` names what is searched in what, by which formula, and what was published. A file of the user's
says where the data sets lie:

    sketchy: {adapter: sketchy, source: s3://bucket/Sketchy, copies: true}
    tuberlin: {adapter: tuberlin, source: /data/TUBerlin}

A setting whose members are not the published ones, by their counts, stands beside nothing: its name carries the
fingerprint of the data (evaluation rule 4), and the table says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter
from rich.table import Table

from pipelines import storage
from pipelines.catalog import MissingClassesError
from pipelines.config import ConfigError, ExperimentConfig, read_dataset
from pipelines.jobs.run import evaluate_checkpoint
from pipelines.progress import say
from zse_model.checkpoint import load_checkpoint
from zse_model.evaluation.leaks import LeakError

Form = Literal["", "-generalised", "-fg-class"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is searched in what, by which formula."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    data: str
    """The data set, as the user's file names it."""
    split: str
    """Whose unseen classes are searched."""
    form: Form = ""
    metrics: tuple[str, ...]
    """What is published for it, the first one first."""
    protocol: Literal["plain", "zse_paper"] = "plain"
    use: Literal["report", "selection"] = "report"
    queries: int | None = None
    """How many the published setting has; None where there is none."""
    gallery: int | None = None
    published: tuple[Mapping[str, Any], ...] = ()
    """`method`, `mode`, `source`, and values by metric."""


@dataclass(frozen=True)
class Result:
    """What came of one setting: report rows, or why there are none."""

    setting: Setting
    rows: Sequence[Mapping[str, Any]] = ()
    """Those of the setting's form and protocol, of its metrics, every mode."""
    refused: str = ""

    @property
    def comparable(self) -> bool:
        """Whether the members are the published ones, by their counts."""
        counts = {(row["queries"], row["gallery"]) for row in self.rows}
        return counts == {(self.setting.queries, self.setting.gallery)}


def load_settings(names: Sequence[str] = ()) -> list[Setting]:
    """The settings of these names, in this order; all of them without names. Raises ConfigError for an unknown one."""
    text = resources.files("pipelines.catalog").joinpath("settings.yaml").read_text()
    every = {s.name: s for s in TypeAdapter(list[Setting]).validate_python(yaml.safe_load(text))}
    if unknown := sorted(set(names) - set(every)):
        raise ConfigError(f"Unknown settings {unknown}. Known: all, {', '.join(every)}")
    return [every[name] for name in names] if names else list(every.values())


def load_datasets(url: str) -> dict[str, dict[str, Any]]:
    """A user's file of data sets: name -> adapter and source. Raises ConfigError."""
    if not storage.exists(url):
        raise ConfigError(
            f"--datasets {url!r} does not exist. It names data sets: `sketchy: {{adapter: folder, source: URL}}`"
        )
    raw = yaml.safe_load(storage.read_bytes(url).decode("utf-8"))
    if not isinstance(raw, dict) or not all(isinstance(one, dict) and "adapter" in one for one in raw.values()):
        raise ConfigError(f"{url} must give an adapter and what it needs for each data set, by name")
    return raw


def evaluate_settings(
    config: ExperimentConfig, workspace: str, checkpoint: str, settings: Sequence[Setting], datasets: Mapping[str, Any]
) -> list[Result]:
    """One checkpoint on every setting that it may see and whose data is there, in their order.

    Settings of one split are forms of one evaluation; each evaluation is a stage that resumes. `config` says how to
    evaluate: its data set, split and transforms are replaced.
    """
    with storage.local_copy(checkpoint) as copy:
        loaded = load_checkpoint(copy)
    groups: dict[tuple[str, str], list[Setting]] = {}
    for setting in settings:
        groups.setdefault((setting.data, setting.split), []).append(setting)
    results: dict[str, Result] = {}
    for (data, split), forms in groups.items():
        say(f"{', '.join(setting.name for setting in forms)}:")
        rows: list[dict[str, Any]] = []
        refused = ""
        try:
            if data not in datasets:
                raise MissingDataError(f"no data set {data!r} in the file of data sets; it names {sorted(datasets)}")
            dataset = {"name": data, **datasets[data], "split": split, "held_back": loaded.split.held_back}
            generalised = any(setting.form == "-generalised" for setting in forms)
            evaluation = dataclasses.replace(
                config.evaluation,
                protocols=tuple(dict.fromkeys((*config.evaluation.protocols, *(s.protocol for s in forms)))),
                distractors=("held_back",) if generalised and loaded.split.held_back else (),
            )
            wanted = dataclasses.replace(
                config, dataset=read_dataset(dataset), transforms=loaded.transforms, evaluation=evaluation
            )
            rows = evaluate_checkpoint(wanted, workspace, checkpoint).rows()
        except (LeakError, MissingClassesError, MissingDataError) as error:
            refused = str(error)
            say(f"  refused: {refused}")
        for setting in forms:
            own = [row for row in rows if _belongs(row, setting)]
            results[setting.name] = Result(setting, own, refused or ("" if own else "nothing to search in this form"))
    return [results[setting.name] for setting in settings]


class MissingDataError(ValueError):
    """A setting whose data set the user has not named."""


def _belongs(row: Mapping[str, Any], setting: Setting) -> bool:
    name = f"{setting.split}{setting.form}"
    own = str(row["setting"]).rpartition(".")[0] == name
    return own and row["protocol"] == setting.protocol and row["metric"] in setting.metrics


def settings_table(results: Sequence[Result]) -> Table:
    """One line a setting, mode and metric: ours with its interval, and what was published where the members are the
    same ones."""
    table = Table(title="One checkpoint on every setting")
    for column in ("setting", "protocol", "mode", "metric", "ours", "95 % interval", "published", "comparable"):
        table.add_column(column, justify="right" if column in ("ours", "95 % interval") else "left")
    for result in results:
        setting = result.setting
        if result.refused:
            table.add_row(setting.name, setting.protocol, "", "", "refused", "", "", result.refused)
        for row in sorted(result.rows, key=lambda row: setting.metrics.index(row["metric"])):
            low, high = row["ci_low"], row["ci_high"]
            table.add_row(
                setting.name if result.comparable else row["setting"],
                setting.protocol,
                row["mode"],
                row["metric"],
                f"{row['value']:.3f}",
                "" if low is None else f"{low:.3f}-{high:.3f}",
                _published(setting, row["metric"]),
                _comparison(result, row),
            )
    return table


def _published(setting: Setting, metric: str) -> str:
    found = [
        f"{p['method']} {p['mode']} {p[metric]:.3f}{' (second-hand)' if p['source'] == 'second-hand' else ''}"
        for p in setting.published
        if metric in p
    ]
    return "; ".join(found)


def _comparison(result: Result, row: Mapping[str, Any]) -> str:
    setting = result.setting
    if not setting.published:
        return ""
    if result.comparable:
        return "yes"
    return f"no: {row['queries']} x {row['gallery']}, published {setting.queries} x {setting.gallery}"
