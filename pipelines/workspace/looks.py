"""Photos that a gallery holds twice: the same file under two names, or the same picture stored another way.

Compared are 8x8 colour thumbnails, which ingest keeps beside each photo. Of real photos stored again (other JPEG
qualities, twice or half the size) they stay within 1 to 3 grey levels (3.4 the worst) of the original's; of different
photos of a class those of Sketchy lie 13 and more apart, those of Caltech-101, which does hold photos twice, 5 and more
(`python -m benchmarks duplicates`). Our design.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image

SIDE = 8
NEAR = 3.0  # grey levels, root mean square
BLOCK = 1024  # photos compared with the rest of their class at once


def look(photo: Image.Image) -> bytes:
    """uint8 [192]: the thumbnail of an RGB photo."""
    # Not of a JPEG that reduces itself on decoding (`draft`): faster, and tens of grey levels off.
    return photo.resize((SIDE, SIDE), Image.Resampling.BOX).tobytes()


def repeated(looks: np.ndarray, groups: Iterable[object]) -> np.ndarray:
    """bool [n]: those that look like an earlier one of the same group that is not itself left out; None = in no group.

    looks: uint8 [n, 192], in the order of the gallery.
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
