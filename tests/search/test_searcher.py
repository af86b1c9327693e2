"""`Searcher`: answers equal those of all scores, pages and filters hold, and a new version is taken up whole."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from pipelines.encode import photos
from pipelines.encode.index import index
from pipelines.encode.index_upkeep import purge_photos
from pipelines.judge import indexes
from pipelines.runtime.errors import StorageError
from pipelines.search import searcher as searcher_room
from pipelines.search.searcher import AskedError, Found, Rows, Searcher
from pipelines.tracking import TrackingError
from pipelines.workspace.photo_index import UNIT, EncodingForm, OtherCheckpointError, PhotoIndex
from tests.encode.test_index import CODES, KEPT, OTHER, catalogue, photo, put, rows, updated
from tests.helpers.pictures import picture, png
from tests.zse_model.test_crossatnet import with_codes
from zse_model.backbones import BackboneConfig
from zse_model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, seen_keys
from zse_model.confidence import Confidence, median_of
from zse_model.diffusion import diffused, diffused_ranking
from zse_model.errors import ZseError
from zse_model.evaluation.search import rank
from zse_model.methods import LateInteractionConfig, create_method
from zse_model.methods.late_interaction import LateInteraction
from zse_model.retrieval import encode
from zse_model.retrieval import search as retrieval_search
from zse_model.scoring import score_all
from zse_model.split import ZeroShotSplit
from zse_model.synthetic import draw_photo
from zse_model.transforms import BadPicture, TransformConfig

TOKENS = str(KEPT / "kept-tokens-zse_sbir-fbaf516a")
SKETCH = png("sketch", 2)
COUNT = 30


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue with prices, and its index by two checkpoints, one with tokens."""
    folder = tmp_path_factory.mktemp("world")
    source = catalogue(folder / "photos", COUNT)
    names = sorted(str(path.relative_to(source)) for path in source.rglob("*.png"))
    lines = [f"{name},{i},{'odd' if i % 2 else 'even'}" for i, name in enumerate(names)]
    (folder / "about.csv").write_text("path,price,kind\n" + "\n".join(lines))
    updated(source, folder / "index", metadata=str(folder / "about.csv"))
    updated(None, folder / "index", TOKENS, tokens=True)
    return folder


def opened(world: Path, checkpoint: str = CODES) -> Searcher:
    return Searcher.open(str(world / "index"), checkpoint)


def expected(
    world: Path, checkpoint: str, mode: str, among: Callable[[dict[str, Any]], bool]
) -> list[tuple[str, float]]:
    """The ranking of all scores of the stored rows that pass a filter."""
    loaded = load_checkpoint(Path(checkpoint))
    stored = rows(world / "index", checkpoint)
    kept = [row for row in stored if among(row)]
    names = loaded.method.scorer(mode).reads("photo")
    photos = encode(loaded, [photo(0)], "photo")
    gallery = {}
    for name in names:
        like = photos[name]
        values = np.array([row[name] for row in kept], dtype=np.float16 if like.is_floating_point() else np.uint8)
        read = torch.from_numpy(values).to(like.dtype).view(-1, *like.shape[1:])
        gallery[name] = torch.nn.functional.normalize(read, dim=2) if name == "places" else read
    scores = score_all(loaded.method.scorer(mode), encode(loaded, [SKETCH], "sketch"), gallery)
    found = rank(scores)
    return [(kept[i]["id"], s) for i, s in zip(found.indices[0].tolist(), found.scores[0].tolist(), strict=True)]


def same(found: list[Found], wanted: list[tuple[str, float]]) -> None:
    assert [one.id for one in found] == [id for id, _ in wanted]
    assert [one.score for one in found] == pytest.approx([score for _, score in wanted], abs=1e-5)


@pytest.mark.parametrize(
    ("checkpoint", "mode"),
    [(CODES, "ret"), (CODES, "hash-32"), (CODES, "asym-32"), (TOKENS, "ret"), (TOKENS, "rn"), (TOKENS, "fused")],
)
def test_every_mode_ranks_as_all_scores_do(world: Path, checkpoint: str, mode: str) -> None:
    searcher = opened(world, checkpoint)
    wanted = expected(world, checkpoint, mode, lambda row: True)
    same(searcher.search(SKETCH, top=COUNT, mode=mode, group=False), wanted)
    cheap = expected(world, checkpoint, mode, lambda row: row["price"] < 3)
    assert len(cheap) == 3
    same(searcher.search(SKETCH, top=20, mode=mode, where="price < 3", group=False), cheap)


def test_a_shortlist_is_ranked_again_by_its_rows(world: Path) -> None:
    searcher = opened(world, TOKENS)
    first = [id for id, _ in expected(world, TOKENS, "ret", lambda row: True)[:7]]
    by_pairs = [one for one in expected(world, TOKENS, "rn", lambda row: True) if one[0] in first]
    same(searcher.search(SKETCH, top=7, mode="rerank-7", group=False), by_pairs)
    codes = [id for id, _ in expected(world, CODES, "asym-32", lambda row: True)[:9]]
    by_vectors = [one for one in expected(world, CODES, "ret", lambda row: True) if one[0] in codes]
    same(opened(world).search(SKETCH, top=5, mode="asym-32", rerank=9, group=False), by_vectors[:5])
    same(opened(world).search(SKETCH, top=5, page=2, mode="asym-32", rerank=9, group=False), by_vectors[5:])
    with pytest.raises(ZseError, match="asym-32 ranks 9 photos, not 15"):
        opened(world).search(SKETCH, top=5, page=3, mode="asym-32", rerank=9)


def test_diffusion_ranks_the_best_of_a_mode_again(world: Path) -> None:
    """The rows that a search reads, against all stored rows: alone, filtered, by pages and after codes."""
    checkpoint = load_checkpoint(Path(CODES))
    stored = {row["id"]: torch.from_numpy(np.array(row["embedding"])).float() for row in rows(world / "index", CODES)}

    def wanted(mode: str, depth: int, among: Callable[[dict[str, Any]], bool]) -> list[tuple[str, float]]:
        first = expected(world, CODES, mode, among)
        vectors = torch.stack([stored[id] for id, _ in first])
        again = rank(diffused(torch.tensor([[score for _, score in first]]), vectors.__getitem__, depth))
        return [(first[i][0], s) for i, s in zip(again.indices[0].tolist(), again.scores[0].tolist(), strict=True)]

    searcher = opened(world)
    every = wanted("ret", 9, lambda row: True)
    assert [id for id, _ in every] != [id for id, _ in expected(world, CODES, "ret", lambda row: True)]
    same(searcher.search(SKETCH, top=COUNT, mode="ret-diffused-9", group=False), every)
    pages = [searcher.search(SKETCH, top=4, page=page, mode="ret-diffused-9", group=False) for page in (1, 2, 3, 4)]
    same([one for page in pages for one in page], every[:16])
    odd = wanted("asym-32", 9, lambda row: row["price"] % 2 == 1)
    same(searcher.search(SKETCH, top=COUNT, mode="asym-32-diffused-9", where="price % 2 = 1", group=False), odd)
    codes = {id for id, _ in expected(world, CODES, "asym-32", lambda row: True)[:12]}
    reranked = wanted("ret", 9, lambda row: row["id"] in codes)
    asked: dict[str, Any] = {"mode": "asym-32", "rerank": 12, "rerank_mode": "ret-diffused-9"}
    same(searcher.search(SKETCH, top=12, group=False, **asked), reranked)
    likes = searcher.search(like=every[0][0], top=5, mode="ret-diffused-9", group=False)
    ids, vectors = list(stored), torch.stack(list(stored.values()))
    own = rank(stored[every[0][0]][None] @ vectors.T)
    by_vectors = torch.stack([vectors[row[:9]] for row in own.indices])
    alike = [ids[i] for i in diffused_ranking(own, by_vectors, COUNT).indices[0].tolist() if ids[i] != every[0][0]]
    assert [one.id for one in likes] == alike[:5]
    assert alike != [ids[i] for i in own.indices[0].tolist() if ids[i] != every[0][0]]
    gallery = {"embedding": torch.stack(list(stored.values()))}
    found = retrieval_search(checkpoint, [SKETCH], gallery, "ret-diffused-9", 5)
    assert [list(stored)[i] for i in found.indices[0].tolist()] == [id for id, _ in every[:5]]
    assert not searcher.search(SKETCH, mode="ret-diffused-9", where="price < 0")
    with pytest.raises(AskedError, match="comes last: ask for it by rerank_mode"):
        searcher.search(SKETCH, mode="asym-32-diffused-9", rerank=12)


def late_checkpoint(folder: Path) -> str:
    torch.manual_seed(0)
    config = LateInteractionConfig(dim=16, place_dim=16, bits=32, late_distance=1.0)
    method = create_method("late_interaction", config, BackboneConfig(name="test_resnet"), size=64, classes=2).eval()
    late, split = (
        with_codes(cast(LateInteraction, method)),
        ZeroShotSplit(name="s", citation="c", seen=("a", "b"), unseen=("c",)),
    )
    save_checkpoint(Checkpoint("late_interaction", late, TransformConfig(size=64), split, seen_keys([]), {}), folder)
    return str(folder)


def test_places_of_an_older_index_stay_float16(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read and continued as it was begun; and what int8 changes of a score is small."""
    checkpoint, place = late_checkpoint(tmp_path / "late"), tmp_path / "older"
    shutil.copytree(world / "photos", tmp_path / "photos")
    (last := tmp_path / "photos" / "b" / "23.png").rename(tmp_path / "later.png")
    with monkeypatch.context() as older:
        older.setattr(photos, "form_of", lambda name, values: EncodingForm("float16", tuple(values.shape[1:])))
        index(str(tmp_path / "photos"), str(place), checkpoint, called=checkpoint, tokens=True)
    (tmp_path / "later.png").rename(last)
    index(str(tmp_path / "photos"), str(place), checkpoint, called=checkpoint, tokens=True)
    index(str(tmp_path / "photos"), str(tmp_path / "newer"), checkpoint, called=checkpoint, tokens=True)
    asked: dict[str, Any] = {"mode": "late", "top": COUNT, "group": False}
    searchers = [Searcher.open(str(tmp_path / name), checkpoint) for name in ("older", "newer")]
    manifests = [json.loads(Path(one.generation.url, "manifest.json").read_text()) for one in searchers]
    kept = [(one["schema_version"], one["encodings"]["places"]["dtype"]) for one in manifests]
    assert kept == [(1, "float16"), (2, UNIT)]
    before, now = ({one.id: one.score for one in searcher.search(SKETCH, **asked)} for searcher in searchers)
    assert len(before) == COUNT and "b/23.png" in before
    assert now == pytest.approx(before, abs=2e-3) and now != pytest.approx(before, abs=1e-6)
    later = Path(searchers[1].generation.url, "manifest.json")
    later.write_text(json.dumps({**manifests[1], "schema_version": 3}))
    last.unlink()
    with pytest.raises(StorageError, match="schema version 3"):
        index(str(tmp_path / "photos"), str(tmp_path / "newer"), checkpoint, called=checkpoint, tokens=True)
    assert len(searchers[1].generation.photos()) == COUNT, "refused before the index is touched"


def test_codes_find_and_places_rank(world: Path, tmp_path: Path) -> None:
    checkpoint = late_checkpoint(tmp_path / "late")
    updated(world / "photos", world / "index", checkpoint, tokens=True)
    codes = [id for id, _ in expected(world, checkpoint, "asym-32", lambda row: True)[:9]]
    by_places = [one for one in expected(world, checkpoint, "late", lambda row: True) if one[0] in codes]
    asked = {"mode": "asym-32", "rerank": 9, "group": False}
    searcher = opened(world, checkpoint)
    assert searcher.generation.forms["places"].dtype == UNIT
    same(searcher.search(SKETCH, top=9, rerank_mode="late", **asked), by_places)
    assert [one[0] for one in by_places] != codes, "places rank otherwise"
    with pytest.raises(ZseError, match="rerank_mode 'late' needs rerank, the number of photos"):
        searcher.search(SKETCH, rerank_mode="late")
    with pytest.raises(ZseError, match="Mode rerank-4 is no way of scoring every pair"):
        searcher.search(SKETCH, top=3, rerank_mode="rerank-4", **asked)
    with pytest.raises(ZseError, match="Mode rerank-9 ranks a shortlist already"):
        searcher.search(SKETCH, top=3, mode="rerank-9", rerank=9)


def test_a_search_that_lost_its_version_is_answered_by_the_one_that_came_meanwhile(world: Path) -> None:
    """Another thread took it up first, so that `follow` finds nothing new."""
    searcher, later = opened(world), opened(world)._now
    assert not searcher.follow()

    def work(now: Any) -> str:
        if now is not later:
            searcher._now = later
            raise StorageError("purged")
        return "answered"

    assert searcher.ask(work) == "answered"
    with pytest.raises(StorageError, match="gone"):
        searcher.ask(lambda now: (_ for _ in ()).throw(StorageError("gone")))


def test_an_index_without_tokens_names_the_option(world: Path, tmp_path: Path) -> None:
    updated(world / "photos", tmp_path / "index", TOKENS)
    with pytest.raises(ZseError, match="indexed without. Index the photos with --tokens"):
        Searcher.open(str(tmp_path / "index"), TOKENS).search(SKETCH, mode="rn")


def test_answers_carry_thumbnail_and_metadata(world: Path) -> None:
    (first,) = opened(world).search(SKETCH, top=1)
    row = next(row for row in rows(world / "index") if row["id"] == first.id)
    assert first.thumbnail == row["thumbnail"] and first.metadata == {"price": row["price"], "kind": row["kind"]}
    assert Image.open(io.BytesIO(first.thumbnail)).format == "JPEG"


def test_pages_neither_repeat_nor_leave_out(tmp_path: Path) -> None:
    """200 equal photos: every score ties."""
    data = photo(1)
    for i in range(200):
        put(tmp_path / "photos" / f"{i:03d}.png", data)
    updated(tmp_path / "photos", tmp_path / "index")
    searcher = Searcher.open(str(tmp_path / "index"), CODES)
    for mode in ("ret", "hash-32", "asym-32"):
        pages = [searcher.search(SKETCH, top=50, page=page, mode=mode, group=False) for page in (1, 2, 3, 4, 5)]
        assert [one.id for page in pages for one in page] == [f"{i:03d}.png" for i in range(200)], mode
    (only,) = searcher.search(SKETCH, top=50)
    assert only.id == "000.png" and len(only.repeats) == 199


def test_a_filter_is_applied_before_ranking(world: Path) -> None:
    searcher = opened(world)
    found = searcher.search(SKETCH, top=10, where="kind = 'odd' AND price >= 9", group=False)
    assert len(found) == 10 and all(one.metadata["kind"] == "odd" and one.metadata["price"] >= 9 for one in found)
    assert searcher.search(SKETCH, where="price > 1000") == []
    with pytest.raises(ZseError, match="'nosuch < 1' cannot be used.*Columns: id, .*price, kind"):
        searcher.search(SKETCH, where="nosuch < 1")


def test_one_photo_in_many_files_is_shown_once(tmp_path: Path) -> None:
    drawn = draw_photo("church", 4, size=96)
    for i, (kind, options) in enumerate(
        [("PNG", {}), ("WEBP", {"lossless": True})] + [("JPEG", {"quality": q}) for q in (60, 70, 80, 90)]
    ):
        put(tmp_path / "photos" / f"same{i}.{kind.lower()}", picture(drawn, kind, **options))
    for i in range(5):
        put(tmp_path / "photos" / f"other{i}.png", photo(40 + i))
    updated(tmp_path / "photos", tmp_path / "index")
    searcher = Searcher.open(str(tmp_path / "index"), CODES)
    found = searcher.search(SKETCH, top=20)
    assert len(found) == 6
    (group,) = [one for one in found if one.repeats]
    assert {group.id, *group.repeats} == {f"same{i}.{k}" for i, k in enumerate(["png", "webp", *["jpeg"] * 4])}
    two = [one.id for page in (1, 2, 3) for one in searcher.search(SKETCH, top=2, page=page)]
    assert two == [one.id for one in found], "pages of groups are those of one long page"


def product(kind: str, side: int = 100) -> bytes:
    """Something gold on white ground."""
    ground = Image.new("RGB", (800, 800), "white")
    draw, low, high, thick = ImageDraw.Draw(ground), 400 - side // 2, 400 + side // 2, side // 10
    if kind in ("plus", "disc"):  # a shirt and its print
        outline = [(200, 150), (600, 150), (750, 300), (650, 380), (600, 330), (600, 700), (200, 700), (200, 330)]
        draw.polygon([*outline, (150, 380), (50, 300)], fill=(40, 60, 120))
        if kind == "plus":
            draw.rectangle((380, 300, 420, 460), fill=(230, 230, 230))
            draw.rectangle((320, 360, 480, 400), fill=(230, 230, 230))
        else:
            draw.ellipse((345, 325, 455, 435), fill=(230, 230, 230))
    elif kind == "ring":
        draw.ellipse((low, low, high, high), outline=(212, 175, 55), width=thick)
    else:
        draw.rectangle((400 - thick, low, 400 + thick, high), fill=(212, 175, 55))
        draw.rectangle((low, 400 - thick, high, 400 + thick), fill=(212, 175, 55))
    return picture(np.asarray(ground), "PNG")


@pytest.mark.parametrize("side", [60, 100])
def test_products_on_a_white_ground_are_no_repeats(tmp_path: Path, side: int) -> None:
    kinds = ("ring", "cross", "plus", "disc")
    for kind in kinds:
        put(tmp_path / "photos" / f"{kind}.png", product(kind, side))
        small = Image.open(io.BytesIO(product(kind, side))).resize((400, 400))
        put(tmp_path / "photos" / f"{kind}-small.jpg", picture(np.asarray(small), "JPEG", quality=70))
    updated(tmp_path / "photos", tmp_path / "index")
    found = Searcher.open(str(tmp_path / "index"), CODES).search(SKETCH, top=20)
    assert sorted((one.id[:4], one.repeats[0][:4]) for one in found) == sorted((kind[:4], kind[:4]) for kind in kinds)


def test_more_like_a_photo(world: Path) -> None:
    searcher = opened(world)
    found = searcher.search(like="a/4.png", top=COUNT)
    assert len(found) == COUNT - 1 and "a/4.png" not in {one.id for one in found}
    stored = {row["id"]: np.array(row["embedding"], np.float32) for row in rows(world / "index")}
    scores = {id: float(values @ stored["a/4.png"]) for id, values in stored.items() if id != "a/4.png"}
    assert found[0].id == max(scores, key=lambda id: scores[id])
    with pytest.raises(ZseError, match="has no photo 'it''s'|has no photo \"it's\""):
        searcher.search(like="it's")


def test_queries_that_cannot_be_answered(world: Path) -> None:
    searcher = opened(world)
    blank = picture(np.full((40, 40), 255, np.uint8))
    with pytest.raises(BadPicture, match="blank"):
        searcher.search(blank)
    for given in ({}, {"query": SKETCH, "like": "a/0.png"}):
        with pytest.raises(ZseError, match="Give a drawing, or like=ID"):
            searcher.search(**given)
    with pytest.raises(ZseError, match="Unknown retrieval mode 'nosuch'"):
        searcher.search(SKETCH, mode="nosuch")
    for given, said in (({"top": 0}, "1 or more"), ({"page": 0}, "1 or more"), ({"top": 5000, "page": 3}, "not 15000")):
        with pytest.raises(ZseError, match=said):
            searcher.search(SKETCH, **given)


def test_another_checkpoint_and_a_folder_that_is_no_index_are_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(OtherCheckpointError, match=r"was not encoded by .*kept-maps-zse_sbir.*generations of"):
        opened(world, OTHER)
    with pytest.raises(StorageError, match="is not an index"):
        Searcher.open(str(tmp_path), CODES)


def test_a_new_version_is_taken_up_whole_between_two_queries(tmp_path: Path) -> None:
    source, url = catalogue(tmp_path / "photos", 5), tmp_path / "index"
    updated(source, url)
    searcher = Searcher.open(str(url), CODES)
    assert len(searcher.search(SKETCH, group=False)) == 5 and not searcher.follow()
    put(source / "new.png", photo(77))
    (source / "a" / "0.png").unlink()
    updated(None, url)
    assert "new.png" not in {one.id for one in searcher.search(SKETCH, group=False)}, "the version that was opened"
    assert searcher.follow() and len(searcher) == 5
    ids = {one.id for one in searcher.search(SKETCH, group=False)}
    assert "new.png" in ids and "a/0.png" not in ids


def test_a_search_goes_on_after_its_version_was_purged(tmp_path: Path) -> None:
    source, url = catalogue(tmp_path / "photos", 5), tmp_path / "index"
    updated(source, url)
    searcher = Searcher.open(str(url), CODES)
    before = [one.id for one in searcher.search(SKETCH, group=False)]
    purge_photos(str(url), [before[1]])
    after = searcher.search(SKETCH, group=False)
    assert [one.id for one in after] == [id for id in before if id != before[1]]
    assert all(one.thumbnail for one in after)


def test_another_model_serves_only_with_its_own_complete_generation(tmp_path: Path) -> None:
    source, url = catalogue(tmp_path / "photos", 5), tmp_path / "index"
    updated(source, url)
    alias = [CODES]
    searcher = Searcher(PhotoIndex(str(url)), "models:/zse@champion", lambda: alias[0])
    before = [one.score for one in searcher.search(SKETCH)]
    alias[0] = OTHER
    assert not searcher.follow(), "its generation is not complete"
    assert [one.score for one in searcher.search(SKETCH)] == before
    updated(None, url, OTHER)
    assert searcher.follow() and searcher.checkpoint.name == "zse_sbir" == searcher.generation.method
    assert [one.score for one in searcher.search(SKETCH)] != before


def test_the_index_is_followed_while_the_model_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, url, away = catalogue(tmp_path / "photos", 5), tmp_path / "index", False

    def resolve() -> str:
        if away:
            raise TrackingError(f"MLflow does not answer {object()}")
        return CODES

    updated(source, url)
    searcher = Searcher(PhotoIndex(str(url)), "models:/zse@champion", resolve)
    away = True
    put(source / "new.png", photo(77))
    updated(None, url)
    capsys.readouterr()
    assert searcher.follow() and len(searcher) == 6
    assert "The model cannot be followed: MLflow does not answer" in capsys.readouterr().err
    assert searcher.failing == {"model"}
    purge_photos(str(url), ["a/0.png"])
    assert len(searcher.search(SKETCH, group=False)) == 5 and not searcher.follow()
    assert "MLflow" not in capsys.readouterr().err, "it is said once"
    away = False
    searcher.follow()
    assert not searcher.failing
    away = True
    searcher.follow()
    assert "MLflow" in capsys.readouterr().err, "it is said again when it has answered meanwhile"


def test_a_refused_model_is_read_again_when_its_files_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, url, other = catalogue(tmp_path / "photos", 5), tmp_path / "index", tmp_path / "other"
    shutil.copytree(OTHER, other)
    updated(source, url)
    updated(None, url, OTHER)
    manifest = (other / "manifest.json").read_text()
    (other / "manifest.json").write_text(json.dumps(json.loads(manifest) | {"proof": "cut off"}))
    alias, loads = [CODES], []
    load = searcher_room.load_checkpoint
    monkeypatch.setattr(searcher_room, "load_checkpoint", lambda *given: loads.append(1) or load(*given))
    searcher = Searcher(PhotoIndex(str(url)), "models:/zse@champion", lambda: alias[0])
    alias[0] = str(other)
    capsys.readouterr()
    for _ in range(3):
        assert not searcher.follow() and searcher.failing == {"model"}
    assert len(loads) == 2 and capsys.readouterr().err.count("The model cannot be followed") == 1
    (other / "manifest.json").write_text(manifest)
    assert searcher.follow() and searcher.checkpoint.name == "zse_sbir" and not searcher.failing


def test_a_model_takes_over_only_if_it_answers_by_the_mode(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(world / "index", tmp_path / "index")
    updated(None, tmp_path / "index", OTHER)
    alias = [TOKENS]
    index_of = PhotoIndex(str(tmp_path / "index"))
    searcher = Searcher(index_of, "models:/zse@champion", lambda: alias[0], mode="fused-diffused-9")
    for other, why in ((CODES, "Unknown retrieval mode"), (OTHER, "was indexed without")):
        alias[0] = other
        for said in (True, False):
            assert not searcher.follow() and searcher.generation.key == load_checkpoint(Path(TOKENS)).digest
            assert (why in capsys.readouterr().err) is said
    assert searcher.search(SKETCH, mode="fused-diffused-9")
    for mode in ("ret-diffused-9", None):
        alias[0] = TOKENS
        searcher = Searcher(index_of, "models:/zse@champion", lambda: alias[0], mode=mode)
        alias[0] = OTHER
        assert searcher.follow()


@pytest.mark.parametrize("tokens", [True, False])
def test_the_generation_of_a_new_champion_has_tokens_if_the_newest_one_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: bool
) -> None:
    url = tmp_path / "index"
    updated(catalogue(tmp_path / "photos", 2), url, CODES if tokens else TOKENS, tokens=not tokens)
    updated(None, url, TOKENS if tokens else CODES, tokens=tokens)
    monkeypatch.setattr(indexes, "version_at", lambda *arguments: 2)
    monkeypatch.setattr(indexes, "checkpoint_of", lambda *arguments: OTHER)
    assert indexes.index_by_champion("zse@champion", [str(url)], str(tmp_path), "sqlite://") == [str(url)]
    (new,) = [one for one in PhotoIndex(str(url)).generations() if one.key == load_checkpoint(Path(OTHER)).digest]
    assert ("tokens" in new.forms) is tokens


def test_an_empty_index_finds_nothing(tmp_path: Path) -> None:
    put(tmp_path / "photos" / "bad.png", b"no picture")
    updated(tmp_path / "photos", tmp_path / "index")
    assert Searcher.open(str(tmp_path / "index"), CODES).search(SKETCH) == []


def test_positions_and_addresses_are_inverse() -> None:
    batches = [
        np.array([0, 1, 2, 5]),
        np.array([6, 7]),
        np.array([], np.int64),
        np.array([2**32, 2**32 + 1]),
        np.array([40]),
    ]
    found = Rows(iter(batches))
    addresses = np.concatenate(batches).astype(np.int64)
    assert len(found) == 9
    assert np.array_equal(found.addresses(np.arange(9)), addresses)
    assert np.array_equal(found.positions(addresses[[8, 0, 4, 7]]), [0, 4, 7, 8])
    assert len(found.addresses(np.array([], np.int64))) == 0 == len(Rows(iter([])).positions(np.array([], np.int64)))


def test_a_deleted_index_is_named(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "index", tmp_path / "index")
    searcher = Searcher.open(str(tmp_path / "index"), CODES)
    shutil.rmtree(tmp_path / "index")
    with pytest.raises(StorageError):
        searcher.search(SKETCH)


def confident(searcher: Searcher, mode: str, level: float = -9.0) -> Confidence:
    method = searcher.checkpoint.method
    method.confidence[method.MODES.index(method.mode(mode))] = torch.tensor([1.0, 20.0, level])
    return Confidence(1.0, 20.0, level)


@pytest.mark.parametrize("mode", ["ret", "hash-32", "asym-32"])
def test_confidences_are_those_of_all_scores(world: Path, mode: str) -> None:
    searcher = opened(world)
    assert searcher.search(SKETCH, mode=mode)[0].confidence is None
    assert searcher.search(SKETCH, mode=mode).similar is None
    confidence = confident(searcher, mode)
    scores = torch.tensor([[score for _, score in expected(world, CODES, mode, lambda row: True)]])
    median = median_of(scores)
    found = searcher.search(SKETCH, top=5, page=2, mode=mode, group=False)
    wanted = confidence.of(scores[:, 5:10], median, COUNT)[0].tolist()
    assert [one.confidence for one in found] == pytest.approx(wanted, abs=1e-4)
    few = searcher.search(SKETCH, mode=mode, where="price < 3", group=False)
    assert len(few) == 3
    one = torch.tensor([[few[0].score]])
    assert few[0].confidence == pytest.approx(float(confidence.of(one, median, 3)), abs=1e-4)
    assert searcher.search(like=few[0].id, mode=mode)[0].confidence is None  # fitted for drawings


def test_a_photo_that_is_ranked_again_keeps_the_confidence_of_the_mode_that_found_it(world: Path) -> None:
    searcher = opened(world, TOKENS)
    confident(searcher, "ret")
    first = {one.id: one.confidence for one in searcher.search(SKETCH, top=7, mode="ret", group=False)}
    for again in (
        searcher.search(SKETCH, top=7, mode="rerank-7", group=False),
        searcher.search(SKETCH, top=7, mode="ret", rerank=7, rerank_mode="rn", group=False),
    ):
        assert {one.id: one.confidence for one in again} == pytest.approx(first, abs=1e-4)
    assert searcher.search(SKETCH, mode="rn")[0].confidence is None


def test_nothing_similar_is_said_below_the_level_on_every_page(world: Path) -> None:
    searcher = opened(world)
    scores = torch.tensor([[score for _, score in expected(world, CODES, "ret", lambda row: True)]])
    distance = float(scores[0, 0] - median_of(scores)[0])
    for level, similar in ((distance - 1e-3, True), (distance + 1e-3, False)):
        confident(searcher, "ret", level)
        for page in (1, 2):
            found = searcher.search(SKETCH, top=5, page=page, mode="ret", group=False)
            assert found.similar is similar
            assert {one.confidence is not None for one in found} == {similar}  # no 80 % beside "nothing similar"
            again = searcher.search(SKETCH, top=1, page=page, mode="ret", rerank=9, rerank_mode="asym-32", group=False)
            assert again.similar is similar
    assert searcher.search(SKETCH, where="price < 0").similar is None


def test_of_one_photo_nobody_says_that_it_is_not_similar(tmp_path: Path) -> None:
    """It is the median that it would have to stand out from."""
    put(tmp_path / "photos" / "0.png", photo(0))
    updated(tmp_path / "photos", tmp_path / "index")
    searcher = Searcher.open(str(tmp_path / "index"), CODES)
    confident(searcher, "ret", 0.005)
    found = searcher.search(SKETCH, mode="ret")
    assert found.similar is None and found[0].confidence is not None
