"""What goes with a file of weights stands in its sidecar or is known by its hash; an experiment names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import weights
from pipelines.config.load import load_experiment
from pipelines.config.weights import HALF, Needs, licence_of, with_weights
from pipelines.runtime.errors import ConfigError, StorageError
from pipelines.store import storage
from tests.conftest import SHARED
from zse_model.backbones import BackboneConfig
from zse_model.errors import ZseError


def given(file: Path, **settings: Any) -> BackboneConfig:
    return with_weights(BackboneConfig(name="test_resnet", weights=str(file), **settings))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"content")
    return path


def sidecar(file: Path, value: Any) -> None:
    Path(f"{file}.json").write_text(value if isinstance(value, str) else json.dumps(value))


def test_a_sidecar_says_what_the_experiment_does_not(file: Path) -> None:
    assert given(file) == BackboneConfig(name="test_resnet", weights=str(file))
    sidecar(file, {"args": {"pad_type": "same"}, "mean": HALF, "std": [0.25, 0.25, 0.25]})
    found = given(file)
    assert (found.args, found.mean, found.std) == ({"pad_type": "same"}, HALF, (0.25, 0.25, 0.25))
    ones = (1.0, 1.0, 1.0)
    found = given(file, std=ones, args={"x": 1})
    assert (found.args, found.mean, found.std) == ({"pad_type": "same", "x": 1}, HALF, ones), "what is given stays"
    assert given(file, args={"pad_type": ""}).args == {"pad_type": ""}


def test_a_file_of_which_nothing_is_said_is_named_once(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given(file)
    given(file)
    assert " ".join(capsys.readouterr().err.split()).count(f"has no sidecar {file}.json: args, mean and std are") == 1
    sidecar(file, {})
    given(file)
    assert capsys.readouterr().err == ""


def test_a_sidecar_that_the_store_does_not_give_is_not_taken_for_none(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(url: str) -> bytes:
        raise StorageError(f"{url} may not be read")

    monkeypatch.setattr(storage, "read_bytes", refused)
    with pytest.raises(StorageError, match="weights.safetensors.json may not be read"):
        given(file)


def test_a_licence_is_that_of_the_source_of_the_weights(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert licence_of(BackboneConfig()) is None
    assert licence_of(BackboneConfig(name="tf_efficientnet_lite2", weights="installed")) == "apache-2.0"
    assert licence_of(BackboneConfig(name="vit_small_patch16_dinov3", weights="hub")) == "dinov3-license"
    assert licence_of(given(file)) == weights.UNKNOWN
    monkeypatch.setattr(weights, "KNOWN", {(7, storage.sha256(b"content")): Needs(licence="mit", mean=HALF)})
    assert licence_of(given(file)) == "mit"
    sidecar(file, {"licence": "cc-by-4.0"})
    assert licence_of(given(file)) == "cc-by-4.0" and given(file).mean == HALF, "the rest stays known"


def test_a_file_is_known_by_its_content(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "KNOWN", {(7, storage.sha256(b"content")): Needs(mean=HALF)})
    assert given(file).mean == HALF
    file.write_bytes(b"CONTENT")
    assert given(file).mean is None
    read = storage.read_bytes
    monkeypatch.setattr(storage, "read_bytes", lambda url: read(url) if url != str(file) else pytest.fail("it is read"))
    file.write_bytes(b"content of another size")
    assert given(file).mean is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{", "json is not JSON. It may hold args, mean, std and licence"),
        ([1], "json must be an object with args, mean, std and licence"),
        ({"mean": [1, 2]}, "json: mean"),
        ({"means": HALF}, "json: means"),
        ({"std": [1, 0, 1]}, "json: .*std must be finite numbers above 0"),
    ],
)
def test_a_sidecar_that_cannot_be_used_is_named(file: Path, value: Any, said: str) -> None:
    sidecar(file, value)
    with pytest.raises(ConfigError, match=said):
        given(file)


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    for wrong in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(ConfigError, match="is not a file that exists. Allowed: null, hub, installed, or a file"):
            given(wrong)
    with pytest.raises(ZseError, match="no package has the weights of 'mobilenetv2_100'"):
        load_experiment("folder+global", ["backbone.name=mobilenetv2_100", "backbone.weights=installed"])


def test_the_converted_mobilenet_needs_nothing_typed() -> None:
    if not (path := SHARED / "weights" / "mobilenetv2_100_imagenet.safetensors").exists():
        pytest.skip("no ../shared/weights: its file is not part of the repository; a file of the tests is known above")
    found = load_experiment("folder+global", ["backbone.name=mobilenetv2_100", f"backbone.weights={path}"]).backbone
    assert (found.args, found.mean, found.std) == ({"pad_type": "same"}, HALF, HALF)
