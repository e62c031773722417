"""Computes the quality of a clustering: silhouettes (n_rows,) without pairwise distances, the adjusted Rand index."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.kmeans.sums import EXACT_TILE_VALUES, Floats


def _silhouette(inside: Floats, outside: Floats) -> Floats:
    """Compute (b - a) / max(a, b) for a = inside, b = outside, any equal shapes; 0 where both are 0."""
    larger = np.maximum(inside, outside)
    return np.divide(outside - inside, larger, out=np.zeros_like(larger), where=larger > 0)


def simplified_silhouette(distance: Floats, runner_up_distance: Floats) -> Floats:
    """Compute the simplified silhouette of each row: (n_rows,) float64 in [0, 1].

    It is (b - a) / max(a, b) of the distances a to the nearest and b to the second nearest center, both (n_rows,)
    float64. Source: Hruschka et al. 2004, "Evolutionary algorithms for clustering gene-expression data"; O(N k), not
    O(N^2).
    """
    return _silhouette(distance, runner_up_distance)


def silhouette_sq(
    x: NDArray[Any], labels: NDArray[Any], means: Floats, counts: NDArray[np.int64], scatter: Floats
) -> Floats:
    """Compute the exact silhouette of each row on squared Euclidean distances, in O(n_rows k): (n_rows,) float64.

    x : (n_rows, r) rows of a block. labels : (n_rows,) integers. means : (k, r) float64, means of the clusters. counts
    : (k,) int64, rows of the clusters in the whole data. scatter : (k,) float64, sums of squared distances of a
    cluster's rows to its mean. The mean squared distance of x to all rows of a cluster is |x - mean|^2 + scatter /
    count (König-Huygens). For its own cluster of n rows this times n / (n - 1) is the mean over the other rows. The row
    of a cluster of one row has silhouette 0, as in scikit-learn, and so have all rows if there is one cluster only.
    """
    n_clusters = len(means)
    out = np.zeros(len(x))
    filled = counts > 0
    if np.count_nonzero(filled) < 2:
        return out
    origin = means[filled].mean(axis=0)  # without it, an offset of the data would cost digits
    centered = means - origin
    constant = np.where(filled, np.einsum("ij,ij->i", centered, centered) + scatter / np.maximum(counts, 1), np.inf)
    rows = max(1, EXACT_TILE_VALUES // n_clusters)
    for start in range(0, len(x), rows):
        stop = min(start + rows, len(x))
        wide = np.asarray(x[start:stop], dtype=np.float64) - origin
        apart = wide @ centered.T  # (rows, k): mean squared distances to the clusters
        apart *= -2
        apart += constant
        apart += np.einsum("ij,ij->i", wide, wide)[:, None]
        np.maximum(apart, 0, out=apart)
        every, own = np.arange(stop - start), labels[start:stop]
        n_own = counts[own]
        inside = apart[every, own] * n_own / np.maximum(n_own - 1, 1)
        apart[every, own] = np.inf
        out[start:stop] = np.where(n_own > 1, _silhouette(inside, apart.min(axis=1)), 0.0)
    return out


def contingency(one: NDArray[Any], other: NDArray[Any], n_one: int, n_other: int) -> NDArray[np.int64]:
    """Count the rows of each pair of labels: (n_one, n_other) int64. The table of all rows is the sum over blocks.

    one, other : (n_rows,) integers below n_one and n_other.
    """
    pairs = one.astype(np.int64) * n_other + other
    return np.bincount(pairs, minlength=n_one * n_other).reshape(n_one, n_other).astype(np.int64)


def adjusted_rand(table: NDArray[np.int64]) -> float:
    """Compute the adjusted Rand index of two labelings: 1 where they are equal, about 0 where they are unrelated.

    table : (n_one, n_other) int64, their `contingency`. The pairs are counted in Python integers, because those of a
    billion rows exceed 2^53. Source: Hubert and Arabie 1985, "Comparing partitions".
    """

    def pairs(counts: NDArray[np.int64]) -> int:
        return sum(int(n) * (int(n) - 1) // 2 for n in counts)

    together = pairs(table.ravel()[table.ravel() > 1])
    rows, columns = pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    total = pairs(table.sum(keepdims=True).ravel())
    if rows == columns == together or total == 0:
        return 1.0
    expected = rows * columns / total
    return float((together - expected) / ((rows + columns) / 2 - expected))
