"""Index of hash codes in memory: exact search of a million 64-bit codes in under a millisecond, or inverted lists.

Exact search compares every code with faiss's FastScan: four bits of a code select one of 16 bytes, and the bytes of 32
codes are summed at once. The sums are the scores up to rounding, and FastScan breaks ties arbitrarily. The scan
therefore takes `MORE` * k codes. If a code outside them could belong to the first k, the search scans deeper, then
reads codes back out of FastScan's layout. The ranking equals that of all scores, ties included.

The layout of FastScan is the only copy of the codes, in parts of `PART` codes: a part never grows, so that adding
copies nothing, and threads scan different parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zse_model.errors import ZseError
from zse_model.evaluation.search import Ranking
from zse_model.hashing import WEIGHT, agreement

BITS = (32, 64, 128, 256)
"""Allowed lengths of a code. The sums of longer codes do not fit into the 16 bits of the scan."""
PART = 2**20  # codes scanned by one call of FastScan
MORE = 4  # the scan takes MORE * k codes
DEEPER = 16  # times as many, where those do not suffice
BLOCK = 2**12  # codes read at once
PLACE = 40  # bits of a position in a key
FEW = 64  # fewer members than this part of the codes are read, without a scan
FAR = np.int64(2**63 - 1)
"""Key of a code that is not ranked, behind all others."""
NONE = 2 ** (63 - PLACE)  # level of no code, behind that of FAR


def one_of(numbers: Sequence[int]) -> str:
    """(32, 64, 128) -> "32, 64 or 128"."""
    return " or ".join((", ".join(map(str, numbers[:-1])), str(numbers[-1])))


def chosen(among: Tensor, size: int) -> np.ndarray:
    """The positions of a filter, int64 [m]. Raises ZseError unless they are int64 [m], rise, and are below `size`."""
    if among.dtype != torch.int64 or among.ndim != 1:
        raise ZseError(f"among must be positions, int64 [m], got {among.dtype} {list(among.shape)}")
    positions = among.cpu().numpy()
    if (positions[1:] <= positions[:-1]).any():
        raise ZseError("among must be sorted and hold each position once. Sort it, for example by torch.unique")
    for position in positions[:1].tolist() + positions[-1:].tolist():
        if not 0 <= position < size:
            raise ZseError(f"among must hold positions from 0 to {size - 1}, got {position}")
    return positions


class CodeIndex:
    """Packed codes, ranked by the scores of `Hamming` or of `Asymmetric`.

    lists: None = exact search. Memory is the bytes of the codes and those of two parts of `PART` codes. Few queries are
    searched by as many threads as faiss has (`OMP_NUM_THREADS`). A number = inverted lists, one for each of as many
    centres: a search reads the `probed` nearest lists, by Hamming distance only, and misses codes in others. The first
    `add` trains the centres: add a representative part first, of at least 39 codes a list.
    Raises: ZseError for bits not in `BITS`, ImportError without faiss (`pip install faiss-cpu`).
    """

    def __init__(self, bits: int, *, lists: int | None = None, probed: int = 16) -> None:
        import faiss  # here, because networks train and score where it is not installed

        if bits not in BITS:
            raise ZseError(f"bits must be {one_of(BITS)}, got {bits}")
        self.bits = bits
        self._full: list[_Part] = []
        self._rest = np.empty((PART, bits // 8), np.uint8)  # the codes after the full parts
        self._filled = 0
        self._last: _Part | None = None  # of the rest, made by a search
        self._lists: Any = None
        if lists is not None:
            self._lists = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(bits), bits, lists)  # keeps its quantizer
            self._lists.nprobe = probed

    def __len__(self) -> int:
        return len(self._full) * len(self._rest) + self._filled if self._lists is None else int(self._lists.ntotal)

    def add(self, codes: Tensor) -> None:
        """Append n codes, uint8 [n, bits / 8]. Raises ZseError for another shape or dtype, and if the first codes are
        fewer than the lists."""
        packed = self._checked(codes)
        if len(packed) == 0:
            return
        if self._lists is None:
            self._append(packed)
            return
        if not self._lists.is_trained:
            if len(packed) < self._lists.nlist:
                raise ZseError(
                    f"{self._lists.nlist} lists need at least as many codes in the first add, got {len(packed)}"
                )
            self._lists.train(packed)
        self._lists.add(packed)

    def _append(self, packed: np.ndarray) -> None:
        self._last = None
        while len(packed):
            fits = packed[: len(self._rest) - self._filled]
            self._rest[self._filled : self._filled + len(fits)] = fits
            self._filled += len(fits)
            packed = packed[len(fits) :]
            if self._filled == len(self._rest):
                self._full.append(_Part(self._rest, len(self._full) * len(self._rest)))
                self._filled = 0

    def search(self, queries: Tensor, k: int, *, among: Tensor | None = None) -> Ranking:
        """The first min(k, len) of each query. Equal scores are ordered by position.

        queries: codes, uint8 [q, bits / 8], whose scores are bits - 2 * distance; or the weight of each bit, float32
        [q, bits] of whole numbers, computed by `Asymmetric`, whose scores are `agreement`.
        among: rank these positions only, int64 [m], rising: the first min(k, m) of them. None = all.
        Returns: Ranking [q, min(k, len or m)]. Raises: ZseError for an empty index, k < 1, another shape or dtype,
        positions that are not in the index or do not rise, and for weights or positions with inverted lists.
        """
        weighted = queries.dtype != torch.uint8
        asked = self._weights(queries) if weighted else self._checked(queries)
        if len(self) == 0:
            raise ZseError("The gallery is empty: there is nothing to search.")
        if k < 1:
            raise ZseError(f"k must be at least 1, got {k}.")
        if among is not None and self._lists is not None:
            raise ZseError("An index with lists searches all its codes. Use an index without lists for some of them")
        members = None if among is None else chosen(among, len(self))
        k = min(k, len(self) if members is None else len(members))
        if len(asked) == 0 or k == 0:
            return Ranking(torch.zeros(len(asked), k, dtype=torch.int64), torch.zeros(len(asked), k))
        if self._lists is not None:
            keys = self._in_lists(asked, k)
        else:
            keys = self._in_parts(_Asked(asked if weighted else _signs(asked), not weighted), k, members)
        scores = torch.from_numpy((-(keys >> PLACE)).astype(np.float32))
        positions = torch.from_numpy(keys & (1 << PLACE) - 1)
        return Ranking(positions, agreement(scores, queries.cpu()) if weighted else scores)

    def _in_parts(self, asked: _Asked, k: int, members: np.ndarray | None) -> np.ndarray:
        """Keys of the first k, int64 [q, k]. Each part gives its first k as far as its scan shows them."""
        import faiss

        parts = self._parts()
        starts = [part.start for part in parts[1:]]
        inside = [None] * len(parts) if members is None else np.split(members, np.searchsorted(members, starts))
        threads = 1 if len(asked.weights) > 1 else faiss.omp_get_max_threads()  # faiss spreads many queries over them
        if min(threads, len(parts)) > 1:
            with ThreadPoolExecutor(threads) as pool:
                found = list(pool.map(lambda part, rows: part.first(asked, k, rows), parts, inside))
        else:
            found = [part.first(asked, k, rows) for part, rows in zip(parts, inside, strict=True)]
        keys = _first(np.concatenate([keys for keys, _ in found], axis=1), k)
        outside = np.stack([level for _, level in found], axis=1)
        for row in np.flatnonzero((outside <= keys[:, -1:] >> PLACE).any(1)).tolist():
            keys[row] = _completed(keys[row], outside[row], asked.only(row), parts, inside)
        return keys

    def _parts(self) -> list[_Part]:
        if self._last is None and self._filled:
            self._last = _Part(self._rest[: self._filled], len(self._full) * len(self._rest))
        return self._full if self._last is None else [*self._full, self._last]

    def _in_lists(self, asked: np.ndarray, k: int) -> np.ndarray:
        """Keys of the first k, int64 [q, k]. faiss breaks ties at the k-th distance arbitrarily, so a second search
        gets all codes within that distance."""
        near, positions = self._lists.search(asked, k)
        probed, keys = self._lists.nprobe, np.empty((len(asked), k), np.int64)
        for row, code in enumerate(asked[:, None]):
            if positions[row, -1] < 0:  # the probed lists hold fewer than k codes
                self._lists.nprobe = self._lists.nlist
                near[row], positions[row] = (found[0] for found in self._lists.search(code, k))
            _, distances, found = self._lists.range_search(code, int(near[row, -1]) + 1)
            self._lists.nprobe = probed
            keys[row] = _first(_key(self.bits - 2 * distances.astype(np.int64), found), k)
        return keys

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


class _Asked(NamedTuple):
    """Queries: the weight of each bit, float32 [q, bits]. codes: the weights are +1 and -1, the bits of a code."""

    weights: np.ndarray
    codes: bool

    def only(self, row: int) -> _Asked:
        return _Asked(self.weights[row : row + 1], self.codes)


class _Part:
    """Codes at positions from `start` on, in FastScan's layout. Positions within the part are rows."""

    def __init__(self, codes: np.ndarray, start: int) -> None:
        import faiss

        bits = codes.shape[1] * 8
        quantizer = faiss.IndexPQ(bits, bits // 4, 4, faiss.METRIC_INNER_PRODUCT)
        corners = np.tile(_signs(np.arange(16, dtype=np.uint8)[:, None])[:, :4], (bits // 4, 1))
        faiss.copy_array_to_vector(corners.ravel(), quantizer.pq.centroids)
        quantizer.is_trained = True
        quantizer.add_sa_codes(codes)  # packed bits are the codes of these centroids
        self.start, self._size, self._bits = start, len(codes), bits
        self._scan: Any = faiss.IndexPQFastScan(quantizer)  # type: ignore[arg-type]  # faiss's types lack this form
        self._packed: np.ndarray = faiss.rev_swig_ptr(self._scan.codes.get(), self._scan.codes.size())
        block = np.arange(min(32, len(codes)))
        if not np.array_equal(self._read(block), codes[block]):
            raise ZseError(
                f"faiss {faiss.__version__} packs codes in an unknown layout. Install faiss-cpu 1.12 to 1.15"
            )

    def first(self, asked: _Asked, k: int, members: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Keys of the first k members that a scan shows, int64 [q, at most k], and the lowest level that another
        member can have, int64 [q]. Few members are read, which is faster than a scan and complete."""
        size = self._size if members is None else len(members)
        if size > self._size // FEW and size * size > 10 * k * self._size:
            found = self._scanned(asked, MORE * k * self._size // size, members)
            if found is not None:
                return _first(found[0], k), found[1]
        keys = np.empty((len(asked.weights), 0), np.int64)
        for rows in self._blocks(members):
            keys = _first(np.concatenate([keys, self._keys(asked, rows)], axis=1), k)
        return keys, np.full(len(keys), NONE)

    def within(self, query: _Asked, k: int, level: int, wanted: float, members: np.ndarray | None) -> np.ndarray:
        """Keys of the members up to a level, int64 [n], for one query. If `wanted` is finite, `first` has returned all
        members below the level, and the first `wanted` at the level suffice."""
        size = self._size if members is None else len(members)
        found = self._scanned(query, DEEPER * MORE * k * self._size // size, members)
        if found is not None and found[1][0] > level:
            return found[0][found[0] >> PLACE <= level]
        near: list[np.ndarray] = []
        for rows in self._blocks(members):
            if wanted > 0:
                (keys,) = self._keys(query, rows)
                near.append(keys[keys >> PLACE <= level])
                wanted -= (near[-1] >> PLACE == level).sum()
        return np.concatenate(near)

    def _scanned(self, asked: _Asked, depth: int, members: np.ndarray | None) -> tuple[np.ndarray, np.ndarray] | None:
        """Keys of the codes with the highest `depth` scanned sums, int64 [q, depth], FAR for others than members, and
        the lowest level of the codes left out, int64 [q]. None where a scan has no use.

        Of codes: scores are multiples of 2, and a scanned sum lies between 0.51 below its score and 1.01 above it.
        Rounding gives the score, and no code outside the scan is nearer than the last code inside. Of weights: the sum
        of a code is at most `off` above the scanned sum.
        """
        if 2 * depth > self._size:
            return None
        near, rows = self._scan.search(asked.weights, depth)
        if (rows < 0).any():  # faiss never returns a rounded sum of 0, the lowest
            return None
        ranked = np.ones(rows.shape, bool)
        if members is not None:
            inside = np.zeros(self._size, bool)
            inside[members - self.start] = True
            ranked = inside[rows]
        if asked.codes:
            sums = self._bits - 2 * np.rint((self._bits - near + 0.25) / 2).astype(np.int64)
            return np.where(ranked, _key(sums, rows + self.start), FAR), -sums[:, -1]
        keys = np.full(rows.shape, FAR)
        for row, weights in enumerate(asked.weights):
            keys[row, ranked[row]] = self._keys(_Asked(weights[None], False), rows[row, ranked[row]])
        off = 1 + np.abs(asked.weights).reshape(len(rows), -1, 4).sum(2).max(1) * (self._bits // 4) / 255
        return keys, -np.floor(near[:, -1] + off).astype(np.int64)

    def _keys(self, asked: _Asked, rows: np.ndarray) -> np.ndarray:
        """Keys of these rows, int64 [q, m]."""
        codes = self._read(rows)
        return np.stack([_key(_added(_tables(weights), codes), rows + self.start) for weights in asked.weights])

    def _blocks(self, members: np.ndarray | None) -> Iterator[np.ndarray]:
        """The rows of all members, rising, int64 [at most BLOCK] each."""
        for at in range(0, self._size if members is None else len(members), BLOCK):
            yield (
                np.arange(at, min(at + BLOCK, self._size)) if members is None else members[at : at + BLOCK] - self.start
            )

    def _read(self, rows: np.ndarray) -> np.ndarray:
        """Codes of rows int64 [m]: uint8 [m, bits / 8].

        32 codes are a block. Each byte of the codes fills 32 bytes: 16 of the lower four bits, then 16 of the upper
        four. The two halves of these bytes hold codes j and 16 + j, and the order of j is 0, 8, 1, 9, ..., 7, 15.
        """
        stride = 32 * (self._bits // 8)
        at = (rows >> 5) * stride + (2 * (rows & 7) + (rows >> 3 & 1))
        at = at[:, None] + np.arange(0, stride, 32)
        half = (rows >> 2 & 4).astype(np.uint8)[:, None]
        return self._packed.take(at) >> half & 15 | (self._packed.take(at + 16) >> half & 15) << 4


def _completed(
    keys: np.ndarray, outside: np.ndarray, query: _Asked, parts: list[_Part], inside: Sequence[np.ndarray | None]
) -> np.ndarray:
    """The first k keys of one query, of keys [k] that scans of the parts have found, and of members outside the scans
    whose levels are at least `outside` [parts]."""
    last = keys[-1] >> PLACE
    missed = np.flatnonzero(outside <= last).tolist()
    ties = (outside[missed] == last).all()  # no member outside a scan is nearer
    wanted, best = (keys >> PLACE == last).sum() if ties else np.inf, [keys]
    for i in missed:
        if wanted > 0:
            best.append(parts[i].within(query, len(keys), last, wanted, inside[i]))
            wanted -= (best[-1] >> PLACE == last).sum()
    return np.unique(np.concatenate(best))[: len(keys)]


@cache
def _bytes() -> np.ndarray:
    """The signs of every byte, float32 [8, 256]."""
    return np.ascontiguousarray(_signs(np.arange(256, dtype=np.uint8)[:, None]).T)


def _tables(weights: np.ndarray) -> np.ndarray:
    """Lookup table of a query's weights [bits]: the sum that each value of each byte adds, int64 [bits / 8, 256]."""
    return (weights.reshape(-1, 8) @ _bytes()).astype(np.int64)


def _added(tables: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Sums of weights of codes uint8 [n, bits / 8]: int64 [n]."""
    sums = np.zeros(len(codes), np.int64)
    for i, table in enumerate(tables):
        sums += table[codes[:, i]]
    return sums


def _signs(codes: np.ndarray) -> np.ndarray:
    """uint8 [q, bits / 8] -> +1 and -1, float32 [q, bits]."""
    return np.unpackbits(codes, axis=1, bitorder="little").astype(np.float32) * 2 - 1


def _key(sums: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Integers in the order of a ranking: falling sum, then rising position. The level of a key is -sum."""
    return -sums << PLACE | positions


def _first(keys: np.ndarray, k: int) -> np.ndarray:
    """The lowest k of each row, rising; all of a shorter row."""
    if keys.shape[-1] > k:
        keys = np.partition(keys, k - 1, axis=-1)[..., :k]
    return np.sort(keys, axis=-1)
