"""This module finds the exact nearest other rows of a block of rows, by comparing it with all rows block by block.

The distance of two rows is defined by `pair_sq`: the float64 sum of squared differences. Of two rows at the same
distance, the one with the smaller number is nearer. Float32 products only filter candidates. A score |c|^2 - 2 x.c
differs from its exact value by at most a band (`Nearest._band`), so a candidate whose score is above the limit of a row
cannot be one of its neighbors, and `pair_sq` decides on the others. Neighbors therefore do not depend on tiles, blocks,
threads or the library that multiplies.

Rows of length 1 have |x - y|^2 = 2 (1 - x.y), so the nearest rows are those of the largest cosine. A row of zeros has
no direction; its dot product with any row is 0, which is a squared distance of 2, from other rows of zeros, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.kmeans.centers import Scaler
from bigcluster.kernels.kmeans.sums import EXACT_TILE_VALUES, ROUNDING
from bigcluster.kernels.linalg.floats import float_product
from bigcluster.kernels.linalg.types import Float32Array, Float64Array, Int32Array, Int64Array

TILE_ROWS, TILE_COLUMNS = 512, 528
"""Rows and candidates of a tile of scores, 1 MiB, which stays in a second-level cache. Candidates: a multiple of the 48
columns of a packed panel, and of the 8 bytes that `_true_indices` reads together."""
WAITING_ROWS = 16
"""Candidates for each row, on average, that are collected before they are merged with the neighbors. About as many new
candidates are found while the number of compared rows doubles. Each merge lowers the limits."""
MOST_QUERIES = 1 << 16
"""Rows of a block of queries, at most: their indices are sorted as 16-bit numbers."""
NO_NEIGHBOR = int(np.iinfo(np.int32).max)
"""The number that stands for a missing neighbor. It is larger than that of every row."""
ORTHOGONAL_SQ = 2.0
"""The squared distance of two rows of length 1 whose dot product is 0."""
_UNDERFLOW = 2.0**-125
"""Bounds the error of a float32 product whose value is below the least normal number, 2^-126."""


@dataclass(frozen=True)
class Points:
    """Consecutive rows, prepared for products in which they are queries or candidates.

    first : the number of the first row. rows : (n, r) float32, unscaled. left : (n, r + 1) float32, scaled rows and
    a column of ones. right : (n, r + 1) float32, scaled rows times -2, and their squared norms: left right' are scores.
    sq : (n,) float64 squared norms of the scaled rows. blank : (n,) bool, rows of zeros that have no direction, or None
    where distances are not between directions.
    """

    first: int
    rows: Float32Array
    left: Float32Array
    right: Float32Array
    sq: Float64Array
    blank: NDArray[np.bool_] | None

    @property
    def count(self) -> int:
        """The number of rows, n."""
        return len(self.rows)


def points(rows: Float32Array, first: int, scaler: Scaler, *, directions: bool) -> Points:
    """Prepare rows, (n, r) float32.

    first : the number of the first row. directions : whether distances are between directions: all rows then have the
    length 1 or are zeros.
    """
    scaled = scaler.transform(rows)
    sq = np.einsum("ij,ij->i", scaled, scaled, dtype=np.float64)
    blank = None
    if directions:
        blank = sq == 0
        sq[blank] = 1.0  # so that a score with any row of length 1 is that of an orthogonal one
    left = np.empty((len(rows), rows.shape[1] + 1), np.float32)
    right = np.empty_like(left)
    left[:, :-1] = scaled
    left[:, -1] = 1
    np.multiply(scaled, np.float32(-2), out=right[:, :-1])  # exact
    right[:, -1] = sq
    return Points(first, rows, left, right, sq, blank)


def pair_sq(queries: Points, row: Int32Array, candidates: Points, column: Int32Array) -> Float64Array:
    """Return the squared distance of each pair of a query and a candidate, in the units of the rows.

    row, column : (n_pairs,) int32 indices into `queries` and `candidates`. Returns (n_pairs,) float64. The bits of a
    distance depend on the two rows alone, and not on their order.
    """
    out = np.empty(len(row), np.float64)
    step = max(1, EXACT_TILE_VALUES // queries.rows.shape[1])
    for start in range(0, len(row), step):
        part = slice(start, start + step)
        difference = queries.rows[row[part]].astype(np.float64)
        difference -= candidates.rows[column[part]]
        out[part] = np.einsum("ij,ij->i", difference, difference)
    if queries.blank is not None and candidates.blank is not None:
        out[queries.blank[row] | candidates.blank[column]] = ORTHOGONAL_SQ
    return out


class Nearest:
    """The nearest rows of one block of queries among the candidates that were compared so far.

    ids : (n, n_neighbors) int32 numbers of the neighbors, the nearest first. sq : (n, n_neighbors) float64 squared
    distances. Blocks of candidates are compared in ascending order of their numbers. So a candidate at an equal
    distance never replaces a neighbor, and a row that has enough neighbors at the distance 0 is done.
    """

    def __init__(self, queries: Points, n_neighbors: int, scaler: Scaler, sample: Points) -> None:
        """sample : some of the candidates, in any order. Their distances bound those of the neighbors from above.

        Raises ValueError for more than MOST_QUERIES queries.
        """
        n = queries.count
        if n > MOST_QUERIES:
            raise ValueError(f"{n} rows are too many queries at once; {MOST_QUERIES} are allowed")
        self.queries = queries
        self.ids = np.full((n, n_neighbors), NO_NEIGHBOR, np.int32)
        self.sq = np.full((n, n_neighbors), np.inf)
        self._sq_scale = scaler.scale * scaler.scale
        self._done = np.zeros(n, np.bool_)
        self._norms = np.sqrt(queries.sq) * (1 + 1e-6)
        self._bound = self._bound_by(sample)
        self._fill_blank()

    def _fill_blank(self) -> None:
        """Set the neighbors of rows of zeros: all their distances are equal, so the rows with the least numbers."""
        if self.queries.blank is None:
            return
        blank_rows = np.flatnonzero(self.queries.blank)
        numbers = np.arange(self.ids.shape[1], dtype=np.int32)
        own = (blank_rows + self.queries.first)[:, None]
        self.ids[blank_rows] = numbers + (numbers >= own)
        self.sq[blank_rows] = ORTHOGONAL_SQ
        self._done[blank_rows] = True

    def _band(self, longest: float, bound: Float64Array) -> Float64Array:
        """Bound the error of scores with every candidate that can be a neighbor: (n,) float64.

        longest : the largest norm of the candidates. bound : (n,) the scaled squared distance that a neighbor has at
        most. By the triangle inequality, the norm of a neighbor is at most |x| + its distance, so that a single
        candidate far out does not widen the band of the rows near the middle.

        With u the roundoff of float32, a = |x| and b = |c|: rounding both rows to float32 moves the squared distance
        by at most 2.1 u (a + b)^2, the product of r + 1 terms in any order by 1.01 (r + 1) u (2 a b + b^2), and |c|^2
        is off by one rounding. Source: Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 3.1.
        """
        a, r = self._norms, self.queries.rows.shape[1]
        b = np.minimum(longest, 1.01 * (a + np.sqrt(bound)))
        band: Float64Array = ROUNDING * (2.1 * (a + b) ** 2 + 1.02 * (r + 2) * (2 * a * b + b * b))
        band += (r + 4) * _UNDERFLOW
        return band

    def _bound_by(self, sample: Points) -> Float64Array:
        """Bound the scaled squared distance of the last neighbor of each query from above: (n,) float64."""
        n, n_neighbors = self.ids.shape
        bound = np.full(n, np.inf)
        if sample.count <= n_neighbors:  # one of them may be the query itself
            return bound
        for start in range(0, n, TILE_ROWS):
            part = slice(start, start + TILE_ROWS)
            score = float_product(self.queries.left[part], sample.right, transpose_right=True)
            score.partition(n_neighbors, axis=1)
            bound[part] = score[:, n_neighbors]
        bound += self.queries.sq
        bound += self._band(_longest(sample), bound=np.full(n, np.inf))
        clipped: Float64Array = np.maximum(bound, 0)
        return clipped

    def _limits(self, longest: float) -> Float32Array:
        """Return the score of each query above which candidates are no neighbors: (n,) float32; -inf for rows done."""
        exact = self._bound * (1 + 1e-9) - self.queries.sq + self._band(longest, self._bound)
        limits: Float32Array = np.nextafter(exact.astype(np.float32), np.float32(np.inf))
        limits[self._done] = -np.inf
        return limits

    def look_at(self, candidates: Points) -> None:
        """Compare the queries with a block of candidates, whose numbers are larger than those of all blocks before."""
        longest = _longest(candidates)
        limits = self._limits(longest)
        pairs = _CandidatePairs()
        score = np.empty(TILE_ROWS * TILE_COLUMNS, np.float32)
        near = np.empty(TILE_ROWS * TILE_COLUMNS, np.bool_)
        for first in range(0, candidates.count, TILE_COLUMNS):
            right = candidates.right[first : first + TILE_COLUMNS]
            for start in range(0, self.queries.count, TILE_ROWS):
                part = slice(start, min(start + TILE_ROWS, self.queries.count))
                if self._done[part].all():
                    continue
                shape = (part.stop - start, len(right))
                tile = score[: shape[0] * shape[1]].reshape(shape)
                float_product(self.queries.left[part], right, transpose_right=True, out=tile)
                flat = near[: tile.size]
                np.less_equal(tile, limits[part, None], out=flat.reshape(shape))
                row, column = np.divmod(_true_indices(flat), shape[1])
                pairs.add(row + start, column + first)
                if pairs.count > WAITING_ROWS * self.queries.count:
                    self._merge(candidates, *pairs.take())
                    limits = self._limits(longest)
        self._merge(candidates, *pairs.take())

    def _merge(self, candidates: Points, row: Int32Array, column: Int32Array) -> None:
        """Replace neighbors by nearer candidates. row, column : (n_pairs,) indices; for each row, columns ascend."""
        other = row + self.queries.first != column + candidates.first
        row, column = row[other], column[other]
        n, n_neighbors = self.ids.shape
        ids = np.concatenate([self.ids.ravel(), column + np.int32(candidates.first)])
        sq = np.concatenate([self.sq.ravel(), pair_sq(self.queries, row, candidates, column)])
        rows = np.concatenate([np.repeat(np.arange(n), n_neighbors), row]).astype(np.uint16)
        order = _order(rows, sq, ids)
        counts = np.bincount(rows, minlength=n)
        best = order[(np.cumsum(counts) - counts)[:, None] + np.arange(n_neighbors)]
        self.ids, self.sq = ids[best], sq[best]
        last = self.sq[:, -1]
        np.minimum(self._bound, last * self._sq_scale, out=self._bound)
        self._done |= last == 0


def _order(rows: NDArray[np.uint16], sq: Float64Array, ids: Int32Array) -> Int64Array:
    """Return the order of pairs by row, then by distance, then by number. All arguments and the result are (n_pairs,).

    An unstable sort of distances takes a fifth of the time of a stable one, and equal distances are rare.
    """
    order = np.argsort(sq)
    order = order[np.argsort(rows[order], kind="stable")]  # of 16-bit numbers: a radix sort
    sorted_rows, sorted_sq, sorted_ids = rows[order], sq[order], ids[order]
    same = (sorted_sq[1:] == sorted_sq[:-1]) & (sorted_rows[1:] == sorted_rows[:-1])
    if (same & (sorted_ids[1:] < sorted_ids[:-1])).any():
        order = np.lexsort((ids, sq, rows))
    return order


class _CandidatePairs:
    """Pairs of a query and a candidate that may be neighbors, collected until they are merged."""

    def __init__(self) -> None:
        self._rows: list[Int32Array] = []
        self._columns: list[Int32Array] = []
        self.count = 0

    def add(self, row: Int64Array, column: Int64Array) -> None:
        self._rows.append(row.astype(np.int32))
        self._columns.append(column.astype(np.int32))
        self.count += len(row)

    def take(self) -> tuple[Int32Array, Int32Array]:
        """Return (rows, columns) in the order in which they were added, and remove them."""
        empty = np.empty(0, np.int32)
        pairs = np.concatenate([empty, *self._rows]), np.concatenate([empty, *self._columns])
        self._rows.clear()
        self._columns.clear()
        self.count = 0
        return pairs


def _longest(candidates: Points) -> float:
    return float(np.sqrt(candidates.sq.max(initial=0))) * (1 + 1e-6)


def _true_indices(flags: NDArray[np.bool_]) -> Int64Array:
    """Return the indices of true flags, (n,) bool: (n_true,) int64, ascending. It is fast where few flags are true."""
    whole = len(flags) // 8 * 8
    words = np.flatnonzero(flags[:whole].view(np.uint64) != 0)
    at, byte = np.nonzero(flags[:whole].reshape(-1, 8)[words])
    rest: Int64Array = np.flatnonzero(flags[whole:]) + whole
    return np.concatenate([words[at] * 8 + byte, rest])
