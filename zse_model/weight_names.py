"""Names of weights in checkpoints and training states of earlier versions. This table alone knows them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

RENAMED: Mapping[str, str] = {
    "prototypes": "classifier.prototypes",
    "soft_labels.": "distillation.",
    # crossatnet
    "whole.": "global_proj.",
    "parts.": "local_proj.",
    "ask.": "query_proj.",
    "guide.": "key_proj.",
    # zse_sbir
    "summary.": "pooled_proj.",
}
"""How a name began when the part was introduced -> how it begins today. No two parts share a beginning."""
OPTIONAL = ("relation", "sketch_attends", "photo_attends")
"""Modules that a loss weight of 0 does not build. Earlier versions built them always, and left them untrained."""


def current(name: str) -> str:
    """Today's name of a weight, by its name in a file of any version."""
    return _replaced(name, RENAMED.items())


def original(name: str) -> str:
    """The name that a weight had when its part was introduced, by its name in any version. Digests are of this name:
    renaming a part leaves the digest of its weights equal."""
    return _replaced(name, ((now, then) for then, now in RENAMED.items()))


def _replaced(name: str, beginnings: Iterable[tuple[str, str]]) -> str:
    for before, after in beginnings:
        if name.startswith(before):
            return after + name.removeprefix(before)
    return name


def upgraded(weights: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Weights of a file of any version under today's names, without modules that a network of the names `own` does not
    build."""
    unbuilt = set(OPTIONAL) - {module_of(name) for name in own}
    # A file with both names of a weight keeps both, which no network fits.
    named = {name if current(name) in weights else current(name): value for name, value in weights.items()}
    return {name: value for name, value in named.items() if module_of(name) not in unbuilt}


def module_of(name: str) -> str:
    """The module of a method that a weight belongs to."""
    return name.partition(".")[0]
