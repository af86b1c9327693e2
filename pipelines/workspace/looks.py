"""Find repeated photos of a gallery: the same file under two names, or the same picture stored in another way.

`zse ingest` keeps an 8x8 colour thumbnail of each photo, and the evaluation compares thumbnails. If a real photo is
stored again (other JPEG quality, twice or half the size), the thumbnails differ by 1 to 3 grey levels, at most 3.4.
Different photos of a class differ by 13 or more in Sketchy, and by 5 or more in Caltech-101, which has repeated photos
(`python -m benchmarks duplicates`).

Products on a white ground are as near in 8x8 cells, and differ in their details: a ring and a cross, a shirt with
another print. So a search, which hides repeated photos, compares details, too (`alike`). Our design.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from PIL import Image

SIDE = 8
NEAR = 3.0  # grey levels, root mean square: less is a repeated photo
BLOCK = 1024  # photos compared with the rest of their class at once
FINE = 32
"""Cells a side of a photo's details."""
CELL, SHARE, BLANK = 40.0, 0.15, 1.0
"""Of real photos stored again, a cell of 2x2 differs by at most CELL, and the square of the difference is at most SHARE
of the variance (`python -m benchmarks duplicates`); BLANK is for pictures without variance. The prints of a shirt
differ by 60 or more in a cell, a small ring and a cross by 0.24 of the variance."""


def look(photo: Image.Image) -> bytes:
    """uint8 [192]: the thumbnail of an RGB photo."""
    # Decode a JPEG in full: `draft` decodes a smaller one faster, and is off by tens of grey levels.
    return photo.resize((SIDE, SIDE), Image.Resampling.BOX).tobytes()


def repeated(looks: np.ndarray, groups: Iterable[object]) -> np.ndarray:
    """bool [n]: the photos that repeat an earlier photo of the same group which is not itself repeated.

    looks: uint8 [n, 192], in the order of the gallery. groups: None = in no group.
    """
    members: dict[object, list[int]] = {}
    for i, group in enumerate(groups):
        if group is not None:
            members.setdefault(group, []).append(i)
    out = np.zeros(len(looks), dtype=bool)
    for rows in members.values():
        for earlier, later in _near(looks[rows]):
            out[rows[later]] |= not out[rows[earlier]]
    return out


def first_of(looks: np.ndarray, details_of: Callable[[np.ndarray], Sequence[np.ndarray]]) -> list[int]:
    """For each photo the first one that it repeats and that repeats no other, or itself. The answer for a photo depends
    on earlier photos only.

    looks: uint8 [n, 192]. details_of: the `details` of some photos, int64 [m]; asked for those with near looks.
    """
    out = list(range(len(looks)))
    near = _near(looks)
    if not len(near):
        return out
    asked, places = np.unique(near, return_inverse=True)
    found = np.stack(details_of(asked))
    pairs = places.reshape(-1, 2)
    likely = _likely(found, pairs)
    for (earlier, later), (one, other) in zip(near[likely].tolist(), pairs[likely].tolist(), strict=True):
        if out[later] == later and out[earlier] == earlier and alike(found[one], found[other]):
            out[later] = earlier
    return out


def details(photo: Image.Image) -> np.ndarray:
    """float32 [FINE, FINE, 3]: the colours of a photo's cells."""
    return np.asarray(photo.convert("RGB").resize((FINE, FINE), Image.Resampling.BOX), dtype=np.float32)


def _likely(found: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """bool [m]: which pairs, int64 [m, 2], of details [n, FINE, FINE, 3] may pass the second test of `alike`. Of 600
    products on white, which have 178,000 near pairs, `alike` alone took 44 s."""
    flat = found.reshape(len(found), -1)
    squares = (flat**2).mean(1)
    variance = (found - found.mean((1, 2), keepdims=True)).reshape(len(found), -1).var(1)
    out = np.empty(len(pairs), dtype=bool)
    for start in range(0, len(found), BLOCK):  # pairs are compared where the rows of their earlier photo are
        inside = np.flatnonzero((pairs[:, 0] >= start) & (pairs[:, 0] < start + BLOCK))
        one, other = pairs[inside].T
        products = flat[start : start + BLOCK] @ flat.T / flat.shape[1]
        square = squares[one] + squares[other] - 2 * products[one - start, other]
        # A tenth above `alike`, which decides, for rounding.
        out[inside] = square <= SHARE * (variance[one] + variance[other]) / 2 + BLANK + 0.1
    return out


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two photos with near looks are one picture: `details` of both."""
    cell, square, variance = apart(one, other)
    return cell <= CELL and square <= SHARE * variance + BLANK


def apart(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """How details differ, in grey levels: most of a cell of 2x2, the mean square, and the mean variance of the two."""
    difference = one - other
    cells = np.abs(difference.reshape(FINE // 2, 2, FINE // 2, 2, 3).mean((1, 3))).mean(2)
    variance = ((one - one.mean((0, 1))).var() + (other - other.mean((0, 1))).var()) / 2
    return float(cells.max()), float((difference**2).mean()), float(variance)


def _near(looks: np.ndarray) -> np.ndarray:
    """int64 [m, 2]: pairs (earlier, later) of near thumbnails, sorted by the later one."""
    looks = looks.astype(np.float32)
    squares = (looks**2).sum(1)
    limit = NEAR**2 * looks.shape[1]
    found = [np.empty((0, 2), dtype=np.int64)]
    for start in range(0, len(looks), BLOCK):
        block = slice(start, start + BLOCK)
        distances = squares[block, None] + squares - 2 * looks[block] @ looks.T
        later, earlier = np.nonzero(distances < limit)
        later += start
        found.append(np.stack([earlier, later], axis=1)[earlier < later])
    return np.concatenate(found)
