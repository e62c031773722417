"""Centers as the float32 filters want them, how far a filter may be off, and what settles the rows inside that.

A float32 score |c|^2 - 2 x.c is off by at most `E = alpha |x| |c| + beta |c|^2`; a row whose best two scores are closer
than twice that is settled by `exact_sq`. The largest |x| and |c| give one bound for a whole block first: only rows
inside that one are asked for their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import UsageError
from bigcluster.kernels.kmeans.sums import ROUNDING, Floats, Floats32, Labels, Scaler, exact_sq, row_sq

_FARTHEST = 1e15  # in the scaler; squares of 100,000 columns stay below 3e38
_PAIRS = 65_536  # (row, center) pairs settled at once


@dataclass(frozen=True)
class Centers:
    """Centers as the float32 filter wants them, beside the exact ones.

    exact : (k, r) float64. scaled : (k, r) float32, (c - shift) scale. minus2 : (k, r) float32, -2 scaled.
    sq : (k,) float32 squared norms. norms : (k,) float32, rounded up. scaler : the scaler of all but `exact`.
    """

    exact: Floats
    scaled: Floats32
    minus2: Floats32
    sq: Floats32
    norms: Floats32
    scaler: Scaler

    @property
    def count(self) -> int:
        return len(self.exact)


def prepare(centers: Floats, scaler: Scaler) -> Centers:
    """centers : (k, r) float64, in the units of the rows. Raises UsageError where float32 cannot hold their squares."""
    if not np.abs(scaler.transform64(centers)).max(initial=0) < _FARTHEST:
        raise UsageError(f"a center lies {_FARTHEST:g} times farther out than the rows; start from rows of the data")
    scaled = scaler.transform(centers)
    sq = np.einsum("ij,ij->i", scaled, scaled, dtype=np.float64)
    norms = (np.sqrt(sq) * (1 + 1e-6)).astype(np.float32)
    minus2 = scaled * np.float32(-2)  # exact
    return Centers(
        np.ascontiguousarray(centers, dtype=np.float64), scaled, minus2, sq.astype(np.float32), norms, scaler
    )


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


def nearest_candidate(x: NDArray[Any], centers: Floats, candidates: NDArray[np.bool_]) -> Labels:
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


def largest_norm(scaled: Floats32) -> float:
    """At least the largest |x| of float32 rows: what `nearest` takes as `norm`, for who asks about them repeatedly."""
    return float(np.sqrt(row_sq(scaled).max(initial=0))) * (1 + 1e-4)


def widest_band(norm: float, centers: Centers) -> np.float32:
    """At least the `error_band` of any row of at most that norm, whichever center is nearest to it."""
    alpha, beta = error_factors(centers.scaled.shape[1])
    longest = float(centers.norms.max())
    return np.float32(1.001 * (float(alpha) * norm * longest + float(beta) * longest**2))
