"""Retrieval modes. Each method declares its modes; configuration, help, estimate, explanation page and docs read them.

A mode is one of three kinds: a `scorer` of every pair; two combined modes; or a shortlist that one mode finds and
another mode ranks. Each mode that scores every pair has a form whose best photos are ranked again by diffusion:
MODE-diffused-K.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from zse_model.diffusion import MOST
from zse_model.scoring import DotProduct, Precision, Scorer


def cosine(method: Any, asked: str, precision: Precision) -> Scorer:
    """The default of `Mode.scorer`: cosine of global embeddings."""
    return DotProduct(method.device)


@dataclass(frozen=True, kw_only=True)
class Mode:
    """A mode of a method. Its functions take the method as their first argument and read its networks when called."""

    name: str
    """The name in configurations. A last N or K stands for a number: `hash-N` is used as `hash-64`."""
    score: str
    """One sentence of help: what the score is."""
    explanation: str = ""
    """What the explanation page says: how its pictures relate to this score."""
    bits: tuple[int, ...] = ()
    """Allowed for N, the bits of a photo's code; () = the mode compares no codes."""
    pair_network: bool = False
    """Whether a pair costs more than a dot product: a network or `places` compare it."""
    places: bool = False
    """Whether every place of a sketch is compared with every place of a photo."""
    ready: Callable[[Any], bool] = lambda method: True
    """Whether a method with these weights has the mode."""
    lacking: str = ""
    """One sentence of an error: why a method may lack the mode."""
    scorer: Callable[[Any, str, Precision], Scorer] = cosine
    """(method, name of the mode with its number, precision) -> the scorer of pairs."""
    combined: tuple[str, str] | None = None
    """Two modes whose scores, float32 [q, g] each, `combine` combines."""
    combine: Callable[[Any, Tensor, Tensor], Tensor] | None = None
    shortlist: tuple[str, ...] | None = None
    """The mode that finds the K best photos, and the modes that may rank them: the first that the network has does."""

    def number(self, asked: str) -> int | None:
        """The N or K of the name `asked`: 0 if this mode has no number, None if `asked` is another mode."""
        match = re.fullmatch(re.sub("[NK]$", "([1-9][0-9]*)", self.name), asked)
        number = int((*match.groups(), 0)[0]) if match else None
        return None if self.bits and number not in self.bits else number

    def called(self, bits: int) -> str:
        """The name of the mode for codes of `bits` bits."""
        return re.sub("N$", str(bits), self.name)

    @property
    def cost(self) -> str:
        """The cost of a search, in words."""
        work = "all dot products of two pictures' places" if self.places else "a network"
        if self.shortlist:
            return f"{work} on K pairs a query" if self.pair_network else "K dot products a query"
        if self.pair_network:
            return f"{work} on every pair"
        return "N / 8 bytes a photo" if self.bits else "a dot product a pair"


RET = Mode(name="ret", score="Cosine of two embeddings.")
"""The mode that every method has. It is the first mode: the default, and the mode that selects checkpoints."""


def undiffused(asked: str) -> tuple[str, int]:
    """("fused", 500) of "fused-diffused-500": the 500 best photos of `fused` are ranked again by diffusion
    (`zse_model.diffusion`). ("fused", 0) of "fused"."""
    match = re.fullmatch("(.+)-diffused-([1-9][0-9]*)", asked)
    return (match[1], int(match[2])) if match and int(match[2]) <= MOST else (asked, 0)


def ranks_together(asked: str) -> str:
    """Why results of a mode do not compare with published ones, which score each photo alone; empty if they do."""
    return "diffusion ranks photos by each other" if undiffused(asked)[1] else ""


def rerank_depth(asked: str) -> int | None:
    """The K of `rerank-K`; None for another mode."""
    return Mode(name="rerank-K", score="").number(asked)
