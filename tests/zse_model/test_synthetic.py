"""The drawn world: the same bytes everywhere, something in every picture, instances and hands that differ."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zse_model.errors import ZseError
from zse_model.synthetic import CATEGORIES, UNSEEN, draw_photo, draw_sketch
from zse_model.synthetic.categories.registry import KNOWN

DRAWN = json.loads((Path(__file__).parents[1] / "golden" / "drawn.json").read_text())
"""Category -> modality -> the digest of three pictures."""
PINNED = ((0, 0, 0, 32), (3, 1, 5, 48), (1, 2, 7, 64))
"""(instance, variant, seed, size) of each of the three."""
DIGEST = """
import hashlib, sys
from zse_model.synthetic import draw_photo, draw_sketch
digest = hashlib.sha256()
for category in sys.argv[1:]:
    digest.update(draw_sketch(category, 3, variant=1, size=48, seed=5).tobytes())
    digest.update(draw_photo(category, 3, size=48, seed=5).tobytes())
print(digest.hexdigest())
"""


def shape(sketch: np.ndarray) -> np.ndarray:
    """The ink, thickened so that two hands can be compared, as a unit vector around 0."""
    coarse = (255.0 - sketch).reshape(8, len(sketch) // 8, 8, len(sketch) // 8).mean((1, 3)).ravel()
    coarse -= coarse.mean()
    return coarse / np.linalg.norm(coarse)


def test_categories() -> None:
    assert len(CATEGORIES) >= 48 and len(set(CATEGORIES)) == len(CATEGORIES)
    assert len(UNSEEN) == 12 and set(UNSEEN) < set(CATEGORIES)
    seen = set(CATEGORIES) - set(UNSEEN)
    assert [name for name in UNSEEN if not seen & set(re.findall(r"\w+", KNOWN[name].unseen))] == []
    with pytest.raises(ZseError, match="Unknown category 'unicorn'.*airplane.*teapot"):
        draw_photo("unicorn", 0)


def digest(pictures: list[np.ndarray]) -> str:
    return hashlib.sha256(b"".join(picture.tobytes() for picture in pictures)).hexdigest()[:16]


def test_every_byte_is_the_one_that_was_drawn_before() -> None:
    """A change here changes every fingerprint of drawn data. Another NumPy or Pillow may draw other bytes, too."""
    assert set(DRAWN) == set(CATEGORIES)
    drawn = {
        category: {
            "sketch": digest([draw_sketch(category, i, variant=v, seed=s, size=z) for i, v, s, z in PINNED]),
            "photo": digest([draw_photo(category, i, seed=s, size=z) for i, _, s, z in PINNED]),
        }
        for category in CATEGORIES
    }
    assert [category for category in CATEGORIES if drawn[category] != DRAWN[category]] == []


def test_a_fresh_process_draws_the_same_bytes() -> None:
    chosen = CATEGORIES[::6]
    digest = hashlib.sha256()
    for category in reversed(chosen):  # an order of its own, to see that nothing is carried over
        draw_photo(category, 1, size=48)
    for category in chosen:
        digest.update(draw_sketch(category, 3, variant=1, size=48, seed=5).tobytes())
        digest.update(draw_photo(category, 3, size=48, seed=5).tobytes())
    root = Path(__file__).parents[2]
    fresh = subprocess.run(
        [sys.executable, "-c", DIGEST, *chosen], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )
    assert fresh.stdout.strip() == digest.hexdigest()


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_category_draws(category: str) -> None:
    sketches = [draw_sketch(category, i, size=64) for i in range(3)]
    photos = [draw_photo(category, i, size=64) for i in range(3)]
    for sketch, photo in zip(sketches, photos, strict=True):
        assert sketch.shape == (64, 64) and sketch.dtype == np.uint8
        assert photo.shape == (64, 64, 3) and photo.dtype == np.uint8
        assert 0.015 < (sketch < 128).mean() < 0.5, "neither blank nor smeared"
        assert photo.std() > 12
    for one in (0, 1):
        assert (sketches[one] != sketches[one + 1]).mean() > 0.02
        assert np.abs(photos[one].astype(int) - photos[one + 1]).mean() > 5
    assert not np.array_equal(sketches[0], draw_sketch(category, 0, size=64, seed=1))


def test_hands_differ_but_draw_the_same_thing() -> None:
    hands = [np.stack([shape(draw_sketch(c, 0, variant=v, size=64)) for c in CATEGORIES]) for v in (0, 1)]
    alike = hands[0] @ hands[1].T
    own = np.diag(alike)
    others = alike[~np.eye(len(alike), dtype=bool)]
    assert own.max() < 0.999
    assert own.mean() > others.mean() + 0.2


def test_brightness_does_not_give_the_object_away() -> None:
    """Objects are brighter than their surroundings about as often as darker."""
    brighter = [np.mean(p[28:36, 28:36]) > np.mean(p) for c in CATEGORIES for p in [draw_photo(c, 0, size=64)]]
    assert 0.3 < np.mean(brighter) < 0.7
