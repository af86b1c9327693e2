"""Hash codes through the pipeline: encoded, stored packed, evaluated by the protocols, searched in a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.config.experiment import ExperimentConfig
from pipelines.encode.gallery import gallery_index
from pipelines.run import run
from pipelines.runtime.errors import ConfigError
from pipelines.search.search import find, reranked, search
from pipelines.search.searcher import Searcher
from pipelines.store.table import Table
from pipelines.workspace.photo_index import PhotoIndex
from pipelines.workspace.tensors import to_tensor
from tests.conftest import tiny
from tests.helpers.pictures import picture
from zse_model.backbones import BackboneConfig
from zse_model.checkpoint import load_checkpoint
from zse_model.evaluation.search import rank
from zse_model.hashing import unpack
from zse_model.methods import ZseSbirConfig, create_method
from zse_model.synthetic import draw_photo, draw_sketch
from zse_model.transforms import TransformConfig, prepare_photo, prepare_sketch

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def experiment(**changes: object) -> ExperimentConfig:
    training = {"steps": 2, "checks": 1}
    config = tiny(methods={"crossatnet": {"dim": 16, "bits": 32, "neighbours": 1}}, train=training, **changes)
    return replace(config, name="codes", methods={"crossatnet": config.methods["crossatnet"]})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> tuple[str, str]:
    """A workspace and what was trained in it."""
    workspace = str(tmp_path_factory.mktemp("codes"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zse_model.methods.codes.CODE_PICTURES", 64)
        return workspace, run(experiment(), workspace, until="train").checkpoints["crossatnet"].url


def test_codes_are_evaluated_with_the_embedding_that_they_come_from(checkpoint: tuple[str, str]) -> None:
    workspace, _ = checkpoint
    modes = ["ret", "hash-32", "itq-32", "asym-32", "rerank-4", "rerank-12"]
    out = run(experiment(evaluation={"modes": modes}), workspace)
    found = {(r["mode"], r["metric"]): r["value"] for r in out.rows() if r["setting"].split(".")[0] == "synthetic"}
    assert {mode for mode, _ in found} == set(modes)
    encodings = out.encodings["crossatnet"]
    encoded = {}
    for modality in ("sketch", "photo"):
        parts = [encodings.values(part, modality) for part in encodings.parts(modality)]
        encoded[modality] = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    assert set(encoded["photo"]) == {"embedding", "hash-32", "itq-32"}, "asym-32 reads what is there"
    for mode in ("hash-32", "itq-32"):
        assert encoded["photo"][mode].dtype == torch.uint8 and encoded["photo"][mode].shape[1] == 4
        assert encoded["photo"][mode].unique(dim=0).shape[0] > 1
    assert ("rerank-4", "mAP_all") not in found and ("hash-32", "mAP_all") in found
    # Codes find, embeddings rank: on a shortlist of everything as by embedding alone.
    assert found["rerank-12", "P_1"] == found["ret", "P_1"] and found["rerank-12", "recall_12"] == 1
    assert 0 < found["rerank-4", "recall_4"] < 1
    with pytest.raises(
        ConfigError,
        match=r"\['hash-33'\] are unknown. Known: ret, hash-N, .*fused-late, and MODE-diffused-K",
    ):
        experiment(evaluation={"modes": ["hash-33"]})


def test_a_folder_is_searched_by_codes_and_reranked(checkpoint: tuple[str, str], tmp_path: Path) -> None:
    workspace, url = checkpoint
    (tmp_path / "gallery").mkdir()
    for i in range(6):
        (tmp_path / "gallery" / f"{i}.png").write_bytes(picture(draw_photo("car" if i % 2 else "fish", i, size=64)))
    (tmp_path / "sketch.png").write_bytes(picture(draw_sketch("car", 0, size=64)))
    loaded = load_checkpoint(url)
    drawn = prepare_sketch((tmp_path / "sketch.png").read_bytes(), loaded.transforms)
    places = (str(tmp_path / "sketch.png"), str(tmp_path / "gallery"))
    found = find(drawn, places[1], loaded, url, workspace, top=6, mode="hash-32")
    photos = PhotoIndex(gallery_index(places[1], url, workspace)).generation(loaded.digest, url).photos()
    packed = torch.tensor([row["hash-32"] for row in rows_of(photos, "hash-32")], dtype=torch.uint8)
    assert packed.shape == (6, 4) and "asym-32" not in photos.schema.names
    with torch.no_grad():
        query = loaded.method.encode(torch.from_numpy(drawn)[None, None], "sketch")["hash-32"]
    expected = rank(32 - 2 * (unpack(query)[:, None] != unpack(packed)[None]).sum(2).float())
    assert [m.path for m in found] == [f"{i}.png" for i in expected.indices[0].tolist()]
    assert [m.score for m in found] == expected.scores[0].tolist()

    def searched(top: int, mode: str, **options: object) -> list[str]:
        result = search(*places, url, workspace, top=top, mode=mode, picture=tmp_path / "o.png", **options)  # type: ignore[arg-type]
        return [m.path for m in result]

    by_embedding = searched(6, "ret")
    with torch.no_grad():
        encoded = loaded.method.encode(torch.from_numpy(drawn)[None, None], "sketch")
        by_code = rank(loaded.method.score(encoded, {"hash-32": packed}, "asym-32"))
    assert searched(6, "asym-32") == [f"{i}.png" for i in by_code.indices[0].tolist()]
    first = {m.path for m in found[:3]}
    assert searched(3, "rerank-3") == [path for path in by_embedding if path in first]
    # The second checkpoint is the same one here: its first mode re-ranks.
    assert searched(2, "hash-32", rerank_by=url, depth=3) == [path for path in by_embedding if path in first][:2]
    # By a network of pairs: each photo that the codes found is scored with the sketch.
    torch.manual_seed(1)
    network = create_method(
        "zse_sbir", ZseSbirConfig(dim=32, heads=4, ffn=32), BackboneConfig(name="test_resnet"), size=32, classes=4
    ).eval()
    second = replace(loaded, name="zse_sbir", method=network, transforms=TransformConfig(size=32))
    sketch, folder = (tmp_path / "sketch.png").read_bytes(), tmp_path / "gallery"
    order = reranked(sketch, str(folder), found[:3], second)
    with torch.no_grad():
        query = network.encode(torch.from_numpy(prepare_sketch(sketch, second.transforms))[None, None], "sketch")
        photos = [prepare_photo((folder / m.path).read_bytes(), second.transforms) for m in found[:3]]
        encoded = network.encode(to_tensor(photos), "photo")
        by_pairs = rank(network.score(query, encoded, "rn"))
    assert [m.path for m in order] == [found[i].path for i in by_pairs.indices[0].tolist()]
    torch.testing.assert_close(torch.tensor([m.score for m in order]), by_pairs.scores[0])
    with pytest.raises(ValueError, match="rerank-3 ranks 3 photos, not 4"):
        searched(4, "rerank-3")


def rows_of(table: Table, name: str) -> list[dict[str, Any]]:
    return [row for batch in table.scan([name]) for row in batch.to_pylist()]


def test_codes_of_an_open_searcher_are_read_once(
    checkpoint: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, url = checkpoint
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(picture(draw_photo("car" if i % 2 else "fish", i, size=64)))
    searcher = Searcher.of(gallery_index(str(tmp_path), url, workspace), load_checkpoint(url))
    read: list[str] = []
    scan = Table.scan
    monkeypatch.setattr(Table, "scan", lambda self, names, where=None: read.extend(names) or scan(self, names, where))
    for seed in range(3):
        drawn = picture(draw_sketch("car", seed, size=64))
        for mode in ("hash-32", "asym-32"):
            assert len(searcher.search(drawn, top=3, mode=mode, group=False)) == 3
    assert read == ["hash-32"]
