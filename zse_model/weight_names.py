"""Names of weights in checkpoints and training states of earlier versions. This table alone knows them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

HEADS = {"prototypes": "classifier.prototypes", "soft_labels.": "distillation."}
RENAMED: Mapping[str, Mapping[str, str]] = {
    "global": HEADS,
    "crossatnet": HEADS
    | {"whole.": "global_proj.", "parts.": "local_proj.", "ask.": "query_proj.", "guide.": "key_proj."},
    "zse_sbir": HEADS | {"summary.": "pooled_proj."},
}
"""Method -> how a name began when its part was introduced -> how it begins today. No beginning stands for two parts."""
OPTIONAL = ("relation", "sketch_attends", "photo_attends")
"""Modules that a loss weight of 0 does not build. Earlier versions built them always, and left them untrained."""


def original(name: str, method: str) -> str:
    """The name that a weight of a method had when its part was introduced, by its name in any version. Digests are over
    this name: renaming a part leaves the digest of its weights equal."""
    return _replaced(name, {now: then for then, now in RENAMED.get(method, {}).items()})


def upgraded(weights: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Weights of a file of any version under today's names, for a network of the names `own`: without modules that it
    does not build. A file with both names of a weight keeps both, which no network fits."""
    table = {then: now for of in RENAMED.values() for then, now in of.items()}
    unbuilt = set(OPTIONAL) - {module_of(name) for name in own}
    named = {}
    for name, value in weights.items():
        today = _replaced(name, table)
        named[name if name in own or today in weights else today] = value
    return {name: value for name, value in named.items() if module_of(name) not in unbuilt}


def module_of(name: str) -> str:
    """The module of a method that a weight belongs to."""
    return name.partition(".")[0]


def _replaced(name: str, beginnings: Mapping[str, str]) -> str:
    for before, after in beginnings.items():
        if name.startswith(before):
            return after + name.removeprefix(before)
    return name
