"""Repeated photos of a gallery are found in every format, and left out if the protocol requires it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.run import run
from pipelines.workspace.looks import look, repeated
from pipelines.workspace.pictures import encode_photo
from tests.conftest import tiny_folder
from zse_model.synthetic import draw_photo, draw_sketch


def test_a_photo_stored_again_is_repeated_and_another_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (draw_photo("car", i, size=96) for i in (0, 1))
    smaller = np.asarray(Image.fromarray(first).resize((64, 64)))
    worse = io.BytesIO()
    Image.fromarray(first).save(worse, "JPEG", quality=60)
    photos = [encode_photo(second), encode_photo(first), encode_photo(smaller), worse.getvalue(), encode_photo(first)]
    looks = np.stack([np.frombuffer(look(Image.open(io.BytesIO(photo))), np.uint8) for photo in photos])
    same_class = ["car"] * 5
    assert repeated(looks, same_class).tolist() == [False, False, True, True, True]
    assert repeated(looks[::-1], same_class).tolist() == [False, True, True, True, False], "the first one stays"
    assert repeated(looks, ["car", "car", "bus", "car", None]).tolist() == [False, False, False, True, False]
    monkeypatch.setattr("pipelines.workspace.looks.BLOCK", 2)
    assert repeated(looks, same_class).tolist() == [False, False, True, True, True]


def test_a_photo_near_a_repeated_photo_stays() -> None:
    steps = np.stack([np.full(192, level, dtype=np.uint8) for level in (0, 2, 4, 6)])
    assert repeated(steps, "aaaa").tolist() == [False, True, False, True]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_galleries_are_as_their_protocol_wants_them(tmp_path: Path) -> None:
    source = tmp_path / "pictures"
    for category in ("fish", "teapot", "car", "church"):
        for i in range(4):
            for modality, draw in (("sketch", draw_sketch), ("photo", draw_photo)):
                path = source / modality / category / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draw(category, i, size=64)).save(path)
    again = Image.open(source / "photo" / "fish" / "0.png")
    again.save(source / "photo" / "fish" / "again.png", compress_level=1)
    again.resize((80, 80)).save(source / "photo" / "fish" / "larger.jpg", quality=90)
    (source / "pairs.tsv").write_text(
        "class\tsketch\tphoto\n" + "".join(f"fish\t{i}.png\t{i}.png\n" for i in (1, 2, 3)) + "fish\t0.png\tagain.png\n"
    )
    config = tiny_folder(str(source), ["fish", "teapot"], evaluation={"references": ["raw_pixels"]})
    rows = run(config, str(tmp_path / "w")).rows()
    galleries = {(r["method"], r["protocol"], r["metric"]): r["gallery"] for r in rows if "-" not in r["setting"]}
    for method in ("global", "raw_pixels"):
        assert galleries[method, "plain", "mAP_all"] == 8, "four fish and four teapots"
        assert galleries[method, "zse_paper", "mAP_all"] == 10, "as a published gallery has them"
    fine = {r["gallery"] for r in rows if "-fg-class." in r["setting"]}
    assert fine == {10}, "at instance level each repeated photo is an instance, and the answer to a sketch"
