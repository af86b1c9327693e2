"""Codes in memory, searched exactly, a million of 64 bits in less than a millisecond; or in lists, for many more.

Every code is compared, by faiss's FastScan: four bits of a code choose one of 16 bytes, and the bytes of 32 codes are
added at once. The sums are the scores up to rounding, and of equal ones it returns any. So a few times k are taken, and
what was left out is proved to be worse, or looked for: the ranking is that of all the scores, ties included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zse_model.errors import ZseError
from zse_model.evaluation.search import Ranking
from zse_model.hashing import WEIGHT, agreement

BITS = (32, 64, 128, 256)
"""Of a code. The sums of longer ones do not fit into the 16 bits of the scan."""
MORE = 4  # times k are taken
BLOCK = 2**15  # codes looked through at once for those that tie


def one_of(numbers: Sequence[int]) -> str:
    """(32, 64, 128) -> "32, 64 or 128"."""
    return " or ".join((", ".join(map(str, numbers[:-1])), str(numbers[-1])))


class CodeIndex:
    """Packed codes, ranked as the scores of `Hamming` or of `Asymmetric` rank them.

    lists: None = exact; twice the bytes of the codes, three times while the first search after an `add` prepares them.
    A number = codes are sorted into so many lists by the nearest of as many centres, `probed` lists are searched, by
    distance alone, and what stands in another list is missed. The first codes added find the centres: add a
    representative part first, of at least 39 codes a list. Raises ValueError for bits that are not of `BITS`,
    and ImportError without faiss (`pip install faiss-cpu`).
    """

    def __init__(self, bits: int, *, lists: int | None = None, probed: int = 16) -> None:
        import faiss  # here, because networks train and score where it is not installed

        if bits not in BITS:
            raise ZseError(f"bits must be {one_of(BITS)}, got {bits}")
        self.bits = bits
        self._parts: list[np.ndarray] = []
        self._scan: Any = None
        self._lists: Any = None
        if lists is not None:
            self._lists = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(bits), bits, lists)  # keeps its quantizer
            self._lists.nprobe = probed

    def __len__(self) -> int:
        return sum(map(len, self._parts)) if self._lists is None else int(self._lists.ntotal)

    def add(self, codes: Tensor) -> None:
        """uint8 [n, bits / 8], the next n positions of the gallery. Raises ValueError for another shape or dtype, and
        for fewer codes in the first part than there are lists."""
        packed = self._checked(codes)
        if len(packed) == 0:
            return
        if self._lists is None:
            self._parts.append(packed.copy())
            self._scan = None
            return
        if not self._lists.is_trained:
            if len(packed) < self._lists.nlist:
                raise ZseError(f"{self._lists.nlist} lists need as many codes in the first part, got {len(packed)}")
            self._lists.train(packed)
        self._lists.add(packed)

    def search(self, queries: Tensor, k: int) -> Ranking:
        """The best min(k, len) of each query, equal scores in the order of positions.

        queries: codes, uint8 [q, bits / 8], whose scores are bits - 2 * distance; or what each bit weighs, float32
        [q, bits], whole numbers as `Asymmetric` prepares them, whose scores are `agreement`. Raises ValueError for an
        empty index, k < 1, another shape or dtype, and for weights where codes stand in lists.
        """
        weighted = queries.dtype != torch.uint8
        asked = self._weights(queries) if weighted else self._checked(queries)
        if len(self) == 0:
            raise ZseError("The gallery is empty: there is nothing to search.")
        if k < 1:
            raise ZseError(f"k must be at least 1, got {k}.")
        if len(asked) == 0:
            return Ranking(torch.zeros(0, min(k, len(self)), dtype=torch.int64), torch.zeros(0, min(k, len(self))))
        find = self._in_lists if self._lists is not None else self._by_weights if weighted else self._by_distance
        positions, sums = find(asked, min(k, len(self)))
        scores = torch.from_numpy(sums.astype(np.float32))
        return Ranking(torch.from_numpy(positions), agreement(scores, queries.cpu()) if weighted else scores)

    def _by_distance(self, asked: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions and bits - 2 * distance, int64 [q, k] each. Scores are 2 apart, a sum is from 0.51 below its score
        to 1.01 above: rounded it is the score, and what was left out is at best a tie of the last that was taken."""
        near, taken = self._scanned(_signs(asked), k)
        sums = self.bits - 2 * np.rint((self.bits - near + 0.25) / 2).astype(np.int64)
        positions, best = _first(taken, sums, k)
        left_out = taken.shape[1] < len(self)
        for row in np.flatnonzero(left_out & (sums[:, -1] == best[:, -1])):
            tied = int((best[row] == best[row, -1]).sum())
            positions[row, -tied:] = self._at_distance(asked[row], (self.bits - best[row, -1]) // 2, tied)
        return positions, best

    def _at_distance(self, code: np.ndarray, distance: int, count: int) -> np.ndarray:
        """The first `count` positions of codes so far from one: there are as many, blocks are read until then."""
        codes, word = self._codes.view(_word(self.bits)), code.view(_word(self.bits))
        found: list[np.ndarray] = []
        while sum(map(len, found)) < count:
            start = len(found) * BLOCK
            apart = np.bitwise_count(codes[start : start + BLOCK] ^ word).sum(1, dtype=np.int64)
            found.append(start + np.flatnonzero(apart == distance))
        return np.concatenate(found)[:count]

    def _by_weights(self, asked: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions and sums of weights, int64 [q, k] each. What was left out is scanned to at most the last one's sum,
        and its true one is at most `off` higher: where that could be among the best, all are added up."""
        near, taken = self._scanned(asked, k)
        positions, best = np.empty((len(asked), k), np.int64), np.empty((len(asked), k), np.int64)
        off = 1 + np.abs(asked).reshape(len(asked), -1, 4).sum(2).max(1) * (self.bits // 4) / 255
        for row, tables in enumerate(map(_tables, asked)):
            sums = _added(tables, self._codes[taken[row]])
            positions[row], best[row] = _first(taken[row], sums, k)
            if taken.shape[1] < len(self) and not near[row, -1] + off[row] < best[row, -1]:
                positions[row], best[row] = _first(*self._at_least(tables, best[row, -1]), k)
        return positions, best

    def _at_least(self, tables: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions and sums of all codes whose sum is not below `least`."""
        found = []
        for start in range(0, len(self), BLOCK):
            sums = _added(tables, self._codes[start : start + BLOCK])
            (rows,) = np.nonzero(sums >= least)
            found.append((start + rows, sums[rows]))
        positions, sums = zip(*found, strict=True)
        return np.concatenate(positions), np.concatenate(sums)

    def _in_lists(self, asked: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions and bits - 2 * distance, int64 [q, k] each. faiss keeps any of the codes that are as near as the
        k-th, so all of those are asked for by their distance."""
        near, positions = self._lists.search(asked, k)
        probed, best = self._lists.nprobe, np.empty((len(asked), k), np.int64)
        for row, code in enumerate(asked[:, None]):
            if positions[row, -1] < 0:  # the lists probed held fewer than k
                self._lists.nprobe = self._lists.nlist
                near[row], positions[row] = (found[0] for found in self._lists.search(code, k))
            _, distances, found = self._lists.range_search(code, int(near[row, -1]) + 1)
            self._lists.nprobe = probed
            positions[row], best[row] = _first(found, self.bits - 2 * distances.astype(np.int64), k)
        return positions, best

    def _scanned(self, weights: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Sums up to rounding, float32 falling, and positions, of the best `MORE` * k by them, [q, m] each."""
        import faiss

        if self._scan is None:
            self._parts = [np.concatenate(self._parts)]
            quantizer = faiss.IndexPQ(self.bits, self.bits // 4, 4, faiss.METRIC_INNER_PRODUCT)
            corners = np.tile(_signs(np.arange(16, dtype=np.uint8)[:, None])[:, :4], (self.bits // 4, 1))
            faiss.copy_array_to_vector(corners.ravel(), quantizer.pq.centroids)
            quantizer.is_trained = True
            quantizer.add_sa_codes(self._parts[0])  # packed bits are its codes of these corners
            self._scan = faiss.IndexPQFastScan(quantizer)  # type: ignore[arg-type]  # faiss's types lack this form
        near, positions = self._scan.search(weights, min(MORE * k, len(self)))
        for row in np.flatnonzero(positions[:, -1] < 0):  # a rounded sum of 0, the lowest, is never taken
            empty = positions[row] < 0
            left = np.setdiff1d(np.arange(len(empty)), positions[row])
            positions[row, empty], near[row, empty] = left[: empty.sum()], -np.abs(weights[row]).sum()
        return near, positions

    @property
    def _codes(self) -> np.ndarray:
        return self._parts[0]

    def _checked(self, codes: Tensor) -> np.ndarray:
        if codes.dtype != torch.uint8 or codes.ndim != 2 or codes.shape[1] * 8 != self.bits:
            raise ZseError(
                f"Codes of {self.bits} bits are uint8 [n, {self.bits // 8}], got {codes.dtype} {list(codes.shape)}"
            )
        return np.ascontiguousarray(codes.cpu().numpy())

    def _weights(self, weights: Tensor) -> np.ndarray:
        if self._lists is not None:
            raise ZseError("Lists are searched by codes, uint8; weights of bits need an index without lists")
        if weights.dtype != torch.float32 or weights.ndim != 2 or weights.shape[1] != self.bits:
            raise ZseError(
                f"Weights of {self.bits} bits are float32 [q, {self.bits}], got {weights.dtype} {list(weights.shape)}"
            )
        if not torch.equal(weights, weights.round().clamp(-WEIGHT, WEIGHT)):
            raise ZseError(f"Weights are whole numbers from {-WEIGHT} to {WEIGHT}, as Asymmetric prepares them")
        return np.ascontiguousarray(weights.detach().cpu().numpy())


def _tables(weights: np.ndarray) -> np.ndarray:
    """Of a query's weights [bits]: what each byte of a code adds by its value, int64 [bits / 8, 256]."""
    every = _signs(np.arange(256, dtype=np.uint8)[:, None])
    return (weights.reshape(-1, 8) @ every.T).astype(np.int64)


def _added(tables: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Sums of weights, int64 [n], of codes uint8 [n, bits / 8]."""
    sums = np.zeros(len(codes), np.int64)
    for i, table in enumerate(tables):
        sums += table[codes[:, i]]
    return sums


def _signs(codes: np.ndarray) -> np.ndarray:
    """uint8 [q, bits / 8] -> +1 and -1, float32 [q, bits]."""
    return np.unpackbits(codes, axis=1, bitorder="little").astype(np.float32) * 2 - 1


def _word(bits: int) -> type[np.unsignedinteger[Any]]:
    return np.uint32 if bits % 64 else np.uint64


def _first(positions: np.ndarray, sums: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of each row, equal sums in the order of positions."""
    order = np.argsort(-sums << 40 | positions, axis=-1)[..., :k]
    return np.take_along_axis(positions, order, axis=-1), np.take_along_axis(sums, order, axis=-1)
