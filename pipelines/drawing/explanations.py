"""Draw the explanations of `zse_model.explanation`: pictures of a pair for `zse explain`, and sheets for a report."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pipelines.workspace.tensors import to_tensor
from zse_model.errors import ZseError
from zse_model.explanation.base import Explanation, UnexplainableError
from zse_model.explanation.masks import MaskExplanation
from zse_model.explanation.matches import MatchExplanation, strongest_places
from zse_model.explanation.pair import explain_pair
from zse_model.explanation.patches import PatchExplanation, patch_of_pixels, salient_patches
from zse_model.methods import RetrievalMethod

LARGE, MIDDLE, SMALL, GAP, LINE = 320, 238, 152, 14, 20
PER_LINE = 6
# Most colour-blind readers can tell these colours apart; every box also has its number.
COLOURS = ((230, 97, 0), (0, 114, 178), (0, 148, 108), (196, 74, 150), (176, 132, 0), (40, 160, 220))
ATTENTION = (214, 64, 20)
DROPPED, TEXT, FAINT = (205, 205, 205), (30, 30, 30), (110, 110, 110)

CAPTIONS = {
    "correspondences": (
        "Which photo patch matches which sketch patch?",
        "Each numbered sketch patch is joined to the photo patch with the most similar token (cosine) after "
        "cross-attention. Every patch has a most similar patch, even if nothing corresponds: a line does not prove "
        "that the network matched the parts. A token has seen the whole picture, so it represents more than its box.",
    ),
    "matches": (
        "What is the score made of?",
        "Each numbered place of the sketch is joined to the place of the photo that matches it best. The score late is "
        "the sum over all inked places of the sketch: weight x match, which is the cosine, less what the distance of "
        "the two places in the picture costs. The numbered ones were asked for, or add most, no two of them "
        "neighbours; the list says how much they add. A place has seen more than its box: the network's last layers "
        "read a wide part of the picture.",
    ),
    "contributions": (
        "Where does the score come from?",
        "On the sketch: what each place adds to the score. On the photo: what the places that were matched give. Each "
        "map is tinted from 0 to its highest value, written below it. Both maps sum to the score late; what is below 0 "
        "has no tint.",
    ),
    "similarity": (
        "How clear is the match?",
        "The similarity of each numbered sketch patch to every photo patch; the highest is boxed. One dark spot is a "
        "clear match, a wide tint is none. Each map is tinted from its median to its highest value, both written "
        "below it. Do not compare the tints of two maps.",
    ),
    "attention-sketch": (
        "What does [Ret] read on the sketch?",
        "The attention of the retrieval token in the last self-attention layer: the mean of the heads, then each head. "
        "Darker patches get more attention. Each map is tinted from 0 to its highest share, written below it. "
        "Attention shows what this layer reads, not what decided the score: earlier layers have mixed the patches.",
    ),
    "attention-photo": (
        "What does [Ret] read on the photo?",
        "The same attention on the photo. The photo is encoded without the sketch: another sketch gives the same maps.",
    ),
    "synthesis": (
        "The sketch, rebuilt from photo patches",
        "Every sketch patch is replaced by the most similar photo patch after cross-attention. If the object appears "
        "in the sketch's pose, parts were matched to parts. A patch is copied without rotation or scaling, and may "
        "be used many times. The network itself never makes this picture.",
    ),
    "masks": (
        "Which places of the photo count?",
        "A place with the mask value m has the weight 1 + m in the photo's embedding. A gallery is encoded with the "
        "photo's own mask, which was trained on the sketch-guided mask; only that one needs a sketch. Each mask is "
        "tinted from its lowest to its highest value, both written below it: a flat mask can look like a strong one. "
        "The last picture shows where the sketch-guided mask is higher than the photo's own.",
    ),
}


@dataclass(frozen=True, eq=False)
class Explained:
    """The explanation of a pair and its pictures."""

    name: str
    """The name of the photo on the page."""
    explanation: Explanation
    pictures: dict[str, Image.Image]
    """Key of `CAPTIONS` -> picture; without attention if it cannot be computed."""
    notes: list[str]
    """Sentences about the pictures of all photos of a sketch."""
    detail: str = ""
    """A further number of this pair, in words."""


def explained(
    method: RetrievalMethod,
    sketch: np.ndarray,
    photo: np.ndarray,
    name: str,
    mode: str | None = None,
    patches: Sequence[tuple[int, int]] = (),
) -> Explained:
    """Explain and draw a pair. sketch: uint8 [s, s]; photo: uint8 [s, s, 3]; patches: (row, column), none = the salient
    ones.

    Raises the errors of `explain_pair`, and ZseError for a patch outside the grid or for a method without patches.
    """
    drawn, shown = to_tensor([sketch])[0], to_tensor([photo])[0]
    found = explain_pair(method, drawn, shown, mode)
    draw = next((draw for kind, draw in DRAWERS.items() if isinstance(found, kind)), None)
    if draw is None:
        known = ", ".join(kind.__name__ for kind in DRAWERS)
        raise UnexplainableError(f"A {type(found).__name__} cannot be drawn. Kinds that can (DRAWERS): {known}")
    return draw(found, name, sketch, photo, patches)


def explanation_sheets(
    method: RetrievalMethod,
    sketches: Sequence[np.ndarray],
    photos: Sequence[np.ndarray],
    captions: Sequence[str],
    names: Sequence[str] = ("best", "typical", "worst"),
    mode: str | None = None,
) -> dict[str, bytes]:
    """File name `explained-<name>.png` -> PNG: one sheet for each pair, beside the retrieval sheets of a report.

    sketches: uint8 [s, s]; photos: uint8 [s, s, 3], both by pair and of the size that the method was built for. For
    example: the best, the median and the worst query, each with its first photo. Raises the errors of `explained`.
    """
    sheets: dict[str, bytes] = {}
    for sketch, photo, caption, name in zip(sketches, photos, captions, names, strict=True):
        found = explained(method, sketch, photo, name, mode)
        scores = ", ".join(f"{key} {value:.3f}" for key, value in found.explanation.scores.items())
        parts = [(f"{caption}   ({scores})", None)]
        parts += [(CAPTIONS[key][0], picture) for key, picture in found.pictures.items()]
        sheets[f"explained-{name}.png"] = png(_stacked(parts))
    return sheets


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


# Drawing ------------------------------------------------------------------------------------------------------------


def _draw_patches(
    found: PatchExplanation, name: str, sketch: np.ndarray, photo: np.ndarray, patches: Sequence[tuple[int, int]]
) -> Explained:
    patches = patches or salient_patches(found, to_tensor([sketch])[0])
    maps = [found.similarity(row, column) for row, column in patches]
    pictures = {
        "correspondences": _correspondences(found.grid, patches, maps, sketch, photo),
        "similarity": _similarity(patches, maps, photo),
    }
    for key, heads, pixels in (
        ("attention-sketch", found.sketch_attention, sketch),
        ("attention-photo", found.photo_attention, photo),
    ):
        if heads is not None:
            pictures[key] = _attention(heads, pixels)
    mosaic = found.synthesis.permute(1, 2, 0).numpy()
    shown = {
        "sketch": sketch,
        "rebuilt from the photo": mosaic,
        "rebuilt, with the sketch on it": np.minimum(mosaic, sketch[..., None]),
        "photo": photo,
    }
    pictures["synthesis"] = _lines([_Panel(_scaled(pixels, MIDDLE), title) for title, pixels in shown.items()])
    rows, columns = found.grid
    notes = [f"The attention of [Ret] is not drawn: {found.no_attention}."] if found.no_attention else []
    notes.append(
        f"The network reads both pictures as {rows} by {columns} patches. Patch 0,0 (row, column) is at the top left. "
        "Token selection dropped the grey patches."
    )
    return Explained(name, found, pictures, notes)


def _draw_masks(
    found: MaskExplanation, name: str, sketch: np.ndarray, photo: np.ndarray, patches: Sequence[tuple[int, int]]
) -> Explained:
    if patches:
        raise ZseError(
            "--patch is for the patches of zse_sbir and late_interaction; crossatnet has masks. Leave it out"
        )
    rows, columns = found.grid
    return Explained(
        name,
        found,
        {"masks": _masks(found, sketch, photo)},
        [f"The network reads both pictures as {rows} by {columns} places."],
        f"the cosine with the sketch-guided mask is {found.guided_score:.4f}",
    )


def _draw_matches(
    found: MatchExplanation, name: str, sketch: np.ndarray, photo: np.ndarray, patches: Sequence[tuple[int, int]]
) -> Explained:
    patches = list(dict.fromkeys(patches)) or strongest_places(found)
    maps = [found.similarity(row, column) for row, column in patches]
    panels = []
    for title, values, pixels in (
        ("sketch", found.contributions, sketch),
        ("photo", found.importance, photo),
    ):
        high = max(float(values.max()), 0.0)
        tinted = _tinted(pixels, (values / max(high, 1e-12)).clamp(0, 1).view(found.grid), ATTENTION)
        panels.append(_Panel(tinted, title, f"0 to {high:.3f}"))
    pictures = {
        "matches": _correspondences(found.grid, patches, maps, sketch, photo),
        "contributions": _lines(panels),
        "similarity": _similarity(patches, maps, photo),
    }
    rows, columns = found.grid
    added = [float(found.contributions[row * columns + column]) for row, column in patches]
    listed = ", ".join(f"{i} adds {value:.3f}" for i, value in enumerate(added, 1))
    rest = float(found.contributions.sum()) - sum(added)
    notes = [f"Both pictures are {rows} by {columns} places. Place 0,0 (row, column) is at the top left."]
    return Explained(name, found, pictures, notes, f"{listed}, the other places {rest:.3f}")


DRAWERS: dict[type[Explanation], Callable[..., Explained]] = {
    PatchExplanation: _draw_patches,
    MaskExplanation: _draw_masks,
    MatchExplanation: _draw_matches,
}
"""Kind of explanation -> (explanation, name, sketch, photo, patches) -> its drawing."""


def _masks(found: MaskExplanation, sketch: np.ndarray, photo: np.ndarray) -> Image.Image:
    panels = [_Panel(_scaled(pixels, SMALL), title) for title, pixels in (("sketch", sketch), ("photo", photo))]
    for title, values in (
        ("photo's own mask", found.own),
        ("sketch-guided mask", found.guided),
        ("guided above own", (found.guided - found.own).clamp(min=0)),
    ):
        low, high = float(values.min()), float(values.max())
        tinted = _tinted(photo, (values - low) / max(high - low, 1e-6), ATTENTION)
        panels.append(_Panel(tinted, title, f"{low:.2f} to {high:.2f}"))
    return _lines(panels)


def _correspondences(
    grid: tuple[int, int],
    patches: Sequence[tuple[int, int]],
    maps: Sequence[Tensor],
    sketch: np.ndarray,
    photo: np.ndarray,
) -> Image.Image:
    """The pair with boxes and lines. It is drawn at twice the size and reduced: Pillow's lines have no soft edges."""
    side, apart = 2 * LARGE, 2 * 96
    canvas = Image.new("RGB", (2 * side + apart, side), "white")
    canvas.paste(_scaled(sketch, side), (0, 0))
    canvas.paste(_scaled(photo, side), (side + apart, 0))
    draw = ImageDraw.Draw(canvas)
    rows, columns = grid
    height, width = side / rows, side / columns
    taken: dict[tuple[int, int], int] = {}
    tags = []
    for i, (patch, values) in enumerate(zip(patches, maps, strict=True)):
        best = _best(values)
        before = taken[best] = taken.get(best, -1) + 1  # a photo patch with several matches gets a box in a box
        colour = COLOURS[i % len(COLOURS)]
        ours = _box(patch, width, height, 0, 0)
        theirs = _box(best, width, height, side + apart, 8 * before)
        start, end = (ours[2], (ours[1] + ours[3]) / 2), (theirs[0], (theirs[1] + theirs[3]) / 2)
        for shade, weight in (((255, 255, 255), 10), (colour, 5)):  # a white rim is visible on any photo
            draw.line([start, end], fill=shade, width=weight)
            draw.rectangle(ours, outline=shade, width=weight)
            draw.rectangle(theirs, outline=shade, width=weight)
        tags += [(ours[0], ours[1], i), (theirs[0] + 24 * before, theirs[1], i)]
    for x, y, i in tags:  # last, so that no line or box hides them
        x, y = max(x, 15), max(y, 15)
        draw.ellipse([x - 15, y - 15, x + 15, y + 15], fill=COLOURS[i % len(COLOURS)], outline="white", width=2)
        draw.text((x, y), str(i + 1), fill="white", font=_font(24), anchor="mm")
    return _framed(canvas.reduce(2))


def _best(values: Tensor) -> tuple[int, int]:
    row, column = divmod(int(values.nan_to_num(-torch.inf).argmax()), values.shape[1])
    return row, column


def _box(patch: tuple[int, int], width: float, height: float, left: float, inside: float) -> tuple[float, ...]:
    y, x = patch[0] * height, left + patch[1] * width
    inside = min(inside, width / 3, height / 3)  # in a small patch the last of many boxes coincide
    return x + inside, y + inside, x + width - 1 - inside, y + height - 1 - inside


def _similarity(patches: Sequence[tuple[int, int]], maps: Sequence[Tensor], photo: np.ndarray) -> Image.Image:
    panels = []
    for i, (patch, values) in enumerate(zip(patches, maps, strict=True)):
        median, high = float(values.nanmedian()), float(values.nan_to_num(-torch.inf).max())
        colour = COLOURS[i % len(COLOURS)]
        tinted = _tinted(photo, ((values - median) / max(high - median, 1e-6)).clamp(min=0), colour)
        box = _box(_best(values), SMALL / values.shape[1], SMALL / values.shape[0], 0, 0)
        ImageDraw.Draw(tinted).rectangle(box, outline=TEXT, width=2)
        note = f"{median:.2f} to {high:.2f}"
        panels.append(_Panel(tinted, f"{i + 1}: patch {patch[0]},{patch[1]}", note, colour))
    return _lines(panels)


def _attention(heads: Tensor, pixels: np.ndarray) -> Image.Image:
    """Maps over the picture: the mean of the heads, then each head. heads: float32 [heads, rows, columns], 0..1."""
    panels = []
    for i, values in enumerate([heads.mean(dim=0), *heads]):
        high = float(values.nan_to_num(0).max())
        tinted = _tinted(pixels, values / max(high, 1e-12), ATTENTION)
        panels.append(_Panel(tinted, f"head {i}" if i else f"mean of {len(heads)} heads", f"0 to {high:.1%}"))
    return _lines(panels)


def _tinted(pixels: np.ndarray, values: Tensor, colour: tuple[int, int, int]) -> Image.Image:
    """A picture in pale grey, each patch tinted by its value. values: [rows, columns] of 0..1; NaN = flat grey."""
    cell = patch_of_pixels(len(pixels), (values.shape[0], values.shape[1])).numpy()
    value = values.flatten().numpy()[cell][..., None]
    grey = np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.float32)[..., None]
    pale = 96 + grey * (255 - 96) / 255
    strength = 0.85 * np.nan_to_num(value)
    tinted = np.where(np.isnan(value), DROPPED, (1 - strength) * pale + strength * np.asarray(colour))
    return _scaled(tinted.round().astype(np.uint8), SMALL)


@dataclass(frozen=True, eq=False)
class _Panel:
    picture: Image.Image
    title: str
    note: str = ""
    colour: tuple[int, int, int] = TEXT


def _lines(panels: Sequence[_Panel]) -> Image.Image:
    """Panels of equal size in lines of nearly equal length, with titles above and notes below."""
    lines = -(-len(panels) // PER_LINE)
    per_line = -(-len(panels) // lines)
    width, height = panels[0].picture.size
    below = LINE if any(panel.note for panel in panels) else 0
    step_x, step_y = width + GAP, LINE + height + below + GAP
    canvas = Image.new("RGB", (per_line * step_x - GAP, lines * step_y - GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for i, panel in enumerate(panels):
        x, y = i % per_line * step_x, i // per_line * step_y
        draw.text((x, y), panel.title, fill=panel.colour, font=_font(13))
        canvas.paste(panel.picture, (x, y + LINE))
        draw.rectangle([x, y + LINE, x + width - 1, y + LINE + height - 1], outline=DROPPED)
        draw.text((x, y + LINE + height + 3), panel.note, fill=FAINT, font=_font(12))
    return _framed(canvas)


def _stacked(parts: Sequence[tuple[str, Image.Image | None]]) -> Image.Image:
    """Pictures in one column, each below its title."""
    width = max(picture.width for _, picture in parts if picture)
    height = sum(LINE + 8 + (picture.height if picture else 0) for _, picture in parts)
    canvas = Image.new("RGB", (width, height), "white")
    draw, y = ImageDraw.Draw(canvas), 0
    for title, picture in parts:
        draw.text((GAP, y + 8), title, fill=TEXT, font=_font(15))
        y += LINE + 8
        if picture:
            canvas.paste(picture, (0, y))
            y += picture.height
    return canvas


def _framed(picture: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", (picture.width + 2 * GAP, picture.height + 2 * GAP), "white")
    canvas.paste(picture, (GAP, GAP))
    return canvas


def _scaled(pixels: np.ndarray, side: int) -> Image.Image:
    return Image.fromarray(pixels).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
