"""Weights of the public ZSE-SBIR code become a checkpoint like any other, or an error that says why not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from pipelines.cli.app import app
from pipelines.operate.import_checkpoint import import_checkpoint
from pipelines.run import evaluate_checkpoint
from pipelines.search.search import search
from pipelines.store import storage
from pipelines.workspace.kept import complete
from pipelines.workspace.training import Training
from tests.conftest import tiny
from tests.golden import recipe_state, reference
from tests.helpers.pictures import picture
from zse_model import published
from zse_model.checkpoint import load_checkpoint
from zse_model.evaluation.leaks import LeakError
from zse_model.synthetic import draw_photo, draw_sketch
from zse_model.transforms import TransformConfig


def test_a_published_checkpoint_scores_as_published(tmp_path: Path) -> None:
    """Only here does a whole published file, 100 M weights, go through the command to golden scores."""
    golden, file, out = reference(), tmp_path / "best_checkpoint.pth", tmp_path / "out"
    torch.save({"model": recipe_state(), "epoch": 3, "map_all": np.float64(0.7), "precision_100": 0.8}, file)
    done = CliRunner().invoke(app, ["import-checkpoint", str(file), "--split", "sketchy-25", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "16 dropped, 0 initialised" in done.stderr and f"Result: {out}\nNext: zse evaluate" in done.stderr
    loaded = load_checkpoint(out)
    with torch.inference_mode():
        sketches = loaded.method.encode(torch.from_numpy(golden["sketches_u8"][:2]), "sketch")
        photos = loaded.method.encode(torch.from_numpy(golden["photos_u8"][:2]), "photo")
        scores = loaded.method.score(sketches, photos, "rn")
    np.testing.assert_allclose(scores.numpy(), golden["logits"][:2, :2], atol=5e-5)
    assert loaded.transforms == TransformConfig(size=224, recipe="published") and len(loaded.seen_pictures) == 0
    split = loaded.split
    assert (split.name, len(split.training), len(split.unseen), split.held_back) == ("sketchy-25", 100, 25, 0)
    written = Training.open(str(out))
    assert (written.method, written.digest) == ("zse_sbir", loaded.digest)
    assert written.training == loaded.training and written.run_name == loaded.training["run"]
    assert loaded.training["stored_map_all"] == 0.7 and loaded.training["imported_from"] == "best_checkpoint.pth"


# A backbone alone, on a small network that has timm's names ----------------------------------------------------------


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    small = dataclasses.replace(published.RELEASED_BACKBONE, name="test_vit")
    monkeypatch.setattr(published, "RELEASED_BACKBONE", small)
    return timm.create_model("test_vit", img_size=224, num_classes=10).state_dict()


@pytest.fixture
def file(weights: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    save_file(weights, tmp_path / "sam.safetensors")
    return tmp_path / "sam.safetensors"


def test_a_backbone_alone_keeps_its_features(file: Path, weights: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    loaded = load_checkpoint(import_checkpoint(str(file), "sketchy-25", str(tmp_path / "out")))
    said = capsys.readouterr().err
    assert "2 dropped" in said and "mode rn means nothing" in said
    assert loaded.training["dropped"] == ["head.bias", "head.weight"] and len(loaded.training["initialised"]) > 20
    model = timm.create_model("test_vit", img_size=224, num_classes=10).eval()
    model.load_state_dict(weights)
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)):
        norm.eps = 1e-5  # the published
    photo = torch.from_numpy(draw_photo("car", 0, size=224)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        features = model.forward_features(photo / 127.5 - 1)[:, 0]
        ours = loaded.method.encode(photo, "photo")["embedding"]
    torch.testing.assert_close(ours, torch.nn.functional.normalize(features), atol=1e-5, rtol=0)
    with torch.inference_mode():
        assert ours.equal(loaded.method.encode(photo, "sketch")["embedding"]), "no untrained tokenizer in between"


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_an_import_is_there_goes_on_or_is_refused(
    where: str, file: Path, tmp_path: Path, request: pytest.FixtureRequest, capsys: Any
) -> None:
    out = str(tmp_path / "out") if where == "folder" else request.getfixturevalue("s3") + "/imported"
    assert import_checkpoint(str(file), "sketchy-25", out) == out
    assert Training.open(out).manifest["proof"]["encodings"].keys() >= {"sketch/embedding", "photo/embedding"}
    weights = storage.read_bytes(f"{out}/model.safetensors")
    storage.write_json(f"{out}/tracked.json", {})  # what others add to a complete checkpoint
    import_checkpoint(str(file), "sketchy-25", out)
    assert "already has this checkpoint" in capsys.readouterr().err
    with pytest.raises(ValueError, match=f"{out} has other content.*--out another folder"):
        import_checkpoint(str(file), "sketchy-21", out)
    fs, path = storage.filesystem(out)
    for name in ("manifest.json", "model.safetensors", "tracked.json"):  # cut off half way
        fs.rm(f"{path}/{name}")
    import_checkpoint(str(file), "sketchy-25", out)
    assert storage.read_bytes(f"{out}/model.safetensors") == weights and complete(str(out))
    with storage.local_copy(out) as copy:
        assert load_checkpoint(copy).split.name == "sketchy-25"


def test_what_is_no_such_file_is_refused_by_name(file: Path, weights: dict[str, Any], tmp_path: Path) -> None:
    out, bad = tmp_path / "out", tmp_path / "bad.pth"

    def refused(content: Any, message: str, split: str = "sketchy-25") -> None:
        bad.write_bytes(content) if isinstance(content, bytes) else torch.save(content, bad)
        with pytest.raises(ValueError, match=message):
            import_checkpoint(str(bad), split, str(out))

    refused(b"<html>404</html>", "bad.pth is not a whole file .*What can be read")
    torch.save(weights, bad)
    refused(bad.read_bytes()[:-5000], "bad.pth is not a whole file .*zip archive")
    refused({"epoch": 3, "map_all": 0.5}, r"bad.pth: No weights.*'epoch', 'map_all'.*What can be read")
    refused({"state_dict": weights}, r"bad.pth: No weights.*'state_dict'")
    refused(weights | {"epoch": 3}, r"bad.pth: .*tensors with a name: \['epoch'\]")
    refused(
        {k: v for k, v in weights.items() if k != "norm.bias"}, r"bad.pth: .*missing \['backbone.model.norm.bias'\]"
    )
    refused({k: v for k, v in weights.items() if "blocks.5" not in k}, r"missing \['backbone.model.blocks.5.* more")
    refused(weights | {"norm.bias": weights["norm.bias"] * torch.nan}, r"bad.pth: .* NaN or infinity in .*norm.bias")
    refused(weights, "'sketchy' is unknown. Give a built-in split .* or a file", split="sketchy")
    (tmp_path / "unseen.txt").write_text("bat\ncabin\n")
    refused(weights, "does not list the trained classes", split=str(tmp_path / "unseen.txt"))
    (tmp_path / "bad.safetensors").write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match="bad.safetensors is not a whole file"):
        import_checkpoint(str(tmp_path / "bad.safetensors"), "sketchy-25", str(out))
    assert not out.exists()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_an_imported_checkpoint_is_evaluated_and_searched(file: Path, tmp_path: Path) -> None:
    lists = {"name": "mine", "citation": "none", "seen": ["airplane", "car"], "unseen": ["fish", "teapot"]}
    (tmp_path / "split.json").write_text(json.dumps(lists))
    checkpoint = import_checkpoint(str(file), str(tmp_path / "split.json"), str(tmp_path / "out"))
    changes = {
        "transforms": {"size": 224, "recipe": "published"},
        "dataset": {"categories": ["fish", "teapot", "church", "car"], "instances": 2, "pseudo_unseen": 0},
    }
    rows = evaluate_checkpoint(tiny(**changes), str(tmp_path / "w"), checkpoint).rows()
    assert {row["mode"] for row in rows} == {"ret", "rn"} and {row["method"] for row in rows} == {"zse_sbir"}
    changes["dataset"]["split"] = ["fish", "car"]
    with pytest.raises(LeakError, match=r"published-zse_sbir-.*car \(seen\) = car \(unseen\)"):
        evaluate_checkpoint(tiny(**changes), str(tmp_path / "w"), checkpoint)

    (tmp_path / "photos").mkdir()
    for i in range(3):
        (tmp_path / "photos" / f"{i}.png").write_bytes(picture(draw_photo("fish", i, size=64)))
    sketch = tmp_path / "sketch.png"
    sketch.write_bytes(picture(draw_sketch("fish", 0, size=64)))
    options: dict[str, Any] = {"top": 2, "mode": None, "picture": tmp_path / "found.png"}
    assert len(search(str(sketch), str(tmp_path / "photos"), checkpoint, str(tmp_path / "w"), **options)) == 2
