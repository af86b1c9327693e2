"""What `zse_sbir` saw in a pair: three views, after the figures of Lin et al., CVPR 2023.

The views: the photo patches most similar to a sketch patch after cross-attention, the attention of the retrieval token
in the last self-attention layer, and the sketch put together from photo patches. The paper shows figures only; how they
are computed here is our design.

Only tokens that stand for one patch of the picture are used, never the relation network's pooled anchors: in the
published layout those mix all patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zse_model.backbones import class_attention
from zse_model.errors import ZseError
from zse_model.explanation.base import Explainer, Explanation, scored
from zse_model.losses import normalised
from zse_model.precision import full_precision
from zse_model.scoring import Encoding
from zse_model.transforms import Modality

if TYPE_CHECKING:
    from zse_model.methods.zse_sbir import ZseSbir

INK_SHARE = 0.25
"""A patch counts as inked from this share of the ink of the darkest patch."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PatchExplanation(Explanation):
    """Views of n = rows * columns patches, row-major; NaN = dropped by token selection."""

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


def explain_patches(method: ZseSbir, sketch: Tensor, photo: Tensor, mode: str) -> PatchExplanation:
    """`Explainer.explain` of a `zse_sbir` with cross-attention."""
    device, grid = method.device, method.backbone.grid
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
    return PatchExplanation(
        **scored(method, query, found, mode),
        correspondence=correspondence,
        sketch_attention=maps[0],
        photo_attention=maps[1],
        no_attention=no_attention,
        synthesis=_synthesis(correspondence, photo.cpu(), grid),
    )


PATCHES = Explainer(
    mode="rn",
    explain=explain_patches,
    ready=lambda method: method.sketch_attends is not None,
    patches=True,
    condition="with triplet or relation above 0",
)


def salient_patches(found: PatchExplanation, sketch: Tensor, count: int = 6) -> list[tuple[int, int]]:
    """(row, column) of up to `count` sketch patches to follow: with ink, no two of them neighbours.

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
    """A picture's encoding; the retrieval token's row over the patches [heads, n] in the last self-attention layer, or
    None; and the reason for None.

    The row is computed again from the normalised input of the last block, because fused attention does not return it.
    """
    name, model = method.backbone_config.name, method.backbone.model_of(modality)
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
        return encoding, None, "the last self-attention layer drops patches, and has no row over all of them"
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
