"""Prepares rows and centers for the float32 filters, bounds the filters' error, and decides rows inside the bound.

Rows (n_rows, r) and centers (k, r) are shifted and scaled (`Scaler`) and rounded to float32. A score |c|^2 - 2 x.c that
is computed from them differs from the exact one by at most E = alpha |x| |c| + beta |c|^2 (`error_band`), whatever the
order of summation. A row whose two best scores are closer than 2 E is decided by `exact_sq` (`nearest_candidate`). The
largest |x| and |c| give one bound for a whole block (`widest_band`); only rows inside it need a bound of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import UsageError
from bigcluster.kernels.kmeans.sums import EXACT_TILE_VALUES, ROUNDING, Floats, Floats32, Labels, exact_sq, row_sq
from bigcluster.kernels.linalg.moments import Moments

_FARTHEST = 1e15
"""Largest coordinate of a center, in scaled units: squares of 100,000 such columns stay within float32 (3e38)."""
_UNSCALED_LEAST, _UNSCALED_MOST = 1e-9, 1e9
"""Spreads of the data, in its own units, whose squares float32 holds without a scale: 1e-18 to 1e18, far inside 1e-38
to 1e38, so that single rows may lie far out."""


@dataclass(frozen=True)
class Scaler:
    """The map to scaled units: (x - shift) * scale. It keeps an offset or a unit of the data from costing digits.

    shift : (n_columns,) float32, or None for 0. scale : a power of two, so that the multiplication is exact.
    """

    shift: Floats32 | None
    scale: float

    def transform(self, x: NDArray[Any]) -> Floats32:
        """Scale rows x, (n_rows, n_columns) of any real dtype, to float32; may return `x` itself.

        Each value is within one float32 rounding of the exact one.
        """
        if np.can_cast(x.dtype, np.float32):
            out = np.asarray(x, dtype=np.float32)
            if self.shift is not None:
                out = out - self.shift
            if self.scale != 1.0:
                out = out * np.float32(self.scale)
            return out
        return self.transform64(x).astype(np.float32)

    def transform64(self, x: NDArray[Any]) -> Floats:
        """Scale rows x, (n_rows, n_columns) of any real dtype, to float64."""
        wide = np.asarray(x, dtype=np.float64)
        if self.shift is not None:
            wide = wide - self.shift
        return wide * self.scale


def fit_scaler(moments: Moments) -> Scaler:
    """Choose the scaler of data with these moments.

    It shifts only where the mean is longer than the standard deviation, and scales only where squared distances would
    leave the range of float32.
    """
    spread = float(np.sqrt(moments.scatter.sum() / moments.weight))
    offset = float(np.linalg.norm(moments.mean))
    shift = moments.mean.astype(np.float32) if offset > spread else None
    reach = spread or offset or 1.0
    scale = 1.0 if _UNSCALED_LEAST < reach < _UNSCALED_MOST else float(2.0 ** -np.round(np.log2(reach)))
    return Scaler(shift, scale)


@dataclass(frozen=True)
class Centers:
    """The k centers in float64, and in the float32 forms that the filters use.

    exact : (k, r) float64, in the units of the rows. scaled : (k, r) float32, the same in scaled units.
    minus2 : (k, r) float32, -2 * scaled. sq : (k,) float32, squared norms of `scaled`. norms : (k,) float32, norms of
    `scaled`, rounded up. scaler : the map from the units of the rows to scaled units.
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
    """Prepare centers, (k, r) float64 in the units of the rows, for the float32 filters.

    Raises UsageError where float32 cannot hold the squares of their coordinates.
    """
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
    """Compute alpha and beta of the error band of a score |c|^2 - 2 x.c.

    They cover the roundings of x, of c, of the r-term product in any order of summation, of |c|^2 and of the sum.
    n_columns : r. Source: Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 3.1.
    """
    return np.float32(1.01 * (2 * n_columns + 16) * ROUNDING), np.float32(8 * ROUNDING)


def error_band(x_norms: Floats32, best: Floats32, best_norms: Floats32, norms: Floats32, n_columns: int) -> Floats32:
    """Bound the error of the computed score of every center that could be nearest: (n_rows,) float32.

    x_norms, best, best_norms : (n_rows,) the norm of each row, its least score, and the norm of the center of that
    score.
    norms : (k,) norms of all centers. All in scaled units.
    A center at least as near as the best one has |c| <= |x| + distance (triangle inequality), so a single center far
    away does not widen the band of the others.
    """
    alpha, beta = error_factors(n_columns)
    own = alpha * x_norms * best_norms + beta * best_norms**2
    distance = np.sqrt(np.maximum(x_norms**2 + best, 0) + 2 * own + 2 * n_columns * np.float32(ROUNDING) * x_norms**2)
    reach = np.minimum(np.float32(1.01) * (x_norms + distance), norms.max())
    band: Floats32 = alpha * x_norms * reach + beta * reach**2
    return band


def nearest_candidate(x: NDArray[Any], centers: Floats, candidates: NDArray[np.bool_]) -> Labels:
    """Find the exact nearest of each row's candidates: (n_rows,) int32; of equal distances the least number wins.

    x : (n_rows, r) rows. centers : (k, r) float64. candidates : (n_rows, k) bool with at least one True in each row.
    """
    out = np.empty(len(x), np.int32)
    step = max(1, EXACT_TILE_VALUES // max(1, candidates.shape[1]))
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
    """Bound the largest |x| of scaled rows (n_rows, r) from above: the `norm` that `nearest` takes."""
    return float(np.sqrt(row_sq(scaled).max(initial=0))) * (1 + 1e-4)


def widest_band(norm: float, centers: Centers) -> np.float32:
    """Bound the `error_band` of every row whose norm is at most `norm`, whichever center is nearest to it."""
    alpha, beta = error_factors(centers.scaled.shape[1])
    longest = float(centers.norms.max())
    return np.float32(1.001 * (float(alpha) * norm * longest + float(beta) * longest**2))
