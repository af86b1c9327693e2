"""A checkpoint whose network computes something else here than where it was made is refused, and rounding is not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import nn

from tests.zse_model.test_checkpoint import NETWORKS, checkpoint_of
from zse_model.checkpoint import MANIFEST, Checkpoint, load_checkpoint, save_checkpoint
from zse_model.errors import ZseError
from zse_model.proof import ROUNDING, check_proof, proof_of


def written(name: str, folder: Path) -> tuple[Checkpoint, dict[str, Any]]:
    """A checkpoint and its proof, in `folder` as a training writes them."""
    checkpoint = checkpoint_of(name)
    kept = proof_of(checkpoint.method, checkpoint.transforms)
    save_checkpoint(checkpoint, folder)
    (folder / MANIFEST).write_text(json.dumps({"digest": checkpoint.digest, "proof": kept}))
    return checkpoint, kept


@pytest.mark.parametrize("name", NETWORKS)
def test_rounding_is_allowed_and_more_is_not(name: str, tmp_path: Path) -> None:
    checkpoint, kept = written(name, tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert loaded.digest == checkpoint.digest and not loaded.method.training
    assert {"sketch/embedding", "photo/embedding"} <= kept["encodings"].keys()
    method, threads = checkpoint.method.train(), torch.get_num_threads()
    torch.set_num_threads(threads % 2 + 1)
    try:
        check_proof(kept, method, checkpoint.transforms)
    finally:
        torch.set_num_threads(threads)
    assert method.training
    with torch.autocast("cpu", torch.bfloat16):
        check_proof(kept, method, checkpoint.transforms)
    for encoding, values in kept["encodings"].items():
        for factor, refused in ((1 + ROUNDING / 2, False), (1 - ROUNDING * 2, True), (float("nan"), True)):
            other = copy.deepcopy(kept)
            other["encodings"][encoding] = [value * factor for value in values]
            if refused:
                with pytest.raises(ZseError, match=f"{encoding} of a built-in picture differs"):
                    check_proof(other, method, checkpoint.transforms)
            else:
                check_proof(other, method, checkpoint.transforms)


def another_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    init = nn.BatchNorm2d.__init__

    def other(self: Any, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        self.eps *= 10_000  # these networks have random weights, and variances of about 1

    monkeypatch.setattr(nn.BatchNorm2d, "__init__", other)


def another_resizing(monkeypatch: pytest.MonkeyPatch) -> None:
    resize = Image.Image.resize
    nearest = Image.Resampling.NEAREST
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, *args, **options: resize(self, size, nearest))


def another_reducing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of Pillow's two steps, which only large pictures have."""
    reduce = Image.Image.reduce
    monkeypatch.setattr(
        Image.Image, "reduce", lambda self, *args, **options: reduce(self, *args, **options).point(lambda v: v // 2)
    )


@pytest.mark.parametrize("change", [another_norm, another_resizing, another_reducing])
def test_another_way_of_computing_is_refused_with_the_versions_that_differ(
    change: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written("global", tmp_path)
    with monkeypatch.context() as changed:
        change(changed)
        with pytest.raises(ZseError, match=r"torch .*, Pillow [\d.]+, which are here, too: use the version of zse"):
            load_checkpoint(tmp_path)
        changed.setattr(torch, "__version__", torch.__version__.partition("+")[0] + "+another")  # only a build
        changed.setattr(timm, "__version__", "99")
        with pytest.raises(
            ZseError, match=r"made with timm [\d.]+, not 99\. Install those versions, or delete the checkpoint"
        ):
            load_checkpoint(tmp_path)
    load_checkpoint(tmp_path)


def test_a_change_of_what_reads_sketches_alone_is_refused() -> None:
    checkpoint = checkpoint_of("crossatnet", share_backbone=False)
    kept = proof_of(checkpoint.method, checkpoint.transforms)
    method: Any = checkpoint.method
    for module in method.sketch_backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps *= 10_000
    with pytest.raises(ZseError, match="sketch/embedding of a built-in picture differs"):
        check_proof(kept, method, checkpoint.transforms)


def test_a_later_version_may_encode_more_and_a_damaged_proof_is_refused(tmp_path: Path) -> None:
    checkpoint, kept = written("zse_sbir", tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    name, values = next(iter(kept["encodings"].items()))
    less = {**kept, "encodings": {name: values}}
    assert len(kept["encodings"]) > 1
    for value, said in (
        (less, ""),
        ({**kept, "encodings": {"sketch/vector": values}}, "sketch/vector of a built-in picture differs by 100.00%"),
        ({**kept, "encodings": {name: [0.0] * 16}}, f"{name} of a built-in picture differs"),
        (None, "its proof is damaged"),
        ({}, "its proof is damaged"),
        ({**kept, "encodings": {}}, "its proof is damaged"),
        ({**kept, "encodings": {name: values[:-1]}}, "its proof is damaged"),
        ({**kept, "encodings": {name: ["x"] * 16}}, "its proof is damaged"),
        ({**kept, "versions": 3}, "its proof is damaged"),
    ):
        (tmp_path / MANIFEST).write_text(json.dumps({**manifest, "proof": value}))
        if said:
            with pytest.raises(ZseError, match=said) as refused:
                load_checkpoint(tmp_path)
            assert str(tmp_path) in str(refused.value)
        else:
            assert load_checkpoint(tmp_path).digest == checkpoint.digest
