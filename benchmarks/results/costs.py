"""What the modes of the final table cost: FLOP of a pair, and bytes of a photo in an index. Counted, not measured."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch

from benchmarks.results.plan import FINAL
from pipelines.config.load import load_experiment
from pipelines.encode.photos import form_of
from pipelines.evaluate.costs import count_flop
from pipelines.train.networks import buildable
from zse_model.methods import RetrievalMethod, create_method
from zse_model.modes import Mode
from zse_model.scoring import Encoding

CLASSES = 100


@cache
def costs(row: str) -> dict[str, tuple[float, int]]:
    """Mode -> (FLOP of a pair, bytes of a photo) of a row of FINAL, as an index keeps them; codes of 64 bits."""
    (found,) = (one for one in FINAL if one.name == f"sketchy-25.{row}")
    return costs_of(network(found.experiment, [s for s in found.overrides(0) if "$" not in s]))


def costs_of(method: RetrievalMethod) -> dict[str, tuple[float, int]]:
    """`costs` of a network on the device "meta"."""
    with torch.no_grad():
        sizes = {"sketch": 1, "photo": 3}
        pictures = {
            side: torch.empty(1, channels, method.size, method.size, dtype=torch.uint8, device="meta")
            for side, channels in sizes.items()
        }
        sketch, photo = method.encode(pictures["sketch"], "sketch"), method.encode(pictures["photo"], "photo")
        declared = {mode.name: mode for mode in method.MODES}
        return {
            mode.called(64): cost(method, [declared[part] for part in mode.combined or (mode.name,)], sketch, photo)
            for mode in method.MODES
            if not mode.shortlist and (method.bits or not mode.bits)
        }


def network(experiment: str, settings: Sequence[str]) -> RetrievalMethod:
    """The network of an experiment of one method, on the device "meta"."""
    config = load_experiment(experiment, [*settings, "dataset.source=none"])
    (name,) = config.methods
    with torch.device("meta"):
        return create_method(
            name,
            buildable(config.methods[name]),
            config.backbone,
            size=config.transforms.size,
            classes=CLASSES,
            load_weights=False,
        ).eval()


def cost(method: RetrievalMethod, parts: list[Mode], sketch: Encoding, photo: Encoding) -> tuple[float, int]:
    """Of modes that are combined, or of one. A code is counted as the product of its bits."""
    flop, read = 0, {}
    for mode in parts:
        if mode.bits:
            return 2 * method.bits, method.bits // 8
        scorer = mode.scorer(method, mode.name, "fp32")
        sides = scorer.precompute(sketch, "sketch"), scorer.precompute(photo, "photo")
        flop += count_flop(lambda scorer=scorer, sides=sides: scorer.score(*sides))
        read |= {name: form_of(name, photo[name]).bytes for name in scorer.reads("photo")}
    return flop, sum(read.values())
