"""A checkpoint whose network computes something else here than where it was made is refused, and rounding is not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from tests.zse_model.test_checkpoint import NETWORKS, checkpoint_of
from zse_model import proof
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
    assert load_checkpoint(tmp_path).digest == checkpoint.digest
    assert all(any(values) for values in kept["encoding"].values()), "of a picture, not of nothing"
    method, threads = checkpoint.method.train(), torch.get_num_threads()
    torch.set_num_threads(threads % 2 + 1)
    try:
        check_proof(kept, method, checkpoint.transforms)
    finally:
        torch.set_num_threads(threads)
    assert method.training
    for encoding, values in kept["encoding"].items():
        for factor, refused in ((1 + ROUNDING / 2, False), (1 - ROUNDING * 2, True), (float("nan"), True)):
            other = copy.deepcopy(kept)
            other["encoding"][encoding] = [value * factor for value in values]
            if refused:
                with pytest.raises(ZseError, match=f"`{encoding}` of a built-in picture differs"):
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
    monkeypatch.setattr(
        Image.Image,
        "resize",
        lambda self, size, resample=None, *args, **options: resize(self, size, Image.Resampling.NEAREST),
    )


@pytest.mark.parametrize("change", [another_norm, another_resizing])
def test_another_way_of_computing_is_refused_with_the_versions_that_differ(
    change: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written("global", tmp_path)
    with monkeypatch.context() as changed:
        change(changed)
        with pytest.raises(ZseError, match="are those that it was made with: use the zse that it was made with"):
            load_checkpoint(tmp_path)
        changed.setattr(proof, "version", lambda package: "99" if package == "timm" else _version(package))
        with pytest.raises(ZseError, match=r"made with timm [\d.]+, not 99\. Install what it was made with, or train"):
            load_checkpoint(tmp_path)
    load_checkpoint(tmp_path)


_version = proof.version


def test_a_later_version_may_encode_more_and_a_damaged_proof_is_refused(tmp_path: Path) -> None:
    checkpoint, kept = written("zse_sbir", tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    less = {**kept, "encoding": dict([next(iter(kept["encoding"].items()))])}
    assert len(kept["encoding"]) > len(less["encoding"])
    for value in (less, None, [], {}, {**kept, "encoding": {"embedding": "x"}}, {**kept, "encoding": []}):
        (tmp_path / MANIFEST).write_text(json.dumps({**manifest, "proof": value}))
        if value is less:
            assert load_checkpoint(tmp_path).digest == checkpoint.digest
        else:
            with pytest.raises(ZseError, match=r"manifest\.json is damaged: its proof is none\. Copy the checkpoint"):
                load_checkpoint(tmp_path)
