"""Rules choose the champion by common measurements, and aliases name it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from pipelines.config.experiment import experiment_of
from pipelines.config.load import load_experiment
from pipelines.judge.compare import as_json, compare
from pipelines.judge.missing import evaluation_command
from pipelines.judge.results import result_tables
from pipelines.judge.rules import Cost, Paired, Rules, decide, load_rules
from pipelines.run import run
from pipelines.runtime.errors import ConfigError
from pipelines.tracking import Store, TrackingError, registry
from pipelines.workspace.images import Images
from tests.conftest import tiny, tiny_folder
from tests.helpers.command import invoked
from tests.helpers.reports import SELECTION, TEST, measured

RULES = Rules(
    better=(Paired(setting="shop-selection", metric="mAP_all"),),
    no_worse=(Paired(setting="shop", metric="mAP_all", margin=0.02),),
    faster=(Cost(ms_query_1000=5),),
)


@pytest.mark.parametrize(
    ("selection", "test", "ms", "fails"),
    [
        (0.55, 0.50, 1.0, []),
        (0.55, 0.485, 1.0, []),  # a guard allows 0.02
        (0.50, 0.60, 1.0, ["shop-selection"]),  # not better on selection data, however good elsewhere
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


def test_a_guard_is_not_dropped_where_reports_differ(tmp_path: Path) -> None:
    """A report that also has queries of another setting still compares. One of another gallery does not, and fails."""
    rules = load_rules(None)
    champion, candidate = measured(tmp_path, "a", 0.5, 0.5), measured(tmp_path, "bb", 0.6, 0.2)
    wider = measured(tmp_path, "wider", 0.6, 0.2, others=1)
    other = measured(tmp_path, "other", 0.6, 0.6, gallery=70)
    for test, said in ((candidate, "0.2"), (wider, "0.2"), (other, "cannot be compared. .* 50 and 70 photos")):
        decision = decide(rules, champion, [candidate[0], test[1]])
        (failed,) = [reason.text for reason in decision.reasons if not reason.holds]
        assert not decision.promoted and failed.startswith(f"{TEST} (report)") and re.search(said, failed)
    again = measured(tmp_path, "again", 0.6, 0.5)  # an older report on the same data, which compares
    assert decide(rules, champion, [candidate[0], other[1], again[1]]).promoted


def test_the_newest_data_decide_whatever_else_was_evaluated_on_them(tmp_path: Path) -> None:
    rules = Rules(better=(Paired(setting="shop-selection", metric="mAP_all"),))
    wider = {"settings": [SELECTION, "shop-generalised.01234567"]}
    champion = [
        measured(tmp_path, "new", 0.5, 0, dataset_fingerprint="new", **wider)[0],
        measured(tmp_path, "old", 0.5, 0, dataset_fingerprint="old")[0],
    ]
    candidate = [
        measured(tmp_path, "newer", 0.3, 0, dataset_fingerprint="new")[0],
        measured(tmp_path, "older", 0.6, 0, dataset_fingerprint="old")[0],
    ]
    decision = decide(rules, champion, candidate)
    assert not decision.promoted and "to 0.3" in decision.reasons[0].text


def test_an_equal_candidate_is_not_better(tmp_path: Path) -> None:
    same = measured(tmp_path, "a", 0.5, 0.5)
    better, no_worse, _ = decide(RULES, same, same).reasons
    assert not better.holds and no_worse.holds


def test_better_may_not_read_results_that_are_for_reports(tmp_path: Path) -> None:
    champion, candidate = measured(tmp_path, "a", 0.5, 0.5), measured(tmp_path, "bb", 0.6, 0.6)
    for setting in ("shop", TEST, "shop*", "*"):
        with pytest.raises(ConfigError, match=rf"names {TEST}, whose results are for reports only"):
            decide(Rules(better=(Paired(setting=setting, metric="mAP_all"),)), champion, candidate)


def test_a_rule_is_about_seen_classes_only_if_it_names_them() -> None:
    for setting in ("shop-seen.01234567", "shop-fg-seen.01234567"):
        asked = {
            name: Paired(setting=name, metric="mAP_all").names(setting) for name in ("*", "shop*", "*-seen", setting)
        }
        assert asked == {"*": False, "shop*": False, "*-seen": True, setting: True}
    assert Paired(setting="*", metric="mAP_all").names("shop-generalised.01234567")


def test_a_rule_without_a_common_measurement_fails(tmp_path: Path) -> None:
    champion, candidate = measured(tmp_path, "a", 0.5, 0.5), measured(tmp_path, "bb", 0.6, 0.6)
    for rule in (Paired(setting="other-selection", metric="mAP_all"), Paired(setting="shop-selection", metric="P_1")):
        decision = decide(Rules(better=(rule,)), champion, candidate)
        assert not decision.promoted and "no common measurement" in decision.reasons[0].text


@pytest.mark.parametrize("classes", [1, 2, 9])
def test_few_classes_decide_only_if_allowed(tmp_path: Path, classes: int) -> None:
    """Every class of the candidate gains, so an interval of these few classes would be above 0."""
    champion = measured(tmp_path, "a", 0.5, 0.5, classes=classes)
    candidate = measured(tmp_path, "bb", 0.9, 0.5, classes=classes)
    refused = decide(RULES, champion, candidate)
    assert not refused.promoted and refused.few_classes is None
    (fails,) = [reason.text for reason in refused.reasons if not reason.holds]
    assert ", +0." in fails and f"too few classes ({classes} < 10)" in fails and "give --few-classes" in fails
    asked = decide(RULES, champion, candidate, few_classes=True)
    assert asked.promoted and asked.few_classes == classes
    assert "decided by the difference alone (--few-classes)" in asked.reasons[0].text
    assert not decide(RULES, candidate, champion, few_classes=True).promoted, "allowed to decide, and worse"
    guard = Rules(no_worse=(Paired(setting="shop-selection", metric="mAP_all", margin=0.02),))
    assert (
        not decide(guard, champion, candidate).promoted
        and decide(guard, champion, candidate, few_classes=True).promoted
    )
    (found,) = compare(champion[0], candidate[0])
    assert np.isnan([found.difference.low, found.difference.high, found.difference.p]).all()
    (row,) = as_json(("a", "bb"), [found])
    assert (row["low"], row["high"], row["p"], row["classes"]) == (None, None, None, classes)


def test_the_first_candidate_does_not_win_unchecked(tmp_path: Path) -> None:
    candidate = measured(tmp_path, "bb", 0.6, 0.6)
    unknown = decide(RULES, [], candidate)
    assert not unknown.promoted and "no reference row on these queries" in unknown.reasons[0].text
    below = [
        measured(tmp_path / "pixels", name, mean, 0, method="raw_pixels") for name, mean in (("p", 0.3), ("q", 0.7))
    ]
    found = decide(RULES, [], candidate, references=below[0])
    assert found.promoted and found.champion is None
    assert "there is no champion, 0.6" in found.reasons[0].text and "from raw_pixels" in found.reasons[0].text
    assert len(found.reasons) == 2, "guards have nobody to compare with, costs are asked"
    assert not decide(RULES, [], candidate, references=below[1]).promoted
    others = measured(tmp_path / "other", "o", 0.7, 0, method="zse_sbir-untrained")
    assert decide(RULES, [], candidate, references=[*others, *below[0]]).promoted, "another method's start"
    own = measured(tmp_path / "own", "o", 0.7, 0, method="global-untrained")
    assert not decide(RULES, [], candidate, references=[*below[0], *own]).promoted
    for floor, holds in ((0.5, True), (0.58, False)):  # the interval begins at 0.57
        rules = Rules(better=(Paired(setting="shop-selection", metric="mAP_all", floor=floor),))
        assert decide(rules, [], candidate, references=below[1]).promoted == holds
    few = measured(tmp_path / "few", "bb", 0.6, 0.6, classes=2)
    assert not decide(rules, [], few).promoted and decide(rules, [], few, few_classes=True).few_classes == 2


def test_without_a_reference_the_first_candidate_must_beat_chance(tmp_path: Path) -> None:
    """With one relevant photo of 40, the expected mAP_all of a random order is 0.107."""
    images = str(tmp_path / "images")
    Images.write(images, counts={f"class {i}": {"photo": 1, "sketch": 8} for i in range(10)})
    for mean, holds in ((0.13, False), (0.14, True)):  # the interval begins at 0.03 less
        candidate = measured(tmp_path / str(mean), "bb", mean, 0.6, gallery=40, images=images)
        decision = decide(RULES, [], candidate)
        assert decision.promoted == holds and "must exceed chance 0.107" in decision.reasons[0].text
    Images.write(images, counts={f"class {i}": {"photo": 25, "sketch": 8} if i else {"sketch": 8} for i in range(10)})
    many = decide(RULES, [], measured(tmp_path / "many", "bb", 0.14, 0.6, gallery=40, images=images))
    assert "must exceed chance 0.657" in many.reasons[0].text, "a class without photos has no precision to expect"
    told = measured(tmp_path / "told", "bb", 0.14, 0.6, images=images, chance={SELECTION: 0.2})
    assert "must exceed chance 0.200" in decide(RULES, [], told).reasons[0].text


def test_a_rule_for_several_data_sets_asks_for_each_on_its_newest_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = Rules(better=(Paired(setting="*-selection", metric="mAP_all", floor=0.5),))
    newest_first = []
    for setting, mean in (("shop-selection.1", 0.6), ("mart-selection.1", 0.7), ("shop-selection.0", 0.1)):
        monkeypatch.setattr("tests.helpers.reports.SELECTION", setting)
        newest_first.append(measured(tmp_path / setting, "bb", mean, 0)[0])
    decision = decide(rules, [], newest_first)
    assert decision.promoted
    assert [reason.text.split(" ")[0] for reason in decision.reasons] == ["shop-selection.1", "mart-selection.1"]


def test_a_missing_evaluation_is_a_command_that_can_be_pasted(tmp_path: Path) -> None:
    """The command has the experiment, data set and split of the side that has the evaluation."""
    source = str(tmp_path / "my pictures")
    changes = {"dataset": {"source": source, "split": "a list.txt"}, "evaluation": {"classes": "pseudo_unseen"}}
    config = tiny_folder(source, ["x"], name="folder+global", **changes)
    champion = [measured(tmp_path, "models:/my zse/1", 0.5, 0.5)[1]]
    candidate = measured(tmp_path, "workspace/new", 0.6, 0.6, experiment=experiment_of(config))
    decision = decide(load_rules(None), champion, candidate, workspace="a b")
    (line,) = [line for line in decision.reasons[0].text.splitlines() if "zse evaluate" in line]
    words = shlex.split(line)
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert words[:2] == ["zse", "evaluate"] and options["--workspace"] == "a b"
    assert options["--checkpoint"] == "models:/my zse/1" and options["--experiment"] == "folder+global"
    set_ = [value for option, value in zip(words, words[1:], strict=False) if option == "--set"]
    assert f"dataset.source={source}" in set_ and "evaluation.classes=pseudo_unseen" in set_
    made = load_experiment("folder+global", set_)
    for section in ("dataset", "transforms", "evaluation"):
        assert getattr(made, section) == getattr(config, section)
    neither = decide(load_rules(None), champion, [candidate[1]])
    assert neither.reasons[0].text.count("zse evaluate --checkpoint") == 2


def test_a_first_candidate_without_the_measurement_is_told_how_to_make_it(tmp_path: Path) -> None:
    config = tiny_folder(str(tmp_path), ["x"], name="folder+global")
    (_, test) = measured(tmp_path, "workspace/new", 0.6, 0.6, experiment=experiment_of(config))
    decision = decide(RULES, [], [test], workspace="w")
    assert not decision.promoted and "the candidate has no such measurement" in decision.reasons[0].text
    assert "zse evaluate --checkpoint workspace/new" in decision.reasons[0].text
    assert "evaluation.classes=pseudo_unseen" in decision.reasons[0].text


def test_a_command_is_exact_for_an_experiment_of_the_users() -> None:
    """Its data set has another adapter than the shipped experiment of its name."""
    config = tiny(evaluation={"classes": "pseudo_unseen", "modes": ["ret"]}, dataset={"split": ["fish", "9", "no"]})
    words = shlex.split(evaluation_command("c", json.loads(json.dumps(experiment_of(config))), "w"))
    set_ = [value for option, value in zip(words, words[1:], strict=False) if option == "--set"]
    made = load_experiment(words[words.index("--experiment") + 1], set_)
    assert (made.dataset, made.transforms, made.evaluation) == (config.dataset, config.transforms, config.evaluation)
    assert "--experiment EXPERIMENT" in evaluation_command("c", None, "w")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("better: [{setting: a, metric: mAP_all, margn: 1}]", "better.0.margn"),
        ("better: [{setting: a, metric: mAP_all, margin: -1}]", "margin must be 0 or more"),
        ("no_worse: [{setting: a, metric: mAP_all, margin: 0.01}]", "has no rule in `better`"),
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
    tracked = {"tracking": {"enabled": True}, "evaluation": {"classes": "both"}}
    outs = [run(tiny(**tracked, train={"seed": s}), str(tmp_path)) for s in (0, 1)]
    names = [out.checkpoints["global"].url for out in outs]
    of = {(row["setting"].partition(".")[0], row["use"]) for row in outs[0].rows()}
    assert of == {("synthetic", "report"), ("synthetic-fg", "report"), ("synthetic-fg-class", "report")} | {
        ("synthetic-selection", "selection"),
        *((f"synthetic-selection-fg{form}", "selection") for form in ("", "-class")),
    }
    titles = [str(table.title) for table in result_tables(outs[0])]
    assert (
        titles[0].startswith("Unseen classes of synthetic.")
        and "(to choose models) of synthetic-selection" in titles[1]
    )
    assert all(row["ci_low"] is None for row in outs[0].rows() if row["metric"] == "mAP_all"), (
        "of three classes and one"
    )
    client, where = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db"), ["--workspace", str(tmp_path)]
    with pytest.raises(TrackingError, match="Give a name to register it under"):
        invoked("promote", names[0], *where)

    for dry in ([], ["--dry-run"]):
        for wrong in ("a/b", "a:b", "a@b", "a'b", "", " "):
            with pytest.raises(TrackingError, match="not a name for a registered model"):
                invoked("promote", names[0], "--name", wrong, *dry, *where)
    done = invoked("promote", names[0], "--name", "zse", "--dry-run", *where)
    assert done.exit_code == 0 and "not promoted: zse has no champion yet" in done.output, done.output
    assert "too few to decide" in done.output and "too few classes (n < 10)" in done.output
    rules = tmp_path / "rules.yaml"
    rules.write_text("better: [{setting: '*-selection', metric: mAP_all, floor: 0.9}]")  # one class is always found
    asked = ["--few-classes", "--rules", str(rules), *where]
    done = invoked("promote", names[0], "--name", "zse", "--dry-run", *asked)
    assert done.exit_code == 0 and "would become the champion of zse" in done.output, done.output
    assert not client.search_registered_models()
    done = invoked("promote", names[0], "--name", "zse", *asked)
    assert done.exit_code == 0 and "is the champion of zse" in done.output, done.output
    assert client.get_model_version("zse", "1").tags["zse.few_classes"] == "1"
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

    # An old version that fails replaces no challenger, and a repeated decision is logged once.
    client.set_registered_model_alias("zse", "champion", "2")
    client.set_registered_model_alias("zse", "challenger", "2")
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
        ("models:/zse/9", "models:/zse/9 is not in the registry.*versions 1, 2"),
        (str(tmp_path), "is not tracked"),
        ("models:/zse@x", "models:/zse@x is not in the registry.*aliases @champion"),
    ):
        with pytest.raises(TrackingError, match=says):
            registry.find_version(store, wrong, "zse")
