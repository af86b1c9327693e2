"""Names of weights in checkpoints and training states of earlier versions. This table alone knows them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

HEADS = {"prototypes": "classifier.prototypes", "soft_labels.": "distillation."}
RENAMED: Mapping[str, Mapping[str, str]] = {
    "global": HEADS,
    "crossatnet": HEADS
    | {"whole.": "global_proj.", "parts.": "local_proj.", "ask.": "query_proj.", "guide.": "key_proj."},
    "zse_sbir": HEADS | {"summary.": "pooled_proj."},
}
"""Method -> how a name began when its part was introduced -> how it begins today. No beginning stands for two parts."""
OPTIONAL: Mapping[str, frozenset[str]] = {"zse_sbir": frozenset({"relation", "sketch_attends", "photo_attends"})}
"""Method -> modules that a loss weight of 0 does not build. Earlier versions built and did not train them."""

LATER = frozenset({"confidence"})
"""Buffers that files of earlier versions lack. Of zeros, as they then are, they do not count in a digest."""


def original(name: str, method: str) -> str:
    """The name that a weight of a method had when its part was introduced, by its name in any version. Digests are over
    this name: renaming a part leaves the digest of its weights equal."""
    return _replaced(name, {now: then for then, now in RENAMED.get(method, {}).items()})


def todays(names: Collection[str], own: Collection[str], method: str) -> dict[str, str]:
    """Names of weights in a file of any version -> their names in a network of the names `own`, without the modules
    that it does not build. A file with both names of a weight keeps both, which fits no network."""
    unbuilt = OPTIONAL.get(method, frozenset()) - {module_of(name) for name in own}
    table, found = RENAMED.get(method, {}), {}
    for name in names:
        today = _replaced(name, table)
        found[name] = name if name in own or today in names else today
    return {name: today for name, today in found.items() if module_of(today) not in unbuilt}


def module_of(name: str) -> str:
    """The module of a method that a weight belongs to."""
    return name.partition(".")[0]


def _replaced(name: str, beginnings: Mapping[str, str]) -> str:
    for before, after in beginnings.items():
        if name.startswith(before):
            return after + name.removeprefix(before)
    return name
