"""Computes exact squared distances (n_rows,) and sums of the rows of each cluster (m, n_columns), in float64.

`exact_sq` defines the label of a row: the center whose float64 sum of squared differences x - c is least, and of equal
sums the center of the least number. Every faster way (float32 products, distance bounds) is a filter in front of this
definition: its error is bounded (`centers.error_band`), and a row that the bound leaves undecided is decided by
`exact_sq`. Labels therefore depend on neither tiles, threads, BLAS nor the filter that was used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.linalg.loops import spread
from bigcluster.kernels.linalg.types import Float32Array, Float64Array, Int32Array

Floats = Float64Array
Floats32 = Float32Array
Labels = Int32Array

ROUNDING = float(2.0**-24)
"""Unit roundoff of float32: the relative error of one operation."""
EXACT_TILE_VALUES = 65_536
"""Values of a tile of differences or distances: 512 KiB of float64, which stays in a second-level cache."""


def exact_sq(x: NDArray[Any], centers: Floats, labels: NDArray[Any]) -> Floats:
    """Compute the squared Euclidean distance of each row to the center of its label, from float64 differences.

    x : (n_rows, n_columns) any real dtype. centers : (n_clusters, n_columns) float64. labels : (n_rows,) integers.
    Returns (n_rows,) float64. The bits of a row's distance depend on that row and its center alone.
    """
    out = np.empty(len(x), np.float64)
    rows = max(1, EXACT_TILE_VALUES // max(1, x.shape[1]))
    for start in range(0, len(x), rows):
        stop = start + rows
        difference = np.take(centers, labels[start:stop], axis=0)
        np.subtract(x[start:stop], difference, out=difference)
        out[start:stop] = np.einsum("ij,ij->i", difference, difference)
    return out


def row_sq(x: Floats32) -> Floats32:
    """Compute the squared norm of each float32 row: (n_rows, n_columns) -> (n_rows,) float32."""
    squares: Floats32 = np.einsum("ij,ij->i", x, x)
    return squares


@dataclass(frozen=True)
class ClusterSums:
    """The amounts that one block of rows adds to the sums of the m clusters that it touches.

    ids : (m,) int64 distinct cluster numbers, ascending. sums : (m, n_columns) float64 weighted sums of rows.
    weights : (m,) float64 sums of weights. counts : (m,) int64 numbers of rows with a positive weight.
    """

    ids: NDArray[np.int64]
    sums: Floats
    weights: Floats
    counts: NDArray[np.int64]


def cluster_sums(x: NDArray[Any], labels: NDArray[Any], coefficients: Floats | None = None) -> ClusterSums:
    """Sum the rows of each cluster, in row order, in float64.

    x : (n_rows, n_columns) any real dtype. labels : (n_rows,) integers. coefficients : (n_rows,) float64 weights, none
    of them negative; None weighs every row by 1.
    """
    signed = np.ones(len(x)) if coefficients is None else coefficients
    return _scatter_add(x, labels, signed, np.arange(len(x) + 1))


def moved_sums(x: NDArray[Any], before: NDArray[Any], after: NDArray[Any], moved: NDArray[np.int64]) -> ClusterSums:
    """Compute what clusters gain and lose when rows change their label.

    x : (n_rows, n_columns) any real dtype. before, after : (n_rows,) labels. moved : (n_moved,) numbers of the rows
    whose labels differ. A cluster's `sums`, `weights` and `counts` may be negative: it lost more rows than it gained.
    """
    targets = np.stack([after[moved], before[moved]], axis=1).ravel()
    signs = np.tile([1.0, -1.0], len(moved))
    return _scatter_add(np.take(x, moved, axis=0), targets, signs, np.arange(0, 2 * len(moved) + 1, 2))


def _scatter_add(x: NDArray[Any], targets: NDArray[Any], signed: Floats, starts: NDArray[np.int64]) -> ClusterSums:
    """Add each row to its target clusters, times a coefficient for each.

    targets, signed : (n_targets,) cluster numbers and coefficients; those of row i are at starts[i] .. starts[i + 1] -
    1.
    """
    targets = targets.astype(np.int64)
    touched = np.bincount(targets)
    ids = np.flatnonzero(touched)
    touched[ids] = np.arange(len(ids))  # now the index of each cluster in `ids`
    sums, weights, counts = np.zeros((len(ids), x.shape[1])), np.zeros(len(ids)), np.zeros(len(ids), np.int64)
    spread(np.ascontiguousarray(x, np.float64), starts, touched[targets], signed, sums, weights, counts)
    return ClusterSums(ids, sums, weights, counts)
