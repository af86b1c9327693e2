"""Codes of a method's embeddings: the modes that compare them, and how a training fits them at its end (our design)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from zse_model.code_index import BITS, one_of
from zse_model.errors import ZseError
from zse_model.hashing import Asymmetric, CodeHead, Hamming, pack
from zse_model.methods.base import RetrievalMethod, TrainBatch
from zse_model.modes import Mode
from zse_model.scoring import Encoding
from zse_model.transforms import Modality

CODE_PICTURES = 4096  # training pictures that codes are fitted to
KINDS = ("hash", "itq")


def fitted(kind: str) -> Callable[[Coding], bool]:
    """Whether a network has fitted codes of one of KINDS."""
    return lambda method: bool(method.bits) and method.codes[f"{kind}-{method.bits}"].fitted


CODES = Mode(
    name="hash-N",
    score="Equal minus different bits of two learned codes.",
    explanation="The score is the number of equal bits minus the number of different bits of two codes. A code is made "
    "from an embedding.",
    bits=BITS,
    ready=fitted("hash"),
    lacking="A training fits its codes at its end, with the bits of its configuration (bits above 0).",
    scorer=lambda method, asked, _: Hamming(method.device, asked),
)


def code_modes(more: str = "") -> tuple[Mode, ...]:
    """The modes of a `Coding` method. more: what its explanations add."""
    codes = replace(CODES, explanation=CODES.explanation + more)
    return (
        codes,
        replace(
            codes,
            name="itq-N",
            score="Equal minus different bits of two ITQ codes of the embeddings: the baseline.",
            ready=fitted("itq"),
        ),
        replace(
            codes,
            name="asym-N",
            score="Equal minus different bits of a photo's hash-N and a sketch, weighted by the magnitudes of the "
            "sketch's projection.",
            scorer=lambda method, asked, _: Asymmetric(
                method.device, CODES.called(method.bits), method.codes[CODES.called(method.bits)]
            ),
        ),
    )


RERANK_CODES = Mode(name="rerank-K", score="The K best by hash-N, ranked by ret.", shortlist=("hash-N", "ret"))


def check_bits(name: str, bits: int) -> None:
    """Raises ZseError for bits that a method's configuration may not have."""
    if bits not in (0, *BITS):
        raise ZseError(f"{name}: bits must be 0 (no codes), {one_of(BITS)}, got {bits}")


class Coding(RetrievalMethod):
    """A method that may have codes of its embeddings. Its configuration has `bits`."""

    codes: Mapping[str, CodeHead]

    def build_codes(self, dim: int) -> None:
        """Heads of `bits`, for embeddings of `dim` numbers. They are fitted by `conclude`."""
        self.bits = self.config.bits
        heads = {f"{kind}-{self.bits}": CodeHead(dim, self.bits) for kind in KINDS if self.bits}
        self.codes = nn.ModuleDict(heads)  # type: ignore[assignment]

    def coded(self, embedding: Tensor, modality: Modality) -> Encoding:
        """Embeddings [b, dim] -> their fitted codes by `hash-N` and `itq-N`, uint8 [b, N / 8]."""
        return {name: pack(head(embedding, modality)) for name, head in self.codes.items() if head.fitted}

    @torch.no_grad()
    def conclude(self, batches: Iterator[TrainBatch]) -> None:
        """Fit the codes to the embeddings of CODE_PICTURES training pictures: closed forms."""
        sketches: list[Tensor] = []
        photos: list[Tensor] = []
        labels: list[Tensor] = []
        while self.codes and 2 * sum(map(len, photos)) < CODE_PICTURES:
            batch = next(batches)
            images, of = batch.pictures()
            half = len(images) // 2
            sketches.append(self.encode(images[:half], "sketch")["embedding"].cpu())
            photos.append(self.encode(images[half:], "photo")["embedding"].cpu())
            labels.append(of.view(2, half).cpu())
        for name, head in self.codes.items():
            if name.startswith("itq"):
                head.fit_itq(torch.cat(sketches + photos))
            else:
                head.fit(torch.cat(sketches), torch.cat(photos), torch.cat(labels, dim=1).flatten())
