"""How good a clustering is: silhouettes without pairwise distances, and agreement of two labelings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.kmeans.sums import Floats

_TILE_VALUES = 65_536  # float64: 512 KiB


def sum_of_squares(distance: Floats, sample_weight: Floats | None = None) -> float:
    """Inertia: the (weighted) sum of squared distances. distance : (n_rows,) Euclidean, to the nearest center."""
    sq = distance**2
    return float((sq if sample_weight is None else sq * sample_weight).sum())


def _contrast(inside: Floats, outside: Floats) -> Floats:
    """(b - a) / max(a, b), 0 where both are 0."""
    larger = np.maximum(inside, outside)
    return np.divide(outside - inside, larger, out=np.zeros_like(larger), where=larger > 0)


def simplified_silhouette(distance: Floats, runner_up_distance: Floats) -> Floats:
    """Per row, (b - a) / max(a, b) of the distances to the nearest and second nearest center; in [0, 1].

    Source: Hruschka et al. 2004, the "simplified silhouette": O(N k) instead of O(N^2).
    """
    return _contrast(distance, runner_up_distance)


def silhouette_sq(
    x: NDArray[Any], labels: NDArray[Any], means: Floats, counts: NDArray[np.int64], scatter: Floats
) -> Floats:
    """Per row, the silhouette on squared Euclidean distances, exact, in O(n_rows n_clusters).

    x : (n_rows, r). labels : (n_rows,). means : (k, r) float64 means of the clusters. counts : (k,) their rows, of the
    whole data. scatter : (k,) sums of squared distances of a cluster's rows to its mean.
    The mean squared distance of x to the rows of cluster C is |x - mean|^2 + scatter / count; to the others of one's
    own cluster that times n / (n - 1). A cluster of one row scores 0, as in scikit-learn. With one cluster all score 0.
    """
    n_clusters = len(means)
    out = np.zeros(len(x))
    filled = counts > 0
    if np.count_nonzero(filled) < 2:
        return out
    origin = means[filled].mean(axis=0)  # an offset must not cost digits
    centered = means - origin
    constant = np.where(filled, np.einsum("ij,ij->i", centered, centered) + scatter / np.maximum(counts, 1), np.inf)
    rows = max(1, _TILE_VALUES // n_clusters)
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
        out[start:stop] = np.where(n_own > 1, _contrast(inside, apart.min(axis=1)), 0.0)
    return out


def contingency(one: NDArray[Any], other: NDArray[Any], n_one: int, n_other: int) -> NDArray[np.int64]:
    """(n_one, n_other) int64: rows that carry each pair of labels. Tables of blocks add up."""
    pairs = one.astype(np.int64) * n_other + other
    return np.bincount(pairs, minlength=n_one * n_other).reshape(n_one, n_other).astype(np.int64)


def adjusted_rand(table: NDArray[np.int64]) -> float:
    """Adjusted Rand index of two labelings from their table; 1 for equal ones, about 0 for unrelated ones.

    Source: Hubert and Arabie 1985. In Python integers: pairs of a billion rows pass 2^53.
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
