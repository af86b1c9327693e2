"""A checkpoint folder that is cut, damaged or another network's is refused in one line; its digest is of what it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.zse_model.test_fit import Source, config, method
from zse_model.backbones import BackboneConfig
from zse_model.checkpoint import INFO, SEEN, WEIGHTS, Checkpoint, load_checkpoint, save_checkpoint, seen_keys
from zse_model.errors import ZseError
from zse_model.fit import LocalContext, fit
from zse_model.methods import GlobalConfig, create_method
from zse_model.split import ZeroShotSplit
from zse_model.transforms import TransformConfig


def made() -> Checkpoint:
    torch.manual_seed(0)
    network = create_method("global", GlobalConfig(dim=8), BackboneConfig(name="test_resnet"), size=32, classes=3)
    return Checkpoint(
        name="global",
        method=network.eval(),
        transforms=TransformConfig(size=32),
        split=ZeroShotSplit(name="s", seen=("a", "b", "c"), unseen=("d",), citation=""),
        seen_pictures=seen_keys(["ab" * 32]),
        training={"run": "r"},
    )


def test_a_digest_is_of_the_weights_as_they_are(tmp_path: Path) -> None:
    checkpoint = made()
    before = checkpoint.digest
    save_checkpoint(checkpoint, tmp_path)
    assert load_checkpoint(tmp_path).digest == before == checkpoint.digest
    with torch.no_grad():
        next(checkpoint.method.parameters()).add_(1)
    assert checkpoint.digest != before
    save_checkpoint(checkpoint, tmp_path)
    assert load_checkpoint(tmp_path).digest == checkpoint.digest


def of_info(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        info = json.loads((folder / INFO).read_text())
        (folder / INFO).write_text(json.dumps(change(info) or info))

    return damage


def of_weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS)

    return damage


def cut(name: str, size: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def text(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


HEAD = "head.weight"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights cut": (cut(WEIGHTS, 5000), r"model\.safetensors is cut or damaged"),
    "weights empty": (cut(WEIGHTS, 0), r"model\.safetensors is cut or damaged"),
    "weights are a pointer": (
        text(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n"),
        r"model\.safetensors is cut or damaged",
    ),
    "weights are a page": (text(WEIGHTS, b"<!DOCTYPE html><html>Not found</html>"), r"model\.safetensors is cut or"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), r"model\.safetensors is missing"),
    "shape": (
        of_weights(lambda w: w.update({HEAD: w[HEAD][:4].clone()})),
        r"model\.safetensors does not fit .*: head\.weight is float32 \[4, \d+\], the network's is float32 \[8, \d+\]",
    ),
    "dtype": (
        of_weights(lambda w: w.update({HEAD: w[HEAD].half()})),
        r"head\.weight is float16 \[8, \d+\], the network's is float32 \[8, \d+\]",
    ),
    "a tensor too few": (of_weights(lambda w: w.pop(HEAD)), r"it lacks \['head\.weight'\]"),
    "a tensor too many": (of_weights(lambda w: w.update(extra=torch.ones(1))), r"it has besides \['extra'\]"),
    "NaN": (of_weights(lambda w: w[HEAD][0].fill_(torch.nan)), r"holds a NaN or an infinity in head\.weight"),
    "infinity": (of_weights(lambda w: w[HEAD][0].fill_(torch.inf)), r"holds a NaN or an infinity in head\.weight"),
    "classes": (
        of_info(lambda i: i.update(classes=5)),
        r"prototypes is float32 \[3, 8\], the network's is float32 \[5, 8\]",
    ),
    "seen cut": (cut(SEEN, 20), r"seen\.safetensors is cut or damaged"),
    "seen of another kind": (
        lambda folder: save_file({"pictures": torch.ones(3)}, folder / SEEN),
        r"seen\.safetensors is damaged: it has no `pictures`",
    ),
    "seen of another name": (
        lambda folder: save_file({"x": torch.ones(3)}, folder / SEEN),
        r"seen\.safetensors is damaged",
    ),
    "no seen": (lambda folder: (folder / SEEN).unlink(), r"seen\.safetensors is missing"),
    "information cut": (cut(INFO, 100), r"checkpoint\.json is damaged: it is not JSON"),
    "information empty": (cut(INFO, 0), r"checkpoint\.json is damaged: it is not JSON"),
    "information in bytes": (text(INFO, b"\xff\xfe\x00"), r"checkpoint\.json is damaged: it is not JSON"),
    "information is a list": (of_info(lambda i: [i]), r"checkpoint\.json is damaged: it is no JSON object"),
    "information lacks": (
        of_info(lambda i: (i.pop("split"), i.pop("classes")) and None),
        r"checkpoint\.json is damaged: classes, split is missing or of another type",
    ),
    "information of another type": (of_info(lambda i: i.update(config=[])), r"is damaged: config is missing or of"),
    "another version": (of_info(lambda i: i.update(format_version=9)), r"has format version 9, this code reads 1"),
    "another method": (of_info(lambda i: i.update(method="best")), r"holds the unknown method 'best'. Known methods"),
    "an unknown field": (of_info(lambda i: i["config"].update(x=1)), r"checkpoint\.json: GlobalConfig has no fields"),
    "a split that is none": (of_info(lambda i: i["split"].pop("seen") and None), r"checkpoint\.json: Not a split"),
    "no information": (lambda folder: (folder / INFO).unlink(), r"is not a checkpoint: it has no checkpoint\.json"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(made(), folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_refused_in_one_line(name: str, saved: dict[str, bytes], tmp_path: Path) -> None:
    for file, content in saved.items():
        (tmp_path / file).write_bytes(content)
    damage, message = DAMAGES[name]
    damage(tmp_path)
    with pytest.raises(ZseError, match=message) as error:
        load_checkpoint(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)
    assert "DOCTYPE" not in str(error.value) and "git-lfs" not in str(error.value)


def test_a_state_of_another_network_is_refused(tmp_path: Path) -> None:
    fit(method(), Source(), LocalContext(tmp_path), config(steps=1, checks=1), prepare_steps=0)
    other = create_method("global", GlobalConfig(dim=8), BackboneConfig(name="test_resnet"), size=32, classes=3)
    with pytest.raises(ZseError, match=r"model\.safetensors does not fit the network that is described: it lacks"):
        fit(other, Source(), LocalContext(tmp_path), config(), prepare_steps=0)


def test_a_checkpoint_that_is_written_over_is_none_until_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(made(), tmp_path)

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("zse_model.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(made(), tmp_path)
    with pytest.raises(ZseError, match="is not a checkpoint"):
        load_checkpoint(tmp_path)
