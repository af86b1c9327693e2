"""The rows of the results can be run, no row of a search knows a test class, and the pages say what the rows say."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.results import prose, record
from benchmarks.results.__main__ import finished
from benchmarks.results.columns import Column, Found, bounds, text
from benchmarks.results.costs import costs, costs_of, network
from benchmarks.results.figures import figures, svg
from benchmarks.results.make import kept_as, kept_part
from benchmarks.results.page import PAGE, PICTURES, README, by_table, page, stale_quotes, with_table
from benchmarks.results.plan import ALL_ROWS, DIFFUSED_FINAL, FINAL, ROWS, SELECTION, Row
from benchmarks.results.tables import readme
from pipelines.config.load import load_experiment
from zse_model.evaluation.metrics import bootstrap_interval, paired_difference


@pytest.mark.parametrize("row", ALL_ROWS, ids=lambda row: f"{row.table}.{row.name}")
def test_every_row_is_an_experiment(row: Row, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.touch()
    names = {"$DATA": str(tmp_path), "$WEIGHTS": str(weights), "$START": "a checkpoint"}
    overrides = row.overrides(0)
    for name, value in names.items():
        overrides = [s.replace(name, value) for s in overrides]
    config = load_experiment(row.experiment, overrides)
    assert config.train.minutes is None and config.train.steps == row.steps
    assert (config.dataset.split == "sketchy-selection") == (row not in [*FINAL, *DIFFUSED_FINAL])


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Found]]:
    return by_table(ALL_ROWS)


def test_the_pages_are_what_the_rows_give(found: dict[str, dict[str, Found]]) -> None:
    """`python -m benchmarks.results --page` draws them again."""
    drawn = figures(found)
    assert page(found, drawn) == PAGE.read_text()
    assert {path.stem: path.read_text() for path in PICTURES.iterdir()} == drawn
    assert with_table(text := README.read_text(), readme(found["final"])) == text
    assert stale_quotes() == []


def test_intervals_exclude_zero_where_a_sentence_says_so(found: dict[str, dict[str, Found]]) -> None:
    names = ("published-losses", "no-distillation", "token-readout", "batch-negatives", "hard-negatives")
    differences = [prose.minus(found["selection"], f"zse-{name}", "zse", "fused") for name in names]
    assert [d.high < 0 for d in differences if d] == [True, True, True, False, False]


def test_the_files_are_small_and_of_rows_that_are_declared() -> None:
    files = {row.file(seed): (row, seed) for row in ALL_ROWS for seed in row.seeds}
    kept = sorted(ROWS.iterdir())
    assert kept and set(kept) <= files.keys()
    assert max(file.stat().st_size for file in kept) < 32_000
    for file in kept:
        (row, seed), command = files[file], json.loads(file.read_text())["command"]
        assert command == row.command(seed), "a recorded command makes its row with the shipped recipes"


def test_a_row_without_a_planned_part_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not [
        row.name for row in ALL_ROWS for seed in row.seeds if row.file(seed).exists() and not finished(row, seed)
    ]
    monkeypatch.setattr("benchmarks.results.plan.ROWS", tmp_path)
    row = Row("t", "n", "folder+global", cross=True, faithful=True)
    assert not finished(row, 0)
    for parts, whole in (({}, False), ({"cross": 1}, False), ({"cross": 1, "faithfulness_rn": 1}, True)):
        row.file(0).write_text(json.dumps(parts))
        assert finished(row, 0) == whole


def test_the_page_says_what_was_not_run() -> None:
    never = Row("final", "sketchy-25.never", "folder+global", split="sketchy-25", cross=True)
    found = by_table([*SELECTION, never])
    text = page(found, figures(found))
    assert text.count("| sketchy-25.never | not run |") == 5
    assert "{" not in text


def drawn(seed: int, classes: list[str], photos: list[str]) -> tuple[Found, dict[str, np.ndarray]]:
    """A row of two seeds with random values, and the means over the seeds of each query's own."""
    rng, row = np.random.default_rng(seed), SELECTION[0]
    seeds = [
        {
            "ret/mAP_all": rng.random(len(classes)).round(5),
            "fg:ret/acc_1": rng.integers(0, 2, len(classes)).astype(float),
        }
        for _ in range(2)
    ]
    forms = [record.kept(classes, photos, {k: v.tolist() for k, v in values.items()}) for values in seeds]
    means = {key: np.mean([values[key] for values in seeds], axis=0) for key in seeds[0]}
    return Found(row, [{"test": form} for form in forms]), means


CLASSES = [f"class {i % 11}" for i in range(60)]
PHOTOS = [f"class {i % 11}/photo {i % 3}" for i in range(60)]


@pytest.mark.parametrize(("key", "names"), [("ret/mAP_all", CLASSES), ("fg:ret/acc_1", PHOTOS)])
def test_sums_give_what_the_queries_gave(key: str, names: list[str]) -> None:
    groups = torch.tensor(np.unique(names, return_inverse=True)[1])
    (ours, values), (theirs, other) = drawn(0, CLASSES, PHOTOS), drawn(1, CLASSES, PHOTOS)
    a, b = ours.column(key), theirs.column(key)
    assert a is not None and b is not None
    assert a.mean == pytest.approx(values[key].mean(), abs=1e-12)
    whole = torch.from_numpy(values[key])
    assert bootstrap_interval(a.values, a.groups) == pytest.approx(bootstrap_interval(whole, groups), abs=1e-12)
    expected = paired_difference(whole, torch.from_numpy(other[key]), groups)
    assert vars(a.minus(b)) == pytest.approx(vars(expected) | {"classes": len(set(names))}, abs=1e-12)


@pytest.mark.parametrize(("classes", "intervals"), [(9, 0), (10, 1)])
def test_few_classes_have_no_interval_in_tables_sentences_and_figures(classes: int, intervals: int) -> None:
    names = [f"class {i % classes}" for i in range(60)]
    (ours, _), (theirs, _) = drawn(0, names, names), drawn(1, names, names)
    a, b = ours.column("ret/mAP_all"), theirs.column("ret/mAP_all")
    assert a is not None and b is not None
    difference = a.minus(b)
    assert str(a).startswith(f"{a.mean:.3f}") and str(a).count("(") == intervals
    assert text(difference).startswith(f"{difference.value:+.3f}") and text(difference).count("[") == intervals
    assert (bounds(difference) == "too few classes (n < 10)") == (not intervals)
    whiskers = re.findall('<path d="[^"]*"[^>]*stroke-width: 1.2', svg({"a row": {"ret": a}}, "mAP_all"))
    assert len(whiskers) == intervals


def test_a_column_is_of_all_seeds_or_none() -> None:
    found, _ = drawn(0, CLASSES, PHOTOS)
    assert found.column("ret/mAP_all") is not None
    del found.records[1]["test"]["by_class"]["sums"]["ret/mAP_all"]
    assert found.column("ret/mAP_all") is None


@pytest.mark.parametrize(
    ("column", "kept"),
    [
        ("sketchy-25.0123abcd/plain/ret/mAP_all", ("test", "ret/mAP_all")),
        ("sketchy-25-fg-all.0123abcd/plain/late/acc_1", ("test", "fg-all:late/acc_1")),
        ("sketchy-25-generalised.0123abcd/plain/ret/mAP_all", ("test", "generalised:ret/mAP_all")),
        ("sketchy-25-generalised.0123abcd/plain/ret/P_25", ("test", None)),
        ("sketchy-25-seen.0123abcd/plain/fused/mAP_all", ("seen", "fused/mAP_all")),
        ("sketchy-25-seen.0123abcd/plain/fused/P_1", ("test", None)),
        ("sketchy-25-fg-seen.0123abcd/plain/fused/acc_1", ("test", None)),
        ("sketchy-25.0123abcd/zse_paper/ret/mAP_all", ("test", None)),
    ],
)
def test_columns_of_a_report_have_a_part_and_a_key(column: str, kept: tuple[str, str | None]) -> None:
    assert kept_as(column) == kept


def test_a_part_keeps_the_queries_that_it_asked() -> None:
    """Held-back sketches of seen classes are queries of the same report."""
    queries: Any = SimpleNamespace(category=np.array(list("aab")), instance=np.array(["x", None, "y"]))
    nan = float("nan")
    values = {"ret/mAP_all": torch.tensor([0.5, 1.0, nan]).double(), "fg:ret/acc_1": torch.tensor([1.0, 0.0, nan])}
    kept = kept_part(queries, values)
    assert kept["by_class"] == {"queries": {"a": 2}, "sums": {"ret/mAP_all": [1.5]}}
    with pytest.raises(ValueError, match="has queries without a value"):
        kept_part(queries, values | {"late/mAP_all": torch.tensor([0.5, nan, nan])})
    with pytest.raises(ValueError, match="answers queries that"):
        kept_part(queries, values | {"late/mAP_all": torch.ones(3)})


def test_rows_of_other_queries_are_not_paired() -> None:
    (ours, _), (theirs, _) = drawn(0, CLASSES, PHOTOS), drawn(0, CLASSES, PHOTOS[::-1])
    a, b = ours.column("ret/mAP_all"), theirs.column("ret/mAP_all")
    assert isinstance(a, Column) and isinstance(b, Column)
    with pytest.raises(ValueError, match="different queries"):
        a.minus(b)
    assert replace(b, queries=a.queries).minus(a).value == 0


def test_what_cannot_be_kept_as_sums_is_refused() -> None:
    with pytest.raises(ValueError, match="ret/P_1 has queries without a value"):
        record.kept(["a", "b"], ["x", "y"], {"ret/P_1": [1.0, float("nan")]})
    with pytest.raises(ValueError, match="36 sketches"):
        record.kept(["a"] * 36, ["x"] * 36, {"fg:ret/acc_1": [0.0] * 36})


def test_a_row_is_written_whole(tmp_path: Path) -> None:
    form = record.kept(CLASSES, PHOTOS, {"ret/P_1": [1.0] * 60})
    record.write(tmp_path / "rows" / "a.json", {"test": form})
    assert json.loads((tmp_path / "rows" / "a.json").read_text()) == {"test": form}
    assert [p.name for p in (tmp_path / "rows").iterdir()] == ["a.json"]


def test_costs_are_those_of_the_networks() -> None:
    """A place of 96 numbers is the most that costs a thirtieth of `rn`: 144 places of a sketch with 144 of a photo."""
    zse, late = costs("zse"), costs("late")
    assert late["late"] == (2 * 144 * 144 * 96, 144 * 96)
    assert late["fused"] == (late["late"][0] + 2 * 1280, late["late"][1] + 2 * 1280)
    assert zse["rn"][0] > 30 * zse["late"][0] and zse["late"] == late["late"]
    assert costs("crossatnet")["hash-64"][1] == 8 and "hash-64" not in late
    student = ("backbone.weights=null", "methods.zse_sbir.late_distillation=1", "methods.zse_sbir.place_dim=64")
    published = costs_of(network("zse_sbir-sketchy-25", student))
    assert round(published["rn"][0] / published["late"][0]) == 457  # docs/results.md


def test_rows_of_a_cost_of_distance_have_the_cost_of_the_recipe() -> None:
    config = load_experiment("folder+late_interaction", ["dataset.source=none"])
    shipped = f"methods.late_interaction.late_distance={config.methods['late_interaction'].late_distance}"
    rows = [row for row in ALL_ROWS if row.name in ("distance", "sketchy-25.near", "sketchy-21.near")]
    assert len(rows) == 3 and all(shipped in row.settings for row in rows)
