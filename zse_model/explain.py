"""What a network saw in a sketch and a photo: tensors only, drawing is apart (`pipelines.drawing.explanations`).

Of `crossatnet` its two masks (`explain_masks`). Of `zse_sbir` three views (`explain`), after the figures of Lin et al.,
CVPR 2023: the photo patches most similar to a sketch patch after cross-attention, the attention of the retrieval token
in the last self-attention layer, and the sketch put together from photo patches. The paper shows figures only; how they
are computed here is our design.

Only tokens that stand for one patch of the picture are used, never the relation network's pooled anchors: in the
published layout those mix all patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from zse_model.backbones import class_attention
from zse_model.errors import ZseError
from zse_model.losses import normalised
from zse_model.methods import METHODS, CrossATNet, Encoding, Modality, RetrievalMethod, ZseSbir
from zse_model.precision import full_precision
from zse_model.transforms import BadPicture

# A patch has ink to speak of where it has this share of what the darkest patch has.
INK_SHARE = 0.25


class UnexplainableError(ZseError):
    """A method that compares pictures as wholes: it has no patches to show."""


@dataclass(frozen=True, eq=False)
class PairExplanation:
    """What is said of any pair: how it is scored, and on how many places it was looked at."""

    mode: str
    """The retrieval mode that the explanation was asked for."""
    about: str
    """What the pictures have to do with this mode's score, as its method declares it."""
    scores: Mapping[str, float]
    """By every mode of the method, what `method.score` gives: the photo as a gallery holds it."""
    grid: tuple[int, int]
    """Rows and columns of patches or places, the same on both pictures."""

    @property
    def score(self) -> float:
        return self.scores[self.mode]


@dataclass(frozen=True, eq=False)
class MaskExplanation(PairExplanation):
    """What `crossatnet` reads of a photo, on rows x columns places of its map."""

    own: Tensor
    """float32 [rows, columns] in 0..1: what the photo alone takes for important; its embedding is made with it."""
    guided: Tensor
    """float32 [rows, columns] in 0..1: what this sketch finds important in it; `own` was trained to follow it."""
    guided_score: float
    """The cosine of the sketch and of the photo read through `guided`, which no gallery can be encoded by."""


@dataclass(frozen=True, eq=False)
class Explanation(PairExplanation):
    """What `zse_sbir` saw. n = rows * columns patches, row-major; NaN = dropped by token selection."""

    correspondence: Tensor
    """float32 [n, n] in -1..1: the cosine of sketch patch i and photo patch j after cross-attention."""
    sketch_attention: Tensor | None
    """float32 [heads, rows, columns] >= 0: the share of the retrieval token's attention that a patch gets, in the last
    self-attention layer. A head sums to 1 less what it leaves on tokens that are no patches. None: see below."""
    photo_attention: Tensor | None
    """The same of the photo."""
    no_attention: str
    """Why there are no attention maps, empty where there are."""
    synthesis: Tensor
    """uint8 [3, s, s]: each patch of the sketch replaced by the most similar one of the photo; dropped ones white."""

    def similarity(self, row: int, column: int) -> Tensor:
        """float32 [rows, columns]: the cosine of one sketch patch, counted from 0, with every photo patch.

        Raises ValueError for a patch that is not in the grid, or that token selection dropped.
        """
        rows, columns = self.grid
        if not (0 <= row < rows and 0 <= column < columns):
            raise ZseError(
                f"There is no patch {row},{column}: the grid is {rows}x{columns}, "
                f"rows are 0..{rows - 1} and columns 0..{columns - 1}"
            )
        found = self.correspondence[row * columns + column]
        if found.isnan().all():
            raise ZseError(f"Token selection dropped the sketch's patch {row},{column}; choose another")
        return found.view(self.grid)


def explainable(method: RetrievalMethod) -> ZseSbir:
    """The method itself, if it has patches to show. Raises UnexplainableError."""
    if not isinstance(method, ZseSbir):
        names = {known: name for name, known in METHODS.items()}
        raise UnexplainableError(
            f"Method {names.get(type(method), type(method).__name__)!r} cannot be explained: it compares one vector a "
            f"picture and has no patches. Methods that can be: {names[ZseSbir]!r}, and {names[CrossATNet]!r} with "
            "attention"
        )
    if method.sketch_attends is None:
        raise UnexplainableError(
            "This zse_sbir has no cross-attention, whose patches an explanation compares: it was trained with triplet "
            "and relation 0"
        )
    return method


def explained_mode(method: RetrievalMethod) -> str:
    """The mode whose scores the pictures are about: of a pair network, which sees both at once, else the first one."""
    return method.pair_mode or method.modes[0]


def has_masks(method: RetrievalMethod) -> TypeGuard[CrossATNet]:
    """Whether `explain_masks` has something to show."""
    return isinstance(method, CrossATNet) and method.own_mask is not None


@torch.no_grad()
def explain_masks(method: CrossATNet, sketch: Tensor, photo: Tensor, mode: str | None = None) -> MaskExplanation:
    """What a `crossatnet` reads of a photo: by itself, and guided by a sketch. Arguments and errors as of `explain`.

    Source: crossatnet, cross-modal attention; the masks are our reconstruction.
    """
    mode = _ready(method, sketch, photo, mode)
    ours = method.features(sketch.to(method.device)[None], "sketch")
    theirs = method.features(photo.to(method.device)[None], "photo")
    query, found = method.encoding(ours, "sketch"), method.encoding(theirs, "photo")
    assert ours.tokens is not None and theirs.tokens is not None
    own, guided = method.mask(theirs.tokens), method.guided_mask(ours.tokens, theirs.tokens)
    assert own is not None and guided is not None
    read = method.embed(theirs, guided)
    return MaskExplanation(
        mode=mode,
        about=method.mode(mode).explanation,
        scores={name: float(method.score(query, found, name)) for name in method.modes},
        grid=method.backbone.grid,
        own=own[0].cpu().unflatten(0, method.backbone.grid),
        guided=guided[0].cpu().unflatten(0, method.backbone.grid),
        guided_score=float((query["embedding"] * read).sum()),
    )


@torch.no_grad()
def explain(method: RetrievalMethod, sketch: Tensor, photo: Tensor, mode: str | None = None) -> Explanation:
    """Explain how a method sees a pair.

    method: `zse_sbir`, in eval mode. sketch: uint8 [1 or 3, s, s], 255 paper; photo: uint8 [3, s, s]; s as the method
    was built for, both as `prepare_sketch` and `prepare_photo` make them. mode: None = `explained_mode`.

    Raises UnexplainableError for a method without patch tokens, BadPicture for an empty canvas, ValueError for another
    shape, an unknown mode or a method in training mode. Source: ZSE-SBIR's figures; our design.
    """
    method = explainable(method)
    mode = _ready(method, sketch, photo, mode)
    device, grid = next(method.parameters()).device, method.backbone.grid
    query, sketch_rows, no_attention = _encode(method, sketch.to(device)[None], "sketch")
    found, photo_rows, _ = _encode(method, photo.to(device)[None], "photo")
    ours, theirs = (tokens[0, 1:] for tokens in method.cross_attend(query["tokens"], found["tokens"]))
    with full_precision(device):
        cosine = (normalised(ours) @ normalised(theirs).T).cpu().clamp(-1, 1)
    correspondence = _on_grid(_on_grid(cosine, found, grid).T, query, grid).T.contiguous()
    maps = [
        None if rows is None else _on_grid(rows.cpu(), encoding, grid).unflatten(-1, grid)
        for rows, encoding in ((sketch_rows, query), (photo_rows, found))
    ]
    return Explanation(
        mode=mode,
        about=method.mode(mode).explanation,
        scores={name: float(method.score(query, found, name)) for name in method.modes},
        grid=grid,
        correspondence=correspondence,
        sketch_attention=maps[0],
        photo_attention=maps[1],
        no_attention=no_attention,
        synthesis=_synthesis(correspondence, photo.cpu(), grid),
    )


def salient_patches(found: Explanation, sketch: Tensor, count: int = 6) -> list[tuple[int, int]]:
    """(row, column) of up to `count` sketch patches worth asking about: with ink, no two of them neighbours.

    Those with the most attention of the retrieval token (mean of the heads) come first; where there are no attention
    maps, those with the most ink. sketch: uint8 [1 or 3, s, s], as it was explained.
    """
    columns, ink = found.grid[1], ink_of_patches(sketch, found.grid)
    worth = ink if found.sketch_attention is None else found.sketch_attention.mean(dim=0).flatten()
    kept = ~found.correspondence.isnan().all(dim=1)
    worth = worth.masked_fill(~kept | (ink < INK_SHARE * ink[kept].max()), -torch.inf)
    chosen: list[tuple[int, int]] = []
    for i in worth.argsort(descending=True, stable=True).tolist():
        row, column = divmod(i, columns)
        if len(chosen) == count or worth[i] == -torch.inf:
            break
        if all(max(abs(row - r), abs(column - c)) > 1 for r, c in chosen):
            chosen.append((row, column))
    return chosen


def ink_of_patches(sketch: Tensor, grid: tuple[int, int]) -> Tensor:
    """float32 [n] in 0..255: how dark each patch of a sketch, uint8 [1 or 3, s, s], is on average."""
    cell, dark = patch_of_pixels(sketch.shape[-1], grid).flatten(), 255 - sketch.float().mean(dim=0).flatten()
    patches = grid[0] * grid[1]
    return torch.bincount(cell, dark, patches) / torch.bincount(cell, minlength=patches)


def patch_of_pixels(size: int, grid: tuple[int, int]) -> Tensor:
    """int64 [size, size]: which patch of a grid, row-major, each pixel of a square belongs to."""
    row, column = (torch.arange(size) * n // size for n in grid)
    return row[:, None] * grid[1] + column


def _ready(method: RetrievalMethod, sketch: Tensor, photo: Tensor, mode: str | None) -> str:
    """The mode that is explained, for a method and pictures that can be."""
    if method.training:
        raise ZseError("The method is in training mode, where dropout makes scores random: call method.eval() first")
    mode = method.ranked_by(mode or explained_mode(method))
    _check(sketch, "sketch", (1, 3), method.size)
    _check(photo, "photo", (3,), method.size)
    if sketch.min() == sketch.max():
        raise BadPicture("blank: no ink")
    return mode


def _check(picture: Tensor, what: str, channels: tuple[int, ...], size: int) -> None:
    fits = picture.dim() == 3 and picture.shape[0] in channels and picture.shape[1:] == (size, size)
    if picture.dtype != torch.uint8 or not fits:
        allowed = " or ".join(map(str, channels))
        raise ZseError(
            f"The {what} must be uint8 [{allowed}, {size}, {size}], got {picture.dtype} {list(picture.shape)}"
        )


def _on_grid(values: Tensor, encoding: Encoding, grid: tuple[int, int]) -> Tensor:
    """[..., kept patches] -> [..., all patches], NaN where token selection dropped one."""
    if "positions" not in encoding:
        return values
    out = values.new_full((*values.shape[:-1], grid[0] * grid[1]), torch.nan)
    out[..., encoding["positions"][0].cpu()] = values
    return out


def _synthesis(correspondence: Tensor, photo: Tensor, grid: tuple[int, int]) -> Tensor:
    """uint8 [3, s, s] of [3, s, s]. Where s is no multiple of the grid, patches differ by a pixel in size."""
    size = photo.shape[-1]
    cell = patch_of_pixels(size, grid)
    # the first pixel row and column of every patch
    top, left = (torch.tensor([-(-i * size // n) for i in range(n)]) for n in grid)
    best = correspondence.nan_to_num(-torch.inf).argmax(dim=1)[cell]  # [s, s], the patch that each pixel comes from
    y = top[best // grid[1]] + (torch.arange(size)[:, None] - top[cell // grid[1]])
    x = left[best % grid[1]] + (torch.arange(size) - left[cell % grid[1]])
    mosaic = photo[:, y.clamp(max=size - 1), x.clamp(max=size - 1)]
    return mosaic.masked_fill(correspondence.isnan().all(dim=1)[cell], 255)


def _encode(method: ZseSbir, images: Tensor, modality: Modality) -> tuple[Encoding, Tensor | None, str]:
    """A picture's encoding, and of the last self-attention layer the retrieval token's row over the patches [heads, n];
    or None and why not.

    The row is computed again from the normalised input of the last block: fused attention never shows it.
    """
    name, model = method.backbone_config.name, method.backbone.model
    own = len(method.blocks) > 0
    block: Any = method.blocks[-1] if own else _last_block(model)
    if block is None:
        return method.encode(images, modality), None, f"{name} is not made of blocks whose attention is known here"
    attention = block if own else block.attn
    seen: dict[str, Tensor] = {}
    # Its norm, not the block: token selection calls the block's parts one by one.
    handles = [block.norm1.register_forward_hook(lambda _, __, output: seen.update(normed=output))]
    if not own:
        handles.append(attention.proj.register_forward_pre_hook(lambda _, inputs: seen.update(mixed=inputs[0])))
    try:
        encoding = method.encode(images, modality)
    finally:
        for handle in handles:
            handle.remove()

    heads, prefix = (block.heads, 1) if own else (attention.num_heads, model.num_prefix_tokens)
    if seen["normed"].shape[1] - prefix != encoding["tokens"].shape[1] - 1:
        return encoding, None, "the last self-attention layer drops patches itself, and of those nothing is known"
    q, k, v = attention.qkv(seen["normed"])[0].unflatten(-1, (3, heads, -1)).permute(1, 2, 0, 3)
    if own:
        with full_precision(q.device):
            rows = (q[:, :1].float() @ k.float().transpose(1, 2) * q.shape[-1] ** -0.5).softmax(dim=-1)
    else:
        rows = class_attention(attention, seen["normed"])[0][:, None]
        # Relative positions, gates and the like would make this row a wrong one: it has to mix the values to what the
        # network itself made of them. Where attention is nearly even that is no proof, so rotary ones go by name.
        mixed = seen["mixed"][0, 0]
        same = torch.allclose((rows @ v).flatten(), mixed, rtol=0, atol=1e-3 * float(mixed.abs().max()))
        if not same or getattr(model, "rope", None) is not None:
            why = "its attention is more than queries and keys, it has rotary or relative positions or the like"
            return encoding, None, f"{name}: {why}"
    return encoding, rows[:, 0, prefix:], ""


def _last_block(model: Any) -> Any:
    """The last block of a timm vision transformer whose attention can be computed again; None if there is none."""
    blocks = getattr(model, "blocks", None)
    block: Any = blocks[-1] if isinstance(blocks, nn.Sequential | nn.ModuleList) else None
    attention: Any = getattr(block, "attn", None)
    known = all(hasattr(attention, name) for name in ("num_heads", "q_norm", "k_norm", "proj")) and hasattr(
        block, "norm1"
    )
    return block if known and isinstance(getattr(attention, "qkv", None), nn.Linear) else None
