"""A checkpoint folder that is cut, damaged or another network's is refused in one line; its digest is of what it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.zse_model.test_fit import Source, config, method
from tests.zse_model.test_methods import CNN
from zse_model.backbones import BackboneConfig
from zse_model.checkpoint import (
    INFO,
    MANIFEST,
    SEEN,
    WEIGHTS,
    Checkpoint,
    fill,
    load_checkpoint,
    save_checkpoint,
    seen_keys,
    start_from,
)
from zse_model.errors import ZseError
from zse_model.fit import LocalContext, fit
from zse_model.methods import CrossATNetConfig, GlobalConfig, RetrievalMethod, ZseSbirConfig, create_method
from zse_model.split import ZeroShotSplit
from zse_model.transforms import TransformConfig
from zse_model.weight_names import original


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


def test_a_checkpoint_makes_the_folders_above_it(tmp_path: Path) -> None:
    save_checkpoint(made(), tmp_path / "a" / "b")
    assert load_checkpoint(tmp_path / "a" / "b").digest == made().digest


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
    "six too many": (
        of_weights(lambda w: w.update({f"extra{i}": torch.ones(1) for i in range(6)})),
        r"it also has \['extra0', .*, 'extra4'\] and 1 more$",
    ),
    "a tensor too many": (of_weights(lambda w: w.update(extra=torch.ones(1))), r"it also has \['extra'\]$"),
    "NaN": (of_weights(lambda w: w[HEAD][0].fill_(torch.nan)), r"holds NaN or infinity in head\.weight"),
    "infinity": (of_weights(lambda w: w[HEAD][0].fill_(torch.inf)), r"holds NaN or infinity in head\.weight"),
    "classes": (
        of_info(lambda i: i.update(classes=5)),
        r"classifier\.prototypes is float32 \[3, 8\], the network's is float32 \[5, 8\]",
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
    with pytest.raises(ZseError, match=r"model\.safetensors does not fit its network: it lacks"):
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


# Earlier versions ----------------------------------------------------------------------------------------------------

EARLIER = {
    "classifier.prototypes": "prototypes",
    "distillation.": "soft_labels.",
    "global_proj.": "whole.",
    "local_proj.": "parts.",
    "query_proj.": "ask.",
    "key_proj.": "guide.",
    "pooled_proj.": "summary.",
}
"""How names begin -> how they began."""
ALL = {"distillation": 1.0, "dropped_units": (0,)}
NETWORKS: dict[str, Any] = {
    "global": GlobalConfig(dim=8, **ALL),
    "crossatnet": CrossATNetConfig(dim=8, attention_dim=8, vector_dim=8, neighbours=1, bits=0, **ALL),
    "zse_sbir": ZseSbirConfig(dim=16, heads=2, ffn=16, depth=1, classification=1, contrast=1, **ALL),
}


def network(name: str, seed: int = 0, **changes: Any) -> RetrievalMethod:
    torch.manual_seed(seed)
    return create_method(name, replace(NETWORKS[name], **changes), CNN, size=32, classes=4).eval()


def checkpoint_of(name: str, **changes: Any) -> Checkpoint:
    return replace(made(), name=name, method=network(name, **changes))


def as_earlier(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights under the names that they had."""

    def earlier(name: str) -> str:
        before = next((now for now in EARLIER if name.startswith(now)), None)
        return name if before is None else EARLIER[before] + name.removeprefix(before)

    return {earlier(name): value for name, value in weights.items()}


def rewritten(folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / WEIGHTS)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_checkpoint_with_earlier_names_is_the_same_checkpoint(name: str, tmp_path: Path) -> None:
    saved = checkpoint_of(name)
    save_checkpoint(saved, tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    rewritten(tmp_path, earlier := as_earlier(weights))
    assert earlier.keys() != weights.keys() and len(earlier) == len(weights)
    (tmp_path / MANIFEST).write_text(json.dumps({"digest": saved.digest}))
    loaded = load_checkpoint(tmp_path)
    assert loaded.digest == saved.digest
    found = loaded.method.state_dict()
    assert found.keys() == weights.keys() and all(torch.equal(found[n], weights[n]) for n in weights)
    save_checkpoint(loaded, tmp_path)
    assert load_file(tmp_path / WEIGHTS).keys() == weights.keys() and load_checkpoint(tmp_path).digest == saved.digest


@pytest.mark.parametrize(("without", "dropped"), [({"relation": 0}, "rel"), ({"relation": 0, "triplet": 0}, "all")])
def test_weights_that_a_loss_weight_of_0_left_untrained_are_not_built_and_stay_in_the_digest(
    without: dict[str, int], dropped: str, tmp_path: Path
) -> None:
    small, whole = checkpoint_of("zse_sbir", **without), network("zse_sbir", 1).state_dict()
    save_checkpoint(small, tmp_path)
    parts = ("relation.", "sketch_attends.", "photo_attends.") if dropped == "all" else ("relation.",)
    extra = {name: value for name, value in whole.items() if name.startswith(parts)}
    mine = load_file(tmp_path / WEIGHTS)
    assert extra and not extra.keys() & mine.keys()
    rewritten(tmp_path, as_earlier(extra | mine))
    kept = load_checkpoint(tmp_path)
    assert kept.method.state_dict().keys() == mine.keys() and kept.digest != small.digest
    for said, refused in ((kept.digest, False), (small.digest, True)):
        (tmp_path / MANIFEST).write_text(json.dumps({"digest": said}))
        if refused:
            with pytest.raises(ZseError, match=r"is not the checkpoint that its manifest\.json names"):
                load_checkpoint(tmp_path)
        else:
            assert load_checkpoint(tmp_path).digest == said
    assert replace(kept, training={}).digest == replace(small, training={}).digest, "a copy is of what it holds"
    rewritten(tmp_path, as_earlier(mine | {"relation.extra": torch.ones(1), "other.extra": torch.ones(1)}))
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(ZseError, match=r"also has \['other\.extra'\]"):
        load_checkpoint(tmp_path)
    with torch.no_grad():
        next(kept.method.parameters()).add_(1)
    now = kept.digest
    save_checkpoint(kept, tmp_path)
    assert now == load_checkpoint(tmp_path).digest, "after a change it is of the weights as they are"


def test_an_error_names_the_tensor_as_the_file_does_and_no_other_method_drops_parts(tmp_path: Path) -> None:
    save_checkpoint(checkpoint_of("global"), tmp_path)
    weights = as_earlier(load_file(tmp_path / WEIGHTS))
    for change, message in (
        ({"prototypes": weights["prototypes"] * torch.nan}, "holds NaN or infinity in prototypes"),
        ({"prototypes": torch.ones(1)}, r"does not fit its network: prototypes is float32 \[1\]"),
        ({"relation.extra": torch.ones(1)}, r"also has \['relation\.extra'\]"),
    ):
        rewritten(tmp_path, weights | change)
        with pytest.raises(ZseError, match=message):
            load_checkpoint(tmp_path)


def test_a_part_that_is_built_is_not_dropped_and_two_names_of_one_weight_are_refused(tmp_path: Path) -> None:
    save_checkpoint(checkpoint_of("zse_sbir"), tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    for change, message in (
        ({"relation.extra": torch.ones(1)}, r"also has \['relation\.extra'\]"),
        ({"prototypes": torch.ones(4, 16)}, r"also has \['prototypes'\]"),
    ):
        rewritten(tmp_path, weights | change)
        with pytest.raises(ZseError, match=message):
            load_checkpoint(tmp_path)
    rewritten(tmp_path, {name: value for name, value in weights.items() if not name.startswith("relation.")})
    with pytest.raises(ZseError, match=r"it lacks \['relation\."):
        load_checkpoint(tmp_path)


def test_names_of_another_method_are_its_own(tmp_path: Path) -> None:
    """A method that is not of this package may call a part as an earlier version of another method did, or as today."""

    class Mine(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.prototypes = torch.nn.Parameter(torch.zeros(2))
            self.relation = torch.nn.Linear(1, 1)

    mine = Mine()
    weights = {name: torch.ones_like(value) for name, value in mine.state_dict().items()}
    fill(mine, weights, tmp_path / WEIGHTS)
    assert mine.prototypes.tolist() == [1, 1]
    assert original("classifier.prototypes", "global") == "prototypes" == original("prototypes", "global")
    assert original("classifier.prototypes", "mine") == "classifier.prototypes"
    assert original("global_proj.weight", "zse_sbir") == "global_proj.weight"


def test_a_training_state_with_earlier_names_is_resumed_to_the_same_weights(tmp_path: Path) -> None:
    """With the optimizer's state, which knows weights by their order."""

    class Breaks(Source):
        def batch(self, step: int, rank: int, world_size: int) -> Any:
            if step == 5:
                raise OSError("the store went away")
            return super().batch(step, rank, world_size)

    def fresh() -> RetrievalMethod:
        return network("zse_sbir", classification=0.5)

    settings = config(steps=6, checks=3)
    options: dict[str, Any] = {"prepare_steps": 1, "validate": lambda _: {"selection/mAP_all": 0.5}}
    whole, resumed = fresh(), fresh()
    fit(whole, Source(), LocalContext(), settings, **options)
    with pytest.raises(OSError, match="went away"):
        fit(fresh(), Breaks(), LocalContext(tmp_path), settings, **options)
    (state,) = tmp_path.glob("state-*")
    for file in (state / WEIGHTS, state / "best.safetensors"):
        save_file(as_earlier(load_file(file)), file)
    fit(resumed, Source(), LocalContext(tmp_path), settings, **options)  # the best stays that of step 0
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_parameters_are_in_the_order_that_an_earlier_optimizer_has() -> None:
    """Prototypes come first, but for the method's own tokens, as when they were the method's own."""
    for name, first in (("global", 0), ("crossatnet", 0), ("zse_sbir", 2)):
        assert [n for n, _ in network(name).named_parameters()][first] == "classifier.prototypes"


def test_a_start_may_lack_a_part_that_a_loss_weight_of_0_leaves_out() -> None:
    whole, small = checkpoint_of("zse_sbir"), checkpoint_of("zse_sbir", relation=0, triplet=0)
    fresh = network("zse_sbir", 1)
    missing = start_from(fresh, small)
    assert {name.partition(".")[0] for name in missing} == {"relation", "sketch_attends", "photo_attends"}
    assert torch.equal(fresh.state_dict()["positions"], small.method.state_dict()["positions"])
    assert start_from(network("zse_sbir", 1, relation=0, triplet=0), whole) == []
    with pytest.raises(ZseError, match=r"beyond their heads the networks differ in \['photo_attends\.ffn"):
        start_from(network("zse_sbir", 1, ffn=8), whole)


@pytest.mark.parametrize(("distilled", "parts"), [(1.0, ("model.", "classifier.")), (0.0, ("model.",))])
def test_from_another_method_the_backbone_alone_is_taken_over(distilled: float, parts: tuple[str, ...]) -> None:
    """Also into a backbone of the sketches' own, and with the classifier where both networks have it."""
    fresh, start = network("crossatnet", 1, share_backbone=False), checkpoint_of("global", distillation=distilled)
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    left = start_from(fresh, start)
    theirs = start.method.state_dict()
    for name, value in fresh.state_dict().items():
        taken = name.removeprefix("sketch_").startswith(tuple(f"backbone.{part}" for part in parts))
        assert torch.equal(value, theirs[name.removeprefix("sketch_")] if taken else before[name]), name
        assert (name in left) != taken


@pytest.mark.parametrize(("name", "args"), [("test_resnet", {"channels": [32, 48, 48, 64]}), ("test_vit", {})])
def test_a_backbone_of_another_form_is_no_start_for_another_method(name: str, args: dict[str, Any]) -> None:
    """With the same names and other shapes, and with other names."""
    fresh, other = network("crossatnet", 1), BackboneConfig(name=name, args=args)
    method = create_method("global", NETWORKS["global"], other, size=32, classes=4)
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    with pytest.raises(
        ZseError, match=r"start: the backbones differ in \['backbone.model.*Give the experiment the back"
    ):
        start_from(fresh, replace(made(), name="global", method=method))
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())
