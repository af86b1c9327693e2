"""What users of services for picture search report: each is tried here. Those of the page are in `test_page`."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from benchmarks.papers import photographed
from benchmarks.world import as_bytes
from pipelines.search.searcher import Snapshot
from pipelines.serve.service import Settings
from tests.encode.test_index import put, updated
from tests.helpers.pictures import picture
from tests.search.test_searcher import TOKENS
from tests.serve.client import asked, form, raw, searched
from tests.serve.conftest import Running, running
from zse_model.synthetic import draw_photo, draw_sketch


def ids(service: Running, **asked_for: object) -> list[str]:
    answer = searched(service.url, **asked_for)
    assert answer.status == 200, answer.body
    return [one["id"] for one in answer.json["photos"]]


def shows(jpeg: bytes, drawn: np.ndarray) -> bool:
    """Whether a thumbnail is of a drawn picture."""
    small = np.asarray(Image.open(io.BytesIO(jpeg)), dtype=float)
    return small.shape == drawn.shape and bool(np.abs(small - drawn).mean() < 12)


def test_two_hundred_equal_photos_in_four_pages_of_fifty(tmp_path: Path) -> None:
    data = picture(draw_photo("fish", 1, size=48))
    names = [f"{i:03d}.png" for i in range(200)]
    for name in names:
        put(tmp_path / "photos" / name, data)
    updated(tmp_path / "photos", tmp_path / "index", TOKENS, tokens=True)
    with running(Settings(index=str(tmp_path / "index"), model=TOKENS)) as service:
        for mode in ("ret", "rn"):
            pages = [ids(service, top=50, page=page, mode=mode, group=False) for page in (1, 2, 3, 4)]
            assert [id for page in pages for id in page] == names, f"{mode}: none twice, none left out"
        (only,) = searched(service.url, top=50).json["photos"]
        assert [only["id"], *only["repeats"]] == names


def test_a_filter_that_one_of_a_hundred_passes_gives_twenty_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that rank last: a filter of the first so many photos would find none."""
    monkeypatch.setattr("pipelines.encode.index.ALONE", 2001)  # without Ray
    drawn = [picture(draw_photo("fish", kind, size=48)) for kind in range(100)]
    names = [f"{kind:03d}/{i:02d}.png" for kind in range(100) for i in range(20)]
    for name in names:
        put(tmp_path / "photos" / name, drawn[int(name[:3])])
    updated(tmp_path / "photos", tmp_path / "index", TOKENS)
    with running(Settings(index=str(tmp_path / "index"), model=TOKENS)) as service:
        ranked = [id for page in range(1, 11) for id in ids(service, top=200, page=page, group=False)]
        assert sorted(ranked) == names
        table = "path,rare\n" + "".join(f"{id},{str(id in ranked[-20:]).lower()}\n" for id in names)
        (tmp_path / "about.csv").write_text(table)
        updated(None, tmp_path / "index", TOKENS, metadata=str(tmp_path / "about.csv"))
        service.service.searcher.follow()
        assert ids(service, top=20, where="rare", group=False) == ranked[-20:]


def test_names_in_every_script_lead_to_their_thumbnails(odd: tuple[Running, dict[str, int]]) -> None:
    """Decomposed and composed, with signs of URLs, of two Cyrillic folders, and not in UTF-8."""
    service, seeds = odd
    found = searched(service.url, top=len(seeds), group=False).json["photos"]
    assert {one["id"] for one in found} == set(seeds)
    for one in found:
        drawn = draw_photo("fish", seeds[one["id"]], size=48)
        assert shows(asked(service.url + one["thumbnail"]).body, drawn), one["id"]
        again = asked(f"{service.url}v1/photos/{quote(one['id'], safe='')}").json
        assert (again["id"], again["thumbnail"]) == (one["id"], one["thumbnail"])
        assert one["id"] not in ids(service, like=one["id"], top=len(seeds))


@pytest.mark.parametrize("orientation", [0, 6])
def test_pictures_of_a_camera_that_was_turned_are_upright(tmp_path: Path, orientation: int) -> None:
    """Photos and drawings."""

    def turned(upright: np.ndarray) -> bytes:
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = np.rot90(upright, 1 if orientation == 6 else 0)
        return picture(np.ascontiguousarray(stored), "JPEG", exif=exif, quality=95)

    drawn = draw_photo("fish", 3, size=48)[:24]
    put(tmp_path / "photos" / "turned.jpg", turned(drawn))
    for i in range(9):
        put(tmp_path / "photos" / f"{i}.png", picture(draw_photo("fish", 10 + i, size=48)))
    updated(tmp_path / "photos", tmp_path / "index", TOKENS)
    with running(Settings(index=str(tmp_path / "index"), model=TOKENS)) as service:
        about = asked(f"{service.url}v1/photos/turned.jpg").json
        assert (about["width"], about["height"]) == (48, 24)
        assert shows(asked(service.url + about["thumbnail"]).body, drawn)
        sketch = draw_sketch("fish", 2, size=64)

        def seen(file: bytes) -> np.ndarray:
            """The drawing as the model gets it."""
            drawings: list[np.ndarray] = []
            really = Snapshot.answers

            def answers(self: Snapshot, drawn: Sequence[np.ndarray], **asked: Any) -> Any:
                drawings.extend(drawn)
                return really(self, drawn, **asked)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Snapshot, "answers", answers)
                assert asked(f"{service.url}v1/search", *form(("drawing", file))).status == 200
            return drawings[0].astype(float)

        upright = seen(picture(sketch, "JPEG", quality=95))
        assert np.abs(seen(turned(sketch)) - upright).mean() < 2
        assert np.abs(seen(picture(np.ascontiguousarray(np.rot90(sketch)))) - upright).mean() > 10


def large(width: int, height: int) -> bytes:
    """A PNG of a cross, small as a file."""
    cross = Image.new("1", (width, height), 1)
    cross.paste(0, (width // 2, 0, width // 2 + width // 20, height))
    cross.paste(0, (0, height // 2, width, height // 2 + height // 20))
    buffer = io.BytesIO()
    cross.save(buffer, "PNG")
    return buffer.getvalue()


def test_a_drawing_of_sixty_megapixels_is_answered_and_one_of_more_is_told_the_limit(service: Running) -> None:
    whole = asked(f"{service.url}v1/search", *form(("drawing", large(7746, 7746))))
    assert whole.status == 200 and len(whole.json["photos"]) == 20
    above = asked(f"{service.url}v1/search", *form(("drawing", large(8001, 8000))))
    assert (above.status, above.json["field"]) == (413, "drawing") and "limit of 64,000,000" in above.json["detail"]
    status, said = raw(service.url, b"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Length: 10000001\r\n\r\n")
    assert status == 413 and b"limit of 10,000,000 bytes" in said


def test_a_photo_that_is_deleted_and_comes_back_as_another_is_the_other(tmp_path: Path) -> None:
    """While the service answers."""
    pictures = {f"{i}.png": draw_photo("fish", i, size=48) for i in range(5)}
    for name, drawn in pictures.items():
        put(tmp_path / "photos" / name, picture(drawn))
    updated(tmp_path / "photos", tmp_path / "index", TOKENS)
    with running(Settings(index=str(tmp_path / "index"), model=TOKENS)) as service:

        def found() -> dict[str, str]:
            return {one["id"]: one["thumbnail"] for one in searched(service.url).json["photos"]}

        def follow() -> None:
            updated(None, tmp_path / "index", TOKENS)
            service.service.searcher.follow()

        before = found()
        (tmp_path / "photos" / "3.png").unlink()
        follow()
        assert set(found()) == set(pictures) - {"3.png"}
        gone: Sequence[str] = (before["3.png"], "v1/photos/3.png")
        assert [asked(service.url + path).status for path in gone] == [404, 404]
        assert searched(service.url, like="3.png").json["field"] == "like"
        other = draw_photo("church", 7, size=48)
        put(tmp_path / "photos" / "3.png", picture(other))
        follow()
        after = found()
        assert set(after) == set(pictures) and shows(asked(service.url + after["3.png"]).body, other)
        assert {id for id in pictures if before[id] != after[id]} == {"3.png"}, "a browser keeps the others only"


def test_a_photographed_drawing_is_cleaned_and_shown(service: Running) -> None:
    taken = photographed(np.asarray(draw_sketch("fish", 1, size=256)), "tuning", "fish 1", 600)
    scene = as_bytes(Image.fromarray(draw_photo("apple", 0)).resize((512, 512)), "JPEG", quality=90)

    def answer(data: bytes, clean: str = "") -> Any:
        return asked(f"{service.url}v1/search", *form(("drawing", data), ("clean", clean)))

    found = answer(taken).json
    assert "flattened the paper" in found["cleaned"]["done"] and found["photos"]
    shown = Image.open(io.BytesIO(base64.b64decode(found["cleaned"]["png"].partition(",")[2])))
    assert np.median(np.asarray(shown)) == 255, "paper is white"
    assert "cleaned" not in answer(taken, "never").json
    assert "cleaned" not in answer(picture(draw_sketch("fish", 1, size=256))).json, "a clean drawing stays as it is"
    refused = answer(scene)
    assert (refused.status, refused.json["field"]) == (422, "drawing"), refused.json
    assert "a photo, not a drawing" in refused.json["detail"]
    assert answer(scene, "never").status == 200
    assert answer(taken, "maybe").json["field"] == "clean"
