"""Index of hash codes in memory: exact search of a million 64-bit codes in under a millisecond, or inverted lists.

Exact search compares every code with faiss's FastScan: four bits of a code select one of 16 bytes, and the bytes of 32
codes are summed at once. The sums are the scores up to rounding, and FastScan breaks ties arbitrarily. The search
therefore takes `MORE` * k codes. If a code outside them could belong to the first k, it reads the other codes too. The
ranking equals that of all scores, ties included.
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
"""Allowed lengths of a code. The sums of longer codes do not fit into the 16 bits of the scan."""
MORE = 4  # the scan takes MORE * k codes
BLOCK = 2**15  # codes read at once to find ties


def one_of(numbers: Sequence[int]) -> str:
    """(32, 64, 128) -> "32, 64 or 128"."""
    return " or ".join((", ".join(map(str, numbers[:-1])), str(numbers[-1])))


class CodeIndex:
    """Packed codes, ranked by the scores of `Hamming` or of `Asymmetric`.

    lists: None = exact search. Memory is twice the bytes of the codes, three times during the first search after an
    `add`. A number = inverted lists, one for each of as many centres: a search reads the `probed` nearest lists, by
    Hamming distance only, and misses codes in others. The first `add` trains the centres: add a representative part
    first, of at least 39 codes a list.
    Raises: ZseError for bits not in `BITS`, ImportError without faiss (`pip install faiss-cpu`).
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
        """Append n codes, uint8 [n, bits / 8]. Raises ZseError for another shape or dtype, and if the first codes are
        fewer than the lists."""
        packed = self._checked(codes)
        if len(packed) == 0:
            return
        if self._lists is None:
            self._parts.append(packed.copy())
            self._scan = None
            return
        if not self._lists.is_trained:
            if len(packed) < self._lists.nlist:
                raise ZseError(
                    f"{self._lists.nlist} lists need at least as many codes in the first add, got {len(packed)}"
                )
            self._lists.train(packed)
        self._lists.add(packed)

    def search(self, queries: Tensor, k: int) -> Ranking:
        """The first min(k, len) of each query. Equal scores are ordered by position.

        queries: codes, uint8 [q, bits / 8], whose scores are bits - 2 * distance; or the weight of each bit, float32
        [q, bits] of whole numbers, computed by `Asymmetric`, whose scores are `agreement`.
        Returns: Ranking [q, min(k, len)]. Raises: ZseError for an empty index, k < 1, another shape or dtype, and for
        weights with inverted lists.
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
        """Positions and bits - 2 * distance, int64 [q, k] each. Scores are multiples of 2, and a sum lies between 0.51
        below its score and 1.01 above it: rounding gives the score, and a code outside the scan can at best tie with
        the last code of the scan."""
        near, taken = self._scanned(_signs(asked), k)
        sums = self.bits - 2 * np.rint((self.bits - near + 0.25) / 2).astype(np.int64)
        positions, best = _first(taken, sums, k)
        left_out = taken.shape[1] < len(self)
        for row in np.flatnonzero(left_out & (sums[:, -1] == best[:, -1])):
            tied = int((best[row] == best[row, -1]).sum())
            positions[row, -tied:] = self._at_distance(asked[row], (self.bits - best[row, -1]) // 2, tied)
        return positions, best

    def _at_distance(self, code: np.ndarray, distance: int, count: int) -> np.ndarray:
        """The first `count` positions of codes at this distance from a code. The index holds at least `count`."""
        codes, word = self._codes.view(_word(self.bits)), code.view(_word(self.bits))
        found: list[np.ndarray] = []
        while sum(map(len, found)) < count:
            start = len(found) * BLOCK
            apart = np.bitwise_count(codes[start : start + BLOCK] ^ word).sum(1, dtype=np.int64)
            found.append(start + np.flatnonzero(apart == distance))
        return np.concatenate(found)[:count]

    def _by_weights(self, asked: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions and sums of weights, int64 [q, k] each. The scanned sum of a code outside the scan is at most that
        of the last code inside, and its exact sum is at most `off` higher. If it could be among the first k, the sums
        of all codes are computed."""
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
        """Positions and sums of all codes with a sum of at least `least`, int64 [n] each."""
        found = []
        for start in range(0, len(self), BLOCK):
            sums = _added(tables, self._codes[start : start + BLOCK])
            (rows,) = np.nonzero(sums >= least)
            found.append((start + rows, sums[rows]))
        positions, sums = zip(*found, strict=True)
        return np.concatenate(positions), np.concatenate(sums)

    def _in_lists(self, asked: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions and bits - 2 * distance, int64 [q, k] each. faiss breaks ties at the k-th distance arbitrarily, so
        a second search gets all codes within that distance."""
        near, positions = self._lists.search(asked, k)
        probed, best = self._lists.nprobe, np.empty((len(asked), k), np.int64)
        for row, code in enumerate(asked[:, None]):
            if positions[row, -1] < 0:  # the probed lists hold fewer than k codes
                self._lists.nprobe = self._lists.nlist
                near[row], positions[row] = (found[0] for found in self._lists.search(code, k))
            _, distances, found = self._lists.range_search(code, int(near[row, -1]) + 1)
            self._lists.nprobe = probed
            positions[row], best[row] = _first(found, self.bits - 2 * distances.astype(np.int64), k)
        return positions, best

    def _scanned(self, weights: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scanned sums, float32 and falling, and positions of the first m = min(MORE * k, len): [q, m] each."""
        import faiss

        if self._scan is None:
            self._parts = [np.concatenate(self._parts)]
            quantizer = faiss.IndexPQ(self.bits, self.bits // 4, 4, faiss.METRIC_INNER_PRODUCT)
            corners = np.tile(_signs(np.arange(16, dtype=np.uint8)[:, None])[:, :4], (self.bits // 4, 1))
            faiss.copy_array_to_vector(corners.ravel(), quantizer.pq.centroids)
            quantizer.is_trained = True
            quantizer.add_sa_codes(self._parts[0])  # packed bits are the codes of these centroids
            self._scan = faiss.IndexPQFastScan(quantizer)  # type: ignore[arg-type]  # faiss's types lack this form
        near, positions = self._scan.search(weights, min(MORE * k, len(self)))
        for row in np.flatnonzero(positions[:, -1] < 0):  # faiss never returns a rounded sum of 0, the lowest
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
            raise ZseError(
                "An index with lists is searched by codes, uint8. Use an index without lists for weights of bits"
            )
        if weights.dtype != torch.float32 or weights.ndim != 2 or weights.shape[1] != self.bits:
            raise ZseError(
                f"Weights of {self.bits} bits are float32 [q, {self.bits}], got {weights.dtype} {list(weights.shape)}"
            )
        if not torch.equal(weights, weights.round().clamp(-WEIGHT, WEIGHT)):
            raise ZseError(f"Weights must be whole numbers from {-WEIGHT} to {WEIGHT}, as Asymmetric computes them")
        return np.ascontiguousarray(weights.detach().cpu().numpy())


def _tables(weights: np.ndarray) -> np.ndarray:
    """Lookup table of a query's weights [bits]: the sum that each value of each byte adds, int64 [bits / 8, 256]."""
    every = _signs(np.arange(256, dtype=np.uint8)[:, None])
    return (weights.reshape(-1, 8) @ every.T).astype(np.int64)


def _added(tables: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Sums of weights of codes uint8 [n, bits / 8]: int64 [n]."""
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
    """The first k of each row by falling sum; equal sums by rising position."""
    order = np.argsort(-sums << 40 | positions, axis=-1)[..., :k]
    return np.take_along_axis(positions, order, axis=-1), np.take_along_axis(sums, order, axis=-1)
