"""Format shell commands to paste, such as the next command that every verb prints at its end."""

from __future__ import annotations

import shlex
from collections.abc import Iterable


def command(verb: str, *words: str) -> str:
    """`zse VERB ...`, quoted for a shell. A value for the user to fill in is a word in capitals, such as FILE."""
    return shlex.join(["zse", *verb.split(), *words])


def repeated(option: str, values: Iterable[str] | None) -> list[str]:
    """The words of an option given once for each value; none for None."""
    return [word for value in values or () for word in (option, value)]
