"""Artefacts of earlier code open unchanged: images, pairs, checkpoints, encodings, scores, reports, MLflow's database.

Keep this green. Code that changes an artefact raises its schema version and reads older versions. The samples in
tests/kept are never written again; only the code that opens them may change.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pipelines.cli.app import app
from pipelines.config.load import load_experiment
from pipelines.encode.gallery import open_gallery
from pipelines.judge.compare import Side, compare
from pipelines.run import run
from pipelines.tracking import Store, checkpoint_of, reports_of
from pipelines.tracking.history import evaluated, standings
from pipelines.train.sources import ShardSource
from pipelines.workspace.encodings import Encodings
from pipelines.workspace.images import Images
from pipelines.workspace.pairs import Pairs
from pipelines.workspace.pictures import decode_pixels
from pipelines.workspace.queries import Queries
from pipelines.workspace.reports import Report
from pipelines.workspace.scores import Scores
from pipelines.workspace.tensors import encode_pictures
from tests.helpers.kept import ROOT, kept_samples
from zse_model.checkpoint import load_checkpoint
from zse_model.methods import Encoding, RetrievalMethod
from zse_model.scoring import score_all

WORKSPACE = str(ROOT / "workspace")
CHECKPOINTS = ("maps/global", "maps/zse_sbir", "maps/crossatnet", "tokens/zse_sbir")
CHAMPION = "models:/zse@champion"


@pytest.fixture(scope="module", autouse=True)
def expected() -> Iterator[dict[str, Any]]:
    """The samples in the place where they were written, and the expected content."""
    with kept_samples() as samples:
        yield json.loads((samples / "expected.json").read_text())


def sha(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def check_scores(method: RetrievalMethod, sketches: Encoding, photos: Encoding, kept: dict[str, Any]) -> None:
    """The scores of every mode, equal to the bit on the machine that wrote them."""
    assert set(kept) <= set(method.modes)
    with torch.inference_mode():
        for mode, scores in kept.items():
            found = score_all(method.scorer(mode), sketches, photos)
            torch.testing.assert_close(found, torch.tensor(scores), rtol=1e-5, atol=1e-6, msg=mode)


def test_images_open(expected: dict[str, Any]) -> None:
    images = Images.open(expected["images"])
    members = images.members()
    pictures = images.data(members)
    found = {str(id): sha(decode_pixels(data)) for id, data in zip(members.id, pictures, strict=True)}
    assert found == expected["pixels"] and len(found) == 60
    assert images.fingerprint == expected["fingerprint"]
    assert images.counts["fish"] == {"photo": 3, "sketch": 3}
    assert members.instance[0] == "airplane/0000" and {len(sha256) for sha256 in members.sha256} == {64}


def test_pairs_open(expected: dict[str, Any]) -> None:
    pairs = Pairs.open(expected["pairs"])
    batch = ShardSource(pairs, 4, 0).batch(0, 0, 1)
    assert {name: sha(value.numpy()) for name, value in vars(batch).items()} == expected["batch"]
    assert pairs.split_hash == expected["split_hash"] and len(pairs.classes) == 5


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_gives_the_scores_that_it_gave(expected: dict[str, Any], name: str) -> None:
    checkpoint = load_checkpoint(expected["checkpoints"][name])
    assert checkpoint.name == name.partition("/")[2] and checkpoint.digest == expected["digests"][name]
    assert checkpoint.split.digest == expected["split_hash"] and len(checkpoint.seen_pictures) > 0
    assert checkpoint.training["fingerprint"] == expected["fingerprint"]
    images = Images.open(expected["images"])
    members = images.members()
    at = {str(id): i for i, id in enumerate(members.id)}
    encoded = []
    for modality in ("sketch", "photo"):
        asked = members.where(np.array([at[id] for id in expected["ids"][modality]]))
        pictures = images.data(asked)
        encoded.append(encode_pictures(lambda x, m=modality: checkpoint.method.encode(x, m), pictures, 64))
    check_scores(checkpoint.method, *encoded, expected["scores"][name])


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_encodings_open(expected: dict[str, Any], name: str) -> None:
    encodings, images = Encodings.open(expected["encodings"][name]), Images.open(expected["images"])
    method = load_checkpoint(expected["checkpoints"][name]).method
    values = []
    for modality in ("sketch", "photo"):
        found = encodings.read(modality, images)
        assert found.members.id.tolist() == expected["ids"][modality]
        parts = [encodings.values(part, modality) for part in encodings.parts(modality)]
        values.append({key: torch.cat([part[key] for part in parts]) for key in parts[0]})
        assert torch.equal(found.values["embedding"], values[-1]["embedding"])
    check_scores(method, *values, expected["scores"][name])


@pytest.mark.parametrize("name", ["maps/zse_sbir", "tokens/zse_sbir"])
def test_scores_open(expected: dict[str, Any], name: str) -> None:
    encodings = Encodings.open(expected["encodings"][name])
    scores = Scores.open(f"{WORKSPACE}/scores/{encodings.name}-rn")
    found = torch.cat(list(scores.rows()))
    torch.testing.assert_close(found, torch.tensor(expected["scores"][name]["rn"]), rtol=1e-5, atol=1e-6)


def test_reports_open_and_are_compared(expected: dict[str, Any]) -> None:
    for name, folder in expected["reports"].items():
        report = Report.open(folder)
        rows, queries = report.rows(), Queries(report)
        whole = [row for row in rows if row["metric"] == "mAP_all" and row["protocol"] == "plain"]
        assert whole and queries.id.tolist() == sorted(expected["ids"]["sketch"]), name
        for row in whole:
            key = "/".join(row[part] for part in ("setting", "protocol", "mode", "metric"))
            assert queries.values(key).nanmean().item() == pytest.approx(row["value"]), (name, key)
    first, second = (Side(name, Report.open(expected["reports"][name])) for name in ("maps/global", "maps/zse_sbir"))
    found = [[c.setting, c.protocol, c.metric, *c.modes, *c.means, c.difference.value] for c in compare(first, second)]
    kept = {tuple(row[:5]): pytest.approx(row[5:], nan_ok=True) for row in expected["compared"]}
    assert kept.items() <= {tuple(row[:5]): row[5:] for row in found}.items()


def test_a_gallery_opens(expected: dict[str, Any]) -> None:
    gallery = open_gallery(expected["gallery"])
    assert gallery.ids == ["church.png", "fish.png", "teapot.png"]
    assert gallery.encodings.checkpoint_hash == expected["digests"]["maps/crossatnet"]
    (tile,) = gallery.tiles(["embedding"])
    assert tile["embedding"].shape == (3, 16)


def files() -> dict[Path, int]:
    """The files that take long to make, and when each was written."""
    kinds = ("images", "pairs", "checkpoints", "encodings", "scores")
    return {path: path.stat().st_mtime_ns for kind in kinds for path in (ROOT / "workspace" / kind).glob("*/*")}


@pytest.mark.parametrize("experiment", ["maps", "tokens"])
def test_a_run_finds_every_stage_done(expected: dict[str, Any], experiment: str) -> None:
    """Nothing is read, trained or encoded again; newer code may add evaluations."""
    before = files()
    rows = {name: Report.open(url).rows() for name, url in expected["reports"].items()}
    out = run(load_experiment(str(ROOT / f"{experiment}.yaml")), WORKSPACE)
    assert out.pairs is not None
    assert (out.images.url, out.pairs.url) == (expected["images"], expected["pairs"])
    for kind, found in (("checkpoints", out.checkpoints), ("encodings", out.encodings)):
        kept = {name.partition("/")[2]: url for name, url in expected[kind].items() if name.startswith(experiment)}
        assert kept.items() <= {name: made.url for name, made in found.items()}.items()
    assert before.items() <= files().items()
    kept_rows = [row for name, of in rows.items() if name.startswith(experiment) for row in of]
    values = {result(row): row["value"] for row in out.rows()}
    assert {result(row): row["value"] for row in kept_rows}.items() <= values.items()


def result(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(row[key] for key in ("method", "setting", "protocol", "mode", "metric"))


def test_status_lists_the_trainings(expected: dict[str, Any]) -> None:
    done = CliRunner().invoke(app, ["status", "--workspace", WORKSPACE, "--json"])
    assert done.exit_code == 0, done.output
    found = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
    assert {one["folder"] for one in found} == set(expected["checkpoints"].values())
    assert {state for one in found for state in one["stages"].values()} == {"done"}
    assert {(one["step"], one["total"]) for one in found} == {(6, 6), (4, 4)}


def test_mlflow_opens(expected: dict[str, Any], tmp_path: Path) -> None:
    store = Store.at(WORKSPACE)
    trainings = list(store.runs("tags.`zse.kind` = 'training'"))
    assert {run.data.tags["zse.checkpoint"] for run in trainings} == set(expected["checkpoints"].values())
    assert {run.info.status for run in trainings} == {"FINISHED"}
    assert all(run.data.metrics["train/loss"] > 0 and run.data.params["train.lr"] for run in trainings)
    found = {one.report: one for one in evaluated(store).values()}
    assert set(expected["reports"].values()) <= set(found)
    assert {one.checkpoint_hash for one in found.values()} >= set(expected["digests"].values())
    rows = Report.open(expected["reports"]["maps/global"]).rows()
    standing = {
        (s.checkpoint_hash, s.setting): s.metrics for s in standings(store) if s.method == "global" and s.queries
    }
    for row in rows:
        kept = standing[expected["digests"]["maps/global"], row["setting"]]
        assert kept[f"{row['protocol']}/{row['mode']}/{row['metric']}"] == row["value"]

    checkpoint = expected["checkpoints"]["maps/global"]
    assert checkpoint_of(CHAMPION, WORKSPACE) == checkpoint
    assert expected["reports"]["maps/global"] in [report.url for report in reports_of(CHAMPION, WORKSPACE)]
    shutil.move(checkpoint, tmp_path / "moved")  # as on a machine that does not see it: the model has its own copy
    try:
        copy = checkpoint_of(CHAMPION, WORKSPACE)
        assert copy != checkpoint and load_checkpoint(copy).digest == expected["digests"]["maps/global"]
    finally:
        shutil.move(tmp_path / "moved", checkpoint)


@pytest.mark.cluster
def test_a_registered_model_ranks_with_its_own_code(expected: dict[str, Any]) -> None:
    fish, encodings = str(ROOT / "gallery" / "fish.png"), expected["encodings"]["maps/global"]
    code = (
        "import sys; sys.path_hooks[:] = [h for h in sys.path_hooks if 'editable' not in repr(h).lower()];"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()];"
        "import mlflow, pathlib;"
        f"model = mlflow.pyfunc.load_model({CHAMPION!r}, model_config={{'index': {encodings!r}}});"
        f"found = model.predict([pathlib.Path({fish!r}).read_bytes()], params={{'top': 3}});"
        "print(len(found));"
        "import pipelines; print(pipelines.__file__)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{WORKSPACE}/mlflow.db"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    found, used = done.stdout.split()[-2:]
    assert found == "3" and Path(used).is_relative_to(ROOT / "workspace" / "mlartifacts")
