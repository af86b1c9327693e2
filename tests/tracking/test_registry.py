"""A checkpoint as a model of the registry: it ranks by itself, and means the checkpoint wherever one is asked for."""

from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from PIL import Image

from pipelines.encode.gallery import gallery_index, open_gallery
from pipelines.encode.index import index
from pipelines.judge.indexes import index_by_champion
from pipelines.run import Outputs, evaluate_checkpoint, run
from pipelines.search.search import find
from pipelines.search.searcher import Searcher
from pipelines.store import storage
from pipelines.tracking import Store, TrackingError, checkpoint_of, registry
from pipelines.tracking.models import requirements
from tests.conftest import tiny
from tests.helpers.command import invoked
from tests.helpers.kept import SAMPLES
from tests.helpers.pictures import picture
from zse_model import proof
from zse_model.checkpoint import load_checkpoint
from zse_model.errors import ZseError
from zse_model.synthetic import draw_photo, draw_sketch
from zse_model.transforms import prepare_sketch

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
CHAMPION = "models:/zse@champion"
CONFIG = tiny(tracking={"enabled": True}, evaluation={"protocols": ["plain"]})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Outputs]]:
    """A workspace with a trained, tracked and registered model; MLflow is told of it by the environment."""
    workspace = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{workspace}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)
        out = run(CONFIG, str(workspace))
        client = MlflowClient(uri)
        (model,) = client.search_logged_models([e.experiment_id for e in client.search_experiments()])
        version = mlflow.register_model(f"models:/{model.model_id}", "zse").version
        client.set_registered_model_alias("zse", "champion", version)
        yield workspace, out
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(5):
        (folder / f"{i}.png").write_bytes(picture(draw_photo("fish" if i < 3 else "car", i, size=48)))
    return folder


def stored(client_uri: str) -> Path:
    """The files of the registered model."""
    return Path(mlflow.artifacts.download_artifacts(CHAMPION, tracking_uri=client_uri))


def test_a_registered_model_ranks_a_catalogue_as_search_does(home: tuple[Path, Outputs], photos: Path) -> None:
    workspace, out = home
    sketch = picture(draw_sketch("fish", 1, size=64))
    made = gallery_index(str(photos), checkpoint_of(CHAMPION, str(workspace)), str(workspace))
    model = mlflow.pyfunc.load_model(CHAMPION, model_config={"index": made})
    found = model.predict([sketch], params={"top": 3})
    url = out.checkpoints["global"].url
    checkpoint = load_checkpoint(url)
    drawn = prepare_sketch(sketch, checkpoint.transforms)
    expected = find(drawn, str(photos), checkpoint, url, str(workspace), top=3, mode=None)
    assert found["id"].tolist() == [match.path for match in expected]
    assert found["score"].tolist() == pytest.approx([match.score for match in expected], abs=1e-6)
    assert found["rank"].tolist() == [1, 2, 3] and set(found["query"]) == {0}

    pixels = np.asarray(Image.open(io.BytesIO(sketch)))
    for same in (sketch, pixels, [pixels], pd.DataFrame({"sketch": [sketch]}), base64.b64encode(sketch).decode()):
        pd.testing.assert_frame_equal(model.predict(same, params={"top": 3}), found)
    two = model.predict([picture(draw_sketch("car", 2, size=64)), sketch], params={"top": 99})
    assert two["query"].tolist() == [0] * 5 + [1] * 5, "as many as there are"
    assert two["id"][5:8].tolist() == found["id"].tolist()


def test_what_cannot_be_ranked_says_why(home: tuple[Path, Outputs], photos: Path) -> None:
    workspace, _ = home
    made = gallery_index(str(photos), checkpoint_of(CHAMPION, str(workspace)), str(workspace))
    model = mlflow.pyfunc.load_model(CHAMPION, model_config={"index": made})
    for bad, why in (
        ([], "got an empty list"),
        (7, "got int"),
        (["no base64!"], "must be base64"),
        ([photos / "0.png"], "Sketch 0 is a path, and a model reads no files"),
        ([np.zeros((8, 8), np.float32)], r"got float32 \[8, 8\]"),
        (pd.DataFrame({"x": [b""]}), "column `sketch`"),
        ([picture(draw_sketch("car", 1)), b""], "Sketch 1: empty: zero bytes. Give another picture"),
    ):
        with pytest.raises(ValueError, match=why):
            model.predict(bad)
    with pytest.raises(ValueError, match="Unknown retrieval mode 'rn'"):
        model.predict([picture(draw_sketch("fish", 1))], params={"mode": "rn"})
    with pytest.raises(ValueError, match="There is no index to search in"):
        mlflow.pyfunc.load_model(CHAMPION).predict([picture(draw_sketch("fish", 1))])
    other = gallery_index(
        str(photos), str(SAMPLES / "workspace/checkpoints/kept-maps-global-0a3f393a"), str(workspace / "w2")
    )
    with pytest.raises(ValueError, match="was not encoded by this model"):
        mlflow.pyfunc.load_model(CHAMPION, model_config={"index": other}).predict([b""])


def test_the_encodings_of_a_test_are_an_index_too(home: tuple[Path, Outputs]) -> None:
    _, out = home
    gallery = open_gallery(out.encodings["global"].url, memory=10**6)
    first, again = ([tile["embedding"] for tile in gallery.tiles(["embedding"])] for _ in range(2))
    assert all(a is b for a, b in zip(first, again, strict=True)), "what fits stays in memory"
    assert len(gallery.ids) == out.rows()[0]["gallery"] and all(id.startswith("photo/") for id in gallery.ids)
    model = mlflow.pyfunc.load_model(CHAMPION, model_config={"index": out.encodings["global"].url})
    found = model.predict([picture(draw_sketch("teapot", 5))], params={"top": 4})
    assert set(found["id"]) <= set(gallery.ids) and found["score"].is_monotonic_decreasing


def test_a_model_is_text_and_safetensors(home: tuple[Path, Outputs], tmp_path: Path, photos: Path) -> None:
    """Nothing in it is pickled, and it ranks where the project is not installed."""
    workspace, _ = home
    folder = stored(f"sqlite:///{workspace}/mlflow.db")
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    files = {name for name in files if not name.endswith(".pyc")}  # of a test that loaded the model
    kinds = {Path(name).suffix for name in files}
    text = {"", ".py", ".yaml", ".json", ".txt", ".html", ".css"}
    assert kinds <= text | {".safetensors", ".gz"} and "MLmodel" in files, kinds
    assert not [p for p in folder.rglob("*") if p.is_file() and p.read_bytes()[:2] in (b"\x80\x04", b"\x80\x05", b"PK")]
    assert (folder / "requirements.txt").read_text().split() == requirements()
    assert all("==" in line for line in requirements()) and any(line.startswith("torch==") for line in requirements())

    made = gallery_index(str(photos), checkpoint_of(CHAMPION, str(workspace)), str(workspace))
    sketch = tmp_path / "fish.png"
    sketch.write_bytes(picture(draw_sketch("fish", 1, size=64)))
    code = (
        "import sys; sys.path_hooks[:] = [h for h in sys.path_hooks if 'editable' not in repr(h).lower()];"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()];"
        "import mlflow, pathlib;"
        f"model = mlflow.pyfunc.load_model({str(folder)!r}, model_config={{'index': {made!r}}});"
        f"print(model.predict([pathlib.Path({str(sketch)!r}).read_bytes()])['id'][0]);"
        "import pipelines; print(pipelines.__file__)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    best, used = done.stdout.split()
    assert best.endswith(".png") and Path(used).is_relative_to(folder)


def test_a_registered_name_is_its_checkpoint(
    home: tuple[Path, Outputs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, out = home
    checkpoint = out.checkpoints["global"].url
    (version,) = MlflowClient().search_model_versions("name='zse'")
    assert checkpoint_of(CHAMPION, str(workspace)) == checkpoint
    assert checkpoint_of(f"models:/zse/{version.version}", str(workspace)) == checkpoint
    assert checkpoint_of(version.source, str(workspace)) == checkpoint
    assert checkpoint_of("some/folder", str(workspace)) == "some/folder"
    with pytest.raises(TrackingError, match="models:/zse@nobody is not in the registry.*the aliases @champion"):
        checkpoint_of("models:/zse@nobody", str(workspace))
    with pytest.raises(TrackingError, match="Allowed: models:/NAME@ALIAS"):
        checkpoint_of("models:/zse", str(workspace))

    kept = tmp_path / "kept"
    shutil.move(checkpoint, kept)  # as on a machine that does not see it
    try:
        copy = checkpoint_of(CHAMPION, str(tmp_path))
        assert Path(copy).is_relative_to(tmp_path) and checkpoint_of(CHAMPION, str(tmp_path)) == copy
        assert load_checkpoint(copy).digest == load_checkpoint(kept).digest
        again = evaluate_checkpoint(CONFIG, str(tmp_path), copy)
        assert [row["value"] for row in again.rows()] == [row["value"] for row in out.rows()]
        runs = storage.read_json(storage.join(again.reports["global"].url, "tracked.json"))["runs"]
        tags = MlflowClient().get_run(next(iter(runs.values()))).data.tags
        assert tags["zse.model"] == version.source.removeprefix("models:/")
        monkeypatch.setattr(proof, "ROUNDING", -1)
        with pytest.raises(ZseError, match="^models:/zse@champion: the network computes something else here"):
            checkpoint_of(CHAMPION, str(tmp_path / "other"))
    finally:
        shutil.move(kept, checkpoint)


def test_a_new_champion_encodes_the_photos_and_takes_over_between_two_queries(
    home: tuple[Path, Outputs], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace, _ = home
    url, uri, client = str(tmp_path / "index"), f"sqlite:///{workspace}/mlflow.db", MlflowClient()
    index(str(photos), url, checkpoint_of(CHAMPION, str(workspace)), called=CHAMPION)
    searcher = Searcher.open(url, CHAMPION, workspace=str(workspace))
    before, sketch = searcher.checkpoint.digest, picture(draw_sketch("fish", 1, size=64))
    scores = [one.score for one in searcher.search(sketch)]
    assert index_by_champion("zse@champion", [url], str(workspace), uri) == [], "nothing is new"
    out = run(
        tiny(tracking={"enabled": True}, train={"steps": 3, "checks": 1, "seed": 5}), str(workspace), until="train"
    )
    better = out.checkpoints["global"].url
    store = Store.at(str(workspace), uri)
    registry.set_champion(store, registry.register(store, better, "zse"))
    try:
        assert not searcher.follow() and [one.score for one in searcher.search(sketch)] == scores
        assert "until then" in capsys.readouterr().err.lower()
        assert index_by_champion("zse@champion", [url, str(tmp_path)], str(workspace), uri) == [url]
        assert "is not an index yet" in capsys.readouterr().err
        assert searcher.follow() and searcher.checkpoint.digest == load_checkpoint(better).digest != before
        assert [one.score for one in searcher.search(sketch)] != scores
    finally:
        client.set_registered_model_alias("zse", "champion", "1")


def test_a_registered_model_takes_up_a_new_version_of_its_index(
    home: tuple[Path, Outputs], photos: Path, tmp_path: Path
) -> None:
    workspace, _ = home
    shutil.copytree(photos, tmp_path / "photos")
    url, sketch = str(tmp_path / "index"), picture(draw_sketch("fish", 1, size=64))
    checkpoint = checkpoint_of(CHAMPION, str(workspace))
    index(str(tmp_path / "photos"), url, checkpoint, called=CHAMPION)
    model = mlflow.pyfunc.load_model(CHAMPION, model_config={"index": url})
    assert len(model.predict([sketch], params={"top": 99})) == 5
    (tmp_path / "photos" / "new.png").write_bytes(picture(draw_photo("church", 1, size=48)))
    index(None, url, checkpoint, called=CHAMPION)
    found = model.predict([sketch], params={"top": 99})
    assert "new.png" in found["id"].tolist() and found["score"].dtype == np.float32


def test_every_verb_takes_a_registered_name(home: tuple[Path, Outputs], photos: Path, tmp_path: Path) -> None:
    workspace, _ = home
    (tmp_path / "fish.png").write_bytes(picture(draw_sketch("fish", 1, size=64)))
    made = invoked("embed", "--gallery", str(photos), "--checkpoint", CHAMPION, "--workspace", str(workspace))
    assert made.exit_code == 0 and str(workspace / "indexes") in made.output
    inputs = ("--sketch", str(tmp_path / "fish.png"), "--gallery", str(photos), "--checkpoint", CHAMPION)
    found = invoked(
        "search", *inputs, "--workspace", str(workspace), "--out", str(tmp_path / "found.png"), "--top", "2"
    )
    assert found.exit_code == 0 and ".png" in found.output and (tmp_path / "found.png").exists()
    with pytest.raises(ValueError, match="--gallery and --checkpoint go together"):
        invoked("embed", "--gallery", str(photos), "--workspace", str(workspace))
