"""The nearest center of every row, and the second nearest: a float32 product with a running minimum, then the proof.

A tile of |c|^2 - 2 x.c (rows x centers, a few hundred KiB) is all that ever exists of the distance matrix. Its error is
bounded by `E = alpha |x| |c| + beta |c|^2`; a row whose best two are closer than twice that is settled by `exact_sq`.
The largest |x| and |c| give one bound for a whole block first: only rows inside that one are asked for their own.
numpy's vectorised argmin costs a tenth of the product, so no compiled kernel of our own is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import UsageError
from bigcluster.kernels.kmeans import ROUNDING, Floats, Floats32, Frame, Labels, exact_sq, row_sq
from bigcluster.kernels.product import multiply

TILE_VALUES = 262_144  # of float32: 1 MiB, a second-level cache
_FARTHEST = 1e15  # in the frame; squares of 100,000 columns stay below 3e38
_PAIRS = 65_536  # (row, center) pairs settled at once


@dataclass(frozen=True)
class Centers:
    """Centers as the float32 filter wants them, beside the exact ones.

    exact : (k, r) float64. small : (k, r) float32, (c - shift) scale. minus2 : (r, k) float32, -2 small, transposed.
    sq : (k,) float32 squared norms. norms : (k,) float32, rounded up. frame : the frame of all but `exact`.
    """

    exact: Floats
    small: Floats32
    minus2: Floats32
    sq: Floats32
    norms: Floats32
    frame: Frame

    @property
    def count(self) -> int:
        return len(self.exact)


def prepare(centers: Floats, frame: Frame) -> Centers:
    """centers : (k, r) float64, in the units of the rows. Raises UsageError where float32 cannot hold their squares."""
    if not np.abs(frame.wide(centers)).max(initial=0) < _FARTHEST:
        raise UsageError(f"a center lies {_FARTHEST:g} times farther out than the rows; start from rows of the data")
    small = frame.rows(centers)
    sq = np.einsum("ij,ij->i", small, small, dtype=np.float64)
    norms = (np.sqrt(sq) * (1 + 1e-6)).astype(np.float32)
    minus2 = np.ascontiguousarray((-2 * small).T)  # doubling is exact
    return Centers(np.ascontiguousarray(centers, dtype=np.float64), small, minus2, sq.astype(np.float32), norms, frame)


def error_factors(n_columns: int) -> tuple[np.float32, np.float32]:
    """alpha, beta of the error band: rounding of x, of c, of the r-term product in any order, of |c|^2, of the sum."""
    return np.float32(1.01 * (2 * n_columns + 16) * ROUNDING), np.float32(8 * ROUNDING)


def error_band(x_norms: Floats32, best: Floats32, best_norms: Floats32, norms: Floats32, n_columns: int) -> Floats32:
    """How far the computed score of any center that could be nearest may be off: (n_rows,) float32.

    A center at least as near as the best one has |c| <= |x| + distance, so one far outlier among the centers does not
    widen the band of the others.
    """
    alpha, beta = error_factors(n_columns)
    own = alpha * x_norms * best_norms + beta * best_norms**2
    distance = np.sqrt(np.maximum(x_norms**2 + best, 0) + 2 * own + 2 * n_columns * np.float32(ROUNDING) * x_norms**2)
    reach = np.minimum(np.float32(1.01) * (x_norms + distance), norms.max())
    band: Floats32 = alpha * x_norms * reach + beta * reach**2
    return band


def settle(x: NDArray[Any], centers: Floats, candidates: NDArray[np.bool_]) -> Labels:
    """The exact nearest among the candidates of each row. candidates : (n_rows, k), at least one True in each row."""
    out = np.empty(len(x), np.int32)
    step = max(1, _PAIRS // max(1, candidates.shape[1]))
    for start in range(0, len(x), step):
        rows, columns = np.nonzero(candidates[start : start + step])
        sq = exact_sq(np.take(x, start + rows, axis=0), centers, columns)
        first = np.searchsorted(rows, np.arange(rows[-1] + 1))
        least = np.minimum.reduceat(sq, first)
        # of equal distances the least number: the first True of a row
        hit = np.flatnonzero(sq == least[rows])
        out[start : start + len(first)] = columns[hit[np.searchsorted(rows[hit], np.arange(len(first)))]]
    return out


def largest_norm(small: Floats32) -> float:
    """At least the largest |x| of float32 rows: what `nearest` takes as `norm`, for who asks about them repeatedly."""
    return float(np.sqrt(row_sq(small).max(initial=0))) * (1 + 1e-4)


def widest_band(norm: float, centers: Centers) -> np.float32:
    """At least the `error_band` of any row of at most that norm, whichever center is nearest to it."""
    alpha, beta = error_factors(centers.minus2.shape[0])
    longest = float(centers.norms.max())
    return np.float32(1.001 * (float(alpha) * norm * longest + float(beta) * longest**2))


def _take_nearest(
    score: Floats32, x: NDArray[Any], small: Floats32, centers: Centers, widest: np.float32
) -> NDArray[np.intp]:
    """Exact argmin of each row of a tile, whose score there becomes +inf.

    score : (n_rows, k) float32, +inf where a center is out. widest : no row's `error_band` is wider.
    """
    every = np.arange(len(score))
    best: NDArray[np.intp] = score.argmin(axis=1)
    value = score[every, best]
    score[every, best] = np.inf
    gap = score[every, score.argmin(axis=1)] - value  # to the second best; numpy's argmin is faster than its min
    close = np.flatnonzero(gap <= 2 * widest)
    if close.size:
        x_norms = np.sqrt(row_sq(small[close])) * np.float32(1 + 1e-4)
        band = error_band(x_norms, value[close], centers.norms[best[close]], centers.norms, x.shape[1])
        inside = gap[close] <= 2 * band
        close, band = close[inside], band[inside]
    if close.size:
        score[close, best[close]] = value[close]
        limit = (value[close] + 2 * band)[:, None]
        best[close] = settle(x[close], centers.exact, score[close] <= limit)
        score[close, best[close]] = np.inf
    return best


def tile_rows(n_centers: int) -> int:
    """Rows of a tile, so that it stays in cache; a float32 product is slow below 64 rows."""
    return min(2048, max(64, TILE_VALUES // max(1, n_centers)))


def nearest(x: NDArray[Any], several: Sequence[Centers], norm: float | None = None) -> list[Labels]:
    """The nearest center of every row, for several sets of centers at once (restarts, a sweep): one product for all.

    x : (n_rows, r) any real dtype, finite. All sets share one frame. norm : `largest_norm` of the rows in that frame,
    where it is known. Returns one (n_rows,) int32 per set.
    """
    minus2 = several[0].minus2 if len(several) == 1 else np.hstack([centers.minus2 for centers in several])
    sq = np.concatenate([centers.sq for centers in several])
    ends = np.cumsum([centers.count for centers in several])
    out = [np.empty(len(x), np.int32) for _ in several]
    small = several[0].frame.rows(x)
    if norm is None:
        norm = largest_norm(small)
    widest = [widest_band(norm, centers) for centers in several]
    rows = min(len(x), tile_rows(len(sq)))
    tile = np.empty((rows, len(sq)), np.float32)
    for start in range(0, len(x), max(1, rows)):
        part = slice(start, min(start + rows, len(x)))
        score = multiply(small[part], minus2, tile[: part.stop - start])  # (rows, all centers)
        score += sq
        for labels, centers, end, band in zip(out, several, ends, widest, strict=True):
            own = score[:, end - centers.count : end]
            labels[part] = _take_nearest(own, x[part], small[part], centers, band)
    return out


@dataclass(frozen=True)
class TwoNearest:
    """labels, runner_up : (n_rows,) int32. sq, runner_up_sq : (n_rows,) float64 squared distances, exact.

    With one center there is no second: runner_up is -1 and runner_up_sq infinite.
    """

    labels: Labels
    sq: Floats
    runner_up: Labels
    runner_up_sq: Floats


def two_nearest(x: NDArray[Any], centers: Centers) -> TwoNearest:
    """Nearest and second nearest center of every row, with their squared distances."""
    labels = np.empty(len(x), np.int32)
    runner_up = np.full(len(x), -1, np.int32)
    small = centers.frame.rows(x)
    widest = widest_band(largest_norm(small), centers)
    rows = min(len(x), tile_rows(centers.count))
    tile = np.empty((rows, centers.count), np.float32)
    for start in range(0, len(x), max(1, rows)):
        part = slice(start, min(start + rows, len(x)))
        score = multiply(small[part], centers.minus2, tile[: part.stop - start])
        score += centers.sq
        labels[part] = _take_nearest(score, x[part], small[part], centers, widest)
        if centers.count > 1:
            runner_up[part] = _take_nearest(score, x[part], small[part], centers, widest)
    sq = exact_sq(x, centers.exact, labels)
    second = exact_sq(x, centers.exact, runner_up) if centers.count > 1 else np.full(len(x), np.inf)
    return TwoNearest(labels, sq, runner_up, second)
