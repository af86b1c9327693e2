"""Commands to paste into a shell, as every verb ends with."""

from __future__ import annotations

import shlex
from collections.abc import Iterable


def command(verb: str, *words: str) -> str:
    """`zse VERB ...`, each word quoted where a shell needs it. What the user has to fill in is a word such as FILE."""
    return shlex.join(["zse", *verb.split(), *words])


def repeated(option: str, values: Iterable[str] | None) -> list[str]:
    """The words of an option that was given several times, or not at all."""
    return [word for value in values or () for word in (option, value)]
