"""Which model is the champion: rules on what both measured, and aliases that say it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from mlflow import MlflowClient

from pipelines import shards, storage
from pipelines.compare import Report
from pipelines.config import ConfigError
from pipelines.jobs.run import run
from pipelines.promotion import Cost, Paired, Rules, decide, load_rules
from pipelines.tracking import Store, TrackingError, registry
from tests.conftest import tiny
from tests.pipelines.test_cli import invoked

SELECTION, TEST = "shop-selection.01234567", "shop.01234567"
RULES = Rules(
    better=(Paired(setting="shop-selection", metric="mAP_all"),),
    no_worse=(Paired(setting="shop", metric="mAP_all", margin=0.02),),
    faster=(Cost(ms_query_1000=5),),
)


def measured(folder: Path, name: str, selection: float, test: float, ms: float = 1.0) -> list[Report]:
    """The reports of a model whose queries score about this, on classes to choose by and on others."""
    reports = []
    noise = np.random.default_rng(0).normal(0, 0.05, (10, 8))
    own = np.random.default_rng(len(name)).normal(0, 0.005, 80)
    for setting, mean, use in ((SELECTION, selection, "selection"), (TEST, test, "report")):
        url = str(folder / name / use)
        columns = {
            "id": [f"sketch/{i}" for i in range(80)],
            "category": [f"class {i // 8}" for i in range(80)],
            "instance": [None] * 80,
            f"{setting}/plain/ret/mAP_all": mean + noise.ravel() + own,
        }
        storage.write_bytes(f"{url}/queries.parquet", shards.encode_part(pa.table(columns), row_group=80))
        storage.write_json(f"{url}/costs.json", [{"mode": "ret", "ms_query_1000": ms, "device": "an abacus"}])
        of = {"settings": [setting], "use": use, "split_hash": setting, "dataset_fingerprint": "0123"}
        shards.write_manifest(url, of)
        reports.append(Report(name, url))
    return reports


@pytest.mark.parametrize(
    ("selection", "test", "ms", "fails"),
    [
        (0.55, 0.50, 1.0, []),
        (0.55, 0.485, 1.0, []),  # a guard allows 0.02
        (0.50, 0.60, 1.0, ["shop-selection"]),  # not better where one may choose, however good elsewhere
        (0.55, 0.45, 1.0, ["shop."]),
        (0.55, 0.50, 9.0, ["ret ms_query_1000: 9 on an abacus, allowed 5"]),
        (0.45, 0.40, 9.0, ["shop-selection", "shop.", "ret ms"]),
    ],
)
def test_every_rule_must_hold(tmp_path: Path, selection: float, test: float, ms: float, fails: list[str]) -> None:
    champion, candidate = measured(tmp_path, "a", 0.5, 0.5), measured(tmp_path, "bb", selection, test, ms)
    decision = decide(RULES, champion, candidate)
    failed = [reason.text for reason in decision.reasons if not reason.holds]
    assert decision.promoted == (not fails)
    assert len(failed) == len(fails) and all(text.startswith(what) for text, what in zip(failed, fails, strict=True))
    told = [reason.text for reason in decision.reasons]
    assert "(selection)" in told[0] and "must exceed +0" in told[0]
    assert "(report)" in told[1] and "may fall by 0.02" in told[1]


def test_nothing_is_chosen_by_what_is_for_reports(tmp_path: Path) -> None:
    champion, candidate = measured(tmp_path, "a", 0.5, 0.5), measured(tmp_path, "bb", 0.6, 0.6)
    for setting in ("shop", TEST, "shop*", "*"):
        with pytest.raises(ConfigError, match=rf"names {TEST}, whose results are for reports: nothing may be chosen"):
            decide(Rules(better=(Paired(setting=setting, metric="mAP_all"),)), champion, candidate)


def test_what_nobody_measured_holds_nothing_up_but_decides_nothing_either(tmp_path: Path) -> None:
    champion, candidate = measured(tmp_path, "a", 0.5, 0.5), measured(tmp_path, "bb", 0.6, 0.6)
    for rule in (Paired(setting="other-selection", metric="mAP_all"), Paired(setting="shop-selection", metric="P_1")):
        decision = decide(Rules(better=(rule,)), champion, candidate)
        assert not decision.promoted and "nothing that both measured" in decision.reasons[0].text
    single = [r for name in ("a", "bb") for r in measured(tmp_path / "single", name, 0.5, 0.5)]
    for report in single:  # of one class there is no interval
        columns = shards.open_part(f"{report.folder}/queries.parquet").read().to_pydict()
        columns["category"] = ["cat"] * 80
        storage.write_bytes(f"{report.folder}/queries.parquet", shards.encode_part(pa.table(columns), row_group=80))
    guard = Rules(no_worse=(Paired(setting="shop", metric="mAP_all", margin=0.02),))
    assert decide(guard, single[:2], single[2:]).promoted
    first = decide(RULES, [], candidate)
    assert first.promoted and [reason.text[:3] for reason in first.reasons] == ["the", "ret"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("better: [{setting: a, metric: mAP_all, margn: 1}]", "better.0.margn"),
        ("better: [{setting: a, metric: mAP_all, margin: -1}]", "margin must be 0 or more"),
        ("no_worse: [{setting: a, metric: mAP_all, margin: 0.01}]", "name a setting in `better`"),
        ("no_worse: [{setting: a, metric: mAP_all}]", "needs a margin of at least 0.005"),
        ("better: [", "is not YAML"),
    ],
)
def test_rules_that_cannot_be_used_say_why(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "rules.yaml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_rules(str(tmp_path / "rules.yaml"))
    with pytest.raises(ConfigError, match="does not exist"):
        load_rules(str(tmp_path / "none.yaml"))
    assert load_rules(None).better[0].setting == "*-selection"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_aliases_say_who_is_the_champion(tmp_path: Path) -> None:
    tracked = {"tracking": {"enabled": True}, "evaluation": {"classes": "pseudo_unseen"}}
    names = [run(tiny(**tracked, train={"seed": s}), str(tmp_path)).checkpoints["global"] for s in (0, 1)]
    client, where = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db"), ["--workspace", str(tmp_path)]
    with pytest.raises(TrackingError, match="give the name to register it by"):
        invoked("promote", names[0], *where)

    done = invoked("promote", names[0], "--name", "zse", "--dry-run", *where)
    assert done.exit_code == 0 and "would become the champion of zse" in done.output, done.output
    assert not client.search_registered_models()
    done = invoked("promote", names[0], "--name", "zse", *where)
    assert done.exit_code == 0 and "is the champion of zse" in done.output, done.output
    assert client.get_model_version_by_alias("zse", "champion").version in (1, "1")
    with pytest.raises(TrackingError, match="is the champion of zse already"):
        invoked("promote", "models:/zse@champion", *where)

    done = invoked("promote", names[1], "--name", "zse", *where)
    assert done.exit_code == 0, done.output
    (experiment,) = [e for e in client.search_experiments() if e.name == "promotions"]
    second, first = client.search_runs([experiment.experiment_id])
    decision = json.loads(
        Path(client.download_artifacts(second.info.run_id, "decision.json", str(tmp_path))).read_text()
    )
    promoted = second.data.tags["zse.outcome"] == "promoted"
    assert decision["promoted"] == promoted == all(reason["holds"] for reason in decision["reasons"])
    assert client.get_model_version_by_alias("zse", "champion" if promoted else "challenger").version in (2, "2")
    assert json.loads(client.get_model_version("zse", "1").tags["zse.decision"])["run"] == first.info.run_id

    # An old version that fails takes nobody's place, and a decision that is taken again is logged once.
    client.set_registered_model_alias("zse", "champion", "2")
    client.set_registered_model_alias("zse", "challenger", "2")
    rules = tmp_path / "rules.yaml"
    rules.write_text("better: [{setting: '*-selection', metric: mAP_all, margin: 2}]")
    for _ in range(2):
        invoked("promote", "models:/zse/1", "--rules", str(rules), *where)
    assert str(client.get_model_version_by_alias("zse", "challenger").version) == "2"
    assert len(client.search_runs([experiment.experiment_id])) == 3

    store = Store.at(str(tmp_path))
    one, two = registry.Version("zse", "1"), registry.Version("zse", "2")
    registry.set_champion(store, one)
    registry.set_challenger(store, two)
    registry.set_champion(store, two)
    held = [registry.version_at(store, "zse", alias) for alias in ("champion", "challenger", "former")]
    assert held == [two, None, one] and registry.version_at(store, "none", "champion") is None
    for wrong, says in (
        ("models:/zse/9", "version=9"),
        (str(tmp_path), "is not tracked"),
        ("models:/zse@x", "alias x"),
    ):
        with pytest.raises(TrackingError, match=says):
            registry.find_version(store, wrong, "zse")
