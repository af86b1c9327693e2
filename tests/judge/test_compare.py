"""`compare` on the same queries: differences, classes, pictures, and reports that cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.judge.compare import Side, by_class_difference, compare, compare_reports
from pipelines.run import Outputs, run
from pipelines.store import storage
from pipelines.tracking import TrackingError, reports_of
from pipelines.workspace.parts import open_part
from tests.conftest import tiny
from tests.helpers.command import invoked
from tests.helpers.reports import measured

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Outputs, Outputs]]:
    """Two trainings in one workspace and one MLflow."""
    workspace = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workspace}/mlflow.db")
        outs = [
            run(tiny(tracking={"enabled": True}, train={"seed": seed}, dataset={"held_back": 0.2}), str(workspace))
            for seed in (0, 1)
        ]
        yield workspace, outs[0], outs[1]


def test_a_comparison_is_of_the_same_queries_by_class(two: tuple[Path, Outputs, Outputs], tmp_path: Path) -> None:
    workspace, one, other = two
    names = [out.checkpoints["global"].url for out in (one, other)]
    done = invoked("compare", *names, "--workspace", str(workspace), "--metric", "mAP_all", "--out", str(tmp_path))
    assert done.exit_code == 0, done.output
    (row,) = [r for r in json.loads((tmp_path / "compare.json").read_text()) if r["protocol"] == "plain"]
    values = {}
    for name, out in (("first", one), ("second", other)):
        table = open_part(storage.join(out.reports["global"].url, "queries.parquet")).read().to_pydict()
        values[name] = np.array(table[f"{row['setting']}/plain/ret/mAP_all"])
    assert row["means"] == pytest.approx([values["first"].mean(), values["second"].mean()])
    assert row["value"] == pytest.approx((values["second"] - values["first"]).mean())
    assert (row["low"], row["high"], row["p"], row["classes"]) == (None, None, None, 3)
    assert "too few classes" in done.output
    assert row["classes_better"] + row["classes_equal"] + row["classes_worse"] == 3
    sheet = Image.open(tmp_path / "compare-1.png")
    assert sheet.width > 500 and sheet.height > 500


def test_a_model_is_as_good_as_itself(two: tuple[Path, Outputs, Outputs]) -> None:
    _, one, _ = two
    report = Side("a", one.reports["global"])
    assert compare(report, report, mode="ret,ret") == compare(report, report, mode="ret")
    with pytest.raises(ValueError, match="a and a have no common measurement: .*/plain/ret"):
        compare(report, report, mode="ret,fused")
    for found in compare(report, report):
        assert found.difference.value == 0 and found.difference.few == (not found.metric.startswith("acc"))
        assert found.classes[0] == found.classes[2] == 0 < found.classes[1]


def test_a_difference_has_a_side() -> None:
    classes = np.array(["cat", "cat", "dog", "dog", "owl"])
    difference = np.array([0.2, 0.0, -0.1, -0.3, np.nan])
    assert by_class_difference(classes, difference) == {"cat": 0.1, "dog": -0.2}


def test_every_name_leads_to_the_reports(two: tuple[Path, Outputs, Outputs], tmp_path: Path) -> None:
    workspace, one, _ = two
    report, checkpoint = one.reports["global"], one.checkpoints["global"].url
    tracked = storage.read_json(storage.join(report.url, "tracked.json"))["runs"]
    training = storage.read_json(storage.join(checkpoint, "tracked.json"))
    for name in (report.url, checkpoint, training["run"], f"models:/{training['model']}", *tracked.values()):
        assert reports_of(name, str(workspace)) == [report], name
    with pytest.raises(TrackingError, match="not a report, checkpoint or run"):
        reports_of(str(tmp_path), str(workspace))
    unseen = run(tiny(evaluation={"instance_level": False}), str(tmp_path)).checkpoints["global"].url
    with pytest.raises(TrackingError, match="No evaluation of .* is tracked in sqlite.* Run `zse evaluate` first"):
        reports_of(unseen, str(workspace))


def test_what_cannot_be_compared_says_why(two: tuple[Path, Outputs, Outputs], tmp_path: Path) -> None:
    workspace, one, other = two
    a, b = Side("a", one.reports["global"]), Side("b", other.reports["global"])
    with pytest.raises(ValueError, match="No common measurement has metric 'mAP_7'. Common, as setting/protocol/mode"):
        compare(a, b, metric="mAP_7")
    elsewhere = run(tiny(dataset={"split": ["airplane", "car"]}), str(tmp_path)).reports["global"]
    with pytest.raises(ValueError, match=r"have different queries in synthetic\.\w+, 8 and 12: only equal queries"):
        compare(a, Side("c", elsewhere))


def test_other_galleries_are_not_compared(tmp_path: Path) -> None:
    """Equal queries and setting, another gallery: such as after a change of the held-back share."""
    one = measured(tmp_path, "one", 0.5, 0.5, split_hash="a")
    other = measured(tmp_path, "two", 0.6, 0.6, gallery=70, split_hash="b")
    with pytest.raises(ValueError, match="searched different galleries of shop-selection.01234567: 50 and 70 photos"):
        compare(one[0], other[0])
    with pytest.raises(ValueError, match="searched different galleries of"):
        compare_reports(one, other)
    same = measured(tmp_path, "three", 0.6, 0.6, split_hash="b")
    found = compare_reports(one, same)  # the same search under two splits; either report may be the newest
    assert {one.setting for _, one in found} == {"shop-selection.01234567", "shop.01234567"}
    assert compare_reports(one[:1], [same[1], same[0]])[0][1].setting == "shop-selection.01234567"
