"""Published settings can be run, their lists are the published ones, and leaks are refused one by one."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from pipelines.datasets.adapters.folder import FolderConfig
from pipelines.datasets.built_in import CROSS, built_in
from pipelines.datasets.published import load_settings
from pipelines.datasets.splits import load_split, stands_verbatim, trained_split
from pipelines.judge.published_settings import evaluate_settings, load_datasets, settings_table
from pipelines.run import run
from pipelines.runtime.errors import ConfigError
from tests.conftest import tiny_folder
from tests.helpers.pictures import world
from zse_model.evaluation.protocol import CATEGORY_METRICS, INSTANCE_METRICS
from zse_model.split import ZeroShotSplit, conflicts


def split(name: str, without: tuple[str, ...] = ()) -> ZeroShotSplit:
    """A built-in split of data with all of its classes."""
    found = built_in(name)
    config = FolderConfig(name="d", source="", split=name, pseudo_unseen=0)
    return load_split(config, [c for c in (*found["seen"], *found["unseen"]) if c not in without])


def test_every_setting_can_be_asked_for() -> None:
    settings = load_settings()
    assert len({s.name for s in settings}) == len(settings) >= 19
    for setting in settings:
        assert split(setting.split).unseen
        known = INSTANCE_METRICS if setting.form.startswith("-fg") else CATEGORY_METRICS
        assert set(setting.metrics) <= set(known), setting.name
        assert all(set(p) - {"method", "mode", "source"} <= set(setting.metrics) for p in setting.published)
        assert (setting.queries is None) == (setting.gallery is None)
    assert [s.name for s in load_settings(["tuberlin-30", "sketchy-25"])] == ["tuberlin-30", "sketchy-25"]
    with pytest.raises(
        ConfigError, match=r"Unknown settings \['sketchy-26'\]. Did you mean sketchy-25. Known: all, sketchy-25, "
    ):
        load_settings(["sketchy-26"])


# sha256 of the lists as the papers' code has them, a class a line.
PUBLISHED = {
    "sketchy-25-to-tuberlin-21": (21, "d748996ac0dce053"),
    "sketchy-25-to-quickdraw-11": (11, "b57b16f6c773db9a"),
    "tuberlin-30-to-sketchy-8": (8, "23858d940d709a1d"),
}


@pytest.mark.parametrize("name", CROSS)
def test_lists_across_data_sets_are_the_published_ones(name: str) -> None:
    found, source = split(name), split(CROSS[name][0])
    assert (len(found.unseen), sha256("\n".join(found.unseen).encode()).hexdigest()[:16]) == PUBLISHED[name]
    assert not set(found.unseen) & set(found.seen)
    assert stands_verbatim(source, found)
    assert not stands_verbatim(split("sketchy-21"), found), "another training split is held to the alias table"
    with pytest.raises(ValueError, match="Give the latter instead"):
        trained_split(name)


def test_the_alias_table_knows_more_than_the_published_lists() -> None:
    pairs = {name: conflicts(split(CROSS[name][0]).seen, split(name).unseen) for name in CROSS}
    assert list(pairs.values()) == [[("rocket", "space shuttle")], [], [("rooster", "chicken")]]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_one_checkpoint_on_all_settings(tmp_path: Path) -> None:
    sketchy, tuberlin = split("sketchy-25"), split("sketchy-25-to-tuberlin-21")
    data = world(tmp_path / "sketchy", ["rocket", "bat", "dolphin", "door"], list(sketchy.unseen))
    other = world(tmp_path / "tuberlin", ["ant"], list(tuberlin.unseen))
    (tmp_path / "data.yaml").write_text(
        f"sketchy: {{adapter: folder, source: {data}}}\ntuberlin: {{adapter: folder, source: {other}}}\n"
    )
    config = tiny_folder(data, [], dataset={"split": "sketchy-25", "held_back": 0.4}, train={"steps": 1, "checks": 1})
    workspace = str(tmp_path / "w")
    checkpoint = run(config, workspace, until="train").checkpoints["global"].url
    names = ["sketchy-25", "sketchy-25-generalised", "sketchy-21", "sketchy-25-to-tuberlin-21", "quickdraw-30"]
    datasets = load_datasets(str(tmp_path / "data.yaml"))
    results = evaluate_settings(config, workspace, checkpoint, load_settings(names), datasets)
    found = {r.setting.name: r for r in results}
    assert list(found) == names
    (first,) = [row for row in found["sketchy-25"].rows if row["metric"] == "mAP_all"]
    assert first["protocol"] == "zse_paper" and (first["queries"], first["gallery"]) == (50, 50)
    assert found["sketchy-25"].difference == "50 x 50, published 15229 x 17101"
    beside = next(row for row in found["sketchy-25-generalised"].rows if row["metric"] == "mAP_all")
    assert beside["gallery"] > 50 and beside["value"] <= first["value"]
    assert "no pictures of" in found["sketchy-21"].refused
    assert found["sketchy-25-to-tuberlin-21"].rows and not found["sketchy-25-to-tuberlin-21"].refused
    assert found["quickdraw-30"].refused == "--datasets has no data set 'quickdraw'. It has ['sketchy', 'tuberlin']"
    with pytest.raises(ConfigError, match="quickdraw.adapter|tag"):
        evaluate_settings(
            config, workspace, checkpoint, load_settings(names), datasets | {"quickdraw": {"adapter": "x"}}
        )
    table = settings_table(results)
    cells = [list(column.cells) for column in table.columns]
    assert "no: 50 x 50, published 15229 x 17101" in cells[-1]
    assert not any(cells[-2]), "nothing published stands beside other members"
    same = replace(found["sketchy-25"].setting, queries=50, gallery=50)
    alike = replace(found["sketchy-25"], setting=same)
    assert alike.difference == "" and "ZSE-SBIR ret 0.736" in str(list(settings_table([alike]).columns[-2].cells))
    together = replace(alike, rows=[{**row, "mode": "ret-diffused-500"} for row in alike.rows])
    published, comparable = (list(column.cells) for column in settings_table([together]).columns[-2:])
    assert not any(published) and set(comparable) == {"no: diffusion ranks photos by each other"}
    elsewhere = replace(alike, trained_on="sketchy-21")
    assert elsewhere.difference == "trained on sketchy-21, published on sketchy-25"
    across = {r["distilled_test_units"] for r in found["sketchy-25-to-tuberlin-21"].rows}
    assert across == {0}, "the tiny network has no classifier to distil from"

    # The checkpoint was trained on unseen classes of sketchy-21. If their pictures exist, the leak check refuses it.
    for category in split("sketchy-21").unseen:
        if not (tmp_path / "sketchy" / "sketch" / category).exists():
            world(tmp_path / "sketchy", [], [category])
    (tmp_path / "empty" / "sketch").mkdir(parents=True)
    datasets["quickdraw"] = {"adapter": "folder", "source": str(tmp_path / "empty")}
    names = ["quickdraw-30", "sketchy-21"]
    bad, again = evaluate_settings(config, workspace, checkpoint, load_settings(names), datasets)
    assert "has no sketch pictures" in bad.broken and not bad.refused and not bad.rows
    assert "was trained or chosen on" in again.refused and "door (seen) = door (unseen)" in again.refused
