"""A retrieval mode as its method declares it. Configuration, help, estimate, explanation page and docs read it there.

A mode is one of three kinds: a `scorer` of every pair; two modes combined; or a shortlist, which one mode finds and
another one ranks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from zse_model.scoring import DotProduct, Precision, Scorer


def cosine(method: Any, asked: str, precision: Precision) -> Scorer:
    return DotProduct(method.device)


@dataclass(frozen=True, kw_only=True)
class Mode:
    """Functions take the method first: what a mode needs of its networks is read when it is asked for."""

    name: str
    """As it is asked for. A last N or K stands for a number: `hash-N` is asked for as `hash-64`."""
    score: str
    """One sentence of help: what the score is."""
    explanation: str = ""
    """What a reader of an explained pair has to know: what the pictures have to do with this score."""
    bits: tuple[int, ...] = ()
    """Allowed for N, the bits of a photo's code; () = the mode compares no codes."""
    pair_network: bool = False
    """Whether a network runs on every pair that is ranked, and not once a picture."""
    ready: Callable[[Any], bool] = lambda method: True
    """Whether a method with these weights has it."""
    lacking: str = ""
    """Why a method may not have it, as a sentence."""
    scorer: Callable[[Any, str, Precision], Scorer] = cosine
    """(method, mode as asked for, precision) -> how pairs are scored."""
    combined: tuple[str, str] | None = None
    """Two modes whose scores, float32 [q, g] each, `combine` makes one of."""
    combine: Callable[[Any, Tensor, Tensor], Tensor] | None = None
    shortlist: tuple[str, str] | None = None
    """The mode that finds the K best, and the one that ranks them."""

    def number(self, asked: str) -> int | None:
        """The N or K of a mode that is asked for; 0 where this one has none, None for a mode of another name."""
        match = re.fullmatch(re.sub("[NK]$", "([1-9][0-9]*)", self.name), asked)
        number = int((*match.groups(), 0)[0]) if match else None
        return None if self.bits and number not in self.bits else number

    def called(self, bits: int) -> str:
        """As it is asked for of a method whose codes have so many bits."""
        return re.sub("N$", str(bits), self.name)

    @property
    def cost(self) -> str:
        """What a gallery of G photos costs, in words."""
        if self.shortlist:
            return "a network on K pairs a query" if self.pair_network else "K dot products a query"
        if self.pair_network:
            return "a network on every pair"
        return "N / 8 bytes a photo" if self.bits else "a dot product a pair"


RET = Mode(name="ret", score="Cosine of two embeddings.")
"""The mode that every method has. It comes first: the default, and what checkpoints are selected by."""


def rerank_depth(asked: str) -> int | None:
    """K of `rerank-K`, None for another mode."""
    return Mode(name="rerank-K", score="").number(asked)
