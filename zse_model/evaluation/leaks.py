"""Refuse a test on classes or pictures that a checkpoint has seen: its result would not be zero-shot."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch

from zse_model.checkpoint import Checkpoint, Trained, picture_key
from zse_model.errors import ZseError
from zse_model.split import ZeroShotSplit, conflicts, imagenet_units_naming, normalise_name


class LeakError(ZseError):
    """The checkpoint has seen a test class or a test picture; the message names them."""


def refuse_leaks(
    checkpoint: Checkpoint | Trained,
    split: ZeroShotSplit,
    pictures: Mapping[str, str] = MappingProxyType({}),
    *,
    verbatim: bool = False,
    selection: bool = False,
) -> None:
    """Raise LeakError if the checkpoint saw an unseen class of `split` or one of `pictures` (hex sha256 -> name).

    Pseudo-unseen classes, on which the checkpoint was selected, count as seen. With `selection` they do not: `split` is
    then one of `ZeroShotSplit.for_selection`, whose results are for selection only. Classes leak by alias too
    (`same_thing`), except on the checkpoint's own split and with `verbatim`, where published lists stay as they are.
    """
    own = checkpoint.split
    known = own.training if selection else own.seen
    names = {normalise_name(c) for c in known}
    if verbatim or (own.seen, own.unseen) == (split.seen, split.unseen):
        classes = [(c, c) for c in split.unseen if normalise_name(c) in names]
    else:
        classes = conflicts(known, split.unseen)
    if classes:
        pairs = ", ".join(f"{a} (seen) = {b} (unseen)" for a, b in classes[:10])
        seen = {b for _, b in classes}
        left = [c for c in split.unseen if c not in seen]
        raise LeakError(
            f"The checkpoint {checkpoint.training.get('run')} was trained or chosen on {len(classes)} unseen classes "
            f"of {split.name}: {pairs}. Its result would not be zero-shot. Evaluate a checkpoint of another split, "
            f"or only the classes that it has not seen: {', '.join(left) or 'none'}"
        )
    keys = torch.tensor([picture_key(sha) for sha in pictures], dtype=torch.int64)
    found = torch.isin(keys, checkpoint.seen_pictures)
    if found.any():
        named = [name for name, seen in zip(pictures.values(), found.tolist(), strict=True) if seen]
        raise LeakError(
            f"{len(named)} of {len(keys)} test pictures of {split.name} were training pictures of the checkpoint "
            f"{checkpoint.training.get('run')} (same content): {', '.join(named[:10])}"
            f"{' ...' if len(named) > 10 else ''}. Remove them from the test set"
        )


def distilled_units(checkpoint: Checkpoint, split: ZeroShotSplit) -> int:
    """The number of distilled ImageNet units that name an unseen class of `split`: 0 on the checkpoint's own split, and
    possibly more on others. Result rows have it as `distilled_test_units`."""
    config = checkpoint.method.config
    if not getattr(config, "distillation", 0):
        return 0
    return len(set(imagenet_units_naming(split.unseen)) - set(config.dropped_units or ()))


def refuse_start(start: Checkpoint, split: ZeroShotSplit) -> None:
    """Raise LeakError if a training on `split` must not start from a checkpoint: it saw an unseen or pseudo-unseen
    class, or a class that `split` does not list as seen.
    """
    refuse_leaks(start, split)
    held_out = conflicts(start.split.training, split.pseudo_unseen)
    if (start.split.seen, start.split.unseen) == (split.seen, split.unseen):
        held_out = [(c, c) for c in split.pseudo_unseen if c in start.split.training]
    untold = sorted({normalise_name(c) for c in start.split.seen} - {normalise_name(c) for c in split.seen})
    if held_out or untold:
        why = [f"it was trained on the pseudo-unseen classes {[b for _, b in held_out][:5]}"] * bool(held_out)
        why += [f"it has seen {untold[:5]}, which are no seen classes of {split.name}"] * bool(untold)
        raise LeakError(
            f"start: {start.training.get('run')} cannot start a training on {split.name}: {' and '.join(why)}. Start "
            "from a checkpoint of the same split (and dataset.split_seed)"
        )
