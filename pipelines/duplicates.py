"""Photos that a gallery holds twice: the same file under two names, or the same picture stored another way.

Compared are 16x16 colour thumbnails. Of real photos stored again (other JPEG qualities, twice or half the size) they
stay within 1 to 5 grey levels of the original's; of different photos of a class those of Sketchy lie 17 and more apart,
those of Caltech-101, which does hold photos twice, 9 and more (`python -m benchmarks duplicates`). Signs of gradients
(dHash, 256 bits) do not separate them: flat backgrounds turn up to 46 bits of a photo stored again, and two motorcycles
on white differ in 12. Our design.
"""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

SIDE = 16
NEAR = 4.0  # grey levels, root mean square
BLOCK = 1024  # photos compared with the rest of their class at once


def look(photo: bytes) -> np.ndarray:
    """float32 [768]: the thumbnail of an encoded photo."""
    # Not by JPEG's own reduction on decoding (`draft`): faster, and up to 29 grey levels off.
    small = Image.open(io.BytesIO(photo)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32).ravel()


def repeated(looks: np.ndarray, groups: Iterable[object]) -> np.ndarray:
    """bool [n]: those that look like an earlier one of the same group that is not itself left out; None = in no group.

    looks: float32 [n, 768], in the order of the gallery.
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


def _near(looks: np.ndarray) -> np.ndarray:
    """int64 [m, 2]: pairs (earlier, later), by the later one."""
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
