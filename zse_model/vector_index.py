"""Index of vectors in memory: exact dot products of float16 rows, two bytes a number.

One query is multiplied by faiss's scan of float16 rows. For several queries, or some of the rows, rows are widened to
float32 a few at a time and multiplied. The last bits of such a product depend on the shape of the matrices, and would
order two equal photos by where they stand. The products therefore only choose candidates: all rows that rounding could
bring among the first k. Their scores are summed in float64 and rounded once: a score depends on the query and the row
alone, and equal rows tie.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zse_model.code_index import chosen
from zse_model.errors import ZseError
from zse_model.evaluation.search import Ranking, rank
from zse_model.precision import full_precision

PART = 2**14  # rows that are kept together, and ranked at once
BLOCK = 2**17  # numbers that are widened at once: 512 KB of float32, which stay in the cache of a core
QUERIES = 64  # ranked at once
DEEP = 1000  # results up to which a scan is faster than products with all rows
MORE = 16  # rows that a scan of a part takes beyond k
MANY = 2  # times k candidates of a part raise the least product


class VectorIndex:
    """float16 rows of `dim` numbers, ranked by their dot product with a query: the cosine where both are L2-normalised.

    Memory is the bytes of the rows and those of one part of `PART` rows. One query is searched by as many threads as
    faiss has (`OMP_NUM_THREADS`). Raises: ZseError for dim < 1, ImportError without faiss.
    """

    def __init__(self, dim: int) -> None:
        import faiss  # noqa: F401  # here, because networks train and score where it is not installed

        if dim < 1:
            raise ZseError(f"dim must be at least 1, got {dim}")
        self.dim = dim
        self._scans: list[Any] = []
        self._parts: list[Tensor] = []  # float16 [PART, dim], the memory of the scans; the last is filled in part
        self._size = 0
        self._longest = 0.0  # the highest L2 norm of a row

    def __len__(self) -> int:
        return self._size

    def add(self, rows: Tensor) -> None:
        """Append n rows, float16 [n, dim]. Raises ZseError for another shape or dtype, and for a row that is not finite
        (then no row is added)."""
        if rows.dtype != torch.float16 or rows.ndim != 2 or rows.shape[1] != self.dim:
            raise ZseError(f"Rows of this index are float16 [n, {self.dim}], got {rows.dtype} {list(rows.shape)}")
        rows = rows.detach().cpu()
        norms = torch.cat([torch.zeros(1), *(block.float().norm(dim=1) for block in rows.split(self._step))])
        if not bool(norms.isfinite().all()):
            raise ZseError(f"Row {int((~norms.isfinite()).nonzero()[0]) - 1} holds a number that is not finite")
        self._longest = max(self._longest, float(norms.max()))
        while len(rows):
            filled = self._size % PART
            if filled == 0:
                self._grow()
            fits = rows[: PART - filled]
            self._parts[-1][filled : filled + len(fits)] = fits
            self._scans[-1].ntotal += len(fits)
            self._size += len(fits)
            rows = rows[len(fits) :]

    def _grow(self) -> None:
        """Append an empty part."""
        import faiss

        scan: Any = faiss.IndexScalarQuantizer(self.dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        scan.codes.resize(PART * self.dim * 2)
        scan.is_trained = True
        memory = faiss.rev_swig_ptr(scan.codes.data(), PART * self.dim * 2)
        self._scans.append(scan)
        self._parts.append(torch.from_numpy(memory.view(np.float16).reshape(PART, self.dim)))

    def search(self, queries: Tensor, k: int, *, among: Tensor | None = None) -> Ranking:
        """The first min(k, len) of each query. Equal scores are ordered by position.

        queries: float32 [q, dim]. among: rank these positions only, int64 [m], rising: the first min(k, m) of them.
        None = all. A score is the dot product, summed in float64 and rounded to float32. The ranking is exact for these
        scores; they differ from those of `DotProduct` by the rounding of its float32 sums.
        Returns: Ranking [q, min(k, len or m)]. Raises: ZseError for an empty index, k < 1, another shape or dtype, a
        query that is not finite, and positions that are not in the index or do not rise.
        """
        if queries.dtype != torch.float32 or queries.ndim != 2 or queries.shape[1] != self.dim:
            raise ZseError(
                f"Queries of this index are float32 [q, {self.dim}], got {queries.dtype} {list(queries.shape)}"
            )
        if not bool(queries.isfinite().all()):
            raise ZseError("A query holds a number that is not finite")
        if len(self) == 0:
            raise ZseError("The gallery is empty: there is nothing to search.")
        if k < 1:
            raise ZseError(f"k must be at least 1, got {k}.")
        members = None if among is None else torch.from_numpy(chosen(among, len(self)))
        k = min(k, len(self) if members is None else len(members))
        indices, scores = torch.empty(len(queries), k, dtype=torch.int64), torch.empty(len(queries), k)
        queries = queries.detach().cpu()
        for at in range(0, len(queries) if k else 0, QUERIES):
            for row, positions in enumerate(self._candidates(queries[at : at + QUERIES], k, members), start=at):
                found = rank(self._exact(queries[row], positions)[None], k)
                indices[row], scores[row] = positions[found.indices[0]], found.scores[0]
        return Ranking(indices, scores)

    def _candidates(self, queries: Tensor, k: int, members: Tensor | None) -> list[Tensor]:
        """Positions of each query that hold its first k, rising, int64 [at least k].

        A float32 product of unit vectors of d numbers is at most (d + 2) / 2^24 off, in any order of its sum (Higham,
        Accuracy and Stability of Numerical Algorithms, section 3.1). A row that is `margin` below the k-th product is
        behind k rows, also after the rounding of its score."""
        margin = 2 * (self.dim + 4) * 2**-24 * self._longest + 1e-30
        length = queries.double().norm(dim=1, keepdim=True)
        units = (queries.double() / length.clamp(min=1e-300)).float()
        if len(queries) == 1 and members is None and k <= DEEP:
            positions, products = self._scanned(units, k, margin)
            return [positions[products >= products.topk(k).values[-1] - margin].sort().values]
        least = torch.full((len(queries), 1), -torch.inf)  # of a product among the first k so far
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        for start, products in self._products(units, members):
            near = products >= least - margin
            if int(near.sum()) > MANY * near.shape[0] * k:  # topk costs more than the comparison
                least = torch.maximum(least, products.topk(k).values[:, -1:])
                near = products >= least - margin
            rows, columns = near.nonzero(as_tuple=True)
            kept.append((rows, columns + start, products[rows, columns]))
        rows, columns, products = (torch.cat(each) for each in zip(*kept, strict=True))
        found = []
        for row in range(len(queries)):
            near, mine = products[rows == row], columns[rows == row]
            mine = mine[near >= near.topk(k).values[-1] - margin]
            found.append(mine if members is None else members[mine])
        return found

    def _scanned(self, query: Tensor, k: int, margin: float) -> tuple[Tensor, Tensor]:
        """Positions int64 [n] and products float32 [n] of one query [1, dim]; of all rows whose products are at most
        `margin` below the k-th. A part whose scan may have left such a row out is multiplied as a whole."""
        import faiss

        def first(scan: Any) -> tuple[Tensor, Tensor]:
            products, rows = scan.search(query.numpy(), min(k + MORE, scan.ntotal))
            return torch.from_numpy(rows[0]), torch.from_numpy(products[0])

        threads = min(faiss.omp_get_max_threads(), len(self._scans))
        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:
                found = list(pool.map(first, self._scans))
        else:
            found = [first(scan) for scan in self._scans]
        least = torch.cat([products for _, products in found]).topk(k).values[-1] - margin
        for i, (scan, (_, products)) in enumerate(zip(self._scans, found, strict=True)):
            if len(products) < scan.ntotal and products[-1] >= least:
                found[i] = torch.arange(scan.ntotal), self._multiplied(query, self._parts[i][: scan.ntotal])[0]
        positions = torch.cat([rows + i * PART for i, (rows, _) in enumerate(found)])
        return positions, torch.cat([products for _, products in found])

    def _products(self, queries: Tensor, members: Tensor | None) -> Iterator[tuple[int, Tensor]]:
        """Products of the queries with the rows of each part, or with the members: number of the first row, and float32
        [q, rows]."""
        for start in range(0, len(self) if members is None else len(members), PART):
            if members is None:
                rows = self._parts[start // PART][: len(self) - start]
            else:
                rows = self.rows(members[start : start + PART])
            yield start, self._multiplied(queries, rows)

    def _multiplied(self, queries: Tensor, rows: Tensor) -> Tensor:
        """Products of queries with float16 rows, float32 [q, rows]."""
        wide, products = torch.empty(self._step, self.dim), torch.empty(len(rows), len(queries))
        with full_precision(queries.device):
            for at in range(0, len(rows), self._step):
                block = rows[at : at + self._step]
                torch.mm(wide[: len(block)].copy_(block), queries.T, out=products[at : at + len(block)])
        return products.T

    def _exact(self, query: Tensor, positions: Tensor) -> Tensor:
        """Scores, float32 [n]. Each row is summed by itself: NumPy adds the numbers of every row in the same order."""
        sums = [
            (self.rows(some).numpy().astype(np.float64) * query.double().numpy()).sum(1)
            for some in positions.split(self._step)
        ]
        return torch.from_numpy(np.concatenate(sums)).float()

    def rows(self, positions: Tensor) -> Tensor:
        """The rows at positions, int64 [n]: float16 [n, dim]."""
        rows = torch.empty(len(positions), self.dim, dtype=torch.float16)
        parts = positions // PART
        for part in parts.unique().tolist():
            (here,) = (parts == part).nonzero(as_tuple=True)
            rows[here] = self._parts[part][positions[here] % PART]
        return rows

    @property
    def _step(self) -> int:
        """Rows that are widened at once."""
        return max(1, BLOCK // self.dim)
