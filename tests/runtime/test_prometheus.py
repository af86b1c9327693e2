"""Our numbers where Prometheus finds them: in the endpoint of a real Ray."""

from __future__ import annotations

import dataclasses
import re
import time
import urllib.request
from pathlib import Path

import pytest

from pipelines.run import run
from pipelines.runtime import prometheus
from pipelines.runtime.background import repeated
from pipelines.store import storage
from tests.conftest import tiny_folder
from tests.zse_model.test_transforms import as_bytes, drawing, scene

CLASSES = ["a", "b", "c", "d"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_is_seen_in_rays_endpoint(tmp_path: Path, metrics_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "EVERY", 1.0)  # as this Ray reports every second, and not every ten
    for i, category in enumerate(CLASSES):
        pictures = {"sketch": as_bytes(drawing(side=200 + i)), "photo": as_bytes(scene(300 + i), "JPEG")}
        for modality, data in pictures.items():
            file = tmp_path / modality / category / "1.png"
            file.parent.mkdir(parents=True)
            file.write_bytes(data)
    (tmp_path / "photo" / "a" / "2.jpg").write_bytes(b"no picture")
    config = tiny_folder(
        str(tmp_path),
        ["a", "b"],
        ingest={"max_bad_fraction": 0.5},
        methods={"zse_sbir": {"dim": 16, "heads": 2, "ffn": 16}},
        train={"steps": 100, "checks": 1},
        cluster={"workers": 1},
    )
    config = dataclasses.replace(config, methods={"zse_sbir": config.methods["zse_sbir"]})
    seen: dict[tuple[str, str], list[float]] = {}
    last_seen: dict[str, float] = {}  # run -> when a scrape that showed it began

    def scrape() -> None:
        began = time.monotonic()
        with urllib.request.urlopen(metrics_url, timeout=5) as answer:
            for line in answer.read().decode().splitlines():
                if found := re.match(r'ray_(zse_\w+)\{.*,run="([^"]+)",stage="\w+",worker="\d*"\} (.*)', line):
                    seen.setdefault((found[1], found[2]), []).append(float(found[3]))
                    last_seen[found[2]] = began

    workspace = str(tmp_path / "w")
    with repeated(scrape, 0.5), prometheus.gauges(stage="train", run="kept", worker="7") as put:
        put({"zse_wait_share": 0.25})
        was_set = time.monotonic()
        out = run(config, workspace)
        images, name = out.images.name, out.checkpoints["zse_sbir"].name
        encodings = out.encodings["zse_sbir"]
        sketches, photos = (sum(encodings.parts(m).values()) for m in ("sketch", "photo"))
        scored = storage.folders(f"{workspace}/scores")
        assert scored, "a pair network scored"
        counted = {("zse_bad_files_total", images): 1.0}
        counted |= {("zse_pairs_scored_total", folder): sketches * photos for folder in scored}
        # Ray exports every second, and forgets a gauge 20 s after it was set last.
        while last_seen.get("kept", 0.0) < was_set + 25 or any(
            seen.get(key, [0])[-1] != n for key, n in counted.items()
        ):
            assert time.monotonic() < was_set + 120, f"not exported 25 s after it was set, or not {counted}: {seen}"
            time.sleep(0.2)
    assert all(0 <= value <= 1 for value in seen["zse_wait_share", name])
    assert all(value > 0 for value in seen["zse_images_per_second", name])
    assert set(seen["zse_wait_share", "kept"]) == {0.25}


@pytest.mark.parametrize("file", ["infra/grafana/dashboard.json", "docs/operating.md"])
def test_what_is_drawn_and_documented_is_what_there_is(file: str) -> None:
    """Not drawn in a Grafana here: its names are compared."""
    text = (Path(__file__).parents[2] / file).read_text()
    there = {f"ray_{name}" for name in prometheus.GAUGES} | {f"ray_{name}_total" for name in prometheus.COUNTERS}
    assert set(re.findall(r"ray_zse_\w+", text)) == there
