"""k-means arithmetic on one block of rows: exact distances, per-cluster sums, the scaler of the filters.

The label of a row is defined here once: the center of least squared distance, that distance taken as the float64 sum of
squared differences x - c (`exact_sq`), and of equal distances the one of least number. Everything faster (float32
products, bounds that skip centers) is a filter with a proven error band in front of this definition, and what falls
inside the band is settled by it. So labels depend on neither tile shapes, threads, BLAS nor which filter was used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.linalg.loops import spread
from bigcluster.kernels.linalg.moments import Moments

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Labels = NDArray[np.int32]

ROUNDING = float(2.0**-24)  # unit roundoff of float32
_EXACT_VALUES = 65_536  # of a float64 tile of differences: 512 KiB, stays in the second-level cache


def exact_sq(x: NDArray[Any], centers: Floats, labels: NDArray[Any]) -> Floats:
    """Squared distance of each row to the center named for it, from differences, in float64.

    x : (n_rows, n_columns) any real dtype. centers : (n_clusters, n_columns) float64. labels : (n_rows,) integers.
    Returns (n_rows,) float64. The bits of a row depend on that row and its center only, not on its neighbours.
    """
    out = np.empty(len(x), np.float64)
    rows = max(1, _EXACT_VALUES // max(1, x.shape[1]))
    for start in range(0, len(x), rows):
        stop = start + rows
        difference = np.take(centers, labels[start:stop], axis=0)
        np.subtract(x[start:stop], difference, out=difference)
        out[start:stop] = np.einsum("ij,ij->i", difference, difference)
    return out


def row_sq(x: Floats32) -> Floats32:
    """(n_rows,) squared norms of float32 rows."""
    squares: Floats32 = np.einsum("ij,ij->i", x, x)
    return squares


@dataclass(frozen=True)
class ClusterSums:
    """What a block adds to (or takes from) the clusters it touches.

    ids : (m,) distinct cluster numbers, ascending. sums : (m, n_columns) float64, weighted. weights : (m,) float64.
    counts : (m,) int64, rows of positive weight.
    """

    ids: NDArray[np.int64]
    sums: Floats
    weights: Floats
    counts: NDArray[np.int64]


def cluster_sums(x: NDArray[Any], labels: NDArray[Any], coefficients: Floats | None = None) -> ClusterSums:
    """Sum the rows of each cluster, in row order, in float64.

    x : (n_rows, n_columns). labels : (n_rows,) integers. coefficients : (n_rows,) float64, none negative.
    """
    signed = np.ones(len(x)) if coefficients is None else coefficients
    return _spread(x, labels, signed, np.arange(len(x) + 1))


def moved_sums(x: NDArray[Any], before: NDArray[Any], after: NDArray[Any], moved: NDArray[np.int64]) -> ClusterSums:
    """What clusters gain and lose when the rows `moved` leave `before` for `after`. x, before, after : all rows."""
    targets = np.stack([after[moved], before[moved]], axis=1).ravel()
    signs = np.tile([1.0, -1.0], len(moved))
    return _spread(np.take(x, moved, axis=0), targets, signs, np.arange(0, 2 * len(moved) + 1, 2))


def _spread(x: NDArray[Any], targets: NDArray[Any], signed: Floats, starts: NDArray[np.int64]) -> ClusterSums:
    """Add row i, times its coefficients, to its targets: those at starts[i] .. starts[i + 1] - 1."""
    targets = targets.astype(np.int64)
    touched = np.bincount(targets)
    ids = np.flatnonzero(touched)
    touched[ids] = np.arange(len(ids))  # from here on the place of each in `ids`
    sums, weights, counts = np.zeros((len(ids), x.shape[1])), np.zeros(len(ids)), np.zeros(len(ids), np.int64)
    spread(np.ascontiguousarray(x, np.float64), starts, touched[targets], signed, sums, weights, counts)
    return ClusterSums(ids, sums, weights, counts)


@dataclass(frozen=True)
class Scaler:
    """Where the float32 filter looks from: (x - shift) * scale, so that neither an offset nor a unit costs digits.

    shift : (n_columns,) float32 or None. scale : a power of two, so multiplying is exact.
    """

    shift: Floats32 | None
    scale: float

    def transform(self, x: NDArray[Any]) -> Floats32:
        """(n_rows, n_columns) float32, each value within one rounding of the exact one; `x` itself where it can be."""
        if np.can_cast(x.dtype, np.float32):
            out = np.asarray(x, dtype=np.float32)
            if self.shift is not None:
                out = out - self.shift
            if self.scale != 1.0:
                out = out * np.float32(self.scale)
            return out
        return self.transform64(x).astype(np.float32)

    def transform64(self, x: NDArray[Any]) -> Floats:
        """The same in float64."""
        wide = np.asarray(x, dtype=np.float64)
        if self.shift is not None:
            wide = wide - self.shift
        return wide * self.scale


def fit_scaler(moments: Moments) -> Scaler:
    """A shift only where the offset outweighs the spread, a scale only where squares would leave float32's range."""
    spread = float(np.sqrt(moments.scatter.sum() / moments.weight))
    offset = float(np.linalg.norm(moments.mean))
    shift = moments.mean.astype(np.float32) if offset > spread else None
    reach = spread or offset or 1.0
    scale = 1.0 if 1e-9 < reach < 1e9 else float(2.0 ** -np.round(np.log2(reach)))
    return Scaler(shift, scale)
