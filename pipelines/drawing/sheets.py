"""Draw retrieval sheets: a sketch and its first ten photos in a row, for good, typical and bad queries.

Relevant photos have a green frame, others a red one. Evaluations, comparisons and searches call it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from pipelines.runtime.redaction import printable
from pipelines.workspace.images import Images
from pipelines.workspace.members import Members
from pipelines.workspace.pictures import decode_pixels
from zse_model.evaluation.evaluate import Evaluation

CELL, FRAME, GAP, CAPTION = 112, 4, 6, 18
RIGHT, WRONG, PLAIN = (38, 150, 75), (205, 60, 50), (170, 170, 170)
QUERIES, TOP = 4, 10


def retrieval_sheets(found: Evaluation, images: Images, sketches: Members, photos: Members) -> dict[str, bytes]:
    """File name -> PNG. Good, typical and bad queries have the highest, middle and lowest values of the first
    metric."""
    metric, ranked = found.task.metrics[0], by_precision(found)
    values = found.values(found.task.protocols[0], metric).numpy()
    middle = max((len(ranked) - QUERIES) // 2, 0)
    chosen = {
        "good": ranked[:QUERIES],
        "typical": ranked[middle : middle + QUERIES],
        "bad": ranked[-QUERIES:],
    }
    labels, sheets = found.task.gallery_labels.numpy(), {}
    for name, queries in chosen.items():
        top = found.top.indices[torch.from_numpy(queries), :TOP].numpy()
        drawn = decode_all(images, sketches, queries)
        shown = decode_all(images, photos, top.reshape(-1))
        rows = []
        for i, query in enumerate(queries):
            right = labels[top[i]] == int(found.task.query_labels[query])
            rows.append(
                Row(
                    drawn[i],
                    f"{sketches.category[query]}, {metric} {values[query]:.2f}",
                    shown[i * top.shape[1] : (i + 1) * top.shape[1]],
                    [str(photos.category[j]) for j in top[i]],
                    [bool(r) for r in right],
                )
            )
        sheets[f"{name}.png"] = draw_sheet(rows)
    return sheets


def by_precision(found: Evaluation) -> np.ndarray:
    """int64, the answered queries by falling value of the first metric (average precision)."""
    values = found.values(found.task.protocols[0], found.task.metrics[0]).numpy()
    return np.argsort(-np.nan_to_num(values, nan=-1), kind="stable")[: int((~np.isnan(values)).sum())]


class Row:
    """A query and its first photos. sketch: uint8 [s, s]; photos: uint8 [s, s, 3] each; right: None = unknown."""

    def __init__(
        self,
        sketch: np.ndarray,
        caption: str,
        photos: Sequence[np.ndarray],
        captions: Sequence[str],
        right: Sequence[bool] | None,
    ) -> None:
        self.sketch, self.caption, self.photos, self.captions, self.right = sketch, caption, photos, captions, right


def decode_all(images: Images, members: Members, rows: np.ndarray) -> list[np.ndarray]:
    wanted = members.where(np.asarray(rows, dtype=np.int64))
    return [decode_pixels(data) for data in images.data(wanted)]


def draw_sheet(rows: Sequence[Row]) -> bytes:
    """A PNG with one line for each query and captions below the pictures."""
    width = max(len(row.photos) for row in rows) + 1
    step_x, step_y = CELL + 2 * FRAME + GAP, CELL + 2 * FRAME + CAPTION + GAP
    sheet = Image.new("RGB", (width * step_x + 2 * GAP + GAP, len(rows) * step_y + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for y, row in enumerate(rows):
        top = GAP + y * step_y
        _paste(sheet, draw, GAP, top, row.sketch, PLAIN, row.caption)
        for x, (photo, caption) in enumerate(zip(row.photos, row.captions, strict=True)):
            frame = PLAIN if row.right is None else RIGHT if row.right[x] else WRONG
            _paste(sheet, draw, 3 * GAP + (x + 1) * step_x - GAP, top, photo, frame, caption)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", compress_level=4)  # the most takes 4 times as long, for 5 % fewer bytes
    return buffer.getvalue()


def _paste(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    x: int,
    y: int,
    pixels: np.ndarray,
    frame: tuple[int, int, int],
    caption: str,
) -> None:
    side = CELL + 2 * FRAME
    draw.rectangle([x, y, x + side - 1, y + side - 1], fill=frame)
    picture = Image.fromarray(pixels).convert("RGB").resize((CELL, CELL), Image.Resampling.BICUBIC)
    sheet.paste(picture, (x + FRAME, y + FRAME))
    draw.text((x, y + side + 2), printable(caption)[:22], fill=(40, 40, 40))
