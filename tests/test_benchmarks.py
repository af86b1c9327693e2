"""Benchmarks at scale and on a GPU run with small sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import distribution, loading, scale, scaling, scoring_tables, sizes
from tests.helpers.batches import Pictures
from zse_model.methods import METHODS, TrainBatch


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_changed_class_at_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scale.ingests(replace(scale.SMALL, pictures=(500,), changed=500), tmp_path)
    assert "one of 250 classes changed: 2 of 500 pictures read again" in capsys.readouterr().out


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_what_a_stage_reads_is_counted(tmp_path: Path) -> None:
    source, workspace = scale.spread(scale.draw(tmp_path / "drawn"), tmp_path / "set", 500), str(tmp_path / "w")
    config = distribution.experiment(str(source))
    images = distribution.ingest_stage.ingest(config, workspace)
    made = distribution.shard(config, workspace, images)
    checkpoint = distribution.untrained(config, "zse_sbir", workspace, images, made)
    with distribution.counting(tmp_path / "counts"), distribution.here():
        counted = distribution.experiment(f"counted://{source}")
        once, again = (distribution.costs(counted, f"counted://{tmp_path}/again", checkpoint) for _ in range(2))
    pictures = sum(path.stat().st_size for path in source.rglob("*.*"))
    assert pictures <= once["ingest"].read < 4 * pictures and once["ingest"].requests > 500
    assert 0 < once["score"].requests < once["embed"].requests
    assert again["ingest"].read < pictures / 10 and again["score"].requests < once["score"].requests, "all is there"
    assert min(stage.cpu_s for stage in once.values()) > 0


def test_the_plan_follows_its_formulas() -> None:
    counted = scaling.Counted(
        parameters=100, step_flop=7e13, items_step=8, items=640, checks=4, dim=2, late_flop=1, late_bytes=1
    )
    values = {"images_core": 4.0, "item_kib": 40 / 1024, "network": 1e-6, "store": 5e-7, "price": 3.0}
    constants = {name: scaling.Constant(value, "", "", "assumed", "") for name, value in values.items()}
    way = scaling.Way("compiled", tflops=70, compiling=20.0)
    one, four = (scaling.row(gpus, counted, constants, way) for gpus in (1, 4))
    assert (one.step, one.reduced, one.gathered, one.images, one.cores) == pytest.approx((1.0, 0, 0, 32, 8))
    assert (one.steps, one.uploads, one.read) == pytest.approx((80, 5 * 1600 / 500, 320))
    assert one.cost == pytest.approx(3 * one.hours) and one.hours == pytest.approx((20 + 80 + 16) / 3600)
    assert (four.reduced, four.gathered, four.steps) == pytest.approx((4 * 100 * 1.5, 3 * 3 * 32 * 8, 20))
    assert four.images == pytest.approx(4 * 32 / (1 + (600 + 2304) / 1e3)), "transfers are waited for"


def test_the_flop_of_a_pair_are_those_that_torch_counted() -> None:
    counted = {
        row["gflop_pair"] for row in scoring_tables.gpu("h100")["sections"]["pairs"]["rows"] if "gflop_pair" in row
    }
    assert counted == {round(scoring_tables.pair_flop() / 1e9, 3)}


def test_a_node_reads_again_what_it_cannot_keep() -> None:
    planned = [{"a": 1, "b": 1}, {"a": 1, "c": 1}, {"b": 1, "a": 1}]
    assert [scoring_tables.most_read(planned, most, 1) for most in (3, 2, 1)] == [3, 5, 6], "used last, not read last"
    assert scoring_tables.most_read(planned, 3, 2) == 2, "the first node has the blocks 0 and 2"


def test_a_computed_part_stands_between_its_markers() -> None:
    page = "Text\n\n<!-- computed: a -->\n\nold\n\n<!-- end -->\n\nMore\n"
    made = scaling.with_parts(page, {"a": ["| new |"]})
    assert made == page.replace("old", "| new |") == scaling.with_parts(made, {"a": ["| new |"]})
    with pytest.raises(ValueError, match=r"markers of \['a'\], but \['a', 'b'\] are computed"):
        scaling.with_parts(page, {"a": [], "b": []})
    with pytest.raises(ValueError, match="no <!-- end --> after <!-- computed: a -->"):
        scaling.with_parts(page.replace("<!-- end -->", ""), {"a": []})


def test_sizes_follow_the_constants() -> None:
    of = sizes.Constants(
        index_cpu_s=0.36,
        row_bytes=4000,
        place_bytes=0,
        embedding_bytes=2000,
        code_bytes=8,
        process_mb=1000,
        query_ms=50,
        embeddings_ms=100,
        codes_ms=2,
        shortlist_ms=30,
        cores=2,
    )
    head, _, *rows = sizes.table(of)
    assert head.startswith("| photos | searched by | first index, CPU hours | machines of 16 cores, 8 hours |")
    assert rows[2] == "| 2,000,000 | `ret` | 200 | 2 | 8.0 | 250 | 5.0 |"
    assert rows[4] == "| 100,000,000 | `asym-64`, 1,000 ranked again | 10,000 | 79 | 400 | 280 | 1.8 |"


def test_the_constants_of_sizes_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"BACKBONE": "tf_efficientnet_lite0", "SIZE": 64, "PHOTOS": 12, "ROWS": 2000, "CODES": 2000, "STEP": 1000}
    for name, value in {**small, "SHORTLIST": 10, "PIXELS": (320, 240)}.items():
        monkeypatch.setattr(sizes, name, value)
    found = sizes.measure()
    assert (found.embedding_bytes, found.code_bytes, found.place_bytes) == (2560, 8, 4 * 4 * 96)
    assert 1000 < found.row_bytes < 100_000 and 100 < found.process_mb < 4000
    assert min(found.index_cpu_s, found.query_ms, found.embeddings_ms, found.codes_ms) > 0


def test_the_share_of_waiting_counts_the_time_between_steps() -> None:
    class Slow(Pictures):
        def batch(self, step: int, rank: int, world_size: int) -> TrainBatch:
            time.sleep(0.1)
            return super().batch(step, rank, world_size)

    assert loading.waiting(Slow(1), step=0.0, steps=8) > 0.8
    assert loading.waiting(Pictures(1), step=0.2, steps=4) < 0.5


def test_listing_and_metrics_at_scale(capsys: pytest.CaptureFixture[str]) -> None:
    scale.list_keys(1_000)
    scale.matrix(30, 40)
    scale.embedded(30, 40)
    out = capsys.readouterr().out
    assert out.startswith("  1,000 records") and out.count("  plain mAP_all 0.") == 2


BLOCKED = "pipelines ray mlflow pyarrow fsspec s3fs pydantic rich typer faiss scipy matplotlib psutil boto3".split()
ALONE = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
from benchmarks.__main__ import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `python -m benchmarks gpu --small` writes where there is nothing but torch and timm."""
    out = tmp_path_factory.mktemp("gpu") / "gpu.json"
    command = [sys.executable, "-c", ALONE, "gpu", "--small", "--out", str(out)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "zse_sbir on test_vit" in done.stdout
    return json.loads(out.read_text())


def rows_of(report: dict[str, Any], section: str, **about: str) -> list[dict[str, Any]]:
    rows = report["sections"][section]["rows"]
    return [row for row in rows if about.items() <= row.items()]


def test_the_gpu_benchmark_compares_everything_that_a_method_computes(gpu: dict[str, Any]) -> None:
    assert {"device", "versions", "sections", "seconds"} <= gpu.keys() and gpu["small"]
    assert {"torch", "timm", "cuda", "python"} <= gpu["versions"].keys()
    assert list(gpu["sections"]) == ["matrix", "golden", "parity", "encode", "pairs", "train"]
    assert not [name for name, section in gpu["sections"].items() if {"error", "skipped"} & section.keys()]
    parity = rows_of(gpu, "parity")
    assert {row["method"].split()[0] for row in parity} == set(METHODS)
    assert {row["precision"] for row in parity} == {"fp32", "tf32", "bf16"}
    results = {row["result"] for row in parity}
    assert {"loss triplet", "gradient", "encode photo tokens", "score fused", "end to end rn"} <= results
    assert {"score hash-32", "score asym-32", "encode sketch itq-32", "loss distillation"} <= results
    for row in parity:
        assert "error" not in row, row
        if row["precision"] != "bf16":  # the same processor
            assert row.get("max_abs", 0) < 1e-6 and row.get("bits", 1) == 1 and row.get("order", 1) == 1, row
        elif "mean_rel" in row:
            assert row["mean_rel"] < 0.3, row
    assert any(row["max_abs"] > 0 for row in parity if row["precision"] == "bf16" and "max_abs" in row)
    golden = rows_of(gpu, "golden", precision="fp32")
    assert len(golden) == 2 and all(row["max_abs"] < 1e-5 for row in golden)


def test_the_gpu_benchmark_times_beside_the_eager_way(gpu: dict[str, Any]) -> None:
    assert {row["precision"] for row in rows_of(gpu, "matrix") if row["tflops"] > 0} == {"fp32", "tf32", "bf16"}
    for section, unit in (("encode", "images_s"), ("train", "items_s"), ("pairs", "pairs_s")):
        for row in rows_of(gpu, section, way="eager"):
            assert row[unit] > 0 and row["share"] > 0 and row["times_eager"] == 1, row
        compiled = rows_of(gpu, section, way="compiled")
        assert compiled and all(row["times_eager"] > 0 for row in compiled)
    ways = {row["way"] for row in rows_of(gpu, "pairs", precision="fp32")}
    assert {"eager, math attention", "eager, flash attention", "eager, cudnn attention"} <= ways
    (profile,) = rows_of(gpu, "pairs", way="profile")
    assert len(profile["kernels"]) == 8 and 0 < sum(profile["kernels"].values()) <= 1


def test_a_gpu_measurement_that_fails_or_comes_too_late_is_recorded(tmp_path: Path) -> None:
    from benchmarks.gpu import SMALL, Bench, about, torch

    device, out = torch.device("cpu"), tmp_path / "gpu.json"
    bench = Bench(device, SMALL, time.monotonic() + 60, out, about(device, SMALL, 1.0))

    def fails(bench: Bench) -> None:
        bench.add("one", {"what": "a"}, lambda: {"value": 1})
        bench.add("one", {"what": "b"}, lambda: {"value": 1 / 0})
        raise RuntimeError("out of memory\nand a long trace")

    bench.section("one", fails)
    bench.until = 0.0
    bench.section("two", lambda bench: None)
    found = json.loads(out.read_text())["sections"]
    assert found["one"]["error"] == "RuntimeError: out of memory"
    assert found["one"]["rows"] == [
        {"what": "a", "value": 1},
        {"what": "b", "error": "ZeroDivisionError: division by zero"},
    ]
    assert found["two"]["skipped"].startswith("no time is left")
